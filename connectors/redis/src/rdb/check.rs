//! Whether a value holds together: what a server finds out that is told to sanitize what it loads
//! (`sanitize-dump-payload yes`), before anybody needs the value. Sources: `rdb.c` (`rdbLoadObject`), `t_stream.c`.
//!
//! A checksum proves that a dump is what its writer wrote, not that a server can load it: memory fails, and old
//! servers had faults.

pub use super::flaw::Flaw;
use super::packed::{Element, Form};
use super::parse::{Key, Part, Supply, Walk};
use super::written::Written;
use super::{RdbError, kind};
use rustc_hash::FxHasher;
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

mod stream;

/// Largest value that is held in memory to be looked into.
const MAX_CHECKED: usize = 64 << 20;

/// Gathers a value that comes in parts, as far as memory allows.
#[derive(Default)]
pub(super) struct Checker {
    bytes: Vec<u8>,
    found: Option<Result<(), Flaw>>,
    too_large: bool,
}

impl Checker {
    /// All of a value.
    pub(super) fn whole(&mut self, kind: u8, bytes: &[u8]) {
        self.found = Some(check(kind, bytes));
    }

    /// The next part of a large one.
    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.too_large |= self.bytes.len() + bytes.len() > MAX_CHECKED;
        if !self.too_large {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// What was found; ready for the next value.
    pub(super) fn finish(&mut self, kind: u8) -> Result<(), Flaw> {
        let (found, too_large) = (self.found.take(), std::mem::take(&mut self.too_large));
        let done = match found {
            Some(found) => found,
            // There is nothing in them to look into.
            None if too_large && matches!(kind, kind::STRING | kind::MODULE_2) => Ok(()),
            None if too_large => Err(Flaw::Unchecked),
            None => check(kind, &self.bytes),
        };
        self.bytes = vec![];
        done
    }
}

/// Looks into a value as it is written in a dump.
///
/// # Errors
/// What is wrong with it.
pub fn check(kind: u8, bytes: &[u8]) -> Result<(), Flaw> {
    let mut value = Written::new(bytes);
    let count = elements(kind, &mut value)?;
    if !value.is_at_end() {
        return Err(Flaw::Corrupt("something stands behind it"));
    }
    if count == Some(0) { Err(Flaw::Empty) } else { Ok(()) }
}

/// Goes past the value of the key that was just met if it lies in memory as a whole and is sound, as most do: then nothing
/// is copied. Otherwise nothing is read, and [`Flaws::look`] tells what it is.
pub(super) fn pass_sound<R: Supply>(walk: &mut Walk<R>, kind: u8) -> Result<bool, RdbError> {
    match check_first(kind, walk.at_hand()) {
        Some(len) => walk.pass(len).map(|()| true),
        None => Ok(false),
    }
}

/// The length of a value that `bytes` begins with and that holds together; `None` if it does not, does not end within
/// them, or has to be read to its end before anybody knows: then [`check`] tells which.
fn check_first(kind: u8, bytes: &[u8]) -> Option<usize> {
    if kind == kind::MODULE_2 {
        return None;
    }
    let mut value = Written::new(bytes);
    let count = elements(kind, &mut value).ok()?;
    (count != Some(0)).then(|| bytes.len() - value.left())
}

/// Looks into a value as `DUMP` gives it: type, bytes, version, CRC-64 (`cluster.c`, `verifyDumpPayload`).
///
/// # Errors
/// What is wrong with it.
pub fn check_payload(payload: &[u8]) -> Result<(), Flaw> {
    let Some((proved, sum)) = payload.split_last_chunk::<8>() else {
        return Err(Flaw::Corrupt("it is too short"));
    };
    let mut digest = super::crc64();
    digest.update(proved);
    if digest.finalize() != u64::from_le_bytes(*sum) {
        return Err(Flaw::Corrupt("its checksum is of other bytes"));
    }
    match proved.split_last_chunk::<2>() {
        Some(([kind, value @ ..], version)) => {
            // As Valkey numbers its versions.
            let is_of_redis = u16::from_le_bytes(*version) < 80;
            let is_candidate = *kind == kind::VALKEY_HASH_2 && is_of_redis;
            check(if is_candidate { kind::HASH_METADATA_RC } else { *kind }, value)
        }
        _ => Err(Flaw::Corrupt("it is too short")),
    }
}

/// Checks a value; how many elements it has, of a collection that must have some.
fn elements(kind: u8, value: &mut Written<'_>) -> Result<Option<usize>, Flaw> {
    let corrupt = Flaw::Corrupt;
    Ok(Some(match kind {
        kind::STRING => {
            value.skip_string()?;
            return Ok(None);
        }
        // Only its module knows.
        kind::MODULE_2 => {
            value.len()?;
            value.skip_all();
            return Ok(None);
        }
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            stream::check(kind, value)?;
            return Ok(None);
        }
        kind::LIST => value.each(|value, _| value.skip_string())?,
        kind::LIST_ZIPLIST => packed(value, Form::Ziplist, BAD_NODE)?,
        kind::LIST_QUICKLIST => {
            let mut all = 0;
            value.each(|value, _| {
                all += packed(value, Form::Ziplist, BAD_NODE)?;
                Ok(())
            })?;
            all
        }
        kind::LIST_QUICKLIST_2 => {
            let mut all = 0;
            value.each(|value, _| {
                all += match value.len()? {
                    // A node without bytes makes the list count as empty.
                    1 => {
                        value.string().and_then(|node| if node.is_empty() { Err(Flaw::Empty) } else { Ok(1) })
                    }
                    2 => packed(value, Form::Listpack, BAD_NODE),
                    _ => Err(corrupt("a node of the list of an unknown kind")),
                }?;
                Ok(())
            })?;
            all
        }
        kind::SET => unique(value, |value| value.string())?,
        kind::SET_INTSET => packed(value, Form::Intset, "its packed integers do not hold together")?,
        kind::SET_LISTPACK => tuples(value, Form::Listpack, 1, |_| true)?,
        kind::ZSET | kind::ZSET_2 => unique(value, |value| {
            let member = value.string()?;
            let score = if kind == kind::ZSET {
                value.text_score()?
            } else {
                value.array().map(f64::from_le_bytes)?
            };
            if score.is_nan() { Err(corrupt("a score is not a number")) } else { Ok(member) }
        })?,
        kind::ZSET_ZIPLIST => tuples(value, Form::Ziplist, 2, is_score)?,
        kind::ZSET_LISTPACK => tuples(value, Form::Listpack, 2, is_score)?,
        kind::HASH => unique(value, |value| named(value))?,
        kind::HASH_ZIPMAP => tuples(value, Form::Zipmap, 2, |_| true)?,
        kind::HASH_ZIPLIST => tuples(value, Form::Ziplist, 2, |_| true)?,
        kind::HASH_LISTPACK => tuples(value, Form::Listpack, 2, |_| true)?,
        kind::VALKEY_HASH_2 => unique(value, |value| {
            let name = named(value)?;
            // -1: it does not expire.
            if i64::from_le_bytes(value.array()?) < -1 { Err(corrupt(BAD_EXPIRY)) } else { Ok(name) }
        })?,
        kind::HASH_METADATA | kind::HASH_METADATA_RC => {
            let first = if kind == kind::HASH_METADATA { u64::from_le_bytes(value.array()?) } else { 1 };
            if first > MAX_EXPIRY + 1 {
                return Err(corrupt(BAD_EXPIRY));
            }
            unique(value, |value| {
                let added = value.len()?;
                if added > 0 && first.saturating_add(added - 1) > MAX_EXPIRY {
                    return Err(corrupt(BAD_EXPIRY));
                }
                named(value)
            })?
        }
        kind::HASH_LISTPACK_EX | kind::HASH_LISTPACK_EX_RC => {
            let first = if kind == kind::HASH_LISTPACK_EX { u64::from_le_bytes(value.array()?) } else { 0 };
            if first > MAX_EXPIRY + 1 {
                return Err(corrupt(BAD_EXPIRY));
            }
            // The fields stand by their moments; those that do not expire have 0, and stand last.
            let mut last = 0;
            let is_in_order = |element: Element<'_>| {
                let moment = match element {
                    Element::Number(0) => Some(u64::MAX),
                    Element::Number(ms) => u64::try_from(ms).ok().filter(|ms| *ms <= MAX_EXPIRY),
                    Element::Bytes(_) => None,
                };
                moment.is_some_and(|moment| std::mem::replace(&mut last, moment) <= moment)
            };
            tuples(value, Form::Listpack, 3, is_in_order)?
        }
        _ => return Err(corrupt("its type is unknown")),
    }))
}

