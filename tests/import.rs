//! `esker import`: repositories that real restic made, 0.14 and 0.19, with twenty snapshots of everything that a file can
//! be; compared with what restic itself lists and restores.

use crate::harness::{Process, Repo, expect, noise, run, server_if_there, text, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A repository of restic beside one of ours.
struct Restic {
    binary: PathBuf,
    repo: Repo,
}

impl Restic {
    /// A fresh one, made with these words after `init`; `None`, with a line that says so, where this restic is not.
    fn new(name: &str, init: &[&str]) -> Option<Self> {
        let restic = Self { binary: server_if_there(name)?, repo: Repo::new() };
        std::fs::write(restic.repo.path("password"), "of restic\n").unwrap();
        restic.ok([&["init"], init].concat());
        Some(restic)
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("RESTIC_REPOSITORY", self.repo.path("restic"))
            .env("RESTIC_PASSWORD_FILE", self.repo.path("password"))
            .env("RESTIC_CACHE_DIR", self.repo.path("restic-cache"))
            .env("TZ", "UTC")
            .current_dir(self.repo.dir.path())
            .stdin(Stdio::null())
            .args(args);
        command
    }

    fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        expect(&self.command(args).output().unwrap(), 0)
    }

    fn snapshots(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(["snapshots", "--json"])).unwrap()
    }

    /// The words of an import, with more behind them.
    fn import(&self, more: &[&str]) -> Vec<String> {
        let place = format!("restic:{}", self.repo.path("restic").display());
        let file = self.repo.path("password").display().to_string();
        let words = ["import", &place, "--from-password-file", &file];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    fn ours(&self) -> Vec<Value> {
        self.repo.json(["snapshots"]).as_array().unwrap().clone()
    }
}

/// A folder with everything that restic keeps; `night` changes some of it.
fn tree(root: &Path, night: u64) {
    let write = |name: &[u8], body: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
    };
    write(b"docs/report", &text(night, 40_000 + night as usize * 100));
    write(b"docs/a.txt", b"before docs/a/b in one order, behind it in another");
    write(b"docs/a/b", &text(3, 500));
    write(b"docs/a-b", b"");
    write(b"deep/1/2/3/4/5/6/7/8/9", &noise(night / 5, 3000));
    write(format!("nights/{night:02}").as_bytes(), &noise(night, 20_000));
    if night > 0 {
        return;
    }
    write(b"large", &noise(99, 12 << 20));
    write(b"odd/\xff\xfe not utf-8", b"bytes");
    write(b"odd/new\nline\ttab", b"control");
    write("odd/\u{202e}right to left \u{1f600}".as_bytes(), b"unicode");
    write(b"odd/back\\slash \"quoted\" 'single'", b"quotes");
    write(b"odd/ leading and trailing ", b"blanks");
    write(b"odd/-dash", b"dash");
    write(&[b"odd/".as_slice(), &[b'x'; 255]].concat(), b"long");
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"at the end", (20 << 20) - 10).unwrap();
    write(b"links/one", &text(7, 9000));
    std::fs::hard_link(root.join("links/one"), root.join("links/two")).unwrap();
    std::fs::hard_link(root.join("links/one"), root.join("docs/three")).unwrap();
    symlink("../links/one", root.join("links/symbolic")).unwrap();
    symlink(OsStr::from_bytes(b"to \xff nowhere"), root.join("links/dangling")).unwrap();
    run("mkfifo", &[root.join("fifo").to_str().unwrap()]);
    for (path, mode) in [("docs/a/b", 0o4755), ("deep", 0o1777), ("docs/a", 0o2750), ("docs/a-b", 0)] {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    run("setfattr", &["-n", "user.note", "-v", "0s/wD+AQ==", root.join("docs/a.txt").to_str().unwrap()]);
    run("setfattr", &["-n", "user.empty", root.join("docs").to_str().unwrap()]);
    run("setfacl", &["-m", "u:12345:r", root.join("docs/report").to_str().unwrap()]);
    run("touch", &["-d", "1969-12-31 23:59:58.25", root.join("odd/-dash").to_str().unwrap()]);
    run(
        "touch",
        &["-h", "-d", "2001-02-03 04:05:06.123456789", root.join("links/symbolic").to_str().unwrap()],
    );
    if rustix::process::getuid().is_root() {
        run("chown", &["-h", "1234:5678", root.join("links/dangling").to_str().unwrap()]);
        run("mknod", &[root.join("device").to_str().unwrap(), "c", "1", "3"]);
    }
}

