//! How the rows of a dump are shared out among sessions: small tables in groups, tables as a whole, the largest first, and at
//! the end large tables in stretches, so that no session is without work while another has a table left. Rows of COPY's text
//! format end at line feeds, of which a value has none (it writes them as `\n`), in whatever encoding; so a stretch of a file
//! is one of rows, but for its first and its last, which are sent with the stretch that they begin in.
//! Source: PostgreSQL's documentation, COPY, "Text Format".

use crate::Connection;
use crate::connection::PgResult;
use crate::end_mark::Unpacked;
use std::collections::VecDeque;
use std::ops::Range;

/// What pg_dump ends a table's rows with.
pub(super) const END_OF_ROWS: &[u8] = b"\\.\n\n\n";
/// Bytes of a large table that one session puts in at a time. The table's pages come in the order in which sessions fill
/// them, so that rows which stood together are not further apart than a stretch for each session.
const STRETCH: u64 = 16 << 20;
/// Tables up to so many bytes are put in together, by one session.
const SMALL: u64 = 1 << 20;
/// So many at most.
const TOGETHER: usize = 100;
/// Rows from which on they are sent as they are, without being copied into a message.
const MUCH: usize = 16 << 10;

/// What one session does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Tables, by their places in the list, one after the other.
    Tables(Vec<usize>),
    /// A part of a table's file, in bytes.
    Stretch(usize, Range<u64>),
}

/// Shares tables out; `sizes` are the bytes of their rows, in the dump's order, which a single session keeps. Tables come as a
/// whole unless they `can_be_cut`.
pub(super) fn tasks(sizes: &[u64], jobs: usize, can_be_cut: bool) -> VecDeque<Task> {
    let total: u64 = sizes.iter().sum();
    // A table of more than that may be what the others wait for at the end.
    let bound = match jobs {
        _ if !can_be_cut => u64::MAX,
        0 | 1 => u64::MAX,
        jobs => (total / (2 * jobs as u64)).max(2 * STRETCH),
    };
    let (mut whole, mut stretches): (Vec<(u64, Vec<usize>)>, _) = (vec![], VecDeque::new());
    for (table, size) in sizes.iter().copied().enumerate() {
        if size > bound {
            let from = (0..size).step_by(STRETCH as usize);
            stretches.extend(from.map(|from| Task::Stretch(table, from..(from + STRETCH).min(size))));
            continue;
        }
        match whole.last_mut() {
            Some((sum, tables)) if *sum + size <= SMALL && tables.len() < TOGETHER => {
                *sum += size;
                tables.push(table);
            }
            _ => whole.push((size, vec![table])),
        }
    }
    if jobs > 1 {
        whole.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    }
    let mut all: VecDeque<Task> = whole.into_iter().map(|(_, tables)| Task::Tables(tables)).collect();
    all.append(&mut stretches);
    all
}

/// What takes rows.
pub(super) trait Taker {
    /// Takes some.
    fn take(&mut self, rows: &[u8]) -> PgResult<()>;
}

impl Taker for Connection {
    fn take(&mut self, rows: &[u8]) -> PgResult<()> {
        match rows.len() {
            0 => Ok(()),
            len if len < MUCH => self.send_data(rows),
            _ => self.send_much(rows),
        }
    }
}

/// Of a file's bytes, the rows that begin in a range, whole.
pub(super) struct Rows {
    /// Where in the file the next byte is.
    at: u64,
    range: Range<u64>,
    /// Bytes of all rows.
    len: u64,
    /// Whether the first row is another stretch's.
    is_before: bool,
    is_done: bool,
    /// What came behind the rows.
    end: Vec<u8>,
}

impl Rows {
    /// Those of `range`, in a file that has `len` bytes of rows.
    pub(super) fn new(range: Range<u64>, len: u64) -> Self {
        let is_before = range.start > 0;
        let at = range.start.saturating_sub(1);
        Self { at, range, len, is_before, is_done: false, end: vec![] }
    }

    /// What is to be read first: with the byte before, which tells whether a row begins here, and with what ends the file.
    pub(super) fn wanted(&self) -> Range<u64> {
        let to = if self.range.end < self.len { self.range.end } else { self.len + END_OF_ROWS.len() as u64 };
        self.at..to
    }

