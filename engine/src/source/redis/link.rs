//! A connection to Redis or Valkey as replicas have it: commands with one-line replies, then whatever the
//! server sends. Client libraries do not give their connection away, so replication brings its own.

use super::address::Address;
use super::{Server, refused_login};
use crate::source::{SourceError, SourceErrorKind, tls};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest reply line.
const MAX_LINE: u64 = 64 << 10;
/// How long to wait for what a server says before it hangs up.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Why servers hang up on replicas, where their log tells.
pub(crate) const HANG_UP: &str = "the server hung up; its log says why. If its output buffer for replicas grew too large, \
    raise that limit: CONFIG SET client-output-buffer-limit 'replica 1gb 0 0";

/// Ends a transfer from another thread: what reads from the connection gets an error.
#[derive(Clone, Default)]
pub struct Stop(Arc<Mutex<Option<TcpStream>>>);

impl Stop {
    /// Hangs up.
    pub fn now(&self) {
        if let Some(stream) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Already closed: so much the better.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn watch(&self, stream: &TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stream.try_clone().ok();
    }
}

/// The connection, logged in.
pub struct Link {
    server: Server,
    patience: Duration,
    stream: BufReader<Wire>,
}

/// What the bytes go over.
enum Wire {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Link {
    /// Connects and logs in.
    pub fn open(server: &Server, stop: &Stop) -> Result<Self, SourceError> {
        let down = |why: String| server.error(SourceErrorKind::Unavailable, why);
        let socket = connect(&server.address).map_err(|error| down(format!("cannot connect: {error}")))?;
        stop.watch(&socket);
        socket.set_read_timeout(Some(server.patience)).map_err(|error| down(error.to_string()))?;
        let wire = match (&server.tls, &server.address) {
            (Some(tls), Address::Tcp(host, _)) => {
                let connection = tls.connect(host).map_err(down)?;
                Wire::Tls(Box::new(rustls::StreamOwned::new(connection, socket)))
            }
            _ => Wire::Plain(socket),
        };
        let stream = BufReader::with_capacity(1 << 20, wire);
        let mut link = Self { server: server.clone(), patience: server.patience, stream };
        if let Some(password) = &server.password {
            let reply = if server.user.is_empty() {
                link.command(&[b"AUTH", password.as_bytes()])?
            } else {
                link.command(&[b"AUTH", server.user.as_bytes(), password.as_bytes()])?
            };
            if !reply.starts_with("+OK") {
                return Err(down(refused_login(reply.trim_start_matches('-'))));
            }
        }
        let ping = link.command(&[b"PING"])?;
        if !ping.starts_with("+PONG") {
            return Err(down(format!("the server answered {}", ping.trim_start_matches('-'))));
        }
        Ok(link)
    }

    /// Its server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Sends a command without waiting for an answer.
    pub fn send(&mut self, words: &[&[u8]]) -> Result<(), SourceError> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        let wire = self.stream.get_mut();
        let sent = wire.write_all(&request).and_then(|()| wire.flush());
        sent.map_err(|error| {
            let why = self.last_words().unwrap_or_else(|| self.told(&error));
            self.server.error(SourceErrorKind::Unavailable, why)
        })
    }

    /// What a server said before it hung up on us, such as that it has too many clients.
    fn last_words(&mut self) -> Option<String> {
        self.set_patience(LAST_WORDS).ok()?;
        let said = self.line().ok()?;
        Some(format!("the server hung up, and said: {}", said.strip_prefix('-')?))
    }

    /// An error of the connection, for people.
    pub(crate) fn told(&self, error: &std::io::Error) -> String {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            _ if is_silence(error) => silence(self.patience),
            Kind::BrokenPipe | Kind::ConnectionReset | Kind::UnexpectedEof => "the server hung up".into(),
            _ => tls::plain(&error.to_string()),
        }
    }

    /// Sends a command and reads its one-line reply.
    pub fn command(&mut self, words: &[&[u8]]) -> Result<String, SourceError> {
        self.send(words)?;
        self.line()
    }

    /// The next line that is not empty; empty ones are the server's sign of life.
    pub fn line(&mut self) -> Result<String, SourceError> {
        loop {
            let mut bytes = vec![];
            let read = self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
            read.map_err(|error| self.server.error(SourceErrorKind::Unavailable, self.told(&error)))?;
            if bytes.last() != Some(&b'\n') {
                return Err(self.server.error(SourceErrorKind::Unavailable, "the server hung up"));
            }
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if !text.is_empty() {
                return Ok(text);
            }
        }
    }

    /// How long a read waits for bytes before it ends with [`std::io::ErrorKind::WouldBlock`].
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), SourceError> {
        self.patience = patience;
        let set = self.stream.get_ref().socket().set_read_timeout(Some(patience));
        set.map_err(|error| self.server.error(SourceErrorKind::Unavailable, error))
    }

    /// Says what this replica can do. Servers before Valkey 9 answer an error to `version`; Valkey 9 drops
    /// replicas that do not say it.
    pub fn introduce(&mut self) -> Result<(), SourceError> {
        self.command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])?;
        self.command(&[b"REPLCONF", b"version", b"9.9.9"])?;
        Ok(())
    }
}

/// A connection. A Unix socket takes everything that is asked of a TCP one here: reading, writing, timeouts, hanging up.
fn connect(address: &Address) -> std::io::Result<TcpStream> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(OwnedFd::from(UnixStream::connect(path)?).into()),
        Address::Tcp(host, port) => (host.as_str(), *port),
    };
    let mut failure = std::io::Error::other("the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What is said of a server that says nothing.
pub(super) fn silence(patience: Duration) -> String {
    format!("the server did not answer within {} s", patience.as_secs_f32())
}

/// Whether a read ended because nothing came in time.
#[must_use]
pub fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::UrlOptions;
    use std::net::TcpListener;

    /// What becomes of a login to a server that says `words` to everybody, and whether it hangs up then.
    fn opened(words: &'static [u8], hangs_up: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://:secret@127.0.0.1:{}", listener.local_addr().unwrap().port());
        let server = Server::new(&url.parse().unwrap(), &UrlOptions::default()).unwrap();
        let server = Server { patience: Duration::from_millis(500), ..server };
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let theirs = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(words).unwrap();
            if !hangs_up {
                let _ = ended.recv();
            }
        });
        if hangs_up {
            std::thread::sleep(Duration::from_millis(100));
        }
        let error = Link::open(&server, &Stop::default()).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Unavailable);
        drop(end);
        theirs.join().unwrap();
        error.why
    }

    #[test]
    fn what_a_server_says_or_does_not_say_is_told() {
        assert_eq!(opened(b"", false), "the server did not answer within 0.5 s");
        assert_eq!(opened(b"\n\n", false), "the server did not answer within 0.5 s");
        assert!(opened(b"", true).contains("the server hung up"));
        let full = opened(b"-ERR max number of clients reached\r\n", true);
        assert!(
            full.contains("ERR max number of clients reached") && !full.contains("AUTH failed"),
            "{full}"
        );
        let wrong = opened(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", false);
        assert!(wrong.starts_with("AUTH failed: WRONGPASS"), "{wrong}");
    }
}
