//! Hosts that may only write: they have a file, a cache folder, and nothing else. A full client admits what they bring, and
//! a thief with all that such a host has gets nothing, and changes nothing.

use crate::harness::{Repo, esker_binary, expect, noise, run, server, settle, source_root, text};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A host of a repository: its file, its cache folder, its data.
struct Host<'a> {
    repo: &'a Repo,
    name: &'static str,
    cache: PathBuf,
}

impl<'a> Host<'a> {
    fn add(repo: &'a Repo, name: &'static str) -> Self {
        repo.ok(["host", "add", name, "--write-only"]);
        let host = Self { repo, name, cache: repo.path(&format!("cache-{name}")) };
        fs::create_dir(host.data()).unwrap();
        fs::write(host.data().join("text"), text(7, 300_000)).unwrap();
        fs::write(host.data().join("noise"), noise(name.len() as u64, 900_000)).unwrap();
        host
    }

    fn file(&self) -> PathBuf {
        self.repo.path(&format!("{}.esker-host", self.name))
    }

    fn data(&self) -> PathBuf {
        self.repo.path(&format!("data-{}", self.name))
    }

    /// A command with what the host has: no password, no key, no cache of a full client.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(esker_binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC");
        command.env("HOME", &self.cache).env("ESKER_CACHE_DIR", &self.cache);
        command.args(args).current_dir(self.repo.dir.path()).stdin(Stdio::null());
        command
    }

    fn run(&self) -> Output {
        let (file, data) = (self.file(), self.data());
        self.command(&["--json", "backup", "--bundle", file.to_str().unwrap(), data.to_str().unwrap()])
            .output()
            .unwrap()
    }

    /// Backs up its data, and returns the report.
    fn backup(&self) -> Value {
        let output = expect(&self.run(), 0);
        serde_json::from_str(output.lines().last().unwrap()).unwrap()
    }

    fn inbox(&self) -> PathBuf {
        let rows = self.repo.json(["host", "list"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["host"] == self.name).unwrap();
        self.repo.folder().join("inbox").join(row["host_id"].as_str().unwrap())
    }
}

/// Admits, and returns what came of each run.
fn admit(repo: &Repo, code: i32) -> Vec<Value> {
    let output = repo.run(["--json", "host", "admit"]);
    let stdout = expect(&output, code);
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    report["runs"].as_array().unwrap().clone()
}

