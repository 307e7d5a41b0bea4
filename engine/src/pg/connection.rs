//! A session with a PostgreSQL server: start-up, authentication, queries of one string, and what COPY streams in
//! either direction. Blocking; one thread each.
//! Source: PostgreSQL's documentation, "Frontend/Backend Protocol", version 3.0. The messages and SCRAM are
//! postgres-protocol's.

use super::server::{Encryption, Host, Server};
use crate::source::{SourceError, SourceErrorKind};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::{backend, frontend};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;

/// How long to wait for a connection, and for the first answers on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Read at a time.
const BUFFER: usize = 256 << 10;
/// The server sends rows 8 KiB at a time, and waking up for each costs as much as making them: while they flow, we
/// let some come together first. A nap is short beside what a socket holds.
const NAP: Duration = Duration::from_micros(500);
/// So much at once means that rows flow.
const FLOW: usize = 4 << 10;
/// A message that is longer is none: PostgreSQL's own bound for a row is 1 GiB.
const MAX_MESSAGE: usize = 1 << 30;

/// What went wrong in a session.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The server refuses.
    #[error("{message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What it says, with its detail and hint.
        message: String,
    },
    /// The connection is not, or no longer, there.
    #[error("{0}")]
    Lost(String),
}

impl PgError {
    /// The SQLSTATE, if the server gave one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Lost(_) => "",
        }
    }
}

