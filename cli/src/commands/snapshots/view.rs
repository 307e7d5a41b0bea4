//! What `esker snapshots` shows of one snapshot. It is made where the record was parsed, and the record is not kept.

use super::authors::{Authors, Said};
use super::shown::{Shown, to_json};
use crate::commands::{show_time, stay};
use crate::output;
use engine::group::{GroupBy, GroupKey};
use engine::rank::Ranked;
use engine::shown;
use engine::snapshot::{Filter, Listed};

/// How snapshots are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For programs.
    Json,
    /// A table with paths.
    Table,
    /// A table without paths.
    Compact,
}

impl Form {
    /// The headings of the table.
    pub(super) fn headings(self) -> &'static [&'static str] {
        match self {
            Self::Compact => &["ID", "Time", "Host", "Tags", "Size"],
            Self::Json | Self::Table => &["ID", "Time", "Host", "Tags", "Paths", "Size"],
        }
    }
}

/// Makes what is shown.
pub(super) struct Viewer {
    pub(super) form: Form,
    /// Whether snapshots are shown in groups: then without what is said of wrong clocks and of hosts.
    pub(super) is_grouped: bool,
    /// What groups are formed by.
    pub(super) group_by: GroupBy,
    pub(super) filter: Filter,
    pub(super) authors: Authors,
}

/// What is shown of a snapshot.
pub(super) struct Viewed {
    /// JSON, or a row of the table.
    pub(super) text: String,
    /// Its group, if they are shown in groups.
    pub(super) group: Option<GroupKey>,
    /// What is said below the table.
    pub(super) moved: Option<String>,
    pub(super) said: Option<Said>,
}

impl Viewer {
    pub(super) fn fits(&self, ranked: &Ranked) -> bool {
        self.filter.fits(&ranked.listed.snapshot)
    }

    /// Fails if a record cannot be serialized; ours can.
    pub(super) fn view(&self, ranked: &Ranked) -> serde_json::Result<Viewed> {
        let listed = &ranked.listed;
        let text = match (self.form, self.is_grouped) {
            (Form::Json, true) => output::json_value(&to_json(listed))?,
            (Form::Json, false) => {
                let time = ranked.is_moved().then_some(ranked.time);
                output::json_value(&Shown::new(listed, time).signed(self.authors.json(&listed.snapshot)))?
            }
            (Form::Table, _) => row(listed),
            (Form::Compact, _) => compact_row(listed),
        };
        let has_remarks = self.form != Form::Json && !self.is_grouped;
        Ok(Viewed {
            text,
            group: self.is_grouped.then(|| self.group_by.key(&listed.snapshot)),
            moved: (has_remarks && ranked.is_moved()).then(|| moved(ranked)),
            said: has_remarks.then(|| self.authors.said(listed)).flatten(),
        })
    }
}

fn moved(ranked: &Ranked) -> String {
    format!(
        "{} was made by a clock that was wrong: it is ranked as of {}, by where it stands among the others",
        ranked.listed.id.short(),
        show_time(ranked.time)
    )
}

fn row(listed: &Listed) -> String {
    let snapshot = &listed.snapshot;
    let paths: Vec<String> = snapshot.paths.iter().map(|path| shown::name(path.as_bytes())).collect();
    let tags: Vec<String> = snapshot.tags.iter().cloned().chain(stay::hold(snapshot)).collect();
    output::row(&[
        &listed.id.short(),
        &show_time(snapshot.time),
        &*shown::line(&snapshot.hostname),
        &*shown::line(&tags.join(",")),
        &paths.join("\n"),
        &output::bytes(snapshot.manifest.bytes),
    ])
}

fn compact_row(listed: &Listed) -> String {
    let snapshot = &listed.snapshot;
    output::row(&[
        &listed.id.short(),
        &show_time(snapshot.time),
        &*shown::line(&snapshot.hostname),
        &*shown::line(&snapshot.tags.join(",")),
        &output::bytes(snapshot.manifest.bytes),
    ])
}
