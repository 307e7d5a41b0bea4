//! What a host stored, chunk by chunk: decrypted, and handed to the ordinary pipeline.

use super::{Refusal, of_host, refused};
use crate::{Counter, Error, Monitor};
use chunkstore::format::{MAX_PACK_LEN, PackKind, names};
use chunkstore::inbox::Brought;
use chunkstore::ingest::{Dedupe, Lane, Output, Packer};
use chunkstore::keys::KeyRing;
use chunkstore::pack::{PackReader, read_directory};
use chunkstore::seal::Decompressor;
use chunkstore::storage::ErrorKind;
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
}

impl<'a> Intake<'a> {
    pub(super) fn new(
        dedupe: &Arc<Dedupe>,
        host: ObjectId,
        rings: &'a BTreeMap<u64, KeyRing>,
    ) -> chunkstore::Result<Self> {
        let lane = |kind| Ok::<_, chunkstore::Error>((Lane::new(dedupe, kind)?, VecDeque::new()));
        let lanes = [lane(PackKind::Data)?, lane(PackKind::Metadata)?];
        let store = Arc::clone(dedupe.store());
        Ok(Self { store, host, rings, lanes, decompressor: Decompressor::new()? })
    }

    pub(super) fn take_all(
        &mut self,
        packs: &[Brought],
        packer: &mut Packer,
        monitor: &dyn Monitor,
    ) -> std::result::Result<(), Refusal> {
        monitor.count(Counter::BytesTotal, packs.iter().map(|pack| pack.len).sum());
        let mut seen = HashSet::new();
        if !packs.iter().all(|pack| seen.insert(pack.name.id)) {
            return refused("it names a pack twice");
        }
        for pack in packs {
            self.take(pack, packer)?;
            monitor.count(Counter::BytesDone, pack.len);
            if monitor.interrupted() {
                return Err(Refusal::Fail(Error::Interrupted));
            }
        }
        for (lane, expected) in &mut self.lanes {
            let mut wrong = None;
            lane.drain(packer, &mut |_, output| check(expected, &output, &mut wrong))?;
            garbage(wrong)?;
        }
        Ok(())
    }

    fn take(&mut self, pack: &Brought, packer: &mut Packer) -> std::result::Result<(), Refusal> {
        let Some(ring) = self.rings.get(&pack.run) else {
            return refused("it names a pack of a run whose key it does not have");
        };
        let name = names::brought(&self.host, pack.run, &pack.name.id);
        let bytes = match self.store.storage().get(&name, MAX_PACK_LEN) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                return refused(format!("pack {} is missing in the inbox", pack.name.id.short()));
            }
            bytes => bytes.map_err(chunkstore::Error::from)?,
        };
        if bytes.len() as u64 != pack.len || *blake3::hash(&bytes).as_bytes() != pack.hash.0 {
            return refused(format!("pack {} is not what the host brought", pack.name.id.short()));
        }
        let (reader, records): (PackReader, _) = of_host(read_directory(pack.name, ring, &bytes))?;
        let number = usize::from(pack.name.kind == PackKind::Metadata);
        let (lane, expected) = &mut self.lanes[number];
        for record in &records {
            if record.is_delta() {
                return refused("it brought a chunk that needs others to be read");
            }
            let sealed = record.range().and_then(|range| bytes.get(range));
            let Some(sealed) = sealed else {
                return refused("a pack is shorter than its list of chunks says");
            };
            let plain = of_host(reader.open_unnamed(record, sealed, &[], &mut self.decompressor))?;
            of_host(lane.add_whole(&plain, record.anchor != 0))?;
            expected.push_back(record.id);
        }
        let mut wrong = None;
        lane.collect(packer, &mut |_, output| check(expected, &output, &mut wrong))?;
        garbage(wrong)
    }
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
