//! A connection to Redis or Valkey as replicas have it: commands with one-line replies, then whatever the
//! server sends. Client libraries do not give their connection away, so replication brings its own.

use super::address::Address;
use super::{Server, refused_login, status_of};
use chunkstore::pool::locked;
use connector_kit::handshake;
use connector_kit::handshake::SET_UP;
use connector_kit::tls;
use connector_kit::tls::Lines as _;
use connector_kit::waiting::{Socket, Waiting};
use engine::log;
use engine::source::{SourceError, SourceErrorKind};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use connector_kit::waiting::is_silence;

/// Longest reply line.
const MAX_LINE: u64 = 64 << 10;
/// Empty lines before a line: a server that prepares its data sends one a second, for eleven days at most.
const MAX_EMPTY: u32 = 1_000_000;
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
        if let Some(stream) = &*locked(&self.0) {
            // Already closed: so much the better.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn watch(&self, stream: &TcpStream) {
        *locked(&self.0) = stream.try_clone().ok();
    }
}

/// The connection, logged in.
pub struct Link {
    server: Server,
    patience: Duration,
    stream: BufReader<Wire>,
}

/// What the bytes go over.
pub(super) enum Wire {
    Plain(Socket),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Wire {
    pub(super) fn waiting(&mut self) -> &mut Waiting {
        match self {
            Self::Plain(socket) => &mut socket.waiting,
            Self::Tls(stream) => &mut stream.sock.waiting,
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
        let mut socket = connect(&server.address, &server.waiting)
            .map_err(|error| down(format!("cannot connect: {error}")))?;
        stop.watch(socket.stream());
        let wire = match (&server.tls, &server.address) {
            (Some(tls), Address::Tcp(host, _)) => {
                let mut connection = tls.connect(host).map_err(down)?;
                handshake::shake(&mut connection, &mut socket, Some(SET_UP)).map_err(down)?;
                Wire::Tls(Box::new(rustls::StreamOwned::new(connection, socket)))
            }
            _ => Wire::Plain(socket),
        };
        let stream = BufReader::with_capacity(1 << 20, wire);
        let mut link = Self { server: server.clone(), patience: server.patience, stream };
        // A server that works has an answer to a greeting at once, whatever it takes to send its data.
        link.set_patience(server.patience.min(SET_UP))?;
        link.log_in()?;
        link.set_patience(server.patience)?;
        Ok(link)
    }

    fn log_in(&mut self) -> Result<(), SourceError> {
        let server = self.server.clone();
        let down = |why: String| server.error(SourceErrorKind::Unavailable, why);
        if let Some(password) = &server.password {
            let reply = if server.user.is_empty() {
                self.command(&[b"AUTH", password.as_bytes()])
            } else {
                self.command(&[b"AUTH", server.user.as_bytes(), password.as_bytes()])
            };
            let reply = reply.map_err(|error| server.or_tls(error))?;
            if !reply.starts_with("+OK") {
                let (status, why) = refused_login(reply.trim_start_matches('-'));
                return Err(down(why).with_status(status));
            }
        }
        let ping = self.command(&[b"PING"]).map_err(|error| server.or_tls(error))?;
        let is_busy =
            self.server.is_met_busy && ["-LOADING", "-MASTERDOWN"].iter().any(|code| ping.starts_with(code));
        if !ping.starts_with("+PONG") && !is_busy {
            let why = format!("the server answered {}", ping.trim_start_matches('-'));
            return Err(down(why).with_status(status_of(&ping)));
        }
        Ok(())
    }

    /// Its server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Sends a command without waiting for an answer.
    pub fn send(&mut self, words: &[&[u8]]) -> Result<(), SourceError> {
        let asked = log::asked();
        let sent = self.put(words);
        // What follows may be a password.
        let name = || String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
        asked.told("redis", name, &sent);
        sent
    }

    fn put(&mut self, words: &[&[u8]]) -> Result<(), SourceError> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.waiting().asked();
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
        for _ in 0..MAX_EMPTY {
            let mut bytes = vec![];
            // For the whole of it, however its bytes come.
            let patience = self.patience;
            self.waiting().set_deadline(Some(patience));
            let read = self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
            self.waiting().set_deadline(None);
            read.map_err(|error| self.server.error(SourceErrorKind::Unavailable, self.told(&error)))?;
            if bytes.last() != Some(&b'\n') {
                let why = match bytes.len() as u64 == MAX_LINE {
                    true => format!("the server sends a line of more than {MAX_LINE} bytes"),
                    false => "the server hung up".to_owned(),
                };
                return Err(self.server.error(SourceErrorKind::Unavailable, why));
            }
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if !text.is_empty() {
                return Ok(text);
            }
        }
        let why = "the server sends nothing but empty lines";
        Err(self.server.error(SourceErrorKind::Unavailable, why))
    }

    /// How long a read waits for bytes before it ends with [`std::io::ErrorKind::WouldBlock`].
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), SourceError> {
        self.patience = patience;
        self.waiting().set_patience(Some(patience));
        Ok(())
    }

