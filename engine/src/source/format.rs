//! What a stream is, seen by its first bytes, and whether all of it is there, seen by its last: a dump that was
//! cut off must not become a snapshot.
//!
//! A stream that begins like a format and then is something else (a text that starts with a brace) is let
//! pass: nothing is proved about it, and the snapshot says so. What was insisted on (`--expect`) is not.

use super::pgdump::{CustomEndMark, PlainEndMark};
use super::stream::EndMark;
use crate::rdb::end_mark::RdbEndMark;
use std::cell::RefCell;
use std::rc::Rc;

mod json;
mod packed;
pub(super) mod tar;

use crate::resp::Resp;
use json::JsonEndMark;
use packed::{GzipEndMark, XzEndMark, ZstdEndMark};
use tar::TarEndMark;

/// A format with an end of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
    /// xz (tukaani.org/xz/xz-file-format.txt).
    Xz,
    /// tar: ustar, pax and GNU (POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format").
    Tar,
    /// One JSON value (RFC 8259).
    Json,
    /// One JSON value a line.
    JsonLines,
    /// SQL of pg_dump or pg_dumpall.
    PostgresSql,
    /// SQL of mariadb-dump or mysqldump.
    MysqlSql,
    /// pg_dump's custom format.
    PostgresCustom,
    /// A Redis dump.
    Rdb,
    /// A Redis append-only file without a dump at its head.
    Aof,
}

/// All of them.
pub const FORMATS: [Format; 11] = [
    Format::Gzip,
    Format::Zstd,
    Format::Xz,
    Format::Tar,
    Format::Json,
    Format::JsonLines,
    Format::PostgresSql,
    Format::MysqlSql,
    Format::PostgresCustom,
    Format::Rdb,
    Format::Aof,
];

impl Format {
    /// Its name on the command line and in snapshots.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Tar => "tar",
            Self::Json => "json",
            Self::JsonLines => "jsonl",
            Self::PostgresSql => "pg-sql",
            Self::MysqlSql => "mysql-sql",
            Self::PostgresCustom => "pg-custom",
            Self::Rdb => "rdb",
            Self::Aof => "aof",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        FORMATS.into_iter().find(|format| format.name() == name)
    }

    /// Whether it is compressed, so that a small change alters all that follows.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        matches!(self, Self::Gzip | Self::Zstd | Self::Xz)
    }

    /// What the first bytes of a stream look like; `head` is all of it or at least [`HEAD`] bytes. JSON and JSON
    /// lines begin alike: a stream is taken for the former until a second value comes.
    #[must_use]
    pub fn detect(head: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| head.starts_with(magic);
        let text = || String::from_utf8_lossy(&head[..head.len().min(HEAD)]).into_owned();
        if starts(&[0x1f, 0x8b, 8]) {
            Some(Self::Gzip)
        } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else if tar::is_header(head) {
            Some(Self::Tar)
        } else if starts(b"PGDMP") {
            Some(Self::PostgresCustom)
        } else if crate::rdb::Version::parse(head.get(..crate::rdb::MAGIC_LEN).unwrap_or_default()).is_some()
        {
            Some(Self::Rdb)
        } else if starts(b"*") && Resp::default().feed(head, &mut |_, _| {}).is_ok() && head.contains(&b'$') {
            Some(Self::Aof)
        } else if text().contains("-- PostgreSQL database dump\n")
            || text().contains("-- PostgreSQL database cluster dump\n")
        {
            Some(Self::PostgresSql)
        } else if ["-- MariaDB dump ", "-- MySQL dump "].iter().any(|line| text().contains(line)) {
            Some(Self::MysqlSql)
        } else if matches!(head.trim_ascii_start().first(), Some(b'{' | b'[')) {
            Some(Self::Json)
        } else {
            None
        }
    }

    pub(crate) fn end_mark(self) -> Box<dyn EndMark> {
        match self {
            Self::Gzip => Box::new(GzipEndMark::default()),
            Self::Zstd => Box::new(ZstdEndMark::default()),
            Self::Xz => Box::new(XzEndMark::default()),
            Self::Tar => Box::new(TarEndMark::default()),
            Self::Json => Box::new(JsonEndMark::new(false)),
            Self::JsonLines => Box::new(JsonEndMark::new(true)),
            Self::PostgresSql => Box::new(PlainEndMark::default()),
            Self::MysqlSql => Box::new(MysqlEndMark::default()),
            Self::PostgresCustom => Box::new(CustomEndMark::default()),
            Self::Rdb => Box::new(RdbEndMark::default()),
            Self::Aof => Box::new(AofEndMark::default()),
        }
    }
}

