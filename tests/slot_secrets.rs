//! Repositories that are opened by key files, by recovery sheets and by shares: wherever a password opens them, and with
//! everything that can be wrong with a file.

use crate::harness::{Repo, expect, run, server, source_root};
use crate::lost::three_nights;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A command that has no password and a cache of its own, as on a new machine.
fn bare(repo: &Repo, args: &[&str]) -> Command {
    let mut command = repo.command(args);
    command.env_remove("ESKER_PASSWORD").env("ESKER_CACHE_DIR", repo.path("another-cache"));
    command
}

fn bare_ok(repo: &Repo, args: &[&str]) -> String {
    expect(&bare(repo, args).output().unwrap(), 0)
}

fn bare_fails(repo: &Repo, code: i32, args: &[&str]) -> String {
    let output = bare(repo, args).output().unwrap();
    expect(&output, code);
    String::from_utf8(output.stderr).unwrap()
}

/// A repository with one snapshot, a key file `key`, and shares of 2/3, whose paths are returned.
fn with_all_kinds() -> (Repo, Vec<String>) {
    let repo = Repo::new();
    fs::create_dir(repo.path("data")).unwrap();
    fs::write(repo.path("data/file"), "what counts").unwrap();
    repo.ok(["backup", "data"]);
    repo.ok(["key", "add", "--new-key-file", "key", "--label", "the machine's"]);
    let split = repo.json(["key", "split", "2/3", "--output", "shares", "--label", "three people"]);
    let shares = split["files"].as_array().unwrap();
    (repo, shares.iter().map(|path| path.as_str().unwrap().to_owned()).collect())
}

fn two(shares: &[String], which: [usize; 2]) -> [&str; 4] {
    ["--share", &shares[which[0]], "--share", &shares[which[1]]]
}

/// The words of a sheet's list, a group on a line.
fn words(html: &str) -> String {
    let groups = html.split("<li><b>").skip(1).map(|group| group.split("</li>").next().unwrap());
    groups.map(|group| group.replace("</b>", "") + "\n").collect()
}

#[test]
fn a_key_file_opens_a_repository_without_any_password() {
    let repo = Repo::empty();
    let made = bare_ok(&repo, &["init", "--new-key-file", "key"]);
    assert!(!made.contains("password"), "{made}");
    let key = repo.path("key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.starts_with("# ") && text.contains("\nESKER-KEY-1:"), "not the form of docs/format.md");
    fs::write(repo.path("file"), "x").unwrap();
    bare_ok(&repo, &["--key-file", "key", "backup", "file"]);
    let by_variable =
        |value: &str| bare(&repo, &["snapshots"]).env("ESKER_KEY_FILE", value).output().unwrap();
    expect(&by_variable("key"), 0);
    expect(&by_variable("none"), 1);
    // A flag goes before a variable, and the key's variable before the password's.
    let both =
        |args: &[&str], variable: &str, value: &str| bare(&repo, args).env(variable, value).output().unwrap();
    expect(&both(&["snapshots", "--key-file", "key"], "ESKER_PASSWORD", "x"), 0);
    let both = bare(&repo, &["snapshots"]).env("ESKER_KEY_FILE", "key").env("ESKER_PASSWORD", "x").output();
    expect(&both.unwrap(), 0);
    let none = bare_fails(&repo, 1, &["snapshots"]);
    assert!(none.contains("ESKER_KEY_FILE"), "{none}");
    for other in [["--password-file", "key"], ["--password-command", "true"], ["--share", "key"]] {
        bare_fails(&repo, 2, &["snapshots", "--key-file", "key", other[0], other[1]]);
    }
    let wrong = bare(&repo, &["snapshots"]).env("ESKER_PASSWORD", "x").output().unwrap();
    expect(&wrong, 12);
    let wrong = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        wrong.contains("no key slot is for the password") && wrong.contains("there are key slots for: key"),
        "{wrong}"
    );
    // The file that is there is not written over.
    let there = bare_fails(&repo, 1, &["--key-file", "key", "key", "add", "--new-key-file", "key"]);
    assert!(there.contains("key exists"), "{there}");
    assert_eq!(fs::read_to_string(&key).unwrap(), text);
}

