//! What restic's users and their scripts look for in what `check` and `prune` take and print.

use crate::harness::{Repo, expect, noise};
use std::path::{Path, PathBuf};

/// Packs of content of the repository, the largest of each session.
fn packs(repo: &Path) -> Vec<PathBuf> {
    let sessions = std::fs::read_dir(repo.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let largest = sessions.filter_map(|folder| {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| path.metadata().unwrap().len())
    });
    largest.collect()
}

#[test]
fn a_check_of_some_snapshots_reads_what_they_need() {
    let repo = Repo::made(&["--parity", "off"]);
    let mut known = vec![];
    let mut own = vec![];
    for (seed, name) in ["first", "second"].into_iter().enumerate() {
        std::fs::write(repo.path(name), noise(seed as u64, 300_000)).unwrap();
        repo.ok(["backup", name, "--tag", name, "--host", &format!("of-{name}")]);
        own.extend(packs(repo.folder()).into_iter().filter(|pack| !known.contains(pack)));
        known.clone_from(&own);
    }
    let mut bytes = std::fs::read(&own[0]).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&own[0], bytes).unwrap();
    let first = repo.json(["snapshots", "--tag", "first"])[0]["id"].as_str().unwrap().to_owned();
    let sound: [&[&str]; 4] =
        [&["--tag", "second"], &["-H", "of-second"], &["--path", "second"], &["latest"]];
    for words in sound {
        let report = repo.json([&["check", "--read-data"][..], words].concat());
        assert_eq!(
            (&report["snapshots"], &report["num_errors"]),
            (&1.into(), &0.into()),
            "{words:?}: {report}"
        );
        assert!(report["packs_read"].as_u64().unwrap() > 0, "{words:?}: {report}");
    }
    for words in [&["--tag", "first"][..], &[first.as_str()], &["latest", "--host", "of-first"], &[]] {
        let text = repo.fails(1, [&["check", "--read-data"][..], words].concat());
        assert!(text.contains("/first: parts of its content"), "{words:?}: {text}");
    }
    for words in [["--tag", "third"], ["-H", "nobody"], ["--path", "third"]] {
        let text = repo.fails(1, [&["check"][..], &words].concat());
        assert!(text.contains("nothing fits"), "{words:?}: {text}");
    }
}

/// The count and the size of a line.
fn counted<'a>(said: &'a str, what: &str) -> (u64, &'a str) {
    let line = said.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let line = line.unwrap_or_else(|| panic!("{what}: {said}"));
    let (count, size) = line.split_once(" blobs / ").unwrap();
    (count.trim().parse().unwrap(), size)
}

#[test]
fn a_prune_counts_what_it_does_in_restics_words() {
    let repo = Repo::made(&["--chunk-size", "16k"]);
    for number in 0..3 {
        for name in ["a", "b", "c"] {
            std::fs::create_dir_all(repo.path(&format!("s/{name}"))).unwrap();
            std::fs::write(repo.path(&format!("s/{name}/f")), noise(number * 3 + name.len() as u64, 200_000))
                .unwrap();
        }
        std::fs::write(repo.path("s/stays"), noise(100, 100_000)).unwrap();
        repo.ok(["backup", "s"]);
    }
    let before = expect(&repo.run(["prune", "-n", "--max-unused", "0"]), 0);
    assert_eq!(counted(&before, "total prune").0, 0, "{before}");
    let all = counted(&before, "remaining").0;
    repo.ok(["forget", "--keep-last", "1"]);
    let said = expect(&repo.run(["prune", "--max-unused", "0"]), 0);
    let (repack, removes) = (counted(&said, "to repack").0, counted(&said, "this removes").0);
    let (delete, total) = (counted(&said, "to delete").0, counted(&said, "total prune").0);
    assert!(repack > removes && removes > 0 && total == removes + delete, "{said}");
    assert_eq!(counted(&said, "remaining").0 + total, all, "{said}");
    assert!(said.contains("unused size after prune: 0 B (0.00% of remaining size)"), "{said}");
    let after = expect(&repo.run(["prune", "-n", "--max-unused", "0"]), 0);
    assert_eq!(counted(&after, "total prune"), (0, "0 B"), "{after}");
    assert_eq!(counted(&after, "remaining").0, counted(&said, "remaining").0, "{after}");
}
