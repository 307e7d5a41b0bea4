//! The protocol of docs/concurrency.md as a model, every interleaving of it within small bounds, checked
//! with Stateright; and each of its rules left out, which must be found to lose data.
//!
//! Two writers, two pruners, two chunks. A pack holds one chunk, full or as a delta of the other. Any step
//! may be the last of its actor; a session may be fenced at any time; a deletion may come arbitrarily late.

use stateright::{Checker, Model, Property};

type Set = u16;

const PACKS: usize = 6;
const CHUNKS: [u8; 2] = [0, 1];

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    None,
    /// A commit does not look whether what it relies on is still live.
    NoDependencyCheck,
    /// A commit replaces whatever HEAD is there by what it read when it opened.
    CommitWithoutSwap,
    /// A doom applies to whatever snapshots were added since they were marked.
    DoomWithoutMark,
    /// A doom does not look whether the packs that the survey counted on are still live.
    DoomAfterStaleSurvey,
    /// A fenced session may commit.
    FenceNotChecked,
    /// A new pack may have the name of one that was deleted.
    NamesReused,
    /// What was unneeded a while ago is deleted, without asking HEAD again.
    GraceOnly,
    /// Orphans are deleted without another look at HEAD after the fence.
    SweepWithoutLook,
    /// Any location of a chunk counts, whatever it stands on.
    AnyLocationCounts,
}

