//! What a session's bytes go over: a socket of either kind, encrypted or not.
//! Source: PostgreSQL's documentation, "SSL Session Encryption".

use super::connection::{CONNECT_TIMEOUT, PgError, PgResult};
use super::server::{Encryption, Host, Server};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn set_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }
    fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the bytes go over.
pub(super) enum Wire {
    Plain(Socket),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Wire {
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Ends a session from another thread: what waits for the server gets an error.
pub struct HangUp(Socket);

impl HangUp {
    /// Of a session over this.
    pub(super) fn of(wire: &Wire) -> std::io::Result<Self> {
        wire.socket().try_clone().map(Self)
    }

    /// Hangs up.
    pub fn now(&self) {
        // Already closed: so much the better.
        let _ = match &self.0 {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// Connects, and encrypts the line if it is to be.
pub(super) fn connect(server: &Server) -> PgResult<Wire> {
    let down = |error: std::io::Error| PgError::Lost(format!("cannot connect: {error}"));
    let name = match &server.host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{}", server.port));
            return Ok(Wire::Plain(Socket::Unix(UnixStream::connect(path).map_err(down)?)));
        }
        Host::Tcp(name) => name,
    };
    let addresses = (name.as_str(), server.port).to_socket_addrs().map_err(down)?;
    let mut failure = std::io::Error::other("the host has no address");
    let mut stream = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => failure = error,
        }
    }
    let Some(mut stream) = stream else { return Err(down(failure)) };
    stream.set_nodelay(true)?;
    if server.encryption == Encryption::Disable {
        return Ok(Wire::Plain(Socket::Tcp(stream)));
    }
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    match (answer[0], server.encryption) {
        (b'S', _) => {
            let connection = server.tls.connect_trusting(name, server.trust).map_err(PgError::Lost)?;
            Ok(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, Socket::Tcp(stream)))))
        }
        (_, Encryption::Prefer) => Ok(Wire::Plain(Socket::Tcp(stream))),
        _ => Err(PgError::Lost("the server does not encrypt, and sslmode asks for it".into())),
    }
}
