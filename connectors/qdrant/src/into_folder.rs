//! Checks of restores of Qdrant's volumes into a folder. A server reads every segment in a shard's folder, so files of
//! two moments in one collection would be points that nobody wrote. Before anything is written, this module checks
//! whether a server runs there, and whether existing files are anything but a part of the same snapshot.

use crate::files::KIND;
use crate::files::layout::{ALIASES, COLLECTIONS, held_log, is_storage, tree};
use engine::entry::{Kind, Time};
use engine::manifest::for_all_entries;
use engine::restore::is_partial;
use engine::restore::scope::Scope;
use engine::restore::{Overwrite, RestoreOptions, as_path};
use engine::snapshot::{Snapshot, SourceRecord};
use engine::{Error, Monitor, Repository, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Size and time of the files that are to be restored beneath a folder, by path relative to it.
#[derive(Default)]
struct Unit {
    files: HashMap<PathBuf, (u64, Time)>,
    /// Whether the folder is a collection's, or a part of one, in which nothing else may lie.
    alone: bool,
}

/// What is to be restored of a snapshot's volumes.
#[derive(Default)]
struct Chosen {
    /// By folder beneath the target.
    units: BTreeMap<PathBuf, Unit>,
    /// Collections without their aliases, with those.
    without_aliases: BTreeMap<String, String>,
}

/// Refuses to mix a volume with other files, or to write below a running server; returns notes for people: aliases that
/// are not restored.
pub fn check(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<String>> {
    let records: Vec<&SourceRecord> = snapshot.sources.iter().filter(|record| record.kind == KIND).collect();
    if records.is_empty() {
        return Ok(vec![]);
    }
    repo.sync_index(monitor)?;
    let scope = Scope::new(options);
    let chosen = choose(repo, snapshot, &records, &scope)?;
    for (folder, unit) in &chosen.units {
        refuse_running(&options.target.join(folder))?;
        refuse_mixture(folder, unit, options, &scope)?;
    }
    Ok(chosen
        .without_aliases
        .into_iter()
        .map(|(name, aliases)| {
            format!(
                "collection '{name}' had the aliases {aliases}, which are not in its folder: give them again by the \
                 server's interface (POST /collections/aliases)"
            )
        })
        .collect())
}

fn choose(
    repo: &Repository,
    snapshot: &Snapshot,
    records: &[&SourceRecord],
    scope: &Scope,
) -> Result<Chosen> {
    let (mut chosen, mut with_aliases) = (Chosen::default(), HashSet::new());
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let shown = listed.entry.display_path();
        let Some((record, inside)) = records.iter().find_map(|record| {
            Some((*record, shown.strip_prefix(record.origin.as_str())?.strip_prefix('/')?.to_owned()))
        }) else {
            return Ok(());
        };
        let Some(target) = scope.target(&listed.entry).filter(|_| listed.entry.kind == Kind::File) else {
            return Ok(());
        };
        let parts: Vec<&str> = inside.split('/').collect();
        let name = match parts.as_slice() {
            [COLLECTIONS, name, _, ..] => Some(*name),
            _ => None,
        };
        // How many components of the path lie within the unit; a part of it may be all that is restored.
        let within = parts.len() - if name.is_some() { 2 } else { 0 };
        let components: Vec<_> = as_path(&target).components().collect();
        let (folder, file) = components.split_at(components.len().saturating_sub(within));
        let unit = chosen.units.entry(folder.iter().collect()).or_default();
        unit.files.insert(file.iter().collect(), (listed.size, listed.entry.mtime));
        unit.alone = name.is_some();
        if inside == ALIASES {
            with_aliases.insert(&record.origin);
        }
        if let Some(name) = name
            && let Some(aliases) = record.details.get(&format!("aliases:{name}"))
        {
            chosen.without_aliases.insert(name.to_owned(), aliases.clone());
        }
        Ok(())
    })?;
    if !with_aliases.is_empty() {
        chosen.without_aliases.clear();
    }
    Ok(chosen)
}

/// A folder of a running server is not written to.
fn refuse_running(folder: &Path) -> Result<()> {
    let absolute = folder.canonicalize().or_else(|_| std::path::absolute(folder));
    let absolute = absolute.unwrap_or_else(|_| folder.to_owned());
    let Some(storage) = absolute.ancestors().find(|above| is_storage(above)) else { return Ok(()) };
    let held = held_log(storage).map_err(|source| Error::Target {
        op: "look at",
        path: storage.display().to_string(),
        source,
    })?;
    held.map_or(Ok(()), |log| {
        Err(Error::Refused(format!(
            "a Qdrant runs on {} ({} is locked): stop it first",
            storage.display(),
            log.display()
        )))
    })
}

/// Existing files must be a part of the same snapshot, as an interrupted restore leaves them, or be replaced
/// completely.
fn refuse_mixture(place: &Path, unit: &Unit, options: &RestoreOptions, scope: &Scope) -> Result<()> {
    let folder = options.target.join(place);
    let exact = options.delete && matches!(options.overwrite, Overwrite::Always | Overwrite::IfChanged);
    // What the filters leave out is not removed.
    let goes = |path: &Path, metadata: &Metadata| {
        exact && scope.fits(place.join(path).as_os_str().as_bytes(), metadata.is_dir())
    };
    let there = tree(&folder).map_err(|(path, why)| Error::Invalid(format!("{}: {why}", path.display())))?;
    let other = there.iter().find(|(path, metadata)| {
        let same = |wanted: &(u64, Time)| *wanted == (metadata.len(), modified(metadata));
        match unit.files.get(*path) {
            _ if goes(path, metadata) => false,
            Some(wanted) => !metadata.is_file() || !same(wanted),
            None => {
                let name = path.file_name().unwrap_or_default();
                unit.alone && !metadata.is_dir() && !is_partial(name.as_bytes())
            }
        }
    });
    other.map_or(Ok(()), |(path, _)| {
        Err(Error::Refused(format!(
            "{} is there already and is not this snapshot's: a server would read a mixture of both; restore \
                into another folder, or remove it first (--delete does, with --overwrite always)",
            folder.join(path).display()
        )))
    })
}

fn modified(metadata: &Metadata) -> Time {
    Time { seconds: metadata.mtime(), nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or_default() }
}
