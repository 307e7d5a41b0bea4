//! Grants: the data key of one epoch, sealed to the public key of every slot that HEAD listed when the epoch was made, and
//! all earlier data keys, sealed under that one. So one object has all that a slot lacks, however old it is, and a slot that
//! was removed before is not in it.
//!
//! `grants/<epoch>` is put once: whoever puts it has the number, and no other key ever gets it.

use super::hybrid::{self, Context};
use super::{Key, KeyRing, derive};
use crate::env::{Env, random_array};
use crate::format::{
    Decoder, ENCAPSULATED_LEN, Encoder, FORMAT_VERSION, GRANTED_LEN, GRANTS_HEADER_LEN, GRANTS_MAGIC,
    MAX_EPOCHS, MAX_SLOTS, MAX_SMALL_LEN, Malformed, ObjectKind, names,
};
use crate::id::{ObjectId, RepositoryId};
use crate::kept::read_kept;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope, error::InObject as _};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

/// Names the pre-shared key of HPKE.
const PSK_ID: &[u8] = b"esker grant";

/// So many objects with grants are tried.
const MOST_TRIED: usize = 8;

/// The grants of an epoch, as they are stored.
#[derive(Debug)]
pub struct Grants<'a> {
    /// The epoch.
    pub epoch: u32,
    repository: RepositoryId,
    header: &'a [u8],
    grants: Vec<Grant<'a>>,
    /// All that stands before the sealed ring.
    before: &'a [u8],
    /// The sealed ring.
    ring: &'a [u8],
}

#[derive(Debug)]
struct Grant<'a> {
    slot: ObjectId,
    encapsulated: [u8; ENCAPSULATED_LEN],
    sealed: &'a [u8],
}

impl<'a> Grants<'a> {
    /// Reads an object, without a key.
    ///
    /// # Errors
    ///
    /// It does not follow the format.
    pub fn decode(bytes: &'a [u8]) -> std::result::Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "grants");
        if decoder.array::<8>()? != *GRANTS_MAGIC {
            return Err(decoder.malformed("magic"));
        }
        if decoder.u8()? != FORMAT_VERSION || decoder.array::<3>()? != [0; 3] {
            return Err(decoder.malformed("version"));
        }
        let (epoch, repository) = (decoder.u32()?, RepositoryId(decoder.array()?));
        let count = decoder.u32()? as usize;
        if count > MAX_SLOTS {
            return Err(decoder.malformed("more grants than there can be key slots"));
        }
        let mut grants = vec![];
        for _ in 0..count {
            let (slot, encapsulated) = (ObjectId(decoder.array()?), decoder.array()?);
            grants.push(Grant { slot, encapsulated, sealed: decoder.raw(GRANTED_LEN)? });
        }
        let header = bytes.get(..GRANTS_HEADER_LEN).unwrap_or_default();
        let ring = decoder.raw(decoder.remaining())?;
        let before = bytes.get(..bytes.len() - ring.len()).unwrap_or_default();
        Ok(Self { epoch, repository, header, grants, before, ring })
    }

    /// The slots that have one.
    pub fn slots(&self) -> impl Iterator<Item = ObjectId> {
        self.grants.iter().map(|grant| grant.slot)
    }

    /// The data key of the epoch, if the slot of `keys` has a grant.
    fn own_key(&self, keys: &KeyRing, name: &str) -> Result<Key> {
        let own = keys.own.get().ok_or_else(|| Error::Invalid("the keys were opened by no slot".into()))?;
        let grant = self.grants.iter().find(|grant| grant.slot == own.id);
        let grant = grant.ok_or(Error::NotGranted { slot: own.id, epoch: self.epoch })?;
        let (psk, info) = bindings(keys, &own.id, self.epoch);
        let context = Context { psk: &psk, psk_id: PSK_ID, info: &info, aad: self.header };
        let key = own.private.open(&grant.encapsulated, grant.sealed, &context);
        let key = key.map_err(|error| Error::corrupt(name, error))?;
        let key = <[u8; 32]>::try_from(key.as_slice()).map_err(|_| Error::corrupt(name, "key length"))?;
        Ok(Zeroizing::new(key))
    }

