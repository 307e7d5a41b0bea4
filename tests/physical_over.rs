//! A data directory over an older copy of it: what differs is written, what is surplus goes, and no server starts on a part.

use crate::harness::{Repo, run, wait_for};
use crate::pg::{Postgres, as_postgres, expect_success};
use crate::physical::{data, path_with, physical, started, verify};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const SUM: &str = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY i)) FROM t";

/// A server with a table of so many rows, and settings that change no page of it behind our back.
fn source(repo: &Repo, version: u32, rows: u32) -> Postgres {
    let server = Postgres::version(repo, version, "pg", &["autovacuum=off"]);
    server.sql("postgres", &format!(
        "CREATE TABLE t WITH (fillfactor = 90) AS SELECT i, md5(i::text) m, repeat('x', 100) f FROM generate_series(1, {rows}) i"
    ));
    server.sql("postgres", "CREATE INDEX ON t (i)");
    server.sql("postgres", "VACUUM FREEZE t");
    server.sql("postgres", "CHECKPOINT");
    server
}

/// Changes a row of every hundredth page, all over the table.
fn change(server: &Postgres) {
    let pages: u64 = server.sql("postgres", "SELECT pg_relation_size('t') / 8192").parse().unwrap();
    server.sql("postgres", &format!(
        "UPDATE t SET m = 'new' WHERE ctid IN (SELECT format('(%s,1)', p)::tid FROM generate_series(0, {pages} - 1, 100) p)"
    ));
    server.sql("postgres", "CHECKPOINT");
}

fn over<'a>(target: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "latest", "--target", target.to_str().unwrap(), "--prepare", "--replace"][..], more]
        .concat()
}

/// Modes, lengths and contents of everything in a folder, by names.
fn state(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    look_in(folder, folder, &mut all);
    all
}

/// That two are the same; else what differs.
fn same(one: &BTreeMap<PathBuf, String>, other: &BTreeMap<PathBuf, String>) {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    let told: Vec<String> = differing
        .take(9)
        .map(|name| format!("{name:?}: {:?}, {:?}", one.get(name), other.get(name)))
        .collect();
    assert!(told.is_empty(), "{told:#?}");
}

fn look_in(top: &Path, folder: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let is = if metadata.is_symlink() {
            format!("link to {}", std::fs::read_link(&path).unwrap().display())
        } else if metadata.is_dir() {
            look_in(top, &path, all);
            format!("folder {:o}", metadata.mode())
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            format!(
                "{:o} {} of {} bytes: {:x}",
                metadata.mode(),
                metadata.uid(),
                bytes.len(),
                hasher.finish()
            )
        };
        all.insert(path.strip_prefix(top).unwrap().to_owned(), is);
    }
}

/// Whether a server would start on a folder; then all that its list of files names is there.
fn starts(server: &Postgres, folder: &Path) -> bool {
    let control = as_postgres(&server.bin.join("pg_controldata"), folder).arg(folder).output().unwrap();
    if control.status.success() {
        let mut verify = as_postgres(&server.bin.join("pg_verifybackup"), folder);
        expect_success(&verify.args(["--ignore", "esker.restore"]).arg(folder).output().unwrap());
    }
    control.status.success()
}

