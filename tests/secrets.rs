//! Passwords are bytes, an empty one is never taken by mistake, and nobody else's file says what is run.

use crate::harness::{Repo, esker_binary, expect};
use std::fs::Permissions;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};

/// esker with nothing in its environment but what is given.
fn bare(dir: &Path, variables: &[(&str, &[u8])], words: &[&str]) -> Output {
    let mut command = Command::new(esker_binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", dir).current_dir(dir);
    for (name, value) in variables {
        command.env(name, std::ffi::OsString::from_vec(value.to_vec()));
    }
    command.args(words).stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn an_empty_password_is_refused_from_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, text) in [("none", ""), ("blank", "\n secret\n"), ("windows", "\r\nsecret\r\n")] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let files: Vec<Vec<&str>> = ["none", "blank", "windows"].map(|name| vec!["-p", name]).to_vec();
    let commands =
        ["true", "echo", "printf '\\nsecret'", "cat none"].map(|line| vec!["--password-command", line]);
    for flags in files.iter().chain(&commands) {
        let words = [&["-r", "repo"], &flags[..], &["init"]].concat();
        let output = bare(dir, &[], &words);
        expect(&output, 1);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("--insecure-no-password"), "{said}");
        assert!(!dir.join("repo").exists(), "{words:?} left something");
    }
    for variable in [("ESKER_PASSWORD_FILE", &b"none"[..]), ("ESKER_PASSWORD_COMMAND", b"true")] {
        expect(&bare(dir, &[variable], &["-r", "repo", "init"]), 1);
    }
    for line in ["password_file = \"none\"", "password_command = \"true\""] {
        std::fs::write(dir.join("esker.toml"), format!("repository = \"repo\"\n{line}\n")).unwrap();
        expect(&bare(dir, &[], &["init"]), 1);
    }
    std::fs::remove_file(dir.join("esker.toml")).unwrap();
    assert!(!dir.join("repo").exists());

    // Only where it is meant, and then everywhere.
    expect(&bare(dir, &[], &["-r", "repo", "--insecure-no-password", "init"]), 0);
    let empty = ("ESKER_FROM_PASSWORD_FILE", &b"blank"[..]);
    let words = ["-r", "other", "--insecure-no-password", "init"];
    expect(&bare(dir, &[], &words), 0);
    let copy = ["-r", "other", "--insecure-no-password", "copy", "--from-repo", "repo"];
    expect(&bare(dir, &[empty], &copy), 1);
    expect(&bare(dir, &[], &[&copy[..], &["--from-password-file", "none"]].concat()), 1);
    expect(&bare(dir, &[], &[&copy[..], &["--from-password-command", "true"]].concat()), 1);
    expect(&bare(dir, &[], &[&copy[..], &["--from-insecure-no-password"]].concat()), 0);
}

#[test]
fn new_passwords_follow_the_same_rules() {
    let repo = Repo::new();
    std::fs::write(repo.path("blank"), "\nsecret\n").unwrap();
    std::fs::write(repo.path("latin"), b" gr\xfc\xdfe \t\n").unwrap();
    for action in ["add", "passwd"] {
        let said = repo.fails(1, ["key", action, "--new-password-file", "blank"]);
        assert!(said.contains("empty password is refused"), "{said}");
    }
    repo.ok(["key", "add", "--new-password-file", "latin"]);
    let place = repo.folder().to_str().unwrap();
    let open = |variables: &[(&str, &[u8])]| bare(repo.dir.path(), variables, &["-r", place, "snapshots"]);
    expect(&open(&[("ESKER_PASSWORD", b" gr\xfc\xdfe \t")]), 0);
    expect(&open(&[("ESKER_PASSWORD", b"gr\xfc\xdfe")]), 12);
    repo.ok(["key", "add", "--new-insecure-no-password"]);
    expect(&bare(repo.dir.path(), &[], &["-r", place, "--insecure-no-password", "snapshots"]), 0);
}