    /// All keys that it has for the slot of `keys`.
    ///
    /// # Errors
    ///
    /// It has none, or any part of it is damaged.
    pub(crate) fn open(&self, keys: &KeyRing, name: &str) -> Result<Vec<(u32, Key)>> {
        let (all, is_whole) = self.open_own(keys, name)?;
        is_whole
            .then_some(all)
            .ok_or_else(|| Error::corrupt(name, "what it has for other key slots is damaged"))
    }

    /// The same, and whether the rest of it is sound, too.
    fn open_own(&self, keys: &KeyRing, name: &str) -> Result<(Vec<(u32, Key)>, bool)> {
        if self.repository != keys.repository || names::grants_epoch(name) != Some(self.epoch) {
            return Err(Error::corrupt(name, "it has the grants of another repository or epoch"));
        }
        let key = self.own_key(keys, name)?;
        let ring = envelope::open_by(
            |kind, epoch, salt| {
                let is_ours = epoch == self.epoch;
                is_ours
                    .then(|| super::committed(&derive(&key, kind.label(), &[salt])))
                    .ok_or_else(|| Error::corrupt(name, "its earlier keys are sealed under another epoch"))
            },
            &keys.repository,
            ObjectKind::Ring,
            &names::grants(self.epoch),
            self.ring,
        )?;
        let ring = Zeroizing::new(ring);
        let mut decoder = Decoder::new(&ring, "earlier keys");
        let count = decoder.u32().in_object(name)? as usize;
        if count > MAX_EPOCHS {
            return Err(Error::corrupt(name, "it has more epochs than there can be"));
        }
        let mut all = vec![];
        for _ in 0..count {
            let epoch = decoder.u32().in_object(name)?;
            all.push((epoch, Zeroizing::new(decoder.array().in_object(name)?)));
        }
        // So whoever opens it finds damage to what is granted to others.
        let is_whole = *blake3::hash(self.before).as_bytes() == decoder.array::<32>().in_object(name)?;
        decoder.finish().in_object(name)?;
        all.push((self.epoch, key));
        Ok((all, is_whole))
    }
}

/// The pre-shared key, and what a grant is bound to.
fn bindings(keys: &KeyRing, slot: &ObjectId, epoch: u32) -> (Key, Vec<u8>) {
    let mut info = Encoder::default();
    info.raw(b"esker grant").raw(keys.repository.as_bytes()).raw(slot.as_bytes()).u32(epoch);
    (derive(&keys.master, "grant", &[]), info.bytes)
}

impl KeyRing {
    /// Makes a data key for the new `epoch`, adds it to the ring, and seals it to `slots`, each with its public key. Returns
    /// the bytes of `grants/<epoch>`.
    ///
    /// # Errors
    ///
    /// A public key is none; a key of that epoch is known.
    pub fn make_epoch(&self, epoch: u32, slots: &[(ObjectId, ObjectId)], env: &dyn Env) -> Result<Vec<u8>> {
        let key: Key = Zeroizing::new(random_array(env)?);
        let mut out = Encoder::default();
        out.raw(GRANTS_MAGIC).u8(FORMAT_VERSION).raw(&[0; 3]).u32(epoch).raw(self.repository.as_bytes());
        let header = out.bytes.clone();
        out.u32(u32::try_from(slots.len()).unwrap_or(u32::MAX));
        for (slot, public) in slots {
            let (psk, info) = bindings(self, slot, epoch);
            let context = Context { psk: &psk, psk_id: PSK_ID, info: &info, aad: &header };
            let sealed = hybrid::seal(&public.0, &key, &context, env)?;
            let (encapsulated, sealed) =
                sealed.ok_or_else(|| Error::corrupt(names::key(slot), "its public key is none"))?;
            out.raw(slot.as_bytes()).raw(&encapsulated).raw(&sealed);
        }
        let earlier = self.with_epochs(|epochs| {
            let mut ring = Encoder { bytes: Vec::with_capacity(4 + epochs.len() * 36 + 32) };
            ring.u32(u32::try_from(epochs.len()).unwrap_or(u32::MAX));
            for (epoch, key) in epochs {
                ring.u32(*epoch).raw(&**key);
            }
            ring.raw(blake3::hash(&out.bytes).as_bytes());
            Zeroizing::new(ring.bytes)
        });
        self.add([(epoch, key)])?;
        let sealed = envelope::seal(self, epoch, ObjectKind::Ring, &names::grants(epoch), &earlier, env);
        match sealed {
            Ok(sealed) => out.raw(&sealed),
            Err(error) => {
                self.forget_epoch(epoch);
                return Err(error);
            }
        };
        Ok(out.bytes)
    }
}

