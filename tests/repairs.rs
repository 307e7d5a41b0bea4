//! The repair commands in every order: whatever was lost, and whatever was repaired when, the next backup stores it again.

use crate::harness::{Repo, expect, noise};
use std::path::{Path, PathBuf};

fn packs(repo: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(repo.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut found: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    found.sort_by_key(|path| path.metadata().unwrap().len());
    found
}

/// What happens to a pack.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped,
    CutShort,
    Gone,
    /// Of lists of files, not of content.
    ListGone,
}

impl Damage {
    fn strike(self, repo: &Path) {
        let packs = packs(repo);
        let (smallest, largest) = (&packs[0], packs.last().unwrap());
        let mut bytes = std::fs::read(largest).unwrap();
        match self {
            Self::Flipped => {
                bytes[100_000] ^= 1;
                std::fs::write(largest, bytes).unwrap();
            }
            Self::CutShort => std::fs::write(largest, &bytes[..bytes.len() / 2]).unwrap(),
            Self::Gone => std::fs::remove_file(largest).unwrap(),
            Self::ListGone => std::fs::remove_file(smallest).unwrap(),
        }
    }
}

/// All orders of 0 to `len` - 1.
fn orders(len: usize) -> Vec<Vec<usize>> {
    let Some(last) = len.checked_sub(1) else { return vec![vec![]] };
    let mut all = vec![];
    for order in orders(last) {
        for place in 0..=order.len() {
            let mut longer = order.clone();
            longer.insert(place, last);
            all.push(longer);
        }
    }
    all
}

/// Every order of the commands after each kind of damage in turn, begun at `first`, and then every other one.
fn in_any_order(first: usize) {
    let repo = Repo::made(&["--parity", "off", "--chunk-size", "64k"]);
    for number in 0..5 {
        std::fs::create_dir_all(repo.path("s")).unwrap();
        std::fs::write(repo.path(&format!("s/{number}")), noise(number, 200_000)).unwrap();
    }
    repo.ok(["backup", "s"]);
    let whole = repo.path("whole");
    std::fs::rename(repo.folder(), &whole).unwrap();
    let kinds = [Damage::Flipped, Damage::CutShort, Damage::Gone, Damage::ListGone];
    let commands: [&[&str]; 3] =
        [&["repair", "packs", "--read-data", "-y"], &["repair", "index"], &["repair", "snapshots", "-y"]];
    let cases =
        orders(commands.len()).into_iter().flat_map(|order| kinds.map(|damage| (order.clone(), damage)));
    for (number, (order, damage)) in cases.enumerate().skip(first).step_by(2) {
        let mut order: Vec<&[&str]> = order.into_iter().map(|at| commands[at]).collect();
        // HEAD is lost in between, at another place each time.
        order.insert(number / 2 % 4, &["repair", "head", "-y"]);
        let case = format!("{damage:?}, {order:?}");
        let _ = std::fs::remove_dir_all(repo.folder());
        let _ = std::fs::remove_dir_all(repo.path("cache"));
        crate::harness::run("cp", &["-r", whole.to_str().unwrap(), repo.folder().to_str().unwrap()]);
        damage.strike(repo.folder());
        for words in order {
            if words[1] == "head" {
                std::fs::write(repo.folder().join("HEAD"), b"rubbish").unwrap();
            }
            let output = repo.run(words);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{case}: {output:?}");
        }
        let id = repo.json(["backup", "s"])["snapshot_id"].as_str().unwrap().to_owned();
        let _ = std::fs::remove_dir_all(repo.path("out"));
        let output = repo.run(["restore", &id, "--target", "out"]);
        assert_eq!(output.status.code(), Some(0), "{case}: {output:?}");
        for number in 0..5 {
            let read = std::fs::read(repo.path(&format!("out/s/{number}"))).unwrap();
            assert!(read == noise(number, 200_000), "{case}");
        }
        repo.ok(["forget", "--keep-last", "1", "--prune"]);
        let output = repo.run(["check", "--read-data"]);
        assert_eq!(output.status.code(), Some(0), "{case}: {output:?}");
        assert!(repo.ok(["snapshots"]).contains(&id[..8]), "{case}");
    }
}

#[test]
fn in_any_order_the_next_backup_stores_again_what_was_lost() {
    in_any_order(0);
}

#[test]
fn in_any_other_order_too() {
    in_any_order(1);
}

