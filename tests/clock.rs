//! Clocks that jump, between runs and during one: nothing expires by a clock that is far ahead of the last run.

use crate::begun;
use crate::harness::{Repo, expect, noise};
use std::path::PathBuf;
use std::process::Command;

/// A week of nights here; the vault keeps each for a month.
const TOML: &str = r#"
timezone = "UTC"

[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "vault"
url = "file:DIR/vault"
role = "vault"

[[source]]
name = "data"
urls = ["DIR/data"]
hooks = { before = "test ! -e DIR/jump || mv DIR/jump DIR/now" }

[[promise]]
keep = "7d"
tiers = ["local"]

[[promise]]
keep = "30d"
tiers = ["vault"]

[[run]]
name = "nightly"
schedule = "*-*-* 02:00"
"#;

/// The library that shows programs another time. Debian and others have it as a package of this name.
fn faketime() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.iter().map(|folder| PathBuf::from(folder).join("faketime/libfaketime.so.1"));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("skipped: there is no libfaketime here");
    }
    found
}

/// A machine without a repository, which `init` at some time makes: its password will cost little.
fn unmade(toml: &str, environment: &[(&str, &str)]) -> Repo {
    let repo = Repo::with_tiers(toml, environment, false);
    begun::in_folder(&repo.path("repo"), &[]);
    repo
}

struct World {
    repo: Repo,
    library: PathBuf,
}

impl World {
    /// Nothing yet.
    fn empty(toml: &str) -> Option<Self> {
        let library = faketime()?;
        let world = Self { repo: unmade(toml, &[]), library };
        std::fs::create_dir(world.repo.path("data")).unwrap();
        Some(world)
    }

    /// Nights from the first to the tenth of November.
    fn new() -> Option<Self> {
        let world = Self::empty(TOML)?;
        world.at("2026-11-01 01:00:00", &["init"], 0);
        for day in 1..=10 {
            world.run(&format!("2026-11-{day:02} 02:00:00"), &[], 0);
        }
        // One is older than seven days by now, and so are two others.
        assert_eq!(world.counts(), (7, 10));
        world.shell("cp -a repo sound-repo && cp -a vault sound-vault && cp -a cache sound-cache");
        Some(world)
    }

    fn again(&self) {
        self.shell("rm -rf repo vault cache && cp -a sound-repo repo && cp -a sound-vault vault");
        self.shell("cp -a sound-cache cache");
    }

    fn shell(&self, script: &str) {
        let status = Command::new("sh").args(["-ec", script]).current_dir(self.repo.dir.path()).status();
        assert!(status.unwrap().success(), "{script}");
    }