/// Moments of expiry have 48 bits in a hash; the largest two mean something else (`EB_EXPIRE_TIME_MAX`).
const MAX_EXPIRY: u64 = 0xffff_ffff_fffe;
const BAD_NODE: &str = "a node of the list does not hold together";
const BAD_EXPIRY: &str = "a field expires at no moment that there is";

/// A field and its value; the field.
fn named<'a>(value: &mut Written<'a>) -> Result<Cow<'a, [u8]>, Flaw> {
    let name = value.string()?;
    value.skip_string()?;
    Ok(name)
}

/// Elements that each have a name of their own; how many.
fn unique<'a>(
    value: &mut Written<'a>,
    mut name: impl FnMut(&mut Written<'a>) -> Result<Cow<'a, [u8]>, Flaw>,
) -> Result<usize, Flaw> {
    // Hashes say the same in a fraction of the memory. The quick ones come first; an attacker can make names whose quick
    // hashes are equal, so then a keyed hash decides: two of its 64 bits are not equal by chance.
    let start = *value;
    let mut hashes = Hashes::default();
    let count = value.each(|value, _| {
        hashes.push(quick(&name(value)?));
        Ok(())
    })?;
    if hashes.differ() {
        return Ok(count);
    }
    let keyed = RandomState::new();
    let mut hashes = Hashes::default();
    *value = start;
    value.each(|value, _| {
        hashes.push(keyed.hash_one(name(value)?));
        Ok(())
    })?;
    if hashes.differ() { Ok(count) } else { Err(TWICE) }
}