impl From<std::io::Error> for PgError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Lost("the server hung up".into()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// Result of a session.
pub type PgResult<T> = Result<T, PgError>;

/// The socket.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn set_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
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
enum Wire {
    Plain(Socket),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Wire {
    fn socket(&self) -> &Socket {
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
    /// Hangs up.
    pub fn now(&self) {
        // Already closed: so much the better.
        let _ = match &self.0 {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// A session.
pub struct Connection {
    wire: Wire,
    /// Bytes that came and were not looked at, from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether rows are on their way, and whether they come faster than they are taken.
    in_copy: bool,
    is_flowing: bool,
    /// Version as a number: 150018 is 15.18.
    version: u32,
}

/// One row of text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A message, by its kind and where its body is in the buffer.
struct Message {
    tag: u8,
    from: usize,
    to: usize,
}

impl Connection {
    /// Opens a session with `database`.
    pub fn open(server: &Server, database: &str) -> PgResult<Self> {
        Self::start(server, &[("database", database)])
    }

    /// Opens one for replication, which takes its commands and simple queries.
    pub fn replication(server: &Server) -> PgResult<Self> {
        Self::start(server, &[("database", "postgres"), ("replication", "true")])
    }

    fn start(server: &Server, parameters: &[(&str, &str)]) -> PgResult<Self> {
        let wire = connect(server)?;
        wire.socket().set_timeout(Some(CONNECT_TIMEOUT))?;
        let mut connection =
            Self { wire, buffer: vec![], start: 0, end: 0, in_copy: false, is_flowing: false, version: 0 };
        connection.buffer.resize(BUFFER, 0);
        let mut all = vec![("user", server.user.as_str()), ("application_name", "esker")];
        all.extend(parameters);
        connection.send(|out| frontend::startup_message(all.iter().copied(), out))?;
        connection.authenticate(server)?;
        connection.wire.socket().set_timeout(None)?;
        Ok(connection)
    }

    /// Version of the server as a number: 150018 is 15.18.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Its major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// A handle that ends the session from another thread.
    pub fn hang_up(&self) -> PgResult<HangUp> {
        Ok(HangUp(self.wire.socket().try_clone()?))
    }

    /// How long to wait for the next message; for ever if `None`.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> PgResult<()> {
        Ok(self.wire.socket().set_timeout(patience)?)
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> PgResult<()> {
        let mut out = BytesMut::new();
        write(&mut out)?;
        self.wire.write_all(&out)?;
        Ok(self.wire.flush()?)
    }

    /// Sees to it that `len` bytes are at hand.
    fn need(&mut self, len: usize) -> std::io::Result<()> {
        while self.end - self.start < len {
            if self.buffer.len() - self.start < len.max(BUFFER / 2) {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
                if self.buffer.len() < len {
                    self.buffer.resize(len, 0);
                }
            }
            if self.is_flowing {
                std::thread::sleep(NAP);
            }
            match self.wire.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.end += read;
                    self.is_flowing = self.in_copy && read >= FLOW;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message, whole.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    fn message(&mut self) -> std::io::Result<Message> {
        self.need(5)?;
        let head = &self.buffer[self.start..self.start + 5];
        let (tag, len) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if !(4..=MAX_MESSAGE).contains(&len) {
            return Err(std::io::Error::other("this does not speak PostgreSQL's protocol"));
        }
        self.need(len + 1)?;
        let from = self.start;
        self.start += len + 1;
        Ok(Message { tag, from, to: self.start })
    }

    fn body(&self, message: &Message) -> &[u8] {
        &self.buffer[message.from + 5..message.to]
    }

    /// The message as the library knows it.
    fn parsed(&self, message: &Message) -> PgResult<backend::Message> {
        let mut bytes = BytesMut::from(&self.buffer[message.from..message.to]);
        let parsed = backend::Message::parse(&mut bytes)?;
        parsed.ok_or_else(|| PgError::Lost("the server sends what is no message".into()))
    }

    fn authenticate(&mut self, server: &Server) -> PgResult<()> {
        use backend::Message as M;
        let password = || {
            server.password.clone().ok_or_else(|| PgError::Refused {
                code: "28P01".into(),
                message: "the server wants a password: set PGPASSWORD, or PGPASSFILE or ~/.pgpass".into(),
            })
        };
        let mut scram = None;
        loop {
            let message = self.message()?;
            match self.parsed(&message)? {
                M::AuthenticationOk => break,
                M::AuthenticationCleartextPassword => {
                    let password = password()?;
                    self.send(|out| frontend::password_message(password.as_bytes(), out))?;
                }
                M::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(server.user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                M::AuthenticationSasl(body) => {
                    let known = body.mechanisms().any(|name| Ok(name == sasl::SCRAM_SHA_256))?;
                    if !known {
                        return Err(PgError::Lost(
                            "the server wants an authentication that is not known here".into(),
                        ));
                    }
                    let state =
                        sasl::ScramSha256::new(password()?.as_bytes(), sasl::ChannelBinding::unsupported());
                    self.send(|out| {
                        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, state.message(), out)
                    })?;
                    scram = Some(state);
                }
                M::AuthenticationSaslContinue(body) => {
                    let Some(state) = &mut scram else { return Err(unexpected(b'R')) };
                    state.update(body.data())?;
                    self.send(|out| frontend::sasl_response(state.message(), out))?;
                }
                M::AuthenticationSaslFinal(body) => {
                    let Some(state) = &mut scram else { return Err(unexpected(b'R')) };
                    state.finish(body.data())?;
                }
                M::ErrorResponse(body) => return Err(refusal(&body)),
                M::NoticeResponse(_) => {}
                _ => {
                    return Err(PgError::Lost(
                        "the server wants an authentication that is not known here".into(),
                    ));
                }
            }
        }
        loop {
            let message = self.message()?;
            match self.parsed(&message)? {
                M::ParameterStatus(body) if body.name()? == "server_version" => {
                    self.version = version_number(body.value()?);
                }
                M::ErrorResponse(body) => return Err(refusal(&body)),
                M::ReadyForQuery(_) => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs statements and returns the rows of all of them.
    pub fn query(&mut self, sql: &str) -> PgResult<Vec<Row>> {
        self.send(|out| frontend::query(sql, out))?;
        let (mut rows, mut failure) = (vec![], None);
        loop {
            let message = self.message()?;
            match message.tag {
                b'D' => rows.push(row(self.body(&message))?),
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'E' => failure = Some(self.refused(&message)?),
                // A COPY that nobody asked for has nobody to take it.
                b'G' | b'H' | b'W' => return Err(unexpected(message.tag)),
                _ => {}
            }
        }
    }

    /// The one value of a query.
    pub fn value(&mut self, sql: &str) -> PgResult<String> {
        let rows = self.query(sql)?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        value.ok_or_else(|| PgError::Lost(format!("no answer to: {sql}")))
    }

    fn refused(&self, message: &Message) -> PgResult<PgError> {
        match self.parsed(message)? {
            backend::Message::ErrorResponse(body) => Ok(refusal(&body)),
            _ => Err(unexpected(message.tag)),
        }
    }

    /// Sends a statement that answers with a COPY, and waits for its beginning.
    pub fn begin_copy(&mut self, sql: &str) -> PgResult<()> {
        self.send(|out| frontend::query(sql, out))?;
        self.next_copy()?;
        self.in_copy = true;
        Ok(())
    }

    /// Waits for the beginning of the next COPY of a statement that answers with several.
    fn next_copy(&mut self) -> PgResult<()> {
        loop {
            let message = self.message()?;
            match message.tag {
                b'G' | b'H' | b'W' => return Ok(()),
                b'E' => {
                    let refusal = self.refused(&message)?;
                    self.until_ready()?;
                    return Err(refusal);
                }
                b'Z' => return Err(unexpected(message.tag)),
                _ => {}
            }
        }
    }

    fn until_ready(&mut self) -> PgResult<()> {
        while self.message()?.tag != b'Z' {}
        Ok(())
    }

    /// The next data of a COPY; `None` at its end, after which the session takes the next statement.
    pub fn copy_data(&mut self) -> PgResult<Option<&[u8]>> {
        loop {
            let message = self.message()?;
            match message.tag {
                b'd' => return Ok(Some(&self.buffer[message.from + 5..message.to])),
                // The end of this COPY; what comes after it tells whether the statement succeeded.
                b'c' => {
                    (self.in_copy, self.is_flowing) = (false, false);
                    self.end_of_statement()?;
                    return Ok(None);
                }
                b'E' => {
                    let refusal = self.refused(&message)?;
                    self.until_ready()?;
                    return Err(refusal);
                }
                b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Appends data of a COPY to `out` until that has `len` bytes; `false` if the COPY is over.
    pub fn copy_some(&mut self, out: &mut Vec<u8>, len: usize) -> PgResult<bool> {
        while out.len() < len {
            match self.copy_data()? {
                Some(data) => out.extend_from_slice(data),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads to where the next statement can be sent.
    pub fn end_of_statement(&mut self) -> PgResult<Vec<Row>> {
        let (mut rows, mut failure) = (vec![], None);
        loop {
            let message = self.message()?;
            match message.tag {
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'D' => rows.push(row(self.body(&message))?),
                b'E' => failure = Some(self.refused(&message)?),
                _ => {}
            }
        }
    }

    /// The next data of a COPY in both directions; `None` if none came in time.
    ///
    /// # Errors
    /// Also when the server ends it.
    pub fn replication_data(&mut self) -> PgResult<Option<&[u8]>> {
        loop {
            let message = match self.message() {
                Ok(message) => message,
                Err(error) if is_silence(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            match message.tag {
                b'd' => return Ok(Some(&self.buffer[message.from + 5..message.to])),
                b'c' => return Err(PgError::Lost("the server ended the replication".into())),
                b'E' => return Err(self.refused(&message)?),
                _ => {}
            }
        }
    }

    /// Sends data of a COPY.
    pub fn send_data(&mut self, data: &[u8]) -> PgResult<()> {
        self.send(|out| {
            frontend::CopyData::new(data)?.write(out);
            Ok(())
        })
    }

    /// Ends a COPY into the server.
    pub fn finish_data(&mut self) -> PgResult<()> {
        self.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.end_of_statement().map(drop)
    }

    /// Sends a statement whose answers are rows first and COPYs after them: `BASE_BACKUP`.
    pub fn begin_backup(&mut self, command: &str) -> PgResult<Vec<Row>> {
        self.send(|out| frontend::query(command, out))?;
        let mut rows = vec![];
        loop {
            let message = self.message()?;
            match message.tag {
                b'D' => rows.push(row(self.body(&message))?),
                b'H' => return Ok(rows),
                b'E' => {
                    let refusal = self.refused(&message)?;
                    self.until_ready()?;
                    return Err(refusal);
                }
                b'Z' => return Err(unexpected(message.tag)),
                _ => {}
            }
        }
    }

    /// The next data of a base backup, `None` at its end; the rows after it are the statement's last.
    pub fn backup_data(&mut self) -> PgResult<Result<&[u8], Vec<Row>>> {
        loop {
            let message = self.message()?;
            match message.tag {
                b'd' => return Ok(Ok(&self.buffer[message.from + 5..message.to])),
                b'c' => return self.end_of_statement().map(Err),
                b'E' => {
                    let refusal = self.refused(&message)?;
                    self.until_ready()?;
                    return Err(refusal);
                }
                _ => {}
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.send(|out| {
            frontend::terminate(out);
            Ok(())
        });
    }
}

/// Whether a read ended because nothing came in time.
fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn unexpected(tag: u8) -> PgError {
    PgError::Lost(format!("an unexpected message '{}' from the server", char::from(tag)))
}

/// Error and detail as psql shows them.
fn refusal(body: &backend::ErrorResponseBody) -> PgError {
    let (mut code, mut message) = (String::new(), String::new());
    let (mut detail, mut hint) = (None, None);
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text,
            b'M' => message = text,
            b'D' => detail = Some(text),
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    for more in [detail, hint].into_iter().flatten() {
        message += &format!("; {more}");
    }
    PgError::Refused { code, message }
}

/// A `DataRow`: a count, then each value's length, negative for NULL, and its bytes.
#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn row(body: &[u8]) -> PgResult<Row> {
    let bad = || PgError::Lost("a row that is none from the server".into());
    let take = |at: &mut usize, len: usize| {
        let bytes = body.get(*at..*at + len);
        *at += len;
        bytes.ok_or_else(bad)
    };
    let mut at = 0;
    let count = take(&mut at, 2)?;
    let count = u16::from_be_bytes([count[0], count[1]]);
    let mut row = vec![];
    for _ in 0..count {
        let len = take(&mut at, 4)?;
        let len = i32::from_be_bytes([len[0], len[1], len[2], len[3]]);
        row.push(match usize::try_from(len) {
            Ok(len) => Some(String::from_utf8_lossy(take(&mut at, len)?).into_owned()),
            Err(_) => None,
        });
    }
    Ok(row)
}

/// `15.18 (Debian …)` as 150018, `19beta1` as 190000.
fn version_number(text: &str) -> u32 {
    let number = text.split(|character: char| !(character.is_ascii_digit() || character == '.')).next();
    let mut parts = number.unwrap_or_default().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if major < 10 { major * 10_000 + minor * 100 } else { major * 10_000 + minor }
}

fn connect(server: &Server) -> PgResult<Wire> {
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

impl Server {
    /// What went wrong in a session, as an error of the source.
    #[must_use]
    pub fn failed(&self, error: &PgError) -> SourceError {
        self.error(SourceErrorKind::Unavailable, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("19beta1"), 190_000);
        assert_eq!(version_number("9.6.24"), 90_600);
    }

    #[test]
    fn rows() {
        let bytes = [0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(row(&bytes).unwrap(), [Some("x".to_owned()), None]);
        assert!((0..bytes.len()).all(|len| row(&bytes[..len]).is_err()));
    }
}
