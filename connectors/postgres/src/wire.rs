//! What a session's bytes go over: a socket of either kind, encrypted or not.
//! Source: PostgreSQL's documentation, "SSL Session Encryption".

use super::auth::Binding;
use super::conninfo::Settings;
use super::encryption::Encryption;
use super::failure::{PgError, PgResult};
use super::server::{Host, Reached, Server};
use bytes::BytesMut;
use connector_kit::handshake;
use connector_kit::tls::Lines as _;
use connector_kit::waiting::{Socket, Waiting};
use postgres_protocol::message::frontend;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// What the bytes go over.
pub(super) enum Wire {
    /// Of this machine, which nobody else can read.
    Unix(Socket),
    Plain(Socket),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Wire {
    fn socket(&self) -> &Socket {
        match self {
            Self::Unix(socket) | Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    /// The waits for its server.
    pub(super) fn waiting(&mut self) -> &mut Waiting {
        match self {
            Self::Unix(socket) | Self::Plain(socket) => &mut socket.waiting,
            Self::Tls(stream) => &mut stream.sock.waiting,
        }
    }

    /// Whether others can read what goes over it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(socket) | Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(socket) | Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Unix(socket) | Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Ends a session from another thread: what waits for the server gets an error.
pub struct HangUp(TcpStream);

impl HangUp {
    /// Of a session over this.
    pub(super) fn of(wire: &Wire) -> std::io::Result<Self> {
        wire.socket().stream().try_clone().map(Self)
    }

    /// Hangs up.
    pub fn now(&self) {
        // Already closed: so much the better.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// When the kernel begins to ask a silent peer whether it is there, how often it asks, and how many times, unless libpq's
/// parameters say otherwise: a server that is gone is given up after five minutes, however long a statement may take.
const KEEP_IDLE: Duration = Duration::from_secs(60);
const KEEP_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_COUNT: u32 = 8;

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
            let all = socket2::TcpKeepalive::new()
                .with_time(self.idle.unwrap_or(KEEP_IDLE))
                .with_interval(self.interval.unwrap_or(KEEP_INTERVAL))
                .with_retries(self.count.unwrap_or(KEEP_COUNT));
            socket.set_tcp_keepalive(&all)?;
        }
        match self.user_timeout {
            Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
            None => Ok(()),
        }
    }
}

/// Said of a port that speaks TLS before PostgreSQL's request for it.
const SPEAKS_TLS: &str =
    "this port speaks TLS from its first byte: is it PostgreSQL's, and is sslmode right?";

/// Why a server said nothing to our first words.
fn no_answer(error: &std::io::Error, server: &Server, address: &SocketAddr) -> PgError {
    use std::io::ErrorKind as Kind;
    let why = match error.kind() {
        Kind::WouldBlock | Kind::TimedOut => {
            let seconds = server.connect_timeout.unwrap_or_default().as_secs();
            format!("the server did not answer within {seconds} s: is this PostgreSQL's port?")
        }
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe => "the server hung up".into(),
        _ => error.to_string(),
    };
    PgError::Lost(tls_or(why, address))
}

/// That the port speaks TLS, if it does, else `why`.
pub(super) fn tls_or(why: String, address: &SocketAddr) -> String {
    if handshake::speaks_tls(address) { SPEAKS_TLS.into() } else { why }
}

/// Connects, and encrypts the line if it is to be. What comes before the session ends has the time of `connect_timeout`.
pub(super) fn connect(server: &Server, reached: &Reached) -> PgResult<Wire> {
    let down = |error: std::io::Error| PgError::Lost(format!("cannot connect: {error}"));
    let limit = server.connect_timeout;
    let mut waiting = server.waiting.clone();
    waiting.set_patience(limit);
    waiting.set_deadline(limit);
    let name = match &reached.place.host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{}", reached.place.port));
            return Ok(Wire::Unix(Socket::unix(path, waiting).map_err(down)?));
        }
        Host::Tcp(name) => name,
    };
    let Some(address) = reached.address else {
        return Err(PgError::Lost("cannot connect: the host has no address".into()));
    };
    let mut socket = Socket::tcp(address, limit, waiting).map_err(down)?;
    socket.stream().set_nodelay(true)?;
    KeepAlive::read(&server.settings).map_err(PgError::Lost)?.set(socket.stream())?;
    let security = &server.security;
    if security.encryption == Encryption::Disable {
        return Ok(Wire::Plain(socket));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request)?;
    let mut answer = [0];
    socket.read_exact(&mut answer).map_err(|error| no_answer(&error, server, &address))?;
    match (answer[0], security.encryption) {
        (0x15, _) => Err(PgError::Lost(SPEAKS_TLS.into())),
        (b'S', _) => {
            let mut connection =
                security.tls.connect_trusting(name, security.trust).map_err(PgError::Lost)?;
            handshake::shake(&mut connection, &mut socket, limit).map_err(PgError::Lost)?;
            Ok(Wire::Tls(Box::new(rustls::StreamOwned::new(connection, socket))))
        }
        (b'N', Encryption::Prefer) if server.auth.binding == Binding::Require => {
            Err(PgError::Lost("the server does not encrypt, and channel_binding=require asks for it".into()))
        }
        (_, Encryption::Prefer) => Ok(Wire::Plain(socket)),
        _ => Err(PgError::Lost("the server does not encrypt, and sslmode asks for it".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_server_that_is_gone_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        KeepAlive::default().set(&stream).unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let longest =
            socket.tcp_keepalive_time().unwrap() + socket.tcp_keepalive_interval().unwrap() * KEEP_COUNT;
        assert_eq!(longest, Duration::from_secs(300));
        let own = KeepAlive { idle: Some(Duration::from_secs(7)), ..KeepAlive::default() };
        own.set(&stream).unwrap();
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        let (is_off, stream) = (true, TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        KeepAlive { is_off, ..KeepAlive::default() }.set(&stream).unwrap();
        assert!(!socket2::SockRef::from(&stream).keepalive().unwrap());
    }
}