fn restored(repo: &Repo, snapshot: &str, host: &Host<'_>) {
    let target = repo.path("restored");
    let _ = fs::remove_dir_all(&target);
    repo.ok(["restore", snapshot, "--target", "restored"]);
    let there = target.join(host.data().strip_prefix("/").unwrap());
    for name in ["text", "noise"] {
        assert_eq!(fs::read(there.join(name)).unwrap(), fs::read(host.data().join(name)).unwrap(), "{name}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files_beneath(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files_beneath(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

#[test]
fn a_host_backs_up_with_its_file_only_and_a_full_client_admits_and_restores_it() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    assert_eq!(fs::metadata(host.file()).unwrap().permissions().mode() & 0o777, 0o600);
    settle();
    let first = host.backup();
    assert_eq!((&first["pending"], &first["run"]), (&Value::Bool(true), &Value::from(1)));
    // Nothing of it counts yet, and it is shown as waiting.
    assert_eq!(repo.snapshot_count(), 0);
    assert_eq!(repo.json(["host", "list"])[0]["pending"], 1);
    let shown = repo.ok(["snapshots"]);
    assert!(shown.contains("pending: run 1 of host web1"), "{shown}");
    let shown = repo.ok(["host", "list"]);
    assert!(shown.contains("  0 runs, 1 pending ("), "{shown}");
    // The independent reader proves it, too.
    let script = source_root().join("docs/reader.py");
    let python = server("venv/bin/python");
    fs::write(repo.path("password"), "correct horse\n").unwrap();
    let (folder, password) = (repo.folder().to_str().unwrap(), repo.path("password"));
    let read =
        |what: &str| run(&python, &[script.to_str().unwrap(), folder, password.to_str().unwrap(), what]);
    let listed = read("inbox");
    assert!(listed.starts_with("web1 1 ") && listed.contains("data-web1"), "{listed}");
    let done = admit(&repo, 0);
    assert_eq!(done[0]["outcome"], "admitted");
    assert!(read("inbox").is_empty() && read("list").contains(" web1 "));
    let id = done[0]["snapshot_id"].as_str().unwrap();
    // Times are as in all tables: 2026-01-31 04:05:06+00:00.
    let utc = Repo::again(&repo, repo.folder().display().to_string()).with("TZ", "UTC");
    let shown = utc.ok(["host", "list"]);
    assert!(shown.trim_end().ends_with("  1 run"), "{shown}");
    for shown in [shown, utc.ok(["key", "list"]), utc.ok(["key", "epochs"])] {
        let at = shown.find("+00:00").unwrap();
        let time = &shown[at - 20..at];
        let punctuation = [0, 5, 8, 11, 14, 17].map(|at| time.as_bytes()[at]);
        assert_eq!(&punctuation, b" -- ::", "{shown}");
    }
    let listed = repo.json(["snapshots"]);
    assert_eq!(
        (&listed[0]["signed"]["host"], &listed[0]["signed"]["signature"]),
        (&"web1".into(), &"valid".into())
    );
    assert!(repo.ok(["snapshots"]).contains("1 signed by host web1"));
    assert_eq!((&listed[0]["id"], &listed[0]["hostname"]), (&Value::from(id), &Value::from("web1")));
    restored(&repo, id, &host);
    assert_eq!(files_beneath(&host.inbox()), Vec::<PathBuf>::new(), "the inbox is empty again");

    // The second night brings what changed, and is admitted by the next backup of a full client.
    fs::write(host.data().join("text"), [text(7, 300_000), b"one line more\n".to_vec()].concat()).unwrap();
    let second = host.backup();
    assert_eq!(second["files_unmodified"], 1);
    let added = second["data_added_packed"].as_u64().unwrap();
    assert!(added < first["data_added_packed"].as_u64().unwrap() / 2, "{added} bytes for a line");
    fs::write(repo.path("other"), "of a full client").unwrap();
    repo.ok(["backup", "other"]);
    assert_eq!(repo.snapshot_count(), 3);
    restored(&repo, "latest~1", &host);
    repo.ok(["check", "--read-data"]);
    // A third, of nothing new, is admitted by a prune, which keeps what it builds on.
    host.backup();
    repo.ok(["prune", "--max-unused", "0"]);
    assert_eq!(repo.snapshot_count(), 4);
    restored(&repo, "latest", &host);
}

#[test]
fn hosts_find_what_others_stored_only_through_who_proved_it() {
    let repo = Repo::new();
    let (one, two) = (Host::add(&repo, "web1"), Host::add(&repo, "web2"));
    for host in [&one, &two] {
        fs::write(host.data().join("noise"), noise(3, 900_000)).unwrap();
    }
    one.backup();
    let second = two.backup();
    // It does not see what the other one stored, and brings it, too.
    assert!(second["data_added_packed"].as_u64().unwrap() > 900_000);
    admit(&repo, 0);
    let size = repo.json(["stats", "--mode", "raw-data"])["total_size"].as_u64().unwrap();
    assert!(size < 1_600_000, "it is stored once: {size}");
    restored(&repo, "latest", &two);
}

#[test]
fn what_a_thief_replays_shortens_or_forges_is_refused_and_told() {
    let repo = Repo::new();
    let (host, other) = (Host::add(&repo, "web1"), Host::add(&repo, "web2"));
    let inbox = host.inbox();
    host.backup();
    copy_all(&inbox, &repo.path("kept"));
    admit(&repo, 0);

    // Replayed: it is over, and is removed.
    copy_all(&repo.path("kept"), &inbox);
    assert_eq!(admit(&repo, 0), Vec::<Value>::new());
    assert_eq!(files_beneath(&inbox), Vec::<PathBuf>::new());
    assert_eq!(repo.snapshot_count(), 1);

    // Replayed under another number, and as another host: whoever writes there has not the key.
    copy_all(&repo.path("kept/00000000000000000001"), &inbox.join("00000000000000000007"));
    copy_all(&repo.path("kept"), &other.inbox());
    let done = admit(&repo, 3);
    assert!(done.len() == 2 && done.iter().all(|run| run["outcome"] == "forged"), "{done:?}");
    fs::remove_dir_all(inbox.join("00000000000000000007")).unwrap();
    fs::remove_dir_all(other.inbox()).unwrap();

    // Shortened: one of two runs is lost. The other one is refused, and the host is told, and brings all of it again.
    fs::write(host.data().join("text"), text(8, 300_000)).unwrap();
    host.backup();
    fs::write(host.data().join("noise"), noise(9, 900_000)).unwrap();
    host.backup();
    fs::remove_dir_all(inbox.join("00000000000000000002")).unwrap();
    let done = admit(&repo, 3);
    assert_eq!((done.len(), &done[0]["outcome"]), (1, &Value::from("refused")), "{done:?}");
    assert!(done[0]["why"].as_str().unwrap().contains("a commit before it is missing"));
    let output = host.run();
    expect(&output, 3);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("run 2 was refused") && told.contains("run 3 was refused"), "{told}");
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    restored(&repo, "latest", &host);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn a_place_that_does_not_know_the_host_gets_nothing() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    let (file, data) = (host.file(), host.data());
    // Another repository, which does not know it; and after that its own, which knows it no longer.
    let elsewhere = Repo::new();
    let other = elsewhere.folder().to_str().unwrap().to_owned();
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let before = files_beneath(elsewhere.folder());
    let output = host.command(&["-r", &other, "backup", "--bundle", file, data]).output().unwrap();
    expect(&output, 10);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("knows this host") && told.contains(&other), "{told}");
    assert_eq!(files_beneath(elsewhere.folder()), before);
    let mut begun = files_beneath(&host.cache);
    begun.retain(|file| file.file_name().is_some_and(|name| name != "CACHEDIR.TAG"));
    assert_eq!(begun, Vec::<PathBuf>::new(), "no book is begun");
    host.backup();
    repo.ok(["host", "revoke", "web1"]);
    let before = files_beneath(repo.folder());
    let output = host.run();
    expect(&output, 10);
    assert_eq!(files_beneath(repo.folder()), before);
}

