//! Lists that grow out of HEAD: the same items whatever lies in leaves, few objects, and none left behind.

use super::*;
use crate::env::{Env, SeededEnv};
use crate::format::names;
use crate::id::RepositoryId;
use crate::keys::KeyRing;
use crate::storage::memory::MemoryStorage;
use crate::storage::{ErrorKind, Storage, StorageError, StorageResult, Version};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each other process has random numbers of its own.
static OTHERS: AtomicU64 = AtomicU64::new(100);

/// HEAD holds few items itself.
struct Narrow(SeededEnv, usize);

impl Env for Narrow {
    fn now(&self) -> Duration {
        self.0.now()
    }
    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        self.0.random(bytes)
    }
    fn sleep(&self, time: Duration) {
        self.0.sleep(time);
    }
    fn head_inline(&self) -> usize {
        self.1
    }
}

/// The next swaps fail: others were faster, or the answer is lost.
#[derive(Default)]
struct Racy {
    disk: MemoryStorage,
    next: Mutex<Vec<Race>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Race {
    /// Another process swaps first.
    Lost,
    /// The swap comes to pass, and nobody says so.
    Unanswered,
    /// It does not, and nobody says so.
    Dropped,
}

impl Storage for Racy {
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let race = self.next.lock().unwrap().pop();
        let fails = |kind| StorageError { kind, op: "swap", object: name.into(), source: "a race".into() };
        match race {
            Some(Race::Dropped) => return Err(fails(ErrorKind::Ambiguous)),
            Some(Race::Lost) => {
                let (keys, _) = keys_and_env(1200);
                let env = Arc::new(Narrow(SeededEnv::new(OTHERS.fetch_add(1, Ordering::Relaxed)), 1200));
                let other: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
                let (sealed, version) = self.disk.read_head()?.expect("there is a HEAD");
                other.replace(names::HEAD, sealed)?;
                for (name, body) in
                    self.disk.objects().iter().filter(|(name, _)| name.starts_with(names::SETS))
                {
                    other.replace(name, body.clone())?;
                }
                HeadStore::new(Arc::clone(&other), keys, env, None, &NoColumns, None)
                    .update(|_| Ok(()))
                    .expect("it swaps");
                let (sealed, _) = other.read_head()?.expect("there is a HEAD");
                other.list(names::SETS, &mut |name, _| {
                    let body = other.get(name, u64::MAX).expect("it is listed");
                    self.disk.replace(name, body).expect("there is room");
                })?;
                self.disk.swap(names::HEAD, Some(&version), sealed)?;
            }
            _ => {}
        }
        let done = self.disk.swap(name, expected, body);
        if race == Some(Race::Unanswered) { Err(fails(ErrorKind::Ambiguous)) } else { done }
    }
    crate::forward!(self => self.disk; place put replace get get_range stream_range len list leftovers delete
        read_versioned connections is_near keeps_copies written_ms copies shelf);
}

fn keys_and_env(inline: usize) -> (Arc<KeyRing>, Arc<dyn Env>) {
    let env = Narrow(SeededEnv::new(1), inline);
    let keys = KeyRing::generate(RepositoryId([1; 16]), &env).unwrap();
    (Arc::new(keys), Arc::new(env))
}

fn store(disk: &Arc<Racy>, inline: usize) -> HeadStore {
    let (keys, env) = keys_and_env(inline);
    HeadStore::new(Arc::clone(disk) as _, keys, env, None, &NoColumns, None)
}