/// One chunk in a pack.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Pack {
    chunk: u8,
    /// Stored against the other chunk, at this depth.
    depth: u8,
    /// Whose session it belongs to.
    writer: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Writer {
    Idle,
    Opened { view: Set, head: Head },
    Wrote { need: Set, relied: Set, new: Set, head: Head },
    Done,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
enum Pruner {
    Idle,
    Surveyed { live: Set, remove: Set, marked: Set, fresh: Set },
    Condemned { live: Set, remove: Set, marked: Set },
}

/// The part of HEAD that a commit replaces.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Head {
    /// Bit n: a snapshot that needs the chunks in n + 1.
    roots: Set,
    live: Set,
    condemned: Set,
    doomed: Set,
    /// Writers whose session is open.
    open: Set,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct World {
    packs: Vec<Pack>,
    stored: Set,
    head: Head,
    writers: [Writer; 2],
    pruners: [Pruner; 2],
    /// Surveys that each may still make.
    rounds: [u8; 2],
    /// Packs that each has seen doomed, and may delete at any time.
    doomed_seen: [Set; 2],
    /// Packs that each takes for orphans, once these writers are fenced.
    orphans: [(Set, Set); 2],
    forgotten: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Step {
    Open(usize),
    Write(usize, Set, bool),
    Commit(usize),
    Forget(u8),
    Survey(usize, bool),
    Condemn(usize),
    Doom(usize),
    /// It dies, and is started again later.
    Abandon(usize),
    /// Reads in HEAD what is doomed.
    Look(usize),
    Delete(usize, usize),
    Reap(usize),
    List(usize),
    Fence(usize),
    Sweep(usize, usize),
}

fn bits(set: Set) -> impl Iterator<Item = usize> {
    (0..PACKS).filter(move |bit| set & 1 << bit != 0)
}

struct Protocol {
    mutation: Mutation,
    rounds: u8,
}

impl Protocol {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == mutation
    }

    /// The location of least depth of a chunk in `among` that counts, with all that it stands on. Packs
    /// outside `rather` come last.
    fn ground(&self, packs: &[Pack], among: Set, rather: Set, chunk: u8) -> Option<Set> {
        let mut places: Vec<usize> = bits(among).filter(|pack| packs[*pack].chunk == chunk).collect();
        places.sort_by_key(|pack| (rather & 1 << pack == 0, packs[*pack].depth, *pack));
        if self.is(Mutation::AnyLocationCounts) {
            // As if a base with any location were a base that can be read, wherever that one stands.
            let place = *places.first()?;
            let mut below: Vec<usize> = bits(among).filter(|pack| packs[*pack].chunk != chunk).collect();
            below.sort_by_key(|pack| (rather & 1 << pack == 0, *pack));
            let below = below.first().filter(|_| packs[place].depth > 0).map_or(0, |pack| 1 << pack);
            return Some(1 << place | below);
        }
        places.into_iter().find_map(|place| {
            let Pack { depth, .. } = packs[place];
            if depth == 0 {
                return Some(1 << place);
            }
            let lower: Set =
                bits(among).filter(|pack| packs[*pack].depth < depth).map(|pack| 1 << pack).sum();
            Some(1 << place | self.ground(packs, lower, rather, 1 - chunk)?)
        })
    }

    fn needs(roots: Set) -> Set {
        (0..3).filter(|root| roots & 1 << root != 0).fold(0, |all, root| all | (root + 1))
    }

    /// What becomes of a plan when snapshots were added since: what they need stays.
    fn remark(&self, world: &World, marked: Set, remove: Set) -> (Set, Set) {
        let needs = Self::needs(world.head.roots);
        let mut remove = remove;
        for chunk in CHUNKS.into_iter().filter(|chunk| (needs & !marked) & 1 << chunk != 0) {
            if let Some(grounded) = self.ground(&world.packs, world.head.live, Set::MAX, chunk) {
                remove &= !grounded;
            }
        }
        (needs | marked, remove)
    }

    fn new_pack(world: &mut World, pack: Pack, reuse: bool) -> Option<usize> {
        let free = (0..world.packs.len()).find(|old| {
            let gone = Set::MAX ^ (world.stored | world.head.live | world.head.doomed | world.head.condemned);
            let same = world.packs[*old].chunk == pack.chunk && world.packs[*old].depth == pack.depth;
            reuse && gone & 1 << old != 0 && same
        });
        let place = match free {
            Some(place) => {
                world.packs[place] = pack;
                place
            }
            None if world.packs.len() < PACKS => {
                world.packs.push(pack);
                world.packs.len() - 1
            }
            None => return None,
        };
        world.stored |= 1 << place;
        Some(place)
    }

    fn at_work(world: &World) -> Set {
        let open = |pack: &usize| world.head.open & 1 << world.packs[*pack].writer != 0;
        (0..world.packs.len()).filter(open).map(|pack| 1 << pack).sum()
    }
}

/// Nobody's session: packs that were there before, and those of prunes.
const NOBODY: u8 = 9;

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let full = |chunk| Pack { chunk, depth: 0, writer: NOBODY };
        let head = Head { roots: 0b100, live: 0b11, condemned: 0, doomed: 0, open: 0 };
        let world = World {
            packs: vec![full(0), Pack { chunk: 1, depth: 1, writer: NOBODY }],
            stored: 0b11,
            head,
            writers: [Writer::Idle; 2],
            pruners: [Pruner::Idle; 2],
            rounds: [self.rounds; 2],
            doomed_seen: [0; 2],
            orphans: [(0, 0); 2],
            forgotten: false,
        };
        // Once where each chunk stands on its own.
        let alone = World { packs: vec![full(0), full(1)], ..world.clone() };
        // Farther along, since reaching these takes more steps than the bounds allow: a chunk was stored
        // twice, one prune surveyed that, then another condemned the first copy and died.
        let surveyed = Pruner::Surveyed { live: 0b11, remove: 0b10, marked: 1, fresh: 0 };
        let twice = World {
            packs: vec![full(0), full(0)],
            head: Head { roots: 0b001, condemned: 0b01, ..head },
            pruners: [Pruner::Idle, surveyed],
            ..world.clone()
        };
        // And where both prunes have seen a pack doomed that neither has deleted yet.
        let doomed = World {
            packs: vec![full(0), full(1)],
            head: Head { roots: 0b010, live: 0b10, doomed: 0b01, ..head },
            doomed_seen: [0b01; 2],
            ..world.clone()
        };
        // And where a base that nobody needs is condemned, while the pack of what stands on it stays.
        let below = World { head: Head { roots: 0, condemned: 0b01, ..head }, ..world.clone() };
        vec![alone, twice, doomed, below, world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        for writer in 0..2 {
            match world.writers[writer] {
                Writer::Idle => actions.push(Step::Open(writer)),
                Writer::Opened { .. } => {
                    for need in [1, 2, 3] {
                        actions.extend([false, true].map(|delta| Step::Write(writer, need, delta)));
                    }
                }
                Writer::Wrote { .. } => actions.push(Step::Commit(writer)),
                Writer::Done => {}
            }
            if world.head.open & 1 << writer != 0 {
                actions.push(Step::Fence(writer));
            }
        }
        actions.extend(
            (0..3).filter(|root| !world.forgotten && world.head.roots & 1 << root != 0).map(Step::Forget),
        );
        for pruner in 0..2 {
            match world.pruners[pruner] {
                Pruner::Idle if world.rounds[pruner] > 0 => {
                    actions.extend([false, true].map(|repack| Step::Survey(pruner, repack)));
                }
                Pruner::Idle => {}
                Pruner::Surveyed { .. } => actions.push(Step::Condemn(pruner)),
                Pruner::Condemned { .. } => actions.extend([Step::Doom(pruner), Step::Abandon(pruner)]),
            }
            actions.extend(bits(world.doomed_seen[pruner]).map(|pack| Step::Delete(pruner, pack)));
            actions.extend([Step::Look(pruner), Step::Reap(pruner)]);
            if world.orphans[pruner].0 == 0 {
                actions.push(Step::List(pruner));
            }
            actions.extend(bits(world.orphans[pruner].0).map(|pack| Step::Sweep(pruner, pack)));
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Open(writer) => {
                world.head.open |= 1 << writer;
                let view = world.head.live & !world.head.condemned & !world.head.doomed;
                world.writers[writer] = Writer::Opened { view, head: world.head };
            }
            Step::Write(writer, need, delta) => {
                let Writer::Opened { view, head } = world.writers[writer] else { return None };
                let (mut relied, mut new) = (0, 0);
                for chunk in CHUNKS.into_iter().filter(|chunk| need & 1 << chunk != 0) {
                    if let Some(grounded) = self.ground(&world.packs, view, Set::MAX, chunk) {
                        relied |= grounded;
                        continue;
                    }
                    // Against the other chunk, if that is to be had.
                    let base = self.ground(&world.packs, view | new, Set::MAX, 1 - chunk).filter(|_| delta);
                    let depth = match base {
                        Some(base) => {
                            relied |= base & !new;
                            1 + bits(base).map(|pack| world.packs[pack].depth).max().unwrap_or(0)
                        }
                        None => 0,
                    };
                    let pack = Pack { chunk, depth, writer: writer as u8 };
                    new |= 1 << Self::new_pack(&mut world, pack, self.is(Mutation::NamesReused))?;
                }
                world.writers[writer] = Writer::Wrote { need, relied, new, head };
            }
            Step::Commit(writer) => {
                let Writer::Wrote { need, relied, new, head } = world.writers[writer] else { return None };
                world.writers[writer] = Writer::Done;
                if self.is(Mutation::CommitWithoutSwap) {
                    world.head = Head { open: world.head.open, ..head };
                }
                let fenced = world.head.open & 1 << writer == 0;
                let gone = relied & !(world.head.live & !world.head.doomed) != 0;
                if fenced && !self.is(Mutation::FenceNotChecked)
                    || gone && !self.is(Mutation::NoDependencyCheck)
                {
                    return Some(world);
                }
                world.head.open &= !(1 << writer);
                world.head.roots |= 1 << (need - 1);
                world.head.live |= new;
                world.head.condemned &= !relied;
            }
            Step::Forget(root) => {
                world.head.roots &= !(1 << root);
                world.forgotten = true;
            }
            Step::Survey(pruner, repack) => {
                let head = world.head;
                let live = head.live & !head.doomed;
                let marked = Self::needs(head.roots);
                let (mut keep, mut fresh) = (0, 0);
                for chunk in CHUNKS.into_iter().filter(|chunk| marked & 1 << chunk != 0) {
                    let grounded = self.ground(&world.packs, live, !head.condemned, chunk)?;
                    if repack && fresh == 0 {
                        // Stored anew, on its own.
                        let pack = Pack { chunk, depth: 0, writer: NOBODY };
                        fresh = 1 << Self::new_pack(&mut world, pack, false)?;
                        keep |= fresh;
                    } else {
                        keep |= grounded;
                    }
                }
                if repack && fresh == 0 {
                    return None;
                }
                world.rounds[pruner] -= 1;
                let remove = live & !keep & !Self::at_work(&world);
                if self.is(Mutation::GraceOnly) {
                    world.doomed_seen[pruner] |= remove;
                    world.head.live |= fresh;
                    return Some(world);
                }
                world.pruners[pruner] = Pruner::Surveyed { live, remove, marked, fresh };
            }
            Step::Condemn(pruner) => {
                let Pruner::Surveyed { live, remove, marked, fresh } = world.pruners[pruner] else {
                    return None;
                };
                if live & !world.head.live != 0 && !self.is(Mutation::DoomAfterStaleSurvey) {
                    world.pruners[pruner] = Pruner::Idle;
                    return Some(world);
                }
                let (marked, remove) = self.remark(&world, marked, remove);
                world.head.live |= fresh;
                world.head.condemned = remove & world.head.live;
                world.pruners[pruner] = Pruner::Condemned { live, remove, marked };
            }
            Step::Doom(pruner) => {
                let Pruner::Condemned { live, remove, marked } = world.pruners[pruner] else { return None };
                world.pruners[pruner] = Pruner::Idle;
                if live & !world.head.live != 0 && !self.is(Mutation::DoomAfterStaleSurvey) {
                    return Some(world);
                }
                let (_, remove) = if self.is(Mutation::DoomWithoutMark) {
                    (0, remove)
                } else {
                    self.remark(&world, marked, remove)
                };
                // That dooming waits for sessions which may build on what it takes is a courtesy: not here.
                let mut ready = remove & world.head.condemned;
                if self.is(Mutation::DoomWithoutMark) {
                    ready = remove & world.head.live;
                }
                world.head.live &= !ready;
                world.head.condemned &= !ready;
                world.head.doomed |= ready;
                world.doomed_seen[pruner] |= world.head.doomed;
            }
            Step::Abandon(pruner) => world.pruners[pruner] = Pruner::Idle,
            Step::Look(pruner) => world.doomed_seen[pruner] |= world.head.doomed,
            Step::Delete(pruner, pack) => {
                world.doomed_seen[pruner] &= !(1 << pack);
                world.stored &= !(1 << pack);
            }
            Step::Reap(pruner) => {
                // A zombie may still hold the name: `doomed_seen` stays.
                let _ = pruner;
                world.head.doomed &= world.stored;
            }
            Step::List(pruner) => {
                let all: Set = world.stored;
                let named = world.head.live | world.head.doomed;
                let written = bits(all & !named).filter(|pack| world.packs[*pack].writer != NOBODY);
                let orphans: Set = written.map(|pack| 1 << pack).sum();
                let fence = bits(orphans).fold(0, |fence, pack| fence | 1 << world.packs[pack].writer);
                world.orphans[pruner] = (orphans, fence);
            }
            Step::Fence(writer) => world.head.open &= !(1 << writer),
            Step::Sweep(pruner, pack) => {
                let (orphans, fence) = world.orphans[pruner];
                if world.head.open & fence != 0 {
                    return None;
                }
                world.orphans[pruner].0 = orphans & !(1 << pack);
                if world.head.live & 1 << pack == 0 || self.is(Mutation::SweepWithoutLook) {
                    world.stored &= !(1 << pack);
                }
            }
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every snapshot restores", |_: &Self, world: &World| {
                let sound = Self { mutation: Mutation::None, rounds: 0 };
                let there = world.head.live & !world.head.doomed & world.stored;
                let needs = Self::needs(world.head.roots);
                CHUNKS
                    .into_iter()
                    .filter(|chunk| needs & 1 << chunk != 0)
                    .all(|chunk| sound.ground(&world.packs, there, Set::MAX, chunk).is_some())
            }),
            Property::sometimes("a pack is reaped", |_: &Self, world: &World| {
                world.head.doomed == 0 && world.stored.count_ones() < world.packs.len() as u32
            }),
            Property::sometimes("a delta stands on a pack of a prune", |_: &Self, world: &World| {
                bits(world.head.live)
                    .any(|pack| world.packs[pack].depth == 1 && world.packs[pack].writer != NOBODY)
            }),
            Property::sometimes("a fenced writer is refused", |_: &Self, world: &World| {
                world.writers.iter().any(|writer| matches!(writer, Writer::Wrote { .. }))
                    && world.head.open == 0
            }),
        ]
    }
}

