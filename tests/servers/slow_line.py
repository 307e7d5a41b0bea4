"""A line that carries so many bytes a second towards a server, over all connections together; answers come at once.

slow_line.py PORT SERVER_PORT BYTES_PER_SECOND
"""

import asyncio
import socket
import sys

# Small, so that what was taken from the client and what was sent on do not differ much.
BUFFER = 64 << 10
PART = 16 << 10


class Line:
    def __init__(self, rate):
        self.rate = rate
        self.free_at = 0.0

    async def carry(self, count):
        """Waits until the line has carried so many bytes more."""
        now = asyncio.get_running_loop().time()
        self.free_at = max(self.free_at, now) + count / self.rate
        await asyncio.sleep(self.free_at - now)


async def copy(reader, writer, line):
    try:
        while part := await reader.read(PART):
            if line:
                await line.carry(len(part))
            writer.write(part)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def main(port, server_port, rate):
    line = Line(rate)

    async def passes(reader, writer):
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server_port)
        await asyncio.gather(copy(reader, to_server, line), copy(from_server, writer, None))

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    listener.bind(("127.0.0.1", port))
    server = await asyncio.start_server(passes, sock=listener, limit=PART)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
