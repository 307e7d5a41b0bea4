//! How long snapshots stay: what is said of it after a backup, and in a plan of `forget`.

use super::show_time;
use crate::context::Context;
use engine::promise::{Until, Verdict};
use engine::snapshot::{Hold, Snapshot};
use std::collections::BTreeMap;

/// Until when a snapshot stays on its tiers, and why: `until 2026-12-26 02:00:00 on local (daily)`.
pub(crate) fn by_promises(verdict: &Verdict) -> String {
    let mut tiers: BTreeMap<Until, Vec<&str>> = BTreeMap::new();
    for (tier, until) in &verdict.promised {
        tiers.entry(*until).or_default().push(tier);
    }
    let parts: Vec<String> = tiers
        .iter()
        .rev()
        .map(|(until, tiers)| {
            let until = match until {
                Until::Time(time) => format!("until {}", show_time(*time)),
                Until::Forever => "for ever".into(),
                Until::Open => "until somebody forgets it".into(),
                Until::Newest => "until a newer one is there".into(),
            };
            format!("{until} on {}", tiers.join(", "))
        })
        .collect();
    let why: Vec<&str> = verdict.reasons.iter().map(String::as_str).collect();
    match (parts.is_empty(), why.is_empty()) {
        (true, _) => "until the next run: no promise keeps it".into(),
        (false, true) => parts.join(", "),
        (false, false) => format!("{} ({})", parts.join(", "), why.join("; ")),
    }
}

/// What a list shows beside the tags: whether a snapshot is held, and until when.
pub(crate) fn hold(snapshot: &Snapshot) -> Option<String> {
    match (snapshot.hold, snapshot.keep_until) {
        (Hold::Held, _) => Some("held".into()),
        (_, Some(until)) => Some(format!("kept until {}", show_time(until))),
        (Hold::Released, None) => Some("released".into()),
        (Hold::Unsaid, None) => None,
    }
}

/// What will remove a snapshot that was made by hand, and when.
pub(crate) fn of_backup(
    id: chunkstore::ObjectId,
    keep_until: Option<jiff::Timestamp>,
    context: &Context,
) -> String {
    let rules = match keep_until {
        Some(until) => format!("rules of 'esker forget' may remove it after {}", show_time(until)),
        None => "rules of 'esker forget' may remove it (--keep-until and 'esker tag --hold' keep it)".into(),
    };
    let promised = context.uses_file() && context.file.as_ref().is_some_and(|file| !file.promises.is_empty());
    let runs = if promised { "no run removes what was made by hand; " } else { "" };
    format!("snapshot {} stays until somebody forgets it: {runs}{rules}", id.short())
}
