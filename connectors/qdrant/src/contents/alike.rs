//! Whether two snapshots of a shard hold the same. The server writes the tar anew each time, and files that it flushed for it have
//! another time. So only those chunks are read that one of the two lacks, and there headers and their extensions are compared
//! without times. Source: POSIX.1-2017, "pax", "ustar Interchange Format", "pax Extended Header".

use connector_kit::format::tar::{BLOCK, is_header};
use engine::connector::Origin;
use engine::manifest::{Ending, ManifestReader, Record, Step};
use engine::monitor::Tally;
use engine::restore::dump_ranges;
use engine::{Error, Result};
use std::ops::Range;

/// Bytes in which two snapshots of a shard may differ and still be compared. Headers of a shard's files take some kilobytes; what
/// differs in more is another one.
const MOST: u64 = 16 << 20;
/// Where a header has the bytes of its content, the time of the last change and the sum of its bytes, and its type.
const SIZE: Range<usize> = 124..136;
const TIME_AND_SUM: Range<usize> = 136..156;
const TYPE: usize = 156;
/// The type of an extension: records for the header behind it.
const EXTENSION: u8 = b'x';
/// Records that are times.
const TIMES: [&[u8]; 3] = [b"mtime", b"atime", b"ctime"];

/// A piece of content: a chunk, or a hole, and its bytes.
type Piece<T> = (Option<T>, u64);

/// Whether the entries at these paths hold the same, but for times in headers.
///
/// # Errors
/// What cannot be read.
pub(super) fn are_alike(old: (Origin<'_>, &[u8]), new: (Origin<'_>, &[u8])) -> Result<bool> {
    let Some(ranges) = differing(&pieces(old)?, &pieces(new)?) else { return Ok(false) };
    if ranges.iter().map(|(from, to)| to - from).sum::<u64>() > MOST {
        return Ok(false);
    }
    let read = |(from, path): (Origin<'_>, &[u8])| {
        let mut bytes = vec![];
        dump_ranges(from.repo, &from.snapshot.snapshot, path, &ranges, &mut bytes, &Tally::default())?;
        Ok::<_, Error>(bytes)
    };
    let (before, after) = (read(old)?, read(new)?);
    let (mut a, mut b) = (&before[..], &after[..]);
    for (from, to) in &ranges {
        let len = usize::try_from(to - from).unwrap_or(usize::MAX);
        // The last range may end behind the content.
        let split = |bytes: &mut &[u8]| {
            let (first, rest) = bytes.split_at(len.min(bytes.len()));
            *bytes = rest;
            first.to_vec()
        };
        if !is_same(&split(&mut a), &split(&mut b)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two stretches of a tar, in whole blocks, are the same but for times.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let (mut a_blocks, mut b_blocks) = (a.chunks(BLOCK), b.chunks(BLOCK));
    loop {
        let (one, other) = match (a_blocks.next(), b_blocks.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) => (one, other),
            _ => return false,
        };
        let are_headers = is_header(one) && is_header(other);
        let is_extension = are_headers && one[TYPE] == EXTENSION && other[TYPE] == EXTENSION;
        let rest = |block: &[u8]| {
            // A time with fewer digits makes an extension shorter.
            let size = if is_extension { &[] } else { &block[SIZE] };
            [&block[..SIZE.start], size, &block[TIME_AND_SUM.end..]].concat()
        };
        if one != other && !(are_headers && rest(one) == rest(other)) {
            return false;
        }
        if is_extension {
            let records = |header: &[u8], blocks: &mut std::slice::Chunks<'_, u8>| {
                let text = std::str::from_utf8(&header[SIZE]).unwrap_or_default();
                let size = usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()?;
                let content: Vec<u8> = blocks.take(size.div_ceil(BLOCK)).flatten().copied().collect();
                without_times(content.get(..size)?)
            };
            let (one, other) = (records(one, &mut a_blocks), records(other, &mut b_blocks));
            if one.is_none() || one != other {
                return false;
            }
        }
    }
}

/// The records of an extension, `LENGTH KEY=VALUE` and a new line each, without those of times; `None` if it is none.
fn without_times(mut content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut records = vec![];
    while !content.is_empty() {
        let space = content.iter().position(|byte| *byte == b' ')?;
        let len: usize = std::str::from_utf8(&content[..space]).ok()?.parse().ok()?;
        let record = content.get(space + 1..len)?;
        let key = record.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !TIMES.contains(&key) {
            records.push(record.to_vec());
        }
        content = &content[len..];
    }
    Some(records)
}

