//! Rotations of data keys and changes of key slots (docs/concurrency.md, "Epochs") as a model, every interleaving of them
//! within small bounds, checked with Stateright. Each rule is left out in turn: then a slot of HEAD must not open
//! everything, or a removed slot must open what came after it. What is sealed under the keys is in `model_renewal.rs`.
//!
//! Two rotations read HEAD, put grants, sleep, and swap. A slot is added, another one removed, and whoever has that one
//! keeps its file and reads the store on. A prune removes old grants and stray slots, arbitrarily late. A request may take
//! effect after its process gave it up, or never. Any step may be the last of its process.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Keys or slots, by number.
type Set = u8;

const ROTATIONS: usize = 2;
/// One more than the highest number of an epoch.
const NUMBERS: usize = 5;
/// The slot that stays, the one that is removed, and the one that is added.
const SLOTS: usize = 3;
const REMOVED: usize = 1;
const ADDED: usize = 2;

/// The rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Rules,
    /// The object is put before the swap: `ChunkStore::rotate_with` calls `claim` first.
    SwappedFirst,
    /// The object is created, not replaced: `put_kept` in `ChunkStore::claim`.
    GrantsReplaced,
    /// The swap compares epochs with those that the grants were made for: `known` in `ChunkStore::rotate_with`.
    EpochsNotCompared,
    /// It compares slots: the same.
    SlotsNotCompared,
    /// Grants have all earlier keys: `earlier` in `KeyRing::make_epoch`.
    EarlierKeysLeftOut,
    /// Those of the epoch that HEAD is sealed under are read: `keys::grants::learn`.
    GrantsOfOtherEpochs,
    /// Those of a later epoch than HEAD's stay: `find_orphans` in `engine/src/prune/orphans.rs`.
    LaterGrantsRemoved,
    /// A rotation leaves its object, also when its swap was lost or in doubt: `ChunkStore::rotate_with` removes none.
    OwnGrantsRemoved,
    /// A slot is added only if the epoch is the one whose keys are in it: `ChunkStore::add_slot`.
    SlotOfEarlierEpoch,
    /// And only if its session is open: the same.
    SlotOfFencedSession,
    /// While a session is open, a slot that HEAD does not list is no stray: `find_orphans`.
    StrayDespiteSession,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    /// The key of each number; 0 if there is no epoch of that number. HEAD is sealed under the last.
    epochs: [u8; NUMBERS],
    slots: Set,
    /// Whether the session of the process that adds a slot is open.
    adds: bool,
}

impl Head {
    fn epoch(&self) -> usize {
        self.epochs.iter().rposition(|key| *key > 0).unwrap_or(0)
    }

    fn keys(&self) -> Set {
        self.epochs.iter().filter(|key| **key > 0).fold(0, |keys, key| keys | 1 << key)
    }
}

/// The object of a number.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Grants {
    key: u8,
    slots: Set,
    /// All keys that a slot finds in it.
    ring: Set,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
