//! Several sources in one snapshot, streams that are cut off, and what is compressed.

use crate::harness::{Repo, expect, free_port, noise, settle, text};
use crate::redis::{Redis, apt_redis};
use crate::relay::{cut_after, cuts};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

#[test]
fn a_server_and_a_tree_are_one_set() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.fill(3000);
    for (name, bytes) in [("app/config.toml", 100), ("app/data/blob", 3_000_000), ("zoo/last", 10)] {
        let path = repo.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, noise(bytes as u64, bytes)).unwrap();
    }
    settle();
    let url = redis.url();
    let (app, zoo) = (repo.path("app"), repo.path("zoo"));
    let set = ["backup", &url, app.to_str().unwrap(), zoo.to_str().unwrap()];
    let output = repo.ok(set);
    assert!(output.contains("skew"), "{output}");
    let snapshot = &repo.json(["snapshots"])[0];
    let sources = snapshot["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 3);
    let stamp = |source: &Value, end: &str| source[end].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for source in sources {
        assert!(stamp(source, "start") <= stamp(source, "end"), "{source}");
    }
    let skew = snapshot["skew_seconds"].as_f64().unwrap();
    assert!(skew > 0.0 && skew < 30.0, "{skew}");
    repo.ok(["restore", "latest", "--target", "out"]);
    for name in ["app/config.toml", "app/data/blob", "zoo/last"] {
        let there = repo.path("out").join(repo.path(name).strip_prefix("/").unwrap());
        assert!(std::fs::read(there).unwrap() == std::fs::read(repo.path(name)).unwrap(), "{name}");
    }
    let empty = Redis::start(&apt_redis(), &repo.path("empty"), &["--repl-diskless-sync-delay", "0"]);
    repo.ok(["restore", "latest", "--to", &empty.url(), "--whole"]);
    assert_eq!(empty.digest(), redis.digest());
    // Nothing of the tree is read again, and the same server is one set with it.
    let again = repo.json(set);
    assert_eq!((&again["files_unmodified"], &again["files_new"]), (&3.into(), &0.into()), "{again}");
    // One that is down: no half of a set.
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    repo.fails(25, ["backup", &nobody, app.to_str().unwrap()]);
    assert_eq!(repo.snapshot_count(), 2);
}

#[test]
fn servers_that_are_cut_off_make_no_snapshot() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.fill(3000);
    let whole = repo.json(["-o", "redis.order=raw", "backup", &redis.url()])["total_bytes_processed"]
        .as_u64()
        .unwrap();
    let port: u16 = redis.url().rsplit(':').next().unwrap().parse().unwrap();
    let random = noise(8, 8 * 3 * cuts() as usize);
    let mut numbers = random.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    for scheme in ["redis", "redis+scan"] {
        for order in ["canonical", "raw"] {
            for _ in 0..cuts().div_ceil(2) {
                let at = numbers.next().unwrap() % whole;
                let url = format!("{scheme}://127.0.0.1:{}", cut_after(port, at));
                let output = repo.run(["-o", &format!("redis.order={order}"), "backup", &url]);
                let code = output.status.code().unwrap();
                assert!([21, 25].contains(&code), "{scheme}, {order}, {at} of {whole}: {code}");
            }
        }
    }
    assert_eq!(repo.snapshot_count(), 1);
    // The proxy itself harms nothing.
    repo.ok(["backup", &format!("redis://127.0.0.1:{}", cut_after(port, u64::MAX))]);
}

