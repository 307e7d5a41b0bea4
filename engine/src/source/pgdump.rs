//! The end marks of pg_dump's formats. Plain: a closing comment. Custom: every entry of the table of
//! contents that has data is followed by a terminated block of it.
//! Source: PostgreSQL's `pg_backup_archiver.c` (header and table of contents: `ReadHead`, `ReadToc`)
//! and `pg_backup_custom.c` (`BLK_DATA`, `BLK_BLOBS`), archive versions 1.12 to 1.16.

use super::stream::EndMark;
use std::collections::BTreeSet;

/// The end of a plain dump of one database or of a cluster's globals.
#[derive(Default)]
pub struct PlainEndMark {
    tail: Vec<u8>,
}

/// The closing comment and `\unrestrict` with its key fit well into this.
const TAIL: usize = 1024;

impl EndMark for PlainEndMark {
    fn see(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(TAIL);
        self.tail.extend_from_slice(&bytes[from..]);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    fn finish(&mut self) -> Result<(), String> {
        let missing = || Err("the dump's closing comment is missing: it is not whole".to_owned());
        // The tail may begin inside a character.
        let text = String::from_utf8_lossy(&self.tail);
        let mut lines = text.lines().rev().filter(|line| !line.trim().is_empty() && *line != "--").peekable();
        lines.next_if(|line| line.starts_with("\\unrestrict "));
        match lines.next() {
            Some("-- PostgreSQL database dump complete" | "-- PostgreSQL database cluster dump complete") => {
                if self.tail.last() == Some(&b'\n') {
                    Ok(())
                } else {
                    missing()
                }
            }
            _ => missing(),
        }
    }
}

/// The end of a dump in custom format.
#[derive(Default)]
pub struct CustomEndMark {
    /// Bytes not consumed yet.
    buffer: Vec<u8>,
    state: State,
    /// When to try the table of contents again.
    retry_at: usize,
    expected: BTreeSet<i64>,
    int_len: usize,
    error: Option<String>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Toc,
    /// Before a block, or at the end.
    Block,
    /// Inside a block: before the length of the next piece. `blobs`: pieces belong to a large object.
    Length { id: i64, blobs: bool },
    /// Inside a piece.
    Skip { left: usize, id: i64, blobs: bool },
    /// Before the number of the next large object.
    Blob { id: i64 },
}

/// Largest table of contents that is held while it comes in.
const MAX_TOC: usize = 512 << 20;
const BLK_DATA: u8 = 1;
const BLK_BLOBS: u8 = 3;
const OFFSET_NO_DATA: u8 = 3;

/// Why a step could not be made.
enum Stop {
    /// More bytes are needed.
    More,
    /// They make no sense.
    Bad(&'static str),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    int_len: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Bad("length overflows"))?;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(bytes)
    }
    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }
    /// Sign byte, then the magnitude, least significant byte first.
    fn int(&mut self) -> Result<i64, Stop> {
        let negative = self.byte()? != 0;
        let bytes = self.take(self.int_len)?;
        let value = bytes
            .iter()
            .rev()
            .try_fold(0i64, |value, byte| value.checked_mul(256)?.checked_add(i64::from(*byte)));
        let value = value.ok_or(Stop::Bad("number too large"))?;
        Ok(if negative { -value } else { value })
    }
    /// `None` is SQL's NULL.
    fn string(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        match usize::try_from(self.int()?) {
            Ok(len) => self.take(len).map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl CustomEndMark {
    fn read_toc(&self) -> Result<(usize, usize, BTreeSet<i64>), Stop> {
        let mut cursor = Cursor { bytes: &self.buffer, at: 0, int_len: 4 };
        if cursor.take(5)? != b"PGDMP" {
            return Err(Stop::Bad("does not begin as a custom dump does"));
        }
        let version = (cursor.byte()?, cursor.byte()?);
        cursor.byte()?;
        cursor.int_len = usize::from(cursor.byte()?);
        let offset_len = usize::from(cursor.byte()?);
        let format = cursor.byte()?;
        if !((1, 12)..=(1, 16)).contains(&version) || format != 1 || cursor.int_len > 8 || offset_len > 8 {
            return Err(Stop::Bad("unknown version of the custom format"));
        }
        if version >= (1, 15) {
            cursor.byte()?;
        } else {
            cursor.int()?;
        }
        for _ in 0..7 {
            cursor.int()?; // time of creation
        }
        for _ in 0..3 {
            cursor.string()?; // database, server version, dump version
        }
        let mut expected = BTreeSet::new();
        for _ in 0..cursor.int()? {
            let id = cursor.int()?;
            cursor.int()?; // had a dumper
            for _ in 0..4 {
                cursor.string()?; // table oid, oid, tag, description
            }
            cursor.int()?; // section
            for _ in 0..3 {
                cursor.string()?; // definition, drop, copy
            }
            cursor.string()?; // namespace
            cursor.string()?; // tablespace
            if version >= (1, 14) {
                cursor.string()?; // table access method
            }
            if version >= (1, 16) {
                cursor.int()?; // kind of relation
            }
            cursor.string()?; // owner
            cursor.string()?; // with oids
            while cursor.string()?.is_some() {} // dependencies
            let flag = cursor.byte()?;
            cursor.take(offset_len)?;
            if flag != OFFSET_NO_DATA {
                expected.insert(id);
            }
        }
        Ok((cursor.at, cursor.int_len, expected))
    }

    /// One step; returns how many bytes it used.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut cursor = Cursor { bytes, at: 0, int_len: self.int_len };
        self.state = match self.state {
            State::Toc => return Err(Stop::More),
            State::Block => {
                let kind = cursor.byte()?;
                let id = cursor.int()?;
                match kind {
                    BLK_DATA => State::Length { id, blobs: false },
                    BLK_BLOBS => State::Blob { id },
                    _ => return Err(Stop::Bad("unknown kind of data block")),
                }
            }
            State::Blob { id } => match cursor.int()? {
                0 => {
                    self.expected.remove(&id);
                    State::Block
                }
                _ => State::Length { id, blobs: true },
            },
            State::Length { id, blobs } => match usize::try_from(cursor.int()?) {
                Ok(0) if blobs => State::Blob { id },
                Ok(0) => {
                    self.expected.remove(&id);
                    State::Block
                }
                Ok(left) => State::Skip { left, id, blobs },
                Err(_) => return Err(Stop::Bad("negative length")),
            },
            State::Skip { left, id, blobs } => {
                let len = left.min(bytes.len());
                if len == 0 {
                    return Err(Stop::More);
                }
                cursor.at = len;
                if len == left {
                    State::Length { id, blobs }
                } else {
                    State::Skip { left: left - len, id, blobs }
                }
            }
        };
        Ok(cursor.at)
    }
}

impl EndMark for CustomEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if self.state == State::Toc {
            if self.buffer.len() < self.retry_at {
                return;
            }
            match self.read_toc() {
                Ok((used, int_len, expected)) => {
                    self.buffer.drain(..used);
                    (self.int_len, self.expected, self.state) = (int_len, expected, State::Block);
                }
                // Twice as much before the next try keeps the whole linear.
                Err(Stop::More) if self.buffer.len() < MAX_TOC => {
                    self.retry_at = 2 * self.buffer.len();
                    return;
                }
                Err(Stop::More) => return self.error = Some("table of contents over 512 MiB".into()),
                Err(Stop::Bad(why)) => return self.error = Some(why.into()),
            }
        }
        let buffer = std::mem::take(&mut self.buffer);
        let mut used = 0;
        loop {
            match self.step(&buffer[used..]) {
                Ok(len) => used += len,
                Err(Stop::More) => break,
                Err(Stop::Bad(why)) => return self.error = Some(why.into()),
            }
        }
        self.buffer = buffer[used..].to_vec();
    }

