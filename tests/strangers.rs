//! Another repository, of the same password, in a place of esker.toml: what it holds is never taken for ours.

use crate::begun;
use crate::harness::{Repo, noise};
use std::process::Command;

const TOML: &str = r#"
[[tier]]
name = "local"
url = "file:DIR/prim/esker"
role = "primary"

[[tier]]
name = "usb"
url = "file:DIR/usb/esker"

[[tier]]
name = "nas"
url = "file:DIR/nas/esker"

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "30d"
tiers = ["local", "usb", "nas"]
"#;

/// Ours, with two nights; and beside it, beneath `other`, the whole of another machine's, with places of the same names.
fn world() -> Repo {
    let repo = Repo::with_tiers(TOML, &[], false);
    for folder in ["prim", "usb", "nas", "data", "other/data"] {
        std::fs::create_dir_all(repo.path(folder)).unwrap();
    }
    begun::in_folder(&repo.path("prim/esker"), &[]);
    repo.ok(["init"]);
    for night in 0..2 {
        std::fs::write(repo.path("data/ours"), noise(night, 50_000)).unwrap();
        repo.ok(["run"]);
    }
    let other = repo.path("other");
    ["prim", "usb", "nas"].iter().for_each(|place| std::fs::create_dir(other.join(place)).unwrap());
    let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
    let toml = toml.replace(&repo.dir.path().display().to_string(), &other.display().to_string());
    std::fs::write(other.join("esker.toml"), toml).unwrap();
    std::fs::write(other.join("data/theirs"), "of another machine").unwrap();
    for command in ["init", "run"] {
        let mut theirs = repo.command([command]);
        theirs.env("ESKER_CONFIG", other.join("esker.toml")).env("ESKER_CACHE_DIR", other.join("cache"));
        assert!(theirs.status().unwrap().success());
    }
    shell(&repo, "mkdir sound; cp -a prim usb nas cache sound");
    repo
}

fn shell(repo: &Repo, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(repo.dir.path()).status();
    assert!(status.unwrap().success(), "{script}");
}

