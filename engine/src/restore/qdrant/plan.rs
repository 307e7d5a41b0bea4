//! What a restore into Qdrant will do: looked at, compared with the server, and refused, as a whole, before anything is
//! touched.

use super::QdrantOptions;
use super::names::{beside, new_names, refuse_conflicts};
use super::shard_keys::{Key, keys};
use super::stored::{Collection, collections};
use crate::qdrant::Qdrant;
use crate::rdb::glob::Glob;
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
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
                 --allow-missing-shards restores what there is, --exclude leaves the collection out",
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

/// Decides on aliases: the server's own stay what they are, and those of a collection that is replaced are put back.
fn set_aliases(steps: &mut [Step], aliases: &BTreeMap<String, String>, names: &BTreeSet<String>) {
    // Two servers of one snapshot may have an alias of one name.
    let mut given: BTreeSet<String> = BTreeSet::new();
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
                _ if !given.insert(alias.clone()) => {
                    step.left.insert(alias.clone(), "another collection of this restore has it".into());
                }
                _ => {
                    step.aliases.insert(alias.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qdrant::Description;

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