/// Adds to `keys` the key of `epoch`, if the store has it for their slot: from the grants of the epoch that HEAD is sealed
/// under. Those of any other may be of a rotation that never came to be; they are only looked at if there is no HEAD, or
/// its grants are lost, and no key of a later epoch than the one that is asked for is taken from them.
pub(super) fn learn(keys: &KeyRing, storage: &dyn Storage, epoch: u32) -> Result<()> {
    for _ in 0..MOST_TRIED {
        let sealed = storage.read_head()?.map(|(sealed, _)| sealed);
        let Some(last) = sealed.and_then(|sealed| envelope::epoch_of(&sealed)).filter(|last| *last >= epoch)
        else {
            break;
        };
        let name = names::grants(last);
        match read(keys, storage, &name, false)? {
            Some(opened) => return keys.add(opened),
            // HEAD may be of a later epoch by now. Otherwise they are lost.
            None if storage.read_head()?.and_then(|(sealed, _)| envelope::epoch_of(&sealed))
                == Some(last) =>
            {
                break;
            }
            None => {}
        }
    }
    let opened = listed(keys, storage, epoch)?;
    keys.add(opened.into_iter().filter(|(known, _)| *known <= epoch))
}

/// Adds to `keys` all that the object `name` has for their slot.
pub(super) fn take(keys: &KeyRing, name: &str, bytes: &[u8]) -> Result<()> {
    keys.add(Grants::decode(bytes).in_object(name)?.open(keys, name)?)
}

/// All keys that the object has for the slot of `keys`; a disk has copies of it. One that does not open, or has no grant for
/// the slot, may be damaged: a copy that opens takes its place. If no copy is whole, one that has the keys for the slot will
/// do, unless it is to be `whole`. `None` if there is none.
fn read(keys: &KeyRing, storage: &dyn Storage, name: &str, whole: bool) -> Result<Option<Vec<(u32, Key)>>> {
    // Whether one has a grant for the slot that does not open: then it is damaged, and the slot was not removed.
    let (damaged, not_granted) = (Cell::new(false), Cell::new(None));
    let own_only = RefCell::new(None);
    let read = read_kept(storage, name, MAX_SMALL_LEN, |bytes| {
        let grants = Grants::decode(bytes).in_object(name)?;
        let (opened, is_whole) = grants.open_own(keys, name).inspect_err(|error| match error {
            Error::NotGranted { slot, epoch } => not_granted.set(Some((*slot, *epoch))),
            _ => damaged.set(true),
        })?;
        if is_whole {
            return Ok(opened);
        }
        damaged.set(true);
        own_only.replace(Some(opened));
        Err(Error::corrupt(name, "what it has for other key slots is damaged"))
    });
    match read {
        Ok((_, opened)) => Ok(Some(opened)),
        Err(error) if error.is_damage() && !whole && own_only.borrow().is_some() => {
            tracing::warn!(
                "{}, and no copy of it is sound: 'esker key rotate' makes a new data key for every slot",
                crate::error::describe(&error)
            );
            Ok(own_only.take())
        }
        Err(error) => match not_granted.get() {
            Some((slot, epoch)) if !damaged.get() && (error.is_damage() || is_not_granted(&error)) => {
                Err(Error::NotGranted { slot, epoch })
            }
            _ if matches!(&error, Error::Storage(error) if error.kind == ErrorKind::NotFound) => Ok(None),
            _ if damaged.get() && is_not_granted(&error) => {
                let why = "no copy of it has a sound grant for the key slot in use. Another password may open the \
                           repository, and with it 'esker key rotate' makes a new data key for every slot";
                Err(Error::corrupt(name, why))
            }
            _ => Err(error),
        },
    }
}