/// Neither a dry run nor a backup that fails uses a refusal up.
#[test]
fn a_refusal_is_told_until_a_run_was_committed() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    host.backup();
    for entry in files_beneath(&host.inbox()) {
        if !entry.ends_with("commit") && !entry.ends_with("begun") {
            fs::remove_file(entry).unwrap();
        }
    }
    assert_eq!(admit(&repo, 3)[0]["outcome"], "refused");
    let (file, data) = (host.file(), host.data());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let told = |output: Output, code: i32| {
        expect(&output, code);
        String::from_utf8(output.stderr).unwrap().contains("run 1 was refused")
    };
    let dry = || host.command(&["backup", "-n", "--bundle", file, data]).output().unwrap();
    assert!(told(dry(), 3) && told(dry(), 3), "a dry run says it");
    let absent = host.command(&["backup", "--bundle", file, "absent"]).output().unwrap();
    assert_ne!(absent.status.code(), Some(0));
    assert!(told(host.run(), 3), "the run that is committed says it");
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    assert!(!told(host.run(), 0), "and no later one");
    restored(&repo, "latest", &host);
}

/// What a host brought stops no full client, and nobody who reads its exit codes or reports misses it.
#[test]
fn runs_and_backups_report_what_a_host_brought() {
    let toml = "repository = \"DIR/repo\"\n\n[[source]]\nname = \"own\"\nurls = [\"DIR/own\"]\n";
    let repo = Repo::with_tiers(toml, &[], true);
    fs::create_dir(repo.path("own")).unwrap();
    fs::write(repo.path("own/file"), "of the full client").unwrap();
    let host = Host::add(&repo, "web1");
    let spoil = || {
        for entry in files_beneath(&repo.path("repo/inbox")) {
            if !entry.ends_with("commit") && !entry.ends_with("begun") {
                fs::remove_file(entry).unwrap();
            }
        }
    };
    let report = |words: &[&str], code: i32| -> Value {
        let output = expect(&repo.run([&["--json"], words].concat()), code);
        serde_json::from_str(output.lines().last().unwrap()).unwrap()
    };
    host.backup();
    spoil();
    let first = report(&["run"], 3);
    assert_eq!(first["sources"][0]["ok"], true, "{first}");
    let row = &first["runs_of_hosts"][0];
    assert_eq!((&row["host"], &row["outcome"]), (&"web1".into(), &"refused".into()), "{first}");
    assert!(report(&["run"], 0)["runs_of_hosts"].is_null(), "it is settled");
    for (words, code) in [(&["backup", "own"][..], 0), (&["prune"], 0), (&["run"], 0)] {
        host.run();
        let done = report(words, code);
        assert_eq!(done["runs_of_hosts"][0]["outcome"], "admitted", "{done}");
    }
    fs::write(host.data().join("noise"), noise(5, 100_000)).unwrap();
    host.run();
    spoil();
    // What was asked for of these is done.
    let done = report(&["backup", "own"], 0);
    assert_eq!(done["runs_of_hosts"][0]["outcome"], "refused", "{done}");
}

