//! What a backup is told to take is in the snapshot, or it is said what is not and why: named paths against mounts,
//! excludes, links, other named paths; patterns; attributes; files that vanish; the repository itself.

use crate::harness::{Repo, esker_binary, expect, run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output};

mod random_mounts;

/// Files in the scratch folder, each of which says its own name.
fn put(repo: &Repo, paths: &[&str]) {
    for path in paths {
        let path = repo.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.as_os_str().as_bytes()).unwrap();
    }
}

/// The paths of the latest snapshot that lie beneath the scratch folder, or are relative.
fn saved(repo: &Repo) -> Vec<String> {
    let inside = repo.dir.path().display().to_string();
    let list = repo.ok(["ls", "latest"]);
    let above: Vec<String> = repo.dir.path().ancestors().map(|path| path.display().to_string()).collect();
    let paths = list.lines().map(|line| line.strip_prefix(&inside).unwrap_or(line).to_owned());
    paths.filter(|path| !path.is_empty() && !above.contains(path)).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Backs up in a folder of the scratch folder; returns what was said.
fn in_folder(repo: &Repo, folder: &str, words: &[&str]) -> String {
    let output = repo.command(words).current_dir(repo.path(folder)).output().unwrap();
    expect(&output, 0);
    stderr(&output)
}

/// The same in a mount namespace of its own, after `script`.
fn with_mounts(repo: &Repo, script: &str, words: &[&OsStr]) -> Output {
    let told = repo.command::<&str>([]);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"])
        .arg(esker_binary())
        .args(words);
    command.env_clear().current_dir(repo.dir.path());
    told.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        command.env(name, value);
    });
    command.output().unwrap()
}

#[test]
fn a_named_path_beneath_another_one_is_reached_across_mounts() {
    let repo = Repo::new();
    put(&repo, &["root/etc/conf", "root/boot/hidden", "root/proc/x", "root/srv/deep/data"]);
    let script = "
        mount -t tmpfs none root/boot; mkdir root/boot/efi; echo kernel > root/boot/kernel
        mount -t tmpfs none root/boot/efi; echo loader > root/boot/efi/loader
        mount -t tmpfs none root/proc; echo no > root/proc/cpuinfo
        mount -t tmpfs none root/srv; mkdir -p root/srv/deep/er; echo data > root/srv/deep/er/data; echo no > root/srv/no";
    for words in [
        ["backup", "-x", "root", "root/boot", "root/boot/efi", "root/srv/deep"].as_slice(),
        &["backup", "-x", "root/boot/efi", "root/srv/deep", "root/boot/", "./root"],
    ] {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        expect(&with_mounts(&repo, script, &words), 0);
        assert_eq!(
            saved(&repo),
            [
                "/root",
                "/root/boot",
                "/root/boot/efi",
                "/root/boot/efi/loader",
                "/root/boot/kernel",
                "/root/etc",
                "/root/etc/conf",
                "/root/proc",
                "/root/srv",
                "/root/srv/deep",
                "/root/srv/deep/er",
                "/root/srv/deep/er/data"
            ]
        );
    }
    // The second one compares with the first: named in another order, they are the same paths.
    let all = repo.json(["snapshots"]);
    assert_eq!(all[0]["id"], all[1]["parent"], "{all}");
}

