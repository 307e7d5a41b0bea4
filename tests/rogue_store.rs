//! Stores that are silent, drip, or answer without end: a signal ends every command, memory stays bounded, and the error
//! says what the store did.

use crate::bucket::{Bucket, Trick};
use crate::harness::{Repo, noise};
use crate::rogue::{ended, fails_within};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

fn at(bucket: &Bucket) -> Repo {
    Repo::at(
        bucket.place(),
        vec![("AWS_ACCESS_KEY_ID".into(), "a".into()), ("AWS_SECRET_ACCESS_KEY".into(), "b".into())],
    )
}

fn filled(bucket: &Bucket) -> Repo {
    let repo = at(bucket);
    std::fs::write(repo.path("data"), noise(1, 300_000)).unwrap();
    repo.ok(["backup", "data"]);
    repo
}

#[test]
fn a_signal_ends_every_command_that_waits_for_a_store() {
    let cases = [
        ("GET", "folder/config", Trick::Silent, &["snapshots"][..]),
        ("GET", "folder/config", Trick::Drips, &["snapshots"]),
        ("GET", "folder/HEAD", Trick::Drips, &["check"]),
        ("GET", "list-type", Trick::Silent, &["restore", "latest", "--target", "out"]),
        ("GET", "list-type", Trick::Drips, &["key", "list"]),
        ("GET", "list-type", Trick::EmptyPages, &["snapshots"]),
        ("GET", "folder/snapshots/", Trick::Drips, &["check"]),
        ("GET", "folder/index/", Trick::Silent, &["backup", "data"]),
        ("GET", "folder/packs/", Trick::Silent, &["restore", "latest", "--target", "out"]),
        ("GET", "folder/packs/", Trick::Drips, &["check", "--read-data"]),
        ("PUT", "folder/packs/", Trick::Silent, &["backup", "--force", "fresh"]),
        ("PUT", "folder/HEAD", Trick::Silent, &["tag", "--add", "x", "latest"]),
        ("", "", Trick::Unavailable, &["snapshots"]),
        ("", "", Trick::Silent, &["-r", "s3:NEW", "init"]),
    ];
    std::thread::scope(|scope| {
        for some in cases.chunks(4) {
            scope.spawn(move || {
                let bucket = Bucket::start();
                let repo = filled(&bucket);
                for (method, part, trick, args) in some {
                    // Fresh data, so that a pack is written.
                    std::fs::write(repo.path("fresh"), noise(2, 3_000_000)).unwrap();
                    bucket.play(method, part, *trick);
                    let new = bucket.place() + "/new";
                    let args: Vec<&str> =
                        args.iter().map(|arg| if *arg == "s3:NEW" { &new } else { *arg }).collect();
                    ended(&repo, &args, || bucket.tricked() > 0);
                }
                bucket.behave();
                repo.ok(["check", "--read-data"]);
            });
        }
    });
}

#[test]
fn a_signal_ends_what_waits_for_azure() {
    let bucket = Bucket::start();
    for (trick, command) in [(Trick::Silent, "snapshots"), (Trick::Drips, "init")] {
        bucket.play("", "", trick);
        let repo = Repo::again(&Repo::empty(), "azure:container:/x".into())
            .with("AZURE_STORAGE_ACCOUNT", "account")
            .with("AZURE_STORAGE_KEY", "a2V5")
            .with("AZURE_STORAGE_ENDPOINT", &bucket.azure_endpoint());
        ended(&repo, &[command], || bucket.tricked() > 0);
    }
}

/// Without a signal: the time that is asked for counts for the whole of a small object, however its bytes come.
#[test]
fn a_store_that_drips_is_given_up_in_time() {
    let bucket = Bucket::start();
    let repo = filled(&bucket);
    for (part, trick) in
        [("folder/config", Trick::Drips), ("list-type", Trick::Drips), ("folder/config", Trick::Silent)]
    {
        bucket.play("GET", part, trick);
        let began = Instant::now();
        let told = repo.fails(1, ["-o", "s3.timeout=2", "-o", "s3.retries=1", "snapshots"]);
        assert!(began.elapsed() < Duration::from_secs(15), "{part} {trick:?}: {:?}", began.elapsed());
        assert!(
            told.contains("arrived within") || told.contains("no data was sent or received"),
            "{part} {trick:?}: {told}"
        );
    }
}

#[test]
fn answers_without_end_have_a_bound() {
    let bucket = Bucket::start();
    let repo = filled(&bucket);
    for (part, trick, args, words) in [
        ("folder/config", Trick::Huge, &["snapshots"][..], "8000000000000 bytes"),
        ("folder/HEAD", Trick::Huge, &["snapshots"], "HEAD: it has 8000000000000 bytes"),
        ("folder/snapshots/", Trick::Huge, &["check"], "8000000000000 bytes"),
        ("list-type", Trick::Huge, &["check"], "no answer of this kind"),
        ("list-type", Trick::Pages, &["snapshots"], "more than 1024 objects"),
    ] {
        bucket.play("GET", part, trick);
        let told = fails_within(&repo, 400, 60, args);
        assert!(told.contains(words), "{part}: {told}");
    }
}

