//! The plan of a restore in words: what is created, and for each database which way it goes. Numbers of a run are not in it, so
//! that a dry run prints what the restore prints.

use super::globals::Globals;
use super::plan::{Plan, Way};
use super::run::Leftover;
use engine::connector::{Steps, Way as Shown};
use engine::shown::counted;

/// What a restore is about to do.
pub(super) struct Intent<'a> {
    pub(super) leftovers: &'a [Leftover],
    pub(super) globals: &'a Globals,
    pub(super) plans: &'a [Plan],
    pub(super) no_owner: bool,
}

impl Intent<'_> {
    /// What will be done, in order.
    pub(super) fn steps(&self) -> Vec<String> {
        let mut steps = Steps::default();
        for left in self.leftovers.iter().filter(|left| left.kept.is_none()) {
            let what = if left.target.is_none() { ", if it is empty" } else { "" };
            steps.add(format!("drop database '{}', which an interrupted restore left{what}", left.name));
        }
        let made = |way: Way| self.plans.iter().filter(move |plan| plan.way == way);
        for plan in made(Way::Made) {
            steps.add(format!("create database '{}', which only administrators can enter", plan.target));
        }
        for plan in made(Way::Replaced) {
            let target = &plan.target;
            steps.add(format!("create a database beside '{target}', which only administrators can enter"));
        }
        if !self.globals.is_empty() {
            steps.add("create the roles and tablespaces that are missing, and change those that are there");
            steps.stays("roles and tablespaces that the dump does not have");
            steps.leaves("the roles, also if a database fails after them");
        }
        self.plans.iter().for_each(|plan| self.database(plan, &mut steps));
        steps.lines()
    }

    /// One database.
    fn database(&self, plan: &Plan, steps: &mut Steps) {
        let target = &plan.target;
        let count = |kind: &str| plan.entries().filter(|entry| entry.kind == kind).count();
        let content = match plan.toc {
            Some(_) => format!(
                "{}, rows of {}",
                counted(plan.entries().count(), "entry"),
                counted(count("TABLE DATA"), "table")
            ),
            None => "a dump in plain SQL".to_owned(),
        };
        let definition = match plan.definition.is_known() {
            true if self.no_owner => "its settings and comment",
            true => "its owner, privileges, settings and comment",
            false => "the defaults of a new one",
        };
        let is = |way: Shown, steps: &mut Steps| steps.of(format_args!("database '{target}'"), way);
        match plan.way {
            Way::Into => {
                is(Shown::Into, steps);
                steps.with("in one transaction:");
                let chosen = plan.chosen.as_ref();
                let dropped = chosen.iter().flat_map(|chosen| &chosen.dropped);
                dropped.for_each(|name| steps.with(format_args!("  drop {name}")));
                steps.with(format_args!("  create and fill what was chosen ({content})"));
                for name in chosen.iter().flat_map(|chosen| &chosen.set) {
                    steps.with(format_args!("  set sequence {name} where it is, since other objects use it"));
                }
                for (name, constraints) in chosen.iter().flat_map(|chosen| &chosen.constrained) {
                    let constraints = constraints.join(", ");
                    steps.with(format_args!("  give {name} constraints of its table: {constraints}"));
                }
                steps.stays("everything else in the database; all of it, if the transaction fails");
                steps.leaves("nothing");
            }
            Way::Exists => {
                is(Shown::Empty, steps);
                steps.with(format_args!("fill it ({content})"));
                steps.with(format_args!("give it {definition}"));
                steps.leaves("an incomplete database, if it fails; --replace starts again");
            }
            Way::Made => {
                is(Shown::New, steps);
                steps.with(format_args!("fill it ({content})"));
                steps.with(format_args!("give it {definition}"));
                steps.leaves("nothing, if it fails: it is dropped again");
            }
            Way::Replaced => {
                is(Shown::Switched, steps);
                if plan.unfinished.is_some() {
                    steps.with("the existing one is incomplete, left by an interrupted restore");
                }
                steps.with(format_args!("fill the new database, 'esker_restore_…' ({content})"));
                steps.with(format_args!(
                    "switch in one transaction: end the sessions in '{target}', rename it to 'esker_replaced_…', and give its name, {definition}, to the new one"
                ));
                steps.with("drop the old database, 'esker_replaced_…'");
                steps.stays(format_args!("'{target}', if anything fails before the switch"));
                steps.leaves("nothing; the new database is dropped if it cannot be completed");
            }
        }
    }
}
