//! What a restore says besides its plan and its result: what stays as it was, what a failure leaves.

use super::Work;
use super::plan::{Plan, Way};
use crate::sql::quoted_name;
use engine::ItemError;

impl Work<'_> {
    /// Says what became of one of the dump's objects: in one line, whatever it is called.
    pub(super) fn tell(&self, item: String, message: &str) {
        let message = engine::shown::line(message).into_owned();
        self.monitor.error(ItemError { during: "restore", item, message });
    }

    /// Another part of a database's restore begins, with a time and a total of its own.
    pub(super) fn phase(&self, plan: &Plan, what: &str) {
        self.monitor.phase(&format!("database '{}': {what}", engine::shown::line(&plan.target)));
    }

    /// What stays as it is.
    pub(super) fn notes(&self, plan: &Plan, notes: &mut Vec<String>) {
        notes.extend(plan.unfinished.iter().map(|of| {
            format!(
                "database '{}' was incomplete, left by an interrupted restore of the snapshot of {of}",
                plan.target
            )
        }));
        if !plan.definition.is_known() && plan.way != Way::Into {
            notes.push(format!(
                "database '{}' has the owner, privileges and settings of {}: this dump does not tell them",
                plan.target,
                if plan.way == Way::Exists { "before" } else { "a new one" }
            ));
        }
        if plan.leaves_defaults && plan.way != Way::Into {
            notes.push(format!(
                "database '{}' has no default privileges of the dump's, which belong to its roles: what is made in it later is open to everybody as in a new one",
                plan.target
            ));
        }
        for entry in plan.entries().filter(|entry| entry.has_data) {
            let path = format!("{}/{}", plan.stored.path, entry.file);
            if let Some(why) = self.left_out.get(&path) {
                let item = format!("the rows of {}.{}", entry.namespace, entry.tag);
                let message = format!("are not in the backup: {why}");
                self.tell(item, &message);
            }
        }
        let Some(chosen) = &plan.chosen else {
            for (object, why) in self.missing_objects(plan) {
                let message = format!("is not in the backup: {why}");
                self.tell(object.to_owned(), &message);
            }
            return;
        };
        for left in &chosen.left {
            if left.is_part {
                self.tell(left.what.clone(), "is left out: what it refers to is not in the database");
            } else {
                notes.push(format!("left out, since what it refers to is not there: {}", left.what));
            }
        }
        notes.extend(chosen.unpublished.iter().map(|(table, publication)| {
            format!("table {table} is no longer in the publication '{publication}': the dump does not put it there")
        }));
        notes.extend(chosen.set.iter().map(|name| {
            format!(
                "sequence {name} is used by other objects: its definition and value are set; its owner, privileges and comment stay as they are"
            )
        }));
        notes.extend(chosen.lost.iter().map(|lost| {
            format!("partition {} goes with table {}: the dump does not have it", lost.name(), lost.table)
        }));
        for name in &chosen.different {
            let message = "is there with another definition than the dump's, and stays as it is";
            self.tell(format!("type {name}"), message);
        }
    }

    /// Databases and globals that the backup left out.
    pub(super) fn tell_what_is_missing(&self, plans: &[Plan]) {
        let is_within = |path: &String| {
            plans.iter().any(|plan| {
                path.strip_prefix(&plan.stored.path).is_some_and(|rest| rest.starts_with(['/', ':']))
            })
        };
        for (path, why) in self.left_out.iter().filter(|(path, _)| !is_within(path)) {
            let message = format!("is not in the backup: {why}");
            self.tell(path.clone(), &message);
        }
    }

    /// What a failure at plan number `at` leaves; `left` are databases that could not be removed.
    pub(super) fn tell_what_is_left(&self, plans: &[Plan], at: usize, left: &[String], with_globals: bool) {
        let tell = |item: String, message: String| self.tell(item, &message);
        if let Some(current) = plans.get(at) {
            let item = format!("database '{}'", current.target);
            match current.way {
                // Single tables come in one transaction.
                Way::Into => {}
                Way::Exists => {
                    tell(
                        item,
                        "is incomplete, because its restore ended early; --replace starts again".into(),
                    );
                }
                Way::Made if left.contains(&current.target) => {
                    let message = format!(
                        "is incomplete, because its restore ended early, and could not be dropped; the next restore into it replaces it, or DROP DATABASE {} drops it",
                        quoted_name(&current.target)
                    );
                    tell(item, message);
                }
                Way::Made => {
                    tell(
                        item,
                        "was incomplete, because its restore ended early, and is dropped again".into(),
                    );
                }
                Way::Replaced => tell(item, "is as it was: the new one was not whole".into()),
            }
        }
        let names = |plans: &mut dyn Iterator<Item = &Plan>| -> String {
            plans.map(|plan| format!("'{}'", plan.target)).collect::<Vec<_>>().join(", ")
        };
        let later = plans.get(at + 1..).unwrap_or_default();
        for (what, list) in [
            ("restored", names(&mut plans.iter().take(at))),
            ("as they were", names(&mut later.iter().filter(|plan| plan.way != Way::Made))),
            ("not begun", names(&mut later.iter().filter(|plan| plan.way == Way::Made))),
        ] {
            if !list.is_empty() {
                tell("of the other databases".into(), format!("{what}: {list}"));
            }
        }
        if with_globals {
            tell("roles".into(), "are those of the dump already".into());
        }
        let current = plans.get(at).map(|current| &current.target);
        self.tell_left(left.iter().filter(|name| Some(*name) != current));
    }

    /// Databases that this restore made and that could not be removed.
    pub(super) fn tell_left<'b>(&self, left: impl Iterator<Item = &'b String>) {
        for name in left {
            let message = format!(
                "could not be dropped again, and is not whole; the next restore removes it, or DROP DATABASE {} does",
                quoted_name(name)
            );
            self.tell(format!("database '{name}'"), &message);
        }
    }
}