fn id(number: u64) -> ObjectId {
    ObjectId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn root(number: u64) -> Root {
    let record = Body::Here(Bytes::from(format!("{{\"number\":{number}}}")));
    let columns = Bytes::copy_from_slice(&number.to_le_bytes());
    Root { columns, record, ..Root::new(Root::SNAPSHOT, id(number), id(number + 1), 1) }
}

fn segment(number: u64) -> SegmentRef {
    SegmentRef { id: id(number), hash: id(number + 1), packs: 1, chunks: 7, epoch: 1 }
}

/// The objects in the store are those that HEAD names.
fn nothing_is_left(disk: &Racy, head: &Head) {
    let mut named: Vec<String> = head.leaves().flat_map(LeafRef::names).collect();
    named.sort();
    let there: Vec<String> =
        disk.disk.objects().keys().filter(|name| name.starts_with(names::SETS)).cloned().collect();
    assert_eq!(there, named);
    let sealed = disk.disk.read_head().unwrap().unwrap().0;
    assert!(sealed.len() < 64 << 10, "HEAD has {} bytes", sealed.len());
}

fn add<T: Item>(list: &mut List<T>, items: impl Iterator<Item = T>) -> Result<()> {
    list.extend(items);
    Ok(())
}

fn numbers(roots: &List<Root>) -> Vec<u64> {
    let number = |root: &Root| {
        let number = u64::from_le_bytes(root.columns[..].try_into().unwrap());
        let record = root.record.read().unwrap().expect("it has a record");
        assert_eq!(record, format!("{{\"number\":{number}}}"));
        assert_eq!((root.id, root.hash), (id(number), id(number + 1)));
        number
    };
    roots.iter().unwrap().map(number).collect()
}

/// Random changes, also under lost races, against a plain vector.
#[test]
fn a_list_is_what_it_was_told_to_be() {
    let disk = Arc::new(Racy::default());
    let heads = store(&disk, 1200);
    heads.create(BTreeMap::new()).unwrap();
    let env = SeededEnv::new(7);
    let below = |limit: u64| {
        let mut bytes = [0; 8];
        env.random(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % limit.max(1)
    };
    let (mut truth, mut next): (Vec<u64>, u64) = (vec![], 0);
    for round in 0..400 {
        *disk.next.lock().unwrap() = match below(6) {
            0 => vec![Race::Lost],
            1 => vec![Race::Unanswered],
            2 => vec![Race::Lost, Race::Dropped],
            _ => vec![],
        };
        let (choice, at, many) = (below(10), below(truth.len() as u64) as usize, below(40));
        let victim = truth.get(at).copied();
        let fresh: Vec<u64> = (next..next + many).collect();
        next += many + 1;
        let (head, ()) = heads
            .update(|head| match (choice, victim) {
                (0, Some(victim)) => head.roots.retain(|root| root.id != id(victim)),
                (1, Some(_)) => head.roots.retain(|root| root.columns[0] % 3 != (at % 3) as u8),
                (2, Some(victim)) => {
                    *head.roots.find_mut(|root| root.id == id(victim))?.unwrap() = root(next - 1);
                    Ok(())
                }
                (3, Some(victim)) => head.roots.insert_before(root(next - 1), |known| known.id == id(victim)),
                (4, _) if round % 50 == 0 => head.roots.keep_last(3),
                _ => {
                    head.roots.extend(fresh.iter().map(|number| root(*number)));
                    Ok(())
                }
            })
            .unwrap();
        match (choice, victim) {
            (0, Some(victim)) => truth.retain(|number| *number != victim),
            (1, Some(_)) => truth.retain(|number| number.to_le_bytes()[0] % 3 != (at % 3) as u8),
            (2, Some(_)) => truth[at] = next - 1,
            (3, Some(_)) => truth.insert(at, next - 1),
            (4, _) if round % 50 == 0 => drop(truth.drain(..truth.len().saturating_sub(3))),
            _ => truth.extend(&fresh),
        }
        assert_eq!(numbers(&head.roots), truth, "round {round}");
        let read = store(&disk, 1200).load().unwrap().head;
        assert_eq!(numbers(&read.roots), truth, "round {round}, read again");
        // What a swap in doubt wrote is for a prune, until HEAD is of that age.
        let written: Vec<String> =
            disk.disk.objects().keys().filter(|name| name.starts_with("sets/")).cloned().collect();
        let named: Vec<String> = read.leaves().flat_map(LeafRef::names).collect();
        for name in &named {
            assert!(written.contains(name));
        }
    }
    assert!(truth.len() > 100, "{} items are too few for a test", truth.len());
}

/// What issue 21 asks for: long lists, a short HEAD, few objects, nothing left.
#[test]
fn a_hundred_thousand_make_few_leaves() {
    let disk = Arc::new(Racy::default());
    let heads = store(&disk, 16 << 10);
    heads.create(BTreeMap::new()).unwrap();
    let count = 100_000;
    heads
        .update(|head| {
            head.roots.extend((0..count).map(root));
            head.segments.extend((0..count).map(segment));
            Ok(())
        })
        .unwrap();
    let mut written = 0;
    for number in count..count + 1000 {
        let before: std::collections::HashSet<String> = disk.disk.objects().keys().cloned().collect();
        let (head, ()) = heads
            .update(|head| {
                head.roots.push(root(number));
                head.segments.push(segment(number));
                Ok(())
            })
            .unwrap();
        let objects = disk.disk.objects();
        let new = objects.iter().filter(|(name, _)| !before.contains(*name) || *name == names::HEAD);
        written += new.map(|(_, body)| body.len()).sum::<usize>();
        drop(objects);
        assert!(head.leaves().count() <= 24, "{} leaves", head.leaves().count());
    }
    let head = heads.load().unwrap().head;
    nothing_is_left(&disk, &head);
    assert_eq!((head.roots.len(), head.segments.len()), (101_000, 101_000));
    assert!(head.segments.iter().unwrap().zip(0..).all(|(known, number)| *known == segment(number)));
    assert!(written < 1000 * (160 << 10), "{} bytes are written for each swap", written / 1000);
}

/// One of many taken out costs no leaf.
#[test]
fn what_is_taken_out_is_noted_in_head() {
    let disk = Arc::new(Racy::default());
    let heads = store(&disk, 16 << 10);
    heads.create(BTreeMap::new()).unwrap();
    let (full, ()) = heads.update(|head| add(&mut head.segments, (0..20_000).map(segment))).unwrap();
    let (less, ()) = heads.update(|head| head.segments.retain(|known| known.id != id(77))).unwrap();
    let ids = |head: &Head| head.leaves().map(|leaf| leaf.object.id).collect::<Vec<_>>();
    assert_eq!(ids(&full), ids(&less));
    assert_eq!(less.segments.len(), 19_999);
    // Much of it taken out is another matter.
    let (few, ()) = heads.update(|head| head.segments.retain(|known| known.id.0[0] < 8)).unwrap();
    assert_ne!(ids(&few), ids(&less));
    nothing_is_left(&disk, &few);
    let (none, ()) = heads.update(|head| head.segments.retain(|_| false)).unwrap();
    assert_eq!(none.leaves().count(), 0);
    nothing_is_left(&disk, &none);
}

/// A leaf that is gone or damaged is told as damage; what needs it not is not bothered.
#[test]
fn a_lost_leaf_is_damage() {
    let disk = Arc::new(Racy::default());
    store(&disk, 1200).create(BTreeMap::new()).unwrap();
    store(&disk, 1200).update(|head| add(&mut head.roots, (0..200).map(root))).unwrap();
    let named: Vec<String> =
        disk.disk.objects().keys().filter(|name| name.starts_with("sets/")).cloned().collect();
    for name in named {
        let body = disk.disk.objects().remove(&name).unwrap();
        let gone = store(&disk, 1200).load().and_then(|loaded| loaded.head.read_all());
        let mut flipped = body.to_vec();
        flipped[100] ^= 1;
        disk.disk.objects().insert(name.clone(), flipped.into());
        let damaged = store(&disk, 1200).load().and_then(|loaded| loaded.head.read_all());
        disk.disk.objects().insert(name, body);
        for outcome in [gone, damaged] {
            // Bodies can be read elsewhere.
            if let Err(error) = outcome {
                assert!(error.is_damage(), "{error:?}");
            }
        }
    }
    assert_eq!(store(&disk, 1200).load().unwrap().head.roots.len(), 200);
}

/// A HEAD of 400 roots, whose records lie in leaves.
fn with_leaves(disk: &Arc<Racy>) -> Head {
    let heads = store(disk, 1200);
    heads.create(BTreeMap::new()).unwrap();
    // Each has less than a quarter of the one before: they stay apart.
    for numbers in [0..320, 320..390, 390..400] {
        heads.update(|head| add(&mut head.roots, numbers.clone().map(root))).unwrap();
    }
    let head = store(disk, 1200).load().unwrap().head;
    assert!(head.roots.leaves().filter(|leaf| leaf.bodies.is_some()).count() > 1);
    head
}

fn expected(root: &Root) -> String {
    format!("{{\"number\":{}}}", u64::from_le_bytes(root.columns[..].try_into().unwrap()))
}

/// The places of roots, from each leaf in turn.
fn interleaved(roots: &[&Root]) -> Vec<usize> {
    let mut leaves: Vec<(&Arc<Bodies>, Vec<usize>)> = vec![];
    for (place, root) in roots.iter().enumerate() {
        let Body::There(bodies, _) = &root.record else { continue };
        match leaves.iter_mut().find(|(known, _)| Arc::ptr_eq(known, bodies)) {
            Some((_, places)) => places.push(place),
            None => leaves.push((bodies, vec![place])),
        }
    }
    let turns =
        (0..roots.len()).flat_map(|turn| leaves.iter().filter_map(move |(_, places)| places.get(turn)));
    turns.copied().collect()
}

/// In order, from each leaf in turn, from the end: the same bodies. Those that are read in order are not kept.
#[test]
fn bodies_are_read_in_any_order() {
    let head = with_leaves(&Arc::new(Racy::default()));
    let roots: Vec<&Root> = head.roots.iter().unwrap().collect();
    let every_second = (0..400).step_by(2).chain((1..400).step_by(2));
    for (places, are_kept) in [
        ((0..400).collect::<Vec<_>>(), false),
        (interleaved(&roots), false),
        ((0..400).step_by(7).collect(), false),
        (every_second.collect(), true),
        ((0..400).rev().collect(), true),
    ] {
        let mut reader = BodyReader::default();
        for place in &places {
            assert_eq!(reader.read(&roots[*place].record).unwrap().unwrap(), expected(roots[*place]));
        }
        let lying = roots.iter().filter(|root| matches!(root.record, Body::There(..)));
        let kept = lying.filter(|root| root.record.at_hand().is_some()).count();
        assert_eq!(kept > 0, are_kept, "{kept} are kept of {places:?}");
    }
}

/// What was fetched is read, whoever removes it meanwhile. What is gone or damaged before is damage, for as long as it is read.
#[test]
fn bodies_that_were_fetched_cannot_go() {
    let disk = Arc::new(Racy::default());
    let head = with_leaves(&disk);
    let roots: Vec<&Root> = head.roots.iter().unwrap().collect();
    let mut reader = BodyReader::default();
    assert!(roots.iter().all(|root| reader.fetch(&root.record).unwrap()));
    assert!(!reader.fetch(&Body::None).unwrap());
    let gone: Vec<String> = head
        .roots
        .leaves()
        .map(|leaf| names::leaf(leaf.age.parts(), &leaf.bodies.unwrap().id))
        .inspect(|name| drop(disk.disk.objects().remove(name).unwrap()))
        .collect();
    for root in &roots {
        assert_eq!(reader.read(&root.record).unwrap().unwrap(), expected(root));
    }
    let again = store(&disk, 1200).load().unwrap().head;
    let (mut reader, mut damaged) = (BodyReader::default(), 0);
    for root in again.roots.iter().unwrap() {
        let is_here = matches!(root.record, Body::Here(_));
        assert_eq!(reader.fetch(&root.record).unwrap(), is_here);
        match reader.read(&root.record) {
            Ok(text) => assert_eq!(text.unwrap(), expected(root)),
            Err(error) => {
                assert!(
                    error.is_damage() && gone.iter().any(|name| error.to_string().contains(name)),
                    "{error}"
                );
                damaged += 1;
            }
        }
    }
    assert!(damaged > 100, "{damaged}");
}