/// Whether the grants of an epoch that are there open for the slot of `keys`.
pub(crate) fn are_sound(keys: &KeyRing, storage: &dyn Storage, epoch: u32) -> Result<bool> {
    match read(keys, storage, &names::grants(epoch), true) {
        Ok(opened) => Ok(opened.is_some()),
        Err(error) if error.is_damage() || is_not_granted(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_not_granted(error: &Error) -> bool {
    matches!(error, Error::NotGranted { .. })
}

/// The keys in the latest grants there are that have one of `epoch`.
fn listed(keys: &KeyRing, storage: &dyn Storage, epoch: u32) -> Result<Vec<(u32, Key)>> {
    let there = there(storage)?;
    let mut refused = None;
    for name in there.range(epoch..).rev().take(MOST_TRIED).copied().map(names::grants) {
        match read(keys, storage, &name, false) {
            Ok(Some(opened)) if opened.iter().any(|(known, _)| *known == epoch) => return Ok(opened),
            Ok(_) => {}
            Err(error) if error.is_damage() || is_not_granted(&error) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(vec![]), Err)
}

/// The epochs whose grants are there, copies included.
pub(crate) fn there(storage: &dyn Storage) -> Result<BTreeSet<u32>> {
    let mut there = BTreeSet::new();
    let copies = names::copies(names::GRANTS).filter(|_| storage.keeps_copies());
    for folder in std::iter::once(names::GRANTS.to_owned()).chain(copies) {
        storage.list(&folder, &mut |name, _| there.extend(names::grants_epoch(name)))?;
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::super::{KdfParams, SlotOwner, make_slot, open_slot, slot_header};
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::to_hex;
    use crate::storage::memory::MemoryStorage;
    use bytes::Bytes;
    use std::sync::Arc;

    const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

    /// A repository's keys and its slots, each with its bytes and its passphrase.
    struct Ring {
        env: SeededEnv,
        keys: KeyRing,
        slots: Vec<(ObjectId, Vec<u8>)>,
    }

    impl Ring {
        fn new(repository: u8, slots: usize) -> Self {
            let env = SeededEnv::new(u64::from(repository));
            let keys = KeyRing::generate(RepositoryId([repository; 16]), &env).unwrap();
            let made =
                (0..slots).map(|_| make_slot(&keys, b"pw", CHEAP, SlotOwner::default(), &env).unwrap());
            let slots = made.collect();
            Self { env, keys, slots }
        }

        fn public(&self, slots: &[usize]) -> Vec<(ObjectId, ObjectId)> {
            let one = |(id, bytes): &(ObjectId, Vec<u8>)| (*id, slot_header(id, bytes).unwrap().public);
            slots.iter().map(|slot| one(&self.slots[*slot])).collect()
        }

        fn epoch(&self, epoch: u32, slots: &[usize]) -> Vec<u8> {
            self.keys.make_epoch(epoch, &self.public(slots), &self.env).unwrap()
        }

        /// A process that opened a slot, with a store that has these objects.
        fn process(&self, slot: usize, objects: &[(u32, &[u8])]) -> (KeyRing, Arc<dyn Storage>) {
            let (id, bytes) = &self.slots[slot];
            let keys = open_slot(id, bytes, b"pw").unwrap().unwrap();
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
            for (epoch, bytes) in objects {
                storage.put(&names::grants(*epoch), Bytes::copy_from_slice(bytes)).unwrap();
            }
            keys.attach(&storage);
            (keys, storage)
        }
    }

    fn same(ours: &KeyRing, theirs: &KeyRing, epoch: u32) -> bool {
        let key = |keys: &KeyRing| keys.object_key(ObjectKind::Head, epoch, &[0; 32]).unwrap().commitment;
        key(ours) == key(theirs)
    }

    #[test]
    fn the_last_grants_have_all_that_a_slot_lacks() {
        let ring = Ring::new(1, 3);
        let all: Vec<Vec<u8>> = (2..=9).map(|epoch| ring.epoch(epoch, &[0, 2])).collect();
        let (keys, _storage) = ring.process(2, &[(9, &all[7])]);
        assert_eq!(keys.epochs(), [1]);
        assert!(same(&keys, &ring.keys, 9));
        assert_eq!(keys.epochs(), (1..=9).collect::<Vec<_>>());
        assert!((1..9).all(|epoch| same(&keys, &ring.keys, epoch)));
        // An older object is asked for; its grants are gone, and later ones have its key. No later key is believed.
        let (keys, _storage) = ring.process(0, &[(9, &all[7])]);
        assert!(same(&keys, &ring.keys, 4));
        assert_eq!(keys.epochs(), (1..=4).collect::<Vec<_>>());
        // One that got no grant.
        let (keys, _storage) = ring.process(1, &[(8, &all[6]), (9, &all[7])]);
        for epoch in 2..=9 {
            let refused = keys.object_key(ObjectKind::Head, epoch, &[0; 32]).err().unwrap();
            assert!(matches!(refused, Error::NotGranted { .. }), "{epoch}: {refused}");
        }
        let (keys, _storage) = ring.process(0, &[]);
        let missing = keys.object_key(ObjectKind::Head, 2, &[0; 32]).err().unwrap();
        assert!(missing.is_damage() && missing.to_string().contains("grants/2"), "{missing}");
    }

    #[test]
    fn grants_of_others_are_refused() {
        let (ring, other) = (Ring::new(1, 2), Ring::new(2, 2));
        let (second, theirs) = (ring.epoch(2, &[0, 1]), other.epoch(2, &[0, 1]));
        let third = ring.epoch(3, &[0, 1]);
        // Another repository's, the grants of another epoch, and one slot's as another's.
        let mut exchanged = second.clone();
        let at = GRANTS_HEADER_LEN + 4;
        let len = 32 + ENCAPSULATED_LEN + GRANTED_LEN;
        let (a, b) = (second[at + 32..at + len].to_vec(), second[at + len + 32..at + 2 * len].to_vec());
        exchanged[at + 32..at + len].copy_from_slice(&b);
        exchanged[at + len + 32..at + 2 * len].copy_from_slice(&a);
        // The ring of another object.
        let mut mixed = second[..at + 2 * len].to_vec();
        mixed.extend(&third[at + 2 * len..]);
        // Sealed to the right key by one who has not the master key: the store.
        let forger = Ring::new(1, 0);
        let forger = KeyRing::assemble(
            ring.keys.repository,
            forger.keys.gear_key(),
            [(1, Zeroizing::new([1; 32]))].into(),
        );
        let forged = forger.make_epoch(2, &ring.public(&[0, 1]), &ring.env).unwrap();
        for (why, bytes) in
            [("another repository", &theirs), ("another epoch", &third), ("another slot", &exchanged)]
                .into_iter()
                .chain([("another ring", &mixed), ("forged", &forged)])
        {
            let (keys, _storage) = ring.process(0, &[(2, bytes)]);
            let refused = keys.object_key(ObjectKind::Head, 2, &[0; 32]).err().unwrap();
            assert!(
                matches!(&refused, Error::Corrupt { object, .. } if object == "grants/2"),
                "{why}: {refused}"
            );
            assert_eq!(keys.epochs(), [1], "{why}");
        }
    }

    #[test]
    fn every_byte_and_every_length_is_checked() {
        let ring = Ring::new(1, 2);
        let bytes = ring.epoch(2, &[0, 1]);
        let opens = |bytes: &[u8]| {
            let (keys, _storage) = ring.process(0, &[(2, bytes)]);
            keys.object_key(ObjectKind::Head, 2, &[0; 32]).is_ok()
        };
        assert!(opens(&bytes));
        let other_grant = GRANTS_HEADER_LEN + 4 + 112..GRANTS_HEADER_LEN + 4 + 224;
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            // What is another slot's keeps nobody out, and is noticed.
            assert!(!opens(&bad) || other_grant.contains(&at), "byte {at}");
            let (keys, storage) = ring.process(0, &[(2, &bad)]);
            assert!(!matches!(are_sound(&keys, &*storage, 2), Ok(true)), "byte {at}");
            assert!(at % 9 > 0 || !opens(&bytes[..at]), "cut at {at}");
        }
    }

    /// A rotation that slept made grants again under a number that HEAD is past, or is about to make an epoch.
    #[test]
    fn only_the_grants_of_heads_epoch_count() {
        let ring = Ring::new(1, 1);
        ring.epoch(2, &[0]);
        let third = ring.epoch(3, &[0]);
        let (slept, _none) = ring.process(0, &[]);
        let again = slept.make_epoch(2, &ring.public(&[0]), &ring.env).unwrap();
        let coming = slept.make_epoch(4, &ring.public(&[0]), &ring.env).unwrap();
        let (keys, storage) = ring.process(0, &[(2, &again), (3, &third), (4, &coming)]);
        let head = envelope::seal(&ring.keys, 3, ObjectKind::Head, names::HEAD, b"{}", &ring.env).unwrap();
        storage.swap_head(None, head.into()).unwrap();
        assert!(same(&keys, &ring.keys, 2) && same(&keys, &ring.keys, 3) && !same(&keys, &slept, 2));
        assert_eq!(keys.epochs(), [1, 2, 3]);
    }

    /// Whoever had a slot once knows the master key: against a process at work, that is not enough.
    #[test]
    fn a_key_that_is_known_is_not_exchanged() {
        let ring = Ring::new(1, 2);
        let (second, third) = (ring.epoch(2, &[0]), ring.epoch(3, &[0]));
        let (keys, _storage) = ring.process(0, &[(2, &second)]);
        assert!(same(&keys, &ring.keys, 2));
        let (former, _none) = ring.process(1, &[]);
        former.make_epoch(2, &ring.public(&[0]), &ring.env).unwrap();
        let forged = former.make_epoch(3, &ring.public(&[0]), &ring.env).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        storage.put(&names::grants(3), forged.into()).unwrap();
        keys.attach(&storage);
        let refused = keys.object_key(ObjectKind::Head, 3, &[0; 32]).err().unwrap();
        assert!(refused.to_string().contains("another key of epoch 2"), "{refused}");
        assert_eq!(keys.epochs(), [1, 2]);
        storage.replace(&names::grants(3), third.into()).unwrap();
        assert!(same(&keys, &ring.keys, 3));
    }

    /// The bytes of one object, so that nothing of its making changes unseen; docs/reader.py opens the golden ones. The
    /// derived key was computed apart from this code.
    #[test]
    fn a_known_answer() {
        let ring = Ring::new(7, 1);
        let bytes = ring.epoch(2, &[0]);
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "191b0d3ceb831d906644655794cff6746527685f2bb411e9a7a66ddfb5254294"
        );
        let epochs = [(1, Zeroizing::new([2; 32]))].into();
        let keys = KeyRing::assemble(RepositoryId([3; 16]), Zeroizing::new([1; 32]), epochs);
        let (psk, info) = bindings(&keys, &ObjectId([9; 32]), 0x0403_0201);
        assert_eq!(to_hex(&*psk), "a5f8798b6c2b43cc14e49e456ab8c8ac719eb325ac729187176834afecf66fc9");
        assert_eq!(info, [&b"esker grant"[..], &[3; 16], &[9; 32], &[1, 2, 3, 4]].concat());
    }
}
