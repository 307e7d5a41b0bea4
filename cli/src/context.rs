//! Opens repositories: storage, threads, identity, secret.

use crate::config::{Global, hostname, username};
use crate::exit::{Code, Failure};
use crate::file::File;
use crate::output::Console;
use crate::places::{Make, Place};
use crate::secrets::Secret;
use chunkstore::env::{Env, SystemEnv};
use chunkstore::executor::Pool;
use chunkstore::format::{
    MAX_SMALL_LEN,
    names::{CONFIG, HEAD},
};
use chunkstore::ingest::{PackerOptions, Sealing};
use chunkstore::keys::SlotOwner;
use chunkstore::storage::ErrorKind;
use chunkstore::storage::Storage;
use chunkstore::storage::limit::Rates;
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::{Access, Found, Identity, look, slot_headers};
use engine::Repository;
use engine::backup::BackupOptions;
use engine::columns::SnapshotColumns;
use engine::shown;
use engine::source::files::Own;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

mod lost;
mod meant;

pub(crate) use lost::in_place;
use meant::Meant;

/// What a command works with.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) console: Arc<Console>,
    /// esker.toml, if there is one.
    pub(crate) file: Option<File>,
    /// Whether the repository in use is one that esker.toml speaks of: only then are its secret and cache meant.
    is_of_file: bool,
    secret: OnceLock<Secret>,
    cache: OnceLock<Option<PathBuf>>,
    /// The repository that the places of esker.toml are to hold, once that was asked, or why that cannot be told.
    pub(crate) repository: OnceLock<Result<Meant, String>>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let console = Console::start(&global)?;
        let (secret, cache, repository) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { global, console, file: None, is_of_file: false, secret, cache, repository })
    }

    /// Reads esker.toml. Not before a command needs it: `config check` reads it in its own way.
    pub(crate) fn with_file(mut self) -> Result<Self, Failure> {
        let place = self.global.place()?;
        let read = |path: PathBuf| Ok((File::read(&path)?, path));
        let found = match self.global.file().and_then(|path| path.map(read).transpose()) {
            // One that only happens to lie here does not stop what does not need it.
            Err(failure) if place.is_some() && !self.global.names_file() => {
                self.console.warn(&failure.message);
                None
            }
            found => found?,
        };
        let Some((mut file, path)) = found else { return Ok(self) };
        for tier in &mut file.tiers {
            tier.rates = self.global.network.rates(tier.rates);
            if let Some(http) = tier.place.http() {
                self.global.network.apply(http)?;
            }
        }
        self.is_of_file = match &place {
            None => true,
            // Of a write-only host it is another way to the place that the host's file names.
            Some(_) if file.bundle.is_some() && !self.global.names_secret() => true,
            Some(place) => Place::parse(place, &self.global.details()?).is_ok_and(|place| {
                let place = place.identity();
                file.tiers.iter().any(|tier| tier.place.identity() == place)
            }),
        };
        let real = std::path::absolute(&path)?;
        self.console.configuration(&real, self.is_of_file);
        self.file = Some(file);
        Ok(self)
    }

    /// Variables that commands of users get although they hold secrets.
    pub(crate) fn passed(&self) -> Vec<String> {
        self.global.passed(self.file.as_ref())
    }

    /// Variables that commands of users do not get.
    pub(crate) fn withheld(&self) -> Vec<std::ffi::OsString> {
        crate::shell::withheld(&self.passed())
    }

    /// Whether the repository is that of esker.toml.
    pub(crate) fn uses_file(&self) -> bool {
        let named = !matches!(self.global.place(), Ok(None));
        !named && self.file.as_ref().is_some_and(|file| file.primary().is_some())
    }

    /// esker.toml, where it speaks of the repository in use.
    pub(crate) fn own_file(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| self.is_of_file)
    }

    /// esker.toml, for commands that mean nothing without.
    pub(crate) fn need_file(&self) -> Result<&File, Failure> {
        self.refuse_as_host()?;
        match &self.file {
            Some(file) if file.primary().is_none() => Err(Failure::new(format!(
                "{} says no place of the repository: give it a line 'repository = \"PLACE\"', or a tier with the role 'primary'",
                shown::path(&file.path)
            ))),
            Some(_) if !self.uses_file() => {
                Err(Failure::new("tiers are those of esker.toml: leave -r and ESKER_REPOSITORY out"))
            }
            Some(file) => Ok(file),
            None => Err(Failure::new(
                "no esker.toml: write one (README has an example), or name it with -c or ESKER_CONFIG",
            )),
        }
    }

    /// esker.toml, for its runs: on a write-only host it need not say where the repository is.
    pub(crate) fn file_of_runs(&self) -> Result<&File, Failure> {
        let of_host = self.own_file().filter(|file| file.bundle.is_some());
        of_host.map_or_else(|| self.need_file(), Ok)
    }

    /// Where the repository is.
    pub(crate) fn place(&self) -> Result<(Place, Rates), Failure> {
        if let Some(place) = self.global.place()? {
            return self.place_given(&place);
        }
        let file = self.file.as_ref();
        match (file.and_then(File::primary), file.and_then(|file| file.bundle.as_ref())) {
            (Some(primary), _) => Ok((primary.place.clone(), primary.rates)),
            (None, Some(bundle)) => self.place_of_host(&crate::bundle::read(bundle)?),
            (None, None) => Err(Failure::new(
                "which repository? Give -r PLACE, set ESKER_REPOSITORY, or write an esker.toml",
            )),
        }
    }

    /// A place that was given otherwise than by a tier of esker.toml.
    pub(crate) fn place_given(&self, place: &OsStr) -> Result<(Place, Rates), Failure> {
        let rates = self.global.network.rates(Rates::default());
        let place = Place::parse(place, &self.global.details()?)?;
        if let Place::Folder(path) = &place
            && path.is_file()
        {
            let message = format!(
                "no repository at {}, which is a file: a repository is in a folder. The file of a write-only host goes to \
                 --bundle",
                shown::path(path)
            );
            return Err(Failure { code: Code::NoRepository, message });
        }
        Ok((place, rates))
    }

    pub(crate) fn storage(&self, make: Make) -> Result<Arc<dyn Storage>, Failure> {
        let (place, rates) = self.place()?;
        place.open(make, rates)
    }

    /// What opens the repository, asked for once.
    pub(crate) fn secret(&self, confirm: bool) -> Result<Secret, Failure> {
        if let Some(known) = self.secret.get() {
            return Ok(known.clone());
        }
        self.refuse_as_host()?;
        let secret = self.global.secret(confirm, self.own_file())?;
        Ok(self.secret.get_or_init(|| secret).clone())
    }

    /// What opens the repository in a place: before somebody is asked for a password, the key service is named that opens it,
    /// if nothing else does.
    pub(crate) fn secret_for(&self, storage: &dyn Storage) -> Result<Secret, Failure> {
        self.refuse_without_service(storage)?;
        self.secret(false)
    }

    /// Says of a host that may only write what is done elsewhere, before somebody is asked for a password there.
    fn refuse_as_host(&self) -> Result<(), Failure> {
        match self.own_file().and_then(|file| file.bundle.as_ref()) {
            Some(bundle) if !self.global.names_secret() => Err(Failure::new(format!(
                "this machine is a write-only host, by {} in esker.toml: it backs up, by 'esker backup' and 'esker run'. \
                 A full client, with a password or a key, does everything else",
                shown::path(bundle)
            ))),
            _ => Ok(()),
        }
    }

    /// The same, as far as nobody need be asked.
    pub(crate) fn secret_unasked(&self) -> Option<Secret> {
        self.secret.get().cloned().or_else(|| self.global.secret_unasked(self.own_file()).ok()?)
    }

    /// Takes a secret that was made, before any other was taken.
    pub(crate) fn made_secret(&self, secret: Secret) {
        let is_first = self.secret.set(secret).is_ok();
        debug_assert!(is_first, "a secret was in use before");
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
            cache: self.cache(),
            identity: identity(),
            columns: &SnapshotColumns,
        })
    }

    /// The folder of local indexes, made; none if there is to be none, or none that can be written.
    pub(crate) fn cache(&self) -> Option<PathBuf> {
        let decide = || {
            let folder = self.global.cache(self.own_file())?;
            match usable(&folder) {
                Ok(()) => Some(folder),
                Err(error) => {
                    self.console.warn(&format!(
                        "the cache {} cannot be written: {error}; the index is kept in memory, and nothing is known \
                         of earlier runs (--cache-dir names another folder, --no-cache none)",
                        folder.display()
                    ));
                    None
                }
            }
        };
        self.cache.get_or_init(decide).clone()
    }

    /// Access to a scratch repository in `folder`, with its index in there, too.
    pub(crate) fn scratch(&self, folder: &std::path::Path, cores: usize) -> Result<Access, Failure> {
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(&folder.join("repo"), false)?);
        let access = self.access_with(storage, cores)?;
        Ok(Access { cache: Some(folder.join("cache")), ..access })
    }

    /// Opens the repository to write to it.
    pub(crate) fn open(&self) -> Result<Repository, Failure> {
        let repo = self.open_to_look()?;
        self.refuse_to_write_alone()?;
        Ok(repo)
    }

    /// Opens the repository for what writes nothing that counts.
    pub(crate) fn open_to_look(&self) -> Result<Repository, Failure> {
        let opened = |access, secret: Secret| {
            let repo = Repository::open(access, &secret);
            match self.file.as_ref().filter(|_| self.uses_file()).and_then(File::primary) {
                Some(primary) => repo.map_err(|error| self.or_damaged_slots(in_place(error, primary))),
                // Without another place, HEAD alone can be made anew.
                None => repo.map_err(|error| match &error {
                    engine::Error::Store(chunkstore::Error::Corrupt { object, .. }) if object == HEAD => {
                        Failure::with_way_out(error, "esker repair head")
                    }
                    _ => error.into(),
                }),
            }
        };
        self.open_with(opened, Make::No)
    }

    /// Opens or creates with the secret at hand.
    pub(crate) fn open_with<T>(
        &self,
        open: impl FnOnce(Access, Secret) -> Result<T, Failure>,
        make: Make,
    ) -> Result<T, Failure> {
        self.refuse_as_host()?;
        if make != Make::No {
            if let (Place::Folder(folder), _) = self.place()?
                && folder.is_dir()
                && look(&LocalStorage::open(&folder)?)? == Found::Whole
            {
                return Err(chunkstore::Error::AlreadyExists { place: shown::path(&folder) }.into());
            }
            // Before anything is made: whoever gives up here leaves nothing.
            self.secret(true)?;
        }
        let storage = self.storage(make).map_err(|failure| self.with_ways_out(failure))?;
        if make == Make::No {
            if let Some(primary) = self.file.as_ref().filter(|_| self.uses_file()).and_then(File::primary) {
                self.refuse_another(primary, &*storage)?;
            }
            // Said before a password is asked for. Read, rather than asked for: only an answer with a body tells a
            // missing bucket from a missing object.
            match storage.get(CONFIG, MAX_SMALL_LEN) {
                Err(error) if error.kind == ErrorKind::NotFound => {
                    if look(&*storage)? == Found::Nothing {
                        let none = chunkstore::Error::NoRepository { place: storage.place() };
                        return Err(self.with_ways_out(none.into()));
                    }
                }
                there => drop(there?),
            }
        }
        let secret = match make {
            Make::No => self.secret_for(&*storage)?,
            _ => self.secret(true)?,
        };
        open(self.access(storage)?, secret)
    }

    /// Says which key service opens a repository that nothing else opens, before somebody is asked for a password.
    fn refuse_without_service(&self, storage: &dyn Storage) -> Result<(), Failure> {
        if self.secret.get().is_some() || self.global.recovery {
            return Ok(());
        }
        if let Some(secret) = self.global.secret_unasked(self.own_file())? {
            self.secret.get_or_init(|| secret);
            return Ok(());
        }
        let mut services = std::collections::BTreeSet::new();
        for (_, header) in slot_headers(storage)? {
            match header.wrapped() {
                Some(wrapped) => drop(services.insert(wrapped.service)),
                None => return Ok(()),
            }
        }
        if services.is_empty() {
            return Ok(());
        }
        let services: Vec<String> = services.into_iter().map(|url| shown::text(&url).into_owned()).collect();
        Err(Failure::new(format!(
            "a key service opens this repository: name it with --kms, ESKER_KMS or kms of esker.toml. The repository says: {}. \
             Whoever can write to the store may have written that, so name the service only if it is yours",
            services.join(", ")
        )))
    }

    /// Whether there is parity, or another tier, to mend a repository from.
    pub(crate) fn may_heal(&self, repo: &Repository) -> bool {
        let has_copies =
            self.uses_file() && self.file.as_ref().is_some_and(|file| file.copies().next().is_some());
        has_copies || repo.store().has_parity()
    }

    /// Folders of ours on this machine, which no backup of files goes into: the repository, its tiers, the cache.
    pub(crate) fn own_folders(&self) -> Vec<Own> {
        let mut own = vec![];
        let mut add = |place: &Place, what: &str| {
            if let Place::Folder(folder) = place {
                own.extend(Own::at(folder, what, true));
            }
        };
        if let (Ok(Some(place)), Ok(details)) = (self.global.place(), self.global.details()) {
            if let Ok(place) = Place::parse(&place, &details) {
                add(&place, "the repository");
            }
        } else if let Some(file) = &self.file {
            for tier in &file.tiers {
                add(&tier.place, &format!("tier '{}' of the repository", tier.options.name));
            }
        }
        let cache = self.global.cache(self.own_file());
        own.extend(cache.and_then(|folder| Own::at(&folder, "the cache of esker", false)));
        own
    }

    /// What all backups of this user, host and configuration say.
    pub(crate) fn backup_options(&self, repo: &Repository) -> BackupOptions {
        let said = self.own_file().and_then(|file| file.delta);
        self.backup_options_with(said.unwrap_or_else(|| repo.store().storage().is_near()))
    }

    /// Whether a write-only host uploads differences.
    pub(crate) fn delta_of_host(&self) -> bool {
        self.file.as_ref().and_then(|file| file.delta).unwrap_or(true)
    }

    /// The same; `delta` says whether changed chunks are stored against older ones.
    pub(crate) fn backup_options_with(&self, delta: bool) -> BackupOptions {
        BackupOptions {
            hostname: hostname(),
            username: username(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            time: self.now(),
            sealing: Sealing { compression: self.global.compression, delta },
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

/// Whether files can be made in a folder of indexes, which is made. It gets the tag that tells other backup tools to
/// leave it out (bford.info/cachedir).
fn usable(folder: &std::path::Path) -> std::io::Result<()> {
    chunkstore::private::folder(folder)?;
    tempfile::tempfile_in(folder)?;
    let tag = folder.join("CACHEDIR.TAG");
    if !tag.exists() {
        chunkstore::private::write(
            &tag,
            b"Signature: 8a477f597d28d172789f06886806bc55\n# Local indexes of esker; made anew when deleted.\n",
        )?;
    }
    Ok(())
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