/// Bytes that are looked at to tell what a stream is: a header of tar is as long.
pub const HEAD: usize = 512;

/// What to insist on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is recognised must be whole.
    #[default]
    Recognised,
    /// This, and whole.
    Format(Format),
    /// Nothing: a stream is whole when it ends.
    Nothing,
}

/// What was found out about a stream, once it was read.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What it is.
    pub format: Option<Format>,
    /// Whether its end was proved to be there.
    pub whole: bool,
    /// What it was compressed by, if it is stored decompressed.
    pub decompressed: Option<Format>,
}

/// The end mark of whatever a stream turns out to be.
pub struct AnyEndMark {
    expect: Expect,
    head: Vec<u8>,
    mark: Option<Box<dyn EndMark>>,
    findings: Rc<RefCell<Findings>>,
}

impl AnyEndMark {
    /// One that insists on `expect`, and tells what it finds.
    #[must_use]
    pub fn new(expect: Expect, findings: Rc<RefCell<Findings>>) -> Self {
        Self { expect, head: vec![], mark: None, findings }
    }

    fn decide(&mut self) {
        let format = match self.expect {
            Expect::Nothing => None,
            Expect::Format(format) => Some(format),
            Expect::Recognised => Format::detect(&self.head),
        };
        self.findings.borrow_mut().format = format;
        let mut mark: Box<dyn EndMark> = match format {
            None => Box::new(super::stream::NoEndMark),
            // Only what comes will tell one value from one a line.
            Some(Format::Json) if self.expect == Expect::Recognised => Box::new(JsonEndMark::new(true)),
            Some(format) => format.end_mark(),
        };
        mark.see(&std::mem::take(&mut self.head));
        self.mark = Some(mark);
    }
}

impl EndMark for AnyEndMark {
    fn see(&mut self, bytes: &[u8]) {
        match &mut self.mark {
            Some(mark) => mark.see(bytes),
            None => {
                self.head.extend_from_slice(bytes);
                if self.head.len() >= HEAD {
                    self.decide();
                }
            }
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.mark.is_none() {
            self.decide();
        }
        let Some(mark) = &mut self.mark else { return Ok(()) };
        let mut findings = self.findings.borrow_mut();
        let Some(format) = findings.format else { return Ok(()) };
        let insists = matches!(self.expect, Expect::Format(_));
        if !insists && mark.is_something_else() {
            findings.format = None;
            return Ok(());
        }
        mark.finish().map_err(|why| {
            let hint = if insists { "" } else { " (--expect none stores it all the same)" };
            format!("not a whole {} stream: {why}{hint}", format.name())
        })?;
        findings.whole = true;
        Ok(())
    }
}

/// The closing comment of mariadb-dump and mysqldump. Without comments (`--compact`, `--skip-comments`) a dump has
/// none, and is not recognised either.
#[derive(Default)]
struct MysqlEndMark {
    tail: Vec<u8>,
}

const MYSQL_TAIL: usize = 256;

impl EndMark for MysqlEndMark {
    fn see(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(MYSQL_TAIL);
        self.tail.extend_from_slice(&bytes[from..]);
        let surplus = self.tail.len().saturating_sub(MYSQL_TAIL);
        self.tail.drain(..surplus);
    }

    fn finish(&mut self) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.tail);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let closed = last == "-- Dump completed" || last.starts_with("-- Dump completed on ");
        if closed && text.ends_with('\n') { Ok(()) } else { Err("its closing comment is missing".into()) }
    }
}

/// Commands up to the last byte, and no transaction open.
#[derive(Default)]
struct AofEndMark {
    resp: Resp,
    error: Option<String>,
}

