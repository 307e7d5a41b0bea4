//! The base of a live stream as a source: the received dump, in order, with its index and the usage of keys.

use crate::rdb::canonical::{Canonical, Gathered, Output, Sides};
use crate::rdb::check::Flaws;
use engine::Monitor;
use engine::entry::Time;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::end_mark::Flaws as _;
use engine::source::{Content, Item, Opener, Piece, Source, SourceError};
use engine::spill::Aside;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Name of the dump in a journal's folder; its index and its uses stand beside it.
pub(super) const DUMP: &str = "dump.rdb";

/// A base that was just gathered.
pub(super) struct BaseSource {
    dump: String,
    details: BTreeMap<String, String>,
    /// What is wrong in the dump; told once.
    flaws: Flaws,
    items: VecDeque<Item>,
    time: Time,
    /// Known once the dump is read.
    sides: Rc<RefCell<Option<Sides>>>,
    seed: Rc<RefCell<[u64; 2]>>,
}

impl BaseSource {
    pub(super) fn new(
        folder: &str,
        gathered: Gathered,
        time: Time,
        details: BTreeMap<String, String>,
        scratch: &Path,
    ) -> Self {
        let (sides, seed) = (Rc::<RefCell<Option<Sides>>>::default(), Rc::<RefCell<[u64; 2]>>::default());
        let mut items: VecDeque<Item> =
            folder.match_indices('/').map(|(end, _)| Item::folder(&folder[..end], time)).collect();
        items.push_back(Item::folder(folder, time));
        let dump = format!("{folder}/{DUMP}");
        let flaws = gathered.flaws.clone();
        let mut details = details;
        details.extend(flaws.details().into_iter().map(|(name, value)| (name.to_owned(), value)));
        let (told, its_seed, scratch) = (Rc::clone(&sides), Rc::clone(&seed), scratch.to_owned());
        let open: Opener = Box::new(move || {
            Ok(Box::new(BaseContent::new(gathered, scratch, *its_seed.borrow(), told)) as Box<dyn Content>)
        });
        items.push_back(Item::stream(&dump, time, open));
        Self { dump, details, flaws, items, time, sides, seed }
    }

    /// What the dump left beside it.
    fn sides(&self) -> VecDeque<Item> {
        let Some(sides) = self.sides.borrow_mut().take() else { return VecDeque::new() };
        let item =
            |name: &str, bytes: Aside| AtHand::opened(&format!("{}.{name}", self.dump), self.time, bytes);
        let usage = sides.usage.map(|usage| item("usage", usage));
        std::iter::once(item("index", sides.index)).chain(usage).collect()
    }
}

impl Source for BaseSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new(super::KIND, "", true);
        record.details = self.details.clone();
        vec![record]
    }
    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.dump)]
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        *self.seed.borrow_mut() = seed;
        Ok(())
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if self.items.is_empty() {
            std::mem::take(&mut self.flaws).tell(&self.dump, monitor);
            self.items = self.sides();
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
        let told = |error| crate::dump::told(error, "base of the journal");
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
