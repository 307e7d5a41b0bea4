//! Repositories and tiers are made once, by one command, and know what they were made as.

use crate::harness::{Repo, expect};
use crate::lost::three_nights;
use serde_json::Value;

/// No command but one makes a tier, and not twice unasked.
#[test]
fn a_tier_is_made_when_that_is_asked_for() {
    let world = three_nights();
    let toml = std::fs::read_to_string(world.repo.path("esker.toml")).unwrap();
    let more = "\n[[tier]]\nname = \"second\"\nurl = \"file:DIR/second\"\n";
    let more = more.replace("DIR", &world.repo.dir.path().display().to_string());
    std::fs::write(world.repo.path("esker.toml"), toml + &more).unwrap();
    let (code, said) = world.say(&["run"]);
    assert!(code == 3 && said.contains("esker tier init second"), "{code}: {said}");
    assert!(!world.repo.path("second").exists());
    let made = world.repo.json(["tier", "init", "second"]);
    assert_eq!((&made["message_type"], &made["tier"]), (&"summary".into(), &"second".into()), "{made}");
    world.walk_out(&["run"]);
    let again = world.repo.fails(1, ["tier", "init", "second"]);
    assert!(again.contains("was made before") && again.contains("--again"), "{again}");
    // Its disk is lost for good.
    world.shell("rm -r second");
    let (code, said) = world.say(&["run"]);
    assert!(code == 3 && said.contains("esker tier init --again second"), "{code}: {said}");
    world.walk_out(&["tier init --again second", "run"]);
    // Never over what is there.
    world.shell("rm second/HEAD");
    let refused = world.repo.fails(1, ["tier", "init", "--again", "second"]);
    assert!(refused.contains("esker repair head --tier second"), "{refused}");
    world.walk_out(&["repair head --tier second", "run"]);
    let there = world.repo.fails(1, ["tier", "init", "--again", "second"]);
    assert!(there.contains("already exists"), "{there}");
    // The primary is lost: a new one is not made beside what its tiers hold.
    world.shell("rm -r repo");
    let refused = world.repo.fails(1, ["init"]);
    assert!(refused.contains("esker tier adopt"), "{refused}");
}

/// The list of tiers outlives the primary, and its HEAD.
#[test]
fn an_adopted_tier_knows_the_others() {
    let world = three_nights();
    let toml = std::fs::read_to_string(world.repo.path("esker.toml")).unwrap();
    let more = "\n[[tier]]\nname = \"second\"\nurl = \"file:DIR/second\"\n";
    let more = more.replace("DIR", &world.repo.dir.path().display().to_string());
    let toml = toml + &more;
    std::fs::write(world.repo.path("esker.toml"), &toml).unwrap();
    world.walk_out(&["tier init second", "run"]);
    world.shell("rm -r repo cache");
    world.walk_out(&["tier adopt vault"]);
    let toml = toml.replace("\nrole = \"primary\"", "").replace("role = \"vault\"", "role = \"primary\"");
    std::fs::write(world.repo.path("esker.toml"), toml).unwrap();
    // The disk of the other copy is not mounted: it is no new tier to the new primary either.
    world.shell("mv second gone");
    let (code, said) = world.say(&["run"]);
    assert!(code == 3 && said.contains("tier 'second' was made there"), "{code}: {said}");
    world.shell("mv gone second");
    world.walk_out(&["tier init local", "run"]);
    // And after its HEAD was lost, with every copy of it.
    world.shell("rm -r disk/vault/HEAD disk/vault/copies");
    world.walk_out(&["repair head", "tier sync"]);
    world.shell("mv second gone && mkdir second");
    let (code, said) = world.say(&["run"]);
    assert!(code == 3 && said.contains("'second' was made"), "{code}: {said}");
    assert_eq!(std::fs::read_dir(world.repo.path("second")).unwrap().count(), 0);
}

/// A HEAD counts in its own place, wherever that place is.
#[test]
fn a_head_of_another_place_does_not_open_and_a_moved_repository_does() {
    let world = three_nights();
    world.shell("cp -a repo moved && cp -a disk/vault moved-vault");
    assert_eq!((world.snapshots("moved"), world.snapshots("moved-vault")), (1, 3));
    world.shell("cp disk/vault/HEAD moved/HEAD && cp repo/HEAD moved-vault/HEAD");
    for (place, other) in [("moved", "tier 'vault'"), ("moved-vault", "the primary")] {
        for cache in [&["--no-cache"][..], &[]] {
            let place = world.place(place);
            let args = [&["-r", &place], cache, &["snapshots"]].concat();
            let said = world.repo.fails(1, &args);
            assert!(said.contains("HEAD is damaged") && said.contains(other), "{said}");
        }
    }
    // The memory of the right ones is not spoilt.
    assert_eq!((world.snapshots("repo"), world.snapshots("disk/vault")), (1, 3));
    world.repo.ok(["run"]);
    // Without esker.toml a place knows what it was made as.
    for place in ["moved", "moved-vault"] {
        let report = world.repo.json(["-r", &world.place(place), "--no-cache", "repair", "head"]);
        let tier = if place == "moved" { Value::Null } else { "vault".into() };
        assert_eq!((&report["tier"], &report["rebuilt"]), (&tier, &true.into()), "{report}");
    }
    assert_eq!((world.snapshots("moved"), world.snapshots("moved-vault")), (1, 3));
}

/// An init that was killed is finished by the next.
#[test]
fn an_interrupted_init_goes_on() {
    let repo = Repo::empty();
    repo.ok(["init"]);
    std::fs::write(repo.path("f"), "x").unwrap();
    repo.ok(["backup", "f"]);
    // And what this machine has seen.
    let remove = |names: &str| {
        let cache = repo.path("cache");
        let script =
            format!("rm -rf '{}' && cd '{}' && rm -rf {names}", cache.display(), repo.folder().display());
        crate::harness::run("sh", &["-ec", &script]);
    };
    // Killed before HEAD was written.
    remove("HEAD packs index snapshots parity copies");
    let said = repo.fails(1, ["snapshots"]);
    assert!(said.contains("was interrupted") && said.contains("esker init"), "{said}");
    let mut other = repo.command(["init"]);
    let output = other.env("ESKER_PASSWORD", "another").output().unwrap();
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be finished"), "{output:?}");
    repo.ok(["init"]);
    repo.ok(["backup", "f"]);
    // Before its configuration was.
    remove("HEAD packs index snapshots parity copies config");
    repo.fails(10, ["snapshots"]);
    repo.ok(["init"]);
    repo.ok(["backup", "f"]);
    repo.ok(["prune"]);
    repo.ok(["check", "--read-data"]);
    assert!(repo.fails(1, ["init"]).contains("already exists"));
}

/// What is for copies is not taken for the primary, and does not end as if it had been done.
#[test]
fn commands_for_copies_refuse_the_primary() {
    let world = three_nights();
    for args in [
        &["tier", "prune", "local"][..],
        &["tier", "prune", "--accept-head", "local"],
        &["tier", "sync", "local"],
    ] {
        let said = world.repo.fails(1, args);
        assert!(said.contains("'local' is the primary"), "{said}");
    }
}
