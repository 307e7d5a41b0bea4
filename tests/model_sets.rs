//! The leaves of HEAD (docs/concurrency.md, "Leaves of HEAD") as a model, every interleaving of it within small bounds,
//! checked with Stateright. Each rule is left out in turn, and HEAD must then name a leaf that is gone.
//!
//! Two writers swap HEAD without a session: each reads HEAD, puts a leaf, sleeps, and swaps; a swap may merge leaves. A
//! remover lists leaves and reads HEAD, in either order. A request may take effect after its process gave it up, or never;
//! a deletion may come arbitrarily late. Any step may be the last of its process. An incarnation only makes the order of
//! ages lexicographic, so an age is a number here.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Leaves, by number.
type Set = u8;

const WRITERS: usize = 2;

/// What differs from the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Nothing.
    Rules,
    /// Safe: a process whose answer was lost, and that reads the very HEAD that it meant to replace, names the same leaf in
    /// its next swap. The age in the name is still that of the HEAD that may name the leaf first.
    SameLeafFromSameHead,
    /// The remover ignores ages: it lists, reads HEAD, and removes each leaf that this HEAD does not name.
    AgesIgnored,
    /// The same, but it reads HEAD first.
    AgesIgnoredHeadFirst,
    /// A leaf has the age of the HEAD that the writer read, not of the one that it prepares.
    AgeOfReplacedHead,
    /// The remover compares ages with a HEAD, and names with one that it read before.
    NamesOfEarlierHead,
    /// A leaf of a lost race is named by a later swap.
    LostLeafNamed,
    /// A process whose answer was lost takes its swap for done, and removes the leaf that it took out.
    OldRemovedInDoubt,
    /// A process whose answer was lost takes its swap for failed, and removes the leaf that it put.
    NewRemovedInDoubt,
    /// It reads HEAD before that, but does not look at its age: the request may still be under way.
    NewRemovedByEarlierHead,
    /// A swap replaces whatever HEAD is there.
    NoCompareAndSwap,
    /// HEAD is a chain, and a link counts as read although it may have been removed and created again: its content never
    /// was HEAD.
    LinkNotConfirmed,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    age: u8,
    named: Set,
    /// Of all swaps that led here; the nonce of a swap is the number of the leaf that it adds.
    nonces: Set,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
