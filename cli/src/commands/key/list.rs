//! What `esker key list` and `esker key epochs` print.

use super::places::Places;
use crate::commands::{json_time, show_time, time_of};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::units::{counted, duration};
use chunkstore::ObjectId;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::keys::{SlotHeader, slot_header};
use chunkstore::store::{ChunkStore, Kept, describe, holders};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `key list`
pub(super) fn slots(places: &Places, context: &Context) -> CommandResult {
    let store = places.primary().store();
    let mut rows = vec![];
    for (slot, hash) in &store.head().slots {
        // Which of several copies is the slot, HEAD's hash says. A slot that is damaged opens nothing, though it may still read
        // as one.
        let sound = Kept::Slot(*slot, *hash).examine(&**store.storage(), store.keys())?.sound;
        let problem = sound.is_none().then_some(
            "is damaged or missing, and opens nothing; 'esker heal' puts it back if another tier has it, 'esker key remove' \
             drops it",
        );
        let header = sound.map(|bytes| slot_header(slot, &bytes));
        rows.push(row(store, slot, header, problem));
    }
    for slot in store.stray_slots()? {
        rows.push(row(
            store,
            &slot,
            None,
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
                let service = row["service"].as_str().map(|url| format!("  {url}, key {}", text("key")));
                output::line(format!(
                    "{mark} {id}  {}  {}@{}  {}  {}{split}{}",
                    text("kind"),
                    text("userName"),
                    text("hostName"),
                    shown(&text("created")),
                    text("label"),
                    service.unwrap_or_default()
                ));
            } else {
                let kind = row["kind"].as_str().map(|kind| format!("{kind}  ")).unwrap_or_default();
                output::line(format!("{mark} {id}  {kind}{problem}"));
            }
        }
        if let Some(advice) = super::services::alone(store) {
            output::line(advice);
        }
        output::line("epochs:");
        print_epochs(&epochs_of(places)?, places);
    }
    Ok(Code::Done)
}

/// `key epochs`
pub(super) fn epochs(places: &Places, context: &Context) -> CommandResult {
    let epochs = epochs_of(places)?;
    if context.global.json {
        output::json_line(&epochs.iter().map(Epoch::json).collect());
    } else {
        print_epochs(&epochs, places);
    }
    Ok(Code::Done)
}

/// An epoch, and what its key protects.
struct Epoch {
    number: u32,
    is_current: bool,
    /// When it was made, in milliseconds since the Unix epoch, and how many seconds ago; none if that is not known.
    made: Option<(u64, u64)>,
    /// When it was retired, in the same milliseconds.
    retired_ms: Option<u64>,
    /// Place by place, the primary first.
    held: Vec<Held>,
    /// Tiers that cannot be reached, or that esker.toml does not name.
    unknown: Vec<String>,
}

/// What an epoch protects at one place.
#[derive(Default)]
struct Held {
    place: String,
    packs: u64,
    bytes: u64,
    /// What stands against retiring it, for people.
    needs: Option<String>,
}

impl Epoch {
    fn json(&self) -> Value {
        let primary = self.held.first();
        let places = self.held.iter().map(|held| {
            json!({"place": held.place, "packs": held.packs, "bytes": held.bytes, "needs": held.needs})
        });
        json!({
            "epoch": self.number, "current": self.is_current, "created": self.made.map(|(made_ms, _)| time(made_ms)),
            "age_seconds": self.made.map(|(_, age_s)| age_s), "retired": self.retired_ms.map(time),
            "packs": primary.map(|held| held.packs), "bytes": primary.map(|held| held.bytes),
            "places": places.collect::<Vec<_>>(), "unreachable": self.unknown, "retirable": self.is_retirable(),
            "next": self.next(),
        })
    }

    /// Whether nothing that is known needs it.
    fn is_retirable(&self) -> bool {
        let is_free = self.held.iter().all(|held| held.needs.is_none()) && self.unknown.is_empty();
        !self.is_current && self.retired_ms.is_none() && is_free
    }

    /// The command that comes next, if there is one.
    fn next(&self) -> Option<String> {
        let needed = self.held.iter().any(|held| held.needs.is_some());
        match self.is_current || self.retired_ms.is_some() {
            true => None,
            false if needed => Some("esker key re-encrypt".into()),
            false => Some(format!("esker key retire {}", self.number)),
        }
    }