impl EndMark for AofEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.resp.feed(bytes, &mut |_, _| {}).err();
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.resp.is_whole() => Ok(()),
            None if self.resp.in_transaction() => Err("it ends within a transaction".into()),
            None => Err("it ends within a command".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn check(bytes: &[u8], expect: Expect, part: usize) -> (Result<(), String>, Findings) {
        let findings = Rc::<RefCell<Findings>>::default();
        let mut mark = AnyEndMark::new(expect, Rc::clone(&findings));
        bytes.chunks(part).for_each(|part| mark.see(part));
        let done = mark.finish();
        (done, findings.borrow().clone())
    }

    /// Small streams of every format, and how many bytes may be missing from the end without harm.
    fn samples() -> Vec<(Format, Vec<u8>, usize)> {
        let text: Vec<u8> = (0..3000).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut rdb = b"REDIS0011\xfe\x00\x00\x01a\x01b\xff".to_vec();
        let mut digest = crate::rdb::crc64();
        digest.update(&rdb);
        rdb.extend_from_slice(&digest.finalize().to_le_bytes());
        let sql = |head: &str, end: &str| [head.as_bytes(), &text, end.as_bytes()].concat();
        let aof: Vec<u8> = (0..100).flat_map(|_| crate::resp::encode(&[b"SET", b"key", b"value"])).collect();
        let json = format!("{{\"list\": [{}1], \"text\": \"}}\\\"]\"}}\n", "1, ".repeat(300));
        vec![
            (Format::Gzip, gzip.finish().unwrap(), 0),
            (Format::Zstd, zstd::encode_all(text.as_slice(), 1).unwrap(), 0),
            (Format::Xz, packed::tests::XZ.to_vec(), 0),
            (Format::Tar, tar::tests::sample(&text), 0),
            (Format::Json, json.into_bytes(), 1),
            (
                Format::PostgresSql,
                sql(
                    "--\n-- PostgreSQL database dump\n--\n\nCOPY public.t (a) FROM stdin;\n",
                    "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n",
                ),
                1,
            ),
            (
                Format::MysqlSql,
                sql("-- MariaDB dump 10.19\n--\n", "-- Dump completed on 2026-11-21  1:02:03\n"),
                0,
            ),
            (Format::Rdb, rdb, 0),
            (Format::Aof, aof, 0),
        ]
    }

    #[test]
    fn whole_samples_pass_and_cut_ones_do_not() {
        for (format, bytes, spare) in samples() {
            for part in [1, 7, 511, bytes.len()] {
                let (done, findings) = check(&bytes, Expect::Recognised, part);
                assert_eq!((done, findings.format, findings.whole), (Ok(()), Some(format), true));
            }
            let command = if format == Format::Aof { 31 } else { usize::MAX };
            for len in (1..bytes.len() - spare).step_by(1 + bytes.len() / 300) {
                if len % command == 0 {
                    continue;
                }
                let (done, findings) = check(&bytes[..len], Expect::Format(format), 97);
                assert!(
                    done.is_err() && !findings.whole,
                    "{}: cut at {len} of {}",
                    format.name(),
                    bytes.len()
                );
                if len > HEAD {
                    let (done, _) = check(&bytes[..len], Expect::Recognised, 97);
                    assert!(done.unwrap_err().contains("--expect none"), "{}: {len}", format.name());
                    assert!(check(&bytes[..len], Expect::Nothing, 97).0.is_ok());
                }
            }
        }
    }

    #[test]
    fn lines_of_json_and_what_only_looks_like_it() {
        let lines = b"{\"a\": 1}\n{\"a\": [2]}\n".repeat(50);
        let (done, findings) = check(&lines, Expect::Recognised, 13);
        assert_eq!((done, findings.format, findings.whole), (Ok(()), Some(Format::Json), true));
        assert!(check(&lines[..lines.len() - 4], Expect::Recognised, 13).0.is_err());
        assert!(check(&lines, Expect::Format(Format::JsonLines), 13).0.is_ok());
        assert!(check(&lines, Expect::Format(Format::Json), 13).0.is_err(), "more than one value");
        for other in [&b"{% template %} with an open { brace"[..], b"[section]\nkey = {", b"plain text"] {
            let (done, findings) = check(other, Expect::Recognised, 5);
            assert!(done.is_ok() && findings.format.is_none() && !findings.whole, "{other:?}");
            assert!(check(other, Expect::Format(Format::Json), 5).0.is_err());
        }
    }

    #[test]
    fn several_members_and_frames() {
        let gzip = |text: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        };
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert!(check(&two, Expect::Recognised, 3).0.is_ok());
        let frame = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        let skippable = b"\x52\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let two = [frame(b"one"), skippable, frame(b"two")].concat();
        assert!(check(&two, Expect::Recognised, 3).0.is_ok());
        assert!(check(&two[..two.len() - 1], Expect::Format(Format::Zstd), 3).0.is_err());
        let mut flipped = gzip(b"a longer text, of which one bit is changed");
        let middle = flipped.len() - 6;
        flipped[middle] ^= 1;
        assert!(check(&flipped, Expect::Format(Format::Gzip), 100).0.is_err(), "its checksum");
    }
}
