//! Any reader as content: stdin, and the base of dumps. Refuses nothing at all, unless allowed.

use super::decompress::Proved;
use super::format::{Expect, Findings};
use super::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind};
use crate::Monitor;
use crate::entry::Time;
use crate::rdb::check::Flaws;
use crate::snapshot::SourceRecord;
use rustix::event::{PollFd, PollFlags};
use std::cell::RefCell;
use std::io::Read;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Looks at a stream's bytes as they pass and knows at the end whether it was whole.
pub trait EndMark {
    /// The next bytes.
    fn see(&mut self, bytes: &[u8]);
    /// `Err` says what is missing.
    fn finish(&mut self) -> Result<(), String>;
    /// What is wrong in what passed, although it is whole; empty after the first call.
    fn flaws(&mut self) -> Flaws {
        Flaws::default()
    }
    /// Whether these bytes cannot be of this format, whatever they began like.
    fn is_something_else(&self) -> bool {
        false
    }
}

impl<M: EndMark + ?Sized> EndMark for Box<M> {
    fn see(&mut self, bytes: &[u8]) {
        (**self).see(bytes);
    }
    fn finish(&mut self) -> Result<(), String> {
        (**self).finish()
    }
    fn flaws(&mut self) -> Flaws {
        (**self).flaws()
    }
    fn is_something_else(&self) -> bool {
        (**self).is_something_else()
    }
}

/// No end mark: a stream is whole when it ends.
pub struct NoEndMark;

impl EndMark for NoEndMark {
    fn see(&mut self, _: &[u8]) {}
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// A reader with an end mark.
pub struct StreamContent<R, M> {
    /// The reader.
    pub reader: R,
    /// The end mark.
    pub mark: M,
    /// Name in errors.
    pub name: String,
    /// Whether no bytes at all are fine.
    pub allow_empty: bool,
    /// Bytes read so far.
    pub seen: u64,
}

/// How long a silent pipe may keep us from looking at anything else.
const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Whether a read would return at once. What cannot be polled, such as a file, always does.
fn is_ready(fd: impl AsFd) -> bool {
    let mut set = [PollFd::new(&fd, PollFlags::IN)];
    // A signal is a reason to look up, too.
    !matches!(rustix::event::poll(&mut set, Some(&PATIENCE)), Ok(0) | Err(rustix::io::Errno::INTR))
}

impl<R: Read + AsFd, M: EndMark> Content for StreamContent<R, M> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let fail = |kind, why: &dyn std::fmt::Display| Err(SourceError::new(kind, &self.name, why));
        if self.seen == 0 {
            // A megabyte instead of 64 KiB in the pipe: a sixteenth of the switches between the
            // writer and us. What is not a pipe, or may not grow, stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(&self.reader, 1 << 20);
        }
        if !is_ready(&self.reader) {
            return Ok(Piece::Wait);
        }
        loop {
            return match self.reader.read(buffer) {
                Ok(0) if self.seen == 0 && !self.allow_empty => {
                    fail(SourceErrorKind::Empty, &"no data at all; if that is right, use --allow-empty")
                }
                Ok(0) => match self.mark.finish() {
                    Ok(()) => Ok(Piece::End),
                    Err(why) => fail(SourceErrorKind::Incomplete, &why),
                },
                Ok(len) => {
                    self.mark.see(&buffer[..len]);
                    self.seen += len as u64;
                    Ok(Piece::Data(len))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => fail(SourceErrorKind::Unavailable, &error),
            };
        }
    }
}

/// What is at hand and has no end to prove: bytes in memory, or put aside.
pub struct AtHand<R> {
    /// The bytes.
    pub reader: R,
    /// Name in errors.
    pub name: String,
}

impl AtHand<std::io::Cursor<Vec<u8>>> {
    /// A stream of these bytes.
    #[must_use]
    pub fn item(path: &str, time: Time, bytes: Vec<u8>) -> Item {
        Self::opened(path, time, std::io::Cursor::new(bytes))
    }
}

impl<R: Read + 'static> AtHand<R> {
    /// A stream of what a reader gives.
    #[must_use]
    pub fn opened(path: &str, time: Time, reader: R) -> Item {
        let name = path.to_owned();
        let open: Opener = Box::new(move || Ok(Box::new(Self { reader, name }) as Box<dyn Content>));
        Item::stream(path, time, open)
    }
}

impl<R: Read> Content for AtHand<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        match self.reader.read(buffer) {
            Ok(0) => Ok(Piece::End),
            Ok(len) => Ok(Piece::Data(len)),
            Err(error) => Err(SourceError::new(SourceErrorKind::Unavailable, &self.name, error)),
        }
    }
}

/// How a stream of unknown content is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions {
    /// Whether nothing at all is fine.
    pub allow_empty: bool,
    /// What it must be.
    pub expect: Expect,
    /// Whether to store what is compressed decompressed.
    pub decompress: bool,
}

/// One stream under one name.
pub struct StreamSource {
    record: SourceRecord,
    items: Vec<Item>,
    path: String,
    findings: Rc<RefCell<Findings>>,
}

impl StreamSource {
    /// `path` may have folders, which become entries.
    pub fn new(record: SourceRecord, path: &str, time: Time, open: Opener) -> Result<Self, SourceError> {
        let path = path.trim_matches('/');
        if !crate::entry::is_valid_path(path.as_bytes()) {
            let why = "not a usable name for a stream: a path of names that are not empty, '.' or '..'";
            return Err(SourceError::new(SourceErrorKind::Missing, format!("'{path}'"), why));
        }
        let mut items: Vec<Item> =
            path.match_indices('/').map(|(end, _)| Item::folder(&path[..end], time)).collect();
        items.push(Item::stream(path, time, open));
        items.reverse();
        Ok(Self { record, items, path: format!("/{path}"), findings: Rc::default() })
    }

    /// What a reader in this process gives.
    pub fn reader(
        reader: impl Read + AsFd + Send + 'static,
        path: &str,
        time: Time,
        options: StreamOptions,
    ) -> Result<Self, SourceError> {
        let record = SourceRecord::new("stdin", path.to_owned(), true);
        let findings = Rc::<RefCell<Findings>>::default();
        let told = Rc::clone(&findings);
        let open: Opener = Box::new(move || {
            let name = "stdin".to_owned();
            let allow_empty = options.allow_empty;
            let content = StreamContent { reader, mark: NoEndMark, name: name.clone(), allow_empty, seen: 0 };
            Ok(Proved::open(Box::new(content), name, options, told))
        });
        Ok(Self::new(record, path, time, open)?.with_findings(findings))
    }

    /// One whose record tells what was found out about its content.
    #[must_use]
    pub fn with_findings(self, findings: Rc<RefCell<Findings>>) -> Self {
        Self { findings, ..self }
    }
}

impl Source for StreamSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = self.record.clone();
        let findings = self.findings.borrow();
        if let Some(format) = findings.format {
            record.details.insert("format".into(), format.name().into());
            record.details.insert("end".into(), if findings.whole { "proved" } else { "unknown" }.into());
        }
        let details = findings.details.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        record.details.extend(details);
        if let Some(packed) = findings.decompressed {
            record.details.insert("decompressed".into(), packed.name().into());
        }
        vec![record]
    }
    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if self.items.is_empty() {
            let mut findings = self.findings.borrow_mut();
            let flaws = std::mem::take(&mut findings.flaws);
            findings.details.extend(flaws.details());
            flaws.tell(self.path.trim_start_matches('/'), monitor);
        }
        Ok(self.items.pop())
    }
}
