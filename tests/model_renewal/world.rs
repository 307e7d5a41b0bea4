//! What there is: HEAD, packs and records, and how far each process has come.

/// Packs, or objects of records, by number.
pub(super) type Set = u8;

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) chunk: u8,
    pub(super) epoch: u8,
    /// The epoch of the segment that lists it.
    pub(super) segment: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) epoch: u8,
    pub(super) retired: u8,
    pub(super) live: Set,
    pub(super) condemned: Set,
    pub(super) doomed: Set,
    /// The object of the snapshot's record.
    pub(super) record: u8,
    pub(super) leaf: u8,
    /// The epoch of the record of the backup's snapshot, once it is there.
    pub(super) second: Option<u8>,
    /// The epochs in which the backup and the re-encryption began whose sessions are open.
    pub(super) open: [Option<u8>; 2],
    pub(super) host: u8,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Backup {
    Idle,
    Opened {
        epoch: u8,
    },
    /// With the pack that it built on, if it did, and the one that it wrote.
    Wrote {
        epoch: u8,
        relied: Set,
        new: u8,
    },
    Over,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Renewal {
    Idle,
    /// What it found, and what it copied.
    Copying {
        epoch: u8,
        found: Set,
        old: Set,
        new: Set,
    },
    Condemned {
        epoch: u8,
        found: Set,
        old: Set,
        new: Set,
    },
    Packed {
        epoch: u8,
    },
    Put {
        epoch: u8,
        record: u8,
    },
    Swapped {
        epoch: u8,
        old: u8,
    },
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Retiring {
    Idle,
    Primary(u8),
    Tier(u8),
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Sync {
    Idle,
    Read(Head),
    Opened(Option<Head>),
    Copied(Set, u8),
    Over,
}

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) knows: u8,
    pub(super) told: u8,
    /// The epoch of a run that was not admitted yet.
    pub(super) brought: Option<u8>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct World {
    pub(super) head: Head,
    pub(super) packs: Vec<Pack>,
    pub(super) stored: Set,
    /// The epoch of each object of the record.
    pub(super) records: Vec<u8>,
    pub(super) kept: Set,
    /// Objects of records that a prune has decided to remove, and may remove at any time.
    pub(super) sweeping: Set,
    pub(super) backup: Backup,
    pub(super) renewal: Renewal,
    /// Re-encryptions that may still begin.
    pub(super) rounds: u8,
    pub(super) retiring: Retiring,
    pub(super) sync: Sync,
    /// What the tier has: packs, and the record.
    pub(super) tier: Option<(Set, u8)>,
    pub(super) host: Host,
}

pub(super) fn has(set: Set, number: u8) -> bool {
    set & 1 << number != 0
}

pub(super) fn all(set: Set) -> impl Iterator<Item = u8> {
    (0..8).filter(move |number| has(set, *number))
}

/// Whether a tier has something that is sealed under an epoch or an earlier one.
pub(super) fn is_under(world: &World, (packs, record): (Set, u8), epoch: u8) -> bool {
    let is_old = |pack: u8| world.packs[usize::from(pack)].epoch <= epoch;
    all(packs).any(is_old) || world.records[usize::from(record)] <= epoch
}
