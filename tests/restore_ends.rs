//! How a restore ends: by errors that are named, as a plain user, killed and begun again.

use crate::harness::{Repo, expect, noise, run};
use crate::restores::{backup_in, files, names, set};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

#[test]
fn a_step_that_fails_stops_no_other_and_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::new();
    files(&repo, &[("s/f", "1")]);
    run("chown", &["1000:1000", repo.path("s/f").to_str().unwrap()]);
    run("chmod", &["0604", repo.path("s/f").to_str().unwrap()]);
    run("touch", &["-d", "2020-01-01", repo.path("s/f").to_str().unwrap()]);
    backup_in(&repo, ".", &["s"]);
    // Root of a user namespace, in which nobody but root is.
    let esker = crate::harness::esker_binary();
    let output = Command::new("unshare")
        .args(["-Ur", esker.to_str().unwrap(), "restore", "latest", "--target", "u"])
        .envs(repo.command(["ls"]).get_envs().filter_map(|(key, value)| Some((key, value?))))
        .current_dir(repo.dir.path())
        .output()
        .unwrap();
    let said = expect(&output, 1);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("/s/f: owner 1000:1000 could not be set"), "{errors}");
    assert!(!said.contains("damaged"), "{said}");
    let metadata = fs::metadata(repo.path("u/s/f")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o604, 1_577_836_800));
}

#[test]
fn errors_of_a_kind_are_ten_lines_and_a_count() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::new();
    for number in 0..200 {
        files(&repo, &[(&format!("s/f{number}"), "1")]);
        let owner = rustix::fs::Uid::from_raw(1000 + number);
        rustix::fs::chown(repo.path(&format!("s/f{number}")), Some(owner), None).unwrap();
    }
    backup_in(&repo, ".", &["s"]);
    let esker = crate::harness::esker_binary();
    let restore = |more: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-Ur", esker.to_str().unwrap(), "restore", "latest", "--target", "u"]).args(more);
        command.envs(repo.command(["ls"]).get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.current_dir(repo.dir.path()).output().unwrap();
        expect(&output, 1);
        String::from_utf8(output.stderr).unwrap()
    };
    let errors = restore(&[]);
    assert_eq!(errors.lines().filter(|line| line.starts_with("error: ")).count(), 11, "{errors}");
    assert!(errors.contains("error: 190 more: owner 1099:0 could not be set"), "{errors}");
    assert_eq!(restore(&["--json"]).matches("could not be set").count(), 200);
}

/// A folder that a plain user may enter, with a repository of theirs.
pub(crate) fn plain_user(repo: &Repo, script: &str) -> Output {
    // Where the tests are built, they may not go.
    fs::copy(crate::harness::esker_binary(), repo.path("esker")).unwrap();
    let all = format!("umask 022; {}", script.replace("esker ", "\"$ESKER\" "));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "12345", "--regid", "12345", "--clear-groups", "sh", "-ec", &all]);
    command.envs(repo.command(["ls"]).get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("ESKER", repo.path("esker")).current_dir(repo.dir.path());
    command.output().unwrap()
}

#[test]
fn a_plain_user_restores_again_into_folders_closed_to_writing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let repo = Repo::empty();
    run("chown", &["-R", "12345:12345", repo.dir.path().to_str().unwrap()]);
    let script = "esker init -q; mkdir -p s/ro/deep; echo 1 > s/ro/f; echo 2 > s/ro/deep/g; echo 3 > s/locked
        setfattr -n user.note -v x s/ro/f; chmod 0444 s/ro/f; chmod 0000 s/locked
        chmod 0555 s/ro/deep s/ro; esker backup -q s || true
        esker restore -q latest --target o; chmod u+w o/s/ro/f; echo changed > o/s/ro/f; chmod u+w o/s/ro
        echo more > o/s/ro/extra; chmod u-w o/s/ro
        esker restore -q latest --target o --delete; ls o/s/ro; cat o/s/ro/f; stat -c %a o/s/ro o/s/ro/f
        getfattr --only-values -n user.note o/s/ro/f; echo
        chmod u+w o/s/ro/f; echo changed > o/s/ro/f; rm -f o/s/ro/deep/x
        esker restore -q latest --target o --include /s/ro/f; cat o/s/ro/f; stat -c %a o/s/ro";
    let output = plain_user(&repo, script);
    assert_eq!(expect(&output, 0), "deep\nf\n1\n555\n444\nx\n1\n555\n");
}

