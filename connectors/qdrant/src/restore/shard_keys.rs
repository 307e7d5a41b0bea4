//! Shard keys, created so that each shard gets its former number: points find their shard by it.

use crate::stored::Collection;
use engine::{Error, Result};
use serde_json::Value;

/// Shards of a key, in a row.
pub(super) struct Key {
    pub(super) key: Value,
    pub(super) shards: u64,
    /// Whether it only takes up numbers: keys between others were removed before the backup.
    pub(super) filler: bool,
}

/// The shard keys to make, so that each shard gets the number that it had: points find their shard by it. The server gives
/// the numbers from 1 on, in a row.
pub(super) fn keys(stored: &Collection) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = vec![];
    let mut next = 1;
    for (shard, key) in stored.description.shard_keys() {
        if shard > next {
            let filler = format!("esker-filler-{next}");
            keys.push(Key { key: filler.into(), shards: shard - next, filler: true });
        }
        next = shard + 1;
        let last = keys.len().wrapping_sub(1);
        match keys.iter().position(|made| made.key == key) {
            Some(place) if place == last => keys[place].shards += 1,
            Some(_) => {
                return Err(Error::Refused(format!(
                    "collection '{}': the shards of key {key} were not made at once (resharding), and cannot be made so again",
                    stored.description.name
                )));
            }
            None => keys.push(Key { key, shards: 1, filler: false }),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Description, Replica};
    use std::collections::BTreeMap;

    fn with_keys(keys: &[(u64, &str)]) -> Collection {
        let replica = |(shard_id, key): &(u64, &str)| Replica {
            shard_id: *shard_id,
            shard_key: Some((*key).into()),
            ..Replica::default()
        };
        let description =
            Description { replicas: keys.iter().map(replica).collect(), ..Description::default() };
        Collection { description, shards: BTreeMap::new() }
    }

    #[test]
    fn keys_are_made_so_that_shards_keep_their_numbers() {
        let made = |list: &[(u64, &str)]| {
            let keys = keys(&with_keys(list)).ok()?;
            Some(
                keys.iter().map(|key| (key.key.as_str().unwrap().to_owned(), key.shards)).collect::<Vec<_>>(),
            )
        };
        let some = |list: &[(&str, u64)]| {
            Some(list.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect())
        };
        assert_eq!(made(&[(1, "a"), (2, "b")]), some(&[("a", 1), ("b", 1)]));
        assert_eq!(made(&[(1, "a"), (2, "a"), (5, "b")]), some(&[("a", 2), ("esker-filler-3", 2), ("b", 1)]));
        assert_eq!(made(&[(1, "a"), (2, "b"), (3, "a")]), None);
    }
}
