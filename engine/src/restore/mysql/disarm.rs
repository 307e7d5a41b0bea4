//! A binary log written anew, so that nothing that a user wrote in it can be taken for a line of mariadb-binlog's script.
//!
//! A statement becomes `EXECUTE IMMEDIATE 0x…`: neither quotes nor comments nor delimiters of its text reach the client. Where
//! the server cannot execute every statement so (MySQL, MariaDB before 10.6.2), and in LOAD DATA, whose text mariadb-binlog
//! changes, the delimiter `/*!*/;` in it becomes `/* */;`, which is as long and means the same. Events that are only comments
//! are left out. Names of tables stand in a line of comment as they are: one that ends the line is refused, before anything
//! is restored.
//! Source: MariaDB's documentation, "Binary Log Event Header", "QUERY_EVENT", "TABLE_MAP_EVENT"; `client/mysqlbinlog.cc`.

use crate::mysql::hexadecimal;
use memchr::memmem;
use std::io::{Error, ErrorKind, Read, Result, Write};

/// What mariadb-binlog writes between statements, and what is as long and no delimiter.
const DELIMITER: &[u8] = b"/*!*/;";
const HARMLESS: &[u8] = b"/* */;";
const MAGIC: &[u8] = b"\xfebin";
const HEADER: usize = 19;
/// Length of a checksum, where events have one.
const CHECKSUM: usize = 4;
/// Bytes before the status variables of a QUERY_EVENT, and of an EXECUTE_LOAD_QUERY_EVENT.
const QUERY: usize = 13;
const LOAD: usize = 26;

/// Writes the logs of a server, one after the other.
pub(super) struct Disarmed {
    executes: bool,
    /// The second at which the replay ends.
    until: Option<u32>,
    is_over: bool,
    /// Where the first event to be replayed is, in the first log that was written.
    pub(super) start: Option<u64>,
}

fn refused(at: u64, why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the event at {at} {why}"))
}

impl Disarmed {
    pub(super) const fn new(executes: bool, until: Option<u32>) -> Self {
        Self { executes, until, is_over: false, start: None }
    }

