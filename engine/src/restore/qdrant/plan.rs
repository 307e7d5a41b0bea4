//! What a restore into Qdrant will do: looked at, compared with the server, and refused, as a whole, before anything is
//! touched.

use super::QdrantOptions;
use super::stored::{Collection, collections};
use crate::qdrant::Qdrant;
use crate::rdb::glob::Glob;
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A restore into Qdrant.
pub struct Plan {
    pub(super) steps: Vec<Step>,
}

/// What becomes of a collection.
pub(super) struct Step {
    pub(super) stored: Collection,
    /// Its name on the server.
    pub(super) target: String,
    /// The name under which it is restored first, if one of its name is there: only then is that removed.
    pub(super) beside: Option<String>,
    /// Shard keys to make, in order.
    pub(super) keys: Vec<Key>,
    /// Aliases to set.
    pub(super) aliases: BTreeSet<String>,
    /// Aliases that it had and that mean something else on the server, with that.
    pub(super) left: BTreeMap<String, String>,
    /// Shards that are not in the snapshot.
    pub(super) missing: BTreeSet<u64>,
}

/// Shards of a key, in a row.
pub(super) struct Key {
    pub(super) key: Value,
    pub(super) shards: u64,
    /// Whether it only takes up numbers: keys between others were removed before the backup.
    pub(super) filler: bool,
}

impl Plan {
    /// What it will do, in words, a step a line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        for step in &self.steps {
            let (name, target) = (&step.stored.description.name, &step.target);
            let renamed = if name == target { String::new() } else { format!(" as '{target}'") };
            lines.push(format!("restore collection '{name}'{renamed}: {} shards", step.stored.shards.len()));
            if let Some(beside) = &step.beside {
                lines.push(format!(
                    "  first beside, as '{beside}'; then remove '{target}', restore it, and remove '{beside}'"
                ));
            }
            if !step.missing.is_empty() {
                lines.push(format!(
                    "  without shards {}: they are not in the snapshot",
                    numbers(&step.missing)
                ));
            }
            for alias in &step.aliases {
                lines.push(format!("  set alias '{alias}'"));
            }
            for (alias, other) in &step.left {
                lines.push(format!("  leave alias '{alias}' alone: {other}"));
            }
        }
        lines
    }
}

