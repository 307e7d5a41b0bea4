//! Repositories that only key services open.

use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::keys::{SlotHeader, slot_header};
use chunkstore::store::ChunkStore;

/// What to say of a repository that nothing opens once its key services have lost their keys; none if something else opens it, or no
/// key service does.
pub(crate) fn alone(store: &ChunkStore) -> Option<&'static str> {
    let head = store.head();
    let headers: Vec<SlotHeader> = head
        .slots
        .keys()
        .filter_map(|slot| {
            let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN).ok()?;
            slot_header(slot, &bytes).ok()
        })
        .collect();
    let is_alone = !headers.is_empty() && headers.iter().all(|header| header.wrapped().is_some());
    is_alone.then_some(
        "Only a key service opens this repository: whoever deletes the key there, or loses access to it, loses all of it. Make \
         a second key slot now: 'esker key sheet FILE.html', or 'esker key add'.",
    )
}