#[test]
fn a_key_file_that_is_damaged_is_no_wrong_password() {
    let (repo, shares) = with_all_kinds();
    let sound = fs::read_to_string(repo.path("key")).unwrap();
    let said = |text: &str, code: i32| {
        fs::write(repo.path("bad"), text).unwrap();
        bare_fails(&repo, code, &["snapshots", "--key-file", "bad"])
    };
    let line = sound.lines().nth(1).unwrap();
    for (text, expected) in [
        (&sound[..sound.len() - 9], "cut off"),
        (&line[..30], "cut off"),
        ("", "empty"),
        ("correct horse battery staple", "word 3 of group 1 is none of the words"),
        ("correct horse", "2 words: a key has 36"),
        ("-----BEGIN CERTIFICATE-----", "neither a key nor a share"),
        (&sound.replace("KEY-1", "KEY-9"), "later version"),
        (&sound.replacen(&line[20..21], "g", 1).replace("KEg", "KEY"), "bad: "),
    ] {
        let told = said(text, 1);
        assert!(told.contains(expected) && !told.contains("wrong"), "{text}: {told}");
    }
    let mut other = line.to_owned();
    other.replace_range(20..21, if &line[20..21] == "0" { "1" } else { "0" });
    assert!(said(&other, 1).contains("checksum does not fit"));
    let share = bare_fails(&repo, 1, &["snapshots", "--key-file", &shares[0]]);
    assert!(share.contains("has a share of a key, number 1 of 3") && share.contains("--share"), "{share}");
    // Sound, and of another repository.
    let another = Repo::empty();
    bare_ok(&another, &["init", "--new-key-file", "key"]);
    let wrong = said(&fs::read_to_string(another.path("key")).unwrap(), 12);
    assert!(wrong.contains("wrong key") && wrong.contains("passphrase, shares 2/3"), "{wrong}");
    // With spaces and small letters, as somebody types it.
    fs::write(repo.path("typed"), line.to_lowercase().replace('a', " a ")).unwrap();
    bare_ok(&repo, &["snapshots", "--key-file", "typed"]);
}

