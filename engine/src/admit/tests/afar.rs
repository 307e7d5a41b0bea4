//! Differences: against what is the host's own, and in whole blocks only.

use super::*;
use crate::verify::{ReadData, check};
use chunkstore::blocks::{Blocks, Listed};
use chunkstore::seal::PatchCompressor;

/// Bytes without any order.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A patch, and how it says that it is stored.
fn difference(
    id: ChunkId,
    plain_len: usize,
    codec: Codec,
    patch: &[u8],
    base: ChunkId,
) -> (ChunkRecord, Vec<u8>) {
    let mut frame = vec![];
    assert!(PatchCompressor::new().unwrap().compress(patch, 1 << 20, &mut frame));
    let plain_len = u32::try_from(plain_len).unwrap();
    (ChunkRecord::delta(id, plain_len, 7, codec, 1, 1, vec![base]), frame)
}

/// A patch of such steps: new bytes, then so many from there in the base.
fn patch(steps: &[(&[u8], usize, usize)]) -> Vec<u8> {
    let (mut instructions, mut inserted, mut last) = (vec![], vec![], 0);
    let put = |out: &mut Vec<u8>, mut number: usize| {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    };
    for (new, at, len) in steps {
        put(&mut instructions, new.len());
        put(&mut instructions, *len);
        put(&mut instructions, if *at >= last { 2 * (at - last) } else { 2 * (last - at) - 1 });
        inserted.extend_from_slice(new);
        last = at + len;
    }
    let mut out = vec![];
    put(&mut out, instructions.len());
    [out, instructions, inserted].concat()
}

impl Thief {
    /// Brings a chunk as a difference of another, and a snapshot of both.
    fn bring_difference(&mut self, plain: &[u8], codec: Codec, patch: &[u8], base: &[u8]) -> SignedCommit {
        let (id, base_id) = (self.id(plain), self.id(base));
        self.differences = vec![difference(id, plain.len(), codec, patch, base_id)];
        let signed = self.bring(&[(id, plain)], &[], |_, _| ());
        self.differences.clear();
        signed
    }

    /// One whose last snapshot has this chunk.
    fn with(base: &[u8]) -> Self {
        let mut thief = Self::new();
        let chunk = (thief.id(base), base);
        thief.bring(&[chunk], &[chunk], |_, _| ());
        assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
        thief
    }

    /// Why the last run was refused, and what it is to bring again.
    fn refused(&self) -> (String, Vec<ChunkId>) {
        let done = self.admit();
        let [Outcome::Refused { why, .. }] = &*done else { panic!("{done:?}") };
        let host = &self.bundle.keys.host;
        let reply = self.disk.get(&names::reply(host, self.run), Reply::MAX_LEN).unwrap();
        let reply = Reply::open(&self.bundle.keys.channel(), host, self.run, &reply).unwrap();
        assert!(!reply.incomplete && self.repo.store().head().sessions.is_empty());
        (why.clone(), reply.missing)
    }
}

#[test]
fn a_difference_from_block_lists_is_admitted_as_what_it_makes() {
    let base = noise(1, 4100);
    let mut thief = Thief::with(&base);
    let blocks = Blocks::new(&[5; 32]);
    let list = blocks.list(&base);
    let plain = [&noise(2, 70)[..], &base[512..2048], b"new", &base[2560..4000]].concat();
    let listed = [Listed { len: base.len(), list: &list }];
    let made = blocks.patch(&plain, &listed, plain.len() / 2).unwrap();
    assert!(made.len() < 70 + 3 + 256 + 170 + 20, "{}", made.len());
    thief.bring_difference(&plain, Codec::Patch, &made, &base);
    let done = thief.admit();
    let [Outcome::Admitted { snapshot, .. }] = *done else { panic!("{done:?}") };
    let id = snapshot.to_string();
    let listed = thief.repo.find(&id, &crate::snapshot::Filter::default(), &Tally::default()).unwrap();
    let mut bytes = vec![];
    dump(&thief.repo, &listed.snapshot, b"file", &mut bytes, &Tally::default()).unwrap();
    assert!(bytes == plain);
    assert_eq!(check(&thief.repo, ReadData::All, &Tally::default()).unwrap().num_errors, 0);
}

