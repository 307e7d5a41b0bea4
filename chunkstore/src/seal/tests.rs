//! Tests of sealing: round trips, bounds, and what is refused.

use super::*;

#[test]
fn round_trips_and_bounds() {
    let mut compressor = Compressor::new(Compression::default()).unwrap();
    let mut decompressor = Decompressor::new().unwrap();
    let text = b"abcdefgh".repeat(1000);
    let mut noise = vec![0; 8000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for (plain, codec) in [(&text, Codec::Zstd), (&noise, Codec::Raw), (&vec![1], Codec::Raw)] {
        let mut out = b"before".to_vec();
        assert_eq!(compressor.compress(plain, &mut out), codec);
        let frame = out.split_off(6);
        assert_eq!(&decompressor.decompress(codec, &frame, &[], plain.len()).unwrap(), plain);
        assert!(decompressor.decompress(codec, &frame, &[], plain.len() - 1).is_err());
        assert!(decompressor.decompress(codec, &frame, &[], plain.len() + 1).is_err());
    }
}

/// Rows, of which the faster level makes about as little, and text, of which it makes clearly more.
#[test]
fn auto_is_about_as_small_as_the_better_level_and_learns_which_is_enough() {
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let row = |number: u64, random: &mut dyn FnMut(u64) -> u64| {
        let (price, count) = (random(100_000), random(9));
        format!(
            "{number}\tcustomer {}\t2025-01-01 00:00:{:02}+00\t{price}\tpaid\t{{\"count\": {count}, \"note\": \"leave at the door\"}}\n",
            random(300_000),
            number % 60
        )
    };
    let rows: String = (0..40_000).map(|number| row(number, &mut random)).collect();
    let words: Vec<String> = (0..9_000).map(|_| format!("{:x} ", random(1 << 28))).collect();
    let text: String = (0..500_000).map(|_| words[(random(95) * random(95)) as usize].as_str()).collect();
    for (data, is_fast_enough) in [(rows, true), (text, false)] {
        let totals = [Compression::Auto, Compression::Zstd(1), Compression::Zstd(3)].map(|compression| {
            let mut compressor = Compressor::new(compression).unwrap();
            let mut out = vec![];
            data.as_bytes().chunks(64 << 10).for_each(|chunk| assert!(compressor.shrink(chunk, &mut out)));
            (out.len(), compressor.faster.is_some_and(|(_, rivals)| rivals.prefers_fast()))
        });
        let [(auto, prefers_fast), (fast, _), (slow, _)] = totals;
        assert_eq!((fast * 100 <= slow * 101, prefers_fast), (is_fast_enough, is_fast_enough), "{totals:?}");
        assert!(auto * 100 <= fast.min(slow) * 102, "{totals:?}");
    }
}

#[test]
fn deltas_cost_what_changed_and_need_their_base() {
    let noise = |seed: &[u8], len| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
        bytes
    };
    for (len, change, codec) in [
        (70, 1, Codec::Patch),
        (5_000, 40, Codec::Patch),
        (300_000, 40, Codec::Patch),
        (300_000, 5_000, Codec::PrefixedPatch),
        (1 << 20, 40, Codec::Patch),
        (5_000, 2_000, Codec::ZstdDelta),
        (300_000, 100_000, Codec::ZstdDelta),
    ] {
        let base = noise(b"base", len);
        let mut plain = base.clone();
        plain.splice(len / 2..len / 2, noise(b"new", change));
        let mut out = b"before".to_vec();
        let mut compressor = DeltaCompressor::new(Patcher::default()).unwrap();
        assert_eq!(compressor.compress(&plain, &base, change / 2, &mut out).unwrap(), None);
        assert_eq!(out, b"before");
        assert_eq!(compressor.compress(&plain, &base, plain.len(), &mut out).unwrap(), Some(codec));
        let frame = out.split_off(6);
        assert!(frame.len() < change + 80 + len / 1000, "{len}: {}", frame.len());
        let mut decompressor = Decompressor::new().unwrap();
        let mut decompress = |prefix: &[u8], len| decompressor.decompress(codec, &frame, prefix, len);
        assert_eq!(decompress(&base, plain.len()).unwrap(), plain);
        assert!(decompress(&base, plain.len() - 1).is_err());
        assert!(decompress(&[], plain.len()).map_or(true, |other| other != plain));
    }
}