fn say(repo: &Repo, args: &[&str]) -> (i32, String) {
    let output = repo.run(args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// What is done to the places, and whether a copy of ours is left where it should be.
const EXCHANGES: &[&str] = &[
    // The primary is away, and in a copy's place lies the other one's primary, or its copy of that name.
    "rm -r prim; mkdir prim; rm -r usb; cp -a other/prim usb",
    "rm -r prim; mkdir prim; rm -r usb; cp -a other/usb usb",
    // In the primary's place lies another one.
    "rm -r prim; cp -a other/prim prim",
    // The primary is there.
    "rm -r usb; cp -a other/prim usb",
    "rm -r nas usb; cp -a other/nas usb",
];

#[test]
fn what_reads_never_takes_another_repository_for_ours() {
    let repo = world();
    for exchange in EXCHANGES {
        for known in [true, false] {
            shell(&repo, "rm -rf prim usb nas cache out; cp -a sound/* .");
            shell(&repo, exchange);
            if !known {
                shell(&repo, "rm -rf cache");
            }
            let case = format!("{exchange} (machine known: {known})");
            let (code, said) = say(&repo, &["restore", "latest", "--target", "out"]);
            let restored = Command::new("find").arg(repo.path("out")).args(["-type", "f"]).output().unwrap();
            let restored = String::from_utf8(restored.stdout).unwrap();
            assert!(!restored.contains("theirs"), "{case}: {said}");
            if !known && exchange.starts_with("rm -r prim; mkdir prim; rm -r usb; cp -a other/usb") {
                // One place says this, the other that.
                assert!(code == 1 && said.contains("repository_id"), "{case}: {code}: {said}");
                continue;
            }
            assert!(code == 0 && restored.contains("/data/ours"), "{case}: {code}: {said}");
            for command in [&["snapshots"][..], &["ls", "latest"], &["find", "theirs"], &["stats"]] {
                let (code, said) = say(&repo, command);
                assert!(code == 0 && !said.contains("/theirs"), "{case}: {command:?}: {said}");
            }
            let (code, said) = say(&repo, &["heal"]);
            assert!(code == 3 && said.contains("another repository"), "{case}: {code}: {said}");
            if !exchange.contains("other/prim prim") {
                let (code, said) = say(&repo, &["tier", "adopt", "usb"]);
                assert!(code == 1 && said.contains("another repository"), "{case}: {code}: {said}");
            }
            let (code, said) = say(&repo, &["run"]);
            let expected = match (exchange.contains("mkdir prim"), exchange.contains("other/prim prim")) {
                (true, _) => 10,
                (_, true) => 1,
                _ => 3,
            };
            assert!(code == expected && !said.contains("all promises"), "{case}: {code}: {said}");
            // Nothing was written to what is not ours.
            if exchange.contains("other/prim usb") {
                shell(&repo, "diff -rq usb other/prim");
            }
        }
    }
}

/// Where nothing tells which one is meant, none is read; esker.toml can say it.
#[test]
fn what_cannot_be_told_is_asked_for() {
    let repo = world();
    shell(&repo, "rm -rf prim cache; mkdir prim; rm -rf usb; cp -a other/usb usb");
    let (code, said) = say(&repo, &["snapshots"]);
    assert!(
        code == 1 && said.contains("repository_id") && said.contains("made as tier 'usb'"),
        "{code}: {said}"
    );
    let id =
        repo.json(["-r", repo.path("nas/esker").to_str().unwrap(), "cat", "config"])["repository_id"].clone();
    let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
    std::fs::write(repo.path("esker.toml"), format!("repository_id = {id}\n{toml}")).unwrap();
    let (code, said) = say(&repo, &["ls", "latest"]);
    assert!(code == 0 && said.contains("/ours"), "{code}: {said}");
    assert!(repo.fails(1, ["tier", "adopt", "usb"]).contains("another repository"));
    repo.ok(["tier", "adopt", "nas"]);
}

/// One place of several that alone can be reached, on a machine that has seen none: it is read, and not written to, whatever
/// was read before.
#[test]
fn a_place_that_is_alone_is_not_written_to_before_somebody_says_that_it_is_meant() {
    let repo = world();
    for exchange in ["cp -a other/prim prim", "cp -a sound/prim prim"] {
        shell(&repo, "rm -rf prim usb nas cache; mkdir usb nas");
        shell(&repo, exchange);
        shell(&repo, "rm -rf as-it-was; cp -a prim as-it-was");
        for command in
            [&["snapshots"][..], &["ls", "latest"], &["check"], &["tier", "status"], &["key", "list"]]
        {
            let (code, said) = say(&repo, command);
            assert!(matches!(code, 0 | 3), "{command:?}: {code}: {said}");
        }
        for command in [
            &["run"][..],
            &["backup", "data"],
            &["tier", "sync"],
            &["tier", "init", "usb"],
            &["tier", "prune"],
            &["forget", "--keep-last", "1"],
            &["forget", "latest"],
            &["prune"],
            &["tag", "--add", "x", "latest"],
            &["rewrite", "--new-host", "x", "latest"],
            &["check", "--heal"],
            &["heal"],
        ] {
            let (code, said) = say(&repo, command);
            assert!(
                matches!(code, 1 | 3) && said.contains("repository_id = \""),
                "{command:?}: {code}: {said}"
            );
            shell(&repo, "diff -rq prim as-it-was");
        }
        // Another place that says the same is word enough; and so is what esker.toml says.
        let id = repo.json(["-r", repo.path("prim/esker").to_str().unwrap(), "cat", "config"]);
        let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
        let said = format!("repository_id = {}\n{toml}", id["repository_id"]);
        std::fs::write(repo.path("esker.toml"), said).unwrap();
        repo.ok(["backup", "--no-sync", "data"]);
        std::fs::write(repo.path("esker.toml"), toml).unwrap();
    }
    shell(&repo, "rm -rf prim usb nas cache; cp -a sound/prim sound/usb .; mkdir nas");
    repo.ok(["backup", "--no-sync", "data"]);
}

/// What is no copy of ours is not named as what the primary could be made from.
#[test]
fn a_new_primary_is_not_made_beside_another_repository_and_that_one_is_no_way_out() {
    let repo = world();
    for foreign in ["usb", "prim"] {
        shell(&repo, "rm -rf prim usb nas cache; cp -a sound/cache .; mkdir prim nas");
        shell(&repo, &format!("cp -a other/{foreign} usb"));
        let said = repo.fails(1, ["init"]);
        assert!(said.contains("another repository") && !said.contains("tier adopt"), "{said}");
        shell(&repo, "test -z \"$(find prim nas -mindepth 1)\"");
    }
    // Ours, which is one.
    shell(&repo, "rm -r usb; cp -a sound/usb .");
    assert!(repo.fails(1, ["init"]).contains("'esker tier adopt usb'"));
}

/// Places of tiers that were exchanged are told of as what they are, and left alone.
#[test]
fn places_that_were_exchanged_are_called_so() {
    let repo = world();
    // One of them is behind the other.
    shell(&repo, "mv nas away");
    say(&repo, &["run"]);
    shell(&repo, "mv away nas; rm -rf sound; mkdir sound; cp -a prim usb nas cache sound");
    for (one, other) in [("usb", "nas"), ("prim", "usb")] {
        for known in [true, false] {
            shell(&repo, "rm -rf prim usb nas cache out; cp -a sound/* .");
            shell(
                &repo,
                &format!("mv {one} x; mv {other} {one}; mv x {other}; cp -a usb was-usb; cp -a nas was-nas"),
            );
            if !known {
                shell(&repo, "rm -rf cache");
            }
            for command in [&["run"][..], &["tier", "sync"], &["heal"], &["tier", "status"], &["check"]] {
                let (code, said) = say(&repo, command);
                let case = format!("{one} and {other}, {command:?} (machine known: {known}): {code}: {said}");
                if command == ["check"] && one == "usb" {
                    assert!(code == 0, "{case}");
                    continue;
                }
                assert!(matches!(code, 1 | 3) && said.contains("were exchanged"), "{case}");
                assert!(!said.contains("rolled back") && !said.contains("repair head"), "{case}");
                assert!(!said.contains("tier adopt") && !said.contains("tier init"), "{case}");
                assert!(!said.contains("all promises are kept"), "{case}");
            }
            let said = repo.fails(1, ["repair", "head", "--tier", "usb"]);
            assert!(!said.contains("made anew"), "{said}");
            shell(&repo, "diff -rq usb was-usb; rm -r was-usb");
            shell(&repo, "diff -rq nas was-nas; rm -r was-nas");
            repo.ok(["restore", "latest", "--target", "out"]);
            // In their own places again, all is well.
            shell(&repo, &format!("mv {one} x; mv {other} {one}; mv x {other}"));
            let (code, said) = say(&repo, &["run"]);
            assert!(code == 0 && said.contains("all promises are kept"), "{code}: {said}");
        }
    }
}

/// A new repository in the old places, made by this machine, is the one that is meant from then on.
#[test]
fn a_repository_that_was_made_anew_is_the_one_that_is_meant() {
    let repo = world();
    shell(&repo, "rm -rf prim usb nas; mkdir prim usb nas");
    repo.ok(["init"]);
    repo.ok(["run"]);
    assert_eq!(repo.snapshot_count(), 1);
    // Another machine did it: this one says so, and esker.toml decides.
    shell(&repo, "rm -rf prim usb nas; cp -a sound/prim sound/usb sound/nas .");
    let said = repo.fails(1, ["backup", "data"]);
    assert!(said.contains("holds another repository") && said.contains("repository_id"), "{said}");
}

/// The old primary is seen whichever way its HEAD is kept; and is given up without force where nothing would be lost.
#[test]
fn a_primary_that_is_there_is_not_given_up_before_its_copy_is_up_to_date() {
    for head in ["swap", "chain"] {
        let repo = Repo::with_tiers(TOML, &[], false);
        ["prim", "usb", "nas", "data"].iter().for_each(|name| std::fs::create_dir(repo.path(name)).unwrap());
        repo.ok(["init", "--head", head]);
        std::fs::write(repo.path("data/ours"), "1").unwrap();
        repo.ok(["run"]);
        repo.ok(["backup", "--no-sync", "data"]);
        let said = repo.fails(1, ["tier", "adopt", "usb"]);
        assert!(said.contains("can still be reached") && said.contains("esker tier sync"), "{head}: {said}");
        repo.ok(["tier", "sync"]);
        let said = repo.ok(["tier", "adopt", "usb"]);
        assert!(said.contains("esker tier sync --rejoin local"), "{head}: {said}");
        let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
        let toml = toml
            .replace("role = \"primary\"\n", "")
            .replace("usb/esker\"\n", "usb/esker\"\nrole = \"primary\"\n");
        std::fs::write(repo.path("esker.toml"), toml).unwrap();
        repo.ok(["tier", "sync", "--rejoin", "local"]);
        assert!(repo.ok(["run"]).contains("all promises are kept"), "{head}");
    }
}
