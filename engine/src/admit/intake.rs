//! What a host stored, chunk by chunk: decrypted, and handed to the ordinary pipeline.

use super::afar::{Afar, Bases};
use super::chunks::Chunks;
use super::found::{Object, read};
use super::{Admitter, Refusal, doubted, of_host, refused};
use crate::{Counter, Error, Monitor};
use chunkstore::format::{PackKind, names};
use chunkstore::inbox::Brought;
use chunkstore::ingest::{Dedupe, Lane, Output, Packer};
use chunkstore::keys::KeyRing;
use chunkstore::pack::{PackReader, read_directory};
use chunkstore::seal::Decompressor;
use chunkstore::store::ChunkStore;
use chunkstore::{ChunkId, ObjectId};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// The way of a host's chunks into the pipeline, which names them by their content.
pub(super) struct Intake<'a> {
    store: Arc<ChunkStore>,
    host: ObjectId,
    rings: &'a BTreeMap<u64, KeyRing>,
    lanes: [(Lane<()>, VecDeque<ChunkId>); 2],
    decompressor: Decompressor,
    afar: Afar<'a>,
    brought: Chunks,
    plain: Plain,
}

/// A run makes so many bytes of plaintext at most, for each byte of its packs and besides: a few bytes that change in each
/// chunk are an honest host's, too.
const MOST_MADE: u64 = 1000;
const MORE_MADE: u64 = 1 << 40;

/// So many for each byte are ordinary.
const ORDINARY: u64 = 32;

/// Bytes of plaintext that the packs of a run make.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plain {
    pub(super) made: u64,
    pub(super) packed: u64,
}

impl Plain {
    /// Counts a chunk; `false` if no host's packs make so much.
    fn count(&mut self, len: usize) -> bool {
        self.made = self.made.saturating_add(len as u64);
        self.made <= self.packed.saturating_mul(MOST_MADE).saturating_add(MORE_MADE)
    }

    /// Bytes that were made for little: of a run that was refused, all that are not ordinary.
    pub(super) fn in_vain(self, is_refused: bool) -> u64 {
        self.made.saturating_sub(self.packed.saturating_mul(if is_refused { ORDINARY } else { MOST_MADE }))
    }
}

/// Plaintext that is handed to the pipeline before what came out of it is collected, and before somebody who interrupts is
/// heard. A pack of a host can have many gigabytes.
const BETWEEN: usize = 64 << 20;

impl<'a> Intake<'a> {
    pub(super) fn new(
        admitter: &'a Admitter<'a>,
        dedupe: &Arc<Dedupe>,
        rings: &'a BTreeMap<u64, KeyRing>,
    ) -> std::result::Result<Self, Refusal> {
        let lane = |kind| Ok::<_, Refusal>((Lane::new(dedupe, kind)?, VecDeque::new()));
        let lanes = [lane(PackKind::Data)?, lane(PackKind::Metadata)?];
        let store = Arc::clone(dedupe.store());
        let (host, afar) = (admitter.host.id, Afar::new(admitter)?);
        let (decompressor, brought) = (Decompressor::new()?, Chunks::default());
        Ok(Self { store, host, rings, lanes, decompressor, afar, brought, plain: Plain::default() })
    }

    /// How much was made of what was brought, by now.
    pub(super) fn plain(&self) -> Plain {
        self.plain
    }

    /// What was brought, and the bases of it that are missing.
    pub(super) fn finish(self) -> (Chunks, HashSet<ChunkId>) {
        (self.brought, self.afar.into_missing())
    }