/// Numbers for people.
pub(super) fn numbers(numbers: &BTreeSet<u64>) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Looks at the snapshot and at the server.
pub fn plan(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    server: &Qdrant,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<Plan> {
    repo.sync_index(monitor)?;
    let chosen = chosen(repo, snapshot, path, server, options, monitor)?;
    let names = new_names(&chosen, server, options)?;
    let version = server.version()?;
    let there = server.collections()?;
    let aliases = server.aliases()?;
    refuse_conflicts(&names, &there, &aliases, options)?;
    let mut steps = vec![];
    let mut taken: BTreeSet<String> = there.iter().chain(names.values()).cloned().collect();
    for (name, stored) in chosen {
        let target = names.get(&name).cloned().unwrap_or_else(|| name.clone());
        refuse_newer(&stored, &version)?;
        let missing = stored.missing();
        if !missing.is_empty() && !options.allow_missing_shards {
            return Err(Error::Refused(format!(
                "shards {} of collection '{name}' are not in this snapshot: not every node of the cluster was backed up; \
                 --allow-missing-shards restores what there is",
                numbers(&missing)
            )));
        }
        let beside = there.contains(&target).then(|| beside(&target, &taken));
        taken.extend(beside.clone());
        steps.push(Step {
            keys: keys(&stored)?,
            aliases: BTreeSet::new(),
            left: BTreeMap::new(),
            stored,
            target,
            beside,
            missing,
        });
    }
    let keyed: Vec<&str> = steps
        .iter()
        .filter(|step| !step.keys.is_empty())
        .map(|step| step.stored.description.name.as_str())
        .collect();
    if !keyed.is_empty() && server.peers()?.is_some_and(|peers| peers.is_empty()) {
        return Err(Error::Refused(format!(
            "{}: collections with shard keys ({}) need a server in cluster mode (cluster.enabled: true), which this one is \
             not; --exclude NAME restores the others",
            server.shown,
            keyed.join(", ")
        )));
    }
    let names: BTreeSet<String> = there.into_iter().chain(names.into_values()).collect();
    set_aliases(&mut steps, &aliases, &names);
    Ok(Plan { steps })
}

/// The collections of the snapshot that are asked for.
fn chosen(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    server: &Qdrant,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<BTreeMap<String, Collection>> {
    // A name that looks like a pattern is a name first.
    let fits = |pattern: &str, name: &str| pattern == name || Glob::new(pattern).fits(name.as_bytes());
    let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| fits(pattern, name));
    let seen = std::cell::RefCell::new(BTreeSet::new());
    let by_url = server.collection.as_deref().filter(|_| options.include.is_empty() && !names_one(path));
    let found = collections(
        repo,
        snapshot,
        path,
        &|name| {
            seen.borrow_mut().insert(name.to_owned());
            let included = options.include.is_empty() || any(&options.include, name);
            included && !any(&options.exclude, name) && by_url.is_none_or(|wanted| wanted == name)
        },
        monitor,
    )?;
    let seen = seen.into_inner();
    for pattern in options.include.iter().chain(&options.exclude).map(String::as_str).chain(by_url) {
        if !seen.iter().any(|name| fits(pattern, name)) {
            let all: Vec<&str> = seen.iter().map(String::as_str).collect();
            return Err(Error::Invalid(format!(
                "there is no collection '{pattern}' in this snapshot; it has {}",
                all.join(", ")
            )));
        }
    }
    if found.is_empty() {
        return Err(Error::Invalid("no collection of this snapshot is left to restore".into()));
    }
    Ok(found)
}

/// Whether a path in a snapshot is that of one collection.
fn names_one(path: &str) -> bool {
    path.split('/').count() >= 4
}

/// The names that collections get, all of them looked at before anything is done.
fn new_names(
    chosen: &BTreeMap<String, Collection>,
    server: &Qdrant,
    options: &QdrantOptions,
) -> Result<BTreeMap<String, String>> {
    let invalid = |why: String| Err(Error::Invalid(why));
    let mut names: BTreeMap<String, String> =
        chosen.keys().map(|name| (name.clone(), name.clone())).collect();
    let mut renamed = BTreeSet::new();
    for (old, new) in &options.renames {
        if !renamed.insert(old) {
            return invalid(format!("--rename gives '{old}' two names"));
        }
        match names.get_mut(old) {
            Some(name) => name.clone_from(new),
            None => return invalid(format!("--rename: '{old}' is none of the collections to restore")),
        }
    }
    if let Some(wanted) = &server.collection {
        let [only] = chosen.keys().collect::<Vec<_>>()[..] else {
            return invalid(format!(
                "the URL names one collection, '{wanted}', and {} are to be restored; choose one with --include",
                chosen.len()
            ));
        };
        if !renamed.is_empty() {
            return invalid("the URL names the collection already; --rename has nothing to say".into());
        }
        names.insert(only.clone(), wanted.clone());
    }
    let mut targets: BTreeMap<&String, &String> = BTreeMap::new();
    for (old, new) in &names {
        if let Some(why) = unusable(new) {
            return invalid(format!("'{new}' is no name for a collection: {why}"));
        }
        if let Some(other) = targets.insert(new, old) {
            return invalid(format!("collections '{other}' and '{old}' would both be called '{new}'"));
        }
    }
    Ok(names)
}

/// Why the server would not take a name. Source: `validate_collection_name` in its repository.
fn unusable(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it means a folder"),
        name if name.len() > 255 => Some("it has more than 255 bytes"),
        name if name.chars().any(|letter| letter.is_control() || "<>:\"/\\|?*".contains(letter)) => {
            Some("it has one of < > : \" / \\ | ? * in it")
        }
        _ => None,
    }
}

fn refuse_conflicts(
    names: &BTreeMap<String, String>,
    there: &BTreeSet<String>,
    aliases: &BTreeMap<String, String>,
    options: &QdrantOptions,
) -> Result<()> {
    if let Some((target, of)) = names.values().find_map(|target| aliases.get_key_value(target)) {
        return Err(Error::Refused(format!(
            "'{target}' is an alias of collection '{of}' on the server; --rename OLD=NEW gives another name"
        )));
    }
    let existing: Vec<&str> =
        names.values().filter(|name| there.contains(*name)).map(String::as_str).collect();
    if !existing.is_empty() && !options.replace {
        return Err(Error::Refused(format!(
            "there already: {}; --replace restores them beside and then replaces them, --rename OLD=NEW gives other names",
            existing.join(", ")
        )));
    }
    Ok(())
}

