//! Attempts at work that a prune elsewhere may take back: it fences a session that it takes for dead, and one whose base it
//! removed.

use crate::Error;

/// An attempt, of which there may be so many.
#[derive(Debug)]
pub struct Retry {
    attempt: u32,
    most: u32,
}

impl Retry {
    /// So many attempts at the most, at least one.
    #[must_use]
    pub fn new(attempts: u32) -> Self {
        Self { attempt: 1, most: attempts }
    }

    /// The number of the attempt that is under way, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// After an attempt that failed: why it was fenced, if that is what failed and another attempt is left.
    pub fn again(&mut self, error: &Error) -> Option<String> {
        let Error::Store(chunkstore::Error::Fenced { why }) = error else { return None };
        if self.attempt >= self.most {
            return None;
        }
        self.attempt += 1;
        tracing::info!(why, attempt = self.attempt, "starts again");
        Some(why.clone())
    }
}

/// For a backup.
impl Default for Retry {
    fn default() -> Self {
        Self::new(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_often_as_said_and_only_when_fenced() {
        let fenced = || Error::Store(chunkstore::Error::Fenced { why: "a prune".into() });
        let mut retry = Retry::new(3);
        assert_eq!(retry.again(&Error::Interrupted), None);
        assert_eq!(retry.again(&fenced()).as_deref(), Some("a prune"));
        assert_eq!(retry.again(&fenced()).as_deref(), Some("a prune"));
        assert_eq!(retry.again(&fenced()), None);
        assert_eq!(retry.again(&fenced()), None);
    }
}