#[test]
fn what_differs_is_written_and_what_is_surplus_goes() {
    for version in [15, 18] {
        let repo = Repo::new();
        let server = source(&repo, version, 200_000);
        repo.ok(["backup", &physical(&server)]);
        let (target, fresh) = (data(&repo, "over"), data(&repo, "fresh"));
        repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
        // Somebody made a copy of it by other names of its files: that stays what it is.
        let copy = repo.path("copy");
        run("cp", &["-al", target.to_str().unwrap(), copy.to_str().unwrap()]);
        let copied = state(&copy);
        std::fs::remove_dir_all(&target).unwrap();
        run("cp", &["-a", copy.to_str().unwrap(), target.to_str().unwrap()]);
        // A server ran on it and changed it in its own way.
        {
            let mut back = started(&repo, version, "over");
            back.sql("postgres", "CREATE TABLE surplus AS SELECT i FROM generate_series(1, 100000) i");
            back.sql("postgres", "UPDATE t SET m = 'other' WHERE i % 5000 = 7");
            back.sql("postgres", "CREATE DATABASE gone");
            back.stop();
        }
        std::fs::write(target.join("odd \n name"), "odd").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", target.join("base/link")).unwrap();

        change(&server);
        server.sql("postgres", "CREATE TABLE later AS SELECT 1 x");
        server.sql("postgres", "CHECKPOINT");
        repo.ok(["backup", &physical(&server)]);
        let plan = repo.ok(over(&target, &["--dry-run"]));
        assert!(plan.contains("that the backup does not have") && plan.contains("would write"), "{plan}");
        let size = repo.json(["restore", "latest", "--target", fresh.to_str().unwrap(), "--prepare"]);
        let done = repo.json(over(&target, &[]));
        let bytes = |report: &serde_json::Value| report["bytes_restored"].as_u64().unwrap();
        assert!(bytes(&done) * 5 < bytes(&size), "{done} {size}");
        assert!(done["names_removed"].as_u64().unwrap() > 0, "{done}");
        // The moments of the files that the restore itself writes differ, and nothing else.
        same(&state(&target), &state(&fresh));
        verify(&server.bin, &target);
        // Again, nothing is to be written but what the restore writes itself: WAL and settings.
        let again = repo.json(over(&target, &[]));
        assert!(bytes(&again) < bytes(&size) / 20, "{again}");
        same(&state(&target), &state(&fresh));
        // Over the names that the copy shares, too.
        let shared = repo.path("shared");
        run("cp", &["-al", copy.to_str().unwrap(), shared.to_str().unwrap()]);
        repo.ok(over(&shared, &[]));
        same(&state(&shared), &state(&fresh));
        same(&state(&copy), &copied);
        let back = started(&repo, version, "over");
        assert_eq!(back.sql("postgres", SUM), server.sql("postgres", SUM));
        assert_eq!(back.sql("postgres", "SELECT x FROM later"), "1");
    }
}

/// What is not an older copy that nobody uses stays as it is.
#[test]
fn what_is_not_an_older_copy_is_refused() {
    let repo = Repo::new().with("PATH", &path_with(18));
    let server = source(&repo, 18, 2000);
    repo.ok(["backup", &physical(&server)]);
    let refused = |target: &Path, args: Vec<&str>, why: &str| {
        let before = state(target);
        let told = repo.fails(1, args);
        assert!(
            told.contains(why) && (told.contains("nothing was changed") || why.contains("--replace")),
            "{told}"
        );
        same(&state(target), &before);
    };
    let other = repo.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("precious"), "precious").unwrap();
    refused(&other, over(&other, &[]), "no data directory of PostgreSQL");

    let mut foreign = Postgres::version(&repo, 18, "foreign", &[]);
    foreign.stop();
    let home = foreign.home.join("data");
    refused(&home, over(&home, &[]), "another cluster");
    // The server itself, which runs.
    let own = server.home.join("data");
    let told = repo.fails(1, over(&own, &[]));
    assert!(told.contains("in use by the server with process number"), "{told}");

    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    refused(
        &target,
        over(&target, &[]).into_iter().filter(|word| *word != "--replace").collect(),
        "with --replace",
    );
    let wal = repo.path("wal");
    std::fs::rename(target.join("pg_wal"), &wal).unwrap();
    std::os::unix::fs::symlink(&wal, target.join("pg_wal")).unwrap();
    refused(&target, over(&target, &[]), "is a link");
    // Not for folders of files.
    let told = repo.fails(2, ["restore", "latest", "--target", target.to_str().unwrap(), "--replace"]);
    assert!(told.contains("--replace is not for a folder"), "{told}");

    let repo = Repo::new().with("PATH", &path_with(18));
    let server = Postgres::version(&repo, 18, "pg", &["summarize_wal=on"]);
    let url = physical(&server);
    for _ in 0..2 {
        repo.ok(["backup", "--incremental", &url]);
        server.sql("postgres", "CREATE TABLE IF NOT EXISTS t AS SELECT i FROM generate_series(1, 9000) i");
        server.sql("postgres", "CHECKPOINT");
    }
    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    let told = repo.fails(1, over(&target, &[]));
    assert!(told.contains("incremental"), "{told}");
}

