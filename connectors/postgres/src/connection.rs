//! A session with a PostgreSQL server: its messages, and queries of one string. Blocking; one thread each.
//! Source: PostgreSQL's documentation, "Frontend/Backend Protocol", version 3.0. The messages and SCRAM are
//! postgres-protocol's.

pub use super::failure::{PgError, PgResult};
use super::failure::{refusal, unexpected};
use super::server::{Reached, Server};
use super::startup::startup_message;
use super::wire::{HangUp, Wire, connect, tls_or};
use bytes::BytesMut;
use connector_kit::waiting::{Socket, Waiting};
use engine::log;
use postgres_protocol::message::{backend, frontend};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Read at a time.
const BUFFER: usize = 256 << 10;
/// The server sends rows 8 KiB at a time, and waking up for each costs as much as making them: while they flow, we
/// let some come together first. A nap is short beside what a socket holds.
const NAP: Duration = Duration::from_micros(500);
/// So much at once means that rows flow.
const FLOW: usize = 4 << 10;
/// How long to wait for the reason of a server that hung up.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What every session begins with. An operator or function of the database's owner must not come before PostgreSQL's own.
const OWN_SETTINGS: &str = "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = off";
/// The same, since these versions.
const NEWER_SETTINGS: &[(u32, &str)] =
    &[(14, "SET idle_session_timeout = 0"), (17, "SET transaction_timeout = 0")];
/// A message that is longer is none: PostgreSQL's own bound for a row is 1 GiB.
const MAX_MESSAGE: usize = 1 << 30;
/// Bytes of everything that comes before the login has ended; a login has some hundred.
const MAX_LOGIN: u64 = 16 << 20;
/// Bytes of notices and the like that come without anything that was asked for.
const MAX_ASIDE: u64 = 64 << 20;
/// Memory for the rows of one answer that is kept whole: catalogues of a million tables.
pub(super) const MAX_ROWS: u64 = 512 << 20;
/// What a row, and each of its values, takes beside its bytes.
const PER_VALUE: u64 = 32;

/// A session.
pub struct Connection {
    pub(super) wire: Wire,
    /// Bytes that came and were not looked at, from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether rows are on their way, and whether they come faster than they are taken.
    in_copy: bool,
    is_flowing: bool,
    /// Bytes that may still come before the login has ended, or beside what was asked for.
    left: u64,
    is_in: bool,
    /// Version as a number: 150018 is 15.18.
    pub(super) version: u32,
    /// What the server says of itself, since version 14.
    pub(super) is_standby: Option<bool>,
    pub(super) is_read_only: Option<bool>,
}

/// One row of text; `None` is NULL.
pub type Row = Vec<Option<String>>;
/// The same in bytes of the session's encoding.
pub type BytesRow = Vec<Option<Vec<u8>>>;

#[expect(clippy::needless_pass_by_value, reason = "a function for map")]
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Rows of bytes as text.
pub(super) fn texts(rows: Vec<BytesRow>) -> Vec<Row> {
    rows.into_iter().map(|row| row.into_iter().map(|value| value.map(text)).collect()).collect()
}

/// A message, by its kind and where its body is in the buffer.
pub(super) struct Message {
    pub(super) tag: u8,
    from: usize,
    to: usize,
}

impl Connection {
    /// Opens a session with `database`, in UTF-8, which neither a setting of the database or of our role can end or
    /// lead astray: names without a schema are PostgreSQL's own.
    pub fn open(server: &Server, database: impl AsRef<[u8]>) -> PgResult<Self> {
        let mut session =
            Self::start(server, &[("database", database.as_ref()), ("client_encoding", b"UTF8")])?;
        session.query(OWN_SETTINGS)?;
        for (since, setting) in NEWER_SETTINGS {
            if session.major() >= *since {
                session.query(setting)?;
            }
        }
        Ok(session)
    }

    fn new(wire: Wire) -> Self {
        Self {
            wire,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            in_copy: false,
            is_flowing: false,
            left: MAX_LOGIN,
            is_in: false,
            version: 0,
            is_standby: None,
            is_read_only: None,
        }
    }

    /// A session with whoever is at the other end of a stream: one that is to log in as `server` says, or has.
    ///
    /// # Errors
    /// Of the stream, and of the login.
    pub fn over(stream: UnixStream, login: Option<(&Server, &str)>) -> PgResult<Self> {
        let mut session = Self::new(Wire::Unix(Socket::over(stream, Waiting::default())?));
        if let Some((server, password)) = login {
            session.authenticate(server, Some(password))?;
        }
        (session.is_in, session.left) = (true, MAX_ASIDE);
        Ok(session)
    }

    /// Opens one for replication, which takes its commands and simple queries.
    pub fn replication(server: &Server) -> PgResult<Self> {
        Self::start(server, &[("database", b"postgres"), ("replication", b"true")])
    }

