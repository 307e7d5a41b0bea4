//! Targets of a restore: a plan is made, shown, proved, and only then applied.

use super::{Choice, Chosen, Context};
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, Monitor, Repository, Result};
use serde_json::{Map, Value};
use std::ffi::OsStr;

/// What is restored: a snapshot of a repository, or what lies beneath a path of it.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The repository.
    pub repo: &'a Repository,
    /// The snapshot.
    pub snapshot: &'a Listed,
    /// The path behind `SNAPSHOT:`, as it was given; empty for all of it.
    pub below: &'a str,
}

/// The first and the last moment of a live stream, in milliseconds since 1970.
pub type Span = (u64, u64);

/// A running server, or a folder of a system's own, that a snapshot can be written into.
pub trait Target: Sync {
    /// How people call it, in "it is for X".
    fn title(&self) -> &'static str;
    /// The choices of `restore` that it honours; the command refuses every other one.
    fn choices(&self) -> &'static [&'static Choice];
    /// Whether a snapshot has something for it.
    fn fits(&self, snapshot: &Snapshot) -> bool;
    /// Whether a path, as people write it behind `SNAPSHOT:`, may be of a snapshot although no path of that says so.
    fn names_inside(&self, _below: &str) -> bool {
        false
    }
    /// The moments that a snapshot can bring back, if it is of a live stream.
    fn span(&self, _snapshot: &Snapshot) -> Option<Span> {
        None
    }
    /// Looks at what was chosen, before anything is opened.
    ///
    /// # Errors
    /// What does not go together.
    fn check(&self, _to: &OsStr, _chosen: &Chosen) -> Result<()> {
        Ok(())
    }
    /// What people can do who gave a choice that it does not take.
    fn refusal(&self, _flag: &str) -> Option<&'static str> {
        None
    }
    /// The folder of the snapshot that is read: what must be thawed.
    fn reads(&self, _snapshot: &Snapshot, below: &str) -> Vec<u8> {
        below.as_bytes().to_vec()
    }
    /// Looks at all of it and changes nothing: connects, reads indexes, finds what is in the way. `to` is a URL, or the path of
    /// a folder.
    ///
    /// # Errors
    /// Why it cannot be restored there.
    fn plan<'a>(
        &self,
        from: Origin<'a>,
        to: &OsStr,
        chosen: &Chosen,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>>;
}

/// What will be done. Dropped, it has done nothing.
pub trait RestorePlan {
    /// The server or folder, without a password.
    fn shown(&self) -> &str;
    /// The plan, by [`super::Steps`]: what is made, which way each thing goes, what is renamed or dropped, what stays as it
    /// was, what is left over. `--dry-run` prints exactly this, and every restore prints it before it begins.
    fn steps(&self) -> Vec<String>;
    /// Whether something that is there goes: then the snapshot is held, and what will be read is proved first.
    fn removes(&self) -> bool;
    /// What is asked for before it begins, if that is much.
    fn question(&self) -> Option<&'static str> {
        None
    }
    /// The summary of a `--dry-run`, behind the plan: what [`RestorePlan::apply`] would count. Nothing is changed.
    ///
    /// # Errors
    /// What would be in the way.
    fn preview(&self, _monitor: &dyn Monitor) -> Result<Restored> {
        Ok(Restored::default())
    }
    /// Reads all that will be written, before the first change. Does nothing where nothing is removed, or where
    /// [`RestorePlan::apply`] loads everything beside what is there before it removes that.
    ///
    /// # Errors
    /// What cannot be read.
    fn prove(&mut self, _monitor: &dyn Monitor) -> Result<()> {
        Ok(())
    }
    /// The URL of what is saved before it is removed, if that is wanted.
    fn saves(&self) -> Option<&str> {
        None
    }
    /// Reads what was saved, all of it.
    ///
    /// # Errors
    /// What cannot be read.
    fn prove_saved(&self, _saved: Origin<'_>, _monitor: &dyn Monitor) -> Result<()> {
        Ok(())
    }
    /// The command that goes back to what was saved.
    fn way_back(&self, _saved: &str) -> String {
        String::new()
    }
    /// After a failure of [`RestorePlan::apply`]: how things stand, if the error does not say it.
    fn stands(&self, _saved: Option<&str>) -> Option<String> {
        None
    }
    /// Does it.
    ///
    /// # Errors
    /// What went wrong; the message says how things stand.
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored>;
}

/// How much of what was asked for is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All.
    #[default]
    Whole,
    /// A part: what is missing was told.
    Part,
    /// Nothing of it.
    Nothing,
}

/// What was restored, or would be.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// What was restored in particular, a line each, with its bytes where they are of interest.
    pub parts: Vec<(String, Option<u64>)>,
    /// What all of it is: "restored 5 keys". Empty if there is nothing to say.
    pub total: String,
    /// Its bytes.
    pub bytes: u64,
    /// What belongs to that line: "2 have expired".
    pub remarks: Vec<String>,
    /// Further lines.
    pub lines: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The fields of the summary for programs.
    pub fields: Map<String, Value>,
    /// How much of what was asked for is so.
    pub extent: Extent,
}

/// The fields of an object; none of anything else.
#[must_use]
pub fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A target that is a URL.
///
/// # Errors
/// That it is none.
pub fn url_of(to: &OsStr) -> Result<url::Url> {
    let text = to.to_str().ok_or_else(|| Error::Invalid("--to: not UTF-8".into()))?;
    crate::source::parsed_url(text).map_err(|error| Error::Invalid(format!("--to: {error}")))
}
