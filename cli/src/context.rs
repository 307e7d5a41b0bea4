//! Opens repositories: storage, threads, identity, password.

use crate::config::{Global, hostname, username};
use crate::exit::Failure;
use crate::file::File;
use crate::output::Console;
use crate::places::Place;
use chunkstore::env::{Env, SystemEnv};
use chunkstore::executor::Pool;
use chunkstore::ingest::{PackerOptions, Sealing};
use chunkstore::keys::SlotOwner;
use chunkstore::storage::Storage;
use chunkstore::storage::limit::Rates;
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::{Access, Identity};
use engine::Repository;
use engine::backup::BackupOptions;
use std::sync::{Arc, OnceLock};

/// What a command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) console: Arc<Console>,
    /// esker.toml, if there is one.
    pub(crate) file: Option<File>,
    password: OnceLock<String>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let console = Console::start(&global)?;
        Ok(Self { global, console, file: None, password: OnceLock::new() })
    }

    /// Reads esker.toml. Not before a command needs it: `config check` reads it in its own way.
    pub(crate) fn with_file(mut self) -> Result<Self, Failure> {
        self.file = self.global.file().map(|path| File::read(&path)).transpose()?;
        Ok(self)
    }

    /// Whether the repository is that of esker.toml.
    pub(crate) fn uses_file(&self) -> bool {
        let named = self.global.repo.is_some() || self.global.repository_file.is_some();
        !named && self.file.as_ref().is_some_and(|file| file.primary().is_some())
    }

    /// esker.toml, for commands that mean nothing without.
    pub(crate) fn need_file(&self) -> Result<&File, Failure> {
        match &self.file {
            Some(_) if !self.uses_file() => {
                Err(Failure::new("tiers are those of esker.toml: leave -r and ESKER_REPOSITORY out"))
            }
            Some(file) => Ok(file),
            None => Err(Failure::new(
                "no esker.toml: write one (README has an example), or name it with -c or ESKER_CONFIG",
            )),
        }
    }

    pub(crate) fn storage(&self, create: bool) -> Result<Arc<dyn Storage>, Failure> {
        if let Some(place) = self.global.place()? {
            return Place::parse(&place, &self.global.details()?)?.open(create, Rates::default());
        }
        match self.file.as_ref().and_then(File::primary) {
            Some(primary) => primary.place.open(create, primary.rates),
            None => Err(Failure::new(
                "which repository? Give -r PLACE, set ESKER_REPOSITORY, or write an esker.toml",
            )),
        }
    }

    /// The password, asked for once.
    pub(crate) fn password(&self, confirm: bool) -> Result<String, Failure> {
        if let Some(known) = self.password.get() {
            return Ok(known.clone());
        }
        let password = self.global.password(confirm, self.file.as_ref())?;
        Ok(self.password.get_or_init(|| password).clone())
    }

    pub(crate) fn access(&self, storage: Arc<dyn Storage>) -> Result<Access, Failure> {
        self.access_with(storage, cores())
    }

    fn access_with(&self, storage: Arc<dyn Storage>, cores: usize) -> Result<Access, Failure> {
        let transfers = storage.connections().max(cores);
        Ok(Access {
            storage,
            env: Arc::new(SystemEnv),
            cpu: Pool::start("cpu", cores)?,
            io: Pool::start("io", transfers)?,
            cache: self.global.cache(self.file.as_ref()).inspect(|folder| mark_cache(folder)),
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
            // Read, rather than asked for: only an answer with a body tells a missing bucket from a missing object.
            && storage
                .get(chunkstore::format::names::CONFIG, chunkstore::format::MAX_SMALL_LEN)
                .is_err_and(|error| error.kind == chunkstore::storage::ErrorKind::NotFound)
        {
            // Said before a password is asked for.
            return Err(chunkstore::Error::NoRepository { place: storage.place() }.into());
        }
        let password = self.password(create)?;
        open(self.access(storage)?, password)
    }

    /// What all backups of this user, host and configuration say.
    pub(crate) fn backup_options(&self, repo: &Repository) -> BackupOptions {
        BackupOptions {
            hostname: hostname(),
            username: username(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            time: self.now(),
            sealing: Sealing {
                compression: self.global.compression,
                delta: repo.store().storage().is_near(),
            },
            packer: PackerOptions {
                pack_len: self.global.pack_size.saturating_mul(1 << 20),
                ..PackerOptions::default()
            },
            program_version: concat!("esker ", env!("CARGO_PKG_VERSION")).into(),
            ..BackupOptions::default()
        }
    }

    /// Now, by the same clock as the repository's.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        now()
    }
}

/// Now.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::try_from(std::time::UNIX_EPOCH + SystemEnv.now()).unwrap_or_default()
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