    /// Runs a command at a time, as the file `now` says while it runs.
    fn at(&self, time: &str, args: &[&str], code: i32) -> String {
        std::fs::write(self.repo.path("now"), time).unwrap();
        let mut command = self.repo.command(args);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.repo.path("now"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let output = command.output().unwrap();
        expect(&output, code) + &String::from_utf8_lossy(&output.stderr)
    }

    fn run(&self, time: &str, more: &[&str], code: i32) -> String {
        std::fs::write(self.repo.path("data/file"), noise(time.len() as u64, 20_000)).unwrap();
        self.at(time, &[&["run", "nightly"], more].concat(), code)
    }

    /// Snapshots of the primary and of the vault.
    fn counts(&self) -> (usize, usize) {
        let count = |place: &str| {
            let place = self.repo.path(place).display().to_string();
            self.repo.json(["-r", &place, "--no-cache", "snapshots"]).as_array().unwrap().len()
        };
        (count("repo"), count("vault"))
    }
}

#[test]
fn a_clock_that_leaps_ahead_expires_nothing_until_it_is_accepted() {
    let Some(world) = World::new() else { return };
    for (time, is_doubted, left) in [
        // An hour, and forty days, and ten years, ahead and behind.
        ("2026-11-10 03:00:00", false, (8, 11)),
        ("2026-12-20 02:00:00", true, (8, 11)),
        ("2036-11-10 02:00:00", true, (8, 11)),
        ("2026-11-10 01:00:00", false, (8, 11)),
        ("2026-10-01 02:00:00", false, (8, 11)),
        ("2016-11-10 02:00:00", false, (8, 11)),
        // Off for a week: that is no leap.
        ("2026-11-18 02:00:00", false, (1, 11)),
    ] {
        world.again();
        let said = world.run(time, &[], if is_doubted { 3 } else { 0 });
        assert_eq!(world.counts(), left, "{time}: {said}");
        assert_eq!(said.contains("goes on by it"), is_doubted, "{time}: {said}");
        assert_eq!(said.contains("all promises are kept"), !is_doubted, "{time}: {said}");
        if is_doubted {
            // Nor by another command, nor once more at that time.
            world.at(time, &["forget", "--prune"], 3);
            world.run(time, &[], 3);
            assert_eq!(world.counts(), (left.0 + 1, left.1 + 1), "{time}");
            // Right again, nobody is asked, and what expires is what is due.
            let said = world.run("2026-11-11 02:00:00", &[], 0);
            assert_eq!(world.counts(), (left.0 + 1, left.1 + 2), "{said}");
        }
        // The next night is as any other.
        world.again();
        world.run("2026-11-11 02:00:00", &[], 0);
        assert_eq!(world.counts(), (7, 11), "{time}");
    }
    // Accepted, it is believed from then on.
    world.again();
    world.run("2036-11-10 02:00:00", &[], 3);
    let said = world.run("2036-11-10 03:00:00", &["--accept-clock"], 0);
    assert_eq!(world.counts(), (2, 2), "{said}");
    world.run("2036-11-11 02:00:00", &[], 0);
    // A promise that is made shorter is no leap of the clock.
    world.again();
    let toml = std::fs::read_to_string(world.repo.path("esker.toml")).unwrap();
    std::fs::write(world.repo.path("esker.toml"), toml.replace("\"7d\"", "\"1d\"")).unwrap();
    world.run("2026-11-10 04:00:00", &[], 0);
    assert_eq!(world.counts(), (2, 11));
}

#[test]
fn a_clock_that_leaps_while_a_run_is_at_work_expires_nothing() {
    let Some(world) = World::new() else { return };
    for jump in ["2026-12-20 02:00:00", "2036-11-10 02:00:00"] {
        world.again();
        std::fs::write(world.repo.path("jump"), jump).unwrap();
        let said = world.run("2026-11-10 03:00:00", &[], 3);
        assert!(said.contains("--accept-clock"), "{said}");
        assert_eq!(world.counts(), (8, 11), "{jump}: {said}");
    }
    for jump in ["2026-11-10 04:00:00", "2026-10-01 02:00:00", "2016-11-10 02:00:00"] {
        world.again();
        std::fs::write(world.repo.path("jump"), jump).unwrap();
        let said = world.run("2026-11-10 03:00:00", &[], 0);
        assert_eq!(world.counts(), (8, 11), "{jump}: {said}");
    }
}

/// The first run was made by a clock that was wrong: each later one says so and what to do, and nothing goes by that clock.
#[test]
fn a_first_run_in_2036_is_told_of() {
    let Some(library) = faketime() else { return };
    let world = World { repo: unmade(TOML, &[]), library };
    std::fs::create_dir(world.repo.path("data")).unwrap();
    world.at("2036-11-01 01:00:00", &["init"], 0);
    world.run("2036-11-01 02:00:00", &[], 0);
    let id = world.repo.json(["snapshots"])[0]["short_id"].as_str().unwrap().to_owned();
    for day in 1..=10 {
        let said = world.run(&format!("2026-11-{day:02} 02:00:00"), &[], 0);
        assert!(said.contains(&format!("snapshot {id} is of 2036-11-01")), "{said}");
        assert!(said.contains("'esker run --accept-clock'"), "{said}");
        assert!(said.contains(&format!("'esker forget {id}'")), "{said}");
        println!("{day}: {:?}", world.counts());
    }
    assert_eq!(world.counts(), (11, 11), "nothing has expired by a clock that was wrong");
    // Both ways that are named lead out.
    let said = world.run("2026-11-11 02:00:00", &["--accept-clock"], 0);
    assert_eq!(world.counts().1, 12, "{said}");
    world.at("2026-11-11 03:00:00", &["forget", &id], 0);
    let said = world.run("2026-11-12 02:00:00", &[], 0);
    assert!(!said.contains("2036") && said.contains("all promises are kept"), "{said}");
    assert_eq!(world.counts(), (7, 12));
}

/// A store tells the time with every object: a clock that has not leapt by HEAD may be ahead of that.
#[test]
fn a_clock_ahead_of_a_stores_own_expires_nothing() {
    let Some(library) = faketime() else { return };
    // It is always the 26th there.
    let bucket = crate::bucket::Bucket::start();
    let toml = TOML.replace("file:DIR/vault", &bucket.place());
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let world = World { repo: unmade(&toml, &keys), library };
    std::fs::create_dir(world.repo.path("data")).unwrap();
    world.at("2026-11-20 01:00:00", &["init"], 0);
    for day in 20..=25 {
        world.run(&format!("2026-11-{day} 02:00:00"), &[], 0);
    }
    let before = world.repo.snapshot_count();
    // Five days: no leap by HEAD, one by the store.
    let said = world.run("2026-12-01 02:00:00", &[], 3);
    assert!(said.contains("a store's own clock") && said.contains("--accept-clock"), "{said}");
    assert_eq!(world.repo.snapshot_count(), before + 1);
    world.run("2026-12-01 03:00:00", &["--accept-clock"], 0);
    assert!(world.repo.snapshot_count() < before + 2);
}

/// A machine whose vault is a bucket with locks, and with this many days as the least.
fn locked(bucket: &crate::bucket::Bucket, days: u32, library: PathBuf) -> World {
    let toml = TOML.replace("file:DIR/vault", &bucket.place());
    let toml = toml.replace("role = \"vault\"", &format!("role = \"vault\"\nobject_lock_days = {days}"));
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let world = World { repo: unmade(&toml, &keys), library };
    std::fs::create_dir(world.repo.path("data")).unwrap();
    world
}

/// A lock that a clock ahead of the store's sets cannot be taken back: none is set until a person accepts the clock.
#[test]
fn a_clock_ahead_of_a_stores_own_locks_nothing() {
    let Some(library) = faketime() else { return };
    let (bucket, day) = (crate::bucket::Bucket::with_locks(), jiff::SignedDuration::from_hours(24));
    let world = locked(&bucket, 7, library);
    world.at("2026-11-26 01:00:00", &["init"], 0);
    world.run("2026-11-26 02:00:00", &[], 0);
    let before = bucket.locks();
    for part in ["/packs/", "/snapshots/", "/keys/", "/config"] {
        assert!(before.keys().any(|name| name.contains(part)), "{part}: {before:?}");
    }
    let now = crate::bucket::Bucket::now();
    assert!(before.values().all(|until| (now + day * 29..now + day * 31).contains(until)), "{before:?}");
    let locks_nothing = |time: &str, before: &std::collections::BTreeMap<String, jiff::Timestamp>| {
        let said = world.run(time, &[], 3);
        assert!(said.contains("nothing is locked by a clock that may be wrong"), "{time}: {said}");
        assert_eq!(bucket.locks(), *before, "{time}");
    };
    locks_nothing("2026-12-01 02:00:00", &before);
    world.run("2026-12-01 03:00:00", &["--accept-clock"], 0);
    let after = bucket.locks();
    assert!(after.values().max() > before.values().max() && after.len() > before.len(), "{after:?}");
    locks_nothing("2036-11-26 02:00:00", &after);
}

/// Locks end by the store's clock. One that is behind it sets none that are shorter than they should be, or over.
#[test]
fn a_clock_behind_a_stores_own_sets_no_short_locks() {
    let Some(library) = faketime() else { return };
    let (now, day) = (crate::bucket::Bucket::now(), jiff::SignedDuration::from_hours(24));
    // Half a day is no reason to wait.
    // The least that a tier locks for, and the end of a promise of 30 days.
    for (least, days) in [(40, 40), (7, 30)] {
        let bucket = crate::bucket::Bucket::with_locks();
        let world = locked(&bucket, least, library.clone());
        world.at("2026-11-25 19:00:00", &["init"], 0);
        world.run("2026-11-25 20:00:00", &[], 0);
        let (locks, end) = (bucket.locks(), now + day * days - jiff::SignedDuration::from_mins(1));
        assert!(!locks.is_empty() && locks.values().all(|until| *until >= end), "{least}: {locks:?}");
    }
    for (time, shown) in
        [("2026-11-20 02:00:00", "2026-11-20T02:00"), ("2026-09-01 02:00:00", "2026-09-01T02:00")]
    {
        let bucket = crate::bucket::Bucket::with_locks();
        let world = locked(&bucket, 40, library.clone());
        world.at(time, &["init"], 0);
        let said = world.run(time, &[], 3);
        assert!(said.contains(&format!("the clock here says {shown}")), "{time}: {said}");
        assert!(!said.contains("all promises are kept") && bucket.locks().is_empty(), "{time}: {said}");
        assert!(bucket.names().iter().all(|name| !name.contains("/packs/")), "{time}");
        if time.starts_with("2026-11") {
            // Right again, what was owed is copied and locked.
            world.run("2026-11-26 08:00:00", &[], 0);
            let locks = bucket.locks();
            assert!(!locks.is_empty() && locks.values().all(|until| *until >= now + day * 40), "{locks:?}");
        }
    }
}

#[test]
fn nights_of_a_wrong_clock_keep_none_of_the_right_one_from_the_copy() {
    let toml = TOML.replace("role = \"vault\"", "role = \"copy\"").replace(
        "keep = \"30d\"\ntiers = [\"vault\"]",
        "select = { class = \"monthly\" }\nkeep = \"90d\"\ntiers = [\"local\"]",
    );
    let Some(world) = World::empty(&toml) else { return };
    world.at("2026-11-01 01:00:00", &["init"], 0);
    world.run("2026-11-01 02:00:00", &[], 0);
    world.run("2026-11-02 02:00:00", &[], 0);
    for minute in 10..16 {
        world.run(&format!("2036-11-02 02:{minute}:00"), &[], 3);
    }
    let newest = |place: &str, time: &str| {
        let place = world.repo.path(place).display().to_string();
        let said = world.at(time, &["-r", &place, "--no-cache", "--json", "snapshots", "--latest", "1"], 0);
        let json: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        json[0]["id"].as_str().unwrap().to_owned()
    };
    for day in 3..7 {
        let time = format!("2026-11-{day:02} 02:00:00");
        let said = world.run(&time, &[], 0);
        assert!(!said.contains("from the future; ") && !said.contains("; from the future"), "{said}");
        assert_eq!(newest("repo", &time), newest("vault", &time), "{time}: {said}");
        let shown = world.at(&time, &["snapshots"], 0);
        assert!(!shown.contains("as of 2036"), "{shown}");
        let made = world.at(&time, &["--json", "snapshots", &newest("vault", &time)], 0);
        assert!(made.contains(&format!("2026-11-{day:02}")), "{made}");
    }
}
