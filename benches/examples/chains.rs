//! Which version of a chunk the next one should be stored against: plays rules over nights of a stream and
//! prints what they store and how deep they get. Decision 5 has the results.
//!
//! `cargo run --release -p benches --example chains -- AVERAGE_KIB RULE N FILE…`, where RULE is
//! `chain` (the last version, full again below depth N), `root` (the last version, the root below depth N), `anc`
//! (the newest ancestor above depth N), `skip` (powers of 2) or `radix` (powers of N).

#![expect(clippy::print_stdout, reason = "a report")]
#![expect(clippy::unwrap_used, reason = "a bench that fails must say where")]

use chunkstore::chunker::{Chunker, ChunkerParams};
use std::collections::HashMap;
use zstd::zstd_safe::{CCtx, CParameter, Strategy};

#[derive(Clone)]
struct C {
    at: usize,
    len: usize,
    n: usize,
    depth: usize,
    prev: Option<(usize, usize)>,
    same: Option<usize>,
    stored: usize,
    anc: Vec<(usize, usize, usize)>,
}

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let avg: u32 = a[1].parse::<u32>().unwrap() << 10;
    let rule = a[2].as_str();
    let d: usize = a[3].parse().unwrap();
    let files = &a[4..];
    let ck = Chunker::new(ChunkerParams::around(avg), &[7; 32]).unwrap();
    let mut nights: Vec<(Vec<u8>, Vec<C>)> = vec![];
    let mut oldid: HashMap<[u8; 32], usize> = HashMap::new();
    let mut anchors: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut total = 0usize;
    let mut none = 0usize;
    let mut out = vec![0u8; 20 << 20];
    let mut log = vec![];
    for (t, f) in files.iter().enumerate() {
        let data = std::fs::read(f).unwrap();
        let (mut ids, mut anch) = (HashMap::new(), HashMap::new());
        let mut cs: Vec<C> = vec![];
        let mut at = 0;
        let mut aligned = false;
        let mut cursor = None;
        let mut added = 0;
        while at < data.len() {
            let len = ck.cut(&data[at..]);
            let p = &data[at..at + len];
            let i = cs.len();
            let id = *blake3::hash(p).as_bytes();
            ids.insert(id, i);
            let end = p[len.saturating_sub(64)..].to_vec();
            let hit = anchors.get(&end).copied();
            anch.insert(end, i);
            let mut c = C { at, len, n: 0, depth: 0, prev: None, same: None, stored: 0, anc: vec![] };
            at += len;
            if let Some(&j) = oldid.get(&id) {
                let o = &nights[t - 1].1[j];
                c.n = o.n;
                c.depth = o.depth;
                c.same = Some(j);
                c.anc = o.anc.clone();
                c.anc.push((t - 1, j, j));
                if let Some(l) = c.anc.last_mut() {
                    *l = (t - 1, j, j);
                }
                cursor = Some(j);
                aligned = true;
                cs.push(c);
                continue;
            }
            let full = zstd::bulk::compress_to_buffer(p, &mut out, 3).unwrap().min(len);
            none += full;
            let olen = if t > 0 { nights[t - 1].1.len() } else { 0 };
            let start = if aligned { cursor.map(|x: usize| (x + 1).min(olen - 1)) } else { None };
            let range = if t == 0 {
                None
            } else {
                match (start, hit) {
                    (Some(s), Some(h)) if h >= s && h < s + 4 => Some((s, h)),
                    (_, Some(h)) => Some((h.saturating_sub(1), h)),
                    (Some(s), None) => Some((s, (s + 1).min(olen - 1))),
                    (None, None) => cursor.map(|b: usize| (b.min(olen - 1), (b + 1).min(olen - 1))),
                }
            };
            aligned = hit.is_some();
            cursor = hit.or(cursor.map(|x| (x + 1).min(olen.saturating_sub(1))));
            c.prev = range;
            c.stored = full;
            // generations: list of (night, lo, hi), oldest first; the last is the predicted one.
            if let Some((lo, hi)) = range {
                let o = &nights[t - 1].1;
                // ancestors of lo and hi
                let mut anc: Vec<(usize, usize, usize)> = vec![];
                let (al, ah) = (&o[lo].anc, &o[hi].anc);
                // align from the end by generation number where both know the night
                for &(nt, l, _) in al {
                    if let Some(&(_, _, h)) = ah.iter().find(|x| x.0 == nt)
                        && h >= l
                        && h - l < 4
                    {
                        anc.push((nt, l, h));
                    }
                }
                anc.push((t - 1, lo, hi));
                let gen_n = o[lo..=hi].iter().map(|x| x.n).max().unwrap();
                let n = gen_n + 1;
                let dep = |&(nt, l, h): &(usize, usize, usize)| {
                    nights[nt].1[l..=h].iter().map(|x| x.depth).max().unwrap()
                };
                let num = |&(nt, l, h): &(usize, usize, usize)| {
                    nights[nt].1[l..=h].iter().map(|x| x.n).max().unwrap()
                };
                let pick = match rule {
                    "chain" => {
                        anc.iter().rev().find(|x| dep(x) < d).copied().filter(|x| d > 1000 || x.0 == t - 1)
                    }
                    "root" => {
                        if dep(anc.last().unwrap()) < d {
                            anc.last().copied()
                        } else {
                            anc.iter().find(|x| dep(x) == 0).copied()
                        }
                    }
                    "anc" => anc.iter().rev().find(|x| dep(x) < d).copied(),
                    "skip" => {
                        let want = n & (n - 1);
                        anc.iter().rfind(|x| num(x) <= want).copied().or(anc.first().copied())
                    }
                    "radix" => {
                        // n in base d: clear the lowest non-zero digit to its... base of n = n with lowest nonzero digit decremented path chain within digit
                        let mut r = 1;
                        while n % (r * d) == 0 {
                            r *= d;
                        }
                        let want = n - r;
                        anc.iter().rfind(|x| num(x) <= want).copied().or(anc.first().copied())
                    }
                    "radix0" => {
                        let mut r = 1;
                        while n % (r * d) == 0 {
                            r *= d;
                        }
                        let want = n - n % (r * d);
                        anc.iter().rfind(|x| num(x) <= want).copied().or(anc.first().copied())
                    }
                    _ => panic!(),
                };
                if let Some((nt, lo, hi)) = pick {
                    let (od, oc) = &nights[nt];
                    let prefix = &od[oc[lo].at..oc[hi].at + oc[hi].len];
                    let mut cx = CCtx::create();
                    let log = usize::BITS - (prefix.len() + len - 1).leading_zeros();
                    cx.set_parameter(CParameter::CompressionLevel(1)).unwrap();
                    cx.set_parameter(CParameter::WindowLog(log.max(10))).unwrap();
                    cx.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast)).unwrap();
                    cx.set_parameter(CParameter::HashLog(log)).unwrap();
                    cx.ref_prefix(prefix).unwrap();
                    let l = cx.compress2(&mut out[..], p).unwrap();
                    if l < full * 3 / 4 {
                        c.stored = l;
                        c.depth = 1 + dep(&(nt, lo, hi));
                        c.n = n;
                        c.anc = anc;
                    }
                }
            }
            added += c.stored;
            cs.push(c);
        }
        let avgd = cs.iter().map(|c| c.depth * c.len).sum::<usize>() as f64 / data.len() as f64;
        let maxd = cs.iter().map(|c| c.depth).max().unwrap();
        total += added;
        log.push((added, avgd, maxd));
        nights.push((data, cs));
        oldid = ids;
        anchors = anch;
    }
    let at = |n: usize| {
        if n <= log.len() {
            let s: usize = log[..n].iter().map(|x| x.0).sum();
            format!("{}: {:.1}MB d{:.1}/{}", n, s as f64 / 1e6, log[n - 1].1, log[n - 1].2)
        } else {
            String::new()
        }
    };
    let maxavg = log.iter().map(|x| x.1).fold(0.0, f64::max);
    println!(
        "{rule} {d} avg {}K: total {:.1} MB, none {:.1} MB | {} | {} | {} | {} worst avg depth {:.1}",
        avg >> 10,
        total as f64 / 1e6,
        none as f64 / 1e6,
        at(2),
        at(14),
        at(30),
        at(60),
        maxavg
    );
}
