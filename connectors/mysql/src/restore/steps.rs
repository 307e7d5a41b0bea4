//! The plan of a restore in words: for each database which way it goes, what is moved or dropped, what stays, what is left over.

use super::Work;
use super::leftovers::{Role, named};
use super::stored::{Goal, Stored};
use crate::dump::Kind;
use engine::Result;
use engine::connector::{Steps, Way};
use engine::shown::counted;

impl Work<'_> {
    /// What will be done, in order. Asks the server what it has.
    pub(super) fn steps(&self, goals: &[Goal], stored: &Stored, is_whole: bool) -> Result<Vec<String>> {
        let mut steps = Steps::default();
        if stored.accounts.is_some() {
            steps.add("make the accounts and roles that are not there, and give them their rights");
            steps.stays("passwords of accounts that are there, and accounts that the dump does not have");
            steps.leaves("the accounts, also if a database fails after them");
        }
        let mut views = 0;
        for goal in goals {
            views += self.count(goal, Kind::View);
            self.steps_of(goal, &mut steps)?;
        }
        if views > 0 {
            steps.add(format!("make {} of all these databases", counted(views, "view")));
        }
        if stored.accounts.is_some() {
            steps.add("give rights on tables");
        }
        if stored.libraries.is_some() {
            steps.add("name plugins and functions of libraries that the server lacks");
        }
        if is_whole && !stored.logs.is_empty() && !self.options.base_only {
            let until = self.options.time.map_or_else(String::new, |time| format!(" up to {time}"));
            steps.add(format!("replay {} of the binary log{until}", counted(stored.logs.len(), "file")));
            steps.leaves("a part of the changes, if it fails; --replace starts again");
        }
        Ok(steps.lines())
    }

    /// How many objects of a kind come back with a database.
    fn count(&self, goal: &Goal, kind: Kind) -> usize {
        let chosen = goal.index.objects.iter().filter(|object| self.is_chosen(object));
        chosen.filter(|object| object.kind == kind).count()
    }

    /// One database.
    fn steps_of(&self, goal: &Goal, steps: &mut Steps) -> Result<()> {
        let Goal { name, target, index, .. } = goal;
        let (new, old) = (named(target, Role::New), named(target, Role::Old));
        for left in [&old, &new] {
            if self.is_there(left)? {
                steps.add(format!("remove '{left}', which an interrupted restore left; its tables go back if they were moved"));
            }
        }
        let is_single = !self.options.selection.tables.is_empty();
        let what = match self.options.selection.tables.as_slice() {
            [] => counted(index.tables.len(), "table"),
            tables => format!("tables {}", tables.join(", ")),
        };
        let [there, others] = self.there(target)?;
        let is_taken = self.is_taken(target)?;
        let way = match (is_taken, is_single) {
            (true, _) => Way::Switched,
            (false, true) => Way::Into,
            (false, false) if self.is_there(target)? => Way::Empty,
            (false, false) => Way::New,
        };
        steps.of(format_args!("database '{target}'"), way);
        if is_taken {
            steps.with(format_args!("read {what} of '{name}' into a new database, '{new}'"));
            steps.with(format_args!(
                "switch in one statement: move the existing tables to '{old}', and the new ones in their place"
            ));
        } else {
            steps.with(format_args!("read {what} of '{name}' into it"));
        }
        let own = [(Kind::Routine, "routine"), (Kind::Trigger, "trigger"), (Kind::Event, "event")];
        let own: Vec<String> = own
            .into_iter()
            .map(|(kind, word)| (self.count(goal, kind), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| counted(count, word))
            .collect();
        if !own.is_empty() {
            steps.with(format_args!("make {}", own.join(", ")));
        }
        match (is_taken, is_single) {
            (true, false) => steps.with(format_args!(
                "drop what was there: {} tables and views, {} routines and events",
                there.len(),
                others.len()
            )),
            (true, true) => steps.with("drop the tables that were there, and their triggers"),
            (false, _) => {}
        }
        if is_single {
            steps.stays("every other table of the database, and its views and routines");
        }
        if is_taken {
            steps.stays(format_args!("'{target}', if anything fails: each step is undone"));
            steps.leaves(format_args!(
                "nothing; after a failure '{new}', which holds what was restored so far"
            ));
        } else {
            steps.leaves("an incomplete database, if it fails; --replace starts again");
        }
        Ok(())
    }
}
