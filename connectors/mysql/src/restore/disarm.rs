//! A binary log written anew, so that nothing that a user wrote in it can be taken for a line of mariadb-binlog's script.
//!
//! A statement becomes `EXECUTE IMMEDIATE 0x…`: neither quotes nor comments nor delimiters of its text reach the client. Where
//! the server cannot execute every statement so (MySQL, MariaDB before 10.6.2), the delimiter `/*!*/;` in it becomes `/* */;`,
//! which is as long and means the same; one with words that the client takes for its own commands is refused. LOAD DATA is
//! written anew in [`super::loads`]: the client sends no file but those that are written there. Events that are only comments
//! are left out. Names of tables stand in a line of comment as they are: one that ends the line gets another name, which
//! [`super::renamed`] takes back. Other names that end their line are refused, before anything is restored.
//! Source: MariaDB's documentation, "Binary Log Event Header", "QUERY_EVENT", "TABLE_MAP_EVENT"; `client/mysqlbinlog.cc`.

use super::loads::{Loads, commands_the_client};
use super::outside::Outside;
use super::renamed::{Names, TABLE_MAP, places, renamed};
use crate::server::hexadecimal;
use memchr::memmem;
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::PathBuf;

/// What mariadb-binlog writes between statements, and what is as long and no delimiter.
const DELIMITER: &[u8] = b"/*!*/;";
const HARMLESS: &[u8] = b"/* */;";
const MAGIC: &[u8] = b"\xfebin";
const HEADER: usize = 19;
/// Length of a checksum, where events have one.
const CHECKSUM: usize = 4;
/// A statement has no more bytes: the largest `max_allowed_packet`.
const MAX_TEXT: u64 = 1 << 30;
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
    /// Files that LOAD DATA reads.
    loads: Loads,
    /// Where a statement is that might make the client read a file by itself.
    reads: Option<u64>,
    /// Names of tables that the logs that were written have under another name, in order.
    pub(super) renamed: VecDeque<Names>,
    /// What the server has besides.
    pub(super) outside: Outside,
}

fn refused(at: u64, why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the event at {at} {why}"))
}

impl Disarmed {
    /// Files that LOAD DATA reads are written to `folder`.
    pub(super) fn new(executes: bool, until: Option<u32>, folder: PathBuf, outside: Outside) -> Self {
        let (loads, renamed) = (Loads::new(folder), VecDeque::new());
        Self { executes, until, is_over: false, start: None, loads, reads: None, renamed, outside }
    }