    /// Writes the events of `log` that begin at `from`, and those that others need.
    pub(super) fn write(&mut self, log: &mut dyn Read, from: u64, out: &mut dyn Write) -> Result<()> {
        let mut magic = [0; 4];
        log.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(refused(0, "is not the beginning of a binary log"));
        }
        out.write_all(MAGIC)?;
        let (mut at, mut checksum, mut needed) = (4, 0, 4);
        loop {
            let mut event = Vec::new();
            (&mut *log).take(HEADER as u64).read_to_end(&mut event)?;
            if event.len() < HEADER {
                return out.flush();
            }
            let len = u32::from_le_bytes([event[9], event[10], event[11], event[12]]) as usize;
            if len < HEADER {
                return out.flush();
            }
            (&mut *log).take((len - HEADER) as u64).read_to_end(&mut event)?;
            if event.len() < len {
                // The last one of a log that grew is not whole.
                return out.flush();
            }
            if event[4] == 15 {
                // The algorithm stands before the description's own checksum.
                checksum = match event.get(len - CHECKSUM - 1) {
                    Some(1) => CHECKSUM,
                    _ => 0,
                };
                out.write_all(&event)?;
                needed += len as u64;
            } else if event[4] == 164 || at >= from {
                let time = u32::from_le_bytes([event[0], event[1], event[2], event[3]]);
                self.is_over |= self.until.is_some_and(|until| time >= until);
                if self.is_over {
                    // mariadb-binlog ends at the first that is too late, and needs no other.
                    return out.flush();
                }
                if at < from {
                    needed += len as u64;
                } else {
                    self.start.get_or_insert(needed);
                }
                if let Some(event) = self.event(event, checksum, at)? {
                    out.write_all(&event)?;
                }
            }
            at += len as u64;
        }
    }

    /// An event as it may pass; none if it may be left out.
    fn event(&self, event: Vec<u8>, checksum: usize, at: u64) -> Result<Option<Vec<u8>>> {
        let cut = || refused(at, "is not as its kind is written");
        let body = event.get(HEADER..event.len() - checksum).ok_or_else(cut)?;
        match event[4] {
            2 => self.query(&event, body, None, checksum, at).map(Some),
            165 => {
                let text = inflated(body).ok_or_else(cut)?;
                self.query(&event, body, Some(text), checksum, at).map(Some)
            }
            18 => {
                let (head, database, text) = query_parts(body, LOAD).ok_or_else(cut)?;
                plain(database, at)?;
                let text = harmless(text);
                Ok(Some(written(&event, 18, &[head, database, b"\0", &text], checksum)))
            }
            19 => {
                let name = |from: usize| {
                    let len = usize::from(*body.get(from)?);
                    body.get(from + 1..from + 1 + len)
                };
                let database = name(8).ok_or_else(cut)?;
                let table = name(8 + 1 + database.len() + 1).ok_or_else(cut)?;
                plain(database, at)?;
                plain(table, at)?;
                Ok(Some(event))
            }
            14 => {
                let len = u32::from_le_bytes(body.get(..4).ok_or_else(cut)?.try_into().map_err(|_| cut())?);
                plain(body.get(4..4 + len as usize).ok_or_else(cut)?, at)?;
                Ok(Some(event))
            }
            // Statements that rows came of, for people.
            160 | 29 => Ok(None),
            // These hold numbers, rows, and names that no user gives.
            3 | 4 | 5 | 9 | 11 | 13 | 16 | 17 | 20..=25 | 27 | 28 | 30..=39 | 161..=164 | 166..=171 => {
                Ok(Some(event))
            }
            other => Err(refused(at, &format!("is of kind {other}, of which it is not known what it holds"))),
        }
    }

    /// A QUERY_EVENT of one; `text` if its own is compressed.
    fn query(
        &self,
        event: &[u8],
        body: &[u8],
        text: Option<Vec<u8>>,
        checksum: usize,
        at: u64,
    ) -> Result<Vec<u8>> {
        let (head, database, own) =
            query_parts(body, QUERY).ok_or_else(|| refused(at, "is not as a statement is written"))?;
        plain(database, at)?;
        let text = text.as_deref().unwrap_or(own);
        let is_simple = |byte: &u8| byte.is_ascii_alphanumeric() || b" ,_()=*".contains(byte);
        let text = match (text.iter().all(is_simple), self.executes) {
            (true, _) => text.to_vec(),
            (false, true) => {
                let mut text = text.to_vec();
                // A number that is no multiple of a character's length would be filled up in front.
                text.resize(text.len().next_multiple_of(4), b' ');
                format!("EXECUTE IMMEDIATE {}", hexadecimal(&text)).into_bytes()
            }
            (false, false) => harmless(text),
        };
        Ok(written(event, 2, &[head, database, b"\0", &text], checksum))
    }
}

/// That a name can stand in a line of comment.
fn plain(name: &[u8], at: u64) -> Result<()> {
    if memchr::memchr2(b'\n', b'\r', name).is_some() || memmem::find(name, DELIMITER).is_some() {
        let why = format!(
            "names {:?}: mariadb-binlog writes such a name so that the rest of it would be run as a statement; nothing was restored. --time with an earlier moment leaves the event out",
            String::from_utf8_lossy(name)
        );
        return Err(refused(at, &why));
    }
    Ok(())
}

/// A text without delimiters.
fn harmless(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    let found: Vec<usize> = memmem::find_iter(&text, DELIMITER).collect();
    for at in found {
        text[at..at + HARMLESS.len()].copy_from_slice(HARMLESS);
    }
    text
}

