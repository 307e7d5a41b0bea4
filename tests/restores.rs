//! What a restore into a folder touches and gives, and what it leaves alone.

use crate::harness::{Repo, expect, run};
use crate::restore_ends::plain_user;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Writes files, with the folders above them.
pub(crate) fn files(repo: &Repo, list: &[(&str, &str)]) {
    for (name, content) in list {
        let path = repo.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Backs up paths, named relative to a folder.
pub(crate) fn backup_in(repo: &Repo, folder: &str, paths: &[&str]) {
    let output = repo.command(["backup", "-q"]).args(paths).current_dir(repo.path(folder)).output().unwrap();
    expect(&output, 0);
}

/// Everything beneath a folder, by path relative to it.
pub(crate) fn names(folder: &Path) -> BTreeSet<String> {
    let text = run("find", &[folder.to_str().unwrap(), "-mindepth", "1", "-printf", "%P\n"]);
    text.lines().map(str::to_owned).collect()
}

/// What a run said it removes or would remove, relative to a folder.
fn removed(output: &Output, folder: &str) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| {
        line.strip_prefix("would remove ").or_else(|| line.strip_prefix("removed "))?.strip_prefix(folder)
    });
    lines.map(|line| line.trim_start_matches('/').to_owned()).collect()
}

/// A dry run, then the same in earnest: what the first names is what goes.
fn delete(repo: &Repo, target: &str, words: &[&str]) -> BTreeSet<String> {
    let before = names(&repo.path(target));
    let all = |more: &[&str]| {
        let mut all = vec!["restore"];
        all.extend(words);
        all.extend(["--target", target, "--delete"]);
        all.extend(more);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let dry = repo.run(all(&["-n"]));
    expect(&dry, 0);
    assert_eq!(names(&repo.path(target)), before, "a dry run changes nothing");
    let summary = repo.json(all(&["-n"]));
    let done = repo.run(all(&["-v"]));
    expect(&done, 0);
    let gone: BTreeSet<String> = before.difference(&names(&repo.path(target))).cloned().collect();
    assert_eq!(removed(&dry, target), gone, "what is named is what goes");
    assert_eq!(removed(&done, target), gone);
    assert_eq!(summary["files_deleted"], gone.len(), "{summary}");
    gone
}

pub(crate) fn set(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn delete_leaves_what_the_filters_and_the_snapshot_are_not_about() {
    let repo = Repo::new();
    files(&repo, &[("src/etc/app/conf", "1"), ("src/etc/other", "2")]);
    backup_in(&repo, "src", &["etc"]);
    let target = [
        ("t/etc/app/conf", "1"),
        ("t/etc/app/extra/deep", "x"),
        ("t/etc/mine", "m"),
        ("t/etc/app/keep.log", "l"),
        ("t/home/file", "precious"),
    ];
    files(&repo, &target);
    let gone = delete(&repo, "t", &["latest", "--include", "/etc/app", "--exclude", "*.log"]);
    assert_eq!(gone, set(&["etc/app/extra", "etc/app/extra/deep"]));
    // Folders that the snapshot only passes through are not its own; the target's top is not either.
    assert_eq!(delete(&repo, "t", &["latest"]), set(&["etc/app/keep.log", "etc/mine"]));
    assert_eq!(
        names(&repo.path("t")),
        set(&["etc", "etc/app", "etc/app/conf", "etc/other", "home", "home/file"])
    );
}

#[test]
fn delete_leaves_what_the_backup_left_out() {
    let repo = Repo::new();
    files(
        &repo,
        &[("s/a", "a"), ("s/x.log", "x"), ("s/d/Y.TMP", "y"), ("s/d/f", "f"), ("s/cache/in/z", "z")],
    );
    fs::write(repo.path("s/big"), vec![7; 5000]).unwrap();
    let words = ["-e", "*.log", "-e", "s/cache", "--iexclude", "*.tmp", "--exclude-larger-than", "1k"];
    repo.ok(["backup", "-q", "s"].iter().chain(&words));
    // Names that came later are treated as the backup would have treated them.
    files(&repo, &[("s/new.log", "n"), ("s/d/cache/in", "c"), ("s/d/new", "n")]);
    let gone = set(&["d/cache", "d/cache/in", "d/new"]);
    assert_eq!(delete(&repo, "s", &["latest:s"]), gone);
    let summary = repo.json(["restore", "latest:s", "--target", "s", "--delete"]);
    assert_eq!((&summary["files_kept"], &summary["files_deleted"]), (&5.into(), &0.into()), "{summary}");
    let said = repo.ok(["restore", "latest:s", "--target", "s", "--delete", "-n"]);
    assert!(said.contains("would keep 5") && said.contains("--delete-excluded"), "{said}");
    // In another place, too, and in a part.
    run("cp", &["-r", repo.path("s").to_str().unwrap(), repo.path("t").to_str().unwrap()]);
    assert_eq!(delete(&repo, "t", &["latest:s"]), set(&[]));
    assert_eq!(delete(&repo, "t/d", &["latest:s/d"]), set(&[]));
    assert_eq!(delete(&repo, "t/d", &["latest:s/d", "--delete-excluded"]), set(&["Y.TMP"]));
    // What a snapshot was made without stays as well.
    repo.ok(["rewrite", "latest", "--exclude", "/s/a", "--forget"]);
    assert_eq!(delete(&repo, "t", &["latest:s"]), set(&[]));
    let gone = set(&["a", "big", "cache", "cache/in", "cache/in/z", "new.log", "x.log"]);
    assert_eq!(delete(&repo, "t", &["latest:s", "--delete-excluded"]), gone);
}

#[test]
fn delete_in_a_part_of_a_snapshot() {
    let repo = Repo::new();
    files(&repo, &[("src/etc/a", "1"), ("src/etc/sub/B.txt", "2")]);
    backup_in(&repo, "src", &["etc"]);
    files(&repo, &[("t/a", "live"), ("t/x.log", "log"), ("t/sub/c.TXT", "c"), ("t/sub/d", "d")]);
    assert_eq!(delete(&repo, "t", &["latest:etc", "--exclude", "*.log", "--include", "/a"]), set(&[]));
    assert_eq!(fs::read(repo.path("t/a")).unwrap(), b"1");
    assert_eq!(delete(&repo, "t", &["latest:etc", "--iinclude", "*.txt"]), set(&["sub/c.TXT"]));
    assert_eq!(delete(&repo, "t", &["latest:/etc/", "--iexclude", "*.LOG"]), set(&["sub/d"]));
    assert_eq!(delete(&repo, "t", &["latest:etc"]), set(&["x.log"]));
    // The whole of what `.` named is the target itself.
    backup_in(&repo, "src/etc", &["."]);
    files(&repo, &[("u/other/file", "x")]);
    assert_eq!(delete(&repo, "u", &["latest"]), set(&["other", "other/file"]));
}

#[test]
fn delete_removes_nothing_beside_a_base_that_is_no_folder() {
    let repo = Repo::new();
    files(&repo, &[("src/etc/hosts", "h"), ("src/etc/passwd", "p"), ("src/etc/app/conf", "c")]);
    std::os::unix::fs::symlink("hosts", repo.path("src/etc/link")).unwrap();
    std::os::unix::fs::symlink("app", repo.path("src/etc/folder")).unwrap();
    run("mkfifo", &[repo.path("src/etc/pipe").to_str().unwrap()]);
    backup_in(&repo, "src", &["etc"]);
    let others = [("passwd", "mine"), ("app/conf", "mine"), ("app/new", "mine"), ("hostsx", "mine")];
    let there = |folder: &str| {
        let list = others.map(|(name, text)| (format!("{folder}/{name}"), text));
        files(&repo, &list.each_ref().map(|(name, text)| (name.as_str(), *text)));
    };
    let is_whole = |folder: &str| {
        others.iter().all(|(name, text)| fs::read_to_string(repo.path(folder).join(name)).unwrap() == *text)
    };
    for base in ["hosts", "link", "folder", "pipe"] {
        let (snapshot, target) = (format!("latest:/etc/{base}/"), format!("t-{base}"));
        there(&target);
        let before = names(&repo.path(&target));
        assert_eq!(delete(&repo, &target, &[&snapshot]), set(&[]), "{base}");
        assert_eq!(delete(&repo, &target, &[&snapshot, "--iinclude", base]), set(&[]), "{base}");
        assert_eq!(delete(&repo, &target, &[&snapshot, "--exclude", base]), set(&[]), "{base}");
        assert!(is_whole(&target), "{base}");
        assert_eq!(&names(&repo.path(&target)) - &before, set(&[base]));
        // What has its own place goes, unless a filter means it to stay.
        let place = repo.path(&target).join(base);
        fs::remove_file(&place).unwrap();
        files(&repo, &[(&format!("{target}/{base}/in/deep"), "old")]);
        let all = ["restore", &snapshot, "--target", &target, "--delete"];
        repo.fails(1, all.iter().chain(&["--exclude", "deep"]));
        let gone = [base.to_owned(), format!("{base}/in"), format!("{base}/in/deep")];
        let dry = repo.run(all.iter().chain(&["-n"]));
        expect(&dry, 0);
        assert_eq!(removed(&dry, &target), gone.into());
        repo.ok(all);
        assert!(is_whole(&target) && !place.symlink_metadata().unwrap().is_dir(), "{base}");
    }
    // Files that were named themselves, of one folder and of others.
    backup_in(&repo, "src", &["etc/hosts", "etc/passwd", "etc/app/conf", "etc/pipe"]);
    there("u");
    for base in ["latest:etc/hosts", "latest:etc/app/conf", "latest:etc/pipe"] {
        assert_eq!(delete(&repo, "u", &[base]), set(&[]), "{base}");
    }
    assert_eq!(delete(&repo, "u", &["latest:etc"]), set(&[]));
    assert_eq!(delete(&repo, "u/app", &["latest:etc/app"]), set(&[]));
    assert!(repo.path("u/app/new").exists() && repo.path("u/hostsx").exists());
    // A stream.
    let command = "printf 1 | \"$0\" backup -q --stdin --stdin-filename sql/a.sql";
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).arg(crate::harness::esker_binary()).current_dir(repo.dir.path());
    shell.envs(repo.command(["ls"]).get_envs().filter_map(|(key, value)| Some((key, value?))));
    expect(&shell.output().unwrap(), 0);
    there("v");
    for base in ["latest:sql/a.sql", "latest:sql", "latest"] {
        assert_eq!(delete(&repo, "v", &[base]), set(&[]), "{base}");
        assert!(is_whole("v"), "{base}");
    }
}

#[test]
fn a_folder_above_a_source_is_not_its_own() {
    let repo = Repo::new();
    files(&repo, &[("src/home/u/doc", "1"), ("src/srv/x", "1")]);
    backup_in(&repo, "src", &["home/u", "srv/x"]);
    files(&repo, &[("t/home/v/doc", "other"), ("t/home/u/old", "old"), ("t/srv/y", "y")]);
    assert_eq!(delete(&repo, "t", &["latest"]), set(&["home/u/old"]));
    assert_eq!(delete(&repo, "t/home", &["latest:home"]), set(&[]));
    assert!(repo.path("t/home/v/doc").exists() && repo.path("t/srv/y").exists());
}

#[test]
fn delete_is_refused_where_the_list_is_damaged() {
    let repo = Repo::made(&["--parity", "off"]);
    fs::create_dir(repo.path("s")).unwrap();
    for number in 0..6000 {
        fs::write(repo.path("s").join(format!("f{number}")), number.to_string()).unwrap();
    }
    backup_in(&repo, "s", &["."]);
    for entry in run("find", &[repo.folder().join("packs").to_str().unwrap(), "-type", "f"]).lines() {
        let mut bytes = fs::read(entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 3000].fill(7);
        fs::write(entry, bytes).unwrap();
    }
    fs::write(repo.path("s/f17"), "changed").unwrap();
    let before = names(&repo.path("s"));
    let text = repo.fails(1, ["--no-cache", "restore", "latest", "--target", "s", "--delete"]);
    assert!(text.contains("damaged") && text.contains("Nothing was written or removed"), "{text}");
    assert_eq!(names(&repo.path("s")), before);
    assert_eq!(fs::read(repo.path("s/f17")).unwrap(), b"changed", "not even a file was restored");
    let said = repo.run(["--no-cache", "restore", "latest", "--target", "s"]);
    assert!(expect(&said, 1).contains("restored"), "without --delete what is left comes back");
}

#[test]
fn targets_in_which_a_mistake_is_dear_are_confirmed() {
    let repo = Repo::new();
    files(&repo, &[("src/a", "1"), ("live/x", "1")]);
    backup_in(&repo, "src", &["."]);
    // The folder of the repository, which the tests take for the home, too.
    let here = repo.dir.path().to_str().unwrap();
    for target in ["/", here, "live/.."] {
        let text = repo.fails(1, ["restore", "latest", "--target", target, "--delete"]);
        assert!(text.contains("--yes"), "{text}");
    }
    let text = repo.fails(1, ["restore", "latest", "--target", "repo/packs"]);
    assert!(text.contains("its own data"), "{text}");
    assert!(repo.path("live/x").exists() && !repo.path("a").exists());
    // Confirmed, what esker needs stays all the same.
    let said = repo.ok(["restore", "latest", "--target", here, "--delete", "--yes"]);
    assert!(said.contains("esker keeps its own data there"), "{said}");
    assert!(!repo.path("live").exists() && repo.path("a").exists());
    repo.ok(["check", "--read-data"]);
}

#[test]
fn a_file_takes_the_place_of_a_folder() {
    let repo = Repo::new();
    files(&repo, &[("d/f", "1"), ("d/g", "2")]);
    std::os::unix::fs::symlink("f", repo.path("d/l")).unwrap();
    backup_in(&repo, "d", &["."]);
    files(&repo, &[("o/f/in", "in"), ("o/l/deep/er", "x"), ("o/g", "2")]);
    let output = repo.run(["restore", "latest", "--target", "o"]);
    let (said, text) = (expect(&output, 1), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(text.contains("--delete removes it") && !text.contains("packs"), "{text}");
    assert!(said.contains("restored 0 of 3 entries (1 were right already, 2 failed)"), "{said}");
    assert!(repo.path("o/f/in").exists() && repo.path("o/l/deep/er").exists());
    let text = repo.fails(1, ["restore", "latest", "--target", "o", "--delete", "--exclude", "in"]);
    assert!(text.contains("o/f") || text.contains("/f:"), "{text}");
    assert!(repo.path("o/f/in").exists(), "what a filter leaves out is not removed");
    let dry = repo.run(["restore", "latest", "--target", "o", "--delete", "-n"]);
    expect(&dry, 0);
    assert_eq!(removed(&dry, "o"), set(&["f", "f/in"]));
    repo.ok(["restore", "latest", "--target", "o", "--delete"]);
    assert_eq!(fs::read(repo.path("o/f")).unwrap(), b"1");
    assert_eq!(fs::read_link(repo.path("o/l")).unwrap(), Path::new("f"));
    // An empty folder makes room for anything.
    fs::remove_file(repo.path("o/f")).unwrap();
    fs::create_dir(repo.path("o/f")).unwrap();
    repo.ok(["restore", "latest", "--target", "o"]);
    assert_eq!(fs::read(repo.path("o/f")).unwrap(), b"1");
}

#[test]
fn what_is_mounted_and_not_restored_stays() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::new();
    files(&repo, &[("root/etc/a", "1")]);
    fs::create_dir(repo.path("root/boot")).unwrap();
    backup_in(&repo, "root", &["."]);
    files(&repo, &[("t/boot/x", ""), ("t/etc/old", "old"), ("t/other/y", "")]);
    files(&repo, &[("bound/precious", "p")]);
    let esker = crate::harness::esker_binary();
    let script = format!(
        "mount -t tmpfs none t/boot && echo k > t/boot/kernel && mount --bind bound t/other && \
         {} restore latest --target t --delete && cat t/boot/kernel t/other/precious",
        esker.display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .envs(repo.command(["ls"]).get_envs().filter_map(|(key, value)| Some((key, value?))))
        .current_dir(repo.dir.path())
        .output()
        .unwrap();
    let said = expect(&output, 0);
    assert!(said.contains("k\np") && said.contains("is left as it is"), "{said}");
    assert!(!repo.path("t/etc/old").exists());
}

#[test]
fn what_the_backup_did_not_see_is_not_removed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::empty();
    run("chown", &["-R", "12345:12345", repo.dir.path().to_str().unwrap()]);
    let script =
        "esker init -q; mkdir -p s/closed/in s/open s/cache; echo 1 > s/closed/in/f; echo 2 > s/open/g
        echo 'Signature: 8a477f597d28d172789f06886806bc55' > s/cache/CACHEDIR.TAG; echo 3 > s/open/locked
        chmod 0000 s/closed s/open/locked; cd s; esker backup -q --exclude-caches . || test $? = 3
        chmod 0755 closed open/locked; echo old > open/old
        esker restore latest --target . --delete -n | grep 'would remove /' || true
        esker restore latest --target . --delete | grep 'left as it is'; chmod 0755 closed; find . -type f | sort";
    let output = plain_user(&repo, script);
    let said = expect(&output, 0);
    let files = "./cache/CACHEDIR.TAG\n./closed/in/f\n./open/g\n./open/locked\n";
    assert!(said.ends_with(files) && said.contains("closed is left as it is"), "{said}");
}
