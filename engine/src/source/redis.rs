//! A live Redis or Valkey as a stream: asks for a full resynchronisation as a replica would, takes the
//! RDB and leaves. Source: "Redis replication" (redis.io/docs), and the handshake in `replication.c`.
//!
//! The RDB comes either with a length (`$<bytes>`) or, from diskless servers, between two copies of a
//! 40-byte mark (`$EOF:<mark>`). Both are checked, and the RDB's own end besides.

use super::rdb::RdbEndMark;
use super::stream::{EndMark as _, StreamSource};
use super::{Content, Piece, SourceError, SourceErrorKind, password, without_password};
use crate::entry::Time;
use crate::snapshot::SourceRecord;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// The server may save for a long time before the first byte, but it sends a line feed now and then.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest reply line.
const MAX_LINE: u64 = 64 << 10;

/// Where a server is and how to get in.
#[derive(Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// ACL user; empty for the default one.
    pub user: String,
    /// Password, if any.
    pub password: Option<String>,
    /// The URL without the password.
    pub shown: String,
}

impl Server {
    /// Reads `redis://[user[:password]@]host[:port]`.
    pub fn new(url: &url::Url) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| SourceError::new(SourceErrorKind::Unavailable, &shown, "no host in the URL"))?;
        let user = percent_encoding::percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
        Ok(Self {
            address: format!("{host}:{}", url.port().unwrap_or(6379)),
            user,
            password: password(url),
            shown,
        })
    }

    /// Folder of this server's streams in a snapshot.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("redis/{}", self.address)
    }

    pub(super) fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }
}

/// The source of `redis://`; connects when its stream is opened.
pub fn source(url: &url::Url, time: Time) -> Result<StreamSource, SourceError> {
    let server = Server::new(url)?;
    let record = SourceRecord { kind: "redis".into(), origin: server.shown.clone(), point_in_time: true };
    let path = format!("{}/dump.rdb", server.folder());
    StreamSource::new(record, &path, time, Box::new(move || Ok(Box::new(RdbContent::start(&server)?))))
}

/// How the end of the transfer is known.
enum Frame {
    /// This many bytes are left.
    Length(u64),
    /// Ends with this mark.
    Mark(Vec<u8>),
}

struct RdbContent {
    server: Server,
    stream: BufReader<TcpStream>,
    frame: Frame,
    mark: RdbEndMark,
    /// With a mark: bytes that came but may belong to it.
    held: Vec<u8>,
    done: bool,
}

impl RdbContent {
    fn start(server: &Server) -> Result<Self, SourceError> {
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
        stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| down(&error))?;
        let mut stream = BufReader::with_capacity(1 << 20, stream);
        if let Some(password) = &server.password {
            let reply = if server.user.is_empty() {
                command(&mut stream, server, &[b"AUTH", password.as_bytes()])?
            } else {
                command(&mut stream, server, &[b"AUTH", server.user.as_bytes(), password.as_bytes()])?
            };
            expect_ok(server, "AUTH", &reply)?;
        }
        let ping = command(&mut stream, server, &[b"PING"])?;
        if !ping.starts_with("+PONG") {
            return Err(down(&format!("the server answered {}", ping.trim_start_matches('-'))));
        }
        // Servers before Valkey 9 answer an error to `version`; Valkey 9 drops replicas that do not say it.
        command(&mut stream, server, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])?;
        command(&mut stream, server, &[b"REPLCONF", b"version", b"9.9.9"])?;
        let reply = command(&mut stream, server, &[b"PSYNC", b"?", b"-1"])?;
        if !reply.starts_with("+FULLRESYNC") {
            let hint = "the user needs +psync +replconf +ping; managed servers that refuse replication can be read with redis+scan://";
            return Err(down(&format!(
                "full resynchronisation refused: {} ({hint})",
                reply.trim_start_matches('-')
            )));
        }
        let header = line(&mut stream, server)?;
        let frame = if let Some(mark) = header.strip_prefix("$EOF:").filter(|mark| mark.len() == 40) {
            Frame::Mark(mark.as_bytes().to_vec())
        } else if let Some(len) = header.strip_prefix('$').and_then(|len| len.parse().ok()) {
            Frame::Length(len)
        } else {
            return Err(down(&format!("expected an RDB, got '{header}'")));
        };
        Ok(Self {
            server: server.clone(),
            stream,
            frame,
            mark: RdbEndMark::default(),
            held: vec![],
            done: false,
        })
    }

    fn finish(&mut self) -> Result<Piece, SourceError> {
        self.done = true;
        self.mark.finish().map_err(|why| self.server.error(SourceErrorKind::Incomplete, why))?;
        Ok(Piece::End)
    }
}

/// Sends a command and reads its one-line reply.
fn command(
    stream: &mut BufReader<TcpStream>,
    server: &Server,
    words: &[&[u8]],
) -> Result<String, SourceError> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    let sent = stream.get_mut().write_all(&request);
    sent.map_err(|error| server.error(SourceErrorKind::Unavailable, error))?;
    line(stream, server)
}

/// The next line that is not empty; empty ones are the server's sign of life.
fn line(stream: &mut BufReader<TcpStream>, server: &Server) -> Result<String, SourceError> {
    loop {
        let mut bytes = vec![];
        let read = stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        read.map_err(|error| server.error(SourceErrorKind::Unavailable, error))?;
        if bytes.last() != Some(&b'\n') {
            return Err(server.error(SourceErrorKind::Unavailable, "the server hung up"));
        }
        let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if !text.is_empty() {
            return Ok(text);
        }
    }
}

fn expect_ok(server: &Server, what: &str, reply: &str) -> Result<(), SourceError> {
    if reply.starts_with("+OK") {
        Ok(())
    } else {
        let why = format!("{what} failed: {}", reply.trim_start_matches('-'));
        Err(server.error(SourceErrorKind::Unavailable, why))
    }
}

impl Content for RdbContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        if self.done {
            return Ok(Piece::End);
        }
        let cut = |server: &Server| {
            server.error(SourceErrorKind::Incomplete, "the server hung up in the middle of the transfer")
        };
        match &mut self.frame {
            Frame::Length(0) => self.finish(),
            Frame::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let len = self
                    .stream
                    .read(&mut buffer[..most])
                    .map_err(|error| self.server.error(SourceErrorKind::Incomplete, error))?;
                if len == 0 {
                    return Err(cut(&self.server));
                }
                *left -= len as u64;
                self.mark.see(&buffer[..len]);
                Ok(Piece::Data(len))
            }
            Frame::Mark(mark) => {
                // Held bytes go first; then new ones; then the last 40 are held back again.
                let held = self.held.len();
                buffer[..held].copy_from_slice(&self.held);
                let len = self
                    .stream
                    .read(&mut buffer[held..])
                    .map_err(|error| self.server.error(SourceErrorKind::Incomplete, error))?;
                if len == 0 {
                    return Err(cut(&self.server));
                }
                let total = held + len;
                let ready = total.saturating_sub(mark.len());
                self.held = buffer[ready..total].to_vec();
                if self.held == *mark {
                    // The stream stops after the mark until we acknowledge, which we never do.
                    self.frame = Frame::Length(0);
                }
                self.mark.see(&buffer[..ready]);
                if ready == 0 { self.read(buffer) } else { Ok(Piece::Data(ready)) }
            }
        }
    }
}