const TWICE: Flaw = Flaw::Corrupt("an element is there twice");

/// A hash without a key: equal names have the same, and most others do not.
#[inline]
fn quick(name: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    hasher.finish()
}

/// Hashes of names: few of them take no memory of the heap.
#[derive(Default)]
struct Hashes {
    few: [u64; Self::FEW],
    len: usize,
    /// All of them, if they are more.
    many: Vec<u64>,
}

impl Hashes {
    /// As many are compared faster than ordered.
    const FEW: usize = 16;

    #[inline]
    fn push(&mut self, hash: u64) {
        if let Some(slot) = self.few.get_mut(self.len) {
            *slot = hash;
        } else {
            if self.len == Self::FEW {
                self.many.extend_from_slice(&self.few);
            }
            self.many.push(hash);
        }
        self.len += 1;
    }

    /// Whether no two of them are equal.
    fn differ(&mut self) -> bool {
        if let Some(few) = self.few.get(..self.len) {
            return few.iter().enumerate().all(|(at, hash)| !few[..at].contains(hash));
        }
        self.many.sort_unstable();
        self.many.windows(2).all(|two| two[0] != two[1])
    }
}

/// How many elements a packed collection has that holds together.
fn packed(value: &mut Written<'_>, form: Form, why: &'static str) -> Result<usize, Flaw> {
    form.visit(&value.string()?, |_| ()).ok_or(Flaw::Corrupt(why))
}

