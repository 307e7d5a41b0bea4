//! Snapshots and archives that are made of other snapshots, as restic makes them.

use crate::harness::Repo;
use crate::restic_flags::Both;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn groups_of_snapshots() {
    let Some(both) = Both::new("restic-0.14") else { return };
    let root = both.repo.path("data").display().to_string();
    for host in ["alpha", "beta", "alpha"] {
        both.backup([&root, "--host", host, "--tag", host]);
    }
    let theirs: Value =
        serde_json::from_str(&both.theirs(["snapshots", "--json", "--group-by", "host,paths"])).unwrap();
    let ours = both.repo.json(["snapshots", "--group-by", "host,paths"]);
    let shape = |groups: &Value| -> Vec<Value> {
        let groups = groups.as_array().unwrap().iter();
        let mut all: Vec<Value> = groups
            .map(|group| {
                let key = &group["group_key"];
                json!([key["hostname"], key["paths"], group["snapshots"].as_array().unwrap().len()])
            })
            .collect();
        all.sort_by_key(ToString::to_string);
        all
    };
    assert_eq!(shape(&ours), shape(&theirs));
    let (our, their) = (&ours[0]["snapshots"][0], &theirs[0]["snapshots"][0]);
    for key in their.as_object().unwrap().keys() {
        assert!(!our[key].is_null(), "{key} is missing: {our}");
    }
    let latest = both.repo.json(["snapshots", "--latest", "1", "--group-by", "host,paths"]);
    assert_eq!(
        latest
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group["snapshots"].as_array().unwrap().len())
            .sum::<usize>(),
        2
    );
    let text = both.repo.ok(["snapshots", "--group-by", "host", "--compact"]);
    assert!(text.contains("snapshots for (host [alpha])") && !text.contains(&root), "{text}");
}

/// What a program of others finds in an archive: name, kind, mode, size, whole seconds of the time, and the content.
fn members(archive: &std::path::Path) -> String {
    let script = "import sys, tarfile, zipfile, hashlib, stat
path, out = sys.argv[1], []
if zipfile.is_zipfile(path):
    z = zipfile.ZipFile(path); assert z.testzip() is None
    for i in z.infolist():
        mode = i.external_attr >> 16
        kind = 'dir' if i.is_dir() else 'link' if stat.S_ISLNK(mode) else 'file'
        out.append((i.filename.rstrip('/'), kind, oct(mode & 0o7777), hashlib.sha256(z.read(i)).hexdigest()))
else:
    for m in tarfile.open(path):
        kind = 'dir' if m.isdir() else 'link' if m.issym() else 'fifo' if m.isfifo() else 'file'
        body = tarfile.open(path).extractfile(m).read() if m.isreg() else m.linkname.encode()
        x = sorted(k for k in m.pax_headers if 'xattr' in k)
        out.append((m.name.rstrip('/').lstrip('/'), kind, oct(m.mode), m.uid, m.gid, m.uname, m.gname, int(m.mtime + 0.5), hashlib.sha256(body).hexdigest(), x))
print('\\n'.join(map(repr, sorted(out))))";
    crate::harness::run("python3", &["-c", script, archive.to_str().unwrap()])
}