#[test]
fn every_byte_of_a_password_counts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("file"), b"\xff\xfe\xfd\nsecond line").unwrap();
    expect(&bare(dir, &[], &["-r", "repo", "-p", "file", "init"]), 0);
    for (octal, code) in
        [("\\377\\376\\375", 0), ("\\377\\376\\374", 12), ("\\001", 12), ("\\357\\277\\275", 12)]
    {
        let line = format!("printf '{octal}'");
        expect(&bare(dir, &[], &["-r", "repo", "--password-command", &line, "snapshots"]), code);
    }
    expect(&bare(dir, &[("ESKER_PASSWORD", b"\xff\xfe\xfd")], &["-r", "repo", "snapshots"]), 0);
    expect(&bare(dir, &[("ESKER_PASSWORD", b"\xff\xfe\xfd\n")], &["-r", "repo", "snapshots"]), 12);
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let password = ("ESKER_PASSWORD", &b"right"[..]);
    let all = [
        password,
        ("ESKER_PASSWORD_FILE", b""),
        ("ESKER_PASSWORD_COMMAND", b""),
        ("ESKER_CONFIG", b""),
        ("ESKER_REPOSITORY", b""),
        ("ESKER_REPOSITORY_FILE", b""),
        ("ESKER_FROM_PASSWORD_FILE", b""),
        ("ESKER_FROM_PASSWORD_COMMAND", b""),
        ("ESKER_FROM_PASSWORD", b""),
    ];
    expect(&bare(dir, &all, &["-r", "repo", "init"]), 0);
    expect(&bare(dir, &[password], &["-r", "repo", "snapshots"]), 0);
    expect(&bare(dir, &[], &["-r", "repo", "--insecure-no-password", "snapshots"]), 12);
}

/// A folder with an esker.toml whose password command leaves a trace.
fn trap(dir: &Path) -> std::path::PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let text = "repository = \"repo\"\npassword_command = \"touch ran; echo right\"\ncache_dir = \"taken\"\n";
    std::fs::write(dir.join("esker.toml"), text).unwrap();
    dir.join("ran")
}

#[test]
fn the_configuration_of_somebody_else_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let there = home.join("there");
    let ran = trap(&there);
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let esker = |words: &[&str]| {
        let mut command = Command::new(esker_binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
        command.args(words).current_dir(&there).output().unwrap()
    };
    let refused = |output: &Output, why: &str| {
        expect(output, 1);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(why) && said.contains("chown"), "{said}");
        assert!(!ran.exists());
    };
    for (folder, file, why) in
        [(0o755, 0o666, "written by everybody"), (0o777, 0o644, "written by everybody")]
    {
        chmod(&there, folder);
        chmod(&there.join("esker.toml"), file);
        refused(&esker(&["snapshots"]), why);
        refused(&esker(&["config", "check"]), why);
    }
    chmod(&there, 0o755);
    chmod(&there.join("esker.toml"), 0o644);
    if rustix::process::geteuid().is_root() {
        let of = |uid| std::os::unix::fs::chown(there.join("esker.toml"), Some(uid), Some(0)).unwrap();
        of(12345);
        refused(&esker(&["snapshots"]), "belongs to user 12345");
        refused(&esker(&["-c", "esker.toml", "snapshots"]), "belongs to user 12345");
        of(0);
        // A group of others, and one that nobody else is in.
        std::os::unix::fs::chown(there.join("esker.toml"), Some(0), Some(23456)).unwrap();
        chmod(&there.join("esker.toml"), 0o664);
        refused(&esker(&["snapshots"]), "written by group 23456");
        std::os::unix::fs::chown(there.join("esker.toml"), Some(0), Some(0)).unwrap();
        std::os::unix::fs::chown(&there, Some(12345), Some(0)).unwrap();
        refused(&esker(&["snapshots"]), "belongs to user 12345");
        std::os::unix::fs::chown(&there, Some(0), Some(0)).unwrap();
        chmod(&there.join("esker.toml"), 0o644);
    }
    // Ours is, and it is said which.
    expect(&esker(&["-r", "repo", "-q", "snapshots"]), 10);
    assert!(!ran.exists());
    expect(&esker(&["init"]), 0);
    assert!(ran.exists());
    let output = esker(&["-v", "snapshots"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("following ") && said.contains("there/esker.toml"), "{said}");
    // One that was named is, wherever it lies.
    chmod(&there, 0o777);
    expect(&esker(&["-c", "esker.toml", "snapshots"]), 0);
}

