//! Repositories whose password costs little: tests start esker thousands of times, and each start stretches the password, which
//! took more than a third of the time of all tests. A test begins the repository as an `esker init` that was interrupted
//! leaves it, with a cheap key slot; the `esker init` that follows finishes it, and everything after that is as ever.

use chunkstore::chunker::ChunkerParams;
use chunkstore::config::{HeadMethod, Layout};
use chunkstore::format::names;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::Storage;
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::ChunkStore;
use std::path::Path;
use std::sync::Arc;

/// The password of all repositories of tests.
pub(crate) const PASSWORD: &str = "correct horse";

/// Begins one in a folder as `esker init` with these options makes it there.
pub(crate) fn in_folder(folder: &Path, options: &[&str]) {
    let mut layout = Layout { parity: true, ..Layout::default() };
    let mut average = 512;
    for option in options.chunks(2) {
        match option {
            ["--parity", parity] => layout.parity = *parity == "on",
            ["--head", "chain"] => layout.head = HeadMethod::Chain,
            ["--chunk-size", size] => average = size.strip_suffix('k').unwrap().parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }
    begin(&LocalStorage::create(folder, false).unwrap(), ChunkerParams::around(average << 10), layout);
}

fn begin(storage: &dyn Storage, params: ChunkerParams, layout: Layout) {
    let made = Arc::new(MemoryStorage::default());
    let access = crate::harness::access(Arc::clone(&made) as _);
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let uname = rustix::system::uname();
    let owner = SlotOwner {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        username: rustix::process::getuid().as_raw().to_string(),
        label: String::new(),
    };
    ChunkStore::init(access, params, PASSWORD.as_bytes(), cheap, owner, layout).unwrap();
    // The configuration comes last, as a repository with one and without a HEAD is an unfinished one.
    let objects = made.objects().clone();
    let slots = objects.iter().filter(|(name, _)| name.starts_with(names::KEYS));
    for (name, object) in slots.chain(objects.iter().filter(|(name, _)| *name == names::CONFIG)) {
        storage.put(name, object.clone()).unwrap();
    }
}