/// A repository that has lost something is found out before the older copy is touched.
#[test]
fn a_damaged_repository_leaves_the_older_copy_alone() {
    let repo = Repo::empty();
    repo.ok(["init", "--parity", "off"]);
    let server = source(&repo, 15, 60_000);
    repo.ok(["backup", &physical(&server)]);
    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    let packs = || {
        let all = run("find", &[repo.folder().join("packs").to_str().unwrap(), "-type", "f"]);
        all.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let first = packs();
    server.sql(
        "postgres",
        "CREATE TABLE more AS SELECT i, md5(random()::text) m FROM generate_series(1, 30000) i",
    );
    change(&server);
    repo.ok(["backup", &physical(&server)]);
    let before = state(&target);
    for pack in packs().difference(&first) {
        let bytes = std::fs::read(pack).unwrap();
        let mut flipped = bytes.clone();
        let at = flipped.len() / 3;
        flipped[at] ^= 1;
        for damaged in [Some(&flipped), None] {
            std::fs::remove_file(pack).unwrap();
            damaged.iter().for_each(|bytes| std::fs::write(pack, bytes).unwrap());
            let output = repo.run(over(&target, &[]));
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && told.contains("packs/"), "{pack}: {told}");
            same(&state(&target), &before);
        }
        std::fs::write(pack, &bytes).unwrap();
    }
    repo.ok(over(&target, &[]));
    verify(&server.bin, &target);
}

/// Killed at any moment, no server starts on what is there, and the same restore goes on, without being asked to replace.
#[test]
fn killed_at_any_moment_it_goes_on() {
    let repo = Repo::new();
    let server = source(&repo, 15, 300_000);
    repo.ok(["backup", &physical(&server)]);
    let (target, fresh) = (data(&repo, "back"), data(&repo, "fresh"));
    repo.ok(["restore", "latest", "--target", fresh.to_str().unwrap(), "--prepare"]);
    let args = ["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"];
    let mut unfinished = 0;
    for step in 0..12 {
        let mut child = repo.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100 + 70 * step));
        child.kill().unwrap();
        child.wait().unwrap();
        if !starts(&server, &target) {
            unfinished += u32::from(target.join("esker.restore").exists());
        } else {
            same(&state(&target), &state(&fresh));
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
    assert!(unfinished > 1, "{unfinished}");
    let mut child = repo.command(args).stdout(Stdio::null()).spawn().unwrap();
    wait_for("a beginning", 20, || {
        target.join("esker.restore").exists() || child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // With what is there as a part of it: an unfinished restore is nobody's data.
    repo.ok(if target.join("esker.restore").exists() { args.to_vec() } else { over(&target, &[]) });
    same(&state(&target), &state(&fresh));
    // And over a whole older copy.
    change(&server);
    repo.ok(["backup", &physical(&server)]);
    for step in 0..6 {
        let mut child =
            repo.command(over(&target, &[])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(150 + 100 * step));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(starts(&server, &target), target.join("global/pg_control").exists());
    }
    repo.ok(over(&target, &[]));
    verify(&server.bin, &target);
    let back = started(&repo, 15, "back");
    assert_eq!(back.sql("postgres", SUM), server.sql("postgres", SUM));
}

/// Tablespaces go into a new folder: what is where they would go is nobody's to change, whoever put it there.
#[test]
fn tablespaces_go_into_a_new_folder() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &[]);
    let space = server.home.join("space");
    std::fs::create_dir(&space).unwrap();
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres", space.to_str().unwrap()]);
    }
    server.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    server.sql(
        "postgres",
        "CREATE TABLE t TABLESPACE fast AS SELECT i, md5(i::text) m FROM generate_series(1, 9000) i",
    );
    repo.ok(["backup", &physical(&server)]);
    let target = data(&repo, "back");
    let args = ["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"];
    let spaces = target.parent().unwrap().join("data-tablespaces");
    let victim = repo.path("victim");
    std::fs::create_dir(&victim).unwrap();
    let mode = victim.metadata().unwrap().mode();
    std::os::unix::fs::symlink(&victim, &spaces).unwrap();
    let told = repo.fails(1, args);
    assert!(told.contains("move it away") && told.contains("nothing was changed"), "{told}");
    assert!(!target.exists() && state(&victim).is_empty() && victim.metadata().unwrap().mode() == mode);
    std::fs::remove_file(&spaces).unwrap();
    repo.ok(args);
    let told = repo.fails(1, over(&target, &[]));
    assert!(told.contains("has tablespaces"), "{told}");
    let back = started(&repo, 15, "back");
    assert_eq!(back.sql("postgres", SUM), server.sql("postgres", SUM));
}