#[test]
fn with_another_repository_the_configuration_gives_neither_password_nor_cache() {
    let repo = Repo::new();
    let place = repo.folder().to_str().unwrap();
    let there = repo.path("there");
    let ran = trap(&there);
    let esker = |words: &[&str], password: Option<&str>| {
        let mut command = Command::new(esker_binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", repo.dir.path());
        command.envs(password.map(|password| ("ESKER_PASSWORD", password)));
        command.args(words).current_dir(&there).stdin(std::process::Stdio::null()).output().unwrap()
    };
    let output = esker(&["-r", place, "snapshots"], None);
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no password"));
    expect(&esker(&["-r", place, "snapshots"], Some("correct horse")), 0);
    assert!(!ran.exists() && !there.join("taken").exists());
    // Of the same repository, however it is written, it does.
    expect(&esker(&["init"], None), 0);
    std::fs::remove_file(&ran).unwrap();
    expect(&esker(&["-r", "file:./../there/repo", "snapshots"], None), 0);
    assert!(ran.exists() && there.join("taken").exists());
    // One that cannot be followed or read stops nothing that does not need it.
    std::fs::write(there.join("esker.toml"), "nonsense").unwrap();
    let output = esker(&["-r", place, "snapshots"], Some("correct horse"));
    expect(&output, 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("esker.toml"));
}

/// What others can get at, beneath a folder and including it.
fn open_to_others(folder: &Path, found: &mut Vec<String>) {
    let metadata = folder.symlink_metadata().unwrap();
    if metadata.mode() & 0o077 != 0 && !metadata.is_symlink() {
        found.push(format!("{} {:o}", folder.display(), metadata.mode()));
    }
    if metadata.is_dir() {
        std::fs::read_dir(folder).unwrap().for_each(|entry| open_to_others(&entry.unwrap().path(), found));
    }
}

/// esker as a shell with this umask starts it.
fn under(umask: &str, repo: &Repo, words: &[&str]) -> Output {
    let esker = repo.command(words);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(esker.get_program());
    command.args(esker.get_args()).current_dir(repo.dir.path()).env_clear();
    command.envs(esker.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.output().unwrap()
}

#[test]
fn nobody_else_reads_a_repository_or_a_cache_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let repo = Repo::empty();
        std::fs::write(repo.path("data"), crate::harness::noise(1, 3_000_000)).unwrap();
        expect(&under(umask, &repo, &["init"]), 0);
        expect(&under(umask, &repo, &["backup", "data"]), 0);
        expect(&under(umask, &repo, &["key", "add", "--new-password-file", "data"]), 0);
        expect(&under(umask, &repo, &["check", "--read-data"]), 0);
        expect(&under(umask, &repo, &["forget", "--prune", "--keep-last", "1"]), 0);
        let mut found = vec![];
        open_to_others(repo.folder(), &mut found);
        open_to_others(&repo.path("cache").join("repositories"), &mut found);
        assert!(found.is_empty(), "umask {umask}: {found:#?}");
    }
}

#[test]
fn a_group_shares_a_repository_if_that_is_asked_for() {
    let repo = Repo::empty();
    expect(&under("077", &repo, &["init", "--shared"]), 0);
    std::fs::write(repo.path("data"), crate::harness::noise(1, 300_000)).unwrap();
    expect(&under("027", &repo, &["backup", "data"]), 0);
    let mut modes = std::collections::BTreeMap::new();
    let mut folders = vec![repo.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        *modes.entry((true, folder.metadata().unwrap().mode() & 0o7777)).or_insert(0) += 1;
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => *modes.entry((false, entry.metadata().unwrap().mode() & 0o7777)).or_insert(0) += 1,
            }
        }
    }
    assert_eq!(modes.keys().copied().collect::<Vec<_>>(), [(false, 0o660), (true, 0o2770)]);
    let output = repo.run(["check"]);
    expect(&output, 0);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("warning"));
}

