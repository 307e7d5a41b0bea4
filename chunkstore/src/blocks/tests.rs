//! Patches from block lists, read as codec 3 reads them.

use super::*;
use proptest::prelude::*;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn blocks() -> Blocks {
    Blocks::new(&[7; 32])
}

/// What codec 3 makes of a patch against these chunks.
fn applied(patch: &[u8], bases: &[&[u8]], plain_len: usize) -> Option<Vec<u8>> {
    let mut plain = vec![];
    patch::apply(patch, &bases.concat(), plain_len, &mut plain)?;
    Some(plain)
}

/// Length of the patch that makes `plain` from `bases`, of which it sees only lists.
fn patched(plain: &[u8], bases: &[&[u8]], most: usize) -> Option<usize> {
    let lists: Vec<_> = bases.iter().map(|base| (base.len(), blocks().list(base))).collect();
    let listed: Vec<_> = lists.iter().map(|(len, list)| Listed { len: *len, list }).collect();
    let patch = blocks().patch(plain, &listed, most)?;
    assert!(applied(&patch, bases, plain.len()).is_some_and(|made| made == plain));
    assert!(patch.len() <= most);
    assert!(patch::has_whole_blocks(&patch, &bases.iter().map(|base| base.len()).collect::<Vec<_>>()));
    Some(patch.len())
}

#[test]
fn a_change_costs_a_block_or_two() {
    let base = noise(1, 200_000);
    assert!(patched(&base, &[&base], BLOCK_LEN).is_some());
    let mut plain = base.clone();
    plain[100_000..100_010].fill(7);
    assert!(patched(&plain, &[&base], 1 << 20).unwrap() < 3 * BLOCK_LEN + 20);
    // Inserted and removed bytes shift what follows.
    plain.splice(50_000..50_000, noise(2, 33));
    plain.drain(150_000..150_007);
    assert!(patched(&plain, &[&base], 1 << 20).unwrap() < 7 * BLOCK_LEN + 80);
}

#[test]
fn what_lies_across_several_chunks_is_found_in_any_order() {
    let bases = [noise(1, 30_001), noise(2, 20_000), noise(3, 10_255)];
    let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
    assert!(patched(&bases.concat(), &bases, 5 * BLOCK_LEN).is_some());
    let turned = [bases[2], &bases[0][5000..], bases[1]].concat();
    assert!(patched(&turned, &bases, 1 << 20).unwrap() < 6 * BLOCK_LEN);
}

#[test]
fn blocks_that_occur_often_go_on_where_they_were() {
    let base = [vec![b' '; 50_000], noise(1, 5000), vec![b' '; 50_000], noise(2, 5000)].concat();
    let mut plain = base.clone();
    plain[80_000] = b'x';
    assert!(patched(&plain, &[&base], 1 << 20).unwrap() < 2 * BLOCK_LEN + 30);
}

#[test]
fn strangers_short_chunks_and_another_key_make_no_patch() {
    let (base, other) = (noise(1, 50_000), noise(2, 50_000));
    assert_eq!(patched(&other, &[&base], 25_000), None);
    assert!(blocks().list(&base[..BLOCK_LEN - 1]).is_empty());
    let list = Blocks::new(&[8; 32]).list(&base);
    assert_eq!(blocks().patch(&base, &[Listed { len: base.len(), list: &list }], 25_000), None);
    // A list of another length.
    let list = blocks().list(&base);
    for len in [base.len() - BLOCK_LEN, base.len() + BLOCK_LEN] {
        assert_eq!(blocks().patch(&base, &[Listed { len, list: &list }], 100_000), None);
    }
    assert_eq!(blocks().patch(&base, &[Listed { len: base.len(), list: &list[1..] }], 100_000), None);
}

#[test]
fn a_list_says_nothing_of_equal_content_under_another_key() {
    let base = noise(1, 50_000);
    let (one, other) = (blocks().list(&base), Blocks::new(&[8; 32]).list(&base));
    let entries = |list: &[u8]| list.as_chunks::<ENTRY_LEN>().0.to_vec();
    assert!(entries(&one).iter().zip(entries(&other)).all(|(one, other)| one != &other));
    let weak = |entry: &[u8; ENTRY_LEN]| *entry.first_chunk::<WEAK_LEN>().unwrap();
    assert!(!entries(&one).iter().zip(entries(&other)).all(|(one, other)| weak(one) == weak(&other)));
}

proptest! {
    #[test]
    fn whatever_changed_comes_back(
        lens in proptest::collection::vec(0usize..20_000, 1..4),
        edits in proptest::collection::vec((0usize..40_000, 0usize..900, 0usize..900, any::<u64>()), 0..12),
        few in any::<bool>(),
    ) {
        let mut bases: Vec<Vec<u8>> = lens.iter().zip(3..).map(|(len, seed)| noise(seed, *len)).collect();
        if few {
            bases.iter_mut().flatten().for_each(|byte| *byte &= 1);
        }
        let mut plain = bases.concat();
        for (at, remove, insert, seed) in &edits {
            let at = (*at).min(plain.len());
            let end = (at + remove).min(plain.len());
            plain.splice(at..end, noise(*seed, *insert));
        }
        let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
        let len = patched(&plain, &bases, plain.len() + 5000);
        let most: usize = edits.iter().map(|(_, _, insert, _)| insert + 2 * BLOCK_LEN + 12).sum();
        prop_assert!(len.unwrap() <= most + 20 + bases.len() * 2 * BLOCK_LEN);
    }
}
