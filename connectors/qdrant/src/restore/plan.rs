//! The plan of a restore into Qdrant: compared with the server, and refused as a whole, before anything changes.

use super::names::{beside, new_names, refuse_conflicts};
use super::shard_keys::{Key, keys};
use super::{QdrantOptions, unless_interrupted};
use crate::server::Qdrant;
use crate::stored::{Collection, collections};
use connector_kit::glob::Glob;
use engine::connector::{Steps, Way};
use engine::snapshot::Snapshot;
use engine::{Error, Monitor, Repository, Result};
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
    /// The points of that one, if the server counts them.
    replaced: Option<u64>,
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
    /// What it will do, in words.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut steps = Steps::default();
        self.steps.iter().for_each(|step| step.say(&mut steps));
        steps.lines()
    }
}

impl Step {
    fn say(&self, steps: &mut Steps) {
        let (description, target) = (&self.stored.description, &self.target);
        let way = if self.beside.is_some() { Way::Proved } else { Way::New };
        steps.of(format_args!("collection '{target}'"), way);
        let name = match description.name == *target {
            true => String::new(),
            false => format!(" of '{}'", description.name),
        };
        let points = description.points.map(|points| format!(" with {points} points")).unwrap_or_default();
        let content = format!("{} shards{name}{points}", self.stored.shards.len());
        match &self.beside {
            None => steps.with(format_args!("create it and restore {content}")),
            Some(beside) => {
                steps.with(format_args!("proof: restore {content} into a new collection, '{beside}'"));
                let points =
                    self.replaced.map(|points| format!(" and its {points} points")).unwrap_or_default();
                steps.with(format_args!("remove '{target}'{points}"));
                steps.with(format_args!("create it and restore {content} again"));
                steps.with(format_args!("remove '{beside}'"));
            }
        }
        if !self.missing.is_empty() {
            let missing = numbers(&self.missing);
            steps.with(format_args!("without shards {missing}: they are not in the snapshot"));
        }
        self.aliases.iter().for_each(|alias| steps.with(format_args!("set alias '{alias}'")));
        for (alias, other) in &self.left {
            steps.stays(format_args!("alias '{alias}': {other}"));
        }
        match &self.beside {
            None => steps.leaves("nothing, if it fails: it is removed again"),
            Some(beside) => {
                steps.stays(format_args!("'{target}', if anything fails before it is removed"));
                steps.leaves(format_args!("nothing; after a later failure '{beside}', which is complete"));
            }
        }
    }
}

/// Numbers for people.
pub(super) fn numbers(numbers: &BTreeSet<u64>) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Looks at the snapshot and at the server.
///
/// # Errors
/// What stands in the way; [`Error::Interrupted`] if the user had enough.
pub fn plan(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    server: &Qdrant,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<Plan> {
    look(repo, snapshot, path, server, options, monitor).map_err(|error| unless_interrupted(error, monitor))
}

fn look(
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
            replaced: beside.as_ref().and_then(|_| server.count(&target).ok()),
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
    use crate::server::Description;

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
