//! Whether HEAD and `config` are of one place. If they differ, one of them was put here from another place: the index
//! segments that HEAD names tell which.

use super::HeadStore;
use crate::config::Config;
use crate::format::{MAX_SEGMENT_LEN, MAX_SMALL_LEN, names};
use crate::head::{Head, LeafRef};
use crate::storage::ErrorKind;
use crate::{Error, Result};

impl HeadStore {
    /// Whether a HEAD belongs to this place: any of its leaves or index segments is here. Each place writes leaves and
    /// segments of its own, so those of another place are not.
    pub(super) fn is_of_this_place(&self, head: &Head) -> Result<bool> {
        let segments = head.segments.readable().map(|segment| names::segment(&segment.id));
        for name in head.leaves().flat_map(LeafRef::names).chain(segments) {
            match self.storage.len(&name) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// The error for a `config` of another place beside a HEAD of this one.
    pub(super) fn foreign_config(&self, head: &Head) -> Error {
        let copies = names::copies(names::CONFIG).filter(|_| self.storage.keeps_copies());
        let foreign: Vec<String> = std::iter::once(names::CONFIG.to_owned())
            .chain(copies)
            .filter(|name| {
                let read = self.storage.get(name, MAX_SMALL_LEN).map_err(Error::from);
                read.and_then(|bytes| Config::read(&bytes)).is_ok_and(|config| config.tier == self.home)
            })
            .collect();
        let repair = head.tier.as_ref().map_or_else(String::new, |tier| format!(" --tier {tier}"));
        let why = format!(
            "it is the config of {}, and this is the place of {}, as HEAD and the index say. Move {} out of {}; then \
             'esker repair head{repair}' puts the right config back, from a copy of it or from another place of esker.toml",
            called(self.home.as_deref()),
            called(head.home.as_deref()),
            foreign.join(", "),
            self.storage.place(),
        );
        Error::corrupt(names::CONFIG, why)
    }

    /// Refuses a `config` of another place, if HEAD or one of its copies says that it is one: a HEAD that is rebuilt
    /// with it would never be taken for one of this place again.
    pub(crate) fn refuse_foreign_config(&self) -> Result<()> {
        let there = self.storage.read_head().ok().flatten().map(|(sealed, _)| sealed);
        let copies = names::copies(names::HEAD).filter(|_| self.storage.keeps_copies());
        let copies = copies.filter_map(|name| self.storage.get(&name, MAX_SEGMENT_LEN).ok());
        for sealed in there.into_iter().chain(copies) {
            let Ok(head) = self.unseal_any(&sealed) else { continue };
            if head.home != self.home && self.is_of_this_place(&head)? {
                return Err(self.foreign_config(&head));
            }
        }
        Ok(())
    }
}

/// The place that was made as the tier `home`, or as the primary.
pub(crate) fn called(home: Option<&str>) -> String {
    home.map_or_else(|| "the primary".to_owned(), |tier| format!("tier '{tier}'"))
}
