//! Re-encryption and retiring from the command line: what is said, what is refused, and the other reader.

use crate::harness::{Repo, expect, noise, run, server, source_root};
use crate::lost::three_nights;
use crate::tiered::Tiered;
use chunkstore::format::{ENVELOPE_MAGIC, PACK_MAGIC};
use serde_json::Value;
use std::path::Path;

/// Three nights of a folder, the last under the second epoch.
fn rotated() -> Repo {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("data")).unwrap();
    for night in 1..4 {
        std::fs::write(repo.path(&format!("data/{night}")), noise(night, 100_000)).unwrap();
        if night == 3 {
            repo.ok(["key", "rotate"]);
        }
        repo.ok(["backup", "data"]);
    }
    repo
}

/// Whether any object beneath a folder says that it is sealed under an epoch.
fn has_epoch(folder: &Path, epoch: u32) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return has_epoch(&path, epoch);
        }
        let bytes = std::fs::read(&path).unwrap();
        let at = match (bytes.starts_with(ENVELOPE_MAGIC), bytes.starts_with(PACK_MAGIC)) {
            (true, _) => 8,
            (_, true) => 12,
            _ => return false,
        };
        bytes.get(at..at + 4) == Some(&epoch.to_le_bytes())
    })
}

fn epoch_of(repo: &Repo, number: u64) -> Value {
    let epochs = repo.json(["key", "epochs"]);
    epochs.as_array().unwrap().iter().find(|epoch| epoch["epoch"] == number).unwrap().clone()
}

#[test]
fn what_is_said_and_what_is_refused() {
    let repo = rotated();
    let said = repo.ok(["key", "list"]);
    assert!(said.contains("next: 'esker key re-encrypt'"), "{said}");
    let first = epoch_of(&repo, 1);
    assert!(first["packs"].as_u64().unwrap() > 0 && first["retirable"] == false, "{first}");
    let refused = repo.fails(1, ["key", "retire", "1"]);
    assert!(refused.contains("still needed here") && refused.contains("'esker key re-encrypt'"), "{refused}");
    for (epoch, why) in [("2", "is the newest"), ("7", "there is no epoch 7")] {
        let refused = repo.fails(1, ["key", "retire", epoch]);
        assert!(refused.contains(why), "{refused}");
    }
    let plan = repo.json(["key", "re-encrypt", "--dry-run"]);
    let place = &plan["places"][0];
    assert!(place["packs_moved"].as_u64().unwrap() > 0 && place["dollars"] == 0.0, "{plan}");
    assert!(plan["dry_run"] == true && plan["done"] == false, "{plan}");
    assert!(has_epoch(repo.folder(), 1), "a dry run changes nothing");
    let left = expect(&repo.run(["key", "re-encrypt", "--max-repack-size", "1k"]), 3);
    assert!(
        left.contains("beyond --max-repack-size; the first of them needs")
            && left.contains("goes on with what is left"),
        "{left}"
    );
    let done = repo.ok(["key", "re-encrypt"]);
    assert!(done.contains("nothing is left under an earlier epoch than 2"), "{done}");
    assert!(done.contains("'esker key retire 1'"), "{done}");
    assert!(!has_epoch(repo.folder(), 1));
    let first = epoch_of(&repo, 1);
    assert!(first["retirable"] == true && first["next"] == "esker key retire 1", "{first}");
    let retired = repo.json(["key", "retire", "1"]);
    assert_eq!(retired["retired"], serde_json::json!([1]), "{retired}");
    assert!(repo.ok(["key", "retire", "1"]).contains("epoch 1 was retired before"));
    assert!(epoch_of(&repo, 1)["retired"].is_string());
    assert!(repo.ok(["key", "list"]).contains("retired"));
    repo.ok(["check", "--read-data"]);
    repo.ok(["backup", "data"]);
    repo.ok(["key", "rotate"]);
    assert_eq!(repo.json(["snapshots"]).as_array().unwrap().len(), 4);
    // HEAD made anew has what was sealed again, each once, and knows what is retired from its copies.
    std::fs::remove_file(repo.folder().join("HEAD")).unwrap();
    repo.ok(["repair", "head"]);
    assert_eq!(repo.json(["snapshots"]).as_array().unwrap().len(), 4);
    assert!(epoch_of(&repo, 1)["retired"].is_string());
    repo.ok(["check", "--read-data"]);
}

#[test]
fn the_other_reader_reads_what_was_encrypted_again() {
    let repo = rotated();
    repo.ok(["key", "re-encrypt"]);
    repo.ok(["key", "retire", "1"]);
    std::fs::write(repo.path("password"), "correct horse\n").unwrap();
    let (place, file, out) = (repo.folder(), repo.path("password"), repo.path("out"));
    let script = source_root().join("docs/reader.py");
    let args = [&script, place, &file].map(|path| path.to_str().unwrap());
    run(server("venv/bin/python"), &[&args[..], &["restore", "latest", out.to_str().unwrap()]].concat());
    for night in 1..4 {
        assert!(std::fs::read(out.join(format!("data/{night}"))).unwrap() == noise(night, 100_000));
    }
}

