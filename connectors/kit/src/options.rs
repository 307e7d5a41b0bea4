//! How a stream is taken.

use crate::format::Expect;
use engine::connector::Format;

/// How a stream of unknown content is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions {
    /// The formats that are known.
    pub formats: &'static [&'static Format],
    /// Whether nothing at all is fine.
    pub allow_empty: bool,
    /// What it must be.
    pub expect: Expect,
    /// Whether to store what is compressed decompressed.
    pub decompress: bool,
    /// Whether nobody named it: then what writes it is a part of what it is.
    pub is_unnamed: bool,
}