    fn finish(&mut self) -> Result<(), String> {
        // The last try at the table of contents may have been put off.
        self.retry_at = 0;
        self.see(&[]);
        if let Some(error) = &self.error {
            return Err(format!("not a whole custom dump: {error}"));
        }
        if self.state != State::Block || !self.buffer.is_empty() {
            return Err("the dump ends inside a data block: it is not whole".into());
        }
        match self.expected.len() {
            0 => Ok(()),
            missing => Err(format!("the dump lacks the data of {missing} entries of its table of contents")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Result<(), String> {
        let mut mark = PlainEndMark::default();
        text.as_bytes().chunks(7).for_each(|part| mark.see(part));
        mark.finish()
    }

    #[test]
    fn plain_dumps_need_their_closing_comment() {
        let body = "x\n".repeat(2000);
        let end = "--\n-- PostgreSQL database dump complete\n--\n\n";
        assert!(plain(&format!("{body}{end}")).is_ok());
        assert!(plain(&format!("{body}{end}\\unrestrict abcDEF123\n\n")).is_ok());
        assert!(plain(&format!("{body}--\n-- PostgreSQL database cluster dump complete\n--\n\n")).is_ok());
        assert!(plain(&body).is_err());
        assert!(plain(&format!("{body}{end}SELECT 1;\n")).is_err());
        assert!(plain(&format!("{body}--\n-- PostgreSQL database dump comp")).is_err());
    }

    /// A custom dump with one table of 10 bytes and one large object.
    fn custom() -> Vec<u8> {
        fn int(out: &mut Vec<u8>, value: i32) {
            out.push(u8::from(value < 0));
            out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
        }
        fn string(out: &mut Vec<u8>, text: &str) {
            int(out, text.len() as i32);
            out.extend_from_slice(text.as_bytes());
        }
        let mut out = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
        int(&mut out, 0);
        (0..7).for_each(|_| int(&mut out, 1));
        ["db", "15", "15"].iter().for_each(|text| string(&mut out, text));
        int(&mut out, 3);
        for (id, flag) in [(1, OFFSET_NO_DATA), (2, 1), (3, 1)] {
            int(&mut out, id);
            int(&mut out, 1);
            (0..4).for_each(|_| string(&mut out, "x"));
            int(&mut out, 3);
            (0..8).for_each(|_| string(&mut out, "y"));
            string(&mut out, "1");
            int(&mut out, -1);
            out.push(flag);
            out.extend_from_slice(&[0; 8]);
        }
        out.push(BLK_DATA);
        int(&mut out, 2);
        int(&mut out, 10);
        out.extend_from_slice(b"0123456789");
        int(&mut out, 0);
        out.push(BLK_BLOBS);
        int(&mut out, 3);
        int(&mut out, 16_384);
        int(&mut out, 4);
        out.extend_from_slice(b"blob");
        int(&mut out, 0);
        int(&mut out, 0);
        out
    }

    #[test]
    fn custom_dumps_need_every_block_terminated() {
        let dump = custom();
        for split in [1, 3, 64, dump.len()] {
            let mut mark = CustomEndMark::default();
            dump.chunks(split).for_each(|part| mark.see(part));
            mark.finish().unwrap();
        }
        for len in 0..dump.len() {
            let mut mark = CustomEndMark::default();
            mark.see(&dump[..len]);
            assert!(mark.finish().is_err(), "cut at {len}");
        }
    }
}
