//! Bytes that are there already, as an entry: indexes of dumps, descriptions, what was put aside.

use super::{Content, Item, Opener, Piece, SourceError, SourceErrorKind};
use crate::entry::Time;
use std::io::Read;

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