enum Writer {
    Idle,
    /// With the leaf of a lost race, for [`Variant::LostLeafNamed`].
    Read(Head, Option<u8>),
    Ready(Swap),
    /// The answer was lost, or was a conflict, which may be one with itself.
    Doubt(Swap),
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Swap {
    next: Head,
    old: Set,
    leaf: u8,
}

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
struct Remover {
    listed: Option<Set>,
    /// The last link of a chain when it was listed.
    link: Option<u8>,
    read: Option<Head>,
}

/// Each with whether a leaf was found gone.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Reader {
    Start(bool),
    Read(Head, bool),
    Loaded(bool),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct World {
    head: Head,
    /// Links of a chain that were removed, and that somebody who slept created again. All links but the last are removed at
    /// once here; the store keeps 64, which only makes the sleeps longer.
    late: Vec<Head>,
    /// The age in the name of each leaf.
    ages: Vec<u8>,
    stored: Set,
    /// What somebody has decided to delete, and may delete at any time.
    deleting: Set,
    /// Swaps that were sent, and may take effect at any time.
    sent: Vec<Head>,
    writers: [Writer; WRITERS],
    remover: Remover,
    reader: Reader,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Step {
    Load(usize),
    Put(usize, Set),
    Swap(usize),
    /// The answer will be lost.
    Send(usize),
    Arrive(usize),
    ReadBack(usize),
    List,
    ListLinks,
    ReadHead,
    Delete(u8),
    ReaderLoads,
}

fn leaves(set: Set) -> impl Iterator<Item = u8> {
    (0..8).filter(move |leaf| set & 1 << leaf != 0)
}

struct Protocol {
    variant: Variant,
    chain: bool,
    /// Whether there is a reader.
    reads: bool,
    /// Whether a deletion may come after any other steps.
    deletes_late: bool,
    /// How many leaves may ever be put, with the two at the beginning.
    most_leaves: usize,
}

impl Protocol {
    fn is(&self, variant: Variant) -> bool {
        self.variant == variant
    }

    /// Replaces HEAD if it is the one that `next` was made from. Says whether it did.
    fn swap(&self, world: &mut World, next: Head) -> bool {
        if next.age == world.head.age + 1 || self.is(Variant::NoCompareAndSwap) {
            world.head = next;
            return true;
        }
        if self.chain && next.age < world.head.age && world.late.iter().all(|link| link.age != next.age) {
            world.late.push(next);
            world.late.sort_unstable();
        }
        false
    }

    /// Removes leaves, or decides to. What HEAD names, and where it goes from there, does not depend on what exists, so
    /// that a late deletion is unsafe only if one at once is: the larger runs delete at once.
    fn remove(&self, world: &mut World, leaves: Set) {
        if self.deletes_late {
            world.deleting |= leaves & world.stored;
        } else {
            world.stored &= !leaves;
        }
    }

    /// What a process does that has read HEAD because its answer was lost.
    fn read_back(&self, world: &mut World, swap: Swap) -> Writer {
        let Swap { next, old, leaf } = swap;
        if world.head.nonces & 1 << leaf != 0 {
            self.remove(world, old);
        } else if world.head.age >= next.age {
            if self.is(Variant::LostLeafNamed) {
                return Writer::Read(world.head, Some(leaf));
            }
            self.remove(world, 1 << leaf);
        } else if self.is(Variant::SameLeafFromSameHead) {
            return Writer::Ready(swap);
        } else if self.is(Variant::NewRemovedByEarlierHead) {
            self.remove(world, 1 << leaf);
        }
        Writer::Idle
    }

    /// Once it has listed and read HEAD, the remover removes the leaves whose age this HEAD has reached, and that it does
    /// not name. It does not matter how old that HEAD is, nor whether it was read before the listing: a leaf of a later age
    /// stays, and one of its age or an earlier one would be named there if it could ever be named again.
    fn compare(&self, world: &mut World) {
        let Remover { listed: Some(listed), read: Some(read), .. } = world.remover else { return };
        world.remover = Remover::default();
        let reached = if self.is(Variant::NamesOfEarlierHead) { world.head.age } else { read.age };
        let ignores = self.is(Variant::AgesIgnored) || self.is(Variant::AgesIgnoredHeadFirst);
        let past = |leaf: &u8| ignores || world.ages[usize::from(*leaf)] <= reached;
        let past = leaves(listed & !read.named).filter(past).map(|leaf| 1 << leaf).sum();
        self.remove(world, past);
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            head: Head { age: 1, named: 0b11, nonces: 0b11 },
            late: vec![],
            ages: vec![1, 1],
            stored: 0b11,
            deleting: 0,
            sent: vec![],
            writers: [Writer::Idle; WRITERS],
            remover: Remover::default(),
            reader: Reader::Start(false),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        for writer in 0..WRITERS {
            match world.writers[writer] {
                Writer::Idle => actions.push(Step::Load(writer)),
                Writer::Read(head, _) => {
                    let mut named = leaves(head.named).map(|leaf| 1 << leaf);
                    let one = named.next().unwrap_or(0);
                    let two = one | named.next().unwrap_or(0);
                    actions.extend([0, one, two].map(|old| Step::Put(writer, old)));
                }
                Writer::Ready(_) => actions.extend([Step::Swap(writer), Step::Send(writer)]),
                Writer::Doubt(_) => actions.push(Step::ReadBack(writer)),
            }
        }
        actions.extend((0..world.sent.len()).map(Step::Arrive));
        actions.extend(leaves(world.deleting).map(Step::Delete));
        actions.extend([Step::List, Step::ListLinks, Step::ReadHead]);
        if self.reads {
            actions.push(Step::ReaderLoads);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Load(writer) => {
                world.writers[writer] = Writer::Read(world.head, None);
            }
            Step::Put(writer, old) => {
                let Writer::Read(head, spare) = world.writers[writer] else { return None };
                let leaf = spare.unwrap_or(world.ages.len() as u8);
                if spare.is_none() {
                    (world.ages.len() < self.most_leaves).then_some(())?;
                    world.ages.push(head.age + u8::from(!self.is(Variant::AgeOfReplacedHead)));
                    world.stored |= 1 << leaf;
                }
                let named = head.named & !old | 1 << leaf;
                let next = Head { age: head.age + 1, named, nonces: head.nonces | 1 << leaf };
                world.writers[writer] = Writer::Ready(Swap { next, old, leaf });
            }
            Step::Swap(writer) => {
                let Writer::Ready(swap) = world.writers[writer] else { return None };
                world.writers[writer] = if self.swap(&mut world, swap.next) {
                    self.remove(&mut world, swap.old);
                    Writer::Idle
                } else {
                    Writer::Doubt(swap)
                };
            }
            Step::Send(writer) => {
                let Writer::Ready(swap) = world.writers[writer] else { return None };
                world.writers[writer] = Writer::Doubt(swap);
                if !world.sent.contains(&swap.next) {
                    world.sent.push(swap.next);
                    world.sent.sort_unstable();
                }
                match self.variant {
                    Variant::OldRemovedInDoubt => self.remove(&mut world, swap.old),
                    Variant::NewRemovedInDoubt => self.remove(&mut world, 1 << swap.leaf),
                    _ => {}
                }
            }
            Step::Arrive(place) => {
                let next = world.sent.remove(place);
                self.swap(&mut world, next);
            }
            Step::ReadBack(writer) => {
                let Writer::Doubt(swap) = world.writers[writer] else { return None };
                world.writers[writer] = self.read_back(&mut world, swap);
            }
            Step::List => {
                let is_early = self.is(Variant::AgesIgnoredHeadFirst) && world.remover.read.is_none();
                (world.remover.listed.is_none() && !is_early).then_some(())?;
                world.remover.listed = Some(world.stored);
            }
            Step::ListLinks => {
                (self.chain && world.remover.link.is_none() && world.remover.read.is_none()).then_some(())?;
                world.remover.link = Some(world.head.age);
            }
            Step::ReadHead => {
                let is_early = self.is(Variant::AgesIgnored) && world.remover.listed.is_none();
                (world.remover.read.is_none() && !is_early).then_some(())?;
                let link = if self.chain { world.remover.link.take()? } else { world.head.age };
                // If it is not the last any more when the links are listed again, the remover begins again.
                let late = world.late.iter().find(|late| late.age == link).copied();
                let unconfirmed = late.filter(|_| self.is(Variant::LinkNotConfirmed));
                world.remover.read = if link == world.head.age { Some(world.head) } else { unconfirmed };
            }
            Step::Delete(leaf) => {
                world.deleting &= !(1 << leaf);
                world.stored &= !(1 << leaf);
            }
            Step::ReaderLoads => {
                world.reader = match world.reader {
                    Reader::Start(again) => Reader::Read(world.head, again),
                    Reader::Read(head, _) if head.named & !world.stored != 0 => Reader::Start(true),
                    Reader::Read(_, again) => Reader::Loaded(again),
                    Reader::Loaded(_) => return None,
                };
            }
        }
        self.compare(&mut world);
        // Equal worlds look alike: writers have no names, and requests that can change nothing any more are dropped.
        world.writers.sort_unstable();
        let (now, late) = (world.head.age, &world.late);
        let is_new = |next: &Head| self.chain && late.iter().all(|link| link.age != next.age);
        world.sent.retain(|next| next.age > now || is_new(next) || self.is(Variant::NoCompareAndSwap));
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(EXISTS, |_, world: &World| world.head.named & !world.stored == 0),
            Property::sometimes("a leaf of a lost race is removed", |_, world: &World| {
                !(world.stored | world.head.nonces) & ((1 << world.ages.len()) - 1) != 0
            }),
            Property::sometimes("a leaf that was swapped out is removed", |_, world: &World| {
                world.head.nonces & !world.head.named & !world.stored != 0
            }),
            Property::sometimes("leaves are merged", |_, world: &World| world.head.named.count_ones() == 1),
            Property::sometimes("a swap happened whose answer was lost", |_, world: &World| {
                let happened = |swap: &Swap| world.head.nonces & 1 << swap.leaf != 0;
                world.writers.iter().any(|writer| matches!(writer, Writer::Doubt(swap) if happened(swap)))
            }),
        ];
        if self.reads {
            let at_once = |_: &Self, world: &World| world.reader == Reader::Loaded(false);
            let again = |_: &Self, world: &World| world.reader == Reader::Loaded(true);
            properties.push(Property::sometimes("a reader loads", at_once));
            properties.push(Property::sometimes("a reader finds a leaf gone, and loads", again));
        }
        if self.chain {
            let late = |_: &Self, world: &World| !world.late.is_empty();
            properties.push(Property::sometimes("a link is created again", late));
        }
        properties
    }
}

const EXISTS: &str = "what HEAD names exists";
const SMALL: Protocol =
    Protocol { variant: Variant::Rules, chain: false, reads: false, deletes_late: true, most_leaves: 4 };
const LARGE: Protocol = Protocol { deletes_late: false, most_leaves: 5, ..SMALL };

fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 10_000, "{states} states");
}