#[test]
fn folders_as_archives() {
    let Some(both) = Both::new("restic-0.19") else { return };
    let root = both.repo.path("data");
    let name = format!("long/{}/{}", "n".repeat(120), "\u{fc}".repeat(100));
    std::fs::create_dir_all(root.join(&name).parent().unwrap()).unwrap();
    std::fs::write(root.join(&name), "long").unwrap();
    std::os::unix::fs::symlink("one.txt", root.join("symbolic")).unwrap();
    crate::harness::run("mkfifo", &[root.join("fifo").to_str().unwrap()]);
    crate::harness::run(
        "setfattr",
        &["-n", "user.note", "-v", "kept", root.join("one.txt").to_str().unwrap()],
    );
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let root = root.display().to_string();
    both.backup([&root]);
    let file = |name: &str| both.repo.path(name).display().to_string();
    for folder in [root.as_str(), "/", &format!("{root}/sub")] {
        for archive in ["a", "b"] {
            let _ = std::fs::remove_file(both.repo.path(archive));
        }
        both.repo.ok(["dump", "latest", folder, "--target", &file("a")]);
        both.theirs(["dump", "latest", folder, "--target", &file("b")]);
        let (ours, theirs) = (members(&both.repo.path("a")), members(&both.repo.path("b")));
        // restic writes named pipes as empty files; and the folders above changed between the two backups.
        let names = |text: &str| -> Vec<String> {
            let meant = |line: &&str| line.contains("/data") && !line.contains("/fifo'");
            text.lines().filter(meant).map(str::to_owned).collect()
        };
        assert!(!ours.contains("/fifo'") || ours.contains("/fifo', 'fifo'"), "{ours}");
        for (our, their) in names(&ours).iter().zip(&names(&theirs)) {
            assert_eq!(our, their, "{folder}");
        }
        assert_eq!(names(&ours).len(), names(&theirs).len(), "{folder}: {ours}\n{theirs}");
    }
    both.repo.ok(["dump", "--archive", "zip", "latest", &root, "--target", &file("a.zip")]);
    both.theirs(["dump", "--archive", "zip", "latest", &root, "--target", &file("b.zip")]);
    let plain = |archive: &str| {
        let text = members(&both.repo.path(archive));
        // restic puts named pipes into zips, as empty files.
        text.lines().filter(|line| !line.contains("/fifo'")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(plain("a.zip"), plain("b.zip"));
    // GNU tar agrees, and puts attributes back.
    let back = both.repo.path("back");
    std::fs::create_dir(&back).unwrap();
    both.repo.ok(["dump", &format!("latest:{root}"), "/", "--target", &file("c.tar")]);
    let back = back.display().to_string();
    crate::harness::run("tar", &["--xattrs", "--xattrs-include=*", "-xpf", &file("c.tar"), "-C", &back]);
    crate::harness::run("diff", &["-r", "--no-dereference", &format!("{root}/sub"), &format!("{back}/sub")]);
    let note =
        crate::harness::run("getfattr", &["--only-values", "-n", "user.note", &format!("{back}/one.txt")]);
    assert_eq!(note, "kept");
    assert!(both.repo.fails(1, ["dump", "latest", "/nowhere"]).contains("nowhere"));
}

/// Snapshots anew: without some files, only with some, of another host or time; as restic's, and restored as they say.
#[test]
fn snapshots_anew() {
    let Some(both) = Both::new("restic-0.19") else { return };
    let root = both.repo.path("data").display().to_string();
    both.backup([&root]);
    let id = both.repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    for words in
        [["--exclude", "*.txt"], ["--iexclude", "*.TXT"], ["--include", "sub"], ["--iinclude", "THREE*"]]
    {
        both.repo.ok([
            "rewrite",
            &id,
            words[0],
            words[1],
            "--new-host",
            "elsewhere",
            "--new-time",
            "2031-01-01 00:00:00",
        ]);
        let their_id: Value = serde_json::from_str(&both.theirs(["snapshots", "--json"])).unwrap();
        let their_id = their_id[0]["id"].as_str().unwrap().to_owned();
        both.theirs([
            "rewrite",
            &their_id,
            words[0],
            words[1],
            "--new-host",
            "elsewhere",
            "--new-time",
            "2031-01-01 00:00:00",
        ]);
        let newest = |list: Value| {
            list.as_array().unwrap().iter().find(|one| one["hostname"] == "elsewhere").unwrap().clone()
        };
        let ours = newest(both.repo.json(["snapshots"]));
        let theirs = newest(serde_json::from_str(&both.theirs(["snapshots", "--json"])).unwrap());
        let (a, b) = (ours["id"].as_str().unwrap().to_owned(), theirs["id"].as_str().unwrap().to_owned());
        let lines = |text: String| {
            text.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        assert_eq!(lines(both.repo.ok(["ls", &a])), lines(both.theirs(["ls", &b])), "{words:?}");
        assert_eq!((&ours["tags"], &ours["original"]), (&json!(["rewrite"]), &json!(id)));
        both.repo.ok(["restore", &a, "--target", "back"]);
        both.repo.ok(["forget", &a]);
        both.theirs(["forget", &b]);
    }
    // Nothing but the list of entries is stored, and the old one goes only if that is said.
    let before = both.repo.json(["stats"])["stored_size"].as_u64().unwrap();
    both.repo.ok(["rewrite", "--exclude", "sub", "--forget", &id]);
    assert_eq!(both.repo.snapshot_count(), 1);
    assert!(both.repo.json(["stats"])["stored_size"].as_u64().unwrap() < before + 10_000);
    both.repo.ok(["prune", "--max-unused", "0%"]);
    both.repo.ok(["check", "--read-data"]);
    assert!(both.repo.fails(1, ["rewrite", "--exclude", "*"]).contains("nothing of snapshot"));
    assert!(both.repo.fails(2, ["rewrite", "latest"]).contains("what is to change"));
    assert!(both.repo.ok(["rewrite", "-n", "--exclude", "*.md", "latest"]).contains("has nothing of that"));
}

/// `backup --group-by` says of which snapshots the parent is the latest.
#[test]
fn the_parent_is_of_the_group_that_is_asked_for() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("one")).unwrap();
    std::fs::write(repo.path("one/file"), "same").unwrap();
    let backup = |more: &[&str]| {
        let words: Vec<&str> = ["backup"].iter().chain(more).copied().chain(["one"]).collect();
        let id = repo.json(&words)["snapshot_id"].as_str().unwrap().to_owned();
        let all = repo.json(["snapshots"]);
        let parent =
            all.as_array().unwrap().iter().find(|one| one["id"] == id.as_str()).unwrap()["parent"].clone();
        (id, parent.as_str().map(str::to_owned))
    };
    let (first, none) = backup(&["--host", "a", "--tag", "x"]);
    assert_eq!(none, None);
    assert_eq!(backup(&["--host", "b"]).1, None);
    assert_eq!(backup(&["--host", "c", "--tag", "x", "--group-by", "tags,paths"]).1, Some(first.clone()));
    assert_eq!(backup(&["--host", "a", "--group-by", "host"]).1, Some(first));
    assert_eq!(backup(&["--host", "d", "--group-by", "host,paths"]).1, None);
    let (latest, parent) = backup(&["--host", "e", "--group-by", ""]);
    assert!(parent.is_some() && parent != Some(latest));
    repo.fails(2, ["backup", "--group-by", "size", "one"]);
}
