//! Sources made of sources: several in one snapshot, and one whose records say when it was read.

use super::{Clock, Item, Scanner, Source, SourceError, SourceErrorKind};
use crate::Monitor;
use crate::entry::{Kind, compare_paths};
use crate::snapshot::SourceRecord;

/// A source whose records say when it was read, if it does not say so itself.
pub struct Stamped {
    source: Box<dyn Source>,
    clock: Clock,
    start: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
}

impl Stamped {
    /// One that looks at `clock`.
    #[must_use]
    pub fn new(source: Box<dyn Source>, clock: Clock) -> Self {
        Self { source, clock, start: None, end: None }
    }
}

impl Source for Stamped {
    fn records(&self) -> Vec<SourceRecord> {
        let mut records = self.source.records();
        for record in &mut records {
            record.start = record.start.or(self.start);
            record.end = record.end.or(self.end);
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        self.source.paths()
    }
    fn command_words(&self) -> Option<Vec<std::ffi::OsString>> {
        self.source.command_words()
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        self.start = Some((self.clock)());
        self.source.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let item = self.source.next_item(monitor)?;
        if item.is_none() {
            self.end = Some((self.clock)());
        }
        Ok(item)
    }
    fn look_again(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        self.source.look_again(monitor)
    }
    fn scanner(&self) -> Option<Scanner> {
        self.source.scanner()
    }
    fn tolerates_item_errors(&self) -> bool {
        self.source.tolerates_item_errors()
    }
}

/// Several sources in one snapshot: all are started before the first is read, and their entries come in
/// the order of a manifest. Paths of two sources must not be the same; folders above them may.
pub struct Several {
    sources: Vec<Box<dyn Source>>,
    /// The next item of each; `None` before it was asked for and after the last.
    heads: Vec<Head>,
    /// The last folder: two servers of a kind share the one above them, and both name it at the same time.
    folder: Vec<u8>,
    /// The source whose item came last.
    last: usize,
}

enum Head {
    Unknown,
    Item(Box<Item>),
    End,
}

impl Several {
    /// One source of all of these.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        let heads = sources.iter().map(|_| Head::Unknown).collect();
        Self { sources, heads, folder: vec![], last: 0 }
    }
}

impl Source for Several {
    fn records(&self) -> Vec<SourceRecord> {
        self.sources.iter().flat_map(|source| source.records()).collect()
    }
    fn paths(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| source.paths()).collect()
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        self.sources.iter_mut().try_for_each(|source| source.start(seed))
    }
    fn tolerates_item_errors(&self) -> bool {
        // Others have no errors of single items.
        self.sources.iter().any(|source| source.tolerates_item_errors())
    }
    fn scanner(&self) -> Option<Scanner> {
        // All of them, or the sum would say that too little is left.
        let scanners: Vec<_> = self.sources.iter().map(|source| source.scanner()).collect::<Option<_>>()?;
        Some(Box::new(move |monitor, stop| scanners.into_iter().for_each(|scan| scan(monitor, stop))))
    }
    fn look_again(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        // Nothing was asked of it since: its head is unknown.
        self.sources.get_mut(self.last).map_or(Ok(None), |source| source.look_again(monitor))
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        loop {
            for (source, head) in self.sources.iter_mut().zip(&mut self.heads) {
                if matches!(head, Head::Unknown) {
                    *head = source.next_item(monitor)?.map_or(Head::End, |item| Head::Item(Box::new(item)));
                }
            }
            let heads = self.heads.iter_mut().enumerate().filter(|(_, head)| matches!(head, Head::Item(_)));
            let first = heads.min_by(|(_, a), (_, b)| match (a, b) {
                (Head::Item(a), Head::Item(b)) => compare_paths(&a.entry.path, &b.entry.path),
                _ => std::cmp::Ordering::Equal,
            });
            let Some((number, first)) = first else { return Ok(None) };
            self.last = number;
            let Head::Item(item) = std::mem::replace(first, Head::Unknown) else { return Ok(None) };
            if item.entry.kind == Kind::Dir {
                if self.folder == item.entry.path {
                    continue;
                }
                self.folder.clone_from(&item.entry.path);
                return Ok(Some(*item));
            }
            let twice = self
                .heads
                .iter()
                .any(|head| matches!(head, Head::Item(other) if other.entry.path == item.entry.path));
            if twice {
                let path = item.entry.display_path();
                return Err(SourceError::new(
                    SourceErrorKind::Missing,
                    path,
                    "two sources have this path; back each of them up by a command of its own",
                ));
            }
            return Ok(Some(*item));
        }
    }
}