/// The pieces of an entry's content, in order.
fn pieces((from, path): (Origin<'_>, &[u8])) -> Result<Vec<Piece<chunkstore::ChunkId>>> {
    let mut reader = ManifestReader::new(from.repo.store(), &from.snapshot.snapshot.manifest)?;
    let (mut found, mut is_it) = (vec![], false);
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => return Err(damage.error.into()),
            Step::Record(Record::Entry(entry)) => is_it = entry.path == path,
            Step::Record(Record::Chunks(chunks)) if is_it => {
                found.extend(chunks.into_iter().map(|chunk| (Some(chunk.id), u64::from(chunk.len))));
            }
            Step::Record(Record::Hole(len)) if is_it => add_hole(&mut found, len),
            Step::Record(Record::End(Ending::Complete, _)) if is_it => break,
            Step::Record(Record::End(Ending::Dropped, _)) => found.clear(),
            Step::Record(_) => {}
        }
    }
    Ok(found)
}

/// Adds a hole. Where a long one is divided says nothing: it comes as the source had it at hand.
fn add_hole<T>(pieces: &mut Vec<Piece<T>>, len: u64) {
    match pieces.last_mut() {
        Some((None, before)) => *before += len,
        _ => pieces.push((None, len)),
    }
}

/// Where two contents of the same length differ, as far as their pieces tell, in whole blocks; `None` if their lengths differ.
fn differing<T: PartialEq>(a: &[Piece<T>], b: &[Piece<T>]) -> Option<Vec<(u64, u64)>> {
    let (mut a, mut b) = (a.iter(), b.iter());
    let (mut ranges, mut start): (Vec<(u64, u64)>, u64) = (vec![], 0);
    loop {
        let (one, other) = match (a.next(), b.next()) {
            (None, None) => return Some(ranges),
            (one, other) => (one?, other?),
        };
        let (mut end, mut other_end) = (start + one.1, start + other.1);
        if one != other {
            while end != other_end {
                if end < other_end {
                    end += a.next()?.1;
                } else {
                    other_end += b.next()?.1;
                }
            }
            let block = BLOCK as u64;
            // The header of an extension stands in the block before it.
            let from = (start - start % block).saturating_sub(block);
            let to = end.next_multiple_of(block);
            match ranges.last_mut() {
                Some(last) if from <= last.1 => last.1 = to,
                _ => ranges.push((from, to)),
            }
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, time: &str) -> Vec<u8> {
        typed(name, time, b'0', 0)
    }

    fn typed(name: &str, time: &str, kind: u8, size: usize) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[SIZE].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[TYPE] = kind;
        block[136..136 + time.len()].copy_from_slice(time.as_bytes());
        block[257..262].copy_from_slice(b"ustar");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn only_times_of_headers_may_differ() {
        let one = header("a", "14000000000");
        assert!(is_same(&one, &header("a", "14000000001")));
        assert!(!is_same(&one, &header("b", "14000000000")));
        let mut data = one.clone();
        data[140] = b'7';
        assert!(!is_same(&one, &data), "its sum is wrong: it is no header");
        assert!(is_same(&data, &data.clone()));
        let extended = |records: &str| {
            let mut content = records.as_bytes().to_vec();
            content.resize(BLOCK, 0);
            [typed("x", "1", EXTENSION, records.len()), content, header("a", "2")].concat()
        };
        let time = extended("20 mtime=1764179100\n6 a=b\n");
        assert!(is_same(&time, &extended("22 mtime=1764179100.5\n6 a=b\n")));
        assert!(!is_same(&time, &extended("20 mtime=1764179100\n6 a=c\n")));
        assert!(!is_same(&time, &extended("99 mtime=1764179100\n6 a=b\n")));
        assert!(!is_same(&time, &time[..2 * BLOCK]));
    }

    #[test]
    fn stretches_that_differ() {
        let piece = |id: u8, len: u64| (Some(id), len);
        let a = [piece(1, 1000), piece(2, 24), piece(3, 4096), piece(4, 10)];
        assert_eq!(differing(&a, &a), Some(vec![]));
        let b = [piece(1, 1000), piece(9, 24), piece(3, 4096), piece(4, 10)];
        assert_eq!(differing(&a, &b), Some(vec![(0, 1024)]));
        let b = [piece(8, 1024), piece(3, 4096), piece(4, 10)];
        assert_eq!(differing(&a, &b), Some(vec![(0, 1024)]));
        let b = [piece(8, 1024), (None, 4096), piece(7, 10)];
        assert_eq!(differing(&a, &b), Some(vec![(0, 5632)]));
        let mut holes = vec![piece(1, 512)];
        [512, 1024].into_iter().for_each(|len| add_hole(&mut holes, len));
        assert_eq!(holes, [piece(1, 512), (None, 1536)]);
        assert_eq!(differing(&a, &a[..3]), None);
        assert_eq!(differing(&a, &[piece(1, 6000)]), None);
    }
}
