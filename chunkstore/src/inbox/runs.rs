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

/// The runs in the inbox of a host, by number; and how many objects there belong to none.
///
/// # Errors
///
/// Of the store.
pub fn runs_of(storage: &dyn Storage, host: &ObjectId) -> Result<(BTreeMap<u64, Run>, u64)> {
    let (mut runs, mut strays) = (BTreeMap::<u64, Run>::new(), 0);
    let listed = storage.list(&names::inbox(host), &mut |name, len| match names::run_of(name) {
        Some((of, run, last)) if of == *host => {
            let run = runs.entry(run).or_default();
            run.is_committed |= last == names::COMMIT;
            run.bytes += len;
            run.objects.push(name.to_owned());
        }
        _ => strays += 1,
    });
    listed.map_err(Error::from)?;
    for run in runs.values_mut() {
        run.objects.sort_by_key(|name| name.ends_with(names::COMMIT));
    }
    Ok((runs, strays))
}