/// States that are looked at before nothing is taken to be found.
const MOST_STATES: usize = 6_000_000;

fn check(mutation: Mutation, rounds: u8) -> (usize, Option<usize>) {
    let checker =
        Protocol { mutation, rounds }.checker().threads(2).target_state_count(MOST_STATES).spawn_bfs().join();
    if mutation == Mutation::None {
        checker.assert_properties();
    }
    let lost = checker.discovery("every snapshot restores");
    (checker.unique_state_count(), lost.map(|path| path.into_states().len()))
}

#[test]
fn the_protocol_loses_nothing() {
    let (states, lost) = check(Mutation::None, 1);
    println!("{states} states");
    assert_eq!(lost, None);
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_rule_is_needed() {
    for mutation in [
        Mutation::NoDependencyCheck,
        Mutation::CommitWithoutSwap,
        Mutation::DoomWithoutMark,
        Mutation::DoomAfterStaleSurvey,
        Mutation::FenceNotChecked,
        Mutation::NamesReused,
        Mutation::GraceOnly,
        Mutation::SweepWithoutLook,
        Mutation::AnyLocationCounts,
    ] {
        let (states, lost) = check(mutation, 1);
        println!("{mutation:?}: {lost:?} steps, {states} states");
        assert!(lost.is_some(), "without this rule nothing is lost within {states} states: {mutation:?}");
    }
}
