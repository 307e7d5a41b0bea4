//! Re-encryption and retiring (docs/concurrency.md, "Re-encryption", "Retiring") as a model, every interleaving of it
//! within small bounds, checked with Stateright. Rules are left out in turn: then something that HEAD or a tier names, or
//! that is on its way, must need a retired key. How keys reach slots is in `model_keys.rs`.
//!
//! A snapshot has two packs, a record, and a leaf of HEAD. Keys are rotated; a re-encryption moves all that, and begins
//! again when it was killed; epochs are retired. Meanwhile a backup builds on the first pack, a prune removes what killed
//! runs left, a sync copies the snapshot to a tier, or a write-only host brings a run. Any step may be the last of its
//! process; a session may be fenced at any time.

use Variant::*;
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Backup, Head, Host, Pack, Renewal, Retiring, Sync, World, all, has, is_under};

mod actors;
mod world;

/// The rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Nothing is retired that a segment, or a pack that it lists, is sealed under: `Head::needs`.
    SegmentsIgnored,
    /// A segment is as old as its oldest pack: `oldest` in `chunkstore/src/store/segments.rs`.
    SegmentsAsTheyAre,
    /// Nor what a root is sealed under: `Head::needs`.
    RootsIgnored,
    /// Nor a leaf: the same.
    LeavesIgnored,
    /// Nor what a session that is open may seal under: the same.
    SessionsIgnored,
    /// Nor the inbox that a host may seal to: `hosts_on` in `chunkstore/src/store/retire.rs`.
    HostsIgnored,
    /// HEAD notes the inbox that a host last sealed to, not the one that it was told of: `settle` in
    /// `chunkstore/src/store/hosts.rs`.
    HostsNotedAsTold,
    /// Nor while a doomed pack may be there: `Head::needs`.
    DoomedIgnored,
    /// The swap compares: `may_retire` in `ChunkStore::retire`.
    LookedBeforeOnly,
    /// Tiers are looked at: `tier_is_free` in `ChunkStore::retire`.
    TierIgnored,
    /// A tier with a session stops it: the same.
    SyncIgnored,
    /// Tiers are looked at when the primary was: `ChunkStore::retire`.
    TierFirst,
    /// A sync reads HEAD of the primary once its session is open on the tier: docs/concurrency.md, "Retiring", 3.
    HeadBeforeSession,
    /// A session seals under the epoch of the HEAD that it was opened in: `take_head` in `ChunkStore::update_head`.
    EarlierEpoch,
    /// Nothing enters HEAD under a retired epoch: `Head::accepts`.
    AcceptsRetired,
    /// What was fenced changes nothing: `at_work` in `engine/src/prune.rs` and `chunkstore/src/store/renew.rs`.
    FencedRenews,
    /// Copies are listed before, or when, their originals are condemned: `Prepared::condemn` in `engine/src/prune.rs`.
    CopiesNotListed,
    /// A record is removed once HEAD names another object: `ChunkStore::renew_roots`.
    RecordRemovedFirst,
    /// Its new object has a random name: `ChunkStore::seal_again`.
    NamedByEpoch,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
enum Step {
    Rotate,
    Backup,
    Fence(usize),
    Renew,
    /// No more packs: of the others it leaves those that are beyond its budget, or locked.
    Spare,
    Kill,
    Delete(u8),
    Reap,
    Sweep,
    Remove(u8),
    Look(u8),
    Retire,
    Sync,
    HostRuns,
    Admit,
    HostReads,
}

struct Protocol {
    without: &'static [Variant],
    backs_up: bool,
    syncs: bool,
    has_host: bool,
    rounds: u8,
    last_epoch: u8,
}

impl Protocol {
    fn lacks(&self, variant: Variant) -> bool {
        self.without.contains(&variant)
    }

    /// What HEAD says that needs an epoch or an earlier one.
    fn needs(&self, world: &World, epoch: u8) -> bool {
        let head = &world.head;
        let listed = |pack: &Pack| match self.lacks(SegmentsAsTheyAre) {
            true => pack.segment,
            false => pack.segment.min(pack.epoch),
        };
        let segments = all(head.live).any(|pack| listed(&world.packs[usize::from(pack)]) <= epoch);
        let roots = [Some(world.records[usize::from(head.record)]), head.second];
        let is_old = |known: Option<u8>| known.is_some_and(|known| known <= epoch);
        segments && !self.lacks(SegmentsIgnored)
            || roots.into_iter().any(is_old) && !self.lacks(RootsIgnored)
            || head.leaf <= epoch && !self.lacks(LeavesIgnored)
            || head.open.into_iter().any(is_old) && !self.lacks(SessionsIgnored)
            || self.has_host && head.host <= epoch && !self.lacks(HostsIgnored)
            || head.doomed != 0 && !self.lacks(DoomedIgnored)
    }