/// The list of entries was pruned with the chunks that it names: one refusal is enough all the same.
#[test]
fn what_was_forgotten_and_pruned_is_brought_again_after_one_refusal() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    host.backup();
    admit(&repo, 0);
    host.backup();
    let snapshot = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    repo.ok(["forget", &snapshot]);
    repo.ok(["prune", "--no-admit", "--max-unused", "0"]);
    // The first condemns, a later one removes.
    repo.ok(["prune", "--no-admit", "--max-unused", "0"]);
    assert_eq!(admit(&repo, 3)[0]["outcome"], "refused");
    expect(&host.run(), 3);
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    restored(&repo, "latest", &host);
    repo.ok(["check", "--read-data"]);
}

/// Lines of a dump, some of them of another night.
fn lines(night: u64, changed: impl Fn(usize) -> bool) -> Vec<u8> {
    let random = noise(5, 40 * 30_000);
    let rows = random.chunks(40).enumerate().map(|(number, bytes)| {
        let night = if changed(number) { night } else { 0 };
        let words: String = bytes.iter().map(|byte| format!("{byte:03} ")).collect();
        format!("{number:08}\t{night:04}\t{words}\n")
    });
    rows.collect::<String>().into_bytes()
}

/// What the independent reader finds in the inboxes, all of which it checks.
fn read_inbox(repo: &Repo) -> String {
    let script = source_root().join("docs/reader.py");
    fs::write(repo.path("password"), "correct horse\n").unwrap();
    let (folder, password) = (repo.folder().to_str().unwrap(), repo.path("password"));
    let args = [script.to_str().unwrap(), folder, password.to_str().unwrap(), "inbox"];
    let python = server("venv/bin/python");
    run(&python, &args)
}

fn packed(report: &Value) -> u64 {
    report["data_added_packed"].as_u64().unwrap()
}

