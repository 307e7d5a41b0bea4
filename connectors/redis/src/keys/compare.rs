//! Two sets of keys side by side, each in order: which keys were added, removed or changed.
//!
//! Values are compared as clients see them: a server may store the same hash in another encoding after a restart or a
//! restore.

use super::{Record, Records};
use crate::rdb::RdbError;
use crate::rdb::check::{Flaw, check};
use crate::rdb::parse::Key;
use crate::rdb::value::{Value, decode};
use std::cmp::Ordering;

/// How a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Another type, value or expiry.
    Changed,
}

impl KeyChange {
    /// The letter that `esker diff` uses for files, too.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Added => "+",
            Self::Removed => "-",
            Self::Changed => "M",
        }
    }
}

/// Calls `each` with every difference, in order of database and key. Fields of hashes that expired up to `expired_ms`,
/// in milliseconds since 1970, count for nothing: servers remove them when they like. 0 counts all of them.
pub fn compare(
    first: &mut dyn Records,
    second: &mut dyn Records,
    expired_ms: u64,
    each: &mut dyn FnMut(KeyChange, &Key),
) -> engine::Result<()> {
    let (mut a, mut b) = (first.next_record()?, second.next_record()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => (a.key.database, &a.key.name).cmp(&(b.key.database, &b.key.name)),
        };
        if order == Ordering::Equal
            && let (Some(a), Some(b)) = (&a, &b)
            && !are_equal(a, b, expired_ms)
        {
            each(KeyChange::Changed, &b.key);
        }
        if order != Ordering::Greater {
            if let (Ordering::Less, Some(a)) = (order, &a)
                && !is_nothing(a, expired_ms)
            {
                each(KeyChange::Removed, &a.key);
            }
            a = first.next_record()?;
        }
        if order != Ordering::Less {
            if let (Ordering::Greater, Some(b)) = (order, &b) {
                each(KeyChange::Added, &b.key);
            }
            b = second.next_record()?;
        }
    }
}

/// A value as clients see it, without fields that have expired.
fn seen(record: &Record, expired_ms: u64) -> Result<Value, RdbError> {
    let mut value = decode(record.key.kind, &record.value)?;
    if let Value::Hash(fields) = &mut value {
        fields.retain(|field| field.expires_ms.is_none_or(|expires| expires > expired_ms));
    }
    Ok(value)
}

/// Whether no server keeps it: a collection without elements, or a hash whose fields have all expired.
fn is_nothing(record: &Record, expired_ms: u64) -> bool {
    check(record.key.kind, &record.value) == Err(Flaw::Empty)
        || matches!(seen(record, expired_ms), Ok(Value::Hash(fields)) if fields.is_empty())
}

/// Whether two records say the same.
fn are_equal(a: &Record, b: &Record, expired_ms: u64) -> bool {
    if a.key.expires_ms != b.key.expires_ms {
        return false;
    }
    if a.key.kind == b.key.kind && a.value == b.value {
        return true;
    }
    match (seen(a, expired_ms), seen(b, expired_ms)) {
        // Nobody but the module knows what its bytes mean; groups of streams are not decoded.
        (Ok(Value::Module(_)), Ok(Value::Module(_))) => false,
        (Ok(Value::Stream(_)), Ok(Value::Stream(_))) if a.key.kind == b.key.kind => false,
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
