//! What a session's bytes go over: a socket of either kind, encrypted or not.
//! Source: PostgreSQL's documentation, "SSL Session Encryption".

use super::connection::{PgError, PgResult};
use super::conninfo::Settings;
use super::encryption::Encryption;
use super::server::{Host, Reached, Server};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
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

/// How the kernel finds out that a peer is gone: libpq's parameters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeepAlive {
    is_off: bool,
    idle: Option<Duration>,
    interval: Option<Duration>,
    count: Option<u32>,
    user_timeout: Option<Duration>,
}

impl KeepAlive {
    /// What the URL says.
    pub(super) fn read(settings: &Settings) -> Result<Self, String> {
        let number = |name: &str| {
            let parsed = settings.get(name).map(|text| text.trim().parse::<u32>());
            parsed.transpose().map_err(|_| format!("{name} is a number")).map(|n| n.filter(|n| *n > 0))
        };
        let seconds = |name: &str| Ok::<_, String>(number(name)?.map(|n| Duration::from_secs(n.into())));
        Ok(Self {
            is_off: settings.get("keepalives").is_some() && number("keepalives")?.is_none(),
            idle: seconds("keepalives_idle")?,
            interval: seconds("keepalives_interval")?,
            count: number("keepalives_count")?,
            user_timeout: number("tcp_user_timeout")?.map(|n| Duration::from_millis(n.into())),
        })
    }

    fn set(self, stream: &TcpStream) -> std::io::Result<()> {
        let socket = socket2::SockRef::from(stream);
        if !self.is_off {
            let mut all = socket2::TcpKeepalive::new();
            if let Some(idle) = self.idle {
                all = all.with_time(idle);
            }
            if let Some(interval) = self.interval {
                all = all.with_interval(interval);
            }
            if let Some(count) = self.count {
                all = all.with_retries(count);
            }
            socket.set_tcp_keepalive(&all)?;
        }
        match self.user_timeout {
            Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
            None => Ok(()),
        }
    }
}

/// Connects, and encrypts the line if it is to be.
pub(super) fn connect(server: &Server, reached: &Reached) -> PgResult<Wire> {
    let down = |error: std::io::Error| PgError::Lost(format!("cannot connect: {error}"));
    let name = match &reached.place.host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{}", reached.place.port));
            return Ok(Wire::Plain(Socket::Unix(UnixStream::connect(path).map_err(down)?)));
        }
        Host::Tcp(name) => name,
    };
    let Some(address) = reached.address else {
        return Err(PgError::Lost("cannot connect: the host has no address".into()));
    };
    let mut stream = match server.connect_timeout {
        Some(timeout) => TcpStream::connect_timeout(&address, timeout),
        None => TcpStream::connect(address),
    }
    .map_err(down)?;
    stream.set_nodelay(true)?;
    KeepAlive::read(&server.settings).map_err(PgError::Lost)?.set(&stream)?;
    let security = &server.security;
    if security.encryption == Encryption::Disable {
        return Ok(Wire::Plain(Socket::Tcp(stream)));
    }
    stream.set_read_timeout(server.connect_timeout)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    match (answer[0], security.encryption) {
        (b'S', _) => {
            let connection = security.tls.connect_trusting(name, security.trust).map_err(PgError::Lost)?;
            Ok(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, Socket::Tcp(stream)))))
        }
        (_, Encryption::Prefer) => Ok(Wire::Plain(Socket::Tcp(stream))),
        _ => Err(PgError::Lost("the server does not encrypt, and sslmode asks for it".into())),
    }
}
