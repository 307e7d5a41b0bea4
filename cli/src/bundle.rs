//! The file of a write-only host: where it is named, what is read from it, and the way to the inbox.

use crate::context::Context;
use crate::exit::Failure;
use crate::output::Console;
use crate::places::{Make, Place};
use crate::trust::warn_of_others;
use chunkstore::format::MAX_SMALL_LEN;
use chunkstore::inbox::book::Refused;
use chunkstore::inbox::{Book, Bundle};
use chunkstore::storage::limit::Rates;
use engine::host::take_answers;
use engine::names::path_bytes;
use engine::shown;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// So long a backup of the same host is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the file of a host.
pub(crate) fn read(path: &Path) -> Result<Bundle, Failure> {
    warn_of_others(path);
    parse(path, crate::small::read(path, MAX_SMALL_LEN)?)
}

/// Whether a file that esker.toml names is that of a host. One that cannot be read here is only told: it may be there for the
/// user, or on the machine, whose esker.toml it is.
pub(crate) fn check(path: &Path, console: &Console) -> Result<(), Failure> {
    match crate::small::read(path, MAX_SMALL_LEN) {
        Ok(bytes) => parse(path, bytes).map(drop),
        Err(failure) => {
            console.warn(&failure.message);
            Ok(())
        }
    }
}

fn parse(path: &Path, bytes: Vec<u8>) -> Result<Bundle, Failure> {
    let bytes = Zeroizing::new(bytes);
    Bundle::from_text(&bytes).map_err(|error| match error {
        chunkstore::Error::Unsupported { .. } => error.into(),
        error => Failure::new(format!("{}: {error}", shown::path(path))),
    })
}

impl Context {
    /// The file of the host that this machine backs up as: `given` by a flag or a variable, else by esker.toml, unless a
    /// password or a key is named that goes before it. None of a full client.
    pub(crate) fn bundle(&self, given: Option<&Path>) -> Option<PathBuf> {
        match given {
            Some(path) => Some(path.to_owned()),
            None if self.global.names_secret() => None,
            None => self.own_file()?.bundle.clone(),
        }
    }

    /// Refuses a flag that names a password or a key beside a host's file that was `given` by a flag or a variable. Of a
    /// variable that names one it warns: it may be there for other commands.
    pub(crate) fn refuse_secret_of_host(&self, given: Option<&Path>) -> Result<(), Failure> {
        if given.is_none() {
            return Ok(());
        }
        if self.global.flags_name_secret() {
            return Err(Failure::usage(
                "a write-only host has no password: give --bundle (or ESKER_BUNDLE), or what opens the repository",
            ));
        }
        if let Some(name) = self.global.variable_names_secret() {
            self.console.warn(&format!(
                "{name} is not used: this backup is a write-only host's, by --bundle or ESKER_BUNDLE"
            ));
        }
        Ok(())
    }

    /// Where a host finds the repository.
    pub(crate) fn place_of_host(&self, bundle: &Bundle) -> Result<(Place, Rates), Failure> {
        if let Some(place) = self.global.place()? {
            return self.place_given(&place);
        }
        match self.own_file().and_then(|file| file.primary()) {
            Some(primary) => Ok((primary.place.clone(), primary.rates)),
            None => self.place_given(&OsString::from_vec(path_bytes(&bundle.place))),
        }
    }

    /// Opens the book of a host, and the way to its inbox.
    pub(crate) fn book(&self, bundle: Bundle) -> Result<Book, Failure> {
        if self.global.no_cache {
            return Err(Failure::usage(
                "a write-only host keeps its book in the cache folder: leave --no-cache out",
            ));
        }
        let id = bundle.keys.repository.to_string();
        let meant = self.own_file().and_then(|file| file.repository_id.as_ref());
        if let Some(meant) = meant.filter(|meant| !id.starts_with(meant.as_str())) {
            return Err(Failure::new(format!(
                "the file of host '{}' is of another repository ({id}) than repository_id of esker.toml ({meant})",
                bundle.name
            )));
        }
        let (place, rates) = self.place_of_host(&bundle)?;
        let storage = place.open(Make::No, rates)?;
        let cache = self.cache().ok_or_else(|| {
            Failure::new(
                "a write-only host keeps its book in the cache folder: give one that can be written with --cache-dir",
            )
        })?;
        let folder = cache.join("hosts").join(bundle.keys.host.to_string());
        Ok(Book::open(bundle, self.access(storage)?, &folder, PATIENCE)?)
    }

    /// Takes what became of earlier runs, and says it.
    pub(crate) fn answers(&self, book: &mut Book) -> Result<Answers, Failure> {
        let answers = take_answers(book)?;
        let admitted: Vec<u64> = answers
            .iter()
            .filter(|answered| answered.refused().is_none())
            .map(|answered| answered.run.run)
            .collect();
        for run in &admitted {
            self.console.say(format!("run {run} was admitted"));
        }
        let refused = book.refused().to_vec();
        for Refused { run, why } in &refused {
            self.console.warn(&format!(
                "run {run} was refused: {why}. There is no snapshot of it; this backup stores again what it needs"
            ));
        }
        Ok(Answers { admitted, refused })
    }
}

/// What became of earlier runs. Those that were refused are told until a run was committed.
pub(crate) struct Answers {
    admitted: Vec<u64>,
    refused: Vec<Refused>,
}

impl Answers {
    /// Whether one was refused: there is no snapshot of it.
    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// For programs.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let admitted = self.admitted.iter().map(|run| (*run, json!({"run": run, "outcome": "admitted"})));
        let refused = self.refused.iter().map(|refused| {
            (refused.run, json!({"run": refused.run, "outcome": "refused", "why": refused.why}))
        });
        let mut rows: Vec<(u64, Value)> = admitted.chain(refused).collect();
        rows.sort_by_key(|(run, _)| *run);
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// What a run is until a full client has looked at it, `waiting` of them with it.
pub(crate) fn pending(run: u64, waiting: usize) -> String {
    let verb = if waiting == 1 { "waits" } else { "wait" };
    format!("run {run} is in the inbox: it is pending until a full client admits it ({waiting} {verb})")
}
