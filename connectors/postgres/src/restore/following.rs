//! What follows the rows, and how far pg_restore has come with it: an index, or a constraint, takes time with the rows that
//! it is over, so their bytes are what is counted.
//! Source: what `pg_restore --verbose` reports, `pg_backup_archiver.c` (`mark_restore_job_done`, `restore_toc_entry`).

use super::relations::rows_of_all;
use crate::toc::{Toc, TocEntry};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of a line that is longer, the rest counts as another.
const MAX_LINE: u64 = 64 << 10;
/// What a program of PostgreSQL's begins a complaint with, behind its name.
const COMPLAINTS: [&str; 6] = ["error: ", "warning: ", "detail: ", "hint: ", "while ", "from TOC entry "];

/// Entries that follow the rows.
pub(super) struct Following {
    indexes: usize,
    constraints: usize,
    /// Bytes of the rows that an entry is over.
    weights: BTreeMap<i64, u64>,
    /// Entries by what a single process says when it begins one.
    begun: BTreeMap<String, Vec<i64>>,
}

impl Following {
    /// Entries `ids` of `toc`; `sizes` are the bytes of rows by their own entries.
    pub(super) fn of(toc: &Toc, ids: &[i64], sizes: &BTreeMap<i64, u64>) -> Self {
        let mut own = Self { indexes: 0, constraints: 0, weights: BTreeMap::new(), begun: BTreeMap::new() };
        let rows = rows_of_all(toc);
        for entry in ids.iter().filter_map(|id| toc.get(*id)) {
            match entry.kind.as_str() {
                "INDEX" => own.indexes += 1,
                "CONSTRAINT" | "FK CONSTRAINT" | "CHECK CONSTRAINT" => own.constraints += 1,
                _ => continue,
            }
            let over = entry.needs.iter().filter_map(|id| sizes.get(rows.get(id)?));
            own.weights.insert(entry.id, over.sum());
            own.begun.entry(begun(entry)).or_default().push(entry.id);
        }
        own
    }

    pub(super) fn title(&self) -> String {
        format!(
            "indexes ({}), constraints ({}) and what else follows the rows",
            self.indexes, self.constraints
        )
    }

    /// Bytes of rows that all of them are over.
    pub(super) fn total(&self) -> u64 {
        self.weights.values().sum()
    }

    /// Of an entry that is done; of none twice.
    fn take(&mut self, id: i64) -> u64 {
        self.weights.remove(&id).unwrap_or(0)
    }
}

/// `creating INDEX "public.name"`.
fn begun(entry: &TocEntry) -> String {
    match entry.namespace.as_str() {
        "" => format!("{} \"{}\"", entry.kind, entry.tag),
        namespace => format!("{} \"{namespace}.{}\"", entry.kind, entry.tag),
    }
}

/// What pg_restore says, without its progress, which is counted.
pub(super) struct Said<R> {
    from: BufReader<R>,
    following: Following,
    /// Whether several processes work, which say when they are done; one says what it begins.
    is_parallel: bool,
    current: Option<i64>,
    done: Arc<AtomicU64>,
    /// The complaint that is handed on, and how much of it was.
    line: (Vec<u8>, usize),
}

impl<R: Read> Said<R> {
    /// Adds bytes that are done to `done`.
    pub(super) fn new(from: R, following: Following, is_parallel: bool, done: Arc<AtomicU64>) -> Self {
        let from = BufReader::new(from);
        Self { from, following, is_parallel, current: None, done, line: (vec![], 0) }
    }

    /// Whether it is a complaint; progress is counted.
    fn see(&mut self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        let Some(said) = line.strip_prefix("pg_restore: ") else { return true };
        if COMPLAINTS.iter().any(|word| said.starts_with(word)) {
            return true;
        }
        let said = said.trim_end_matches('\n');
        let mut done = None;
        if let Some(item) = said.strip_prefix("finished item ").filter(|_| self.is_parallel) {
            done = item.split(' ').next().and_then(|id| id.parse().ok());
        } else if let Some(item) = said.strip_prefix("creating ").filter(|_| !self.is_parallel) {
            let next = self.following.begun.get_mut(item).and_then(Vec::pop);
            done = std::mem::replace(&mut self.current, next);
        }
        if let Some(id) = done {
            self.done.fetch_add(self.following.take(id), Ordering::Relaxed);
        }
        false
    }
}

impl<R: Read> Read for Said<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.line.0.len() == self.line.1 {
            let mut line = vec![];
            if (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(0);
            }
            if self.see(&line) {
                self.line = (line, 0);
            }
        }
        let (line, at) = &mut self.line;
        let len = line.get(*at..).unwrap_or_default().read(out)?;
        *at += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index and a key of a table of 100 bytes, a key of it to itself, and a comment.
    fn following() -> Following {
        let (mut toc, _) = Toc::parse(&crate::toc::tests::sample()).unwrap();
        let first = toc.entries[0].clone();
        let entry = |id: i64, kind: &str, tag: &str, needs: &[i64]| {
            let mut entry = first.clone();
            (entry.id, entry.kind, entry.tag, entry.namespace) =
                (id, kind.into(), tag.into(), "public".into());
            (entry.bytes.tag, entry.bytes.namespace) = (tag.into(), b"public".to_vec());
            (entry.needs, entry.has_data) = (needs.to_vec(), kind == "TABLE DATA");
            entry
        };
        toc.entries = vec![
            entry(11, "TABLE", "t", &[]),
            entry(12, "TABLE DATA", "t", &[11]),
            entry(13, "INDEX", "i", &[11]),
            entry(14, "CONSTRAINT", "t t_pkey", &[11]),
            entry(15, "FK CONSTRAINT", "t t_fkey", &[11, 14]),
            entry(16, "COMMENT", "i", &[13]),
        ];
        toc.retain(|_| true);
        Following::of(&toc, &[13, 14, 15, 16], &BTreeMap::from([(12, 100)]))
    }

    fn heard(text: &str, is_parallel: bool) -> (String, u64) {
        let done = Arc::new(AtomicU64::new(0));
        let mut heard = String::new();
        let mut said = Said::new(text.as_bytes(), following(), is_parallel, Arc::clone(&done));
        said.read_to_string(&mut heard).unwrap();
        (heard, done.load(Ordering::Relaxed))
    }

    #[test]
    fn what_is_done_is_counted_and_complaints_go_on() {
        assert_eq!(
            (following().total(), following().title().as_str()),
            (300, "indexes (1), constraints (2) and what else follows the rows")
        );
        let complaint = "pg_restore: from TOC entry 15; 2606 1 FK CONSTRAINT t t_fkey me\n\
            pg_restore: error: could not execute query: ERROR:  no\nDETAIL:  why\nCommand was: ALTER\n";
        let several = format!(
            "pg_restore: launching item 13 INDEX i\npg_restore: creating INDEX \"public.i\"\n\
             pg_restore: finished item 13 INDEX i\npg_restore: finished item 13 INDEX i\n\
             pg_restore: finished item 99 ACL x\npg_restore: finished item x\n{complaint}"
        );
        assert_eq!(heard(&several, true), (complaint.to_owned(), 100));
        let one = format!(
            "pg_restore: creating INDEX \"public.i\"\npg_restore: creating CONSTRAINT \"public.t t_pkey\"\n\
             pg_restore: creating COMMENT \"public.i\"\n{complaint}without an end"
        );
        assert_eq!(heard(&one, false), (format!("{complaint}without an end"), 200));
        let long = "x".repeat(200_000);
        assert_eq!(heard(&long, true), (long, 0));
    }
}