    /// Opens a session with a server that is chosen.
    pub(super) fn start_at(
        server: &Server,
        reached: &Reached,
        parameters: &[(&str, &[u8])],
    ) -> PgResult<Self> {
        let mut wire = connect(server, reached)?;
        wire.waiting().set_patience(server.connect_timeout);
        let mut connection = Self::new(wire);
        let mut all = vec![
            ("user", server.user.as_bytes()),
            ("application_name", server.application_name().as_bytes()),
        ];
        all.extend(server.settings.get("options").map(|options| ("options", options.as_bytes())));
        all.extend(parameters);
        let message = startup_message(&all)?;
        let sent = connection.send(|out| {
            out.extend_from_slice(&message);
            Ok(())
        });
        let logged_in =
            sent.and_then(|()| connection.authenticate(server, reached.place.password.as_deref()));
        let is_overdue = connection.wire.waiting().is_overdue();
        match (logged_in, reached.address) {
            (Err(PgError::Lost(_)), _) if is_overdue => {
                let seconds = server.connect_timeout.unwrap_or_default().as_secs();
                return Err(PgError::Lost(format!(
                    "the login did not end within {seconds} s (connect_timeout)"
                )));
            }
            (Err(PgError::Lost(why)), Some(address)) if matches!(connection.wire, Wire::Plain(_)) => {
                return Err(PgError::Lost(tls_or(why, &address)));
            }
            (logged_in, _) => logged_in?,
        }
        connection.wire.waiting().set_patience(None);
        connection.wire.waiting().set_deadline(None);
        (connection.is_in, connection.left) = (true, MAX_ASIDE);
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

    /// Whether others cannot read what goes over its line, by TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.wire, Wire::Tls(_))
    }

    /// A handle that ends the session from another thread.
    pub fn hang_up(&self) -> PgResult<HangUp> {
        Ok(HangUp::of(&self.wire)?)
    }

    /// How long to wait for the next message; for ever if `None`.
    pub fn set_patience(&mut self, patience: Option<Duration>) -> PgResult<()> {
        self.wire.waiting().set_patience(patience);
        Ok(())
    }

