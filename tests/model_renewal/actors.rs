//! What the processes do, step by step: a backup, a re-encryption, a sync.

use super::Protocol;
use super::Variant::*;
use super::world::{Backup, Pack, Renewal, Set, Sync, World, all, has};

impl Protocol {
    pub(super) fn back_up(&self, world: &mut World) -> Option<Backup> {
        Some(match world.backup {
            Backup::Idle => {
                let epoch = if self.lacks(EarlierEpoch) { 1 } else { world.head.epoch };
                world.head.open[0] = Some(world.head.epoch);
                Backup::Opened { epoch }
            }
            Backup::Opened { epoch } => {
                let view = world.head.live & !world.head.condemned;
                let relied = all(view).find(|pack| world.packs[usize::from(*pack)].chunk == 0);
                let chunk = if relied.is_some() { 2 } else { 0 };
                let new = Self::pack(world, Pack { chunk, epoch, segment: epoch })?;
                Backup::Wrote { epoch, relied: relied.map_or(0, |pack| 1 << pack), new }
            }
            Backup::Wrote { epoch, relied, new } => {
                let is_open = world.head.open[0].take().is_some();
                if is_open && relied & !world.head.live == 0 && self.accepts(world, epoch) {
                    world.head.condemned &= !relied;
                    world.head.live |= 1 << new;
                    world.head.second = Some(epoch);
                }
                Backup::Over
            }
            Backup::Over => return None,
        })
    }

    fn pack(world: &mut World, pack: Pack) -> Option<u8> {
        let number = world.packs.len() as u8;
        (number < 7).then_some(())?;
        world.packs.push(pack);
        world.stored |= 1 << number;
        Some(number)
    }

    pub(super) fn renew(&self, world: &mut World) -> Option<Renewal> {
        let head = world.head;
        let at_work = head.open[1].is_some() || self.lacks(FencedRenews);
        if world.renewal != Renewal::Idle && !at_work {
            return Some(Renewal::Idle);
        }
        Some(match world.renewal {
            Renewal::Idle => {
                (head.open[1].is_none() && world.rounds > 0 && head.epoch > 1).then_some(())?;
                world.rounds -= 1;
                world.head.open[1] = Some(head.epoch);
                let is_old = |pack: &u8| world.packs[usize::from(*pack)].epoch < head.epoch;
                let old = all(head.live).filter(is_old).map(|pack| 1 << pack).sum();
                Renewal::Copying { epoch: head.epoch, found: head.live, old, new: 0 }
            }
            Renewal::Copying { epoch, found, old, new } => {
                let copied = |pack: u8| world.packs[usize::from(pack)].chunk;
                match all(old).find(|pack| all(new).all(|new| copied(new) != copied(*pack))) {
                    Some(next) => {
                        has(world.stored, next).then_some(())?;
                        let chunk = copied(next);
                        let new = new | 1 << Self::pack(world, Pack { chunk, epoch, segment: epoch })?;
                        Renewal::Copying { epoch, found, old, new }
                    }
                    None => {
                        // Another prune, or what a snapshot needs that was added: it begins again.
                        if found & !head.live != 0 {
                            return Self::end(world);
                        }
                        if !self.lacks(CopiesNotListed) {
                            world.head.live |= new;
                        }
                        world.head.condemned = old;
                        Renewal::Condemned { epoch, found, old, new }
                    }
                }
            }
            Renewal::Condemned { epoch, found, old, new } => {
                if found & !head.live != 0 || old & !head.condemned != 0 {
                    return Self::end(world);
                }
                world.head.live = head.live & !old | new;
                if self.lacks(CopiesNotListed) {
                    world.head.live = head.live & !old;
                }
                world.head.condemned = 0;
                world.head.doomed |= old;
                // What else the segments list is in new ones.
                all(found & !old).for_each(|pack| world.packs[usize::from(pack)].segment = epoch);
                Renewal::Packed { epoch }
            }
            Renewal::Packed { epoch } => {
                if world.records[usize::from(head.record)] >= epoch {
                    world.head.leaf = head.epoch;
                    return Self::end(world);
                }
                let known = world.records.iter().position(|known| *known == epoch);
                let record = match known.filter(|_| self.lacks(NamedByEpoch)) {
                    Some(known) => known as u8,
                    None => world.records.len() as u8,
                };
                (record < 5).then_some(())?;
                if usize::from(record) == world.records.len() {
                    world.records.push(epoch);
                }
                world.kept |= 1 << record;
                if self.lacks(RecordRemovedFirst) {
                    world.kept &= !(1 << head.record);
                }
                Renewal::Put { epoch, record }
            }
            Renewal::Put { epoch, record } => {
                world.head.record = record;
                Renewal::Swapped { epoch, old: head.record }
            }
            Renewal::Swapped { epoch, old } => {
                world.kept &= !(1 << old);
                Renewal::Packed { epoch }
            }
        })
    }

    /// The session is closed.
    fn end(world: &mut World) -> Option<Renewal> {
        world.head.open[1] = None;
        Some(Renewal::Idle)
    }

    pub(super) fn sync(&self, world: &mut World) -> Option<Sync> {
        Some(match world.sync {
            Sync::Idle if self.lacks(HeadBeforeSession) => Sync::Read(world.head),
            Sync::Idle => Sync::Opened(None),
            Sync::Read(head) => Sync::Opened(Some(head)),
            Sync::Opened(None) => Sync::Opened(Some(world.head)),
            Sync::Opened(Some(read)) => {
                let packs = all(read.live & !read.condemned);
                let packs = packs.filter(|pack| world.packs[usize::from(*pack)].chunk < 2);
                let packs: Set = packs.map(|pack| 1 << pack).sum();
                let is_there = packs & !world.stored == 0 && has(world.kept, read.record);
                if is_there { Sync::Copied(packs, read.record) } else { Sync::Over }
            }
            Sync::Copied(packs, record) => {
                world.tier = Some((packs, record));
                Sync::Over
            }
            Sync::Over => return None,
        })
    }
}
