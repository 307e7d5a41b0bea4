//! The format of a stream, detected by its first bytes, and whether it is complete, detected by its last: a truncated
//! dump must not become a snapshot.
//!
//! A stream that begins like a format and turns out to be something else (a text that starts with a brace) is accepted:
//! nothing is proved about it, and the snapshot says so. With `--expect` it is refused.

use engine::connector::Format;
use engine::source::end_mark::{EndMark, Flaws, NoEndMark};
use std::cell::RefCell;
use std::rc::Rc;

mod json;
mod packed;
pub mod tar;

use json::JsonEndMark;
use packed::{GzipEndMark, XzEndMark, ZstdEndMark};
use tar::TarEndMark;

/// gzip (RFC 1952), any number of members.
pub static GZIP: Format = Format {
    name: "gzip",
    rank: 0,
    detect: |head| head.starts_with(&[0x1f, 0x8b, 8]),
    end_mark: |_| Box::new(GzipEndMark::default()),
    decoder: Some(|raw| Ok(Box::new(flate2::bufread::MultiGzDecoder::new(raw)))),
};

/// Zstandard (RFC 8878), any number of frames.
pub static ZSTD: Format = Format {
    name: "zstd",
    rank: 0,
    detect: |head| head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
    end_mark: |_| Box::new(ZstdEndMark::default()),
    decoder: Some(|raw| Ok(Box::new(zstd::stream::read::Decoder::with_buffer(raw)?))),
};

/// xz (tukaani.org/xz/xz-file-format.txt).
pub static XZ: Format = Format {
    name: "xz",
    rank: 0,
    detect: |head| head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]),
    end_mark: |_| Box::new(XzEndMark::default()),
    decoder: Some(|raw| Ok(Box::new(lzma_rust2::XzReader::new(raw, true)))),
};

/// tar: ustar, pax and GNU (POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format").
pub static TAR: Format = Format {
    name: "tar",
    rank: 1,
    detect: tar::is_header,
    end_mark: |_| Box::new(TarEndMark::default()),
    decoder: None,
};

/// One JSON value (RFC 8259). JSON and JSON lines begin alike: a stream is taken for the former until a second value comes.
pub static JSON: Format = Format {
    name: "json",
    rank: 3,
    detect: |head| matches!(head.trim_ascii_start().first(), Some(b'{' | b'[')),
    // Only what comes will tell one value from one a line.
    end_mark: |insists| Box::new(JsonEndMark::new(!insists)),
    decoder: None,
};

/// One JSON value a line.
pub static JSON_LINES: Format = Format {
    name: "jsonl",
    rank: 3,
    detect: |_| false,
    end_mark: |_| Box::new(JsonEndMark::new(true)),
    decoder: None,
};

/// Those that belong to no system.
pub static GENERAL: &[&Format] = &[&GZIP, &ZSTD, &XZ, &TAR, &JSON, &JSON_LINES];

/// The format that a stream's first bytes look like; `head` is all of it or at least [`HEAD`] bytes.
#[must_use]
pub fn detect(formats: &[&'static Format], head: &[u8]) -> Option<&'static Format> {
    let fitting = formats.iter().filter(|format| (format.detect)(head));
    fitting.min_by_key(|format| format.rank).copied()
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
    Format(&'static Format),
    /// Nothing: a stream is whole when it ends.
    Nothing,
}

/// What was found out about a stream, once it was read.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Kind.
    pub format: Option<&'static Format>,
    /// Whether its end was proved to be there.
    pub whole: bool,
    /// What it was compressed by, if it is stored decompressed.
    pub decompressed: Option<&'static Format>,
    /// What is wrong in it, until it is told.
    pub flaws: Option<Rc<dyn Flaws>>,
    /// What else is known, for the snapshot's record.
    pub details: Vec<(&'static str, String)>,
}

/// The end mark of whatever a stream turns out to be.
pub struct AnyEndMark {
    formats: &'static [&'static Format],
    expect: Expect,
    head: Vec<u8>,
    mark: Option<Box<dyn EndMark>>,
    findings: Rc<RefCell<Findings>>,
}

impl AnyEndMark {
    /// One that knows these formats, insists on `expect`, and tells what it finds.
    #[must_use]
    pub fn new(formats: &'static [&'static Format], expect: Expect, findings: Rc<RefCell<Findings>>) -> Self {
        Self { formats, expect, head: vec![], mark: None, findings }
    }

    fn decide(&mut self) {
        let format = match self.expect {
            Expect::Nothing => None,
            Expect::Format(format) => Some(format),
            Expect::Recognised => detect(self.formats, &self.head),
        };
        self.findings.borrow_mut().format = format;
        let mut mark: Box<dyn EndMark> = match format {
            None => Box::new(NoEndMark),
            Some(format) => (format.end_mark)(self.expect != Expect::Recognised),
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
            format!("not a whole {} stream: {why}{hint}", format.name)
        })?;
        findings.whole = true;
        findings.flaws = mark.flaws();
        Ok(())
    }
}