    pub(super) fn take_all(
        &mut self,
        packs: &[Brought],
        packer: &mut Packer,
        monitor: &dyn Monitor,
    ) -> std::result::Result<(), Refusal> {
        self.plain.packed = packs.iter().map(|pack| pack.len).sum();
        monitor.count(Counter::BytesTotal, self.plain.packed);
        let mut seen = HashSet::new();
        if !packs.iter().all(|pack| seen.insert(pack.name.id)) {
            return refused("it names a pack twice");
        }
        if !packs.is_sorted_by_key(|pack| pack.run) {
            return refused("its packs are not in the order of its runs");
        }
        for pack in packs {
            self.take(pack, packer, monitor)?;
            monitor.count(Counter::BytesDone, pack.len);
        }
        for (lane, expected) in &mut self.lanes {
            let mut wrong = None;
            lane.drain(packer, &mut |_, output| check(expected, &output, &mut wrong))?;
            garbage(wrong)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        pack: &Brought,
        packer: &mut Packer,
        monitor: &dyn Monitor,
    ) -> std::result::Result<(), Refusal> {
        let Some(ring) = self.rings.get(&pack.run) else {
            return refused("it names a pack of a run whose key it does not have");
        };
        let name = names::brought(&self.host, pack.run, &pack.name.id);
        let short = pack.name.id.short();
        let bytes = match read(&self.store, &name, pack.len)? {
            Object::Whole(bytes) => bytes,
            Object::Gone => return doubted(format!("pack {short} is missing in the inbox")),
            Object::TooLong => return refused(format!("pack {short} is not what the host brought")),
        };
        if bytes.len() as u64 != pack.len || *blake3::hash(&bytes).as_bytes() != pack.hash.0 {
            return doubted(format!("pack {short} is not what the host brought"));
        }
        let (reader, records): (PackReader, _) = of_host(read_directory(pack.name, ring, &bytes))?;
        let number = usize::from(pack.name.kind == PackKind::Metadata);
        let (lane, expected) = &mut self.lanes[number];
        self.afar.look(&records)?;
        let mut uncollected = 0;
        for record in &records {
            if uncollected >= BETWEEN {
                uncollected = 0;
                collect(lane, expected, packer, monitor)?;
            }
            // Before it is decompressed.
            if record.plain_len as usize > lane.max_len() {
                let len = record.plain_len;
                return refused(format!("a chunk of {len} bytes is longer than chunks are here"));
            }
            if record.plain_len == 0 {
                return refused("it brought an empty chunk");
            }
            if !self.brought.insert(pack.run, &record.id) {
                return refused(format!("it brought chunk {} twice", record.id.short()));
            }
            let sealed = record.range().and_then(|range| bytes.get(range));
            let Some(sealed) = sealed else {
                return refused("a pack is shorter than its list of chunks says");
            };
            // What is missing is told when all packs were looked at.
            let Some(bases) = self.afar.bases(&self.store, record)? else { continue };
            let opened = match &bases {
                Bases::None => reader.open_unnamed(record, sealed, &[], &mut self.decompressor),
                Bases::Read(bases, lens) => {
                    reader.open_brought(record, sealed, (bases.bytes(), lens), &mut self.decompressor)
                }
            };
            let plain = of_host(opened)?;
            self.afar.recycle(bases);
            of_host(lane.add_whole(&plain, record.anchor != 0))?;
            expected.push_back(record.id);
            uncollected += plain.len();
            if !self.plain.count(plain.len()) {
                return refused("its packs make more bytes of themselves than any host's do");
            }
        }
        collect(lane, expected, packer, monitor)
    }
}

/// Takes what is ready out of the pipeline, and waits if much is under way.
fn collect(
    lane: &mut Lane<()>,
    expected: &mut VecDeque<ChunkId>,
    packer: &mut Packer,
    monitor: &dyn Monitor,
) -> std::result::Result<(), Refusal> {
    let mut wrong = None;
    lane.collect(packer, &mut |_, output| check(expected, &output, &mut wrong))?;
    if monitor.interrupted() {
        return Err(Refusal::Fail(Error::Interrupted));
    }
    garbage(wrong)
}

/// Compares a chunk's name with the one that the host gave it.
fn check(
    expected: &mut VecDeque<ChunkId>,
    output: &Output<()>,
    wrong: &mut Option<ChunkId>,
) -> chunkstore::Result<()> {
    if let Output::Chunk(chunk) = output {
        let said = expected.pop_front();
        if let Some(said) = said.filter(|said| *said != chunk.id) {
            wrong.get_or_insert(said);
        }
    }
    Ok(())
}

fn garbage(wrong: Option<ChunkId>) -> std::result::Result<(), Refusal> {
    match wrong {
        None => Ok(()),
        Some(id) => refused(format!("chunk {} is not what its id says", id.short())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packs_make_of_themselves_is_bounded_and_costs_what_is_not_ordinary() {
        let mut plain = Plain { made: 0, packed: 1 << 20 };
        let chunk = 1 << 30;
        // A TiB, and nearly one GiB for a pack of a MiB.
        let count = (0..2000).take_while(|_| plain.count(chunk)).count();
        assert_eq!(count, 1024);
        assert!(plain.made > MORE_MADE);
        let few = Plain { made: 32 << 20, packed: 1 << 20 };
        assert_eq!((few.in_vain(true), few.in_vain(false)), (0, 0));
        // As of a few bytes that change in each chunk: that is taken in, and costs only if it is refused.
        let many = Plain { made: 900 << 20, packed: 1 << 20 };
        assert_eq!((many.in_vain(true), many.in_vain(false)), (868 << 20, 0));
        let bomb = Plain { made: 12 << 30, packed: 770 << 10 };
        assert!(bomb.in_vain(false) > 11 << 30);
    }
}
