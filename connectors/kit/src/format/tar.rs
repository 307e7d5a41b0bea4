//! The end of a tar archive: two blocks of zeros after the last member. Each member has its length.

use engine::source::end_mark::EndMark;

/// Everything in a tar archive is a multiple of this.
pub const BLOCK: usize = 512;

/// Whether a block is a member's header: its checksum is the sum of all its bytes, its own counted as spaces.
pub fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK) else { return false };
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    octal(&block[148..156]) == Some(sum) && (&block[257..262] == b"ustar" || is_before_ustar(block))
}

/// Whether nothing stands where headers before ustar have nothing; GNU tar fills in a device's number all the same.
fn is_before_ustar(block: &[u8]) -> bool {
    let mut rest = block[..BLOCK].iter().enumerate().skip(257);
    rest.all(|(at, byte)| *byte == 0 || ((329..345).contains(&at) && byte.is_ascii_digit()))
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

/// Bytes of content behind a header by itself, without padding; `None` if it does not say.
fn own_len(block: &[u8]) -> Option<u64> {
    let size = octal(block.get(124..136)?).filter(|size| *size < MAX_LEN)?;
    // Links, devices and folders have no content, whatever they say.
    Some(if matches!(block.get(156)?, b'1'..=b'6') { 0 } else { size })
}

/// Longer than any member: what is taken for a number may be anything.
const MAX_LEN: u64 = 1 << 62;
/// Longest header of pax that is looked into.
const MAX_PAX: u64 = 1 << 20;

/// What stands behind a header, before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// So many bytes of content.
    Content(u64),
    /// So many bytes of pax records about the members that follow; hand them to [`Sizes::learn`].
    Pax {
        /// Their bytes.
        len: u64,
        /// The kind of header.
        kind: u8,
    },
    /// Blocks that go on with the header of a sparse member, each of which says whether it is the last, and so many bytes.
    Sparse(u64),
}

/// How long members are. A header has 11 octal digits for that; a member of 8 GiB and more is preceded by a header of its own in which
/// its length stands as text (POSIX.1-2017, pax, "size").
#[derive(Default)]
pub struct Sizes {
    next: Option<u64>,
    all: Option<u64>,
}

impl Sizes {
    /// What is behind a header; `None` if it does not say.
    pub fn behind(&mut self, block: &[u8]) -> Option<Behind> {
        let (len, kind) = (own_len(block)?, *block.get(156)?);
        Some(match kind {
            b'x' | b'g' | b'X' if len <= MAX_PAX => Behind::Pax { len, kind },
            // About the next member as well: its name, or the name it links to.
            b'x' | b'g' | b'X' | b'L' | b'K' => Behind::Content(len),
            b'1'..=b'6' => {
                self.next = None;
                Behind::Content(0)
            }
            kind => {
                let len = self.next.take().or(self.all).unwrap_or(len);
                if kind == b'S' && block.get(482) != Some(&0) {
                    Behind::Sparse(len)
                } else {
                    Behind::Content(len)
                }
            }
        })
    }

    /// Takes over what pax records say about lengths.
    pub fn learn(&mut self, kind: u8, records: &[u8]) {
        let place = if kind == b'g' { &mut self.all } else { &mut self.next };
        let mut rest = records;
        // Each begins with its own length, so that a name may hold anything.
        while let Some(space) = rest.iter().position(|byte| *byte == b' ')
            && let Some(len) = decimal(&rest[..space]).and_then(|len| usize::try_from(len).ok())
            && let Some(record) = rest.get(space + 1..len)
        {
            if let Some(value) = record.strip_prefix(b"size=") {
                *place = decimal(value.trim_ascii_end()).filter(|size| *size < MAX_LEN);
            }
            rest = &rest[len..];
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether a block of a sparse member's header is followed by another one.
pub fn is_continued(block: &[u8]) -> bool {
    block.get(504).is_some_and(|byte| *byte != 0)
}

#[derive(Default)]
pub(super) struct TarEndMark {
    block: Vec<u8>,
    sizes: Sizes,
    /// Bytes of the current member's content to go past.
    skip: u64,
    /// Those of them that are records of pax, their kind and what came of them.
    pax: Option<(u64, u8, Vec<u8>)>,
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
            self.extended = is_continued(&block);
        } else if block.iter().all(|byte| *byte == 0) {
            self.zeros += 1;
        } else if self.zeros > 0 || !is_header(&block) {
            // Behind the end there may be anything; before it, only headers.
            if self.zeros < 2 {
                self.error = Some(format!("no header at byte {}", self.offset - BLOCK as u64));
            }
        } else {
            let len = match self.sizes.behind(&block) {
                Some(Behind::Content(len)) => len,
                Some(Behind::Sparse(len)) => {
                    self.extended = true;
                    len
                }
                Some(Behind::Pax { len, kind }) => {
                    self.pax = Some((len, kind, vec![]));
                    len
                }
                None => {
                    self.error = Some(format!("no size at byte {}", self.offset - BLOCK as u64));
                    0
                }
            };
            self.skip = len.next_multiple_of(BLOCK as u64);
        }
        self.block = block;
        self.block.clear();
    }

    /// Goes past content, and keeps what it says about the next member.
    fn content(&mut self, bytes: &[u8]) {
        self.skip -= bytes.len() as u64;
        if let Some((len, kind, records)) = &mut self.pax {
            let left = usize::try_from(*len).unwrap_or_default() - records.len();
            records.extend_from_slice(&bytes[..bytes.len().min(left)]);
            if self.skip == 0 {
                self.sizes.learn(*kind, records);
                self.pax = None;
            }
        }
    }
}

impl EndMark for TarEndMark {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            if self.skip > 0 && !self.extended {
                let len = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.content(&bytes[..len]);
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
pub(crate) mod tests {
    use super::*;

