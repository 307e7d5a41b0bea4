//! The packs of the database, by number. They are read when a chunk of theirs is found, some neighbours at once: what one
//! session wrote has numbers in sequence.

use super::{PACKS, cache_error, family, read_options};
use crate::Result;
use crate::error::InObject as _;
use crate::format::{Decoder, Encoder, Malformed};
use crate::id::ObjectId;
use crate::index::{PackEntry, PackInfo, decode_pack_name, encode_pack_name};
use rocksdb::{DB, Direction, IteratorMode};
use std::sync::{Arc, OnceLock};

/// Packs that are read at once: their entries, of 80 bytes, are in a few blocks of the database.
const PAGE: u32 = 64;

type Page = Box<[Option<Arc<PackInfo>>]>;

/// What was read of the packs. A look-up takes no lock.
#[derive(Default)]
pub(super) struct Packs(Vec<OnceLock<Page>>);

impl Packs {
    /// Of a database with numbers below `next_pack`.
    pub(super) fn below(next_pack: u32) -> Self {
        Self((0..next_pack.div_ceil(PAGE)).map(|_| OnceLock::new()).collect())
    }

    fn page(&self, db: &DB, page: u32) -> Result<&[Option<Arc<PackInfo>>]> {
        let Some(slot) = self.0.get(page as usize) else { return Ok(&[]) };
        if let Some(packs) = slot.get() {
            return Ok(packs);
        }
        let first = page * PAGE;
        let mut packs = vec![None; PAGE as usize];
        let from = key(first);
        let mode = IteratorMode::From(&from, Direction::Forward);
        for item in db.iterator_cf_opt(family(db, PACKS)?, read_options(), mode) {
            let (key, value) = item.map_err(cache_error)?;
            let number = number(key.as_ref().try_into().map_err(cache_error)?);
            let Some(slot) = packs.get_mut((number - first) as usize) else { break };
            *slot = Some(Arc::new(decode(&value).in_object("local index")?));
        }
        Ok(slot.get_or_init(|| packs.into()))
    }

    /// The pack with a number.
    pub(super) fn get(&self, db: &DB, number: u32) -> Result<&Arc<PackInfo>> {
        let page = self.page(db, number / PAGE)?;
        let pack = page.get((number % PAGE) as usize).and_then(Option::as_ref);
        pack.ok_or_else(|| cache_error("entry without its pack; run 'repair index'"))
    }

    /// All packs.
    pub(super) fn all(&self, db: &DB) -> Result<Vec<Arc<PackInfo>>> {
        let mut all = vec![];
        for page in (0..).take(self.0.len()) {
            all.extend(self.page(db, page)?.iter().flatten().cloned());
        }
        Ok(all)
    }
}

#[expect(clippy::big_endian_bytes, reason = "RocksDB orders keys by their bytes")]
fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "as above")]
fn number(key: [u8; 4]) -> u32 {
    u32::from_be_bytes(key)
}

/// The entry of a pack that `segment` lists.
pub(super) fn encode(number: u32, pack: &PackEntry, segment: &ObjectId) -> ([u8; 4], Vec<u8>) {
    let mut info = Encoder::default();
    encode_pack_name(&mut info, &pack.name, pack.len);
    info.raw(segment.as_bytes());
    (key(number), info.bytes)
}

fn decode(bytes: &[u8]) -> std::result::Result<PackInfo, Malformed> {
    let mut decoder = Decoder::new(bytes, "pack entry");
    let (name, len) = decode_pack_name(&mut decoder)?;
    let segment = ObjectId(decoder.array()?);
    decoder.finish()?;
    Ok(PackInfo { name, len, segment })
}