    fn tier_needs(&self, world: &World, epoch: u8) -> bool {
        let syncs = matches!(world.sync, Sync::Opened(_) | Sync::Copied(..)) && !self.lacks(SyncIgnored);
        !self.lacks(TierIgnored) && (syncs || world.tier.is_some_and(|tier| is_under(world, tier, epoch)))
    }

    fn accepts(&self, world: &World, epoch: u8) -> bool {
        epoch > world.head.retired || self.lacks(AcceptsRetired)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let pack = |chunk| Pack { chunk, epoch: 1, segment: 1 };
        vec![World {
            head: Head {
                epoch: 1,
                retired: 0,
                live: 0b11,
                condemned: 0,
                doomed: 0,
                record: 0,
                leaf: 1,
                second: None,
                open: [None; 2],
                host: 1,
            },
            packs: vec![pack(0), pack(1)],
            stored: 0b11,
            records: vec![1],
            kept: 1,
            sweeping: 0,
            backup: Backup::Idle,
            renewal: Renewal::Idle,
            rounds: self.rounds,
            retiring: Retiring::Idle,
            sync: Sync::Idle,
            tier: None,
            host: Host { knows: 1, told: 1, brought: None },
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        actions.extend([
            Step::Rotate,
            Step::Renew,
            Step::Spare,
            Step::Kill,
            Step::Reap,
            Step::Sweep,
            Step::Retire,
        ]);
        actions.extend([Step::Fence(0), Step::Fence(1)]);
        actions.extend(all(world.head.doomed & world.stored).map(Step::Delete));
        actions.extend(all(world.sweeping).map(Step::Remove));
        actions.extend((1..world.head.epoch).map(Step::Look));
        if self.backs_up {
            actions.push(Step::Backup);
        }
        if self.syncs {
            actions.push(Step::Sync);
        }
        if self.has_host {
            actions.extend([Step::HostRuns, Step::Admit, Step::HostReads]);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Rotate => {
                (world.head.epoch < self.last_epoch).then_some(())?;
                world.head.epoch += 1;
            }
            Step::Backup => world.backup = self.back_up(&mut world)?,
            Step::Fence(place) => world.head.open[place] = None,
            Step::Renew => world.renewal = self.renew(&mut world)?,
            Step::Spare => {
                let Renewal::Copying { old, new, .. } = &mut world.renewal else { return None };
                let chunk = |pack: u8| world.packs[usize::from(pack)].chunk;
                let is_copied = |pack: &u8| all(*new).any(|new| chunk(new) == chunk(*pack));
                *old = all(*old).filter(is_copied).map(|pack| 1 << pack).sum();
            }
            // Its session stays.
            Step::Kill => world.renewal = Renewal::Idle,
            Step::Delete(pack) => world.stored &= !(1 << pack),
            Step::Reap => world.head.doomed &= world.stored,
            Step::Sweep => {
                (world.head.open == [None; 2]).then_some(())?;
                world.sweeping |= world.kept & !(1 << world.head.record);
            }
            Step::Remove(record) => {
                world.sweeping &= !(1 << record);
                world.kept &= !(1 << record);
            }
            Step::Look(epoch) => {
                world.retiring = match world.retiring {
                    Retiring::Idle if self.needs(&world, epoch) && !self.lacks(TierFirst) => return None,
                    Retiring::Idle => Retiring::Primary(epoch),
                    Retiring::Primary(looked) if looked == epoch && !self.tier_needs(&world, epoch) => {
                        Retiring::Tier(epoch)
                    }
                    _ => return None,
                };
            }
            Step::Retire => {
                let Retiring::Tier(epoch) = world.retiring else { return None };
                world.retiring = Retiring::Idle;
                if !self.needs(&world, epoch) || self.lacks(LookedBeforeOnly) {
                    world.head.retired = world.head.retired.max(epoch);
                }
            }
            Step::Sync => world.sync = self.sync(&mut world)?,
            Step::HostRuns => {
                let Host { knows, brought, .. } = &mut world.host;
                brought.is_none().then(|| *brought = Some(*knows))?;
            }
            Step::Admit => {
                let run = world.host.brought.take()?;
                world.host.told = world.head.epoch;
                let noted = if self.lacks(HostsNotedAsTold) { world.host.told } else { run };
                world.head.host = world.head.host.max(noted);
            }
            Step::HostReads => world.host.knows = world.host.told,
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(OPENS, |_, world: &World| {
                let head = &world.head;
                let is_good = |pack: &u8| {
                    let Pack { epoch, segment, .. } = world.packs[usize::from(*pack)];
                    has(world.stored, *pack) && epoch.min(segment) > head.retired
                };
                let good: Vec<u8> = all(head.live).filter(is_good).collect();
                let found = |chunk| good.iter().any(|pack| world.packs[usize::from(*pack)].chunk == chunk);
                let record = world.records[usize::from(head.record)];
                found(0)
                    && found(1)
                    && has(world.kept, head.record)
                    && record.min(head.leaf).min(head.second.unwrap_or(u8::MAX)) > head.retired
            }),
            Property::always(TIER_OPENS, |_, world: &World| {
                world.tier.is_none_or(|tier| !is_under(world, tier, world.head.retired))
            }),
            Property::always(ON_ITS_WAY, |_, world: &World| {
                let epoch = match world.backup {
                    Backup::Opened { epoch } | Backup::Wrote { epoch, .. }
                        if world.head.open[0].is_some() =>
                    {
                        epoch
                    }
                    _ => u8::MAX,
                };
                epoch > world.head.retired
            }),
            Property::always(BRINGS, |protocol: &Self, world: &World| {
                !protocol.has_host
                    || world.host.brought.unwrap_or(world.host.knows).min(world.host.knows)
                        > world.head.retired
            }),
            Property::sometimes("an epoch is retired", |_, world: &World| world.head.retired > 0),
        ];
        if self.backs_up {
            properties.push(Property::sometimes("a backup goes on beside it", |_, world: &World| {
                world.head.second == Some(1) && world.head.epoch > 1
            }));
        }
        if self.rounds > 1 {
            properties.push(Property::sometimes("a killed run leaves its record", |_, world: &World| {
                world.records.len() > 2 && world.head.retired > 0
            }));
        }
        if self.syncs {
            properties.push(Property::sometimes(
                "a tier has what was retired at the primary's",
                |_, world: &World| world.head.retired > 0 && world.tier.is_some(),
            ));
        }
        properties
    }
}

const OPENS: &str = "every snapshot of HEAD opens";
const TIER_OPENS: &str = "what a tier has opens";
const ON_ITS_WAY: &str = "nothing is retired that a run at work seals under";
const BRINGS: &str = "nothing is retired that a host seals to";
const ALONE: Protocol =
    Protocol { without: &[], backs_up: false, syncs: false, has_host: false, rounds: 2, last_epoch: 3 };
const BACKUP: Protocol = Protocol { backs_up: true, rounds: 1, last_epoch: 2, ..ALONE };
const TIER: Protocol = Protocol { syncs: true, last_epoch: 2, ..ALONE };
const HOST: Protocol = Protocol { has_host: true, last_epoch: 2, ..ALONE };

fn states(protocol: Protocol) -> usize {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn nothing_is_retired_that_is_needed() {
    let all = [ALONE, Protocol { rounds: 2, ..BACKUP }, TIER, HOST].map(states);
    assert!(all.into_iter().sum::<usize>() > 10_000, "{all:?}");
}

#[test]
fn every_rule_of_retiring_is_needed() {
    let rules: [(&'static [Variant], Protocol, &'static str); 18] = [
        (&[SegmentsIgnored], ALONE, OPENS),
        (&[SegmentsAsTheyAre], ALONE, OPENS),
        (&[RootsIgnored], ALONE, OPENS),
        (&[LeavesIgnored], ALONE, OPENS),
        (&[SessionsIgnored], BACKUP, ON_ITS_WAY),
        (&[SessionsIgnored, AcceptsRetired], BACKUP, OPENS),
        (&[EarlierEpoch], BACKUP, ON_ITS_WAY),
        (&[EarlierEpoch, AcceptsRetired], BACKUP, OPENS),
        (&[HostsIgnored], HOST, BRINGS),
        (&[HostsNotedAsTold], HOST, BRINGS),
        (&[TierIgnored], TIER, TIER_OPENS),
        (&[SyncIgnored], TIER, TIER_OPENS),
        (&[TierFirst], TIER, TIER_OPENS),
        (&[HeadBeforeSession], TIER, TIER_OPENS),
        (&[FencedRenews], ALONE, OPENS),
        (&[CopiesNotListed], ALONE, OPENS),
        (&[RecordRemovedFirst], ALONE, OPENS),
        (&[NamedByEpoch], ALONE, OPENS),
    ];
    for (without, protocol, broken) in rules {
        let checker = Protocol { without, ..protocol }.checker().threads(2);
        let only = HasDiscoveries::AllOf([broken].into_iter().collect());
        let checker = checker.finish_when(only).spawn_bfs().join();
        let (states, found) = (checker.unique_state_count(), checker.discovery(broken));
        println!("{without:?}: {states} states");
        assert!(found.is_some(), "{without:?}: '{broken}' holds in {states} states");
    }
}

/// Each of these is a second line of defence: without it alone nothing is lost.
#[test]
fn what_is_looked_at_twice_is_needed_once() {
    for (without, protocol) in
        [(&[AcceptsRetired][..], BACKUP), (&[LookedBeforeOnly], BACKUP), (&[DoomedIgnored], TIER)]
    {
        println!("{without:?}");
        states(Protocol { without, ..protocol });
    }
}
