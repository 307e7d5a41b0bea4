//! LZF, as far as strings in RDB files need it: decompression. Source: the format that `lzf_d.c` of Marc
//! Lehmann's liblzf reads: a control byte below 32 starts that many literals plus one; else its upper three
//! bits are a length, and its lower five with the next byte a distance back.

/// Decompresses to exactly `len` bytes; `None` if `from` says otherwise. `len` is checked against `from`
/// before memory is taken: no input grows by more than 264 bytes for three of its own.
#[must_use]
pub(super) fn decompress(from: &[u8], len: usize) -> Option<Vec<u8>> {
    if len / 88 > from.len() {
        return None;
    }
    let mut out = Vec::with_capacity(len);
    let mut at = 0;
    while let Some(control) = from.get(at).copied().map(usize::from) {
        at += 1;
        if control < 32 {
            out.extend_from_slice(from.get(at..at + control + 1)?);
            at += control + 1;
        } else {
            let mut run = control >> 5;
            if run == 7 {
                run += usize::from(*from.get(at)?);
                at += 1;
            }
            let distance = ((control & 31) << 8) + usize::from(*from.get(at)?) + 1;
            at += 1;
            let start = out.len().checked_sub(distance)?;
            let mut left = run + 2;
            // What is copied may have begun with this run: then as much as there is, again and again.
            while left > 0 {
                let some = left.min(out.len() - start);
                out.extend_from_within(start..start + some);
                left -= some;
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// Whether `from` decompresses to exactly `len` bytes, found out without memory for them.
#[must_use]
pub(super) fn is_valid(from: &[u8], len: usize) -> bool {
    let (mut at, mut out) = (0, 0);
    while let Some(control) = from.get(at).copied().map(usize::from) {
        at += 1;
        if control < 32 {
            at += control + 1;
            out += control + 1;
            if at > from.len() {
                return false;
            }
        } else {
            let mut run = control >> 5;
            if run == 7 {
                let Some(more) = from.get(at) else { return false };
                run += usize::from(*more);
                at += 1;
            }
            let Some(low) = from.get(at) else { return false };
            at += 1;
            if ((control & 31) << 8) + usize::from(*low) + 1 > out {
                return false;
            }
            out += run + 2;
        }
        if out > len {
            return false;
        }
    }
    out == len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_runs_and_nonsense() {
        assert_eq!(decompress(&[2, b'a', b'b', b'c'], 3).unwrap(), b"abc");
        assert!(is_valid(&[2, b'a', b'b', b'c'], 3) && is_valid(&[1, b'a', b'b', 7 << 5, 1, 1], 12));
        // "a", then 8 bytes from a distance of 1.
        assert_eq!(decompress(&[0, b'a', 6 << 5, 0], 9).unwrap(), b"aaaaaaaaa");
        // A long run: 7 + 1 + 2 bytes.
        assert_eq!(decompress(&[1, b'a', b'b', 7 << 5, 1, 1], 12).unwrap(), b"abababababab");
        for (bad, len) in [(&[2, b'a'][..], 3), (&[1 << 5, 0], 3), (&[0, b'a'], 2), (&[0, b'a'], 1 << 40)] {
            assert_eq!(decompress(bad, len), None, "{bad:?}");
            assert!(!is_valid(bad, len), "{bad:?}");
        }
    }
}