#[test]
fn what_is_too_large_on_a_disk_is_not_read() {
    let repo = Repo::new();
    let _ = std::fs::remove_dir_all(repo.folder().join("copies"));
    let head = std::fs::OpenOptions::new().write(true).open(repo.folder().join("HEAD")).unwrap();
    let len = head.metadata().unwrap().len();
    head.set_len(8_000_000_000_000).unwrap();
    for args in [&["snapshots"][..], &["backup", "."], &["check"]] {
        let told = fails_within(&repo, 400, 60, args);
        assert!(told.contains("HEAD") && told.contains("8000000000000 bytes"), "{args:?}: {told}");
    }
    head.set_len(len).unwrap();
    repo.ok(["snapshots"]);
    head.write_at(b"x", len).unwrap();
    drop(head);
    for number in 0..1500 {
        std::fs::write(repo.folder().join("keys").join(format!("{number:064x}")), "").unwrap();
    }
    let told = fails_within(&repo, 400, 60, &["snapshots"]);
    assert!(told.contains("more than 1024 objects"), "{told}");
}

/// Whatever an attacker wrote into key slots, they cost little, and the right password opens the repository.
#[test]
fn planted_key_slots_cost_little() {
    // With a slot as expensive as they are made.
    let repo = Repo::empty();
    repo.ok(["init"]);
    let keys = repo.folder().join("keys");
    let slot = std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&slot).unwrap();
    for (number, costs) in [
        (1, "\"memory_kib\":4194304,\"passes\":1"),
        (2, "\"memory_kib\":8,\"passes\":64"),
        (3, "\"memory_kib\":1048576,\"passes\":8"),
    ] {
        let planted = text.replace("\"memory_kib\":65536,\"passes\":3", costs);
        assert_ne!(planted, text);
        for copy in 0..20 {
            std::fs::write(keys.join(format!("{number:032x}{copy:032x}")), &planted).unwrap();
        }
    }
    let began = Instant::now();
    repo.ok(["snapshots"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let wrong = Repo::again(&repo, repo.folder().display().to_string()).with("ESKER_PASSWORD", "wrong");
    let told = fails_within(&wrong, 1400, 60, &["snapshots"]);
    assert!(told.contains("wrong password"), "{told}");
}

/// Some stores know no call that removes many objects.
#[test]
fn objects_are_removed_one_by_one() {
    let bucket = Bucket::start();
    let repo = filled(&bucket);
    let before = bucket.names().len();
    repo.ok(["forget", "latest", "--prune"]);
    assert!(bucket.names().len() < before, "{:?}", bucket.names());
    assert_eq!(bucket.bulk(), 0);
    repo.ok(["check"]);
}

#[test]
fn a_listing_that_broke_off_is_asked_for_again() {
    let bucket = Bucket::start();
    let repo = filled(&bucket);
    bucket.play("GET", "list-type", Trick::CutsOnce);
    repo.ok(["check"]);
    assert_eq!(bucket.tricked(), 1);
}

#[test]
fn a_store_that_refuses_a_call_is_quoted_at_init() {
    for (method, part) in [("PUT", "probe-"), ("DELETE", "probe-")] {
        let bucket = Bucket::start();
        bucket.play(method, part, Trick::Refuses);
        let repo = Repo::again(&Repo::empty(), bucket.place())
            .with("AWS_ACCESS_KEY_ID", "a")
            .with("AWS_SECRET_ACCESS_KEY", "b");
        let told = repo.fails(1, ["-o", "s3.retries=0", "init"]);
        assert!(told.contains("501") || told.contains("NotImplemented"), "{method}: {told}");
        assert!(!told.contains("just written is not there"), "{method}: {told}");
        assert!(told.contains("another store") && told.contains("--single-writer"), "{told}");
    }
}

/// Some stores have no lifecycle rules and say so: that is an answer, and nobody asks again.
#[test]
fn a_store_without_lifecycle_rules_is_asked_once() {
    let bucket = Bucket::start();
    bucket.play("GET", "lifecycle", Trick::Refuses);
    let toml = format!(
        "[[tier]]\nname = \"local\"\nurl = \"file:DIR/repo\"\nrole = \"primary\"\n\n[[tier]]\nname = \"vault\"\nurl = \"{}\"\nrole = \"vault\"\n",
        bucket.place()
    );
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    drop(Repo::with_tiers(&toml, &keys, true));
    assert_eq!(bucket.tricked(), 1);
}
