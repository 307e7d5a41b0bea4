//! A tar of a base backup where it lies in the repository: read in any order, a chunk at a time.

use crate::data_directory::Member;
use chunkstore::reader::{Fetched, ReadAhead};
use engine::restore::{Located, Piece};
use engine::{Error, Repository, Result};
use std::io::{self, Read, Seek, SeekFrom};

/// A reader of the headers and small members between the large ones, which nobody reads here.
pub(super) struct Archive<'a> {
    content: &'a Located,
    ahead: ReadAhead<()>,
    at: u64,
    /// The piece that was read last.
    last: Option<(Piece, Vec<u8>)>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(repo: &Repository, content: &'a Located) -> Self {
        Self { content, ahead: ReadAhead::new(repo.store()), at: 0, last: None }
    }

    /// The bytes of the piece that the next byte is in, from that on.
    fn here(&mut self) -> Result<&[u8]> {
        let Some(piece) = self.content.pieces_of(&(self.at..self.at + 1)).first().copied() else {
            return Ok(&[]);
        };
        let is_it = self.last.as_ref().is_some_and(|(last, _)| last.at == piece.at);
        if !is_it {
            let bytes = match piece.chunk {
                Some(chunk) => {
                    self.ahead.request(chunk, ())?;
                    let fetched =
                        self.ahead.take()?.into_iter().flatten().find_map(|fetched| match fetched {
                            Fetched::Chunk(bytes, ()) => Some(bytes),
                            Fetched::Token(()) => None,
                        });
                    fetched.unwrap_or(Err(chunkstore::Error::WorkerPanicked))?
                }
                // As long as a stretch of it.
                None => vec![],
            };
            self.last = Some((piece, bytes));
        }
        let Some((piece, bytes)) = &self.last else { return Ok(&[]) };
        let from = usize::try_from(self.at - piece.at).unwrap_or(usize::MAX);
        Ok(match piece.chunk {
            Some(_) => bytes.get(from..).unwrap_or_default(),
            None => {
                let left = usize::try_from(piece.len - (self.at - piece.at)).unwrap_or(usize::MAX);
                &ZEROS[..left.min(ZEROS.len())]
            }
        })
    }
}

static ZEROS: [u8; 4096] = [0; 4096];

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = self.here().map_err(io::Error::other)?;
        let len = here.len().min(buffer.len());
        buffer[..len].copy_from_slice(&here[..len]);
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Archive<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.content.len().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// That a member reaches over its tar's end.
pub(super) fn cut_short(member: &Member) -> Error {
    let why = format!("'{}' is cut short", engine::shown::name(&member.path));
    Error::Malformed { what: "a base backup".into(), why }
}
