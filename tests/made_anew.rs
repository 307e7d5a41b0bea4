//! HEADs that were made anew, or put back from an older copy: what they may not name stays, and which passwords count.

use crate::harness::expect;
use crate::lost::{NIGHTS, three_nights};

/// A tier whose HEAD was put back from an older copy is refused by a machine that never saw a later one.
#[test]
fn a_tier_that_was_rolled_back_is_known_to_the_primary() {
    let world = three_nights();
    world.shell("cp disk/vault/HEAD older");
    world.night(3);
    world.shell("cp older disk/vault/HEAD && rm -rf cache");
    let before = world.objects("disk/vault");
    let (code, said) = world.say(&["run"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("rolled back") && said.contains("esker repair head --tier vault"), "{said}");
    world.say(&["tier", "prune"]);
    assert!(world.objects("disk/vault").is_superset(&before));
    world.walk_out(&["repair head --tier vault"]);
    assert!(world.night(4).contains("all promises are kept"));
    world.is_whole("disk/vault", 6);
}

/// What HEAD does not name after it was made anew stays until a person says that it may go, and is named then.
#[test]
fn a_head_made_anew_removes_nothing_unasked() {
    let world = three_nights();
    // A snapshot's record is damaged when HEAD is made anew: its packs look unused.
    let vault = world.repo.path("disk/vault");
    // One that only the vault has: that of the newest would come back from the primary.
    let here = world.repo.path("repo/snapshots");
    let mut records = std::fs::read_dir(vault.join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
    let victim = records.find(|path| !here.join(path.file_name().unwrap()).exists()).unwrap();
    let record = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, b"damaged").unwrap();
    world.shell("rm -r disk/vault/HEAD disk/vault/copies");
    world.repo.fails(1, ["repair", "head", "--tier", "vault"]);
    let before = world.objects("disk/vault");
    for command in [&["run"][..], &["tier", "prune"], &["tier", "prune", "vault"]] {
        let (_, said) = world.say(command);
        assert!(world.objects("disk/vault").is_superset(&before), "{command:?}: {said}");
    }
    let said = world.repo.ok(["tier", "prune", "vault"]);
    assert!(said.contains("HEAD was made anew"), "{said}");
    // The record comes back, and all is there.
    std::fs::write(&victim, record).unwrap();
    world.shell("rm -r disk/vault/HEAD disk/vault/copies");
    world.say(&["repair", "head", "--tier", "vault"]);
    assert!(world.snapshots("disk/vault") >= NIGHTS as usize);
    // Now something that nothing needs: it goes when that is asked for, by its name.
    std::fs::create_dir_all(vault.join("packs/00112233445566778899aabbccddeeff")).unwrap();
    let stray = format!("packs/00112233445566778899aabbccddeeff/{}", "ab".repeat(32));
    std::fs::write(vault.join(&stray), b"of nobody").unwrap();
    let said = world.repo.ok(["tier", "prune", "vault"]);
    assert!(vault.join(&stray).exists() && said.contains("1 object "), "{said}");
    let report = world.repo.json(["tier", "prune", "--dry-run", "--accept-head", "vault"]);
    assert_eq!(report["orphan_names"], serde_json::json!([stray]), "{report}");
    let said = world.repo.ok(["tier", "prune", "--accept-head", "vault"]);
    assert!(!vault.join(&stray).exists() && said.contains(&stray), "{said}");
    world.is_whole("disk/vault", world.snapshots("disk/vault"));
    let quiet = world.repo.ok(["tier", "prune", "vault"]);
    assert!(!quiet.contains("made anew"), "{quiet}");
}

/// HEADs of other tiers say which key slots count: one that is lost with the primary's HEAD comes back, one that was removed
/// and whose file came back does not.
#[test]
fn a_head_made_anew_has_the_key_slots_that_count() {
    let world = three_nights();
    let repo = &world.repo;
    let as_second = |place: &str, code: i32| {
        let place = world.place(place);
        let mut command = repo.command(["-r", &place, "--no-cache", "snapshots"]);
        let output = command.env("ESKER_PASSWORD", "second").output().unwrap();
        expect(&output, code);
    };
    let slot = || {
        let list = repo.json(["key", "list"]);
        let other = list.as_array().unwrap().iter().find(|slot| slot["current"] == false).cloned();
        other.unwrap()["id"].as_str().unwrap().to_owned()
    };
    std::fs::write(repo.path("second"), "second\n").unwrap();
    repo.ok(["key", "add", "--new-password-file", "second"]);
    repo.ok(["tier", "sync"]);
    let second = slot();
    world.shell(&format!("cp repo/keys/{second} kept-slot"));
    let lose_head = "rm -rf repo/HEAD repo/copies/*/HEAD*";
    world.shell(&format!("{lose_head}; find repo -name {second} -delete"));
    let said = repo.ok(["repair", "head", "-y"]);
    assert!(said.contains("1 of the key slots are put back"), "{said}");
    ["repo", "disk/vault"].iter().for_each(|place| as_second(place, 0));
    world.night(10);
    ["repo", "disk/vault"].iter().for_each(|place| as_second(place, 0));

    repo.ok(["key", "remove", &second]);
    repo.ok(["tier", "sync"]);
    ["repo", "disk/vault"].iter().for_each(|place| as_second(place, 12));
    world.shell(&format!("cp kept-slot repo/keys/{second}; {lose_head}"));
    let said = repo.ok(["repair", "head", "-y"]);
    assert!(said.contains("stays out"), "{said}");
    as_second("repo", 12);
    world.night(11);
    ["repo", "disk/vault"].iter().for_each(|place| as_second(place, 12));

    // A password that was changed since the last sync is the one that counts.
    std::fs::write(repo.path("third"), "third\n").unwrap();
    repo.ok(["key", "passwd", "--new-password-file", "third"]);
    world.shell(lose_head);
    let as_third =
        |args: &[&str]| expect(&repo.command(args).env("ESKER_PASSWORD", "third").output().unwrap(), 0);
    // The vault still has the old one, and says nothing to the new one.
    as_third(&["repair", "head", "-y"]);
    as_third(&["snapshots"]);
}