    /// What it protects and what can be done, in words.
    fn told(&self) -> String {
        let Some(retired_ms) = self.retired_ms else {
            let held = self.held.iter().map(|held| {
                let place = if self.held.len() > 1 { format!("{}: ", held.place) } else { String::new() };
                format!("{place}{}, {}", counted(held.packs, "pack"), output::bytes(held.bytes))
            });
            let mut told = held.collect::<Vec<_>>().join("; ");
            if !self.unknown.is_empty() && !self.is_current {
                told += &format!("; not known of {}", self.unknown.join(", "));
            }
            if let Some(next) = self.next() {
                told += &format!("; next: '{next}'");
            }
            return told;
        };
        format!("retired {}: nothing under it is accepted", show_time(time_of(retired_ms)))
    }
}

/// The epochs that HEAD lists, with the live packs of each at every place that can be reached.
fn epochs_of(places: &Places) -> Result<Vec<Epoch>, Failure> {
    let mut stores: Vec<(String, &Arc<ChunkStore>)> =
        vec![(places.name().to_owned(), places.primary().store())];
    for tier in places.fleet().iter().flat_map(|fleet| &fleet.tiers) {
        stores.push((tier.options.name.clone(), tier.repo.store()));
    }
    let mut packs: Vec<BTreeMap<u32, (u64, u64)>> = vec![];
    for (_, store) in &stores {
        store.sync_index()?;
        let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for pack in store.index().packs()? {
            let (count, bytes) = sums.entry(pack.name.epoch).or_default();
            (*count, *bytes) = (*count + 1, *bytes + pack.len);
        }
        packs.push(sums);
    }
    let primary = places.primary().store();
    let head = primary.head();
    let is_known = |name: &&String| stores.iter().all(|(known, _)| known != *name);
    let unknown: Vec<String> = head.tiers.made.keys().filter(is_known).cloned().collect();
    let mut all = vec![];
    for (number, made) in &head.epochs {
        let mut held = vec![];
        for ((place, store), sums) in stores.iter().zip(&packs) {
            let (packs, bytes) = sums.get(number).copied().unwrap_or_default();
            let needs = match made.retired_ms {
                Some(_) => None,
                None => holders(&store.head(), *number)?,
            };
            held.push(Held { place: place.clone(), packs, bytes, needs });
        }
        let age_s = primary.now_ms().saturating_sub(made.made_ms) / 1000;
        all.push(Epoch {
            number: *number,
            is_current: *number == head.epoch(),
            made: (made.made_ms > 0).then_some((made.made_ms, age_s)),
            retired_ms: made.retired_ms,
            held,
            unknown: unknown.clone(),
        });
    }
    Ok(all)
}

fn print_epochs(epochs: &[Epoch], places: &Places) {
    for epoch in epochs {
        let mark = if epoch.is_current { "*" } else { " " };
        let made = epoch.made.map_or_else(
            || "made at an unknown time".to_owned(),
            |(made_ms, age_s)| {
                format!("made {}, {} ago", show_time(time_of(made_ms)), duration(age_s as f64))
            },
        );
        output::line(format!("{mark} {}  {made}  {}", epoch.number, epoch.told()));
    }
    for (name, why) in places.fleet().iter().flat_map(|fleet| &fleet.away) {
        output::line(format!("  tier '{name}' cannot be reached: {why}"));
    }
}

/// A time in milliseconds since the Unix epoch, for programs.
fn time(ms: u64) -> String {
    json_time(time_of(ms))
}

/// A time of a row, for people.
fn shown(time: &str) -> String {
    time.parse().map_or_else(|_| time.to_owned(), show_time)
}

/// One slot of the list, by the header of its `sound` bytes or of those that are there. What is wrong with it is its `problem`.
fn row(
    store: &ChunkStore,
    slot: &ObjectId,
    sound: Option<chunkstore::Result<SlotHeader>>,
    problem: Option<&str>,
) -> Value {
    let there = || store.storage().get(&names::key(slot), MAX_SMALL_LEN).map_err(chunkstore::Error::from);
    let header = sound.unwrap_or_else(|| there().and_then(|bytes| slot_header(slot, &bytes)));
    let is_ours = problem.is_none() && store.keys().own_slot() == Some(*slot);
    let mut row = json!({"id": slot, "current": is_ours});
    let mut problem = problem.map(str::to_owned);
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
            if let Some(wrapped) = header.wrapped() {
                row["service"] = json!(wrapped.service);
                row["key"] = json!(wrapped.key);
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
