//! Opens repositories: storage, threads, identity, password.

use crate::config::{Global, Place};
use crate::exit::Failure;
use crate::output::Console;
use chunkstore::env::{Env, SystemEnv};
use chunkstore::executor::Pool;
use chunkstore::keys::SlotOwner;
use chunkstore::storage::Storage;
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::s3::S3Storage;
use chunkstore::store::{Access, Identity};
use engine::Repository;
use std::sync::Arc;

/// What a command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) console: Arc<Console>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let console = Console::start(&global)?;
        Ok(Self { global, console })
    }

    fn storage(&self, create: bool) -> Result<Arc<dyn Storage>, Failure> {
        Ok(match self.global.place()? {
            Place::S3(options) => Arc::new(S3Storage::open(&options)?),
            Place::Folder(folder) if create => Arc::new(LocalStorage::create(&folder)?),
            Place::Folder(folder) if folder.is_dir() => Arc::new(LocalStorage::open(&folder)?),
            Place::Folder(folder) => {
                return Err(chunkstore::Error::NoRepository { place: folder.display().to_string() }.into());
            }
        })
    }

    fn access(&self, storage: Arc<dyn Storage>) -> Result<Access, Failure> {
        self.access_with(storage, cores())
    }

    fn access_with(&self, storage: Arc<dyn Storage>, cores: usize) -> Result<Access, Failure> {
        let transfers = storage.connections().max(cores);
        Ok(Access {
            storage,
            env: Arc::new(SystemEnv),
            cpu: Pool::start("cpu", cores)?,
            io: Pool::start("io", transfers)?,
            cache: self.global.cache().inspect(|folder| mark_cache(folder)),
            identity: identity(),
        })
    }

    /// Access to a scratch repository in `folder`, with its index in there, too.
    pub(crate) fn scratch(&self, folder: &std::path::Path, cores: usize) -> Result<Access, Failure> {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(&folder.join("repo"))?);
        let access = self.access_with(storage, cores)?;
        Ok(Access { cache: Some(folder.join("cache")), ..access })
    }

    /// Opens the repository.
    pub(crate) fn open(&self) -> Result<Repository, Failure> {
        self.open_with(|access, password| Ok(Repository::open(access, password.as_bytes())?), false)
    }

    /// Opens or creates with the password at hand.
    pub(crate) fn open_with<T>(
        &self,
        open: impl FnOnce(Access, String) -> Result<T, Failure>,
        create: bool,
    ) -> Result<T, Failure> {
        let storage = self.storage(create)?;
        if !create
            && storage
                .len(chunkstore::format::names::CONFIG)
                .is_err_and(|error| error.kind == chunkstore::storage::ErrorKind::NotFound)
        {
            // Said before a password is asked for.
            return Err(chunkstore::Error::NoRepository { place: storage.place() }.into());
        }
        let password = self.global.password(create)?;
        open(self.access(storage)?, password)
    }

    /// Now, by the same clock as the repository's.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(std::time::UNIX_EPOCH + SystemEnv.now()).unwrap_or_default()
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Tells other backup tools to leave our indexes out (bford.info/cachedir).
fn mark_cache(folder: &std::path::Path) {
    let tag = folder.join("CACHEDIR.TAG");
    if std::fs::create_dir_all(folder).is_ok() && !tag.exists() {
        let _ = std::fs::write(
            tag,
            "Signature: 8a477f597d28d172789f06886806bc55\n# Local indexes of esker; made anew when deleted.\n",
        );
    }
}

/// Who makes a key slot.
pub(crate) fn owner(label: &str) -> SlotOwner {
    SlotOwner {
        hostname: crate::config::hostname(),
        username: crate::config::username(),
        label: label.to_owned(),
    }
}

fn identity() -> Identity {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let pid = std::process::id();
    Identity {
        hostname: crate::config::hostname(),
        machine: if boot.is_empty() {
            String::new()
        } else {
            format!("{} {}", boot.trim(), namespace.display())
        },
        pid,
        process_started: engine::prune::process_start(pid).unwrap_or_default(),
    }
}