/// Twenty snapshots of two hosts, with tags; every fifth of another folder, and one of standard input.
fn history(restic: &Restic, more: &[&str]) {
    let root = restic.repo.path("data");
    for night in 0..20 {
        tree(&root, night);
        let time = format!("2024-03-{:02} 01:30:00", night + 1);
        let host = if night % 3 == 0 { "alpha" } else { "beta" };
        let tag = format!("night{night},auto");
        let mut words = vec!["backup", "--host", host, "--tag", &tag, "--time", &time, "--exclude", "*.tmp"];
        words.extend(more);
        let folder = restic.repo.path(if night % 5 == 4 { "data/docs" } else { "data" });
        if night == 7 {
            words.extend(["--stdin", "--stdin-filename", "dump.sql"]);
            let file = std::fs::File::open(root.join("large")).unwrap();
            expect(&restic.command(words).stdin(file).output().unwrap(), 0);
        } else {
            words.push(folder.to_str().unwrap());
            restic.ok(words);
        }
    }
}

/// What a program lists in a snapshot, by path: everything that both of them say.
fn listing(text: &str) -> BTreeMap<String, Value> {
    let nodes = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    nodes
        .filter(|node| node["struct_type"] == "node")
        .map(|node| {
            let mtime: jiff::Timestamp = node["mtime"].as_str().unwrap().parse().unwrap();
            // restic leaves a zero out.
            let mode = node["mode"].as_u64().unwrap_or(0);
            let owner = json!([node["uid"], node["gid"]]);
            let said = json!([node["type"], owner, node["permissions"], mode, mtime.to_string()]);
            let size = if node["type"] == "file" { node["size"].as_u64().unwrap_or(0) } else { 0 };
            (node["path"].as_str().unwrap().to_owned(), json!([said, size]))
        })
        .collect()
}

