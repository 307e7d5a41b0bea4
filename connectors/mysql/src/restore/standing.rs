//! The progress of a restore, for the message if it fails or is interrupted.

use super::Work;
use crate::dump::LEFT_OUT;

/// What is being done.
#[derive(Clone, Copy, Default)]
pub(super) enum Stage {
    /// Nothing is touched.
    #[default]
    Before,
    Accounts,
    Databases,
    Views,
    Rights,
    Replay,
}

/// Where it stands.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) stage: Stage,
    /// The database that is being made where nothing was.
    pub(super) current: Option<String>,
    /// Databases that have all but their views.
    pub(super) done: Vec<String>,
    /// Those that were not begun, and the current one.
    pub(super) left: Vec<String>,
}

impl Work<'_> {
    /// Says what is done and what is not.
    pub(super) fn tell_standing(&self, standing: &Standing) {
        if let Some(target) = &standing.current {
            let what = match self.options.selection.tables.is_empty() {
                true => String::new(),
                false => format!(", tables {}", self.options.selection.tables.join(", ")),
            };
            let why = "is incomplete, because its restore ended early; --replace starts again";
            self.tell(format!("database '{target}'{what}"), why);
        }
        let list = |names: &[String]| match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let (done, left): (_, Vec<String>) = (
            list(&standing.done),
            standing.left.iter().filter(|name| Some(*name) != standing.current.as_ref()).cloned().collect(),
        );
        let left = list(&left);
        let what = match standing.stage {
            Stage::Before => return,
            Stage::Accounts => format!("accounts are there in part; no database was begun: {left}"),
            Stage::Databases if standing.done.is_empty() => {
                format!("no database was restored; not begun, or as they were: {left}")
            }
            Stage::Databases => {
                format!("restored, but for their views: {done}; not begun, or as they were: {left}")
            }
            Stage::Views => {
                format!("restored, but for some of their views: {done}; what comes after them was not begun")
            }
            Stage::Rights => format!("restored: {done}; not all rights on their tables are given"),
            Stage::Replay => {
                format!("restored: {done}; the binary log after the dump is replayed only in part")
            }
        };
        self.tell("restore".into(), &format!("{what}; --replace starts again"));
    }

    /// What the backup left out of the databases that are wanted.
    pub(super) fn left_out(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let records = self.snapshot.sources.iter().filter_map(|source| source.details.get(LEFT_OUT));
        let all =
            records.filter_map(|text| serde_json::from_str::<Vec<(String, String)>>(text).ok()).flatten();
        all.filter(|(database, _)| is_wanted(database)).map(|(_, what)| what).collect()
    }
}
