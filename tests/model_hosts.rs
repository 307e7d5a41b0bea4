//! The admission of what write-only hosts bring (docs/concurrency.md, "Hosts that may only write") as a model, every
//! interleaving of it within small bounds, checked with Stateright. Each rule is left out in turn, and something must then
//! go wrong.
//!
//! A host makes two runs; the second builds on a chunk of the first. Two admitters list, read, prove, swap, answer and
//! clear; each may die at any step. A listing may leave a run out. Somebody forgets and prunes what the first run brought.
//! A thief, or a bad store, puts removed commits back, or removes one.

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Runs, as bits: 1 and 2.
type Set = u8;

const ADMITTERS: usize = 2;
/// So often a commit is put back.
const REPLAYS: u8 = 2;

fn bit(run: u8) -> Set {
    1 << (run - 1)
}

/// The rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Rules,
    /// Number and predecessor are compared with HEAD as it was read, not in the swap.
    NotComparedInSwap,
    /// The number is not compared.
    NumberIgnored,
    /// The predecessor is not compared.
    PredecessorIgnored,
    /// A run is cleared before it is answered.
    ClearedFirst,
    /// A run is answered before the swap that admits it.
    AnsweredFirst,
    /// Whether the chunk is there is found out before the swap only.
    ChunkNotInSwap,
    /// A commit that a listing left out counts as missing.
    NotAskedByName,
    /// The next run is settled although the last one may not be answered.
    LastNotAnswered,
}

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    /// The run that was settled last, which is also the hash of its commit.
    run: u8,
    /// Whether it was admitted.
    admitted: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
