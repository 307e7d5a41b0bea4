//! A plain dump run in a session, statement by statement, with the rows of its COPYs. Only the server reads what is in it:
//! what psql would take for commands of its own (`\!`, `\connect`) is not run, whatever name or text it comes from.

use super::Connection;
use super::failure::{PgError, PgResult, unexpected};
use super::sql::{Piece, Splitter, tokens};
use bytes::{BufMut as _, BytesMut};
use std::io::Write;

/// A statement that is longer than the server takes is none.
const MAX_STATEMENT: usize = 1 << 30;
/// Rows that are sent at a time.
const ROWS: usize = 256 << 10;

impl Connection {
    /// Runs a statement as it stands, in whatever encoding; `true` if the server now takes rows.
    pub fn run(&mut self, sql: &[u8]) -> PgResult<bool> {
        self.logged(sql, |session| session.run_whole(sql))
    }

    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    fn run_whole(&mut self, sql: &[u8]) -> PgResult<bool> {
        let len = i32::try_from(sql.len() + 5)
            .map_err(|_| PgError::Lost("a statement is longer than the server takes".into()))?;
        self.send(|out: &mut BytesMut| {
            out.put_u8(b'Q');
            out.put_slice(&len.to_be_bytes());
            out.put_slice(sql);
            out.put_u8(0);
            Ok(())
        })?;
        let mut failure = None;
        loop {
            let message = self.message()?;
            match message.tag {
                b'G' => return Ok(true),
                b'Z' => return failure.map_or(Ok(false), Err),
                b'E' => failure = Some(self.refused(&message)?),
                b'H' | b'W' => return Err(unexpected(message.tag)),
                _ => {}
            }
        }
    }
}

/// A text of SQL that is written into a session; the first failure ends it.
pub struct Script<'a> {
    session: &'a mut Connection,
    splitter: Splitter,
    in_rows: bool,
    rows: Vec<u8>,
    /// Why it ended.
    pub failure: Option<PgError>,
}

impl<'a> Script<'a> {
    /// One that runs in `session`.
    pub fn new(session: &'a mut Connection) -> Self {
        Self { session, splitter: Splitter::default(), in_rows: false, rows: vec![], failure: None }
    }

    /// Runs what is left.
    pub fn finish(&mut self) -> PgResult<()> {
        self.advance(true)?;
        match self.in_rows {
            true => Err(refused("the dump ends within the rows of a table".into())),
            false => Ok(()),
        }
    }

    /// Runs what is whole.
    fn advance(&mut self, all: bool) -> PgResult<()> {
        loop {
            if self.in_rows {
                let is_over = self.splitter.rows(&mut self.rows);
                if !self.rows.is_empty() && (is_over || self.rows.len() >= ROWS) {
                    self.session.send_data(&self.rows)?;
                    self.rows.clear();
                }
                if !is_over {
                    return Ok(());
                }
                self.session.finish_data()?;
                self.in_rows = false;
            }
            match self.splitter.next_piece(all) {
                None => return Ok(()),
                Some(Piece::Command(line)) => refuse_command(&line)?,
                Some(Piece::Statement(sql)) => {
                    self.look(&sql);
                    self.in_rows = self.session.run(&sql)?;
                }
            }
        }
    }

    /// What the dump says about its own quotes.
    fn look(&mut self, sql: &[u8]) {
        const LONGEST: usize = 80;
        let Some(text) = std::str::from_utf8(sql).ok().filter(|text| text.len() < LONGEST) else { return };
        if let [set, name, _, value, ..] = tokens(text).as_slice()
            && set.is("SET")
            && name.is("standard_conforming_strings")
        {
            self.splitter.set_conforming(!value.text.trim_matches('\'').eq_ignore_ascii_case("off"));
        }
    }
}

/// What is refused before the server could: a syntax error.
fn refused(message: String) -> PgError {
    PgError::Refused { code: "42601".into(), message }
}

/// pg_dump frames its dumps with `\restrict`; nothing else that begins so comes from it.
fn refuse_command(line: &[u8]) -> PgResult<()> {
    let line = String::from_utf8_lossy(line).trim_end().to_owned();
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    if matches!(word, "\\restrict" | "\\unrestrict" | "\\.") {
        return Ok(());
    }
    Err(refused(format!(
        "the dump holds a command of psql, {line:?}, which no dump needs and which is not run; a name with a line break can bring one into dumps of old pg_dumps: 'esker restore --target' gives the file to look at"
    )))
}

impl Write for Script<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.splitter.waiting() > MAX_STATEMENT {
            self.failure = Some(refused("a statement of the dump does not end".into()));
            return Err(std::io::Error::other("a statement does not end"));
        }
        self.splitter.push(bytes);
        match self.advance(false) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let told = std::io::Error::other(error.to_string());
                self.failure = Some(error);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
