//! A list as a source: each item is an entry.

use crate::list::List;
use connector_kit::entries::InOrder;
use engine::source::{Item, Source, SourceError, SourceErrorKind, at_hand::AtHand};
use engine::{Monitor, entry::Time, names::encoded, snapshot::SourceRecord};

pub(crate) struct ListSource {
    list: List,
    time: Time,
    items: InOrder,
}

impl ListSource {
    pub(crate) fn new(list: List, time: Time) -> Self {
        Self { list, time, items: InOrder::default() }
    }

    /// The folder of the items in a snapshot.
    fn folder(&self) -> String {
        format!("example/{}/{}", self.list.server.address, encoded(&self.list.server.path))
    }
}

impl Source for ListSource {
    fn records(&self) -> Vec<SourceRecord> {
        // The list may change between two pages: it is of no single moment.
        vec![SourceRecord::new("example", &self.list.server.shown, false)]
    }
    fn paths(&self) -> Vec<String> {
        vec![format!("/{}", self.folder())]
    }
    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let folder = self.folder();
        let entries = self.list.items()?.into_iter().map(|item| {
            let path = format!("{folder}/{}", encoded(&item.name));
            AtHand::item(&path, self.time, item.value.to_string().into_bytes())
        });
        let entries = InOrder::beneath(&folder, self.time, entries.collect());
        self.items = entries.map_err(|why| self.list.server.error(SourceErrorKind::Incomplete, why))?;
        Ok(())
    }
    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.items.take())
    }
}
