//! What only a copy has comes to the primary, and what somebody forgot does not come back.

use crate::harness::noise;
use crate::tiered::{DATA, Tiered, places, promise};

/// Three places, of which each has one night.
fn world() -> Tiered {
    let daily =
        promise("30d", &["local", "usb", "nas"]).replace("keep =", "select = { class = \"daily\" }\nkeep =");
    let world = Tiered::new(places("local", ["usb", "nas"]), &(DATA.to_owned() + &daily));
    world.night(1);
    world
}

/// A snapshot, by its tag, restores from one place alone.
fn restores_from(world: &Tiered, place: &str, tag: &str, seed: u64) {
    assert!(world.file_of(place, &["latest", "--tag", tag]) == noise(seed, 200_000));
    crate::harness::expect(&world.at(place, &["check", "--read-data"]), 0);
}

#[test]
fn a_copy_that_was_behind_gets_what_another_one_has_when_it_is_adopted() {
    let world = world();
    let repo = &world.repo;
    world.shell("mv usb away");
    world.change(2);
    let quiet = repo.run(["backup", "-q", "--tag", "precious", "data"]);
    let (out, said) = (String::from_utf8(quiet.stdout).unwrap(), String::from_utf8(quiet.stderr).unwrap());
    assert!(quiet.status.code() == Some(3) && out.is_empty(), "{out}");
    assert!(
        said.contains("tier 'usb'") && said.contains("BEHIND"),
        "why a quiet command ends with 3: {said}"
    );
    world.shell("mv away usb; rm -r local");
    let said = repo.fails(10, ["run"]);
    assert!(said.contains("'esker tier adopt usb' (1 snapshot)") && said.contains("adopt nas' (2"), "{said}");
    let status = repo.run(["tier", "status"]);
    assert_eq!(status.status.code(), Some(10));
    let table = String::from_utf8(status.stdout).unwrap();
    assert!(table.contains("usb") && table.contains("nas"), "{table}");
    let said = repo.ok(["tier", "adopt", "usb"]);
    assert!(said.contains("tier 'nas' has 1 snapshot that 'usb' lacks"), "{said}");
    let said = repo.fails(10, ["run"]);
    assert!(said.contains("give it the role 'primary'"), "{said}");
    world.be_primary("usb");
    repo.ok(["tier", "init", "local"]);
    let said = repo.ok(["tier", "sync"]);
    assert!(said.contains("tier 'usb': brought back 1 snapshot "), "{said}");
    let said = repo.ok(["run"]);
    assert!(said.contains("all promises are kept"), "{said}");
    restores_from(&world, "usb", "precious", 2);
    restores_from(&world, "local", "precious", 2);
}

#[test]
fn what_the_old_primary_alone_has_comes_over_when_it_rejoins() {
    let world = world();
    let repo = &world.repo;
    world.change(2);
    repo.ok(["backup", "--no-sync", "--tag", "precious", "data"]);
    world.shell("mv local away");
    repo.ok(["tier", "adopt", "usb"]);
    world.be_primary("usb");
    world.change(3);
    repo.fails(3, ["run"]);
    world.shell("mv away local");
    let said = repo.ok(["tier", "sync", "--rejoin", "local"]);
    assert!(said.contains("brought back 1 snapshot "), "{said}");
    let said = repo.ok(["run"]);
    assert!(said.contains("all promises are kept"), "{said}");
    for place in ["local", "usb", "nas"] {
        restores_from(&world, place, "precious", 2);
    }
}

