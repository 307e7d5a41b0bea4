//! Shares of a slot's secret: of n of them, m open the slot. A share names its split, so that those of another one are told
//! from a wrong one, and the slot's header has a hash of each, so that each that is given is checked, needed or not.

use super::Key;
use super::header::{SlotHeader, Split};
use super::secret::{Method, NewSlot, SlotSecret, members};
use super::shamir::{self, Bytes};
use super::text::{KeyBytes, SHARE_LABEL, SHARE_LEN, SPLIT_LEN};
use crate::env::{Env, random_array};
use crate::format::{MAX_SHARES, SLOT_SHARES, names};
use crate::id::{ObjectId, to_hex};
use crate::{Error, Result};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// One share of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    threshold: u8,
    count: u8,
    number: u8,
    split: [u8; SPLIT_LEN],
    value: Bytes,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({} of {}, split {})", self.number, self.count, self.split())
    }
}

impl Share {
    /// Its number, counted from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many shares there are, and how many of them open the slot.
    #[must_use]
    pub fn of(&self) -> (u8, u8) {
        (self.threshold, self.count)
    }

    /// The id of its split, in hex.
    #[must_use]
    pub fn split(&self) -> String {
        to_hex(&self.split)
    }

    /// Its bytes, to be written as text.
    #[must_use]
    pub fn text(&self) -> KeyBytes {
        let mut payload = Zeroizing::new(Vec::with_capacity(SHARE_LEN));
        payload.extend_from_slice(&[self.threshold, self.count, self.number, 0]);
        payload.extend_from_slice(&self.split);
        payload.extend_from_slice(&*self.value);
        KeyBytes::new(SHARE_LABEL, &payload)
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (head, value) = payload.split_last_chunk::<32>()?;
        let ([threshold, count, number, 0], split) = head.split_first_chunk::<4>()? else { return None };
        let (threshold, count, number) = (*threshold, *count, *number);
        let is_sane = 2 <= threshold && threshold <= count && count <= MAX_SHARES;
        (is_sane && (1..=count).contains(&number)).then_some(Self {
            threshold,
            count,
            number,
            split: split.try_into().ok()?,
            value: Zeroizing::new(*value),
        })
    }

    /// For the slot's header: says nothing of a value that cannot be guessed.
    fn hash(&self) -> ObjectId {
        ObjectId(*blake3::keyed_hash(&self.value, &[&[self.number][..], &self.split].concat()).as_bytes())
    }
}

/// Shares that were given together, each with the name by which messages call it.
#[derive(Clone, Debug)]
pub struct Shares {
    shares: Vec<(String, Share)>,
}

impl Shares {
    /// Makes a secret, and `count` shares of it, any `threshold` of which give it.
    ///
    /// # Errors
    ///
    /// The numbers are outside their limits, or there is no randomness.
    pub fn make(threshold: u8, count: u8, env: &dyn Env) -> Result<Self> {
        if threshold == 1 {
            return Err(Error::Invalid(
                "one share that opens alone is a key: 'esker key add --new-key-file' makes one, and one can be made for \
                 each person"
                    .into(),
            ));
        }
        if threshold < 1 || threshold > count || count > MAX_SHARES {
            return Err(Error::Invalid(format!(
                "{threshold} of {count} shares cannot be: at least 2, at most as many as there are, and those at most \
                 {MAX_SHARES}"
            )));
        }
        let secret = Zeroizing::new(random_array(env)?);
        let split = random_array(env)?;
        let values = shamir::split(&secret, threshold, count, env)?;
        let name = |number: u8| format!("share {number}");
        let all = (1..)
            .zip(values)
            .map(|(number, value)| (name(number), Share { threshold, count, number, split, value }));
        Ok(Self { shares: all.collect() })
    }

    /// Takes shares that were read, each with a name for messages.
    ///
    /// # Errors
    ///
    /// One is of another split, or there twice; or there are fewer than are needed ([`Error::TooFewShares`]).
    pub fn of(shares: Vec<(String, Share)>) -> Result<Self> {
        let mut known: BTreeMap<u8, &str> = BTreeMap::new();
        let Some((first_name, first)) = shares.first() else {
            return Err(Error::Invalid("no share was given".into()));
        };
        for (name, share) in &shares {
            if (share.split, share.of()) != (first.split, first.of()) {
                return Err(Error::Invalid(format!(
                    "{name} is a share of another split ({}) than {first_name} ({}): shares of one split belong together",
                    share.split(),
                    first.split()
                )));
            }
            if let Some(earlier) = known.insert(share.number, name) {
                return Err(Error::Invalid(format!(
                    "{earlier} and {name} are the same share, number {}: another one is needed",
                    share.number
                )));
            }
        }
        if known.len() < usize::from(first.threshold) {
            return Err(Error::TooFewShares {
                given: known.len(),
                needed: usize::from(first.threshold),
                split: first.split(),
            });
        }
        Ok(Self { shares })
    }

    /// How many open the slot, and how many there are.
    #[must_use]
    pub fn needed(&self) -> (u8, u8) {
        self.shares.first().map_or((0, 0), |(_, share)| share.of())
    }

    /// Each one.
    pub fn iter(&self) -> impl Iterator<Item = &Share> {
        self.shares.iter().map(|(_, share)| share)
    }

    fn secret(&self) -> Key {
        let needed = usize::from(self.needed().0);
        let points: Vec<(u8, &[u8; 32])> =
            self.iter().take(needed).map(|share| (share.number, &*share.value)).collect();
        shamir::combine(&points)
    }
}

impl SlotSecret for Shares {
    fn name(&self) -> &'static str {
        "shares"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        let split = header.split();
        split.is_some_and(|split| self.iter().next().is_some_and(|share| share.split() == split.split))
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        let name = names::key(slot);
        let split = header.split().ok_or_else(|| Error::corrupt(&name, "it names no split"))?;
        if (split.threshold, split.shares) != self.needed() {
            return Err(Error::corrupt(&name, "it and the shares of its split name other numbers"));
        }
        for (name, share) in &self.shares {
            let check = split.checks.get(usize::from(share.number) - 1);
            if check.is_none_or(|check| blake3::Hash::from(check.0) != blake3::Hash::from(share.hash().0)) {
                return Err(Error::Invalid(format!(
                    "{name} is not the share number {} that was made for key slot {}",
                    share.number,
                    slot.short()
                )));
            }
        }
        Ok(self.secret())
    }

    fn make(&self, _new: &NewSlot<'_>) -> Result<(Method, Key)> {
        let (threshold, count) = self.needed();
        let mut checks: Vec<(u8, ObjectId)> = self.iter().map(|share| (share.number, share.hash())).collect();
        checks.sort_unstable_by_key(|(number, _)| *number);
        if checks.len() != usize::from(count) {
            return Err(Error::Invalid(format!("a slot is made with all {count} shares of its split")));
        }
        let checks = checks.into_iter().map(|(_, hash)| hash).collect();
        let split = self.iter().next().map(Share::split).unwrap_or_default();
        let members = members(&Split { split, threshold, shares: count, checks })?;
        Ok((Method { kind: SLOT_SHARES.into(), members }, self.secret()))
    }
}
