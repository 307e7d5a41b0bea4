//! A journal as a source: the base, new or taken over, the segments that are closed, and the one that grows.

use crate::Monitor;
use crate::entry::Time;
use crate::rdb::canonical::{Canonical, Gathered, Output, Sides};
use crate::snapshot::SourceRecord;
use crate::source::stream::AtHand;
use crate::source::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind};
use crate::spill::Aside;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// The base of a journal.
pub(super) enum Base {
    /// Just gathered.
    New(Box<Gathered>),
    /// As the last snapshot has it; whether it tells of uses.
    Old { usage: bool },
}

/// The bytes of a segment that is not closed.
struct Growing(Arc<Vec<u8>>);

impl AsRef<[u8]> for Growing {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A segment of a journal.
#[derive(Clone)]
pub(super) struct SegmentEntry {
    /// Offset of its first byte, which is its name.
    pub(super) offset: u64,
    /// When its first frame came.
    pub(super) time: Time,
    /// Its bytes, while it grows; `None` once the last snapshot has all of it.
    pub(super) bytes: Option<Arc<Vec<u8>>>,
}

/// What a commit makes a snapshot of.
pub(super) struct JournalSource {
    folder: String,
    record: SourceRecord,
    items: VecDeque<Item>,
    base_time: Time,
    sides: Rc<RefCell<Option<Sides>>>,
    segments: Vec<SegmentEntry>,
    seed: Rc<RefCell<[u64; 2]>>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Base,
    Sides,
    Segments,
}

impl JournalSource {
    pub(super) fn new(
        folder: &str,
        base: Base,
        base_time: Time,
        segments: Vec<SegmentEntry>,
        details: BTreeMap<String, String>,
        origin: &str,
        scratch: &Path,
    ) -> Self {
        let mut record = SourceRecord::new(super::KIND, origin, true);
        record.details = details;
        let (sides, seed) = (Rc::<RefCell<Option<Sides>>>::default(), Rc::<RefCell<[u64; 2]>>::default());
        let mut items: VecDeque<Item> =
            folder.match_indices('/').map(|(end, _)| Item::folder(&folder[..end], base_time)).collect();
        items.push_back(Item::folder(folder, base_time));
        let dump = format!("{folder}/dump.rdb");
        match base {
            Base::New(gathered) => {
                let (told, seed, scratch) = (Rc::clone(&sides), Rc::clone(&seed), scratch.to_owned());
                let open: Opener = Box::new(move || {
                    Ok(Box::new(BaseContent::new(*gathered, scratch, *seed.borrow(), told))
                        as Box<dyn Content>)
                });
                items.push_back(Item::stream(&dump, base_time, open));
            }
            Base::Old { usage } => {
                items.push_back(taken_over(&dump, base_time));
                items.push_back(taken_over(&format!("{dump}.index"), base_time));
                if usage {
                    items.push_back(taken_over(&format!("{dump}.usage"), base_time));
                }
            }
        }
        Self {
            folder: folder.to_owned(),
            record,
            items,
            base_time,
            sides,
            segments,
            seed,
            state: State::Base,
        }
    }

    fn add_sides(&mut self) {
        let Some(sides) = self.sides.borrow_mut().take() else { return };
        let mut add = |name: &str, bytes: Aside| {
            let path = format!("{}/dump.rdb.{name}", self.folder);
            self.items.push_back(AtHand::opened(&path, self.base_time, bytes));
        };
        add("index", sides.index);
        if let Some(usage) = sides.usage {
            add("usage", usage);
        }
    }

    fn add_segments(&mut self) {
        let folder = format!("{}/stream", self.folder);
        self.items.push_back(Item::folder(&folder, self.base_time));
        for segment in std::mem::take(&mut self.segments) {
            // As many digits as the largest offset has, so that names order as offsets do.
            let path = format!("{folder}/{:020}", segment.offset);
            self.items.push_back(match segment.bytes {
                None => taken_over(&path, segment.time),
                Some(bytes) => AtHand::opened(&path, segment.time, std::io::Cursor::new(Growing(bytes))),
            });
        }
    }
}

/// An entry that the last snapshot has already.
fn taken_over(path: &str, time: Time) -> Item {
    let shown = path.to_owned();
    let open: Opener = Box::new(move || {
        let why = "the last snapshot of this journal has lost it; attach again for a new base";
        Err(SourceError::new(SourceErrorKind::Incomplete, shown, why))
    });
    Item { comparable: true, ..Item::stream(path, time, open) }
}

impl Source for JournalSource {
    fn records(&self) -> Vec<SourceRecord> {
        vec![self.record.clone()]
    }
    fn paths(&self) -> Vec<String> {
        vec![format!("/{}/dump.rdb", self.folder), format!("/{}/stream", self.folder)]
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        *self.seed.borrow_mut() = seed;
        Ok(())
    }
    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        while self.items.is_empty() {
            match self.state {
                State::Base => {
                    self.state = State::Sides;
                    self.add_sides();
                }
                State::Sides => {
                    self.state = State::Segments;
                    self.add_segments();
                }
                State::Segments => return Ok(None),
            }
        }
        Ok(self.items.pop_front())
    }
}

/// A new base.
struct BaseContent {
    canonical: Option<Box<Canonical>>,
    sides: Rc<RefCell<Option<Sides>>>,
}

impl BaseContent {
    fn new(gathered: Gathered, scratch: PathBuf, seed: [u64; 2], sides: Rc<RefCell<Option<Sides>>>) -> Self {
        Self { canonical: Some(Box::new(Canonical::new(gathered, &scratch, seed))), sides }
    }
}

impl Content for BaseContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let Some(canonical) = &mut self.canonical else { return Ok(Piece::End) };
        let told = |error| crate::source::rdb::told(error, "base of the journal");
        match canonical.next_part(buffer).map_err(told)? {
            Output::Cut => Ok(Piece::Cut),
            Output::Bytes(0) => {
                if let Some(canonical) = self.canonical.take() {
                    *self.sides.borrow_mut() = Some(canonical.finish().map_err(told)?);
                }
                Ok(Piece::End)
            }
            Output::Bytes(len) => Ok(Piece::Data(len)),
        }
    }
}