/// A packed collection of tuples, of which the first elements are names and differ, and the last are right; how many tuples.
fn tuples(
    value: &mut Written<'_>,
    form: Form,
    len: usize,
    mut is_right: impl FnMut(Element<'_>) -> bool,
) -> Result<usize, Flaw> {
    let bytes = value.string()?;
    let mut hashes = Hashes::default();
    let (mut place, mut all_right) = (0, true);
    let count = form.visit(&bytes, |element| {
        if place == 0 {
            hashes.push(match element.normal() {
                Element::Number(number) => quick(&number.to_le_bytes()),
                Element::Bytes(name) => quick(name),
            });
        }
        place += 1;
        if place == len {
            all_right &= is_right(element);
            place = 0;
        }
    });
    let count = count.ok_or(Flaw::Corrupt("its packed elements do not hold together"))?;
    if place != 0 {
        return Err(Flaw::Corrupt("its packed elements do not come out even"));
    }
    // Names whose quick hashes differ differ; only if these do not, they are compared.
    if !hashes.differ() {
        let mut names = HashSet::new();
        let all = form.elements(&bytes).unwrap_or_default();
        if !all.iter().step_by(len).all(|name| names.insert(name.normal())) {
            return Err(TWICE);
        }
    }
    if !all_right {
        return Err(Flaw::Corrupt(if len == 2 { "a score is not a number" } else { BAD_EXPIRY }));
    }
    Ok(count / len)
}

fn is_score(element: Element<'_>) -> bool {
    match element {
        Element::Number(_) => true,
        Element::Bytes(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .is_some_and(|score: f64| !score.is_nan()),
    }
}

/// What was found wrong in a dump, key by key.
#[derive(Clone, Debug, Default)]
pub struct Flaws {
    /// Database, key and flaw of the first of them.
    pub told: Vec<(u32, Vec<u8>, Flaw)>,
    /// Values that servers refuse.
    pub corrupt: u64,
    /// Collections without elements.
    pub empty: u64,
    /// Values too large to be looked into.
    pub unchecked: u64,
    /// Why no checksum proves the dump.
    pub unproved: Option<String>,
    /// What made it impossible to take all of the dump apart.
    pub unreadable: Option<String>,
}

/// More corrupt values than these are counted only.
const TOLD: usize = 100;

impl Flaws {
    /// Reads past the value of the key that was just met, and looks into it.
    pub(crate) fn look<R: Supply>(&mut self, walk: &mut Walk<R>, key: &Key) -> Result<(), RdbError> {
        if pass_sound(walk, key.kind)? {
            return Ok(());
        }
        let mut checker = Checker::default();
        walk.value(key.kind, &mut |part| {
            match part {
                Part::Whole(bytes) => checker.whole(key.kind, bytes),
                Part::Piece(bytes) | Part::Member(_, bytes) => checker.part(bytes),
            }
            Ok(())
        })?;
        if let Err(flaw) = checker.finish(key.kind) {
            self.add(key.database, &key.name, flaw);
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, database: u32, name: &[u8], flaw: Flaw) {
        let count = match flaw {
            Flaw::Corrupt(_) => &mut self.corrupt,
            Flaw::Empty => &mut self.empty,
            Flaw::Unchecked => &mut self.unchecked,
        };
        *count += 1;
        if matches!(flaw, Flaw::Corrupt(_)) && self.told.len() < TOLD {
            self.told.push((database, name.to_vec(), flaw));
        }
    }

    /// What they count together with others, for one record.
    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            corrupt: sum.corrupt + one.corrupt,
            empty: sum.empty + one.empty,
            unchecked: sum.unchecked + one.unchecked,
            unproved: sum.unproved.or_else(|| one.unproved.clone()),
            ..sum
        })
    }
}

impl engine::source::end_mark::Flaws for Flaws {
    fn details(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("corrupt-values", self.corrupt),
            ("empty-values", self.empty),
            ("values-not-looked-into", self.unchecked),
        ];
        let counts =
            all.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count.to_string()));
        counts.chain(self.unproved.clone().map(|why| ("checksum", why))).collect()
    }

    /// Tells of the corrupt ones; `dump` is their dump's path.
    fn tell(&self, dump: &str, monitor: &dyn engine::Monitor) {
        let during = "archival";
        for (database, name, flaw) in &self.told {
            let name = engine::names::encoded_bytes(name, "");
            let message = format!("{flaw}; it is stored as it is, and a server that checks will not load it");
            monitor.error(engine::ItemError { during, item: format!("{dump}: {database}/{name}"), message });
        }
        if let Some(why) = &self.unreadable {
            let message = format!("{why}: stored unchanged, so single keys cannot be read from it");
            monitor.error(engine::ItemError { during, item: dump.to_owned(), message });
        }
        let more = self.corrupt - self.told.len() as u64;
        if more > 0 {
            let message = format!("{more} more values are corrupt");
            monitor.error(engine::ItemError { during, item: dump.to_owned(), message });
        }
    }
}