#[test]
fn equal_names_of_different_folders_are_both_saved() {
    let repo = Repo::new();
    put(&repo, &["a/etc/mine", "a/tmp/sub/x"]);
    let said = in_folder(&repo, "a", &["backup", "etc", "/etc/hostname"]);
    assert!(said.contains("'etc' and '/etc/hostname' would get the same name"), "{said}");
    let list = repo.ok(["ls", "latest"]);
    assert!(list.contains("/a/etc/mine\n") && list.contains("/etc/hostname\n"), "{list}");
    assert_eq!(repo.json(["snapshots"])[0]["paths"].as_array().unwrap().len(), 2);
    // The current folder is the root of relative names: it stands against every absolute one.
    let said = in_folder(&repo, "a", &["backup", ".", "/etc/hostname"]);
    assert!(said.contains("would get the same name"), "{said}");
    let list = repo.ok(["ls", "latest"]);
    assert!(list.contains("/a/etc/mine\n") && list.contains("/etc/hostname\n"), "{list}");
    // A folder that leads to a named one.
    let outside = repo.path("a/tmp/sub").display().to_string();
    let first = outside.trim_start_matches('/').split('/').next().unwrap().to_owned();
    put(&repo, &[&format!("a/{first}/other")]);
    in_folder(&repo, "a", &["backup", &first, &outside]);
    let list = repo.ok(["ls", "latest"]);
    assert!(
        list.contains(&format!("/a/{first}/other\n")) && list.contains(&format!("{outside}/x\n")),
        "{list}"
    );
    // No conflict, nothing said, relative names.
    assert_eq!(in_folder(&repo, "a", &["backup", "-q", "etc", "./etc/", "etc/mine", "tmp//sub"]), "");
    assert_eq!(repo.ok(["ls", "latest"]), "/etc\n/etc/mine\n/tmp\n/tmp/sub\n/tmp/sub/x\n");
    let all = repo.json(["snapshots"]);
    let paths = &all.as_array().unwrap().last().unwrap()["paths"];
    assert_eq!(paths.as_array().unwrap().len(), 3, "{paths}");
}