    /// Where to read on, if the last row has not ended.
    pub(super) fn lacking(&self) -> Option<u64> {
        (!self.is_done && self.at < self.len).then_some(self.at)
    }

    /// Whether the file ended as pg_dump ends one; of a stretch before its end, yes.
    pub(super) fn ended_well(&self) -> bool {
        self.range.end < self.len || self.end == END_OF_ROWS
    }

    /// Takes the next bytes of the file, and hands on what are rows of this range.
    pub(super) fn see(&mut self, bytes: &[u8], taker: &mut dyn Taker) -> PgResult<()> {
        let (start, until) = (self.at, self.len.saturating_sub(self.at));
        self.at += bytes.len() as u64;
        let (rows, end) = bytes.split_at(bytes.len().min(usize::try_from(until).unwrap_or(usize::MAX)));
        self.end.extend_from_slice(&end[..end.len().min(END_OF_ROWS.len() + 1)]);
        if self.is_done {
            return Ok(());
        }
        let mut from = 0;
        if self.is_before {
            let Some(feed) = memchr::memchr(b'\n', rows) else { return Ok(()) };
            (from, self.is_before) = (feed + 1, false);
            self.is_done = start + from as u64 >= self.range.end && self.range.end < self.len;
        }
        let mut to = rows.len();
        let last = self.range.end.saturating_sub(1);
        if !self.is_done && self.range.end < self.len && start + rows.len() as u64 > last {
            let look = usize::try_from(last.saturating_sub(start)).unwrap_or(usize::MAX).max(from);
            if let Some(feed) = memchr::memchr(b'\n', rows.get(look..).unwrap_or_default()) {
                (to, self.is_done) = (look + feed + 1, true);
            }
        } else if self.is_done {
            to = from;
        }
        taker.take(rows.get(from..to).unwrap_or_default())
    }
}

/// Rows of a table in a dump of custom format, which has them in pieces of any length.
pub(super) struct Block {
    id: i64,
    unpacked: Unpacked,
    /// What may be the end.
    held: Vec<u8>,
}

impl Block {
    /// Those of the entry `id`; numbers in the dump have `int_len` bytes.
    pub(super) fn new(id: i64, int_len: usize) -> Self {
        Self { id, unpacked: Unpacked::new(int_len), held: vec![] }
    }

    /// Whether the block ended, and its rows as pg_dump ends them.
    pub(super) fn ended_well(&self) -> bool {
        self.unpacked.is_whole() && self.held == END_OF_ROWS
    }

