//! What lies in the inbox of a host.

use crate::format::names;
use crate::id::ObjectId;
use crate::storage::Storage;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// A run, as a listing shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Whether it has a commit: otherwise it is under way, or was interrupted.
    pub is_committed: bool,
    /// Names of its objects, the commit last.
    pub objects: Vec<String>,
    /// Bytes of them.
    pub bytes: u64,
}

/// What lies in all inboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inboxes {
    /// The runs of each host, by number.
    pub runs: BTreeMap<ObjectId, BTreeMap<u64, Run>>,
    /// Objects there that belong to no run.
    pub strays: u64,
}

impl Inboxes {
    /// Lists them: one request, as long as little waits.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub fn list(storage: &dyn Storage) -> Result<Self> {
        let mut all = Self::default();
        let listed = storage.list(names::INBOX, &mut |name, len| match names::run_of(name) {
            Some((host, run, last)) => {
                let run = all.runs.entry(host).or_default().entry(run).or_default();
                run.is_committed |= last == names::COMMIT;
                run.bytes += len;
                run.objects.push(name.to_owned());
            }
            None => all.strays += 1,
        });
        listed.map_err(Error::from)?;
        for run in all.runs.values_mut().flat_map(BTreeMap::values_mut) {
            run.objects.sort_by_key(|name| name.ends_with(names::COMMIT));
        }
        Ok(all)
    }
}