/// What costs much is done if somebody agrees.
#[test]
fn a_price_is_asked_about() {
    let world = three_nights();
    let path = world.repo.path("esker.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, toml + "\n[prices.LOCAL]\nput_1000 = 900000.0\n").unwrap();
    world.repo.ok(["key", "rotate"]);
    let (code, said) = world.say(&["key", "re-encrypt"]);
    assert!(code == 1 && said.contains("no terminal to ask on") && said.contains("--yes"), "{said}");
    let (code, said) = world.say(&["key", "re-encrypt", "--yes"]);
    assert!(code == 0 && said.contains("nothing is left"), "{said}");
}

#[test]
fn tiers_hold_an_epoch_until_they_are_moved() {
    let world: Tiered = three_nights();
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(3).contains("all promises are kept"));
    // Away: the primary is moved, and nothing is retired.
    world.shell("mv disk away");
    let (code, said) = world.say(&["key", "re-encrypt"]);
    assert!(code == 3 && said.contains("tier 'vault' cannot be reached"), "{said}");
    let (code, said) = world.say(&["key", "retire", "1"]);
    assert!(
        code == 1 && said.contains("tier 'vault' cannot be looked at") && said.contains("--lost-tier vault"),
        "{said}"
    );
    let epochs = world.repo.json(["key", "epochs"]);
    assert_eq!(epochs[0]["unreachable"], serde_json::json!(["vault"]), "{epochs}");
    world.shell("mv away disk");
    let (code, said) = world.say(&["key", "retire", "1"]);
    assert!(code == 1 && said.contains("still needed on tier 'vault'"), "{said}");
    let (code, said) = world.say(&["key", "retire", "1", "--lost-tier", "vault"]);
    assert!(code == 1 && said.contains("it is not lost"), "{said}");
    let (code, said) = world.say(&["key", "retire", "1", "--lost-tier", "nope"]);
    assert!(code == 2 && said.contains("there is no tier 'nope'"), "{said}");
    let (code, said) = world.say(&["key", "re-encrypt"]);
    assert!(code == 0 && said.contains("vault: moved"), "{said}");
    for folder in ["repo", "disk/vault"] {
        assert!(!has_epoch(&world.repo.path(folder), 1), "{folder}");
    }
    assert_eq!((world.snapshots("repo"), world.snapshots("disk/vault")), (1, 4));
    world.repo.ok(["key", "retire", "1"]);
    world.is_whole("disk/vault", 4);
    assert!(world.night(4).contains("all promises are kept"));
    world.is_whole("disk/vault", 5);
}

/// What was the primary before is in no HEAD's list of tiers, and may have snapshots that only it has.
#[test]
fn an_old_primary_that_is_away_holds_its_epochs() {
    let world: Tiered = three_nights();
    world.repo.ok(["backup", "--no-sync", "data"]);
    world.shell("mv repo away");
    world.repo.ok(["tier", "adopt", "vault"]);
    world.be_primary("vault");
    world.repo.ok(["key", "rotate"]);
    let (code, said) = world.say(&["key", "re-encrypt"]);
    assert!(code == 3 && said.contains("tier 'local' cannot be reached"), "{said}");
    let epochs = world.repo.json(["key", "epochs"]);
    let last = epochs.as_array().unwrap().len() - 2;
    let earlier = epochs[last]["epoch"].to_string();
    let (code, said) = world.say(&["key", "retire", &earlier]);
    assert!(code == 1 && said.contains("tier 'local' cannot be looked at"), "{said}");
    world.shell("mv away repo");
    let (_, said) = world.say(&["tier", "sync", "--rejoin", "local"]);
    assert!(said.contains("brought back 1 snapshot "), "{said}");
}

/// A tier that was given up comes back: nothing on it counts, and nobody says that it is up to date.
#[test]
fn a_tier_that_was_given_up_is_made_again() {
    let world: Tiered = three_nights();
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(3).contains("all promises are kept"));
    world.shell("mv disk away");
    assert_eq!(world.say(&["key", "re-encrypt"]).0, 3);
    let (code, said) = world.say(&["key", "retire", "1", "--lost-tier", "vault"]);
    assert_eq!(code, 0, "{said}");
    world.shell("mv away disk");
    let (code, said) = world.say(&["tier", "sync"]);
    assert!(code == 3 && said.contains("esker tier init vault"), "{said}");
    world.shell("rm -rf disk/vault");
    let (code, said) = world.say(&["tier", "init", "--again", "vault"]);
    assert_eq!(code, 0, "{said}");
}
