//! Any reader as content: standard input, and the basis of dumps. An empty stream is refused, unless it is allowed.

use super::decompress::Proved;
use super::format::Findings;
pub use super::options::StreamOptions;
use super::other_end::OtherEnd;
use engine::Monitor;
use engine::entry::Time;
use engine::group::FROM;
use engine::snapshot::SourceRecord;
use engine::source::end_mark::{EndMark, NoEndMark};
use engine::source::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind};
use rustix::event::{PollFd, PollFlags};
use std::cell::RefCell;
use std::io::Read;
use std::os::fd::AsFd;
use std::rc::Rc;

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
    /// Who writes it, if that is of interest.
    pub other_end: Option<OtherEnd>,
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
        if !is_ready(&self.reader) {
            return Ok(Piece::Wait);
        }
        if self.seen == 0 {
            self.other_end.iter_mut().for_each(|end| end.look(self.reader.as_fd()));
            // A megabyte instead of 64 KiB in the pipe: a sixteenth of the switches between the
            // writer and us. What is not a pipe, or may not grow, stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(&self.reader, 1 << 20);
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
                    self.other_end.iter_mut().for_each(|end| end.passed(self.seen));
                    Ok(Piece::Data(len))
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => fail(SourceErrorKind::Unavailable, &error),
            };
        }
    }
}

fn within_slashes(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    path
}

/// One stream under one name.
pub struct StreamSource {
    record: SourceRecord,
    items: Vec<Item>,
    path: String,
    findings: Rc<RefCell<Findings>>,
    words: Option<Vec<std::ffi::OsString>>,
    other_end: Option<OtherEnd>,
}

impl StreamSource {
    /// `path` may have folders, which become entries.
    pub fn new(
        record: SourceRecord,
        path: impl AsRef<[u8]>,
        time: Time,
        open: Opener,
    ) -> Result<Self, SourceError> {
        let path = within_slashes(path.as_ref());
        if !engine::entry::is_valid_path(path) {
            let why = "not a usable name for a stream: a path of names that are not empty, '.' or '..'";
            let shown = format!("'{}'", engine::shown::name(path));
            return Err(SourceError::new(SourceErrorKind::Missing, shown, why));
        }
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut items: Vec<Item> = above.map(|(end, _)| Item::folder(&path[..end], time)).collect();
        items.push(Item::stream(path, time, open));
        items.reverse();
        let path = format!("/{}", engine::names::path_text(path));
        Ok(Self { record, items, path, findings: Rc::default(), words: None, other_end: None })
    }

    /// One that a command writes.
    #[must_use]
    pub fn with_words(self, words: Vec<std::ffi::OsString>) -> Self {
        Self { words: Some(words), ..self }
    }

    /// What a reader in this process gives.
    pub fn reader(
        reader: impl Read + AsFd + Send + 'static,
        path: &[u8],
        time: Time,
        options: StreamOptions,
    ) -> Result<Self, SourceError> {
        let record = SourceRecord::new("stdin", engine::names::path_text(path), true);
        let findings = Rc::<RefCell<Findings>>::default();
        let told = Rc::clone(&findings);
        let end = options.is_unnamed.then(OtherEnd::default);
        let other_end = end.clone();
        let open: Opener = Box::new(move || {
            let name = "stdin".to_owned();
            let allow_empty = options.allow_empty;
            let mark = NoEndMark;
            let content = StreamContent { reader, mark, name: name.clone(), allow_empty, seen: 0, other_end };
            Ok(Proved::open(Box::new(content), name, options, told))
        });
        Ok(Self { other_end: end, ..Self::new(record, path, time, open)?.with_findings(findings) })
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
            record.details.insert("format".into(), format.name.into());
            record.details.insert("end".into(), if findings.whole { "proved" } else { "unknown" }.into());
        }
        let details = findings.details.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        record.details.extend(details);
        if let Some(name) = self.other_end.as_ref().and_then(OtherEnd::name) {
            record.details.insert(FROM.into(), name.to_owned());
        }
        if let Some(packed) = findings.decompressed {
            record.details.insert("decompressed".into(), packed.name.into());
        }
        vec![record]
    }
    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
    fn command_words(&self) -> Option<Vec<std::ffi::OsString>> {
        self.words.clone()
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if self.items.is_empty() {
            let mut findings = self.findings.borrow_mut();
            if let Some(flaws) = findings.flaws.take() {
                findings.details.extend(flaws.details());
                flaws.tell(self.path.trim_start_matches('/'), monitor);
            }
        }
        Ok(self.items.pop())
    }
}