/// A segment is lost and one of its packs is damaged: what can be read of the pack is stored again, and parity, where
/// there is some, makes it whole.
#[test]
fn an_index_is_made_of_what_can_be_read() {
    for parity in [false, true] {
        let repo = Repo::made(&["--chunk-size", "64k", "--parity", if parity { "on" } else { "off" }]);
        std::fs::create_dir_all(repo.path("s")).unwrap();
        for number in 0..5 {
            std::fs::write(repo.path(&format!("s/{number}")), noise(number, 200_000)).unwrap();
        }
        repo.ok(["backup", "s"]);
        for entry in std::fs::read_dir(repo.folder().join("index")).unwrap() {
            std::fs::write(entry.unwrap().path(), b"rubbish").unwrap();
        }
        std::fs::remove_dir_all(repo.path("cache")).unwrap();
        Damage::Flipped.strike(repo.folder());
        let would = repo.run(["--json", "repair", "index", "-n"]);
        let would: serde_json::Value =
            serde_json::from_str(expect(&would, i32::from(!parity)).lines().last().unwrap()).unwrap();
        let did = repo.run(["--json", "repair", "index"]);
        let did: serde_json::Value =
            serde_json::from_str(expect(&did, i32::from(!parity)).lines().last().unwrap()).unwrap();
        for field in
            ["packs_read", "packs_damaged", "packs_healed", "chunks_found", "chunks_saved", "chunks_lost"]
        {
            assert_eq!(would[field], did[field], "{field}");
        }
        assert_eq!(did["packs_healed"], u64::from(parity));
        assert_eq!(did["chunks_lost"], u64::from(!parity), "{did}");
        if parity {
            repo.ok(["check", "--read-data"]);
            continue;
        }
        assert!(did["chunks_saved"].as_u64().unwrap() > 5, "{did}");
        let output = repo.run(["restore", "latest", "--target", "out"]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("restored 5 of 6 entries"), "{said}");
        assert_eq!(std::fs::read_dir(repo.path("out/s")).unwrap().count(), 4);
        // Once more, nothing more is found.
        let again = repo.run(["--json", "repair", "index"]);
        let again: serde_json::Value =
            serde_json::from_str(String::from_utf8_lossy(&again.stdout).lines().last().unwrap()).unwrap();
        assert_eq!(again["chunks_saved"], 0, "{again}");
        repo.ok(["backup", "s"]);
        repo.ok(["restore", "latest", "--target", "all"]);
        assert_eq!(std::fs::read_dir(repo.path("all/s")).unwrap().count(), 5);
        repo.ok(["check", "--read-data"]);
    }
}

/// What is in a segment that cannot be read counts as lost, and is not: nothing is made anew, or forgotten, by that.
#[test]
fn snapshots_are_not_repaired_by_half_an_index() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("data")).unwrap();
    for night in 0..2 {
        std::fs::write(repo.path(&format!("data/{night}")), noise(night, 200_000)).unwrap();
        repo.ok(["backup", "data"]);
    }
    let index = repo.folder().join("index");
    let first = std::fs::read_dir(&index).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(first).unwrap();
    for more in [&["-n"][..], &["-y"], &["--forget", "-y"]] {
        let told = repo.fails(1, [&["--no-cache", "repair", "snapshots"][..], more].concat());
        assert!(told.contains("run 'esker repair index' first"), "{told}");
    }
    repo.ok(["--no-cache", "repair", "index"]);
    assert_eq!(repo.snapshot_count(), 2);
    repo.ok(["check", "--read-data"]);
}

/// What gives something up is done if somebody said so: on a terminal, or by `--yes`. Else nothing is changed, and that is no
/// success.
#[test]
fn nothing_is_given_up_where_nobody_can_be_asked() {
    for damage in [Damage::Flipped, Damage::CutShort, Damage::Gone, Damage::ListGone] {
        let repo = Repo::made(&["--parity", "off", "--chunk-size", "64k"]);
        std::fs::create_dir_all(repo.path("s")).unwrap();
        std::fs::write(repo.path("s/file"), noise(1, 400_000)).unwrap();
        repo.ok(["backup", "s"]);
        let sound = repo.ok(["repair", "packs", "--read-data"]);
        assert!(sound.contains("none is damaged"), "{sound}");
        damage.strike(repo.folder());
        let (here, kept) = (repo.folder().to_str().unwrap().to_owned(), repo.path("kept"));
        let kept = kept.to_str().unwrap();
        crate::harness::run("cp", &["-a", &here, kept]);
        let unchanged = || crate::harness::run("diff", &["-rq", &here, kept]);
        let said = repo.fails(1, ["repair", "packs", "--read-data"]);
        assert!(said.contains("nothing was done") && said.contains("--yes"), "{damage:?}: {said}");
        unchanged();
        repo.fails(1, ["repair", "packs", "--read-data", "-n"]);
        unchanged();
        let done = repo.run(["repair", "packs", "--read-data", "--yes"]);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.code() == Some(1) && !said.contains("would"), "{damage:?}: {said}");
        assert!(said.contains("whole from parity"), "{damage:?}: {said}");
        crate::harness::run("rm", &["-r", kept]);
        crate::harness::run("cp", &["-a", &here, kept]);
        let said = repo.fails(1, ["repair", "snapshots", "--forget"]);
        assert!(said.contains("nothing was done") && said.contains("--yes"), "{damage:?}: {said}");
        // To look is a session, which HEAD notes.
        crate::harness::run("diff", &["-rq", "-x", "HEAD", &here, kept]);
    }
}