#[test]
fn changed_lines_are_brought_as_differences_and_whole_without_block_lists() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    let write = |night, each: usize| {
        let changed = lines(night, |number| number > 0 && number % each == 0);
        fs::write(host.data().join("text"), changed).unwrap();
    };
    write(1, usize::MAX);
    let first = packed(&host.backup());
    let lists = || -> Vec<PathBuf> {
        let all = files_beneath(&host.cache).into_iter();
        all.filter(|path| path.parent().unwrap().ends_with("blocks")).collect()
    };
    assert!(lists().iter().all(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o600));
    assert_eq!(lists().len(), 1);
    // One line of a hundred: before the first night was admitted, and after that.
    for night in 2..5 {
        write(night, 100);
        let report = host.backup();
        assert!(packed(&report) * 10 <= first, "night {night}: {} of {first}", packed(&report));
        let read = read_inbox(&repo);
        assert!(read.contains(&format!("web1 {night} ")), "{read}");
        if night > 2 {
            assert!(admit(&repo, 0).iter().all(|run| run["outcome"] == "admitted"));
            restored(&repo, "latest", &host);
        }
    }
    // What is printed for a dry run is what would be brought.
    write(5, 100);
    let (file, data) = (host.file(), host.data());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let backup = |more: &[&str]| {
        let output = host.command(&[&["--json", "backup", "--bundle", file, data], more].concat()).output();
        serde_json::from_str::<Value>(expect(&output.unwrap(), 0).lines().last().unwrap()).unwrap()
    };
    assert!(packed(&backup(&["-n"])) * 10 <= first);
    // Lists that are damaged or not there cost an upload, and are kept anew.
    for harm in [|path: &Path| fs::write(path, noise(1, 5000)), |path: &Path| fs::remove_file(path)] {
        lists().iter().try_for_each(|path| harm(path)).unwrap();
        assert!(packed(&host.backup()) * 2 > first);
        write(6, 100);
        assert!(packed(&host.backup()) * 10 <= first);
        write(7, 100);
    }
    assert!(packed(&backup(&["--no-delta"])) * 2 > first);
    assert_eq!(lists(), Vec::<PathBuf>::new(), "nothing is kept that is not used");
    // The same by esker.toml, whatever was kept since.
    write(8, 100);
    host.backup();
    assert_eq!(lists().len(), 1);
    write(9, 100);
    let toml = repo.path("whole.toml");
    fs::write(&toml, "delta = false\n").unwrap();
    assert!(packed(&backup(&["-c", toml.to_str().unwrap()])) * 2 > first);
    assert_eq!(lists(), Vec::<PathBuf>::new());
    assert_eq!(admit(&repo, 0).len(), 7);
    restored(&repo, "latest", &host);
    repo.ok(["check", "--read-data"]);
    // Of many changes, half of the blocks are still there.
    write(10, usize::MAX);
    host.backup();
    write(11, 4);
    let report = host.backup();
    assert!(packed(&report) < first, "{} of {first}", packed(&report));
    assert_eq!(admit(&repo, 0).len(), 2);
    restored(&repo, "latest", &host);
}

/// Lists that are not used cost no backup.
#[test]
fn block_lists_that_cannot_be_removed_stop_no_backup() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    host.backup();
    let list = files_beneath(&host.cache).into_iter().find(|path| path.parent().unwrap().ends_with("blocks"));
    let folder = list.unwrap().parent().unwrap().to_owned();
    // What is no folder is not removed as one.
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "no folder").unwrap();
    let (file, data) = (host.file(), host.data());
    let args = ["backup", "--no-delta", "--bundle", file.to_str().unwrap(), data.to_str().unwrap()];
    let output = host.command(&args).output().unwrap();
    expect(&output, 0);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("the block lists of earlier backups stay, and are not used"), "{told}");
    assert_eq!(fs::read(&folder).unwrap(), b"no folder");
    assert_eq!(admit(&repo, 0).len(), 2);
}

