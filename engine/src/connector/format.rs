//! A stream format with its own end mark, declared as data by its connector.

use crate::source::end_mark::EndMark;
use std::io::{BufRead, Read};

/// Reads what is under a compression.
pub type Decoder = fn(Box<dyn BufRead + Send>) -> std::io::Result<Box<dyn Read>>;

/// A format with an end of its own.
pub struct Format {
    /// Its name on the command line and in snapshots.
    pub name: &'static str,
    /// How certain its first bytes are: formats of a lower rank are looked for first. 0 for magic numbers, 1 for
    /// structure, 2 for text, 3 for a guess.
    pub rank: u8,
    /// Whether a stream's first bytes look like it; given all of a stream or at least 512 bytes.
    pub detect: fn(head: &[u8]) -> bool,
    /// What proves that a stream of it is whole. `insists` says that it must be this format, rather than that it looks
    /// like it.
    pub end_mark: fn(insists: bool) -> Box<dyn EndMark>,
    /// Reads what is in it, if it is a compression: then a small change alters all that follows.
    pub decoder: Option<Decoder>,
}

impl Format {
    /// Whether it is compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.decoder.is_some()
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Format {}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