#[test]
fn a_file_is_not_left_behind_if_no_slot_was_made() {
    let repo = Repo::new();
    let left = || {
        let names = fs::read_dir(repo.dir.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("key") || name.contains("share")).collect::<Vec<String>>()
    };
    repo.fails(1, ["key", "add", "--new-key-file", "nowhere/key"]);
    // As many slots as can be: the file was made by then.
    let max = chunkstore::format::MAX_SLOTS;
    fill_with_slots(&repo, max);
    for args in [&["key", "add", "--new-key-file", "key"][..], &["key", "sheet", "key.html"]] {
        let refused = repo.fails(1, args);
        assert!(refused.contains(&format!("there are {max} key slots")), "{refused}");
    }
    repo.fails(1, ["key", "split", "2/2", "--output", "shares"]);
    assert_eq!(left(), Vec::<String>::new());
    // A folder that was there stays, and stays as open as it was.
    fs::create_dir(repo.path("shares")).unwrap();
    fs::set_permissions(repo.path("shares"), fs::Permissions::from_mode(0o755)).unwrap();
    repo.fails(1, ["key", "split", "2/2", "--output", "shares"]);
    assert_eq!(fs::metadata(repo.path("shares")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(repo.path("shares")).unwrap().count(), 0);
}

/// Adds slots until there are so many.
fn fill_with_slots(repo: &Repo, count: usize) {
    use chunkstore::keys::{KdfParams, RawKey, SlotOwner};
    use chunkstore::store::ChunkStore;
    use std::sync::Arc;
    let access = crate::harness::access(Arc::new(
        chunkstore::storage::local::LocalStorage::open(repo.folder()).unwrap(),
    ));
    let store = ChunkStore::open(access, b"correct horse").unwrap();
    let key = RawKey::generate(&chunkstore::env::SystemEnv).unwrap();
    while store.head().slots.len() < count {
        store.add_slot(&key, KdfParams::default(), SlotOwner::default()).unwrap();
    }
}

#[test]
fn shares_open_together_and_each_mistake_is_named() {
    let (repo, shares) = with_all_kinds();
    for path in &shares {
        assert_eq!(fs::metadata(repo.path(path)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let with = |files: &[&str], code: i32| {
        let mut args = vec!["snapshots"];
        files.iter().for_each(|file| args.extend(["--share", file]));
        let output = bare(&repo, &args).output().unwrap();
        expect(&output, code);
        String::from_utf8(output.stderr).unwrap()
    };
    let all: Vec<&str> = shares.iter().map(String::as_str).collect();
    for pair in [[0, 1], [1, 0], [0, 2], [2, 1]] {
        with(&pair.map(|at| all[at]), 0);
    }
    with(&all, 0);
    let one = with(&all[..1], 12);
    assert!(one.contains("1 of 2 shares: 1 more of split"), "{one}");
    let twice = with(&[all[1], all[1]], 1);
    assert!(twice.contains("are the same share, number 2"), "{twice}");
    let whole = with(&[all[0], "key"], 1);
    assert!(whole.contains("key has a whole key, not a share"), "{whole}");
    with(&[all[0], "nothing"], 1);
    // Of another split of the same repository.
    let other = repo.json(["key", "split", "2/2", "--output", "others"]);
    let other: Vec<&str> =
        other["files"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let mixed = with(&[all[0], other[0]], 1);
    assert!(mixed.contains(&format!("{} is a share of another split", other[0])), "{mixed}");
    with(&other, 0);
    // One that is damaged is named although the other two are enough.
    let text = fs::read_to_string(repo.path(all[2])).unwrap();
    let at = text.rfind(':').unwrap() - 1;
    let mut bad = text.clone();
    bad.replace_range(at..=at, if &text[at..=at] == "0" { "1" } else { "0" });
    fs::write(repo.path("bad"), &bad).unwrap();
    let damaged = with(&[all[0], all[1], "bad"], 1);
    assert!(damaged.contains("bad: its checksum does not fit"), "{damaged}");
    // Their slot was removed: the others still open, and the message says what there is.
    let slots = repo.json(["key", "list"]);
    let id = |label: &str| {
        let slot = slots.as_array().unwrap().iter().find(|slot| slot["label"] == label).unwrap();
        slot["id"].as_str().unwrap().to_owned()
    };
    repo.ok(["key", "remove", &id("three people")]);
    let gone = with(&all[..2], 12);
    assert!(gone.contains("no key slot is for the shares") && gone.contains("key, passphrase"), "{gone}");
    // As many as are asked for, and no more or less.
    for (numbers, why) in
        [("1/3", "--new-key-file"), ("4/3", "cannot be"), ("2/17", "cannot be"), ("0/2", "cannot be")]
    {
        let refused = repo.fails(1, ["key", "split", numbers, "--output", "none"]);
        assert!(refused.contains(why), "{numbers}: {refused}");
    }
    repo.fails(2, ["key", "split", "two", "--output", "none"]);
    assert!(!repo.path("none").exists());
}

#[test]
fn the_list_shows_kinds_and_the_slot_in_use() {
    let (repo, shares) = with_all_kinds();
    repo.ok(["key", "sheet", "sheet.html", "--label", "in the safe"]);
    repo.ok(["key", "sheet", "another.html"]);
    let kinds = |list: &Value| -> Vec<(String, String, bool)> {
        let row = |slot: &Value| {
            let text = |name: &str| slot[name].as_str().unwrap().to_owned();
            assert_eq!(slot["split"].is_string(), text("kind") == "shares 2/3", "{slot}");
            (text("label"), text("kind"), slot["current"] == true)
        };
        let mut rows: Vec<_> = list.as_array().unwrap().iter().map(row).collect();
        rows.sort();
        rows
    };
    let row = |label: &str, kind: &str, current| (label.to_owned(), kind.to_owned(), current);
    assert_eq!(
        kinds(&repo.json(["key", "list"])),
        [
            row("", "passphrase", true),
            row("in the safe", "key", false),
            row("recovery sheet", "key", false),
            row("the machine's", "key", false),
            row("three people", "shares 2/3", false),
        ]
    );
    for (args, label) in
        [(vec!["--key-file", "key"], "the machine's"), (two(&shares, [0, 2]).to_vec(), "three people")]
    {
        let text = bare_ok(&repo, &[&["--json", "key", "list"][..], &args].concat());
        let list: Value = serde_json::from_str(&text).unwrap();
        let current = kinds(&list).into_iter().find(|(_, _, current)| *current).unwrap();
        assert_eq!(current.0, label);
    }
    let list = repo.ok(["key", "list"]);
    assert!(
        list.contains("shares 2/3") && list.contains("three people") && list.contains("  key  "),
        "{list}"
    );
}

#[test]
fn what_opened_the_repository_is_replaced() {
    let (repo, shares) = with_all_kinds();
    // From a key file to another one.
    let done = bare_ok(&repo, &["--key-file", "key", "--json", "key", "passwd", "--new-key-file", "key2"]);
    let done: Value = serde_json::from_str(done.lines().last().unwrap()).unwrap();
    assert_eq!((done["added"].as_array().unwrap().len(), done["removed"].as_array().unwrap().len()), (1, 1));
    bare_fails(&repo, 12, &["--key-file", "key", "snapshots"]);
    bare_ok(&repo, &["--key-file", "key2", "snapshots"]);
    // From shares to a password.
    fs::write(repo.path("new"), "a new one\n").unwrap();
    let args = [&two(&shares, [0, 1])[..], &["key", "passwd", "--new-password-file", "new"]].concat();
    let said = bare_ok(&repo, &args);
    assert!(said.contains("the new password is in key slot"), "{said}");
    let args = [&two(&shares, [0, 1])[..], &["snapshots"]].concat();
    bare_fails(&repo, 12, &args);
    bare_ok(&repo, &["--password-file", "new", "snapshots"]);
    // From the password to a key, which then is all that there is.
    repo.ok(["key", "passwd", "--new-key-file", "key3"]);
    repo.fails(12, ["snapshots"]);
    bare_ok(&repo, &["--key-file", "key3", "check"]);
}

#[test]
fn rotations_reach_every_kind_and_no_removed_slot() {
    let (repo, shares) = with_all_kinds();
    repo.ok(["key", "sheet", "sheet.html", "--label", "sheet"]);
    let sheet = words(&fs::read_to_string(repo.path("sheet.html")).unwrap());
    fs::write(repo.path("words"), sheet).unwrap();
    repo.ok(["key", "add", "--new-key-file", "gone", "--label", "gone"]);
    let lost = repo.json(["key", "split", "2/2", "--output", "lost", "--label", "lost"]);
    let lost: Vec<String> =
        lost["files"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect();
    let keys = repo.path("repo/keys");
    let slots = repo.json(["key", "list"]);
    let id = |label: &str| {
        let slot = slots.as_array().unwrap().iter().find(|slot| slot["label"] == label).unwrap();
        slot["id"].as_str().unwrap().to_owned()
    };
    let kept: Vec<(String, Vec<u8>)> =
        ["gone", "lost"].map(|label| (id(label), fs::read(keys.join(id(label))).unwrap())).into();
    for (slot, _) in &kept {
        repo.ok(["key", "remove", slot]);
    }
    for night in ["two", "three"] {
        repo.ok(["key", "rotate"]);
        fs::write(repo.path("data/file"), night).unwrap();
        repo.ok(["backup", "data"]);
    }
    let secrets: [&[&str]; 4] =
        [&["--key-file", "key"], &["--key-file", "words"], &two(&shares, [0, 1]), &two(&shares, [1, 2])];
    for secret in secrets {
        assert_eq!(bare_ok(&repo, &[secret, &["dump", "latest:data/file"]].concat()), "three");
        bare_ok(&repo, &[secret, &["check", "--read-data"]].concat());
    }
    // Their files are put back: they have the keys of their time, and open nothing.
    for (slot, bytes) in &kept {
        fs::write(keys.join(slot), bytes).unwrap();
    }
    bare_fails(&repo, 12, &["--key-file", "gone", "snapshots"]);
    bare_fails(&repo, 12, &["--share", &lost[0], "--share", &lost[1], "snapshots"]);
    bare_ok(&repo, &["--key-file", "key", "key", "rotate"]);
    bare_ok(&repo, &[&two(&shares, [2, 0])[..], &["key", "rotate"]].concat());
    repo.ok(["snapshots"]);
}

/// Wherever else a repository is opened: copies, tiers, a HEAD that is lost, an adopted tier, esker.toml.
#[test]
fn no_place_asks_for_a_password() {
    let world = three_nights();
    let repo = &world.repo;
    repo.ok(["key", "add", "--new-key-file", "key"]);
    let split = repo.json(["key", "split", "2/2", "--output", "shares"]);
    let shares: Vec<String> =
        split["files"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect();
    repo.ok(["key", "rotate"]);
    repo.ok(["tier", "sync"]);
    let by_shares = two(&shares, [0, 1]);
    for secret in [&["--key-file", "key"][..], &by_shares] {
        let ok = |args: &[&str]| bare_ok(repo, &[secret, args].concat());
        ok(&["tier", "status"]);
        ok(&["tier", "sync"]);
        ok(&["-r", &world.place("disk/vault"), "--no-cache", "snapshots"]);
        let lose = "rm -rf repo/HEAD repo/copies/*/HEAD* another-cache cache";
        assert!(
            Command::new("sh").args(["-ec", lose]).current_dir(repo.dir.path()).status().unwrap().success()
        );
        ok(&["repair", "head"]);
        ok(&["snapshots"]);
        ok(&["check"]);
    }
    // Copies into another repository, each opened by its own.
    let to = Repo::empty();
    bare_ok(&to, &["init", "--new-key-file", "own"]);
    let (from, key) = (world.place("repo"), repo.path("key"));
    let key = key.to_str().unwrap();
    let copy = ["--key-file", "own", "copy", "--from-repo", &from];
    let wrong = bare_fails(&to, 12, &copy);
    assert!(wrong.contains("wrong key"), "{wrong}");
    let copied = bare_ok(&to, &[&copy[..], &["--from-key-file", key]].concat());
    assert!(copied.contains("copied") && !copied.contains("copied 0"), "{copied}");
    let paths: Vec<PathBuf> = shares.iter().map(|path| repo.path(path)).collect();
    let again = ["--from-share", paths[0].to_str().unwrap(), "--from-share", paths[1].to_str().unwrap()];
    assert!(bare_ok(&to, &[&copy[..], &again].concat()).contains("copied 0"));
    let by_variable = bare(&to, &copy).env("ESKER_FROM_KEY_FILE", key).output().unwrap();
    assert!(expect(&by_variable, 0).contains("copied 0"));
    let import = bare_fails(&to, 1, &["--key-file", "own", "import", &format!("restic:{from}")]);
    assert!(import.contains("--from-password-file"), "{import}");
    // In esker.toml.
    let toml = fs::read_to_string(repo.path("esker.toml")).unwrap();
    fs::write(repo.path("esker.toml"), format!("key_file = \"{key}\"\n{toml}")).unwrap();
    bare_ok(repo, &["snapshots"]);
    bare_ok(repo, &["tier", "status"]);
    // The primary is lost for good.
    fs::remove_dir_all(repo.path("repo")).unwrap();
    fs::remove_dir_all(repo.path("another-cache")).unwrap();
    bare_ok(repo, &["tier", "adopt", "vault"]);
}

#[test]
fn the_reader_opens_by_each_kind() {
    let (repo, shares) = with_all_kinds();
    repo.ok(["key", "sheet", "sheet.html"]);
    fs::write(repo.path("words"), words(&fs::read_to_string(repo.path("sheet.html")).unwrap())).unwrap();
    repo.ok(["key", "split", "3/5", "--output", "html", "--html"]);
    repo.ok(["key", "rotate"]);
    repo.ok(["backup", "data"]);
    let mut sheets: Vec<PathBuf> =
        fs::read_dir(repo.path("html")).unwrap().map(|entry| entry.unwrap().path()).collect();
    sheets.sort();
    for (at, sheet) in sheets.iter().enumerate() {
        fs::write(repo.path(&format!("w{at}")), words(&fs::read_to_string(sheet).unwrap())).unwrap();
    }
    let path = |name: &str| repo.path(name).display().to_string();
    let script = source_root().join("docs/reader.py");
    let reader = |secret: &str| {
        let mut command = Command::new(server("venv/bin/python"));
        command.arg(&script).arg(repo.folder()).args([secret, "list"]).output().unwrap()
    };
    for secret in [
        format!("key:{}", path("key")),
        format!("key:{}", path("words")),
        format!("shares:{},{}", path(&shares[2]), path(&shares[0])),
        format!("shares:{},{},{}", path(&shares[1]), path(&shares[0]), path(&shares[2])),
        format!("shares:{},{},{}", path("w4"), path("w0"), path("w2")),
    ] {
        assert_eq!(expect(&reader(&secret), 0).lines().count(), 2, "{secret}");
    }
    let few = reader(&format!("shares:{},{}", path("w4"), path("w0")));
    assert!(String::from_utf8(few.stderr).unwrap().contains("2 of 3 shares"));
    bare_ok(&repo, &["snapshots", "--share", "w4", "--share", "w0", "--share", "w2", "--share", "w1"]);
}

/// Words that are typed on a terminal, with one mistake that is made good at once.
#[test]
fn words_are_asked_for_on_a_terminal() {
    const TYPE: &str = "
import os, pty, sys
lines = open(sys.argv[1]).read().splitlines()
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
heard = b''
for line in lines:
    wanted = line.split('|')[0].encode()
    while not heard.rstrip().endswith(wanted):
        heard += os.read(terminal, 1000)
    os.write(terminal, line.split('|')[1].encode() + b'\\n')
    heard = b''
try:
    while True:
        part = os.read(terminal, 1000)
        if not part: break
        heard += part
except OSError:
    pass
sys.stdout.write(heard.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let (repo, _) = with_all_kinds();
    repo.ok(["key", "sheet", "sheet.html"]);
    repo.ok(["key", "split", "2/3", "--output", "html", "--html"]);
    let sheet = |path: &Path| words(&fs::read_to_string(path).unwrap());
    let asked = |words: &str| -> Vec<String> {
        (1..).zip(words.lines()).map(|(number, line)| format!("group {number}:|{line}")).collect()
    };
    let typed = |lines: Vec<String>, code: i32| {
        fs::write(repo.path("typed"), lines.join("\n")).unwrap();
        fs::write(repo.path("type.py"), TYPE).unwrap();
        let esker = bare(&repo, &[]).get_program().to_owned();
        let command = bare(&repo, &[]);
        let mut python = Command::new("python3");
        python.args(["type.py", "typed"]).arg(esker).args(["--recovery", "snapshots"]);
        python.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        python.current_dir(repo.dir.path());
        expect(&python.output().unwrap(), code)
    };
    let mut lines = asked(&sheet(&repo.path("sheet.html")));
    lines.insert(2, "group 3:|zoo zoo zoo zoo".into());
    assert!(typed(lines, 0).contains("data"));
    let mut all: Vec<PathBuf> =
        fs::read_dir(repo.path("html")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let lines = [asked(&sheet(&all[2])), asked(&sheet(&all[0]))].concat();
    assert!(typed(lines, 0).contains("data"));
    let wrong = typed(vec!["group 1:|zoo zoo zoo zoo".into(); 5], 1);
    assert!(wrong.contains("what was typed is no key: a word of group 1 is wrong"), "{wrong}");
    // Nobody to ask.
    let nobody = Command::new("setsid")
        .arg("-w")
        .arg(bare(&repo, &[]).get_program())
        .args(["--recovery", "snapshots"])
        .env("ESKER_REPOSITORY", repo.folder())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    expect(&nobody, 1);
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("--key-file and --share read files"));
}

/// Rendered by a browser, decoded from the picture, and opened on another machine.
#[test]
fn a_sheet_is_rendered_and_its_code_is_read_from_the_picture() {
    const DECODE: &str = "
import sys, zxingcpp
from PIL import Image
for path in sys.argv[1:]:
    found = zxingcpp.read_barcodes(Image.open(path))
    assert len(found) == 1, (path, found)
    print(found[0].text)
";
    let (repo, _) = with_all_kinds();
    let label = "<b>the \"safe\" & 'co'";
    repo.ok(["key", "sheet", "sheet.html", "--label", label]);
    repo.ok(["key", "split", "2/3", "--output", "html", "--html", "--label", label]);
    assert_eq!(fs::metadata(repo.path("sheet.html")).unwrap().permissions().mode() & 0o777, 0o600);
    let html = fs::read_to_string(repo.path("sheet.html")).unwrap();
    let id = repo.json(["cat", "config"])["id"].as_str().unwrap_or_default().to_owned();
    assert!(html.contains(&id) && html.contains("--recovery") && html.contains("color-scheme: light only"));
    assert!(html.contains("&lt;b&gt;the &quot;safe&quot; &amp; &#39;co&#39;") && !html.contains("<b>the"));
    assert!(html.contains("size: A4") && !html.contains("<script") && !html.contains("prefers-color-scheme"));
    // Nothing from elsewhere: the only address names a language, and is not loaded.
    assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("://"), "something is loaded");
    let mut sheets: Vec<PathBuf> =
        fs::read_dir(repo.path("html")).unwrap().map(|entry| entry.unwrap().path()).collect();
    sheets.sort();
    sheets.insert(0, repo.path("sheet.html"));
    let mut pictures = vec![];
    for (at, sheet) in sheets.iter().enumerate() {
        let picture = repo.path(&format!("{at}.png"));
        let pdf = repo.path(&format!("{at}.pdf"));
        let browse = |output: String| {
            let mut command = Command::new("chromium");
            command
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--no-first-run",
                    "--window-size=800,1130",
                ])
                .args(["--no-pdf-header-footer", "--disable-background-networking", "--force-dark-mode"])
                .arg(format!("--user-data-dir={}", repo.path("browser").display()))
                .arg(output)
                .arg(format!("file://{}", sheet.display()));
            let done = command.stdin(Stdio::null()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        browse(format!("--screenshot={}", picture.display()));
        browse(format!("--print-to-pdf={}", pdf.display()));
        let pdf = String::from_utf8_lossy(&fs::read(pdf).unwrap()).into_owned();
        let pages = pdf.matches("/Type /Page\n").count() + pdf.matches("/Type /Page/").count();
        assert_eq!(pages, 1, "{} does not fit one page", sheet.display());
        pictures.push(picture.display().to_string());
    }
    let mut args = vec!["-c", DECODE];
    args.extend(pictures.iter().map(String::as_str));
    let read = run(server("venv/bin/python"), &args);
    let lines: Vec<&str> = read.lines().collect();
    assert_eq!(lines.len(), 4, "{read}");
    let names: Vec<String> = (0..lines.len()).map(|at| format!("qr{at}")).collect();
    for (name, line) in names.iter().zip(&lines) {
        fs::write(repo.path(name), line).unwrap();
    }
    assert!(bare_ok(&repo, &["snapshots", "--key-file", "qr0"]).contains("data"));
    for pair in [["qr1", "qr2"], ["qr3", "qr1"]] {
        bare_ok(&repo, &["snapshots", "--share", pair[0], "--share", pair[1]]);
    }
    let one = bare_fails(&repo, 12, &["snapshots", "--share", "qr2"]);
    assert!(one.contains("1 of 2 shares"), "{one}");
    // The words say the same as the code.
    fs::write(repo.path("words"), words(&html)).unwrap();
    bare_ok(&repo, &["dump", "latest:data/file", "--key-file", "words"]);
    // A code that was read badly.
    fs::write(repo.path("bad"), &lines[0][..lines[0].len() - 3]).unwrap();
    assert!(bare_fails(&repo, 1, &["snapshots", "--key-file", "bad"]).contains("cut off"));
}

/// The variables have what opens the repository now, and not what shall open it.
#[test]
fn what_is_missing_for_a_new_slot_is_named() {
    let repo = Repo::new();
    for words in [&["key", "add"][..], &["key", "passwd"]] {
        let told = repo.fails(1, words);
        assert!(told.contains("--new-password-file") && !told.contains("ESKER_PASSWORD"), "{told}");
    }
}

/// As `key passwd` leaves it that is killed between its slot and HEAD, or between HEAD and the old slot.
#[test]
fn a_change_of_password_that_was_killed_is_no_damage() {
    let repo = Repo::new();
    let keys = repo.folder().join("keys");
    let old = std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&old).unwrap();
    std::fs::write(repo.path("new"), "another one\n").unwrap();
    repo.ok(["key", "passwd", "--new-password-file", "new"]);
    std::fs::write(&old, bytes).unwrap();
    let repo = repo.with("ESKER_PASSWORD", "another one");
    let output = repo.run(["check"]);
    crate::harness::expect(&output, 0);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("a key slot that HEAD does not list"),
        "{output:?}"
    );
    repo.ok(["prune"]);
    assert!(!old.exists());
}