#[test]
fn dumps_that_are_cut_off_make_no_snapshot() {
    let repo = Repo::new();
    let body = text(5, 300_000);
    let sql = [b"-- MariaDB dump 10.19\n".as_slice(), &body, b"\n-- Dump completed on 2026-11-21 22:00:00\n"]
        .concat();
    std::fs::write(repo.path("sql"), &sql).unwrap();
    std::fs::create_dir(repo.path("folder")).unwrap();
    std::fs::write(repo.path("folder/file"), &body).unwrap();
    std::fs::write(repo.path("lines"), b"{\"a\": [1, 2], \"b\": \"text }\"}\n".repeat(9000)).unwrap();
    let made = Command::new("sh")
        .args(["-c", "gzip -k sql && xz -k -0 sql && zstd -q sql -o sql.zst && tar cf folder.tar folder"])
        .current_dir(repo.dir.path())
        .status()
        .unwrap();
    assert!(made.success());
    let random = noise(9, 8 * 6 * cuts() as usize);
    let mut numbers = random.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let mut good = 0;
    for name in ["sql", "sql.gz", "sql.xz", "sql.zst", "folder.tar", "lines"] {
        let bytes = std::fs::read(repo.path(name)).unwrap();
        expect(&repo.feed(["backup", "--stdin", "--stdin-filename", name], &bytes), 0);
        good += 1;
        let details = &repo.json(["snapshots", "--latest", "1"])[0]["sources"][0]["details"];
        assert_eq!(details["end"], "proved", "{name}: {details}");
        for number in 0..cuts() {
            // Lines of JSON that end with a line are whole, whatever was to follow.
            // A tar is whole without the zeros that fill its last record.
            let needed = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let mut at = 600 + numbers.next().unwrap() as usize % (needed - 1100);
            at += usize::from(bytes[at - 1] == b'\n' || bytes[at] == b'\n') * 3;
            let output = repo.feed(["backup", "--stdin"], &bytes[..at]);
            assert_eq!(output.status.code(), Some(21), "{name}, cut at {at} of {}", bytes.len());
            // A command that ends well although its output does not.
            if number.is_multiple_of(5) {
                std::fs::write(repo.path("cut"), &bytes[..at]).unwrap();
                repo.fails(21, ["backup", "--stdin-from-command", "--", "cat", "cut"]);
            }
        }
    }
    assert_eq!(repo.snapshot_count(), good);
    std::fs::write(repo.path("cut"), &sql[..5000]).unwrap();
    repo.ok(["backup", "--stdin-from-command", "--expect", "none", "--", "cat", "cut"]);
    let text = repo.fails(21, ["backup", "--stdin-from-command", "--expect", "tar", "--", "cat", "sql"]);
    assert!(text.contains("not a whole tar stream"), "{text}");
    assert!(repo.fails(2, ["backup", "--stdin", "--expect", "word"]).contains("pg-custom"));
}

/// Rows of a table as SQL.
fn dump(night: u64) -> Vec<u8> {
    let mut out = b"-- MariaDB dump 10.19\n".to_vec();
    for row in 0..60_000u64 {
        // One in a hundred changes every night.
        let changed = if (row + night).is_multiple_of(100) { night } else { 0 };
        let name = blake3::hash(&(row * 1000 + changed).to_le_bytes()).to_hex();
        writeln!(out, "INSERT INTO t VALUES ({row},'{}',{changed});", &name[..40]).unwrap();
    }
    out.extend_from_slice(b"-- Dump completed on 2026-11-21 22:00:00\n");
    out
}

#[test]
fn what_is_compressed_is_found_again_if_it_is_decompressed() {
    let gzip = |bytes: &[u8]| {
        let mut child =
            Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
        let feeder = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let out = child.wait_with_output().unwrap().stdout;
        feeder.join().unwrap();
        out
    };
    let (first, second) = (gzip(&dump(1)), gzip(&dump(2)));
    let nights = |more: &[&str]| {
        let repo = Repo::new();
        let mut added = vec![];
        for night in [&first, &second] {
            let args: Vec<&str> = ["--json", "backup", "--stdin", "--stdin-filename", "sql.gz"]
                .iter()
                .chain(more)
                .copied()
                .collect();
            let output = repo.feed(args, night);
            let stdout = expect(&output, 0);
            let summary: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
            added.push(summary["data_added_packed"].as_u64().unwrap());
        }
        (repo, added)
    };
    let (packed, without) = nights(&[]);
    let hint = packed.feed(["backup", "--stdin"], &first);
    assert!(expect(&hint, 0).contains("--decompress"));
    let (plain, with) = nights(&["--decompress"]);
    println!("second night: {} bytes decompressed, {} as it is", with[1], without[1]);
    assert!(with[1] * 5 <= without[1], "{with:?} {without:?}");
    assert!(packed.run(["dump", "latest~1", "sql.gz"]).stdout == second);
    assert!(plain.run(["dump", "latest", "sql.gz"]).stdout == dump(2));
    let details = &plain.json(["snapshots"])[1]["sources"][0]["details"];
    assert_eq!((&details["decompressed"], &details["format"]), (&"gzip".into(), &"mysql-sql".into()));
    // What is cut off within, or behind, its compression.
    let cut = plain.feed(["backup", "--stdin", "--decompress"], &second[..second.len() / 2]);
    assert_eq!(cut.status.code(), Some(21));
    let inner = gzip(&dump(2)[..1_000_000]);
    let cut = plain.feed(["backup", "--stdin", "--decompress"], &inner);
    assert_eq!(cut.status.code(), Some(21), "the dump inside is not whole");
    assert_eq!(plain.snapshot_count(), 2);
}
