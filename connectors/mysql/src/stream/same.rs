//! Whether a log that is fetched is the one that is stored. A server whose logs were reset, or that was made anew, gives the
//! same name to another log.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes before the end of what is stored that are looked at again before each commit. They hold times, numbers of
/// transactions and checksums of events.
const SEAM: u64 = 4096;

/// A writer that compares what it gets with a reader.
pub(super) struct Same<R> {
    own: R,
    /// Whether all was the same so far.
    pub(super) is_same: bool,
}

impl<R> Same<R> {
    pub(super) fn with(own: R) -> Self {
        Self { own, is_same: true }
    }
}

impl<R: Read> Write for Same<R> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.is_same {
            let mut own = vec![];
            self.own.by_ref().take(bytes.len() as u64).read_to_end(&mut own)?;
            self.is_same = own == bytes;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The last bytes of a log before `end`.
pub(super) fn seam(log: &Path, end: u64) -> Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let from = end.saturating_sub(SEAM);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![];
    file.take(end - from).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The place of a log among others: the number in its name, and the name if there is none.
pub(crate) fn place(name: &str) -> (u64, &str) {
    name.rsplit_once('.').and_then(|(base, number)| Some((number.parse().ok()?, base))).unwrap_or((0, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_or_other_is_not_the_same() {
        for (own, is_same) in [("abcdef", true), ("abcdefg", true), ("abcde", false), ("abXdef", false)] {
            let mut same = Same::with(own.as_bytes());
            same.write_all(b"abc").unwrap();
            same.write_all(b"def").unwrap();
            assert_eq!(same.is_same, is_same, "{own}");
        }
    }

    #[test]
    fn logs_are_in_the_order_of_their_numbers() {
        assert!(place("bin.999999") < place("bin.1000000"));
        assert!(place("bin.000001") < place("bin.000002"));
    }
}