/// Data of a later version cannot be read.
fn refuse_newer(stored: &Collection, version: &str) -> Result<()> {
    let minor = |version: &str| {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let description = &stored.description;
    if let (Some(theirs), Some(ours)) = (minor(version), minor(&description.version))
        && ours > theirs
    {
        return Err(Error::Refused(format!(
            "collection '{}' was backed up from Qdrant {}, and this server is {version}, which cannot read newer data; \
             upgrade it first",
            description.name, description.version
        )));
    }
    Ok(())
}

/// A name for a collection beside another one.
fn beside(target: &str, taken: &BTreeSet<String>) -> String {
    let head = target.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= 200);
    let head = &target[..head.last().unwrap_or_default()];
    let names = (1..u64::MAX).map(|number| format!("{head}.esker-{number}"));
    names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default()
}

/// The shard keys to make, so that each shard gets the number that it had: points find their shard by it. The server gives
/// the numbers from 1 on, in a row.
fn keys(stored: &Collection) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = vec![];
    let mut next = 1;
    for (shard, key) in stored.description.shard_keys() {
        if shard > next {
            let filler = format!("esker-filler-{next}");
            keys.push(Key { key: filler.into(), shards: shard - next, filler: true });
        }
        next = shard + 1;
        let last = keys.len().wrapping_sub(1);
        match keys.iter().position(|made| made.key == key) {
            Some(place) if place == last => keys[place].shards += 1,
            Some(_) => {
                return Err(Error::Refused(format!(
                    "collection '{}': the shards of key {key} were not made at once (resharding), and cannot be made so again",
                    stored.description.name
                )));
            }
            None => keys.push(Key { key, shards: 1, filler: false }),
        }
    }
    Ok(keys)
}

/// Decides on aliases: the server's own stay what they are, and those of a collection that is replaced are put back.
fn set_aliases(steps: &mut [Step], aliases: &BTreeMap<String, String>, names: &BTreeSet<String>) {
    for step in steps.iter_mut() {
        let own = aliases.iter().filter(|(_, of)| **of == step.target).map(|(alias, _)| alias.clone());
        step.aliases.extend(own.filter(|_| step.beside.is_some()));
        // Under another name it is a copy, and the alias stays where it is.
        if step.target != step.stored.description.name {
            continue;
        }
        for alias in &step.stored.description.aliases {
            match aliases.get(alias) {
                Some(other) if *other != step.target => {
                    step.left.insert(alias.clone(), format!("on the server it is one of '{other}'"));
                }
                None if names.contains(alias) => {
                    step.left.insert(alias.clone(), "there is a collection of that name".into());
                }
                _ => drop(step.aliases.insert(alias.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qdrant::{Description, Replica};

    fn with_keys(keys: &[(u64, &str)]) -> Collection {
        let replica = |(shard_id, key): &(u64, &str)| Replica {
            shard_id: *shard_id,
            shard_key: Some((*key).into()),
            ..Replica::default()
        };
        let description =
            Description { replicas: keys.iter().map(replica).collect(), ..Description::default() };
        Collection { description, shards: BTreeMap::new() }
    }

    #[test]
    fn keys_are_made_so_that_shards_keep_their_numbers() {
        let made = |list: &[(u64, &str)]| {
            let keys = keys(&with_keys(list)).ok()?;
            Some(
                keys.iter().map(|key| (key.key.as_str().unwrap().to_owned(), key.shards)).collect::<Vec<_>>(),
            )
        };
        let some = |list: &[(&str, u64)]| {
            Some(list.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect())
        };
        assert_eq!(made(&[(1, "a"), (2, "b")]), some(&[("a", 1), ("b", 1)]));
        assert_eq!(made(&[(1, "a"), (2, "a"), (5, "b")]), some(&[("a", 2), ("esker-filler-3", 2), ("b", 1)]));
        assert_eq!(made(&[(1, "a"), (2, "b"), (3, "a")]), None);
    }

    #[test]
    fn names_that_a_server_refuses() {
        for name in ["", ".", "..", "a/b", "a\\b", "a:b", "a\nb", &"x".repeat(256)] {
            assert!(unusable(name).is_some(), "{name}");
        }
        for name in ["a b", "žluť 日本", ".hidden", "100%", "plus+and&"] {
            assert!(unusable(name).is_none(), "{name}");
        }
    }

    #[test]
    fn newer_data_is_refused() {
        let of = |version: &str| Collection {
            description: Description { version: version.into(), ..Description::default() },
            shards: BTreeMap::new(),
        };
        assert!(refuse_newer(&of("1.19.0"), "1.18.3").is_err());
        assert!(refuse_newer(&of("1.18.4"), "1.18.3").is_ok());
        assert!(refuse_newer(&of("1.9.0"), "1.18.3").is_ok());
        assert!(refuse_newer(&of(""), "1.18.3").is_ok());
    }
}
