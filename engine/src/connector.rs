//! The contract of a connector: one system that can be backed up, and what else can be done with it. Everything that
//! knows of the system is in its folder of `connectors/`; the engine and the command line know only what stands here.

use crate::entry::Time;
use crate::restore::RestoreOptions;
use crate::snapshot::Snapshot;
use crate::source::{Clock, Source, SourceError};
use crate::{Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::pool::locked;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub mod choice;
pub mod contents;
mod format;
mod live_stream;
pub mod scratch;
mod settings;
mod steps;
mod target;

pub use choice::{Choice, Chosen};
pub use contents::Contents;
pub use format::{Decoder, Format};
pub use live_stream::{Following, LiveStream};
pub use scratch::{Scratch, ScratchServer};
pub use settings::{Setting, Settings};
pub use steps::{Steps, Way};
pub use target::{Extent, Origin, RestorePlan, Restored, Span, Target, fields, url_of};

/// A scheme of URLs, and the line that help shows for it.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// The scheme, without `://`.
    pub name: &'static str,
    /// A URL as people write it, if it is shown in help; others are further names of the one before.
    pub form: &'static str,
    /// What it backs up.
    pub about: &'static str,
}

/// One system that can be backed up.
pub trait Connector: Sync {
    /// What kinds of source records begin with. By this, never by paths, a snapshot finds its way back.
    fn name(&self) -> &'static str;
    /// How people call the system.
    fn title(&self) -> &'static str;
    /// The schemes of its URLs.
    fn schemes(&self) -> &'static [Scheme] {
        &[]
    }
    /// What `-o`, esker.toml and the environment may say.
    fn settings(&self) -> &'static [Setting] {
        &[]
    }
    /// Variables of the environment that it takes as they are: names, or beginnings of names that end with `*`.
    fn variables(&self) -> &'static [&'static str] {
        &[]
    }
    /// Where passwords come from that do not stand in a URL, for help.
    fn logins(&self) -> &'static str;
    /// Stream formats that carry their own end mark.
    fn formats(&self) -> &'static [&'static Format] {
        &[]
    }
    /// Opens the source that a URL names. `time` is the backup's.
    ///
    /// # Errors
    /// What is wrong with the URL or with the settings, or why the server cannot be had.
    fn open(
        &self,
        url: &str,
        time: Time,
        context: &Context,
    ) -> std::result::Result<Box<dyn Source>, SourceError>;
    /// Opens a source that reads only what changed since the last backup of the same thing in the repository, which its snapshot
    /// takes over; `None` if the URL's kind cannot do that. With the snapshot that it builds on, if there is one.
    ///
    /// # Errors
    /// As [`Connector::open`], and what cannot be read of the repository.
    fn open_incremental(
        &self,
        _url: &str,
        _time: Time,
        _context: &Context,
        _repo: &Repository,
        _monitor: &dyn Monitor,
    ) -> Result<Option<Incremental>> {
        Ok(None)
    }
    /// Schemes of URLs that [`Connector::open_incremental`] knows.
    fn incremental_schemes(&self) -> &'static [&'static str] {
        &[]
    }
    /// Running servers that snapshots can be written into, if there are any.
    fn target(&self) -> Option<&dyn Target> {
        None
    }
    /// Schemes of URLs of [`Connector::target`].
    fn target_schemes(&self) -> &'static [&'static str] {
        &[]
    }
    /// Servers that drills are given, if it can start any.
    fn scratch(&self) -> Option<&dyn Scratch> {
        None
    }
    /// What its servers tell of every change, if they do.
    fn live_stream(&self) -> Option<&dyn LiveStream> {
        None
    }
    /// What lies in its dumps, if they can be taken apart.
    fn contents(&self) -> Option<&dyn Contents> {
        None
    }
    /// A folder that a server can be started on, made of a snapshot: what `--prepare` and `--time` make of `--target`.
    fn folder_target(&self) -> Option<&dyn Target> {
        None
    }
    /// Looks at a restore into a folder before anything is written; returns what a person should know.
    ///
    /// # Errors
    /// Why what is there must not be mixed with what would be restored.
    fn check_folder(
        &self,
        _repo: &Repository,
        _snapshot: &Snapshot,
        _options: &RestoreOptions,
        _monitor: &dyn Monitor,
    ) -> Result<Vec<String>> {
        Ok(vec![])
    }
}

/// A source that reads only what changed.
pub struct Incremental {
    /// What it builds on; `None` if there is nothing: then it reads all.
    pub base: Option<ObjectId>,
    /// The last backup of the same thing, if it has lost something and cannot be built on, and what that is.
    pub lost: Option<(ObjectId, String)>,
    /// The source.
    pub source: Box<dyn Source>,
}

/// Whom to believe on a line over TLS, and who we are; all in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities to believe, instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Our certificate, with those between it and its authority.
    pub certificate: Option<Vec<u8>>,
    /// Its key.
    pub key: Option<Vec<u8>>,
}

/// What the process gives to connectors; the command line makes it once. No connector reads the environment, the
/// clock or a configuration by itself.
#[derive(Clone)]
pub struct Context {
    /// What `-o`, esker.toml and the environment say, by the names of [`Setting`].
    pub settings: Settings,
    /// Variables that connectors asked for, and `HOME`, `USER`, `LOGNAME`, `PATH`, `TMPDIR`.
    pub environment: BTreeMap<String, String>,
    /// Certificates.
    pub tls: Tls,
    /// The files that `tls` was read from, for programs: authority, certificate, key.
    pub tls_files: [Option<PathBuf>; 3],
    /// A private folder for what does not fit into memory.
    pub scratch: PathBuf,
    /// How many sessions a server that is read in parallel may be asked for, if no setting says so.
    pub sessions: usize,
    /// How many sessions may write into a server at a time, if nothing says so.
    pub restore_sessions: usize,
    /// Whether a database, or an object of one, that cannot be read is told and left out, rather than the end of it all.
    pub keep_going: bool,
    /// What the sources of one run share.
    pub shared: Shared,
    /// Tells when each source was read.
    pub clock: Clock,
    /// Set when the user has had enough: what waits for a server looks at it. Never set by default.
    pub stop: Arc<AtomicBool>,
}

impl Context {
    /// No settings, no environment; what does not fit into memory goes to `scratch`.
    #[must_use]
    pub fn new(scratch: PathBuf, clock: Clock) -> Self {
        Self {
            settings: Settings::default(),
            environment: BTreeMap::new(),
            tls: Tls::default(),
            tls_files: [None, None, None],
            scratch,
            sessions: 2,
            restore_sessions: 2,
            keep_going: false,
            shared: Shared::default(),
            clock,
            stop: Arc::default(),
        }
    }
}

/// What the sources of one run tell each other: one value of a type.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl Shared {
    /// The value of this type, made at the first call. Clones are expected to be handles of one thing.
    #[must_use]
    pub fn get<T: Any + Clone + Default + Send>(&self) -> T {
        let mut all = locked(&self.0);
        if let Some(value) = all.iter().find_map(|value| value.downcast_ref::<T>()) {
            return value.clone();
        }
        let value = T::default();
        all.push(Box::new(value.clone()));
        value
    }
}