#[test]
fn a_killed_restore_leaves_nothing_behind() {
    let repo = Repo::new();
    fs::create_dir_all(repo.path("s/d")).unwrap();
    fs::write(repo.path("s/d/big"), noise(3, 60_000_000)).unwrap();
    backup_in(&repo, ".", &["s"]);
    // As an older version, or one on another file system, left it; and one that another process is writing.
    files(&repo, &[("o/s/d/.999999-0.esker-partial", "left"), ("o/s/d/.999999-1.esker-partial", "held")]);
    let held = fs::File::open(repo.path("o/s/d/.999999-1.esker-partial")).unwrap();
    held.lock().unwrap();
    let mut child = repo.command(["restore", "latest", "--target", "o"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(150));
    child.kill().unwrap();
    child.wait().unwrap();
    repo.ok(["restore", "latest", "--target", "o", "--delete"]);
    assert_eq!(names(&repo.path("o/s/d")), set(&["big", ".999999-1.esker-partial"]));
    drop(held);
    repo.ok(["restore", "latest", "--target", "o"]);
    assert_eq!(names(&repo.path("o/s/d")), set(&["big"]));
    assert!(fs::read(repo.path("o/s/d/big")).unwrap() == noise(3, 60_000_000));
}

#[test]
fn hard_links_come_back_and_are_not_made_of_different_files() {
    let repo = Repo::new();
    files(&repo, &[("s/a", "same"), ("s/c", "same")]);
    fs::hard_link(repo.path("s/a"), repo.path("s/b")).unwrap();
    fs::hard_link(repo.path("s/c"), repo.path("s/d")).unwrap();
    backup_in(&repo, ".", &["s"]);
    let inode = |name: &str| fs::metadata(repo.path(name)).unwrap().ino();
    for words in [&[][..], &["--overwrite", "if-changed"], &["--delete"]] {
        let mut all = vec!["restore", "latest", "--target", "o", "--verify"];
        all.extend(words);
        repo.ok(&all);
        assert_eq!((inode("o/s/a"), inode("o/s/c")), (inode("o/s/b"), inode("o/s/d")));
        assert_ne!(inode("o/s/a"), inode("o/s/c"));
        // A name that became a file of its own is a name of the same again.
        fs::remove_file(repo.path("o/s/b")).unwrap();
        fs::write(repo.path("o/s/b"), "other").unwrap();
    }
    // A first name that cannot be restored takes no other along.
    files(&repo, &[("p/s/a/in", "the way")]);
    repo.fails(1, ["restore", "latest", "--target", "p"]);
    assert_eq!(fs::read(repo.path("p/s/b")).unwrap(), b"same");
}

#[test]
fn overwrite_never_replaces_nothing() {
    let repo = Repo::new();
    files(&repo, &[("s/file", "1"), ("s/folder/in", "2")]);
    std::os::unix::fs::symlink("file", repo.path("s/link")).unwrap();
    backup_in(&repo, "s", &["."]);
    files(&repo, &[("o/folder", "mine"), ("o/file/in", "mine")]);
    std::os::unix::fs::symlink("elsewhere", repo.path("o/link")).unwrap();
    let output = repo.run(["restore", "latest", "--target", "o", "--overwrite", "never"]);
    let (said, text) = (expect(&output, 1), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(text.contains("/folder"), "{text}");
    // A link and a folder in the place of a file stay; a file in the place of a folder is an error, and so is what is in it.
    assert!(said.contains("restored 0 of 4 entries (2 were left as they were, 2 failed)"), "{said}");
    assert_eq!(fs::read(repo.path("o/folder")).unwrap(), b"mine");
    assert_eq!(fs::read(repo.path("o/file/in")).unwrap(), b"mine");
    assert_eq!(fs::read_link(repo.path("o/link")).unwrap(), PathBuf::from("elsewhere"));
}