#[test]
fn what_is_named_is_saved_whatever_exclude_fits_it() {
    let repo = Repo::new();
    put(&repo, &["s/f", "s/c/w/x", "s/c/w/y.tmp", "s/c/no", "k/CACHEDIR.TAG", "k/data"]);
    fs::write(repo.path("k/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    let output = repo.run(["backup", "--exclude", "f", "s/f"]);
    expect(&output, 0);
    assert!(
        stderr(&output).contains("/s/f' was named and is saved, although an exclude fits it"),
        "{}",
        stderr(&output)
    );
    assert_eq!(saved(&repo), ["/s", "/s/f"]);
    repo.ok(["backup", "--exclude", "s/c", "--exclude", "*.tmp", "s", "s/c/w"]);
    assert_eq!(saved(&repo), ["/s", "/s/c", "/s/c/w", "/s/c/w/x", "/s/f"]);
    repo.ok(["backup", "--exclude-caches", "--exclude-larger-than", "70", "k"]);
    assert_eq!(saved(&repo), ["/k", "/k/CACHEDIR.TAG", "/k/data"]);
    let help = repo.ok(["backup", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("Nothing is left out that is named as a SOURCE itself, whatever fits it"),
        "{help}"
    );
}

#[test]
fn patterns_mean_what_they_say_or_are_refused() {
    let repo = Repo::new();
    put(&repo, &["s/#recycle/x", "s/d/y", "s/a /z", "s/[b]/v", "s/$X/w", "s/plain", "ex/one"]);
    let base = repo.dir.path().display().to_string();
    for (pattern, gone) in [
        ("#recycle", "/s/#recycle"),
        ("./d", "/s/d"),
        ("s//d/.", "/s/d"),
        ("a ", "/s/a "),
        ("\\[b]", "/s/[b]"),
        ("$X", "/s/$X"),
        ("s/d/", "/s/d"),
    ] {
        let output = repo.run(["backup", "s", "--exclude", pattern]);
        expect(&output, 0);
        assert!(!stderr(&output).contains("fitted nothing"), "{pattern}: {}", stderr(&output));
        let saved = saved(&repo);
        assert!(
            !saved.iter().any(|path| path.starts_with(gone)) && saved.contains(&"/s/plain".into()),
            "{pattern}"
        );
    }
    let count = repo.snapshot_count();
    for pattern in ["[a", "**", "*", "/**", "", "..", "../s", "a\\", "~/x", "/", "!", "[z-a]"] {
        let text = repo.fails(2, ["backup", "s", "--exclude", pattern]);
        assert!(text.contains(&format!("--exclude: pattern '{pattern}': ")), "{pattern}: {text}");
    }
    assert_eq!(repo.snapshot_count(), count);
    // In a file: comments, line ends, blanks, a byte order mark, variables.
    let text = "\u{feff}# comment\r\n\\#recycle   \r\n$HERE/s/d\r\na\\ \r\n$$X\r\n";
    fs::write(repo.path("ex/list"), text).unwrap();
    let list = repo.path("ex/list").display().to_string();
    let told = repo.run(["backup", "s", "--exclude-file", &list]);
    expect(&told, 2);
    assert!(
        stderr(&told).contains(&format!("{list}:3: pattern '$HERE/s/d': the variable 'HERE' is not set"))
    );
    let output = repo.command(["backup", "s", "--exclude-file", &list]).env("HERE", &base).output().unwrap();
    expect(&output, 0);
    assert!(!stderr(&output).contains("note"), "{}", stderr(&output));
    assert_eq!(saved(&repo), ["/s", "/s/[b]", "/s/[b]/v", "/s/plain"]);
    // One that fits nothing is named once.
    let output = repo.run(["--json", "backup", "s", "--exclude", "*.nope", "--iexclude", "PLAIN"]);
    expect(&output, 0);
    let notes: Vec<serde_json::Value> =
        stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(notes[0]["message_type"], "note");
    assert_eq!(notes[0]["message"], "pattern '*.nope' (--exclude) fitted nothing");
}

#[test]
fn bytes_that_are_no_text_are_matched() {
    let repo = Repo::new();
    fs::create_dir(repo.path("s")).unwrap();
    for name in [&b"M\xfcller"[..], b"M\xf6ller", "M\u{fc}ller".as_bytes(), "stra\u{df}e".as_bytes()] {
        fs::write(repo.path("s").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let count = |words: &[&OsStr]| {
        let words: Vec<&OsStr> =
            ["backup", "s"].iter().map(OsStr::new).chain(words.iter().copied()).collect();
        repo.ok(&words);
        saved(&repo).len() - 1
    };
    assert_eq!(count(&[OsStr::new("--exclude"), OsStr::from_bytes(b"M\xfcller")]), 3);
    assert_eq!(count(&[OsStr::new("--exclude"), OsStr::new("M?ller")]), 1);
    assert_eq!(count(&[OsStr::new("--iexclude"), OsStr::new("M\u{dc}LLER")]), 3);
    fs::write(repo.path("list"), b"M\xf6*\n").unwrap();
    assert_eq!(count(&[OsStr::new("--exclude-file"), OsStr::new("list")]), 3);
}

#[test]
fn a_snapshot_without_an_entry_is_an_error() {
    let repo = Repo::new();
    fs::create_dir(repo.path("empty")).unwrap();
    for words in [["backup", "."].as_slice(), &["backup", "-n", "."]] {
        let output = repo.command(words).current_dir(repo.path("empty")).output().unwrap();
        expect(&output, 26);
        assert!(stderr(&output).contains("no snapshot was made"), "{}", stderr(&output));
    }
    // Nor one that only leads to what could not be read.
    let text = repo.fails(26, ["backup", "/proc/self/mem"]);
    assert!(text.contains("/proc/self/mem"), "{text}");
    assert_eq!(repo.snapshot_count(), 0);
    repo.ok(["backup", "empty"]);
    assert_eq!(saved(&repo), ["/empty"]);
}

#[test]
fn files_that_list_paths_are_read_as_people_write_them() {
    let repo = Repo::new();
    put(&repo, &["s/a.txt", "s/b.txt", "s/[x]", "s/with blank", "t/u/v", "s/.hidden.txt"]);
    fs::write(
        repo.path("list"),
        "\u{feff}# comment\r\n\r\n  s/*.txt \r\ns/[x]\r\ns/with blank\r\n./t//u/\r\n",
    )
    .unwrap();
    repo.ok(["backup", "--files-from", "list"]);
    let expected =
        ["/s", "/s/.hidden.txt", "/s/[x]", "/s/a.txt", "/s/b.txt", "/s/with blank", "/t", "/t/u", "/t/u/v"];
    assert_eq!(saved(&repo), expected);
    fs::write(repo.path("list"), "s/a.txt\ns/*.nope\n").unwrap();
    assert!(repo.fails(3, ["backup", "--files-from", "list"]).contains("s/*.nope"));
    fs::write(repo.path("list"), "s/a.txt\n\ns/[a\n").unwrap();
    assert!(repo.fails(2, ["backup", "--files-from", "list"]).contains("list:3: s/[a: '[' has no ']'"));
    assert!(repo.fails(3, ["backup", "s", ""]).contains("an empty path names nothing"));
}

/// Runs a backup in which the kernel fails one system call for one path: by itself, or by its name in an open folder.
fn with_fault(repo: &Repo, path: &Path, call: &str, error: &str, words: &[&str]) -> Output {
    let told = repo.command::<&str>([]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(path);
    let name = path.file_name().unwrap();
    command.arg("-P").arg(name);
    for folder in 3..40 {
        command.arg("-P").arg(Path::new("/proc/self/fd").join(folder.to_string()).join(name));
    }
    command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}")]);
    command.arg(esker_binary()).args(words).env_clear().current_dir(repo.dir.path());
    told.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        command.env(name, value);
    });
    command.output().unwrap_or_else(|error| panic!("strace is needed: {error}"))
}

#[test]
fn an_attribute_that_cannot_be_read_is_named_and_the_rest_saved() {
    let repo = Repo::new();
    put(&repo, &["s/a", "s/b", "s/d/e"]);
    run("setfattr", &["-n", "user.one", "-v", "1", repo.path("s/b").to_str().unwrap()]);
    run("chmod", &["750", repo.path("s/d").to_str().unwrap()]);
    for (path, call) in [("s/b", "llistxattr"), ("s/b", "lgetxattr"), ("s/d", "llistxattr")] {
        let output = with_fault(&repo, &repo.path(path), call, "EIO", &["backup", "s"]);
        expect(&output, 3);
        let text = stderr(&output);
        assert!(text.contains(&format!("/{path}: saved without its")), "{call}: {text}");
        assert_eq!(saved(&repo), ["/s", "/s/a", "/s/b", "/s/d", "/s/d/e"], "{call}");
        let list = repo.ok(["ls", "-l", "latest"]);
        assert!(list.contains("drwxr-x---"), "{list}");
    }
}

#[test]
fn an_excluded_path_is_not_looked_at_and_one_that_cannot_be_is_named() {
    let repo = Repo::new();
    put(&repo, &["s/a", "s/b", "s/d/e"]);
    for (path, pattern) in [("s/b", "s/b"), ("s/d", "d/"), ("s/d", "s/*")] {
        let fault = |words: &[&str]| {
            with_fault(&repo, &repo.path(path), "statx,newfstatat,?open,openat", "EACCES", words)
        };
        expect(&fault(&["backup", "--exclude", pattern, "s"]), 0);
        let output = fault(&["backup", "s"]);
        expect(&output, 3);
        assert!(stderr(&output).contains(&format!("/{path}: ")), "{}", stderr(&output));
    }
}

#[test]
fn a_file_that_vanishes_is_counted() {
    let repo = Repo::new();
    put(&repo, &["s/a", "s/b", "s/c"]);
    for call in ["statx,newfstatat", "?open,openat"] {
        let output = with_fault(&repo, &repo.path("s/b"), call, "ENOENT", &["--json", "backup", "s"]);
        let text = expect(&output, 0);
        let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(summary["files_vanished"], 1, "{call}: {summary}");
        assert_eq!(saved(&repo), ["/s", "/s/a", "/s/c"], "{call}");
        // Unless it was named.
        let output =
            with_fault(&repo, &repo.path("s/b"), "?open,openat", "ENOENT", &["backup", "s/a", "s/b"]);
        expect(&output, 3);
        assert!(stderr(&output).contains("/s/b: "), "{}", stderr(&output));
    }
}

#[test]
fn files_of_the_kernel_are_saved() {
    let repo = Repo::new();
    repo.ok([
        "backup",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/ostype",
        "/proc/sys/kernel/random/boot_id",
    ]);
    let back = repo.run(["dump", "latest", "/proc/sys/kernel/ostype"]).stdout;
    assert_eq!(back, fs::read("/proc/sys/kernel/ostype").unwrap());
}

#[test]
fn the_repository_is_not_saved_into_itself() {
    let repo = Repo::new();
    put(&repo, &["home/f"]);
    fs::rename(repo.folder(), repo.path("home/r")).unwrap();
    std::os::unix::fs::symlink("home/r", repo.folder()).unwrap();
    let output = repo.run(["backup", "."]);
    expect(&output, 0);
    let text = stderr(&output);
    assert!(text.contains("/home/r' is the repository and left out"), "{text}");
    assert!(text.contains("/cache/repositories' is the cache of esker and left out"), "{text}");
    let list = repo.ok(["ls", "latest"]);
    assert_eq!(list, "/cache\n/home\n/home/f\n/repo\n");
    let text = repo.fails(1, ["backup", "home", "home/r/packs"]);
    assert!(text.contains("this lies in the repository itself"), "{text}");
    // By another path of the same folder.
    let script = "mkdir other; mount --bind home/r other";
    let output = with_mounts(&repo, script, &["backup", "home", "other"].map(OsStr::new));
    expect(&output, 1);
    let output = with_mounts(
        &repo,
        "mkdir -p all/other; mount --bind home/r all/other",
        &["backup", "all"].map(OsStr::new),
    );
    expect(&output, 0);
    assert!(stderr(&output).contains("/all/other' is the repository and left out"), "{}", stderr(&output));
    // Another repository is data like any other, and so is one's tier to somebody else.
    let other = Repo::new();
    let place = repo.path("home/r").display().to_string();
    other.ok(["backup", &place]);
    assert!(other.ok(["ls", "latest"]).contains("/home/r/config"));
}

#[test]
fn tiers_are_not_saved_into_their_primary() {
    let toml = "
        [[tier]]
        name = 'near'
        url = 'file:DIR/data/near'
        role = 'primary'

        [[tier]]
        name = 'far'
        url = 'file:DIR/data/far'

        [[source]]
        name = 'data'
        urls = ['DIR/data']
        excludes = ['*.nope']

        [[promise]]
        keep = '30d'
        tiers = ['near', 'far']

        [[run]]
        name = 'nightly'
    ";
    let repo = Repo::with_tiers(toml, &[], true);
    put(&repo, &["data/f"]);
    for words in [["run", "nightly"], ["backup", repo.path("data").to_str().unwrap()]] {
        let output = repo.run(words);
        expect(&output, 0);
        let text = stderr(&output);
        assert!(text.contains("/data/near' is tier 'near' of the repository and left out"), "{text}");
        assert!(text.contains("/data/far' is tier 'far' of the repository and left out"), "{text}");
        assert_eq!(saved(&repo), ["/data", "/data/f"]);
        assert_eq!(
            text.contains("data: pattern '*.nope' (excludes) fitted nothing"),
            words[0] == "run",
            "{text}"
        );
    }
    let broken = fs::read_to_string(repo.path("esker.toml")).unwrap().replace("*.nope", "[a");
    fs::write(repo.path("esker.toml"), broken).unwrap();
    let text = repo.fails(1, ["run", "nightly"]);
    assert!(text.contains("esker.toml:14: excludes: pattern '[a': '[' has no ']'"), "{text}");
}
