//! `esker tier adopt`

use crate::context::Context;
use crate::context::in_place;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::File;
use crate::output::Summary;
use crate::places::Make;
use crate::units::counted;
use chunkstore::ObjectId;
use chunkstore::store::{Found, another_tier, look};
use engine::Repository;
use engine::monitor::Tally;
use serde_json::json;
use std::collections::HashSet;

/// What another copy has that the adopted one lacks.
#[derive(serde::Serialize)]
struct More {
    tier: String,
    snapshots: usize,
    newest: Option<jiff::Timestamp>,
}

pub(super) fn run(name: &str, force: bool, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    let tier = file.tier(name)?;
    let storage = tier.place.open(Make::No, tier.rates)?;
    context.refuse_another(tier, &*storage)?;
    let secret = context.secret_for(&*storage)?;
    let repo = Repository::open(context.access(storage)?, &secret);
    let repo = repo.map_err(|error| in_place(error, tier))?;
    if repo.store().tier().is_none() {
        let head = repo.snapshot_roots()?.len();
        let value = json!({"tier": name, "was_primary": true, "snapshots": head});
        context.console.result(format!("'{name}' is a primary already"), value);
        return Ok(Code::Done);
    }
    if let Some(found) = repo.store().tier().filter(|found| found != name) {
        return Err(another_tier(&**repo.store().storage(), found.as_str(), name).into());
    }
    let is_moved = !force && may_move(name, file, context)?;
    let more = what_others_have(name, &repo, context)?;
    let incarnation = repo.store().adopt()?;
    // Whoever names a place to be the primary has said which repository is meant.
    context.saw(tier, &repo.store().config().repository_id);
    let snapshots = repo.snapshot_roots()?.len();
    let mut summary = Summary::new(json!({
        "tier": name, "incarnation": incarnation, "snapshots": snapshots, "others": more,
    }));
    let mut say = |text: String| summary.line(text);
    say(format!("'{name}' is the primary now, with {}", counted(snapshots, "snapshot")));
    for More { tier, snapshots, newest } in &more {
        let newest = newest.map(super::super::show_time).unwrap_or_default();
        say(format!(
            "tier '{tier}' has {} that '{name}' lacks, the newest of {newest}: 'esker tier sync' brings over those that belong \
             on the primary; the others stay there as promised",
            counted(*snapshots, "snapshot")
        ));
    }
    let path = file.path.display();
    match file.primary().map(|old| &old.options.name).filter(|old| *old != name) {
        Some(old) => {
            let roles =
                format!("next: in {path}, give '{name}' the role 'primary' and '{old}' the role 'copy'");
            let again = if repo.store().head().tiers.was_made(old) { "--again " } else { "" };
            if is_moved {
                say(format!("{roles}; then 'esker tier sync --rejoin {old}' makes that one a copy"));
            } else {
                say(format!(
                    "{roles}; then 'esker tier init {again}{old}' if its place is empty, and 'esker tier sync'"
                ));
                say(format!("if '{old}' comes back with its old content: 'esker tier sync --rejoin {old}'"));
            }
        }
        None => say(format!(
            "'{name}' has the role 'primary' in {path} already; next: 'esker tier sync', with --rejoin and the name of \
             a tier that was the primary meanwhile"
        )),
    }
    context.console.summary(&summary);
    Ok(Code::Done)
}

/// Whether the old primary is there and is to be a copy from now on: then what it has must be on the new one, too.
fn may_move(name: &str, file: &File, context: &Context) -> Result<bool, Failure> {
    let Some(old) = file.primary().filter(|old| old.options.name != name) else { return Ok(false) };
    let storage = old.place.open(Make::No, old.rates);
    let is_there = storage.is_ok_and(|storage| {
        // By its config, too, which says whether HEAD is an object or a chain.
        context.refuse_another(old, &*storage).is_ok() && matches!(look(&*storage), Ok(Found::Whole))
    });
    if !is_there {
        return Ok(false);
    }
    let refuse = |why: String| {
        Err(Failure::new(format!(
            "the primary '{}' can still be reached, and {why}; --force if it is to be given up all the same",
            old.options.name
        )))
    };
    let fleet = match context.fleet_to_look(None) {
        Ok(fleet) => fleet,
        Err(failure) => return refuse(format!("is not in order: {}", failure.message)),
    };
    if let Some((_, why)) = fleet.away.iter().find(|(away, _)| away == name) {
        return refuse(format!("'{name}' cannot be held against it: {why}"));
    }
    let standing = fleet.standing(file, context.now(), &Tally::default())?;
    let (owed, behind) = (standing.owed(name).len(), standing.behind(name).groups);
    match owed + behind {
        0 => Ok(true),
        _ => refuse(format!(
            "'{name}' is owed {} of it, and lacks the newest of {}. Run 'esker tier sync' first",
            counted(owed, "snapshot"),
            counted(behind, "group")
        )),
    }
}

/// What other copies that can be reached have more.
fn what_others_have(name: &str, repo: &Repository, context: &Context) -> Result<Vec<More>, Failure> {
    let mut there: HashSet<ObjectId> = repo.snapshot_roots()?.iter().map(|root| root.id).collect();
    there.extend(repo.store().head().forgotten.iter()?);
    let mut all = vec![];
    for (tier, other) in context.copies_in_reach().into_iter().filter(|(tier, _)| tier != name) {
        let Ok(mut listed) = other.stored_snapshots(&Tally::default()) else { continue };
        listed.retain(|listed| !there.contains(&listed.id));
        if !listed.is_empty() {
            let newest = listed.iter().map(|listed| listed.snapshot.time).max();
            all.push(More { tier, snapshots: listed.len(), newest });
        }
    }
    Ok(all)
}