    pub(super) fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> PgResult<()> {
        let mut out = BytesMut::new();
        write(&mut out)?;
        self.wire.waiting().asked();
        match self.wire.write_all(&out).and_then(|()| self.wire.flush()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words().unwrap_or_else(|| error.into())),
        }
    }

    /// What a server that hung up said before: it is in the socket still.
    pub(super) fn last_words(&mut self) -> Option<PgError> {
        self.wire.waiting().set_patience(Some(LAST_WORDS));
        loop {
            let message = self.message().ok()?;
            if message.tag == b'E' {
                return self.refused(&message).ok();
            }
        }
    }

    /// Sees to it that `len` bytes are at hand.
    fn need(&mut self, len: usize) -> std::io::Result<()> {
        while self.end - self.start < len {
            if self.buffer.len() - self.start < len.max(BUFFER / 2) {
                if self.start > 0 {
                    self.buffer.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                }
                // Not more at once than came: a length alone takes no memory.
                if self.buffer.len() < len && self.end == self.buffer.len() {
                    self.buffer.resize(len.min(2 * self.buffer.len()), 0);
                }
            }
            if self.is_flowing {
                std::thread::sleep(NAP);
            }
            match self.wire.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.end += read;
                    // Not of what is encrypted: that comes a record at a time.
                    self.is_flowing = self.in_copy && read >= FLOW && matches!(self.wire, Wire::Plain(_));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message, whole.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    pub(super) fn message(&mut self) -> std::io::Result<Message> {
        self.need(5)?;
        let head = &self.buffer[self.start..self.start + 5];
        let (tag, len) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if !(4..=MAX_MESSAGE).contains(&len) {
            return Err(std::io::Error::other("this does not speak PostgreSQL's protocol"));
        }
        self.account(tag, len as u64 + 1)?;
        self.need(len + 1)?;
        let from = self.start;
        self.start += len + 1;
        Ok(Message { tag, from, to: self.start })
    }

    /// Takes note of a message before it is read: what nobody asked for has a bound.
    fn account(&mut self, tag: u8, len: u64) -> std::io::Result<()> {
        let is_aside = matches!(tag, b'N' | b'S' | b'A' | b'v');
        if self.is_in && !is_aside {
            self.left = MAX_ASIDE;
            return Ok(());
        }
        let what =
            if self.is_in { "notices and nothing else" } else { "messages before the login has ended" };
        let most = if self.is_in { MAX_ASIDE } else { MAX_LOGIN };
        self.left = self.left.checked_sub(len).ok_or_else(|| {
            std::io::Error::other(format!("the server sends more than {} MiB of {what}", most >> 20))
        })?;
        Ok(())
    }

    pub(super) fn body(&self, message: &Message) -> &[u8] {
        &self.buffer[message.from + 5..message.to]
    }

    /// The message as the library knows it.
    pub(super) fn parsed(&self, message: &Message) -> PgResult<backend::Message> {
        let mut bytes = BytesMut::from(&self.buffer[message.from..message.to]);
        let parsed = backend::Message::parse(&mut bytes)?;
        parsed.ok_or_else(|| PgError::Lost("the server sends what is no message".into()))
    }

    /// Runs statements and returns the rows of all of them.
    pub fn query(&mut self, sql: &str) -> PgResult<Vec<Row>> {
        let rows = self.query_bytes(sql.as_bytes())?;
        Ok(texts(rows))
    }

    /// The same of bytes in the session's encoding, whatever that is.
    pub fn query_bytes(&mut self, sql: &[u8]) -> PgResult<Vec<BytesRow>> {
        self.logged(sql, |session| {
            session.send_query(sql)?;
            session.rows_to_the_end()
        })
    }

    /// What a statement does, which is told in the log with its duration.
    pub(super) fn logged<T>(
        &mut self,
        sql: &[u8],
        run: impl FnOnce(&mut Self) -> PgResult<T>,
    ) -> PgResult<T> {
        let asked = log::asked();
        let done = run(self);
        asked.told("postgres", || String::from_utf8_lossy(sql).into_owned(), &done);
        done
    }

    /// Sends a statement in the session's encoding.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    pub(super) fn send_query(&mut self, sql: &[u8]) -> PgResult<()> {
        let len = u32::try_from(sql.len() + 5).ok().filter(|_| !sql.contains(&0));
        let len = len.ok_or_else(|| PgError::Lost("a statement that cannot be sent".into()))?;
        self.send(|out| {
            out.extend_from_slice(b"Q");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(sql);
            out.extend_from_slice(&[0]);
            Ok(())
        })
    }

    /// The rows up to where the next statement can be sent. A server that hangs up after it said why is quoted.
    fn rows_to_the_end(&mut self) -> PgResult<Vec<BytesRow>> {
        let (mut rows, mut failure) = (vec![], None);
        let mut room = MAX_ROWS;
        loop {
            let message = match self.message() {
                Ok(message) => message,
                Err(error) => return Err(failure.unwrap_or_else(|| error.into())),
            };
            match message.tag {
                b'D' => rows.push(self.row_within(&message, &mut room)?),
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

    pub(super) fn refused(&self, message: &Message) -> PgResult<PgError> {
        match self.parsed(message)? {
            backend::Message::ErrorResponse(body) => Ok(refusal(&body)),
            _ => Err(unexpected(message.tag)),
        }
    }

    /// The refusal of a statement, after which the next can be sent.
    pub(super) fn refused_for_good(&mut self, message: &Message) -> PgError {
        let refusal = self.refused(message).unwrap_or_else(|error| error);
        // If the session goes with it, the next statement tells.
        let _ = self.until_ready();
        refusal
    }

    fn until_ready(&mut self) -> PgResult<()> {
        while self.message()?.tag != b'Z' {}
        Ok(())
    }

    /// Whether rows are on their way now.
    pub(super) fn flow(&mut self, in_copy: bool) {
        (self.in_copy, self.is_flowing) = (in_copy, false);
    }

    /// A row, which takes of the `room` that there is for all of an answer.
    pub(super) fn row_within(&self, message: &Message, room: &mut u64) -> PgResult<BytesRow> {
        let row = row(self.body(message))?;
        let size = (message.to - message.from) as u64 + (row.len() as u64 + 1) * PER_VALUE;
        *room = room.checked_sub(size).ok_or_else(|| {
            PgError::Lost(format!(
                "the server sends more rows than fit into {} MiB, for which this has room",
                MAX_ROWS >> 20
            ))
        })?;
        Ok(row)
    }

    /// Reads to where the next statement can be sent.
    pub fn end_of_statement(&mut self) -> PgResult<Vec<Row>> {
        self.rows_to_the_end().map(texts)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.waiting().set_deadline(Some(LAST_WORDS));
        let _ = self.send(|out| {
            frontend::terminate(out);
            Ok(())
        });
    }
}

/// A `DataRow`: a count, then each value's length, negative for NULL, and its bytes.
#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn row(body: &[u8]) -> PgResult<BytesRow> {
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
            Ok(len) => Some(take(&mut at, len)?.to_vec()),
            Err(_) => None,
        });
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let bytes = [0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(row(&bytes).unwrap(), [Some(b"x".to_vec()), None]);
        assert!((0..bytes.len()).all(|len| row(&bytes[..len]).is_err()));
    }
}