    /// A member with its content, whatever the header says of its size.
    pub(crate) fn member(name: &[u8], size: u64, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        sum(&mut block);
        block
    }

    /// Writes a header's checksum.
    pub(crate) fn sum(block: &mut [u8]) {
        block[148..156].fill(b' ');
        let sum: u64 = block[..BLOCK].iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    /// A record of pax.
    pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let len = (1..).find(|len| len.to_string().len() + rest.len() == *len).unwrap();
        [len.to_string().as_bytes(), &rest].concat()
    }

    /// A header of pax before the next member, or before all.
    pub(crate) fn pax(kind: u8, records: &[u8]) -> Vec<u8> {
        member(b"PaxHeaders/x", records.len() as u64, kind, records)
    }

    /// A folder, a file, and the end.
    pub(crate) fn sample(text: &[u8]) -> Vec<u8> {
        let mut bytes = member(b"folder/", 0, b'5', b"");
        bytes.extend(member(b"folder/file", text.len() as u64, b'0', text));
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// What the end mark says, given the bytes in parts of a size.
    fn said(bytes: &[u8], part: usize) -> Result<(), String> {
        let mut mark = TarEndMark::default();
        bytes.chunks(part).for_each(|bytes| mark.see(bytes));
        mark.finish()
    }

    /// Archives that hold what a tenant would write to be taken for something else.
    pub(crate) fn hostile() -> Vec<(&'static str, Vec<u8>)> {
        let end = vec![0; 1024];
        let text = vec![b'x'; 3000];
        let inner = [sample(b"inner"), end.clone(), vec![7; 999]].concat();
        let plain = |content: &[u8]| member(b"plain", content.len() as u64, b'0', content);
        let mut sparse = member(b"sparse", 5000, b'S', b"");
        sparse[482] = 1;
        sum(&mut sparse);
        let (mut more, mut last) = (vec![b'1'; BLOCK], vec![b'2'; BLOCK]);
        (more[504], last[504]) = (1, 0);
        vec![
            ("an end within a member", [plain(&end), plain(&text), end.clone()].concat()),
            ("a tar within a tar", [plain(&inner), member(b"x.tar", 0, b'0', b""), end.clone()].concat()),
            ("a member that is all headers", [plain(&plain(&plain(b"deep"))), end.clone()].concat()),
            (
                "a length that only pax says",
                [pax(b'x', &record("size", b"3000")), member(b"large", 0, b'0', &text), end.clone()].concat(),
            ),
            (
                "a length in the pax header that the header contradicts",
                [
                    pax(b'x', &record("size", b"3000")),
                    member(b"large", 0o7777, b'0', &text),
                    plain(b"y"),
                    end.clone(),
                ]
                .concat(),
            ),
            (
                "a length in a value of pax",
                [pax(b'x', &record("path", b"a\n12 size=99\n")), plain(&text), end.clone()].concat(),
            ),
            (
                "lengths for all, and for one",
                [
                    pax(b'g', &record("size", b"3000")),
                    member(b"one", 0, b'0', &text),
                    pax(b'x', &record("size", b"1")),
                    member(b"two", 0, b'0', b"y"),
                    member(b"three", 0, b'0', &text),
                    member(b"link", 3000, b'1', b""),
                    pax(b'g', &record("size", b"")),
                    end.clone(),
                ]
                .concat(),
            ),
            (
                "a length that is for a link",
                [
                    pax(b'x', &record("size", b"3000")),
                    member(b"link", 0, b'2', b""),
                    plain(b"y"),
                    end.clone(),
                ]
                .concat(),
            ),
            (
                "a long name between the length and its member",
                [
                    pax(b'x', &record("size", b"3000")),
                    member(b"././@LongLink", 600, b'L', &[b'n'; 600]),
                    member(b"n", 0, b'0', &text),
                    end.clone(),
                ]
                .concat(),
            ),
            (
                "a sparse member whose header goes on",
                [sparse, more, last, vec![b'd'; 5120], plain(b"y"), end].concat(),
            ),
        ]
    }

    #[test]
    fn what_a_member_holds_is_not_the_archive() {
        for (what, bytes) in hostile() {
            for part in [bytes.len(), 511, 512, 513] {
                assert_eq!(said(&bytes, part), Ok(()), "{what}, in parts of {part}");
                // Its end is its end, whatever stands before it; a block of zeros more or less is not told apart.
                assert!(said(&bytes[..bytes.len() - 1024], part).is_err(), "{what}, without its end");
                assert!(said(&bytes[..bytes.len() - 1025], part).is_err(), "{what}, cut off");
            }
        }
    }

    #[test]
    fn lengths_that_cannot_be() {
        for (size, told) in [("99999999999999999999", "no header"), ("x", "no header"), ("-1", "no header")] {
            let bytes = [
                pax(b'x', &record("size", size.as_bytes())),
                member(b"m", 0, b'0', &[9; 600]),
                vec![0; 1024],
            ]
            .concat();
            let why = said(&bytes, 1000).unwrap_err();
            assert!(why.contains(told), "{size}: {why}");
        }
        let bytes = [member(b"m", 0o77777777777, b'0', &[9; 600]), vec![0; 1024]].concat();
        assert!(said(&bytes, 1000).is_err());
    }
}