#[test]
fn check_says_that_others_can_read_the_keys() {
    let repo = Repo::new();
    let said = |repo: &Repo| String::from_utf8(repo.run(["check"]).stderr).unwrap();
    assert!(!said(&repo).contains("warning"));
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chmod(repo.folder(), 0o755);
    chmod(&repo.folder().join("keys"), 0o755);
    for entry in std::fs::read_dir(repo.folder().join("keys")).unwrap() {
        chmod(&entry.unwrap().path(), 0o644);
    }
    let warned = said(&repo);
    assert!(warned.contains("can read 1 of its key slots") && warned.contains("chmod"), "{warned}");
}

/// A disk that is full in the midst of a change of passwords: whoever changed it learns which passwords open, and they do.
#[test]
fn a_failed_change_of_passwords_says_which_ones_open() {
    let mut seen = std::collections::BTreeSet::new();
    for swap in 1..=8 {
        let repo = Repo::new();
        std::fs::write(repo.path("new"), "new horse\n").unwrap();
        let like = repo.command(["key", "passwd", "--new-password-file", "new"]);
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2,link,linkat"]);
        command
            .args(["-e", &format!("inject=rename,renameat,renameat2,link,linkat:error=ENOSPC:when={swap}+")]);
        command.arg(esker_binary()).args(like.get_args()).env_clear();
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.current_dir(repo.dir.path()).output().expect("strace is needed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let place = repo.folder().to_str().unwrap();
        let opens = |password: &str| {
            let output = bare(
                repo.dir.path(),
                &[("ESKER_PASSWORD", password.as_bytes())],
                &["-r", place, "snapshots"],
            );
            assert!(matches!(output.status.code(), Some(0 | 12)), "{output:?}");
            output.status.success()
        };
        let (old, new) = (opens("correct horse"), opens("new horse"));
        match (output.status.code(), old, new) {
            (Some(0), false, true) => break,
            (Some(27), true, false) => assert!(
                said.contains("the old password opens the repository, the new password does not"),
                "{said}"
            ),
            (Some(27), true, true) => {
                assert!(
                    said.contains("both the old password and the new password open the repository now"),
                    "{said}"
                );
            }
            other => panic!("{swap}: {other:?}: {said}"),
        }
        seen.insert((old, new));
    }
    assert!(seen.contains(&(true, true)) && seen.contains(&(true, false)), "{seen:?}");
}

/// No core holds a key, unless somebody asks for it; what a command may do is its own.
#[test]
fn cores_are_off() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let line = |variables: &[(&str, &[u8])]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(esker_binary()).args([
            "-r",
            "repo",
            "--password-command",
        ]);
        command.arg("grep core /proc/$PPID/limits | tr -s ' ' | cut -d' ' -f5-6").arg("init");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", dir).current_dir(dir);
        for (name, value) in variables {
            command.env(name, std::ffi::OsString::from_vec(value.to_vec()));
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(line(&[]).0, Some(0));
    // The password is what the limit was.
    let opens = |password: &[u8]| {
        bare(dir, &[("ESKER_PASSWORD", password)], &["-r", "repo", "snapshots"]).status.code()
    };
    assert_eq!((opens(b"0 unlimited"), opens(b"unlimited unlimited")), (Some(0), Some(12)));
    std::fs::remove_dir_all(dir.join("repo")).unwrap();
    assert_eq!(line(&[("ESKER_CORES", b"1")]).0, Some(0));
    assert_eq!((opens(b"0 unlimited"), opens(b"unlimited unlimited")), (Some(12), Some(0)));
    let (code, said) = line(&[("ESKER_CORES", b"maybe")]);
    assert!(code == Some(2) && said.contains("ESKER_CORES is 'maybe'"), "{said}");
}