/// What others do to the folder while a restore looks at it: they get nothing changed that is not in it, and no mixture.
#[test]
fn others_at_the_same_folder() {
    let repo = Repo::new();
    let server = source(&repo, 15, 150_000);
    repo.ok(["backup", &physical(&server)]);
    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    change(&server);
    repo.ok(["backup", &physical(&server)]);
    let fresh = data(&repo, "fresh");
    repo.ok(["restore", "latest", "--target", fresh.to_str().unwrap(), "--prepare"]);
    let after = |millis: u64| {
        let mut command = repo.command(over(&target, &[]));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        child
    };
    let (moved, victim) = (repo.path("moved"), repo.path("victim"));
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("surplus"), "precious").unwrap();
    for millis in [30, 90, 150, 250, 400, 700] {
        // Another restore.
        let child = after(millis);
        let output = repo.run(over(&target, &[]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || told.contains("another restore writes into"), "{told}");
        let first = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&first.stderr);
        assert!(first.status.success() || told.contains("another restore writes into"), "{told}");
        assert!(output.status.success() || first.status.success());
        same(&state(&target), &state(&fresh));
        // Another folder in its place.
        std::fs::write(target.join("surplus"), "surplus").unwrap();
        let (before, mode) = (state(&victim), victim.metadata().unwrap().mode());
        let child = after(millis);
        std::fs::rename(&target, &moved).unwrap();
        std::os::unix::fs::symlink(&victim, &target).unwrap();
        let output = child.wait_with_output().unwrap();
        same(&state(&victim), &before);
        assert_eq!(victim.metadata().unwrap().mode(), mode);
        let _ = std::fs::remove_file(moved.join("surplus"));
        if output.status.success() {
            same(&state(&moved), &state(&fresh));
        }
        std::fs::remove_file(&target).unwrap();
        std::fs::rename(&moved, &target).unwrap();
        repo.ok(over(&target, &[]));
        // A server that says that it is there.
        std::fs::write(target.join("global/odd"), "odd").unwrap();
        let before = state(&target);
        let child = after(millis);
        std::fs::write(target.join("postmaster.pid"), "1\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let _ = std::fs::remove_file(target.join("postmaster.pid"));
        if output.status.success() {
            same(&state(&target), &state(&fresh));
        } else {
            assert!(told.contains("in use by the server"), "{told}");
            if target.join("global/pg_control").exists() {
                same(&state(&target), &before);
            }
        }
        repo.ok(over(&target, &[]));
        same(&state(&target), &state(&fresh));
    }
}