enum Rotation {
    Idle,
    /// It read HEAD, and found the number free.
    Chosen(Head, usize),
    Ready(Claim),
    /// The answer was lost.
    Doubt(Claim),
    /// Swapped, and not yet put: [`Variant::SwappedFirst`].
    Owes(Claim),
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    known: Head,
    number: usize,
    key: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Adder {
    Idle,
    Opened,
    /// The epoch of the HEAD whose keys are in the slot.
    Put(usize),
    Over,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct World {
    head: Head,
    grants: [Option<Grants>; NUMBERS],
    /// The keys in the file of the slot that is added. The others have the first; that of the removed one, for ever.
    file: Option<Set>,
    rotations: [Rotation; ROTATIONS],
    adder: Adder,
    /// Whether the file was there when a prune listed slots.
    listed: Option<bool>,
    /// A swap that was sent, and may take effect as long as HEAD is not swapped.
    sent: Option<Head>,
    /// Keys that were ever made.
    made: u8,
    /// The epoch at which the slot was removed, and the keys that it opened whenever.
    removed: Option<usize>,
    leaked: Set,
    was_lost: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Step {
    Load(usize),
    Put(usize),
    Swap(usize),
    /// The answer will be lost.
    Send(usize),
    Arrive,
    ReadBack(usize),
    Dies(usize),
    OpenAdder,
    PutSlot,
    AddSlot,
    RemoveSlot,
    List,
    /// Whether the session is taken for dead.
    Clean(bool),
    DeleteGrants(usize),
}

impl World {
    fn file(&self, slot: usize) -> Option<Set> {
        if slot == ADDED { self.file } else { Some(0b10) }
    }
}

struct Protocol {
    variant: Variant,
    /// Whether answers may be lost.
    loses: bool,
    /// How many keys may ever be made, with the first.
    most_keys: u8,
}

fn has(set: Set, number: usize) -> bool {
    set & 1 << number != 0
}

impl Protocol {
    fn is(&self, variant: Variant) -> bool {
        self.variant == variant
    }

    /// The first number after `after` whose grants are not there.
    fn free(world: &World, after: usize) -> Option<usize> {
        (after + 1..NUMBERS).find(|number| world.grants[*number].is_none())
    }

    /// The HEAD that a claim makes of this one, if it may.
    fn next(&self, head: &Head, claim: &Claim) -> Option<Head> {
        let Claim { known, number, key } = *claim;
        (head.epochs == known.epochs || self.is(Variant::EpochsNotCompared)).then_some(())?;
        (head.slots == known.slots || self.is(Variant::SlotsNotCompared)).then_some(())?;
        let mut next = *head;
        next.epochs[number] = key;
        Some(next)
    }

    fn put(&self, world: &mut World, claim: &Claim) {
        let Claim { known, number, key } = *claim;
        let earlier = if self.is(Variant::EarlierKeysLeftOut) { 0 } else { known.keys() };
        world.grants[number] = Some(Grants { key, slots: known.slots, ring: earlier | 1 << key });
    }

    fn swap(&self, world: &mut World, claim: Claim) -> Rotation {
        // By a request whose answer was lost.
        if world.head.epochs[claim.number] == claim.key {
            return Rotation::Idle;
        }
        let Some(next) = self.next(&world.head, &claim) else {
            if self.is(Variant::OwnGrantsRemoved) {
                world.grants[claim.number] = None;
            }
            return Rotation::Idle;
        };
        world.head = next;
        if self.is(Variant::SwappedFirst) { Rotation::Owes(claim) } else { Rotation::Idle }
    }

    /// Whether a slot of HEAD finds the key of an epoch.
    fn opens(&self, world: &World, slot: usize, number: usize) -> bool {
        let (Some(file), key) = (world.file(slot), world.head.epochs[number]) else { return false };
        let read = |number: usize| world.grants[number].filter(|grants| has(grants.slots, slot));
        if has(file, key.into()) {
            return true;
        }
        if self.is(Variant::GrantsOfOtherEpochs)
            && let Some(grants) = read(number)
        {
            return grants.key == key;
        }
        let last = world.head.epoch();
        read(last).is_some_and(|grants| grants.key == world.head.epochs[last] && has(grants.ring, key.into()))
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut epochs = [0; NUMBERS];
        epochs[1] = 1;
        vec![World {
            head: Head { epochs, slots: 0b011, adds: false },
            grants: [None; NUMBERS],
            file: None,
            rotations: [Rotation::Idle; ROTATIONS],
            adder: Adder::Idle,
            listed: None,
            sent: None,
            made: 1,
            removed: None,
            leaked: 0b10,
            was_lost: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        for place in 0..ROTATIONS {
            match world.rotations[place] {
                Rotation::Idle if world.made < self.most_keys => actions.push(Step::Load(place)),
                Rotation::Idle => {}
                Rotation::Chosen(..) | Rotation::Owes(_) => {
                    actions.extend([Step::Put(place), Step::Dies(place)]);
                }
                Rotation::Ready(_) => {
                    actions.extend([Step::Swap(place), Step::Dies(place)]);
                    if self.loses {
                        actions.push(Step::Send(place));
                    }
                }
                Rotation::Doubt(_) => actions.extend([Step::ReadBack(place), Step::Dies(place)]),
            }
        }
        actions.extend([Step::Arrive, Step::OpenAdder, Step::PutSlot, Step::AddSlot]);
        actions.push(Step::RemoveSlot);
        match world.listed {
            None => actions.push(Step::List),
            Some(_) => actions.extend([false, true].map(Step::Clean)),
        }
        actions.extend((0..NUMBERS).map(Step::DeleteGrants));
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Load(place) => {
                // A slot that is gone stops it: `ChunkStore::public_keys`.
                let is_gone = |slot: &usize| has(world.head.slots, *slot) && world.file(*slot).is_none();
                if (0..SLOTS).any(|slot| is_gone(&slot)) {
                    return None;
                }
                let number = Self::free(&world, world.head.epoch())?;
                world.rotations[place] = Rotation::Chosen(world.head, number);
            }
            Step::Put(place) => {
                world.rotations[place] = match world.rotations[place] {
                    Rotation::Chosen(known, number)
                        if world.grants[number].is_some() && !self.is(Variant::GrantsReplaced) =>
                    {
                        Rotation::Chosen(known, Self::free(&world, number)?)
                    }
                    Rotation::Chosen(known, number) => {
                        (world.made < self.most_keys).then_some(())?;
                        world.made += 1;
                        let claim = Claim { known, number, key: world.made };
                        if !self.is(Variant::SwappedFirst) {
                            self.put(&mut world, &claim);
                        }
                        Rotation::Ready(claim)
                    }
                    Rotation::Owes(claim) => {
                        self.put(&mut world, &claim);
                        Rotation::Idle
                    }
                    _ => return None,
                };
            }
            Step::Swap(place) => {
                let Rotation::Ready(claim) = world.rotations[place] else { return None };
                world.rotations[place] = self.swap(&mut world, claim);
            }
            Step::Send(place) => {
                let Rotation::Ready(claim) = world.rotations[place] else { return None };
                world.sent = Some(self.next(&world.head, &claim)?);
                world.rotations[place] = Rotation::Doubt(claim);
            }
            Step::Arrive => world.head = world.sent?,
            Step::ReadBack(place) => {
                let Rotation::Doubt(claim) = world.rotations[place] else { return None };
                let happened = world.head.epochs[claim.number] == claim.key;
                world.was_lost |= happened;
                world.rotations[place] = match happened {
                    true => self.swap(&mut world, claim),
                    false if self.is(Variant::OwnGrantsRemoved) => {
                        world.grants[claim.number] = None;
                        Rotation::Idle
                    }
                    // With another swap, of HEAD as it is now.
                    false => Rotation::Ready(claim),
                };
            }
            Step::Dies(place) => world.rotations[place] = Rotation::Idle,
            Step::OpenAdder => {
                (world.adder == Adder::Idle).then_some(())?;
                world.head.adds = true;
                world.adder = Adder::Opened;
            }
            Step::PutSlot => {
                (world.adder == Adder::Opened).then_some(())?;
                world.file = Some(world.head.keys());
                world.adder = Adder::Put(world.head.epoch());
            }
            Step::AddSlot => {
                let Adder::Put(epoch) = world.adder else { return None };
                if !world.head.adds && !self.is(Variant::SlotOfFencedSession) {
                    world.adder = Adder::Over;
                } else if epoch != world.head.epoch() && !self.is(Variant::SlotOfEarlierEpoch) {
                    // Made again, under another name.
                    world.file = None;
                    world.listed = world.listed.map(|_| false);
                    world.adder = Adder::Opened;
                } else {
                    world.head.slots |= 1 << ADDED;
                    world.head.adds = false;
                    world.adder = Adder::Over;
                }
            }
            Step::RemoveSlot => {
                world.removed.is_none().then_some(())?;
                world.removed = Some(world.head.epoch());
                world.head.slots &= !(1 << REMOVED);
            }
            Step::List => world.listed = Some(world.file.is_some()),
            Step::Clean(fences) => {
                let was_there = world.listed.take()?;
                // A session that is fenced ends in a swap, and HEAD is looked at again after it.
                world.head.adds &= !fences;
                let may = !world.head.adds || self.is(Variant::StrayDespiteSession);
                if was_there && may && !has(world.head.slots, ADDED) {
                    world.file = None;
                }
            }
            // No HEAD will be of an epoch before this one's: it may come as late as it likes.
            Step::DeleteGrants(number) => {
                let is_later = number > world.head.epoch() && self.is(Variant::LaterGrantsRemoved);
                (number < world.head.epoch() || is_later).then_some(())?;
                world.grants[number] = None;
            }
        }
        let granted = world.grants.iter().flatten().filter(|grants| has(grants.slots, REMOVED));
        world.leaked |= granted.fold(0, |keys, grants| keys | grants.ring);
        if world.head != before.head {
            world.sent = None;
        }
        world.rotations.sort_unstable();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(OPENS, |protocol: &Self, world: &World| {
                let numbers = || (0..NUMBERS).filter(|number| world.head.epochs[*number] > 0);
                let mut slots = (0..SLOTS).filter(|slot| has(world.head.slots, *slot));
                slots.all(|slot| numbers().all(|number| protocol.opens(world, slot, number)))
            }),
            Property::always(SHUT_OUT, |_, world: &World| {
                let Some(removed) = world.removed else { return true };
                let later = world.head.epochs.iter().skip(removed + 1).filter(|key| **key > 0);
                later.fold(0, |keys, key| keys | 1 << key) & world.leaked == 0
            }),
            Property::sometimes("a number is left out", |_, world: &World| {
                world.head.epochs[2] == 0 && world.head.epoch() > 2
            }),
            Property::sometimes("old grants are removed", |_, world: &World| {
                world.head.epoch() == 3 && world.grants[1..3] == [None; 2]
            }),
            Property::sometimes(
                "a slot is added, another removed, keys rotated twice",
                |_, world: &World| {
                    world.head.slots == 0b101
                        && world.removed.is_some_and(|epoch| world.head.epoch() > epoch + 1)
                },
            ),
            Property::sometimes("a stray slot is removed", |_, world: &World| {
                world.adder == Adder::Over && !has(world.head.slots, ADDED) && world.file.is_none()
            }),
        ];
        if self.loses {
            let lost = |_: &Self, world: &World| world.was_lost;
            properties.push(Property::sometimes("a swap happened whose answer was lost", lost));
        }
        properties
    }
}

const OPENS: &str = "every slot of HEAD opens every epoch of HEAD";
const SHUT_OUT: &str = "a removed slot opens no later epoch";
const LARGE: Protocol = Protocol { variant: Variant::Rules, loses: false, most_keys: 4 };
const SMALL: Protocol = Protocol { loses: true, most_keys: 3, ..LARGE };

fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states} states");
    checker.assert_properties();
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_slot_opens_everything_and_a_removed_one_nothing_later() {
    holds(LARGE);
}

#[test]
fn a_rotation_whose_answer_is_lost_leaves_nothing_unreadable() {
    holds(SMALL);
}

#[test]
fn every_rule_of_rotation_is_needed() {
    for (variant, broken) in [
        (Variant::SwappedFirst, OPENS),
        (Variant::GrantsReplaced, OPENS),
        (Variant::EpochsNotCompared, OPENS),
        (Variant::SlotsNotCompared, OPENS),
        (Variant::SlotsNotCompared, SHUT_OUT),
        (Variant::EarlierKeysLeftOut, OPENS),
        (Variant::GrantsOfOtherEpochs, OPENS),
        (Variant::LaterGrantsRemoved, OPENS),
        (Variant::OwnGrantsRemoved, OPENS),
        (Variant::SlotOfEarlierEpoch, OPENS),
        (Variant::SlotOfFencedSession, OPENS),
        (Variant::StrayDespiteSession, OPENS),
    ] {
        let protocol = match variant {
            Variant::OwnGrantsRemoved => SMALL,
            _ => LARGE,
        };
        let checker = Protocol { variant, ..protocol }.checker().threads(2);
        let only = HasDiscoveries::AllOf([broken].into_iter().collect());
        let checker = checker.finish_when(only).spawn_bfs().join();
        let (states, found) = (checker.unique_state_count(), checker.discovery(broken));
        println!("{variant:?}: {states} states");
        assert!(found.is_some(), "{variant:?}: '{broken}' holds in {states} states");
    }
}