#[test]
fn what_another_has_is_no_base_and_no_answer_says_that_it_is_there() {
    let base = noise(1, 600);
    let plain = [b"x", &base[256..512]].concat();
    let patch = patch(&[(b"x", 256, 256)]);
    let mut thief = Thief::with(b"own");
    let absent = {
        thief.bring_difference(&plain, Codec::Patch, &patch, &base);
        thief.refused()
    };
    assert_eq!(absent.1, [thief.id(&base)]);
    let mut source = One(Some(AtHand::item("theirs", Time::default(), base.clone())));
    let options = BackupOptions { time: jiff::Timestamp::UNIX_EPOCH, ..BackupOptions::default() };
    backup(&thief.repo, &mut source, &options, &Tally::default()).unwrap();
    thief.repo.sync_index(&Tally::default()).unwrap();
    assert!(thief.repo.store().index().lookup(&[thief.id(&base)]).unwrap()[0].is_some(), "it is there");
    thief.bring_difference(&plain, Codec::Patch, &patch, &base);
    assert_eq!(thief.refused(), absent);
    // Nor is what the same run brings.
    let (id, base_id) = (thief.id(&plain), thief.id(&base));
    thief.differences = vec![difference(id, plain.len(), Codec::Patch, &patch, base_id)];
    thief.bring(&[(id, &plain), (base_id, &base)], &[(base_id, &base)], |_, _| ());
    assert_eq!(thief.refused().1, [base_id]);
}

#[test]
fn a_base_that_was_forgotten_is_named_and_stored_again_whole() {
    let base = noise(1, 600);
    let mut thief = Thief::with(&base);
    let all: Vec<ObjectId> =
        thief.repo.snapshots(&Tally::default()).unwrap().iter().map(|listed| listed.id).collect();
    thief.repo.forget(&all).unwrap();
    let plain = [b"x", &base[..256]].concat();
    thief.bring_difference(&plain, Codec::Patch, &patch(&[(b"x", 0, 256)]), &base);
    assert_eq!(thief.refused().1, [thief.id(&base)]);
    let chunk = (thief.id(&plain), &*plain);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
}

/// Whoever has a host's file could otherwise guess what it had stored, byte by byte: a chunk of one byte of it is admitted if
/// its id is that of the guess.
#[test]
fn nothing_smaller_than_a_block_can_be_tried_out() {
    let base = noise(1, 600);
    let mut thief = Thief::with(&base);
    for (at, len) in [(0, 1), (300, 1), (1, 256), (0, 255), (512, 88), (256, 300)] {
        // Nearly all of it is a block that counts.
        let plain = [&base[..256], b"x", &base[at..at + len]].concat();
        thief.bring_difference(&plain, Codec::Patch, &patch(&[(b"", 0, 256), (b"x", at, len)]), &base);
        let (why, missing) = thief.refused();
        assert!(why.contains("is no patch that hosts make") && missing.is_empty(), "{at} {len}: {why}");
    }
    // A whole block, of which everything is right but the guess.
    let wrong = [b"x", &noise(9, 256)[..]].concat();
    thief.bring_difference(&wrong, Codec::Patch, &patch(&[(b"x", 0, 256)]), &base);
    assert!(thief.refused().0.contains("is not what its id says"));
    // Forms whose copies nobody can look at.
    for codec in [Codec::ZstdDelta, Codec::PrefixedPatch] {
        thief.bring_difference(&base[..256], codec, &patch(&[(b"", 0, 256)]), &base);
        assert!(thief.refused().0.contains("in a form that hosts do not use"));
    }
    // More new bytes than a host would bring as a patch.
    let plain = [&noise(8, 300)[..], &base[..256]].concat();
    thief.bring_difference(&plain, Codec::Patch, &patch(&[(&plain[..300], 0, 256)]), &base);
    assert!(!thief.refused().0.is_empty());
    assert_eq!(thief.repo.snapshots(&Tally::default()).unwrap().len(), 1);
}
