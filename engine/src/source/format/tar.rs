//! The end of a tar archive: two blocks of zeros behind the last member, each of which says how long it is.

use crate::source::stream::EndMark;

/// Everything in a tar archive is a multiple of this.
pub(in crate::source) const BLOCK: usize = 512;

/// Whether a block is a member's header: its checksum is the sum of all its bytes, its own counted as spaces.
pub(in crate::source) fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK) else { return false };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    octal(&block[148..156]) == Some(sum)
        && (&block[257..262] == b"ustar" || block[257..512].iter().all(|byte| *byte == 0))
}

/// A number in octal digits, or in base 256 if its first bit is set.
fn octal(field: &[u8]) -> Option<u64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        let high = u64::from(first & 0x3f);
        return rest.iter().try_fold(high, |all, byte| all.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|letter| letter == ' ' || letter == '\0');
    u64::from_str_radix(digits, 8).ok()
}

/// Bytes of content behind a header, without padding; `None` if it does not say.
pub(in crate::source) fn content_len(block: &[u8]) -> Option<u64> {
    let size = octal(block.get(124..136)?).filter(|size| *size < 1 << 62)?;
    // Links, devices and folders have no content, whatever they say.
    Some(if matches!(block.get(156)?, b'1'..=b'6') { 0 } else { size })
}

#[derive(Default)]
pub(super) struct TarEndMark {
    block: Vec<u8>,
    /// Bytes of the current member's content to go past.
    skip: u64,
    /// Whether the next block goes on with a header: sparse members of old GNU tar.
    extended: bool,
    zeros: u64,
    offset: u64,
    error: Option<String>,
}

impl TarEndMark {
    fn block_is_there(&mut self) {
        let block = std::mem::take(&mut self.block);
        if self.extended {
            self.extended = block[504] != 0;
        } else if block.iter().all(|byte| *byte == 0) {
            self.zeros += 1;
        } else if self.zeros > 0 || !is_header(&block) {
            // Behind the end there may be anything; before it, only headers.
            if self.zeros < 2 {
                self.error = Some(format!("no header at byte {}", self.offset - BLOCK as u64));
            }
        } else {
            match content_len(&block) {
                Some(len) => self.skip = len.next_multiple_of(BLOCK as u64),
                None => self.error = Some(format!("no size at byte {}", self.offset - BLOCK as u64)),
            }
            self.extended = block[156] == b'S' && block[482] != 0;
        }
        self.block = block;
        self.block.clear();
    }
}

impl EndMark for TarEndMark {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            if self.skip > 0 && !self.extended {
                let len = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= len as u64;
                self.offset += len as u64;
                bytes = &bytes[len..];
                continue;
            }
            let len = (BLOCK - self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..len]);
            self.offset += len as u64;
            bytes = &bytes[len..];
            if self.block.len() == BLOCK {
                self.block_is_there();
            }
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.zeros >= 2 => Ok(()),
            None => Err("the blocks at its end are missing".into()),
        }
    }
}

#[cfg(test)]
pub(in crate::source) mod tests {
    fn header(name: &str, size: u64, kind: u8) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    /// A folder, a file, and the end.
    pub(in crate::source) fn sample(text: &[u8]) -> Vec<u8> {
        let mut bytes = header("folder/", 0, b'5');
        bytes.extend(header("folder/file", text.len() as u64, b'0'));
        bytes.extend_from_slice(text);
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        bytes
    }
}