/// Everything about the files beneath a folder that stat(1), sha256sum(1), readlink(1) and getfattr(1) tell.
fn facts(root: &Path) -> String {
    let script = "
        find . -mindepth 1 -printf '%P\\t%y\\t%m\\t%U\\t%G\\t%T@\\t%n\\t%l\\t' \\( -type f -printf '%s' , -true \\) -printf '\\0' | sort -z
        find . -type f -print0 | sort -z | xargs -0 sha256sum -z
        getfattr -R -h -d -m - -e hex . 2>/dev/null
        find . -links +1 -type f -printf '%i\\t%P\\0' | sort -z -t '\t' -k2 | awk -v RS='\\0' -F '\\t' '{ if (!($1 in n)) n[$1] = ++c; print n[$1], $2 }'";
    let output = Command::new("bash").args(["-ec", script]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every snapshot here is the one there: in its record, its list and what is restored of it.
fn compare(restic: &Restic) {
    let repo = &restic.repo;
    let theirs = restic.snapshots();
    let ours = restic.ours();
    assert_eq!(ours.len(), theirs.len());
    for (number, their) in theirs.iter().enumerate() {
        let id = their["id"].as_str().unwrap();
        let fits = |our: &&Value| our["original"].as_str() == Some(id);
        let our = ours.iter().find(fits).unwrap_or_else(|| panic!("{id} is not here"));
        for key in ["hostname", "username", "uid", "gid", "paths", "tags", "excludes"] {
            let absent = |value: &Value| if value.is_null() { json!(0) } else { value.clone() };
            assert_eq!(absent(&our[key]), absent(&their[key]), "{key} of {id}");
        }
        let time = |value: &Value| value["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(time(our), time(their));
        let name = our["id"].as_str().unwrap();
        let (a, b) = (listing(&repo.ok(["--json", "ls", name])), listing(&restic.ok(["ls", "--json", id])));
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{id}");
        for (path, node) in &a {
            assert_eq!(node, &b[path], "{path} of {id}");
        }
        if number % 4 == 0 || their["paths"][0].as_str().unwrap().ends_with("dump.sql") {
            let (a, b) = (repo.path(&format!("a{number}")), repo.path(&format!("b{number}")));
            repo.ok(["restore", name, "--target", a.to_str().unwrap()]);
            restic.ok(["restore", id, "--target", b.to_str().unwrap()]);
            let (a_facts, b_facts) = (facts(&a), facts(&b));
            for (ours, theirs) in a_facts.split(['\0', '\n']).zip(b_facts.split(['\0', '\n'])) {
                assert_eq!(ours, theirs, "{id}");
            }
            assert_eq!(a_facts, b_facts, "{id}");
            for folder in [a, b] {
                std::fs::remove_dir_all(folder).unwrap();
            }
        }
    }
}

fn whole_history(name: &str, init: &[&str], more: &[&str]) {
    let Some(restic) = Restic::new(name, init) else { return };
    history(&restic, more);
    let repo = &restic.repo;
    let dry = repo.ok(restic.import(&["--dry-run"]));
    assert!(dry.contains("would import 20 snapshots"), "{dry}");
    assert_eq!(restic.ours().len(), 0);
    let said = repo.ok(restic.import(&[]));
    assert!(said.contains("imported 20 snapshots; 0 were here"), "{said}");
    compare(&restic);
    repo.ok(["check", "--read-data"]);
    // A second one adds nothing: no snapshot, no pack.
    let before = repo.json(["stats"]);
    let said = repo.ok(restic.import(&[]));
    assert!(said.contains("imported 0 snapshots; 20 were here"), "{said}");
    assert_eq!(repo.json(["stats"]), before);
    // Not even for one that was tagged here meanwhile.
    let first = restic.ours()[0]["id"].as_str().unwrap().to_owned();
    repo.ok(["tag", "--add", "seen", &first]);
    let said = repo.ok(restic.import(&[]));
    assert!(said.contains("imported 0 snapshots; 20 were here"), "{said}");
    // And a backup of the same folder goes on where restic stopped: the imported snapshot is its parent.
    let folder = repo.path("data").display().to_string();
    let done = repo.json(["backup", "--host", "beta", "--ignore-inode", "--ignore-ctime", &folder]);
    assert!(done["data_added"].as_u64().unwrap() < 1 << 20, "{done}");
}

#[test]
fn of_restic_0_14_uncompressed() {
    whole_history("restic-0.14", &["--repository-version", "1"], &[]);
}

#[test]
fn of_restic_0_14_compressed() {
    whole_history("restic-0.14", &["--repository-version", "2"], &[]);
}

#[test]
fn of_restic_0_19_compressed() {
    whole_history("restic-0.19", &[], &["--compression", "max", "--pack-size", "4"]);
}

/// Killed in the middle of the work, again and again: each run adds what is missing, and nothing twice.
#[test]
fn killed_and_run_again() {
    let Some(restic) = Restic::new("restic-0.14", &["--repository-version", "2"]) else { return };
    history(&restic, &[]);
    let repo = &restic.repo;
    for wanted in [1, 6, 13] {
        let mut command = repo.command(restic.import(&[]));
        let mut child = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("snapshots come over", 120, || {
            child.0.try_wait().unwrap().is_some() || repo.snapshot_count() >= wanted
        });
        drop(child);
    }
    let there = repo.snapshot_count();
    let summary = repo.json(restic.import(&[]));
    assert_eq!(summary["skipped"].as_u64().unwrap() as usize, there);
    assert_eq!(summary["imported"].as_u64().unwrap() as usize, 20 - there);
    let originals: BTreeSet<String> = restic.ours().iter().map(|our| our["original"].to_string()).collect();
    assert_eq!((originals.len(), repo.snapshot_count()), (20, 20));
    compare(&restic);
}

/// Filters and ids choose; what fits nothing is an error; passwords and places that are wrong have their codes.
#[test]
fn what_is_asked_for() {
    let Some(restic) = Restic::new("restic-0.14", &[]) else { return };
    let repo = &restic.repo;
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/file"), "one").unwrap();
    for host in ["alpha", "beta", "beta"] {
        restic.ok(["backup", "--host", host, "--tag", host, "data"]);
    }
    let said = |output: Output, code| {
        expect(&output, code);
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(repo.run(restic.import(&["--host", "gamma"])), 1).contains("no snapshot of restic fits"));
    assert!(said(repo.run(restic.import(&["0123456789"])), 1).contains("matches 0 snapshots"));
    std::fs::write(repo.path("wrong"), "guess\n").unwrap();
    let place = format!("restic:{}", repo.path("restic").display());
    let wrong = repo.path("wrong").display().to_string();
    repo.fails(12, ["import", &place, "--from-password-file", &wrong]);
    repo.fails(10, ["import", "restic:nowhere", "--from-password-file", &wrong]);
    assert!(repo.fails(2, ["import", "borg:nowhere"]).contains("restic:PLACE"));
    repo.ok(restic.import(&["--host", "alpha"]));
    assert_eq!(repo.snapshot_count(), 1);
    let id = restic.snapshots()[1]["short_id"].as_str().unwrap().to_owned();
    repo.ok(restic.import(&[&id]));
    repo.ok(restic.import(&[]));
    assert_eq!(repo.snapshot_count(), 3);
    // A relative path is kept as it was given, below the top of the snapshot.
    assert_eq!(repo.ok(["dump", "latest", "data/file"]), "one");
}

/// A damaged blob: the snapshots that need it stay there, or come without that file if that was asked for; a damaged index or
/// snapshot ends the import. Nothing is imported wrong.
#[test]
fn damage_is_said() {
    let Some(restic) = Restic::new("restic-0.14", &["--repository-version", "1"]) else { return };
    let repo = &restic.repo;
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/good"), "good").unwrap();
    restic.ok(["backup", "data"]);
    std::fs::write(repo.path("data/bad"), noise(1, 2 << 20)).unwrap();
    restic.ok(["backup", "data"]);
    let packs = run("find", &[repo.path("restic/data").to_str().unwrap(), "-type", "f", "-size", "+1000k"]);
    let pack = PathBuf::from(packs.lines().next().unwrap());
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::set_permissions(&pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&pack, &bytes).unwrap();
    let output = repo.run(restic.import(&[]));
    expect(&output, 3);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("data/bad") && stderr.contains("not authentic"), "{stderr}");
    assert_eq!(repo.snapshot_count(), 1);
    expect(&repo.run(restic.import(&["--keep-going"])), 3);
    assert_eq!(repo.snapshot_count(), 2);
    let list = repo.ok(["ls", "latest"]);
    assert!(list.contains("/good") && !list.contains("/bad"), "{list}");
    // What it lacks is not taken for what was not there.
    for more in [&[][..], &["--delete-excluded"]] {
        let target = repo.path("data").display().to_string();
        let restore = ["restore", "latest:data", "--target", &target, "--delete"];
        let told = repo.fails(1, [&restore[..], more].concat());
        assert!(
            told.contains("were damaged where it was imported from") && repo.path("data/bad").exists(),
            "{told}"
        );
    }
    // It is known to lack something: nothing is imported twice, and it comes whole as soon as it can.
    expect(&repo.run(restic.import(&["--keep-going"])), 3);
    expect(&repo.run(restic.import(&[])), 3);
    assert_eq!(repo.snapshot_count(), 2);
    bytes[1000] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    let summary = repo.json(restic.import(&[]));
    assert_eq!((&summary["imported"], &summary["skipped"]), (&json!(1), &json!(1)));
    let lists: Vec<bool> = restic
        .ours()
        .iter()
        .map(|our| repo.ok(["ls", our["id"].as_str().unwrap()]).contains("/bad"))
        .collect();
    assert_eq!(lists.iter().filter(|whole| **whole).count(), 1);
    repo.ok(restic.import(&[]));
    assert_eq!(repo.snapshot_count(), 3);
    for folder in ["index", "snapshots"] {
        let files = run("find", &[repo.path(&format!("restic/{folder}")).to_str().unwrap(), "-type", "f"]);
        let file = PathBuf::from(files.lines().next().unwrap());
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let fresh = Repo::new();
        let stderr = fresh.fails(21, restic.import(&[]));
        assert!(stderr.contains(folder), "{stderr}");
        assert_eq!(fresh.snapshot_count(), 0);
    }
}

/// From a store over the network, where packs are read whole.
#[test]
fn of_a_bucket() {
    let weed = crate::seaweed::Weed::start();
    let place = format!("s3:http://127.0.0.1:{}/bk1/restic", weed.port());
    let keys = [("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST")];
    let Some(binary) = server_if_there("restic-0.14") else { return };
    let mut repo = Repo::new();
    for (name, value) in keys {
        repo = repo.with(name, value);
    }
    std::fs::write(repo.path("password"), "of restic\n").unwrap();
    let restic = Restic { binary, repo };
    let run = |words: &[&str]| {
        let mut command = restic.command(words);
        expect(&command.envs(keys).env("RESTIC_REPOSITORY", &place).output().unwrap(), 0)
    };
    run(&["init"]);
    let root = restic.repo.path("data");
    for night in 0..3 {
        tree(&root, night);
        run(&["backup", "data"]);
    }
    let (repo, from) = (&restic.repo, format!("restic:{place}"));
    let summary = repo.json(["import", &from, "--from-password-file", "password"]);
    assert_eq!(summary["imported"], 3, "{summary}");
    repo.ok(["restore", "latest", "--target", "back"]);
    run(&["restore", "latest", "--target", "theirs"]);
    assert_eq!(facts(&repo.path("back")), facts(&repo.path("theirs")));
}

/// restic notes its excludes, and not all else that a backup left out: nothing is removed for want of knowing.
#[test]
fn a_restore_of_what_was_imported_removes_nothing_unasked() {
    let Some(restic) = Restic::new("restic-0.14", &[]) else { return };
    let repo = &restic.repo;
    std::fs::create_dir_all(repo.path("data/keep")).unwrap();
    for name in ["keep/e", "top", "LARGE"] {
        std::fs::write(repo.path("data").join(name), "live").unwrap();
    }
    restic.ok(["backup", "data", "--exclude", "e/", "--iexclude", "large"]);
    repo.ok(restic.import(&[]));
    let target = repo.path("target").display().to_string();
    run("cp", &["-a", repo.path("data").to_str().unwrap(), &target]);
    let restore = ["restore", "latest:data", "--target", &target, "--delete"];
    repo.ok(restore);
    for name in ["keep/e", "top", "LARGE"] {
        assert!(repo.path("target").join(name).exists(), "{name}");
    }
    repo.ok([&restore[..], &["--delete-excluded"]].concat());
    assert!(!repo.path("target/LARGE").exists() && repo.path("target/top").exists());
}
