//! A stream of unknown content: its format, whether it is complete, and, on request, its decompressed content.
//! Compressed dumps do not deduplicate, because one changed byte alters all compressed bytes after it.

use super::format::{AnyEndMark, Findings, HEAD, detect};
use super::options::StreamOptions;
use super::tar_cuts::TarCuts;
use engine::connector::{Decoder, Format};
use engine::source::end_mark::EndMark as _;
use engine::source::{Content, Piece, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::io::{Error, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Decompressed bytes handed on at a time, and how many of these may wait.
const PART: usize = 1 << 20;
const PARTS: usize = 4;
/// Read at a time, so that it still lies in the processor's cache when its format's end mark looks at it.
const READ: usize = 256 << 10;
/// How long a silent stream may keep us from looking at anything else.
const PATIENCE: Duration = Duration::from_millis(200);

/// Content that knows where it must end.
pub(super) struct Proved {
    content: Box<dyn Content + Send>,
    name: String,
    mark: AnyEndMark,
    options: StreamOptions,
    findings: Rc<RefCell<Findings>>,
    /// Bytes that were read to see what the stream is.
    head: Vec<u8>,
    looking: bool,
    over: bool,
}

impl Proved {
    pub(super) fn open(
        content: Box<dyn Content + Send>,
        name: String,
        options: StreamOptions,
        findings: Rc<RefCell<Findings>>,
    ) -> Box<dyn Content> {
        let mark = AnyEndMark::new(options.formats, options.expect, Rc::clone(&findings));
        Box::new(TarCuts::new(Box::new(Self {
            content,
            name,
            mark,
            options,
            findings,
            head: vec![],
            looking: true,
            over: false,
        })))
    }

    /// Reads the first bytes and decides what to do with the stream; false while there are too few.
    fn look(&mut self, buffer: &mut [u8]) -> Result<bool, SourceError> {
        match self.content.read(buffer)? {
            Piece::Data(len) => {
                self.head.extend_from_slice(&buffer[..len]);
                if self.head.len() < HEAD {
                    return Ok(false);
                }
            }
            Piece::End => self.over = true,
            _ => return Ok(false),
        }
        self.looking = false;
        let format = detect(self.options.formats, &self.head);
        let format = format.and_then(|format| Some((format, format.decoder?)));
        let head = std::mem::take(&mut self.head);
        match format {
            Some((format, decoder)) if self.options.decompress => {
                self.findings.borrow_mut().decompressed = Some(format);
                let content = std::mem::replace(&mut self.content, Box::new(Nothing));
                let raw = Raw { content, head, at: 0, over: self.over, stop: Arc::default() };
                self.content = Box::new(Decompressing::start(raw, format, decoder, self.name.clone())?);
                self.over = false;
            }
            _ => self.head = head,
        }
        Ok(true)
    }

    fn end(&mut self) -> Result<Piece, SourceError> {
        match self.mark.finish() {
            Ok(()) => Ok(Piece::End),
            Err(why) => Err(SourceError::new(SourceErrorKind::Incomplete, &self.name, why)),
        }
    }
}

impl Content for Proved {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        if self.looking {
            self.look(buffer)?;
            return Ok(Piece::Wait);
        }
        if !self.head.is_empty() {
            let len = self.head.len().min(buffer.len());
            buffer[..len].copy_from_slice(&self.head[..len]);
            self.head.drain(..len);
            self.mark.see(&buffer[..len]);
            return Ok(Piece::Data(len));
        }
        if self.over {
            return self.end();
        }
        let most = buffer.len().min(READ);
        match self.content.read(&mut buffer[..most])? {
            Piece::Data(len) => {
                self.mark.see(&buffer[..len]);
                Ok(Piece::Data(len))
            }
            Piece::End => self.end(),
            other => Ok(other),
        }
    }
}

/// In place of content that went into a thread.
struct Nothing;

impl Content for Nothing {
    fn read(&mut self, _: &mut [u8]) -> Result<Piece, SourceError> {
        Ok(Piece::End)
    }
}

/// The compressed bytes as a reader, for the thread that decompresses.
struct Raw {
    content: Box<dyn Content + Send>,
    head: Vec<u8>,
    at: usize,
    over: bool,
    stop: Arc<AtomicBool>,
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at < self.head.len() {
            let len = buffer.len().min(self.head.len() - self.at);
            buffer[..len].copy_from_slice(&self.head[self.at..self.at + len]);
            self.at += len;
            return Ok(len);
        }
        while !self.over {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::other("nobody reads on"));
            }
            match self.content.read(buffer).map_err(Error::other)? {
                Piece::Data(len) => return Ok(len),
                Piece::End => self.over = true,
                _ => {}
            }
        }
        Ok(0)
    }
}

/// What a thread decompresses.
struct Decompressing {
    parts: Option<Receiver<std::io::Result<Vec<u8>>>>,
    part: Vec<u8>,
    at: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    name: String,
    format: &'static Format,
}

impl Decompressing {
    fn start(raw: Raw, format: &'static Format, decoder: Decoder, name: String) -> Result<Self, SourceError> {
        let (send, parts) = sync_channel(PARTS);
        let stop = Arc::clone(&raw.stop);
        let thread = std::thread::Builder::new().name("esker-unpack".into()).spawn(move || {
            let raw = std::io::BufReader::with_capacity(256 << 10, raw);
            match decoder(Box::new(raw)) {
                Ok(decoder) => pass_on(decoder, &send),
                Err(error) => drop(send.send(Err(error))),
            }
        });
        let thread = thread.map_err(|error| SourceError::new(SourceErrorKind::Unavailable, &name, error))?;
        Ok(Self { parts: Some(parts), part: vec![], at: 0, stop, thread: Some(thread), name, format })
    }
}

/// Reads to the end; stops when nobody listens.
fn pass_on(mut decoder: impl Read, send: &SyncSender<std::io::Result<Vec<u8>>>) {
    loop {
        let mut part = vec![0; PART];
        let mut filled = 0;
        let failed = loop {
            match decoder.read(&mut part[filled..]) {
                Ok(0) => break None,
                Ok(len) => filled += len,
                Err(error) => break Some(error),
            }
        };
        part.truncate(filled);
        let over = filled < PART;
        if filled > 0 && send.send(Ok(part)).is_err() {
            return;
        }
        if let Some(error) = failed {
            let _ = send.send(Err(error));
            return;
        }
        if over {
            return;
        }
    }
}

impl Content for Decompressing {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        while self.at == self.part.len() {
            let Some(parts) = &self.parts else { return Ok(Piece::End) };
            match parts.recv_timeout(PATIENCE) {
                Ok(Ok(part)) => (self.part, self.at) = (part, 0),
                // An error of the stream itself explains the one of its decoder.
                Ok(Err(error)) => {
                    return Err(match error.downcast::<SourceError>() {
                        Ok(error) => error,
                        Err(error) => SourceError::new(
                            SourceErrorKind::Incomplete,
                            &self.name,
                            format!("not a whole {} stream: {error}", self.format.name),
                        ),
                    });
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Piece::Wait),
                Err(RecvTimeoutError::Disconnected) => return Ok(Piece::End),
            }
        }
        let len = buffer.len().min(self.part.len() - self.at);
        buffer[..len].copy_from_slice(&self.part[self.at..self.at + len]);
        self.at += len;
        Ok(Piece::Data(len))
    }
}

impl Drop for Decompressing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