    /// Whether the client must send files of the folder.
    ///
    /// # Errors
    /// If it might send others, then.
    pub(super) fn sends_files(&self) -> Result<bool> {
        match self.reads {
            Some(at) if self.loads.is_used => {
                Err(refused(at, "names LOAD and INFILE, and might read a file of this machine"))
            }
            _ => Ok(self.loads.is_used),
        }
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
    fn event(&mut self, event: Vec<u8>, checksum: usize, at: u64) -> Result<Option<Vec<u8>>> {
        let cut = || refused(at, "is not as its kind is written");
        let body = event.get(HEADER..event.len() - checksum).ok_or_else(cut)?;
        match event[4] {
            2 => self.query(&event, body, None, checksum, at),
            165 => {
                let text = inflated(body).ok_or_else(cut)?;
                self.query(&event, body, Some(text), checksum, at)
            }
            18 => {
                let (head, database, text) = query_parts(body, LOAD).ok_or_else(cut)?;
                plain(database, at)?;
                self.outside.statement(database, text).map_err(|why| refused(at, &why))?;
                let text = self.loads.statement(head, text).map_err(|why| refused(at, &why))?;
                // As a statement that names its file itself.
                let (head, status) = (&head[..QUERY], &head[LOAD..]);
                Ok(Some(written(&event, 2, &[head, status, database, b"\0", &text], checksum)))
            }
            // The rows of a file, and its end without a statement.
            kind @ (17 | 9) => match self.loads.rows(body, kind == 17)? {
                Some(()) => Ok(None),
                None => Err(refused(at, "has rows of a file that does not begin in these logs")),
            },
            11 => Ok(None),
            TABLE_MAP => {
                let places = places(body).ok_or_else(cut)?;
                let [database, table] = places.clone().map(|place| &body[place]);
                self.outside.rows(database, table).map_err(|why| refused(at, &why))?;
                let bad = places.into_iter().find_map(|place| plain(&body[place], at).err());
                match bad {
                    None => Ok(Some(event)),
                    // Where statements are text, a line of one might look like the script's own.
                    Some(error) if !self.executes => Err(error),
                    Some(_) => {
                        let (body, own) = renamed(body, |name| plain(name, at).is_err()).ok_or_else(cut)?;
                        self.renamed.push_back(own);
                        Ok(Some(written(&event, TABLE_MAP, &[&body], checksum)))
                    }
                }
            }
            14 => {
                let len = u32::from_le_bytes(body.get(..4).ok_or_else(cut)?.try_into().map_err(|_| cut())?);
                plain(body.get(4..4 + len as usize).ok_or_else(cut)?, at)?;
                Ok(Some(event))
            }
            // Statements that rows came of, for people.
            160 | 29 => Ok(None),
            // These hold numbers, rows, and names that no user gives.
            3 | 4 | 5 | 13 | 16 | 20..=25 | 27 | 28 | 30..=39 | 161..=164 | 166..=171 => Ok(Some(event)),
            other => Err(refused(at, &format!("is of kind {other}, of which it is not known what it holds"))),
        }
    }

    /// A QUERY_EVENT of one, if it is to be run; `text` if its own is compressed.
    fn query(
        &mut self,
        event: &[u8],
        body: &[u8],
        text: Option<Vec<u8>>,
        checksum: usize,
        at: u64,
    ) -> Result<Option<Vec<u8>>> {
        let (head, database, own) =
            query_parts(body, QUERY).ok_or_else(|| refused(at, "is not as a statement is written"))?;
        plain(database, at)?;
        let text = text.as_deref().unwrap_or(own);
        if !self.outside.statement(database, text).map_err(|why| refused(at, &why))? {
            return Ok(None);
        }
        let is_simple = |byte: &u8| byte.is_ascii_alphanumeric() || b" ,_()=*".contains(byte);
        // The client would take one that begins so for a LOAD DATA.
        let is_simple = text.iter().all(is_simple)
            && !text.trim_ascii_start().first().is_some_and(|first| first.eq_ignore_ascii_case(&b'l'));
        let text = match (is_simple, self.executes) {
            (true, _) => text.to_vec(),
            (false, true) => {
                let mut text = text.to_vec();
                // A number that is no multiple of a character's length would be filled up in front.
                text.resize(text.len().next_multiple_of(4), b' ');
                format!("EXECUTE IMMEDIATE {}", hexadecimal(&text)).into_bytes()
            }
            (false, false) => {
                if commands_the_client(text) {
                    let why = "has a statement with 'delimiter ' or '\\C' in it, which are commands for the client, and this server's version takes no other form";
                    return Err(refused(at, why));
                }
                let has = |word: &[u8]| text.windows(word.len()).any(|some| some.eq_ignore_ascii_case(word));
                if has(b"load") && has(b"infile") {
                    self.reads.get_or_insert(at);
                }
                harmless(text)
            }
        };
        Ok(Some(written(event, 2, &[head, database, b"\0", &text], checksum)))
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
    let unpacked = flate2::read::ZlibDecoder::new(packed.get(behind..)?);
    unpacked.take(MAX_TEXT + 1).read_to_end(&mut text).ok()?;
    Some(text).filter(|text| text.len() as u64 <= MAX_TEXT)
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
        let folder = tempfile::tempdir()?;
        Disarmed::new(executes, None, folder.path().to_owned(), Outside::default())
            .write(&mut &*log, 4, &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_statement_is_a_number_or_does_not_end_itself() {
        let text = b"SELECT 1 /*!*/; x /*!*/;/*!*/;";
        let begin = event(2, &query(QUERY, b"z", b"BEGIN"));
        let log = |text: &[u8]| {
            let events = [begin.clone(), event(2, &query(QUERY, b"z", text))];
            [MAGIC.to_vec(), events.concat()].concat()
        };
        let events = [begin.clone(), event(160, DELIMITER), event(2, &query(QUERY, b"z", text))];
        assert_eq!(write(false, &events).unwrap(), log(b"SELECT 1 /* */; x /* */;/* */;"));
        let number = format!("EXECUTE IMMEDIATE {}2020", hexadecimal(text));
        assert_eq!(write(true, &events).unwrap(), log(number.as_bytes()));
        for text in ["SELECT 1 delimiter //\nDO 0//", "SELECT 1 \\C gbk"] {
            assert!(write(false, &[event(2, &query(QUERY, b"z", text.as_bytes()))]).is_err());
            assert!(write(true, &[event(2, &query(QUERY, b"z", text.as_bytes()))]).is_ok());
        }
        let begins = write(true, &[event(2, &query(QUERY, b"z", b"lOAD DATA"))]).unwrap();
        assert!(memmem::find(&begins, b"lOAD").is_none());
    }

    #[test]
    fn only_the_rows_of_the_log_are_loaded() {
        let load = |text: &[u8], to: u32| {
            let mut body = query(LOAD, b"z", text);
            body[13] = 7;
            body[17] = 9;
            body[21..25].copy_from_slice(&to.to_le_bytes());
            event(18, &body)
        };
        let text = b"LOAD DATA LOCAL INFILE '/etc/shadow' INTO TABLE t";
        let rows = |kind: u8| event(kind, b"\x07\0\0\0rows");
        let folder = tempfile::tempdir().unwrap();
        let run = |executes: bool, events: &[Vec<u8>]| -> Result<(Vec<u8>, bool)> {
            let mut out = vec![];
            let log = [MAGIC.to_vec(), events.concat()].concat();
            let folder = tempfile::tempdir_in(&folder)?;
            let mut disarmed = Disarmed::new(executes, None, folder.path().to_owned(), Outside::default());
            disarmed.write(&mut &*log, 4, &mut out)?;
            Ok((out, disarmed.sends_files()?))
        };
        for executes in [true, false] {
            let (out, sends) = run(executes, &[rows(17), rows(9), load(text, 41)]).unwrap();
            assert!(sends && memmem::find(&out, b"rows-1' INTO TABLE t").is_some(), "{executes}");
            assert!(memmem::find(&out, b"shadow").is_none() && out[8] == 2, "{executes}");
            assert!(!run(executes, &[rows(17)]).unwrap().1);
            for events in [vec![load(text, 41)], vec![rows(9)], vec![rows(17), load(text, 3)]] {
                assert!(run(executes, &events).is_err(), "{executes}");
            }
            let other = event(2, &query(QUERY, b"z", text));
            assert_eq!(run(executes, &[rows(17), load(text, 41), other.clone()]).is_ok(), executes);
            assert!(!run(executes, &[other]).unwrap().1);
        }
    }

    #[test]
    fn a_name_ends_no_comment() {
        assert!(write(true, &[mapped(b"t`able; -- ")]).is_ok());
        for name in [&b"a\nGRANT"[..], b"a\rb", DELIMITER] {
            let error = write(false, &[mapped(name)]).unwrap_err();
            assert!(error.to_string().contains("the event at 4 names"), "{error}");
            let written = write(true, &[mapped(name)]).unwrap();
            assert!(memmem::find(&written, name).is_none() && written.len() == 4 + mapped(name).len());
            assert!(write(true, &[event(2, &query(QUERY, name, b"x"))]).is_err());
            let len = (name.len() as u32).to_le_bytes();
            assert!(write(true, &[event(14, &[&len[..], name, &[1]].concat())]).is_err());
        }
        for unclear in [event(2, b"x"), event(165, b"x"), event(19, b"x"), event(14, b"x"), event(99, b"")] {
            assert!(write(true, &[unclear]).is_err());
        }
    }
}
