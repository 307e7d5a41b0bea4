"""What a restore into a running server takes, against the server's own way of getting the same data.

Usage: restores.py ESKER [--keys 1400000] [--runs 3] [--server redis-server] [--only redis]

Redis: `esker restore --whole` into an empty server, without the comparison of every key that follows it and is printed
beside it, against the start of the same server from the same dump.rdb. Once by replication, once by RESTORE over several
connections. Starts servers on free ports in a temporary folder. Prints medians, ratios and the settings of both sides.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("esker")
parser.add_argument("--keys", type=int, default=1_400_000)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--server", default="redis-server")
parser.add_argument("--only", default="redis", help="parts, with commas between them: redis")
args = parser.parse_args()

# The data of redis.py: four kinds of keys, values that do not compress much.
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local sha = redis.sha1hex(i)
  local value = redis.sha1hex(sha)
  local kind = i % 4
  if kind == 0 then redis.call('HSET', 'user:'..sha, 'name', 'user '..i, 'token', value, 'seen', i * 7, 'plan', 'basic')
  elseif kind == 1 then redis.call('SET', 'session:'..sha, value..redis.sha1hex(value)..string.rep('x', i % 90))
  elseif kind == 2 then redis.call('ZADD', 'scores:'..sha, i, sha, i * 2, 'b'..value)
  else redis.call('RPUSH', 'queue:'..sha, value, i) end
end
return 1"""
SETTINGS = ["save", "appendonly", "rdbcompression", "rdbchecksum", "sanitize-dump-payload", "repl-diskless-load",
            "maxmemory", "io-threads"]
scratch = pathlib.Path(tempfile.mkdtemp(prefix="esker-restores-"))
environment = {"PATH": os.environ["PATH"], "ESKER_PASSWORD": "bench", "ESKER_PROGRESS_FPS": "0"}
running = []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder):
    """A server over a folder; returns its port, its process, and the seconds until it answers."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [args.server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
         "--repl-diskless-sync-delay", "0"], stdout=subprocess.DEVNULL)
    running.append(process)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
                stream.sendall(b"PING\r\n")
                if stream.recv(100).startswith(b"+PONG"):
                    return port, process, time.monotonic() - began
        except OSError:
            pass
        time.sleep(0.005)


def stop(process):
    process.kill()
    process.wait()
    running.remove(process)


def cli(port, *words):
    return subprocess.run(["redis-cli", "-p", str(port), *map(str, words)], capture_output=True, text=True, check=True).stdout


def esker(*words):
    command = [args.esker, "-r", str(scratch / "repo"), "--cache-dir", str(scratch / "cache"), "--json", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def redis():
    port, process, _ = start(scratch / "source")
    for first in range(1, args.keys + 1, 100_000):
        cli(port, "eval", FILL, 0, first, min(first + 99_999, args.keys))
    esker("init")
    esker("backup", f"redis://127.0.0.1:{port}")
    stop(process)
    esker("restore", "latest", "--target", scratch / "out")
    (dump,) = (scratch / "out").rglob("dump.rdb")
    own, restores, verified = [], {"replication": [], "RESTORE": []}, []
    settings = ""
    for number in range(args.runs):
        folder = scratch / f"own-{number}"
        folder.mkdir()
        shutil.copy(dump, folder / "dump.rdb")
        port, process, seconds = start(folder)
        own.append(seconds)
        keys = int(cli(port, "dbsize"))
        if keys != args.keys:
            raise SystemExit(f"{keys} keys after the start from {dump}")
        stop(process)
        shutil.rmtree(folder)
        for way, times in restores.items():
            port, process, _ = start(scratch / f"{way}-{number}")
            settings = ", ".join("=".join(cli(port, "config", "get", name).split("\n")[:2]) for name in SETTINGS)
            more = ["-o", "redis.replicate-from=never"] if way == "RESTORE" else []
            done = esker(*more, "restore", "latest", "--to", f"redis://127.0.0.1:{port}", "--whole", "--yes")
            if done["loaded_by"] != way or done["keys_different"]:
                raise SystemExit(f"{way}: {done}")
            times.append(done["seconds_elapsed"] - done["seconds_verifying"])
            verified.append(done["seconds_verifying"])
            stop(process)
            shutil.rmtree(scratch / f"{way}-{number}")
    version = subprocess.run([args.server, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    base = statistics.median(own)
    print(f"{version}; both sides: {settings}")
    print(f"{args.keys} keys, dump.rdb of {dump.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, medians of {args.runs}")
    print(f"the server's own start from dump.rdb: {base:.2f} s")
    for way, times in restores.items():
        seconds = statistics.median(times)
        print(f"esker restore --whole, by {way}: {seconds:.2f} s, {seconds / base:.2f}x")
    print(f"and every key compared: {statistics.median(verified):.2f} s more")


PARTS = {"redis": redis}
try:
    for part in args.only.split(","):
        PARTS[part]()
finally:
    for process in list(running):
        stop(process)
    shutil.rmtree(scratch, ignore_errors=True)
