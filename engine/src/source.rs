//! The contract of a source: it yields entries in manifest order. A file tree, a pipe and a database are equal.
//! What a connector is beside that, is in [`crate::connector`].
//!
//! # Example: a source of texts
//!
//! ```
//! use engine::entry::Time;
//! use engine::snapshot::SourceRecord;
//! use engine::source::{Content, Item, Piece, Source, SourceError};
//! use engine::{Monitor, backup::backup, monitor::Tally, restore::dump, snapshot::Filter};
//! use std::io::{Cursor, Read as _};
//!
//! /// Texts by path, in the order of a manifest.
//! struct Texts(std::vec::IntoIter<(&'static str, &'static str)>);
//!
//! impl Source for Texts {
//!     fn records(&self) -> Vec<SourceRecord> {
//!         vec![SourceRecord::new("texts", "example", true)]
//!     }
//!     fn paths(&self) -> Vec<String> {
//!         vec!["/texts".into()]
//!     }
//!     fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
//!         let Some((path, text)) = self.0.next() else { return Ok(None) };
//!         // Called only if the content must be read, which is not so if the parent snapshot has it.
//!         let open = Box::new(move || Ok(Box::new(Text(Cursor::new(text))) as Box<dyn Content>));
//!         Ok(Some(Item::stream(path, Time::default(), open)))
//!     }
//! }
//!
//! struct Text(Cursor<&'static str>);
//!
//! impl Content for Text {
//!     fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
//!         // A source that can tell whether it is whole checks that before it answers `End`.
//!         let len = self.0.read(buffer).unwrap_or_default();
//!         Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
//!     }
//! }
//! # fn repository() -> engine::Result<engine::Repository> {
//! #     use chunkstore::{chunker::ChunkerParams, config::Layout, env::SystemEnv, executor::Inline};
//! #     use chunkstore::{keys::{KdfParams, SlotOwner}, storage::memory::MemoryStorage, store::{Access, Identity}};
//! #     use std::sync::Arc;
//! #     let access = Access {
//! #         storage: Arc::new(MemoryStorage::default()), env: Arc::new(SystemEnv), cpu: Arc::new(Inline),
//! #         io: Arc::new(Inline), cache: None, identity: Identity::default(),
//! #         columns: &engine::columns::SnapshotColumns,
//! #     };
//! #     let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
//! #     let (params, owner) = (ChunkerParams::default(), SlotOwner::default());
//! #     engine::Repository::init(access, params, b"passphrase", cheap, owner, Layout::default())
//! # }
//!
//! # fn main() -> engine::Result<()> {
//! let (repo, monitor) = (repository()?, Tally::default());
//! let mut texts = Texts(vec![("texts/one", "Dear reader"), ("texts/two", "Yours")].into_iter());
//! backup(&repo, &mut texts, &Default::default(), &monitor)?;
//!
//! let latest = repo.find("latest", &Filter::default(), &monitor)?;
//! let mut out = vec![];
//! dump(&repo, &latest.snapshot, b"texts/two", &mut out, &monitor)?;
//! assert_eq!(out, b"Yours");
//! # Ok(())
//! # }
//! ```

use crate::Monitor;
use crate::entry::{Entry, Time};
use crate::snapshot::SourceRecord;
use std::sync::atomic::AtomicBool;

pub mod at_hand;
mod combine;
pub mod end_mark;
pub mod files;
pub mod snapshot;

pub use combine::{Several, Stamped};

/// Why a source failed; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// One entry could not be read; the others can.
    Item,
    /// One entry was removed since it was listed; that is not an error.
    Vanished,
    /// One entry was replaced since it was listed: [`Source::look_again`] returns the new one.
    Replaced,
    /// None of the sources exists.
    Missing,
    /// A command could not be started, failed, or was killed.
    Command,
    /// A dump ended before its own end mark.
    Incomplete,
    /// A server is down, refuses, or hung up.
    Unavailable,
    /// The source gave no bytes.
    Empty,
}

/// Whether it may help to try again, for what does: a live stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nobody says.
    #[default]
    Unknown,
    /// The server answers that it cannot yet: it loads its data, or waits for its own primary.
    Temporary,
    /// It stays so until somebody changes something: a wrong password, a missing right, content that breaks its format.
    Permanent,
}

/// An error of a source.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {why}", crate::shown::line(what))]
pub struct SourceError {
    /// Consequence.
    pub kind: SourceErrorKind,
    /// The path, command or server.
    pub what: String,
    /// What happened and what to do.
    pub why: String,
    /// Whether it may pass.
    pub status: Status,
}

impl SourceError {
    /// An error of the given kind.
    pub fn new(kind: SourceErrorKind, what: impl Into<String>, why: impl ToString) -> Self {
        Self { kind, what: what.into(), why: why.to_string(), status: Status::Unknown }
    }

