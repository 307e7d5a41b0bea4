//! A full resynchronisation, as far as the end of its RDB. The RDB comes either with a length
//! (`$<bytes>`) or, from diskless servers, between two copies of a 40-byte mark (`$EOF:<mark>`).

use super::link::{HANG_UP, Link, Stop};
use super::{Server, status_of};
use engine::source::{SourceError, SourceErrorKind, Status};
use std::io::{Error, Read, Result};

/// Bytes read at a time where the end is a mark.
const WINDOW: usize = 256 << 10;

/// How the end of the transfer is known.
enum Frame {
    /// This many bytes are left.
    Length(u64),
    /// Ends with this mark.
    Mark(Vec<u8>),
}

/// An RDB on its way from a server. Ends where the RDB does; an end before that is an error, which holds a
/// [`SourceError`].
pub struct Transfer {
    link: Link,
    frame: Frame,
    /// With a mark: bytes that came; the last may belong to it.
    window: Vec<u8>,
    /// The first of them that was not handed on.
    start: usize,
    /// Identity of the data set, and how much of its history the RDB holds: `PSYNC` goes on from there.
    pub replication_id: String,
    /// See above, in bytes.
    pub offset: u64,
}

impl Transfer {
    /// Asks for everything. Returns when the server begins to send, which is when it has forked: the data are
    /// those of that moment.
    pub fn start(server: &Server, stop: &Stop) -> std::result::Result<Self, SourceError> {
        let mut link = Link::open(server, stop)?;
        if let Some(number) = server.database {
            need_database(&mut link, number)?;
        }
        link.introduce()?;
        // The commands that follow the dump are of no use here. Else a server keeps them for us meanwhile, and hangs up
        // when they are more than its limit for replicas. Servers that do not know this answer an error, and go on.
        link.command(&[b"REPLCONF", b"rdb-only", b"1"])?;
        let reply = link.command(&[b"PSYNC", b"?", b"-1"])?;
        Self::follow(link, &reply)
    }

    /// Goes on after the server's answer to `PSYNC`, which must be that it sends everything.
    pub fn follow(mut link: Link, reply: &str) -> std::result::Result<Self, SourceError> {
        let server = link.server().clone();
        let down = |why: &dyn std::fmt::Display| server.error(SourceErrorKind::Unavailable, why);
        let Some(position) = reply.strip_prefix("+FULLRESYNC ") else {
            let hint = "the user needs +psync +replconf +ping; managed servers that refuse replication can be read with redis+scan://";
            let why = format!("full resynchronisation refused: {} ({hint})", reply.trim_start_matches('-'));
            let status = match status_of(reply) {
                Status::Temporary => Status::Temporary,
                Status::Unknown | Status::Permanent => Status::Permanent,
            };
            return Err(down(&why).with_status(status));
        };
        let (id, offset) = position.split_once(' ').unwrap_or((position, "0"));
        let (replication_id, offset) = (id.to_owned(), offset.parse().unwrap_or_default());
        // A server that cannot fork or save hangs up here.
        let header = link.line().map_err(|error| {
            let hint = "before the first byte: its log says why; most often it cannot fork, its disk is full or not \
                writable, or client-output-buffer-limit is too low for replicas";
            server.error(error.kind, format!("{} {hint}", error.why))
        })?;
        let frame = if let Some(mark) = header.strip_prefix("$EOF:").filter(|mark| mark.len() == 40) {
            Frame::Mark(mark.as_bytes().to_vec())
        } else if let Some(len) = header.strip_prefix('$').and_then(|len| len.parse().ok()) {
            Frame::Length(len)
        } else if let Some(why) = header.strip_prefix('-') {
            return Err(down(&format!("the server could not save its data: {why}")));
        } else {
            return Err(down(&format!("expected an RDB, got '{header}'")));
        };
        Ok(Self { link, frame, window: vec![], start: 0, replication_id, offset })
    }

    /// The connection, after the end of the RDB: commands follow on it.
    #[must_use]
    pub fn into_link(self) -> Link {
        self.link
    }

    fn more(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let server = self.link.server().clone();
        let cut = |why: &str| {
            let why = format!("in the middle of the transfer: {why}");
            Error::other(server.error(SourceErrorKind::Incomplete, why))
        };
        match self.link.read(buffer) {
            Ok(0) => Err(cut(HANG_UP)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(cut(HANG_UP)),
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                Err(cut(&self.link.told(&error)))
            }
            Err(_) => self.more(buffer),
            Ok(len) => Ok(len),
        }
    }
}

/// Refuses a database that the server does not have, which would be an empty dump. A user who may not select one
/// may replicate all the same.
fn need_database(link: &mut Link, number: u32) -> std::result::Result<(), SourceError> {
    let reply = link.command(&[b"SELECT", number.to_string().as_bytes()])?;
    match reply.strip_prefix("-ERR") {
        Some(why) => {
            let why = format!("there is no database {number}:{why}");
            Err(link.server().error(SourceErrorKind::Unavailable, why))
        }
        None => Ok(()),
    }
}

impl Read for Transfer {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match &self.frame {
                Frame::Length(left) => {
                    let left = *left;
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    if most == 0 {
                        return Ok(0);
                    }
                    let len = self.more(&mut buffer[..most])?;
                    self.frame = Frame::Length(left - len as u64);
                    return Ok(len);
                }
                Frame::Mark(mark) => {
                    // The last 40 bytes that came are held back: they may be the mark.
                    let ready = self.window.len().saturating_sub(mark.len());
                    if self.start < ready {
                        let len = buffer.len().min(ready - self.start);
                        buffer[..len].copy_from_slice(&self.window[self.start..self.start + len]);
                        self.start += len;
                        return Ok(len);
                    }
                    if self.window.get(self.start..).is_some_and(|held| held == mark) {
                        // The server says nothing more until it hears of our offset.
                        self.frame = Frame::Length(0);
                        continue;
                    }
                    self.window.drain(..self.start);
                    self.start = 0;
                    let mut window = std::mem::take(&mut self.window);
                    let held = window.len();
                    window.resize(held + WINDOW, 0);
                    let len = self.more(&mut window[held..])?;
                    window.truncate(held + len);
                    self.window = window;
                }
            }
        }
    }
}