#[test]
fn a_record_that_the_primary_lost_comes_from_a_copy() {
    let world = world();
    let repo = &world.repo;
    world.change(2);
    repo.ok(["backup", "--tag", "precious", "data"]);
    let anew = "rm -r local/HEAD local/copies";
    let losses: [(&[&str], bool, &[&str]); 5] = [
        (&["rm local/snapshots/*"], false, &["run"]),
        (&["rm local/snapshots/*"], false, &["heal"]),
        (&["for name in local/snapshots/*; do echo x > $name; done"], false, &["tier", "sync"]),
        (&["rm local/snapshots/*", anew], true, &["run"]),
        // Its packs and its list of packs, too.
        (&["rm -r local/snapshots/* local/packs/* local/index/*", anew], true, &["tier", "sync"]),
    ];
    world.keep();
    for (lose, is_made_anew, command) in losses {
        world.again();
        lose.iter().for_each(|script| world.shell(script));
        if is_made_anew {
            repo.ok(["repair", "head"]);
        }
        let said = repo.ok(command);
        assert!(
            said.contains("brought back") || said.contains("lost record") || command == ["run"],
            "{lose:?}: {said}"
        );
        let said = repo.ok(["run"]);
        assert!(said.contains("all promises are kept"), "{lose:?}: {said}");
        restores_from(&world, "local", "precious", 2);
        repo.ok(["prune"]);
    }
}

/// What was forgotten is not lost, whatever comes and goes meanwhile.
#[test]
fn what_was_forgotten_stays_away() {
    let world = world();
    let repo = &world.repo;
    world.change(2);
    repo.ok(["backup", "--tag", "precious", "data"]);
    let list = repo.json(["snapshots", "--tag", "precious"]);
    let id = list[0]["id"].as_str().unwrap().to_owned();
    // A copy is away while it is forgotten; and another snapshot gets a tag.
    world.shell("mv nas away");
    repo.ok(["forget", &id]);
    repo.ok(["tag", "--add", "more", "latest"]);
    repo.fails(3, ["run"]);
    world.shell("mv away nas");
    let there = |place: &str| {
        let place = world.place(place);
        repo.json(["-r", &place, "--no-cache", "snapshots"]).to_string().contains(&id)
    };
    // It goes from the copy that was away, too, by the first command that reaches it.
    for command in [&["tier", "sync"][..], &["run"], &["heal"], &["run"]] {
        repo.ok(command);
        assert!(!there("local") && !there("usb") && !there("nas"), "{command:?}");
    }
    // Nor after another one became the primary.
    world.shell("rm -r local");
    repo.ok(["tier", "adopt", "usb"]);
    world.be_primary("usb");
    repo.ok(["tier", "init", "local"]);
    for command in [&["tier", "sync"][..], &["run"]] {
        repo.ok(command);
        assert!(!there("usb") && !there("local"), "{command:?}");
    }
}

/// What a person named goes from a copy that was away, by a new primary, too, and from a vault that keeps all for ever. What
/// went by rules stays where it was promised.
#[test]
fn what_was_named_goes_from_all_and_what_rules_removed_does_not() {
    let mut all = places("local", ["usb", "vault"]);
    all[2].role = "vault";
    let promises = promise("30d", &["local", "usb"]) + &promise("forever", &["vault"]);
    let world = Tiered::new(all, &(DATA.to_owned() + &promises));
    (1..=3).for_each(|night| drop(world.night(night)));
    let repo = &world.repo;
    let list = repo.json(["snapshots"]);
    let id = |number: usize| list[number]["id"].as_str().unwrap().to_owned();
    world.shell("mv vault away");
    let said = world.say(&["forget", &id(0)]);
    assert!(said.0 == 0 && said.1.contains("tier 'vault' still has them"), "{said:?}");
    assert!(said.1.contains("takes them out"), "{said:?}");
    // By a rule, of the second as well.
    repo.ok(["forget", "--keep-last", "1"]);
    assert_eq!(world.say(&["tier", "sync"]).0, 3);
    // Another one becomes the primary before the vault is back.
    world.shell("rm -r local");
    repo.ok(["tier", "adopt", "usb"]);
    world.be_primary("usb");
    repo.ok(["tier", "init", "local"]);
    world.shell("mv away vault");
    repo.ok(["tier", "sync"]);
    let there = |place: &str, number: usize| {
        let listed = repo.json(["-r", &world.place(place), "--no-cache", "snapshots"]);
        listed.as_array().unwrap().iter().any(|one| one["id"] == id(number))
    };
    assert!(!there("vault", 0) && there("vault", 1) && !there("usb", 0));
    repo.ok(["run"]);
    world.walk_out(&["tier prune"]);
    crate::harness::expect(&world.at("vault", &["check", "--read-data"]), 0);
}
