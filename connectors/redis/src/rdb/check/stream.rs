//! A stream: its nodes hold together, and its groups say the same of pending entries as their consumers.

use super::Flaw;
use crate::rdb::kind;
use crate::rdb::packed::{Element, Form};
use crate::rdb::written::Written;
use std::collections::{HashMap, HashSet};

/// Checks all of a stream.
pub(super) fn check(kind: u8, value: &mut Written<'_>) -> Result<(), Flaw> {
    let mut keys = HashSet::new();
    let mut entries = 0;
    value.each(|value, _| {
        let (key, pack) = (value.string()?, value.string()?);
        if key.len() != 16 || !keys.insert(key) {
            return Err(Flaw::Corrupt("a node of the stream has no id, or one that is there twice"));
        }
        match Form::Listpack.elements(&pack).and_then(|all| node(&all)) {
            Some(count) => {
                entries += count;
                Ok(())
            }
            None => Err(Flaw::Corrupt("a node of the stream does not hold together")),
        }
    })?;
    let second = kind >= kind::STREAM_LISTPACKS_2;
    let len = value.len()?;
    // Last id; first id, highest deleted one, entries ever added.
    for _ in 0..if second { 7 } else { 2 } {
        value.len()?;
    }
    if len != entries {
        return Err(Flaw::Corrupt("the stream does not have as many entries as it says"));
    }
    let mut groups = HashSet::new();
    value.each(|value, _| {
        if !groups.insert(value.string()?) {
            return Err(Flaw::Corrupt("a group of the stream is there twice"));
        }
        // Last delivered id; entries read.
        for _ in 0..if second { 3 } else { 2 } {
            value.len()?;
        }
        group(kind, value)
    })?;
    Ok(())
}

/// The pending entries of a group: each belongs to one consumer, and consumers have no others.
fn group(kind: u8, value: &mut Written<'_>) -> Result<(), Flaw> {
    let mut pending: HashMap<[u8; 16], bool> = HashMap::new();
    value.each(|value, _| {
        let id = value.array()?;
        // When it was delivered, and how often.
        value.take(8)?;
        value.len()?;
        if pending.insert(id, false).is_some() {
            return Err(Flaw::Corrupt("a pending entry of a group is there twice"));
        }
        Ok(())
    })?;
    let mut consumers = HashSet::new();
    value.each(|value, _| {
        if !consumers.insert(value.string()?) {
            return Err(Flaw::Corrupt("a consumer of a group is there twice"));
        }
        // When it was seen; when it was active.
        value.take(if kind >= kind::STREAM_LISTPACKS_3 { 16 } else { 8 })?;
        value.each(|value, _| match pending.get_mut(&value.array::<16>()?) {
            Some(owned @ false) => {
                *owned = true;
                Ok(())
            }
            Some(true) => Err(Flaw::Corrupt("a pending entry belongs to two consumers, or twice to one")),
            None => Err(Flaw::Corrupt("a consumer has a pending entry that its group does not know")),
        })?;
        Ok(())
    })?;
    if pending.values().all(|owned| *owned) {
        Ok(())
    } else {
        Err(Flaw::Corrupt("a pending entry of a group belongs to no consumer"))
    }
}

/// The elements of one node: a master entry with counts and names of fields, then entries, each with how many
/// elements it has at its end. How many entries there are that are not deleted; `None` if they do not come out right.
fn node(all: &[Element<'_>]) -> Option<u64> {
    let mut left = all.iter();
    let number = |left: &mut std::slice::Iter<'_, Element<'_>>| left.next()?.number();
    let skip = |left: &mut std::slice::Iter<'_, Element<'_>>, count: i64| {
        let count = usize::try_from(count).ok()?;
        *left = left.as_slice().get(count..)?.iter();
        Some(())
    };
    let count = all.first()?.number()?;
    let (mut entries, mut deleted) = (number(&mut left)?, number(&mut left)?);
    let master = number(&mut left)?;
    skip(&mut left, master)?;
    // The end of the master entry.
    (number(&mut left)? == 0).then_some(())?;
    while !left.as_slice().is_empty() {
        let flags = number(&mut left)?;
        number(&mut left)?;
        number(&mut left)?;
        // 2: fields as in the master entry. 1: deleted.
        let len = if flags & 2 != 0 {
            skip(&mut left, master)?;
            master.checked_add(3)?
        } else {
            let fields = number(&mut left)?;
            skip(&mut left, fields.checked_mul(2)?)?;
            fields.checked_mul(2)?.checked_add(4)?
        };
        (number(&mut left)? == len).then_some(())?;
        let counted = if flags & 1 == 0 { &mut entries } else { &mut deleted };
        *counted = counted.checked_sub(1)?;
    }
    (entries == 0 && deleted == 0).then_some(u64::try_from(count).ok()?)
}
