//! The primary is not where it should be: what its copies hold, and what can be done about it.

use super::Context;
use crate::exit::{Code, Failure};
use crate::file::TierPlace;
use crate::output;
use crate::places::Make;
use crate::units::counted;
use chunkstore::store::claim;
use engine::Repository;
use engine::monitor::Tally;
use engine::tier::Role;
use serde_json::json;

/// A copy of the primary that can be reached.
struct Survivor<'a> {
    tier: &'a TierPlace,
    /// Opened; without a secret, or if it is damaged, nothing is known but that it is there.
    repo: Result<Repository, Failure>,
}

impl Survivor<'_> {
    /// Whether it was made the primary.
    fn is_adopted(&self) -> bool {
        self.repo.as_ref().is_ok_and(|repo| repo.store().tier().is_none())
    }
}

impl Context {
    fn survivors(&self) -> Vec<Survivor<'_>> {
        let Some(file) = self.file.as_ref().filter(|_| self.uses_file()) else { return vec![] };
        let secret = self.secret_unasked();
        let reached = file.copies().filter_map(|tier| {
            let storage = tier.place.open(Make::No, tier.rates).ok()?;
            claim(&*storage)?;
            self.refuse_another(tier, &*storage).ok()?;
            let repo = match &secret {
                Some(secret) => self.access(storage).and_then(|access| {
                    let repo = Repository::open(access, secret);
                    repo.map_err(|error| in_place(error, tier))
                }),
                None => Err(Failure::new("nothing that opens it is at hand")),
            };
            Some(Survivor { tier, repo })
        });
        reached.collect()
    }

    /// The copies that can be opened, by their names.
    pub(crate) fn copies_in_reach(&self) -> Vec<(String, Repository)> {
        let opened = self.survivors().into_iter();
        opened.filter_map(|one| Some((one.tier.options.name.clone(), one.repo.ok()?))).collect()
    }

    /// Adds the ways out to an error that says that the primary is not there.
    pub(crate) fn with_ways_out(&self, failure: Failure) -> Failure {
        if failure.code != Code::NoRepository {
            return failure;
        }
        let Some(primary) = self.file.as_ref().filter(|_| self.uses_file()).and_then(|file| file.primary())
        else {
            return failure;
        };
        let survivors = self.survivors();
        let name = &primary.options.name;
        if let Some(adopted) = survivors.iter().find(|survivor| survivor.is_adopted()) {
            let adopted = &adopted.tier.options.name;
            let message = format!(
                "{}: '{adopted}' is the primary by itself, as after 'esker tier adopt': give it the role 'primary' in \
                 esker.toml, and '{name}' the role 'copy'",
                failure.message
            );
            return Failure { message, ..failure };
        }
        let ways: Vec<String> = survivors
            .iter()
            .map(|survivor| {
                let tier = &survivor.tier.options.name;
                match &survivor.repo {
                    Ok(repo) if let Ok(roots) = repo.snapshot_roots() => {
                        format!("'esker tier adopt {tier}' ({})", counted(roots.len(), "snapshot"))
                    }
                    _ => format!("'esker tier adopt {tier}'"),
                }
            })
            .collect();
        if ways.is_empty() {
            return failure;
        }
        let message = format!(
            "{}, where the primary, '{name}', should be. Is its disk mounted? If it is lost, one of its copies can be made \
             the primary: {}; 'esker tier status' compares them",
            failure.message,
            ways.join(", ")
        );
        Failure { message, ..failure }
    }

    /// Adds to an error that says that no key slot opens that they may be damaged, where another tier may have them.
    pub(crate) fn or_damaged_slots(&self, failure: Failure) -> Failure {
        let has_copies = self.file.as_ref().is_some_and(|file| file.copies().next().is_some());
        if failure.code != Code::WrongPassword || !has_copies {
            return failure;
        }
        let message = format!(
            "{}; if it should open the repository, its key slots here may be damaged: 'esker repair head' asks the other tiers",
            failure.message
        );
        Failure { message, ..failure }
    }

    /// Shows what can be reached where the primary cannot.
    pub(crate) fn show_survivors(&self, why: &Failure) {
        let mut table = output::table(&["Tier", "Role", "Snapshots", "Newest", "Problem"]);
        let mut values = vec![];
        for Survivor { tier, repo } in self.survivors() {
            let (name, role) = (&tier.options.name, format!("{:?}", tier.options.role).to_lowercase());
            let snapshots = repo.as_ref().ok().and_then(|repo| repo.snapshots(&Tally::default()).ok());
            let newest = snapshots.iter().flatten().map(|listed| listed.snapshot.time).max();
            let count = repo.as_ref().ok().and_then(|repo| Some(repo.snapshot_roots().ok()?.len()));
            let problem = repo.as_ref().err().map(|failure| failure.message.clone());
            values.push(json!({
                "tier": name, "role": role, "snapshots": count, "newest": newest.map(|time| time.to_string()),
                "error": problem,
            }));
            table.add_row([
                name.clone(),
                role,
                count.map(|count| count.to_string()).unwrap_or_default(),
                newest.map(crate::commands::show_time).unwrap_or_default(),
                problem.unwrap_or_default(),
            ]);
        }
        if self.global.json {
            let primary = self.file.as_ref().and_then(|file| file.primary()).map(|tier| &tier.options.name);
            let away = json!([{"tier": primary, "error": why.message}]);
            output::json_line(&json!({"message_type": "summary", "tiers": values, "unreachable": away}));
        } else if !values.is_empty() {
            self.console.say_table(&table);
        }
    }
}

/// An error of opening a place of esker.toml, with the command that makes anew what opens it.
pub(crate) fn in_place(error: impl Into<engine::Error>, tier: &TierPlace) -> Failure {
    let command = match tier.options.role {
        Role::Primary => "esker repair head".to_owned(),
        Role::Copy | Role::Vault => format!("esker repair head --tier {}", tier.options.name),
    };
    Failure::with_way_out(error.into(), &command)
}