    /// The addresses of both ends, ours first; `None` of a Unix socket.
    pub(super) fn ends(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        if let Address::Unix(_) = self.server.address {
            return None;
        }
        let stream = match self.stream.get_ref() {
            Wire::Plain(socket) => socket.stream(),
            Wire::Tls(stream) => stream.sock.stream(),
        };
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    /// The waits for its server.
    pub(super) fn waiting(&mut self) -> &mut Waiting {
        self.stream.get_mut().waiting()
    }

    /// What is written to.
    pub(super) fn wire(&mut self) -> &mut Wire {
        self.stream.get_mut()
    }

    /// What is read from.
    pub(super) fn stream(&mut self) -> &mut BufReader<Wire> {
        &mut self.stream
    }

    /// Says what this replica can do. Servers before Valkey 9 answer an error to `version`; Valkey 9 drops
    /// replicas that do not say it.
    pub fn introduce(&mut self) -> Result<(), SourceError> {
        self.command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])?;
        self.command(&[b"REPLCONF", b"version", b"9.9.9"])?;
        Ok(())
    }
}

/// A connection.
fn connect(address: &Address, waiting: &Waiting) -> std::io::Result<Socket> {
    let (host, port) = match address {
        Address::Unix(path) => return Socket::unix(path.clone(), waiting.clone()),
        Address::Tcp(host, port) => (host.clone(), *port),
    };
    let mut failure = std::io::Error::other("the host has no address");
    let look = move || Ok((host.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>());
    for address in waiting.work(look)? {
        match Socket::tcp(address, Some(SET_UP), waiting.clone()) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// What is said of a server that says nothing.
fn silence(patience: Duration) -> String {
    format!("the server did not answer within {} s", patience.as_secs_f32())
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::connector::Context;
    use engine::source::Status;
    use std::net::TcpListener;

    /// What becomes of a login to a server that says `words` to everybody, and whether it hangs up then.
    fn opened(words: &'static [u8], hangs_up: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://:secret@127.0.0.1:{}", listener.local_addr().unwrap().port());
        let server =
            Server::new(&url.parse().unwrap(), &Context::new(std::env::temp_dir(), jiff::Timestamp::now))
                .unwrap();
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
        let status = |reply: &str| refused_login(reply).0;
        assert_eq!(status("WRONGPASS invalid username-password pair"), Status::Permanent);
        assert_eq!(status("ERR invalid password"), Status::Permanent);
        assert_eq!(status("ERR max number of clients reached"), Status::Unknown);
        assert_eq!(status_of("-LOADING Redis is loading the dataset in memory"), Status::Temporary);
        // Words of a message are no code.
        assert_eq!(status_of("-ERR NOPERM is what another user got"), Status::Unknown);
    }
}