enum Admitter {
    Idle,
    Listed(Head, Set),
    /// To be admitted, after this HEAD.
    Proved(Head, u8),
    /// To be refused; because of a gap, or of the chunk.
    Refused(Head, u8, bool),
    /// In HEAD, with its verdict.
    Settled(u8, bool),
    Answered(u8),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct World {
    head: Head,
    /// Snapshots in HEAD.
    snapshots: Set,
    /// Whether the chunk of the first run has a location.
    chunk: bool,
    /// Commits in the inbox.
    commits: Set,
    /// Answers: admitted, refused.
    told: [Set; 2],
    /// Runs that the host made.
    made: u8,
    removed: Set,
    replays: u8,
    admitters: [Admitter; ADMITTERS],
    /// What ever was.
    admitted: Set,
    settled: Set,
    twice: bool,
    false_gap: bool,
    gap: bool,
    chunk_missing: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Step {
    HostRuns,
    /// Forget and prune what the first run brought.
    Prune,
    Remove(u8),
    Replay(u8),
    /// The listing leaves out these.
    List(usize, Set),
    Go(usize),
    Dies(usize),
}

struct Protocol(Variant);

impl Protocol {
    fn is(&self, variant: Variant) -> bool {
        self.0 == variant
    }

    /// Looks at the lowest run that was listed.
    fn look(&self, world: &mut World, head: Head, listed: Set) -> Admitter {
        let Some(run) = (1..=2).find(|run| listed & bit(*run) != 0) else { return Admitter::Idle };
        let rest = Admitter::Listed(head, listed & !bit(run));
        let is_there = world.commits & bit(run) != 0;
        if run <= head.run && !self.is(Variant::NumberIgnored) {
            // Over: answered as HEAD says, if nobody did, and cleared.
            if is_there {
                self.answer_late(world, head, run);
                self.clear(world, run);
            }
            return rest;
        }
        if !is_there {
            return rest;
        }
        if head.run > 0 && !self.is(Variant::LastNotAnswered) {
            self.answer_late(world, head, head.run);
        }
        let before = run - 1;
        if before != head.run && !self.is(Variant::PredecessorIgnored) {
            let between = (head.run + 1..run).any(|run| world.commits & bit(run) != 0);
            if between && !self.is(Variant::NotAskedByName) {
                return Admitter::Idle;
            }
            return Admitter::Refused(head, run, true);
        }
        if run == 2 && !world.chunk {
            return Admitter::Refused(head, run, false);
        }
        if self.is(Variant::AnsweredFirst) {
            self.tell(world, run, true);
        }
        Admitter::Proved(head, run)
    }

    /// An answer that is there stays.
    fn tell(&self, world: &mut World, run: u8, admitted: bool) {
        if (world.told[0] | world.told[1]) & bit(run) == 0 {
            world.told[usize::from(!admitted)] |= bit(run);
        }
    }

    fn answer_late(&self, world: &mut World, head: Head, run: u8) {
        self.tell(world, run, run == head.run && head.admitted);
    }

    fn clear(&self, world: &mut World, run: u8) {
        world.commits &= !bit(run);
    }

    /// Whether HEAD lets a run be settled after the one that was read.
    fn may_settle(&self, world: &World, read: Head, run: u8) -> bool {
        self.is(Variant::NotComparedInSwap)
            || (world.head.run < run || self.is(Variant::NumberIgnored))
                && (world.head.run == read.run || self.is(Variant::PredecessorIgnored))
    }

    fn go(&self, world: &mut World, admitter: Admitter) -> Admitter {
        match admitter {
            Admitter::Idle => Admitter::Idle,
            Admitter::Listed(head, listed) => self.look(world, head, listed),
            Admitter::Proved(read, run) => {
                let has_chunk = run == 1 || world.chunk || self.is(Variant::ChunkNotInSwap);
                if !self.may_settle(world, read, run) || !has_chunk {
                    return Admitter::Idle;
                }
                world.twice |= world.admitted & bit(run) != 0;
                world.head = Head { run, admitted: true };
                world.admitted |= bit(run);
                world.settled |= bit(run);
                world.snapshots |= bit(run);
                world.chunk |= run == 1;
                Admitter::Settled(run, true)
            }
            Admitter::Refused(read, run, is_gap) => {
                if !self.may_settle(world, read, run) {
                    return Admitter::Idle;
                }
                world.head = Head { run, admitted: false };
                world.settled |= bit(run);
                world.gap |= is_gap;
                world.chunk_missing |= !is_gap;
                world.false_gap |= is_gap && world.removed == 0 && world.replays == 0;
                Admitter::Settled(run, false)
            }
            Admitter::Settled(run, admitted) => {
                if self.is(Variant::ClearedFirst) {
                    self.clear(world, run);
                    return Admitter::Answered(run);
                }
                self.tell(world, run, admitted);
                Admitter::Answered(run)
            }
            Admitter::Answered(run) => {
                match self.is(Variant::ClearedFirst) {
                    true => self.tell(world, run, world.admitted & bit(run) != 0),
                    false => self.clear(world, run),
                }
                Admitter::Idle
            }
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            head: Head::default(),
            snapshots: 0,
            chunk: false,
            commits: 0,
            told: [0; 2],
            made: 0,
            removed: 0,
            replays: 0,
            admitters: [Admitter::Idle; ADMITTERS],
            admitted: 0,
            settled: 0,
            twice: false,
            false_gap: false,
            gap: false,
            chunk_missing: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        if world.made < 2 {
            actions.push(Step::HostRuns);
        }
        actions.push(Step::Prune);
        for run in 1..=world.made {
            match world.commits & bit(run) != 0 {
                true if world.removed == 0 => actions.push(Step::Remove(run)),
                false if world.replays < REPLAYS => actions.push(Step::Replay(run)),
                _ => {}
            }
        }
        for (place, admitter) in world.admitters.iter().enumerate() {
            match admitter {
                Admitter::Idle => actions.extend([0, 1, 2].map(|hidden| Step::List(place, hidden))),
                _ => actions.extend([Step::Go(place), Step::Dies(place)]),
            }
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::HostRuns => {
                world.made += 1;
                world.commits |= bit(world.made);
            }
            Step::Prune => {
                world.snapshots &= !bit(1);
                // A prune takes nothing that a snapshot of the HEAD that it replaces needs.
                world.chunk &= world.snapshots & bit(2) != 0;
            }
            Step::Remove(run) => {
                world.commits &= !bit(run);
                world.removed |= bit(run);
            }
            Step::Replay(run) => {
                world.commits |= bit(run);
                world.replays += 1;
            }
            Step::List(place, hidden) => {
                world.admitters[place] = Admitter::Listed(world.head, world.commits & !hidden);
            }
            Step::Go(place) => {
                world.admitters[place] = self.go(&mut world, before.admitters[place]);
            }
            Step::Dies(place) => world.admitters[place] = Admitter::Idle,
        }
        world.admitters.sort_unstable();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a run is admitted once", |_, world: &World| !world.twice),
            Property::always("who is told so is in", |_, world: &World| world.told[0] & !world.admitted == 0),
            Property::always("who is in is not told otherwise", |_, world: &World| {
                world.told[1] & world.admitted == 0
            }),
            Property::always("what is gone is answered", |_, world: &World| {
                let made = (1 << world.made) - 1;
                made & !world.commits & !world.removed & !(world.told[0] | world.told[1]) == 0
            }),
            Property::always("the second follows the first", |_, world: &World| {
                world.admitted & bit(2) == 0 || world.settled & bit(1) != 0
            }),
            Property::always("a snapshot has its chunks", |_, world: &World| {
                world.snapshots & bit(2) == 0 || world.chunk
            }),
            Property::always("what was not removed is not missing", |_, world: &World| !world.false_gap),
            Property::sometimes("both are admitted", |_, world: &World| world.admitted == 0b11),
            Property::sometimes("a gap is found", |_, world: &World| world.gap),
            Property::sometimes("a chunk is missing", |_, world: &World| world.chunk_missing),
            Property::sometimes("a replayed commit is cleared", |_, world: &World| {
                world.replays > 0 && world.commits == 0 && world.admitted == 0b11
            }),
        ]
    }
}

#[test]
fn a_run_of_a_host_counts_once_and_is_answered() {
    let checker = Protocol(Variant::Rules).checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_rule_of_admission_is_needed() {
    for variant in [
        Variant::NotComparedInSwap,
        Variant::NumberIgnored,
        Variant::PredecessorIgnored,
        Variant::ClearedFirst,
        Variant::AnsweredFirst,
        Variant::ChunkNotInSwap,
        Variant::NotAskedByName,
        Variant::LastNotAnswered,
    ] {
        let checker = Protocol(variant).checker().threads(2);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let (states, found) = (checker.unique_state_count(), checker.discoveries());
        let names: Vec<_> = found.keys().copied().collect();
        let is_failure = |name: &&str| {
            !["both", "a gap", "a chunk", "a replayed"].iter().any(|sometimes| name.starts_with(sometimes))
        };
        assert!(names.iter().any(is_failure), "{variant:?}: nothing goes wrong in {states} states");
    }
}
