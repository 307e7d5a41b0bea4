//! The write-ahead log: positions, the names of its segments, and the transactions in it, by which a moment to
//! recover to is known to lie within it.
//! Source: PostgreSQL's `xlog_internal.h` (pages, names), `xlogrecord.h` (records), `xact.h` (commits), versions 10 to 18.

/// Bytes of a page.
const PAGE: usize = 8192;
/// Header of a page, and of a segment's first.
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;
/// The page begins within a record.
const CONTINUES: u16 = 1;
const LONG: u16 = 2;
const XACT: u8 = 1;
/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
pub const EPOCH_2000: i64 = 946_684_800_000_000;

/// `1/882535C0` as a number.
#[must_use]
pub fn parse_position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

/// A number as `1/882535C0`.
#[must_use]
pub fn shown(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// Bytes of a segment, unless the server was made with others.
pub const SEGMENT_LEN: u64 = 16 << 20;

/// Whether a server can have segments of so many bytes: a power of two from 1 MiB to 1 GiB.
#[must_use]
pub fn is_segment_len(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

/// A server's word for a segment's length, such as `16MB`.
#[must_use]
pub fn parse_segment_len(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit: u64 = match text.get(digits.len()..)? {
        "GB" => 1 << 30,
        "MB" => 1 << 20,
        "kB" => 1 << 10,
        "" | "B" => 1,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| is_segment_len(*bytes))
}

/// The file name of the segment that holds a position; `segment_len` is one that [`is_segment_len`].
#[must_use]
pub fn segment_name(timeline: u32, position: u64, segment_len: u64) -> String {
    let (number, each) = (position / segment_len, (1u64 << 32) / segment_len);
    format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
}

/// The first position of the segment with a file name, 24 hexadecimal digits; `segment_len` is one that
/// [`is_segment_len`].
#[must_use]
pub fn segment_start(name: &str, segment_len: u64) -> Option<u64> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
    let each = (1u64 << 32) / segment_len;
    let number = part(16).filter(|number| *number < each)?;
    part(8)?.checked_mul(each)?.checked_add(number)?.checked_mul(segment_len)
}

/// Ends of transactions, found in segments that are read one after the other.
#[derive(Default)]
pub struct Transactions {
    /// A record that goes on in the next page, and how long it will be.
    record: Vec<u8>,
    wanted: usize,
    /// When the last transaction ended, in microseconds since 1970.
    pub last_us: Option<i64>,
    /// How many ended.
    pub count: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Transactions {
    /// Looks at the pages of a segment, or of its beginning.
    pub fn read(&mut self, segment: &[u8]) {
        for page in segment.chunks(PAGE) {
            self.page(page);
        }
    }

    fn page(&mut self, page: &[u8]) -> Option<()> {
        let (magic, info) = (u16::from_le_bytes(number(page, 0)?), u16::from_le_bytes(number(page, 2)?));
        if magic == 0 {
            self.record.clear();
            return None;
        }
        let mut at = if info & LONG != 0 { LONG_HEADER } else { SHORT_HEADER };
        if page.len() < at {
            return None;
        }
        if info & CONTINUES != 0 {
            let left = u32::from_le_bytes(number(page, 16)?) as usize;
            let here = left.min(page.len().saturating_sub(at));
            if !self.record.is_empty() {
                self.record.extend_from_slice(&page[at..at + here]);
                if self.record.len() >= self.wanted {
                    self.ended();
                }
            }
            at = (at + here).next_multiple_of(8);
        } else {
            self.record.clear();
        }
        while let Some(len) = number(page, at).map(u32::from_le_bytes) {
            let len = len as usize;
            if len < RECORD_HEADER {
                // Nothing more on this page.
                break;
            }
            let here = len.min(page.len() - at);
            self.record = page[at..at + here].to_vec();
            self.wanted = len;
            if here < len {
                break;
            }
            self.ended();
            at = (at + here).next_multiple_of(8);
        }
        Some(())
    }

    /// A record is whole.
    fn ended(&mut self) {
        let record = std::mem::take(&mut self.record);
        if let Some(time) = end_of_transaction(&record) {
            self.last_us = Some(time + EPOCH_2000);
            self.count += 1;
        }
    }
}

/// When a transaction ended, if that is what a record says; in microseconds since 2000.
fn end_of_transaction(record: &[u8]) -> Option<i64> {
    let (info, manager) = (*record.get(16)?, *record.get(17)?);
    // Commits and aborts, of prepared transactions, too.
    if manager != XACT || !matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) {
        return None;
    }
    let mut at = RECORD_HEADER;
    let main_len = loop {
        match *record.get(at)? {
            // Main data, by a short or a long length; before them, an origin and the topmost transaction.
            255 => break usize::from(*record.get(at + 1)?),
            254 => break u32::from_le_bytes(number(record, at + 1)?) as usize,
            253 => at += 3,
            252 => at += 5,
            _ => return None,
        }
    };
    let main = record.len().checked_sub(main_len)?;
    number(record, main).map(i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_positions() {
        assert_eq!(parse_position("1/882535C0"), Some(0x1_8825_35c0));
        assert_eq!(shown(0x1_8825_35c0), "1/882535C0");
        let len = 16 << 20;
        assert_eq!(segment_name(1, 0x1_8825_35c0, len), "000000010000000100000088");
        assert_eq!(segment_start("000000010000000100000088", len), Some(0x1_8800_0000));
        for name in [
            "short",
            "0000000100000001000001000",
            "00000001000000010000010g",
            "000000010000000100000100",
            "FFFFFFFFFFFFFFFFFFFFFFFF",
            "../../etc/passwd-and-more",
        ] {
            assert_eq!(segment_start(name, len), None, "{name}");
        }
    }

    #[test]
    fn lengths_of_segments_are_those_that_servers_have() {
        assert_eq!(parse_segment_len("16MB"), Some(16 << 20));
        assert_eq!(parse_segment_len("1GB"), Some(1 << 30));
        for text in ["0MB", "99999999999999GB", "17MB", "2GB", "512kB", "16TB", "", "MB", "-1MB", "16 MB"] {
            assert_eq!(parse_segment_len(text), None, "{text}");
        }
    }

    fn commit(time: i64, padding: usize) -> Vec<u8> {
        let mut record = vec![0; RECORD_HEADER];
        record[17] = XACT;
        record.push(255);
        record.push((8 + padding) as u8);
        record.extend_from_slice(&time.to_le_bytes());
        record.resize(record.len() + padding, 7);
        let len = record.len() as u32;
        record[..4].copy_from_slice(&len.to_le_bytes());
        record
    }

    #[test]
    fn commits_are_found_across_pages() {
        // One record that fills the first page but for 16 bytes, then a commit that goes on in the second.
        let mut first = vec![0; LONG_HEADER];
        first[0] = 1;
        first[2] = LONG as u8;
        let mut filler = vec![0; PAGE - LONG_HEADER - 16];
        let len = filler.len() as u32;
        filler[..4].copy_from_slice(&len.to_le_bytes());
        filler[17] = 9;
        first.extend(filler);
        let record = commit(1234, 100);
        first.extend_from_slice(&record[..16]);
        let mut second = vec![0; SHORT_HEADER];
        second[0] = 1;
        second[2] = CONTINUES as u8;
        second[16..20].copy_from_slice(&((record.len() - 16) as u32).to_le_bytes());
        second.extend_from_slice(&record[16..]);
        second.resize(second.len().next_multiple_of(8), 0);
        second.extend(commit(5678, 0));
        let pages = [first, second].concat();
        let mut found = Transactions::default();
        found.read(&pages);
        assert_eq!((found.count, found.last_us), (2, Some(5678 + EPOCH_2000)));
        // Whatever is cut off: no more than there is, and no panic.
        for len in 0..pages.len() {
            let mut found = Transactions::default();
            found.read(&pages[..len]);
            assert!(found.count <= 2);
        }
    }
}