/// What a difference builds on was pruned before the admission: one refusal is enough.
#[test]
fn a_difference_whose_base_was_pruned_is_brought_again_whole() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    fs::write(host.data().join("text"), lines(1, |_| false)).unwrap();
    // What stays as it is was brought with the first night, and has gone as well.
    fs::write(host.data().join("noise"), noise(3, 3_000_000)).unwrap();
    let first = packed(&host.backup());
    for night in 2..4 {
        admit(&repo, 0);
        fs::write(host.data().join("text"), lines(night, |number| number % 100 == 0)).unwrap();
        assert!(packed(&host.backup()) * 10 <= first);
    }
    for snapshot in repo.json(["snapshots"]).as_array().unwrap() {
        repo.ok(["forget", snapshot["id"].as_str().unwrap()]);
    }
    for _ in 0..2 {
        repo.ok(["prune", "--no-admit", "--max-unused", "0"]);
    }
    let done = admit(&repo, 3);
    assert_eq!(done[0]["outcome"], "refused", "{done:?}");
    let output = host.run();
    let report: Value = serde_json::from_str(expect(&output, 3).lines().last().unwrap()).unwrap();
    assert!(packed(&report) * 2 > first, "{} of {first}", packed(&report));
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    restored(&repo, "latest", &host);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn what_is_of_a_full_client_is_refused_beside_the_file_of_a_host() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    let (file, data) = (host.file(), host.data());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let base = ["backup", "--bundle", file, data];
    for more in [&["-p", "x"][..], &["--key-file", "x"], &["--no-admit"], &["--no-cache"]] {
        let output = host.command(&[&base[..], more].concat()).output().unwrap();
        expect(&output, 2);
        assert!(String::from_utf8_lossy(&output.stderr).contains(more[0]) || more.len() == 2);
    }
    // A variable is only not used; and nothing that is printed is an id of a snapshot.
    let output = host.command(&base).env("ESKER_PASSWORD", "x").output().unwrap();
    let stdout = expect(&output, 0);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("warning: ESKER_PASSWORD is not used"), "{told}");
    assert!(stdout.contains("run 1 is in the inbox") && !stdout.contains("snapshot"), "{stdout}");
    let report = host.backup();
    assert!(report["snapshot_id"].is_null() && report["run"] == 2, "{report}");
    // A place for a host is checked.
    repo.fails(2, ["host", "add", "web2", "--write-only", "--place", "ftp://there/x"]);
    repo.ok(["host", "add", "web2", "--write-only", "--place", "repository-elsewhere"]);
    let bundle = fs::read_to_string(repo.path("web2.esker-host")).unwrap();
    let absolute = repo.path("repository-elsewhere");
    assert!(bundle.contains(absolute.to_str().unwrap()), "the folder is absolute");
}

/// Otherwise a thief could say of a full client's file that it is unchanged, and bring another content for it.
#[test]
fn a_full_client_builds_on_nothing_that_a_host_brought() {
    let repo = Repo::new();
    let host = Host::add(&repo, "web1");
    host.backup();
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    let data = host.data();
    // The same path, by its name and as anybody's.
    for how in [&["--host", "web1"][..], &["--host", "other", "--group-by", "paths", "--tag", "anybody"]] {
        repo.ok([&["backup"], how, &[data.to_str().unwrap()]].concat());
        let all = repo.json(["snapshots"]);
        let last = all.as_array().unwrap().last().unwrap();
        let parent = all.as_array().unwrap().iter().find(|one| one["id"] == last["parent"]);
        assert!(parent.is_none_or(|parent| parent["signed"].is_null()), "{all}");
        assert_eq!(last["parent"].is_null(), how.len() == 2, "{all}");
    }
    // Its own record, which both wrote, is the second one's parent; the host goes on with its own.
    host.backup();
    assert_eq!(admit(&repo, 0)[0]["outcome"], "admitted");
    repo.ok(["backup", "--host", "web1", data.to_str().unwrap()]);
    let all = repo.json(["snapshots"]);
    let all = all.as_array().unwrap();
    assert_eq!(all.last().unwrap()["parent"], all[1]["id"], "{all:?}");
    assert!(!all[0]["signed"].is_null() && !all[3]["signed"].is_null(), "{all:?}");
}
