//! The size of packs. On a disk, the size that was requested. Over a network, the size that uploads in half a minute:
//! an interrupted upload must be repeated, and a slow line is interrupted often.

use std::time::Duration;

/// How long the upload of a pack is to take.
const UPLOAD: Duration = Duration::from_secs(30);
/// Bytes of the first packs, before anything is known of the line.
const FIRST: usize = 8 << 20;
/// Smaller ones would be too many requests.
const LEAST: usize = 1 << 20;

/// The size of the next pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackSize {
    /// What was asked for, in bytes.
    most: usize,
    now: usize,
}

impl PackSize {
    /// `is_near` for a store that answers without a network.
    pub(super) fn new(most: usize, is_near: bool) -> Self {
        Self { most, now: if is_near { most } else { most.min(FIRST) } }
    }

    /// Bytes that the next pack has at most.
    pub(super) fn bytes(self) -> usize {
        self.now
    }

    /// A pack of `len` bytes was uploaded in `took`, with others beside it. Sizes at most double: the line that the first
    /// ones saw may not hold.
    pub(super) fn uploaded(&mut self, len: u64, took: Duration) {
        if took.is_zero() {
            return;
        }
        let fits = len as f64 * UPLOAD.as_secs_f64() / took.as_secs_f64();
        let most = self.most.min(self.now.saturating_mul(2));
        self.now = (fits.min(most as f64) as usize).max(LEAST.min(self.most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(uploads: &[(u64, f64)]) -> usize {
        let mut size = PackSize::new(64 << 20, false);
        for (len, seconds) in uploads {
            size.uploaded(*len, Duration::from_secs_f64(*seconds));
        }
        size.bytes()
    }

    #[test]
    fn follows_the_line() {
        assert_eq!(PackSize::new(64 << 20, true).bytes(), 64 << 20);
        assert_eq!(PackSize::new(1 << 20, false).bytes(), 1 << 20);
        assert_eq!(after(&[]), 8 << 20);
        // A fast line: doubled until all that was asked for is taken.
        assert_eq!(after(&[(8 << 20, 0.1)]), 16 << 20);
        assert_eq!(after(&[(8 << 20, 0.1); 5]), 64 << 20);
        // 90 kB/s for each upload: 2.7 MB in half a minute.
        assert_eq!(after(&[(9_000_000, 100.0)]), 2_700_000);
        // Never below 1 MiB, unless that was asked for.
        assert_eq!(after(&[(1_000_000, 1000.0)]), 1 << 20);
        let mut small = PackSize::new(64 << 10, false);
        small.uploaded(64 << 10, Duration::from_secs(1000));
        assert_eq!(small.bytes(), 64 << 10);
    }
}
