//! What COPY streams, in either direction and in both.
//! Source: PostgreSQL's documentation, "COPY Operations", "Streaming Replication Protocol".

use super::Connection;
use super::connection::{MAX_ROWS, Row, texts};
use super::failure::{PgError, PgResult, unexpected};
use bytes::BufMut as _;
use connector_kit::waiting::is_silence;
use postgres_protocol::message::frontend;
use std::io::Write as _;

/// The next of a COPY.
pub enum Copied<'a> {
    /// Data.
    Data(&'a [u8]),
    /// Its end, and the rows that came after it; the session takes the next statement.
    End(Vec<Row>),
}

impl Connection {
    /// Sends a statement that answers with a COPY, and waits for its beginning; returns rows that came before it.
    pub fn begin_copy(&mut self, sql: impl AsRef<[u8]>) -> PgResult<Vec<Row>> {
        self.logged(sql.as_ref(), |session| session.begin(sql.as_ref()))
    }

    fn begin(&mut self, sql: &[u8]) -> PgResult<Vec<Row>> {
        self.send_query(sql)?;
        let (mut rows, mut room) = (vec![], MAX_ROWS);
        loop {
            let message = self.message()?;
            match message.tag {
                b'D' => rows.push(self.row_within(&message, &mut room)?),
                b'G' | b'H' | b'W' => break,
                b'E' => return Err(self.refused_for_good(&message)),
                b'Z' => return Err(unexpected(message.tag)),
                _ => {}
            }
        }
        self.flow(true);
        Ok(texts(rows))
    }

    /// The next data of a COPY.
    pub fn copied(&mut self) -> PgResult<Copied<'_>> {
        loop {
            let message = self.message()?;
            match message.tag {
                b'd' => return Ok(Copied::Data(self.body(&message))),
                // What comes after it tells whether the statement succeeded.
                b'c' => {
                    self.flow(false);
                    return self.end_of_statement().map(Copied::End);
                }
                b'E' => return Err(self.refused_for_good(&message)),
                b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Appends data of a COPY to `out` until that has `len` bytes; `false` if the COPY is over.
    pub fn copy_some(&mut self, out: &mut Vec<u8>, len: usize) -> PgResult<bool> {
        while out.len() < len {
            match self.copied()? {
                Copied::Data(data) => out.extend_from_slice(data),
                Copied::End(_) => return Ok(false),
            }
        }
        Ok(true)
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
                b'd' => return Ok(Some(self.body(&message))),
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

    /// The same of many bytes, which are not copied first.
    ///
    /// # Errors
    /// Also if they are more than a message holds, 1 GiB.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    pub(crate) fn send_much(&mut self, data: &[u8]) -> PgResult<()> {
        let len = i32::try_from(data.len() + 4)
            .map_err(|_| PgError::Lost("rows are longer than a message of the protocol".into()))?;
        self.send(|out| {
            out.put_u8(b'd');
            out.put_slice(&len.to_be_bytes());
            Ok(())
        })?;
        match self.wire.write_all(data).and_then(|()| self.wire.flush()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words().unwrap_or_else(|| error.into())),
        }
    }

    /// Ends a COPY into the server.
    pub fn finish_data(&mut self) -> PgResult<()> {
        self.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.end_of_statement().map(drop)
    }
}
