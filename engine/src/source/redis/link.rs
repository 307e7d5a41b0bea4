//! A connection to Redis or Valkey as replicas have it: commands with one-line replies, then whatever the
//! server sends. Client libraries do not give their connection away, so replication brings its own.

use super::Server;
use crate::source::{SourceError, SourceErrorKind};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The server may save for a long time before the first byte, but it sends a line feed now and then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest reply line.
const MAX_LINE: u64 = 64 << 10;

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
        let down = |why: &dyn std::fmt::Display| server.error(SourceErrorKind::Unavailable, why);
        let addresses = server.address.to_socket_addrs().map_err(|error| down(&error))?;
        let mut failure = None;
        let stream = addresses
            .into_iter()
            .find_map(|address| {
                TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
                    .map_err(|error| failure = Some(error))
                    .ok()
            })
            .ok_or_else(|| match failure {
                Some(error) => down(&format!("cannot connect: {error}")),
                None => down(&"the host has no address"),
            })?;
        stop.watch(&stream);
        stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| down(&error))?;
        let wire = match &server.tls {
            None => Wire::Plain(stream),
            Some(tls) => {
                let connection = tls.connect(server.host()).map_err(|why| down(&why))?;
                Wire::Tls(Box::new(rustls::StreamOwned::new(connection, stream)))
            }
        };
        let stream = BufReader::with_capacity(1 << 20, wire);
        let mut link = Self { server: server.clone(), stream };
        if let Some(password) = &server.password {
            let reply = if server.user.is_empty() {
                link.command(&[b"AUTH", password.as_bytes()])?
            } else {
                link.command(&[b"AUTH", server.user.as_bytes(), password.as_bytes()])?
            };
            if !reply.starts_with("+OK") {
                return Err(down(&format!("AUTH failed: {}", reply.trim_start_matches('-'))));
            }
        }
        let ping = link.command(&[b"PING"])?;
        if !ping.starts_with("+PONG") {
            return Err(down(&format!("the server answered {}", ping.trim_start_matches('-'))));
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
        sent.map_err(|error| self.server.error(SourceErrorKind::Unavailable, error))
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
            read.map_err(|error| self.server.error(SourceErrorKind::Unavailable, error))?;
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
