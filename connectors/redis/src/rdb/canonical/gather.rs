//! A dump that is read to its end: its records in a sorter, by their places.

use super::place::{place_of, sequence_bytes};
use crate::rdb::check::{Checker, Flaws};
use crate::rdb::index::Counts;
use crate::rdb::parse::{Global, Key, Order, Part, Step, Usage, Walk};
use crate::rdb::{Malformed, RdbError, Version, kind, opcode};
use engine::spill::{Sorted, Sorter};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// More than all functions and modules may write beside the keys.
const MAX_GLOBALS: usize = 256 << 20;
/// Bytes for each key in the stream of uses: a kind, and a number of 32 bits.
pub const USAGE_LEN: u64 = 5;

/// A payload in the sorter begins with what the rest is.
pub(super) const FLAG_RECORD: u8 = 0;
pub(super) const FLAG_RECORD_EXPIRES: u8 = 1;
pub(super) const FLAG_MORE: u8 = 2;

/// A dump that was read to its end and waits to be put out in order.
pub struct Gathered {
    pub(super) version: Version,
    /// What stands before the keys, and after them, as it is written.
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
    pub(super) records: Sorted,
    pub(super) databases: BTreeMap<u32, Counts>,
    /// Whether the server told how keys were used.
    pub(super) uses: bool,
    /// Whether nothing followed the dump.
    pub is_all: bool,
    /// What is wrong in it.
    pub flaws: Flaws,
    /// The dump's own fields: who wrote it, when.
    pub aux: BTreeMap<String, String>,
}

impl Gathered {
    /// Whether the server told how keys were used.
    #[must_use]
    pub fn uses(&self) -> bool {
        self.uses
    }
}

/// Reads a dump to its end mark. Spill files go into `folder`.
pub fn gather(reader: impl Read, folder: &Path) -> Result<Gathered, RdbError> {
    let mut walk = Walk::new(reader, Order::Canonical)?;
    let version = walk.version();
    let mut sorter = Sorter::new(folder);
    let (mut before, mut after, mut aux) = (vec![], vec![], BTreeMap::new());
    let mut databases: BTreeMap<u32, Counts> = BTreeMap::new();
    let (mut place, mut head, mut uses) = (vec![], vec![], false);
    let (mut checker, mut flaws) = (Checker::default(), Flaws::default());
    let is_all;
    loop {
        match walk.next_step()? {
            Step::End => {
                is_all = walk.is_all()?;
                break;
            }
            Step::Global(global, raw) => {
                let late = matches!(global, Global::ModuleAux { before: false });
                let all = if late { &mut after } else { &mut before };
                all.extend_from_slice(&raw);
                if all.len() > MAX_GLOBALS {
                    let why =
                        "functions and modules take more than 256 MiB; back it up with -o redis.order=raw";
                    return Err(Malformed { offset: walk.offset(), why: why.into() }.into());
                }
                if let Global::Aux(name, value) = global {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    aux.insert(text(name), text(value));
                }
            }
            Step::Key(key) => {
                let counts = databases.entry(key.database).or_default();
                counts.keys += 1;
                counts.expiring += u64::from(key.expires_ms.is_some());
                uses |= key.usage.is_some();
                place_of(key.database, &key.name, &mut place);
                write_head(version, &key, &mut head);
                let (mut started, mut sequence, own_len) = (false, 0, place.len());
                walk.value(key.kind, &mut |part| {
                    match part {
                        Part::Whole(value) => {
                            checker.whole(key.kind, value);
                            sorter.push(&place, &[&head, value])?;
                        }
                        Part::Piece(bytes) if !started => {
                            checker.part(bytes);
                            sorter.push(&place, &[&head, bytes])?;
                        }
                        Part::Piece(bytes) => {
                            checker.part(bytes);
                            sequence += 1;
                            place.extend_from_slice(&sequence_bytes(sequence));
                            sorter.push(&place, &[&[FLAG_MORE], bytes])?;
                            place.truncate(own_len);
                        }
                        Part::Member(name, bytes) => {
                            checker.part(bytes);
                            place.extend_from_slice(name);
                            sorter.push(&place, &[&[FLAG_MORE], bytes])?;
                            place.truncate(own_len);
                        }
                    }
                    started = true;
                    Ok(())
                })?;
                if let Err(flaw) = checker.finish(key.kind) {
                    flaws.add(key.database, &key.name, flaw);
                }
            }
        }
    }
    Ok(Gathered { version, before, after, records: sorter.finish()?, databases, uses, is_all, flaws, aux })
}

/// What stands before a value in the sorter: flag, use, and the record up to the value.
fn write_head(version: Version, key: &Key, head: &mut Vec<u8>) {
    head.clear();
    head.push(if key.expires_ms.is_some() { FLAG_RECORD_EXPIRES } else { FLAG_RECORD });
    let (use_kind, number) = match key.usage {
        None => (0, 0),
        Some(Usage::Idle(seconds)) => (1, u32::try_from(seconds).unwrap_or(u32::MAX)),
        Some(Usage::Frequency(counter)) => (2, u32::from(counter)),
    };
    head.push(use_kind);
    head.extend_from_slice(&number.to_le_bytes());
    if let Some(expires_ms) = key.expires_ms {
        // Versions 1 and 2 know seconds only.
        match u32::try_from(expires_ms / 1000) {
            Ok(seconds) if version.number < 3 && !version.valkey && expires_ms % 1000 == 0 => {
                head.push(opcode::EXPIRE_SECONDS);
                head.extend_from_slice(&seconds.to_le_bytes());
            }
            _ => {
                head.push(opcode::EXPIRE_MS);
                head.extend_from_slice(&expires_ms.to_le_bytes());
            }
        }
    }
    head.push(kind::written(key.kind));
    head.extend_from_slice(&key.raw_name);
}

/// Reads a use back.
#[must_use]
pub fn read_usage(bytes: [u8; USAGE_LEN as usize]) -> Option<Usage> {
    let [kind, a, b, c, d] = bytes;
    let number = u32::from_le_bytes([a, b, c, d]);
    match kind {
        1 => Some(Usage::Idle(u64::from(number))),
        2 => Some(Usage::Frequency(number as u8)),
        _ => None,
    }
}
