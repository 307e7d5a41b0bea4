//! Two sets of keys side by side, each in order: what was added, is gone, or says something else.
//!
//! Values are compared as clients see them: a server may hold the same hash in another encoding after a
//! restart or a restore.

use super::{Record, Records};
use crate::Result;
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

/// Calls `each` with every difference, in order of database and key.
pub fn compare(
    first: &mut dyn Records,
    second: &mut dyn Records,
    each: &mut dyn FnMut(KeyChange, &Key),
) -> Result<()> {
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
            && !are_equal(a, b)
        {
            each(KeyChange::Changed, &b.key);
        }
        if order != Ordering::Greater {
            // No server keeps a collection without elements.
            if let (Ordering::Less, Some(a)) = (order, &a)
                && check(a.key.kind, &a.value) != Err(Flaw::Empty)
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

/// Whether two records say the same.
fn are_equal(a: &Record, b: &Record) -> bool {
    if a.key.expires_ms != b.key.expires_ms {
        return false;
    }
    if a.key.kind == b.key.kind && a.value == b.value {
        return true;
    }
    match (decode(a.key.kind, &a.value), decode(b.key.kind, &b.value)) {
        // Nobody but the module knows what its bytes mean; groups of streams are not decoded.
        (Ok(Value::Module(_)), Ok(Value::Module(_))) => false,
        (Ok(Value::Stream(_)), Ok(Value::Stream(_))) if a.key.kind == b.key.kind => false,
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