/// What stands before the database in a statement's event, the database, and what follows.
fn query_parts(body: &[u8], fixed: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let database = usize::from(*body.get(8)?);
    let status = usize::from(u16::from_le_bytes([*body.get(11)?, *body.get(12)?]));
    let (head, rest) = body.split_at_checked(fixed + status)?;
    let (database, rest) = rest.split_at_checked(database)?;
    Some((head, database, rest.strip_prefix(b"\0")?))
}

/// An event of the kind `kind` with this body; its checksum, which nobody looks at, is none.
fn written(event: &[u8], kind: u8, body: &[&[u8]], checksum: usize) -> Vec<u8> {
    let mut out = event[..HEADER].to_vec();
    out[4] = kind;
    for part in body {
        out.extend_from_slice(part);
    }
    out.resize(out.len() + checksum, 0);
    let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[9..13].copy_from_slice(&len.to_le_bytes());
    out
}

/// The statement of a compressed event, which is that of a QUERY_EVENT behind its status variables and its database.
fn inflated(body: &[u8]) -> Option<Vec<u8>> {
    let (_, _, packed) = query_parts(body, QUERY)?;
    // How many bytes its length has, and these.
    let behind = 1 + usize::from(packed.first()? & 7);
    let mut text = vec![];
    flate2::read::ZlibDecoder::new(packed.get(behind..)?).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = (HEADER + body.len()) as u32;
        [&[0; 4][..], &[kind], &[0; 4], &len.to_le_bytes(), &[0; 6], body].concat()
    }

    fn query(fixed: usize, database: &[u8], text: &[u8]) -> Vec<u8> {
        let mut body = vec![0; fixed];
        body[8] = database.len() as u8;
        [&body, database, b"\0", text].concat()
    }

    fn mapped(name: &[u8]) -> Vec<u8> {
        let len = [name.len() as u8];
        event(19, &[&[0; 8][..], &[1], b"z\0", &len, name, b"\0rest"].concat())
    }

    fn write(executes: bool, events: &[Vec<u8>]) -> Result<Vec<u8>> {
        let mut out = vec![];
        let log = [MAGIC.to_vec(), events.concat()].concat();
        Disarmed::new(executes, None).write(&mut &*log, 4, &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_statement_is_a_number_or_does_not_end_itself() {
        let text = b"SELECT 1 /*!*/; x /*!*/;/*!*/;";
        let begin = event(2, &query(QUERY, b"z", b"BEGIN"));
        let log = |text: &[u8], load: &[u8]| {
            let events =
                [begin.clone(), event(2, &query(QUERY, b"z", text)), event(18, &query(LOAD, b"z", load))];
            [MAGIC.to_vec(), events.concat()].concat()
        };
        let events = [
            begin.clone(),
            event(160, DELIMITER),
            event(2, &query(QUERY, b"z", text)),
            event(18, &query(LOAD, b"z", text)),
        ];
        let harmless = b"SELECT 1 /* */; x /* */;/* */;";
        assert_eq!(write(false, &events).unwrap(), log(harmless, harmless));
        let number = format!("EXECUTE IMMEDIATE {}2020", hexadecimal(text));
        assert_eq!(write(true, &events).unwrap(), log(number.as_bytes(), harmless));
    }

    #[test]
    fn a_name_ends_no_comment() {
        assert!(write(true, &[mapped(b"t`able; -- ")]).is_ok());
        for name in [&b"a\nGRANT"[..], b"a\rb", DELIMITER] {
            let error = write(true, &[mapped(name)]).unwrap_err();
            assert!(error.to_string().contains("the event at 4 names"), "{error}");
            assert!(write(true, &[event(2, &query(QUERY, name, b"x"))]).is_err());
            let len = (name.len() as u32).to_le_bytes();
            assert!(write(true, &[event(14, &[&len[..], name, &[1]].concat())]).is_err());
        }
        for unclear in [event(2, b"x"), event(165, b"x"), event(19, b"x"), event(14, b"x"), event(99, b"")] {
            assert!(write(true, &[unclear]).is_err());
        }
    }
}