    /// The same, with a status.
    #[must_use]
    pub fn with_status(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

/// The next part of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes were read; more than 0.
    Data(usize),
    /// This many bytes are a hole.
    Hole(u64),
    /// A record ends here that the source wants a chunk to end with.
    Cut,
    /// Nothing yet: a moment to look whether the user has had enough.
    Wait,
    /// All of it was read, and every proof of its completeness was checked.
    End,
}

/// Content of one entry.
pub trait Content {
    /// Reads on; `buffer` is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError>;
    /// After [`Piece::End`]: a note for people, such as that a file changed meanwhile.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// Opens an entry's content when it turns out that it must be read.
pub type Opener = Box<dyn FnOnce() -> Result<Box<dyn Content>, SourceError>>;

/// The proof that an entry's content equals that of the parent snapshot at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: it is read.
    Nothing,
    /// Equal metadata that nothing could have changed since without a trace.
    Metadata,
    /// The source took it from there, whatever clocks say.
    TakenOver,
}

/// An entry and how to get at its content.
pub struct Item {
    /// The entry.
    pub entry: Entry,
    /// Its content; `None` for everything but files and streams.
    pub content: Option<Opener>,
    /// What proves that the parent snapshot has the same content.
    pub proof: Proof,
    /// A folder that is listed only because it is above a named path.
    pub leads: bool,
}

impl Item {
    /// A folder above streams.
    #[must_use]
    pub fn folder(path: impl AsRef<[u8]>, time: Time) -> Self {
        Self { entry: Entry::folder(path.as_ref(), time), content: None, proof: Proof::Nothing, leads: false }
    }

    /// An entry of the parent snapshot that no source can provide again.
    #[must_use]
    pub fn taken_over(path: &str, time: Time) -> Self {
        let shown = path.to_owned();
        let open: Opener = Box::new(move || {
            let why = "the snapshot that this builds on has lost it; make a full backup, or end the stream with \
                'esker forget' of that snapshot";
            Err(SourceError::new(SourceErrorKind::Incomplete, shown, why))
        });
        Self { proof: Proof::TakenOver, ..Self::stream(path, time, open) }
    }

    /// A stream.
    #[must_use]
    pub fn stream(path: impl AsRef<[u8]>, time: Time, open: Opener) -> Self {
        Self {
            entry: Entry::stream(path.as_ref(), time),
            content: Some(open),
            proof: Proof::Nothing,
            leads: false,
        }
    }
}

/// Counts a source's files and bytes into the monitor; stops when the flag is set.
pub type Scanner = Box<dyn FnOnce(&dyn Monitor, &AtomicBool) + Send>;

/// A source.
pub trait Source {
    /// The records of the snapshot about this source.
    fn records(&self) -> Vec<SourceRecord>;
    /// The paths of the snapshot for this source.
    fn paths(&self) -> Vec<String>;
    /// Of a command: its words. They may hold passwords, so records only have a keyed hash of them.
    fn command_words(&self) -> Option<Vec<std::ffi::OsString>> {
        None
    }
    /// The next entry, in manifest order. Item errors go to the monitor; an error here ends the backup.
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError>;
    /// Looks again at the last entry, whose file was replaced. `None` if it is gone.
    fn look_again(&mut self, _monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(None)
    }
    /// Fixes the moment of the backup, as far as the source can, before anything of the snapshot is read: all sources
    /// of one snapshot start before the first is read. `seed` belongs to the repository, for cuts that others should
    /// not be able to predict.
    fn start(&mut self, _seed: [u64; 2]) -> Result<(), SourceError> {
        Ok(())
    }
    /// Counts the entries beforehand, for progress; runs beside the backup until its flag is set.
    fn scanner(&self) -> Option<Scanner> {
        None
    }
    /// Whether a snapshot without entries is valid: true for copies of existing snapshots.
    fn may_be_empty(&self) -> bool {
        false
    }
    /// Whether [`SourceErrorKind::Item`] errors are survivable: true for trees, for dumps if the user said so.
    fn tolerates_item_errors(&self) -> bool {
        false
    }
}

/// Returns the present time.
pub type Clock = fn() -> jiff::Timestamp;

/// Reads a URL. One whose path has a component `.` or `..`, also escaped, is refused: the URL standard removes such components,
/// so that the rest would name something else.
///
/// # Errors
/// Why it is none.
pub fn parsed_url(text: &str) -> std::result::Result<url::Url, String> {
    let path =
        text.split_once("://").map_or(text, |(_, rest)| rest).split(['?', '#']).next().unwrap_or_default();
    let is_dots = |part: &str| matches!(&*part.to_ascii_lowercase().replace("%2e", "."), "." | "..");
    if path.split(['/', '\\']).skip(1).any(is_dots) {
        return Err("its path has a component of dots, which no URL can name".into());
    }
    url::Url::parse(text).map_err(|error| error.to_string())
}

/// A URL as it may be shown and stored: without what may be a secret.
#[must_use]
pub fn without_password(url: &str) -> String {
    crate::secrets::without_secrets(url)
}

/// A URL's password, decoded.
#[must_use]
pub fn password(url: &url::Url) -> Option<String> {
    let encoded = url.password()?;
    Some(percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}
