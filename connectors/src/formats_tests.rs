//! Streams of every format, whole and cut.

use super::{format, formats};
use connector_kit::format::{AnyEndMark, Expect, Findings, HEAD};
use engine::source::end_mark::EndMark as _;
use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;

/// "hello", by xz.
const XZ: &[u8] = b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36\x02\0\x21\x01\x16\0\0\0\x74\x2f\xe5\xa3\x01\0\x05hello\n\0\0\0\x20\x30\x3a\x36\0\x01\x1a\x06\xc5\xea\xc8\x79\x90\x42\x99\x0d\x01\0\0\0\0\x01YZ";

/// A tar of one file.
fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(vec![]);
    archive.append_data(&mut header, "file", content).unwrap();
    archive.into_inner().unwrap()
}

fn insist(name: &str) -> Expect {
    Expect::Format(format(name).unwrap())
}

fn check(bytes: &[u8], expect: Expect, part: usize) -> (Result<(), String>, Findings) {
    let findings = Rc::<RefCell<Findings>>::default();
    let mut mark = AnyEndMark::new(formats(), expect, Rc::clone(&findings));
    bytes.chunks(part).for_each(|part| mark.see(part));
    let done = mark.finish();
    (done, findings.borrow().clone())
}

/// Small streams of every format, and how many bytes may be missing from the end without harm.
fn samples() -> Vec<(&'static str, Vec<u8>, usize)> {
    let text: Vec<u8> = (0..3000).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let mut rdb = b"REDIS0011\xfe\x00\x00\x01a\x01b\xff".to_vec();
    let mut digest = connector_redis::rdb::crc64();
    digest.update(&rdb);
    rdb.extend_from_slice(&digest.finalize().to_le_bytes());
    let sql = |head: &str, end: &str| [head.as_bytes(), &text, end.as_bytes()].concat();
    let aof: Vec<u8> =
        (0..100).flat_map(|_| connector_redis::resp::encode(&[b"SET", b"key", b"value"])).collect();
    let json = format!("{{\"list\": [{}1], \"text\": \"}}\\\"]\"}}\n", "1, ".repeat(300));
    vec![
        ("gzip", gzip.finish().unwrap(), 0),
        ("zstd", zstd::encode_all(text.as_slice(), 1).unwrap(), 0),
        ("xz", XZ.to_vec(), 0),
        ("tar", tar(&text), 0),
        ("json", json.into_bytes(), 1),
        (
            "pg-sql",
            sql(
                "--\n-- PostgreSQL database dump\n--\n\nCOPY public.t (a) FROM stdin;\n",
                "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n",
            ),
            1,
        ),
        ("mysql-sql", sql("-- MariaDB dump 10.19\n--\n", "-- Dump completed on 2026-11-21  1:02:03\n"), 0),
        ("rdb", rdb, 0),
        ("aof", aof, 0),
    ]
}

#[test]
fn whole_samples_pass_and_cut_ones_do_not() {
    for (format, bytes, spare) in samples() {
        for part in [1, 7, 511, bytes.len()] {
            let (done, findings) = check(&bytes, Expect::Recognised, part);
            assert_eq!((done, findings.format, findings.whole), (Ok(()), super::format(format), true));
        }
        let command = if format == "aof" { 31 } else { usize::MAX };
        for len in (1..bytes.len() - spare).step_by(1 + bytes.len() / 300) {
            if len % command == 0 {
                continue;
            }
            let (done, findings) = check(&bytes[..len], insist(format), 97);
            assert!(done.is_err() && !findings.whole, "{}: cut at {len} of {}", format, bytes.len());
            if len > HEAD {
                let (done, _) = check(&bytes[..len], Expect::Recognised, 97);
                assert!(done.unwrap_err().contains("--expect none"), "{}: {len}", format);
                assert!(check(&bytes[..len], Expect::Nothing, 97).0.is_ok());
            }
        }
    }
}

#[test]
fn lines_of_json_and_what_only_looks_like_it() {
    let lines = b"{\"a\": 1}\n{\"a\": [2]}\n".repeat(50);
    let (done, findings) = check(&lines, Expect::Recognised, 13);
    assert_eq!((done, findings.format, findings.whole), (Ok(()), format("json"), true));
    assert!(check(&lines[..lines.len() - 4], Expect::Recognised, 13).0.is_err());
    assert!(check(&lines, insist("jsonl"), 13).0.is_ok());
    assert!(check(&lines, insist("json"), 13).0.is_err(), "more than one value");
    for other in [&b"{% template %} with an open { brace"[..], b"[section]\nkey = {", b"plain text"] {
        let (done, findings) = check(other, Expect::Recognised, 5);
        assert!(done.is_ok() && findings.format.is_none() && !findings.whole, "{other:?}");
        assert!(check(other, insist("json"), 5).0.is_err());
    }
}

#[test]
fn several_members_and_frames() {
    let gzip = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let two = [gzip(b"one"), gzip(b"two")].concat();
    assert!(check(&two, Expect::Recognised, 3).0.is_ok());
    let frame = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
    let skippable = b"\x52\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    let two = [frame(b"one"), skippable, frame(b"two")].concat();
    assert!(check(&two, Expect::Recognised, 3).0.is_ok());
    assert!(check(&two[..two.len() - 1], insist("zstd"), 3).0.is_err());
    let mut flipped = gzip(b"a longer text, of which one bit is changed");
    let middle = flipped.len() - 6;
    flipped[middle] ^= 1;
    assert!(check(&flipped, insist("gzip"), 100).0.is_err(), "its checksum");
}
