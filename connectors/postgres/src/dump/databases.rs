//! Which databases a server has. Their names are bytes in the encoding of the database that they were made from.

use crate::Connection;
use crate::charset::{Within, in_utf8};
use crate::connection::PgError;
use engine::names::encoded_bytes;

/// A database's name.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// As the server has it.
    pub(super) bytes: Vec<u8>,
    /// In UTF-8, for people, as far as there is such a thing.
    pub(super) text: String,
}

impl Named {
    pub(super) fn of(text: &str) -> Self {
        Self { bytes: text.as_bytes().to_vec(), text: text.to_owned() }
    }

    /// Its place in a snapshot.
    pub(super) fn component(&self) -> String {
        let is_text = !self.text.contains(char::REPLACEMENT_CHARACTER) || self.text.as_bytes() == self.bytes;
        encoded_bytes(if is_text { self.text.as_bytes() } else { &self.bytes }, "")
    }
}

/// What a server has.
pub(super) struct Databases {
    /// Those to dump: all but template0, as pg_dumpall.
    pub(super) names: Vec<Named>,
    /// Those that cannot be dumped, whoever tries, and why: pg_dumpall leaves them out, too.
    pub(super) closed: Vec<(String, &'static str)>,
}

impl Databases {
    /// Asks a session, whose encoding is that of its database afterwards.
    pub(super) fn read(session: &mut Connection) -> Result<Self, PgError> {
        let encoding = session.value("SELECT pg_catalog.getdatabaseencoding()")?;
        session.query(
            "SELECT pg_catalog.set_config('client_encoding', pg_catalog.getdatabaseencoding(), false)",
        )?;
        let rows = session.query_bytes(
            b"SELECT datname, CASE WHEN datconnlimit = -2 THEN 'i' WHEN NOT datallowconn THEN 'c' ELSE '' END \
              FROM pg_catalog.pg_database WHERE datname <> 'template0' ORDER BY 1",
        )?;
        let mut found = Self { names: vec![], closed: vec![] };
        for row in rows {
            let mut values = row.into_iter().flatten();
            let (Some(bytes), Some(state)) = (values.next(), values.next()) else { continue };
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    let mut texts =
                        in_utf8(session, &encoding, std::slice::from_ref(&bytes), Within::Nothing)?;
                    texts.pop().flatten().unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned())
                }
            };
            match state.as_slice() {
                b"i" => found.closed.push((text, "it is what an interrupted DROP DATABASE left: drop it")),
                b"c" => found.closed.push((text, "it takes no connections (ALLOW_CONNECTIONS is false)")),
                _ => found.names.push(Named { bytes, text }),
            }
        }
        Ok(found)
    }
}
