//! What `esker key list` and `esker key epochs` print.

use crate::commands::json_time;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::units::duration;
use chunkstore::ObjectId;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::head::EpochRef;
use chunkstore::keys::slot_header;
use chunkstore::store::{ChunkStore, describe};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `key list`
pub(super) fn slots(store: &ChunkStore, context: &Context) -> CommandResult {
    let mut rows = vec![];
    for slot in store.head().slots.keys() {
        rows.push(row(store, slot, None));
    }
    for slot in store.stray_slots()? {
        rows.push(row(
            store,
            &slot,
            Some("opens nothing: it was removed, or never added; 'esker prune' removes it"),
        ));
    }
    if context.global.json {
        output::json_line(&Value::Array(rows));
    } else {
        output::line("key slots:");
        for row in rows {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let mark = if row["current"] == true { "*" } else { " " };
            let id: String = text("id").chars().take(8).collect();
            let problem = text("problem");
            if problem.is_empty() {
                let split = row["split"].as_str().map(|split| format!("  split {split}")).unwrap_or_default();
                output::line(format!(
                    "{mark} {id}  {}  {}@{}  {}  {}{split}",
                    text("kind"),
                    text("userName"),
                    text("hostName"),
                    text("created"),
                    text("label")
                ));
            } else {
                output::line(format!("{mark} {id}  {problem}"));
            }
        }
        output::line("epochs:");
        print_epochs(&epochs_of(store)?);
    }
    Ok(Code::Done)
}

/// `key epochs`
pub(super) fn epochs(store: &ChunkStore, context: &Context) -> CommandResult {
    let epochs = epochs_of(store)?;
    if context.global.json {
        output::json_line(&epochs.iter().map(Epoch::json).collect());
    } else {
        print_epochs(&epochs);
    }
    Ok(Code::Done)
}

/// An epoch, and what its key protects.
struct Epoch {
    number: u32,
    is_current: bool,
    /// When it was made, in milliseconds since the Unix epoch, and how many seconds ago; none if that is not known.
    made: Option<(u64, u64)>,
    packs: u64,
    bytes: u64,
}

impl Epoch {
    fn json(&self) -> Value {
        json!({
            "epoch": self.number, "current": self.is_current, "created": self.made.map(|(made_ms, _)| time(made_ms)),
            "age_seconds": self.made.map(|(_, age_s)| age_s), "packs": self.packs, "bytes": self.bytes,
        })
    }
}

/// The epochs that HEAD lists, with the live packs of each.
fn epochs_of(store: &ChunkStore) -> Result<Vec<Epoch>, Failure> {
    store.sync_index()?;
    let head = store.head();
    let mut packs: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for pack in store.index().packs()? {
        let (count, bytes) = packs.entry(pack.name.epoch).or_default();
        (*count, *bytes) = (*count + 1, *bytes + pack.len);
    }
    let current = head.epoch();
    let row = |(number, made): (&u32, &EpochRef)| {
        let (packs, bytes) = packs.get(number).copied().unwrap_or_default();
        let age_s = store.now_ms().saturating_sub(made.made_ms) / 1000;
        let made = (made.made_ms > 0).then_some((made.made_ms, age_s));
        Epoch { number: *number, is_current: *number == current, made, packs, bytes }
    };
    Ok(head.epochs.iter().map(row).collect())
}

fn print_epochs(epochs: &[Epoch]) {
    for epoch in epochs {
        let mark = if epoch.is_current { "*" } else { " " };
        let made = epoch.made.map_or_else(
            || "made at an unknown time".to_owned(),
            |(made_ms, age_s)| format!("made {}, {} ago", time(made_ms), duration(age_s as f64)),
        );
        output::line(format!(
            "{mark} {}  {made}  {} packs, {}",
            epoch.number,
            epoch.packs,
            output::bytes(epoch.bytes)
        ));
    }
}

/// A time in milliseconds since the Unix epoch.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    json_time(time.unwrap_or_default())
}

/// One slot of the list. What is wrong with it is its `problem`.
fn row(store: &ChunkStore, slot: &ObjectId, stray: Option<&str>) -> Value {
    let header = (store.storage().get(&names::key(slot), MAX_SMALL_LEN))
        .map_err(chunkstore::Error::from)
        .and_then(|bytes| slot_header(slot, &bytes));
    let mut row = json!({"id": slot, "current": stray.is_none() && store.keys().own_slot() == Some(*slot)});
    let mut problem = stray.map(str::to_owned);
    match header {
        Ok(header) => {
            row["kind"] = json!(header.kind_shown());
            row["userName"] = json!(header.username);
            row["hostName"] = json!(header.hostname);
            row["created"] = json!(time(header.created_ms));
            row["label"] = json!(header.label);
            if let Some(split) = header.split() {
                row["split"] = json!(split.split);
            }
        }
        Err(error) => {
            let why = describe(&error);
            problem.get_or_insert(format!("opens nothing: {why}; 'esker key remove' drops it"));
        }
    }
    if let Some(problem) = problem {
        row["problem"] = json!(problem);
    }
    row
}
