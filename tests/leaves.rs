//! Lists that grow out of HEAD, with the program itself: leaves, their damage, what is left of them, and the other reader.

use crate::harness::{Repo, run, server, source_root};
use std::fs;
use std::path::PathBuf;

/// So many snapshots that HEAD does not hold them itself.
const MANY: usize = 60;

fn many() -> Repo {
    let repo = Repo::new();
    fs::create_dir(repo.path("source")).unwrap();
    for night in 0..MANY {
        fs::write(repo.path("source/file"), format!("night {night}")).unwrap();
        repo.ok(["backup", "source"]);
    }
    repo
}

fn leaves(repo: &Repo) -> Vec<PathBuf> {
    let entries = fs::read_dir(repo.folder().join("sets")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn count(repo: &Repo) -> usize {
    repo.json(["snapshots"]).as_array().unwrap().len()
}

/// Whatever lies in leaves is listed, forgotten, pruned and read by the other reader as if it lay in HEAD.
#[test]
fn a_grown_list_is_as_a_short_one() {
    let repo = many();
    assert!(!leaves(&repo).is_empty());
    assert!(fs::metadata(repo.folder().join("HEAD")).unwrap().len() < 64 << 10);
    assert_eq!(count(&repo), MANY);
    repo.ok(["check", "--read-data"]);
    fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let reader = |args: &[&str]| {
        let script = source_root().join("docs/reader.py");
        let (place, password) = (repo.folder(), repo.path("pw"));
        let all = [script.to_str().unwrap(), place.to_str().unwrap(), password.to_str().unwrap()];
        run(server("venv/bin/python"), &[&all[..], args].concat())
    };
    assert_eq!(reader(&["list"]).lines().count(), MANY);
    // The oldest lies in a leaf.
    let listed = repo.json(["snapshots"]);
    let id = |place: usize| listed[place]["id"].as_str().unwrap().to_owned();
    let out = repo.path("out");
    reader(&["restore", &id(0)[..8], out.to_str().unwrap()]);
    let restored = run("find", &[out.to_str().unwrap(), "-name", "file"]);
    assert_eq!(fs::read_to_string(restored.trim()).unwrap(), "night 0");
    // A tag on an old one, and many taken out.
    repo.ok(["tag", "--add", "kept", &id(1)]);
    repo.ok(["forget", &id(0), &id(2), &id(3)]);
    assert_eq!(count(&repo), MANY - 3);
    assert_eq!(repo.json(["snapshots"])[0]["tags"], serde_json::json!(["kept"]));
    // What an interrupted command left goes; what a command may be about to name stays.
    let age = |generation: u64| format!("sets/1.{generation}.{}", "ab".repeat(32));
    let (left, coming) = (repo.folder().join(age(7)), repo.folder().join(age(1_000_000)));
    fs::write(&left, "left").unwrap();
    fs::write(&coming, "coming").unwrap();
    repo.ok(["prune"]);
    assert!(!left.exists() && coming.exists());
    fs::remove_file(coming).unwrap();
    repo.ok(["forget", "--keep-last", "2", "--prune"]);
    assert_eq!(count(&repo), 2);
    assert_eq!(leaves(&repo), Vec::<PathBuf>::new(), "a list that is short again lies in HEAD");
    repo.ok(["check", "--read-data"]);
}

/// A leaf that is damaged or gone is told by its name with the way out, and the way out needs none of them.
#[test]
fn a_lost_leaf_is_told_and_mended() {
    let repo = many();
    for damage in ["flip", "remove"] {
        for leaf in leaves(&repo) {
            match damage {
                "flip" => {
                    let mut bytes = fs::read(&leaf).unwrap();
                    bytes[90] ^= 1;
                    fs::set_permissions(&leaf, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                    fs::write(&leaf, bytes).unwrap();
                }
                _ => fs::remove_file(&leaf).unwrap(),
            }
        }
        // A cache with the leaves hides nothing from a check.
        let said = repo.fails(1, ["check"]);
        assert!(said.contains("sets/") && said.contains("repair head"), "{said}");
        let said = repo.fails(1, ["--no-cache", "snapshots"]);
        assert!(said.contains("sets/") && said.contains("repair head"), "{said}");
        repo.ok(["--no-cache", "repair", "head", "--yes"]);
        assert_eq!(count(&repo), MANY, "{damage}");
        repo.ok(["check", "--read-data"]);
        assert!(!leaves(&repo).is_empty());
    }
}