#[test]
fn head_names_no_leaf_that_is_gone() {
    holds(LARGE);
    holds(SMALL);
    holds(Protocol { deletes_late: false, reads: true, ..SMALL });
    holds(Protocol { variant: Variant::SameLeafFromSameHead, ..SMALL });
}

#[test]
fn the_last_link_of_a_chain_names_no_leaf_that_is_gone() {
    holds(Protocol { chain: true, ..LARGE });
}

#[test]
fn every_rule_of_leaves_is_needed() {
    for variant in [
        Variant::AgesIgnored,
        Variant::AgesIgnoredHeadFirst,
        Variant::AgeOfReplacedHead,
        Variant::NamesOfEarlierHead,
        Variant::LostLeafNamed,
        Variant::OldRemovedInDoubt,
        Variant::NewRemovedInDoubt,
        Variant::NewRemovedByEarlierHead,
        Variant::NoCompareAndSwap,
        Variant::LinkNotConfirmed,
    ] {
        let chain = variant == Variant::LinkNotConfirmed;
        let checker = Protocol { variant, chain, ..LARGE }.checker().threads(2);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let (states, lost) = (checker.unique_state_count(), checker.discovery(EXISTS));
        assert!(lost.is_some(), "without this rule no leaf is lost within {states} states: {variant:?}");
    }
}