    /// Takes the next bytes of the block, and hands on what are rows.
    pub(super) fn see(&mut self, bytes: &[u8], taker: &mut dyn Taker) -> PgResult<()> {
        let mut rows = std::mem::take(&mut self.held);
        let wanted = self.id;
        self.unpacked.see(bytes, &mut |id, piece| {
            if id != wanted {
                return Err(std::io::Error::other("rows of another table are where its own should be"));
            }
            rows.extend_from_slice(piece);
            Ok(())
        })?;
        self.held = rows.split_off(rows.len().saturating_sub(END_OF_ROWS.len()));
        taker.take(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Taker for Vec<u8> {
        fn take(&mut self, rows: &[u8]) -> PgResult<()> {
            self.extend_from_slice(rows);
            Ok(())
        }
    }

    /// What a range of a file sends, if it comes in pieces of so many bytes.
    fn sent(file: &[u8], range: Range<u64>, piece: usize) -> Vec<u8> {
        let len = (file.len() - END_OF_ROWS.len()) as u64;
        let (mut rows, mut out) = (Rows::new(range, len), vec![]);
        let wanted = rows.wanted();
        for bytes in file[wanted.start as usize..wanted.end as usize].chunks(piece) {
            rows.see(bytes, &mut out).unwrap();
        }
        while let Some(at) = rows.lacking() {
            let to = (at as usize + piece).min(len as usize);
            rows.see(&file[at as usize..to], &mut out).unwrap();
        }
        assert!(rows.ended_well());
        out
    }

    #[test]
    fn each_row_is_sent_once_however_a_file_is_cut() {
        for rows in ["a\nbb\n\nccccccccc\nd\n", "long row that is longer than all\n", "\n\n\n", ""] {
            let file = [rows.as_bytes(), END_OF_ROWS].concat();
            for stretch in 1..=rows.len().max(1) {
                for piece in [1, 2, 3, 7, 100] {
                    let ranges = (0..rows.len().max(1)).step_by(stretch);
                    let all: Vec<u8> = ranges
                        .flat_map(|from| {
                            let to = (from + stretch).min(rows.len());
                            let part = sent(&file, from as u64..to as u64, piece);
                            assert!(part.is_empty() || part.ends_with(b"\n"));
                            part
                        })
                        .collect();
                    assert_eq!(String::from_utf8(all).unwrap(), rows, "{stretch} {piece}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_does_not_end_is_found_out() {
        let mut rows = Rows::new(0..4, 4);
        let mut out = vec![];
        rows.see(b"a\nb\n\\.\n\nx", &mut out).unwrap();
        assert_eq!((out.as_slice(), rows.ended_well()), (&b"a\nb\n"[..], false));
    }

    /// A block of a dump in custom format with numbers of four bytes.
    fn block(id: i32, rows: &[u8], piece: usize) -> Vec<u8> {
        let number = |value: usize| [&[0], &u32::try_from(value).unwrap().to_le_bytes()[..]].concat();
        let mut block = [&[1], &number(id as usize)[..]].concat();
        for piece in rows.chunks(piece) {
            block.extend(number(piece.len()));
            block.extend(piece);
        }
        block.extend(number(0));
        block
    }

    #[test]
    fn rows_come_out_of_a_block_without_their_end() {
        for rows in ["a\nbb\n", "", "\n"] {
            let whole = block(7, &[rows.as_bytes(), END_OF_ROWS].concat(), 3);
            for piece in [1, 2, 5, 100] {
                let (mut own, mut out) = (Block::new(7, 4), vec![]);
                for bytes in whole.chunks(piece) {
                    assert!(!own.ended_well());
                    own.see(bytes, &mut out).unwrap();
                }
                assert_eq!((out.as_slice(), own.ended_well()), (rows.as_bytes(), true));
            }
        }
        let mut out = vec![];
        assert!(Block::new(8, 4).see(&block(7, b"a\n", 3), &mut out).is_err());
        let mut cut = Block::new(7, 4);
        cut.see(&block(7, b"a\nb\n", 3), &mut out).unwrap();
        assert!(!cut.ended_well());
    }

    #[test]
    fn every_byte_is_some_sessions_task() {
        let big = 20 * STRETCH + 5;
        for jobs in [1, 2, 4, 8] {
            let mut sizes = vec![10; 1000];
            sizes.extend([big, 3 * SMALL, 0, SMALL / 2, SMALL, big / 2]);
            let tasks = tasks(&sizes, jobs, true);
            let mut seen = vec![vec![]; sizes.len()];
            for task in &tasks {
                match task {
                    Task::Tables(all) => {
                        assert!(all.len() <= TOGETHER);
                        all.iter().for_each(|table| seen[*table].push(0..sizes[*table]));
                    }
                    Task::Stretch(table, range) => seen[*table].push(range.clone()),
                }
            }
            for (size, ranges) in sizes.iter().zip(&seen) {
                let mut at = 0;
                for range in ranges {
                    assert_eq!(range.start, at);
                    at = range.end;
                }
                assert_eq!((at, ranges.is_empty()), (*size, false));
            }
            let stretched = tasks.iter().filter(|task| matches!(task, Task::Stretch(..))).count();
            assert_eq!(stretched > 0, jobs > 1, "{jobs} {stretched}");
            if jobs == 1 {
                // The dump's order.
                let order: Vec<usize> = tasks
                    .iter()
                    .flat_map(|task| match task {
                        Task::Tables(all) => all.clone(),
                        Task::Stretch(table, _) => vec![*table],
                    })
                    .collect();
                assert!(order.is_sorted());
            }
        }
        assert_eq!(super::tasks(&[], 4, true).len(), 0);
        // What cannot be cut comes as a whole.
        assert_eq!(super::tasks(&[big, 1], 4, false), [Task::Tables(vec![0]), Task::Tables(vec![1])]);
    }
}