/// What may be in such a folder and is not to be removed, or not to be waited for.
#[test]
fn what_is_found_in_the_folder() {
    let repo = Repo::new();
    let server = source(&repo, 15, 2000);
    std::fs::write(server.home.join("data/esker.restore"), "of another restore").unwrap();
    repo.ok(["backup", &physical(&server)]);
    let target = data(&repo, "back");
    std::fs::create_dir_all(target.join("lost+found")).unwrap();
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    assert!(target.join("lost+found").exists() && !target.join("esker.restore").exists());
    let refused = |why: &str| {
        let before = target.join("global/pg_control").metadata().unwrap().mtime();
        let told = repo.fails(1, over(&target, &[]));
        assert!(told.contains(why), "{told}");
        assert_eq!(target.join("global/pg_control").metadata().unwrap().mtime(), before);
    };
    let own = target.join("backups/repository");
    std::fs::create_dir_all(own.join("packs")).unwrap();
    std::fs::write(own.join("HEAD"), "").unwrap();
    refused("looks like a repository");
    std::fs::remove_dir_all(target.join("backups")).unwrap();
    for name in ["postmaster.pid", "global/pg_control"] {
        let path = target.join(name);
        let kept = std::fs::read(&path).ok();
        let _ = std::fs::remove_file(&path);
        run("mkfifo", &[path.to_str().unwrap()]);
        let told = repo.fails(1, over(&target, &[]));
        assert!(told.contains("is not the file that a server or a restore writes"), "{told}");
        std::fs::remove_file(&path).unwrap();
        kept.iter().for_each(|bytes| std::fs::write(&path, bytes).unwrap());
    }
    std::fs::write(target.join("postmaster.pid"), "").unwrap();
    refused("in use by the server");
    std::fs::remove_file(target.join("postmaster.pid")).unwrap();
    repo.ok(over(&target, &[]));
    // Two servers in one snapshot.
    let two = Postgres::version(&repo, 15, "two", &[]);
    repo.ok(["backup", &physical(&server), &physical(&two)]);
    let more = data(&repo, "more");
    let told = repo.fails(1, ["restore", "latest", "--target", more.to_str().unwrap(), "--prepare"]);
    assert!(told.contains("several servers"), "{told}");
    let one = told.split_whitespace().find(|word| word.contains(&two.port.to_string())).unwrap().to_owned();
    let one = one.replace("SNAPSHOT", "latest");
    repo.ok(["restore", &one, "--target", more.to_str().unwrap(), "--prepare"]);
    let back = started(&repo, 15, "more");
    assert_eq!(back.try_sql("postgres", "SELECT 1 FROM t"), None, "the other one");
}

#[test]
fn a_standby_follows_its_primary() {
    for version in [15, 18] {
        let repo = Repo::new();
        let server = Postgres::version(&repo, version, "pg", &["max_wal_senders=5", "wal_keep_size=256MB"]);
        server.sql("postgres", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
        repo.ok(["backup", &physical(&server)]);
        let target = data(&repo, "back");
        let target = target.to_str().unwrap();
        let primary =
            format!("host=127.0.0.1 port={} user=postgres password='it''s not' passfile=''", server.port);
        let told = repo.fails(2, ["restore", "latest", "--target", target, "--prepare", "--standby", "db1"]);
        assert!(told.contains("host=db1"), "{told}");
        let both =
            ["restore", "latest", "--target", target, "--standby", &primary, "--time", "2026-01-01 00:00:00"];
        assert!(repo.fails(2, both).contains("cannot be used with"));
        let primary =
            primary.replace("password='it''s not' passfile=''", "password=sesame application_name='it\\'s'");
        let said = repo.ok(["restore", "latest", "--target", target, "--prepare", "--standby", &primary]);
        assert!(said.contains("follows its primary"), "{said}");
        if rustix::process::geteuid().is_root() {
            run("chown", &["postgres", repo.path("back").to_str().unwrap()]);
        }
        let standby = Postgres::on(server.bin.clone(), repo.path("back"), &["hot_standby=on"]);
        assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()"), "t");
        server.sql("postgres", "INSERT INTO t VALUES (5000)");
        wait_for("the row", 60, || standby.sql("postgres", "SELECT count(*) FROM t") == "1001");
        assert_eq!(server.sql("postgres", "SELECT application_name FROM pg_stat_replication"), "it's");
    }
}
