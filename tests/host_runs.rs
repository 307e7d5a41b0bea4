//! The nights of a write-only host: its runs stand in esker.toml, and need no password.

use crate::environment::{command_of, settings};
use crate::harness::{Repo, esker_binary, expect, noise};
use crate::seaweed::Weed;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

const TOML: &str = r#"
bundle = "DIR/web1.esker-host"
cache_dir = "DIR/cache-host"

[[source]]
name = "files"
urls = ["DIR/data"]
tags = ["www"]
hooks = { after = "echo after ${ESKER_SNAPSHOT:-none} >> DIR/hooks" }

[[source]]
name = "words"
command = ["cat", "DIR/words"]
filename = "words.txt"

[[run]]
name = "nightly"
schedule = "*-*-* 02:00"
"#;

/// A command with what the host has: no password and no key.
fn host(repo: &Repo, args: &[&str]) -> Command {
    let mut command = Command::new(esker_binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC");
    command.env("HOME", repo.path("home")).env("ESKER_CONFIG", repo.path("host.toml"));
    command.args(args).current_dir(repo.dir.path()).stdin(Stdio::null());
    command
}

fn done(repo: &Repo, args: &[&str]) -> Output {
    host(repo, args).output().unwrap()
}

fn report(output: &Output, code: i32) -> Value {
    serde_json::from_str(expect(output, code).lines().last().unwrap()).unwrap()
}

/// A host, its esker.toml and its data.
fn prepare(repo: &Repo, toml: &str) {
    repo.ok(["host", "add", "web1", "--write-only"]);
    fs::write(repo.path("host.toml"), toml.replace("DIR", &repo.dir.path().display().to_string())).unwrap();
    fs::create_dir(repo.path("data")).unwrap();
    fs::create_dir(repo.path("home")).unwrap();
    fs::write(repo.path("data/noise"), noise(1, 400_000)).unwrap();
    fs::write(repo.path("words"), "some words\n").unwrap();
}

#[test]
fn a_host_runs_by_its_esker_toml_without_a_password() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    let checked = expect(&done(&repo, &["config", "check"]), 0);
    assert!(checked.contains("backs up as a write-only host, with") && checked.contains("web1.esker-host"));
    let first = report(&done(&repo, &["--json", "run", "nightly"]), 0);
    for (number, name) in ["files", "words"].iter().enumerate() {
        let source = &first["sources"][number];
        assert_eq!((&source["name"], &source["ok"]), (&json!(name), &json!(true)), "{first}");
        assert_eq!((&source["pending"], &source["run"]), (&json!(true), &json!(number + 1)), "{first}");
    }
    assert_eq!((&first["runs_pending"], &first["answered"]), (&json!(2), &json!([])), "{first}");
    assert_eq!(fs::read_to_string(repo.path("hooks")).unwrap(), "after none\n", "there is no snapshot yet");
    assert_eq!(repo.snapshot_count(), 0);
    let admitted = repo.json(["host", "admit"]);
    assert_eq!(admitted["runs"].as_array().unwrap().len(), 2, "{admitted}");
    let listed = repo.json(["snapshots"]);
    for snapshot in listed.as_array().unwrap() {
        assert_eq!((&snapshot["hostname"], &snapshot["made_by"]), (&json!("web1"), &json!("run:nightly")));
    }
    assert_eq!(listed[0]["tags"], json!(["www"]));
    assert_eq!(repo.ok(["dump", "latest", "words.txt"]), "some words\n");

    // The next night takes the answers; a source that fails does not keep the others from being brought.
    fs::remove_file(repo.path("words")).unwrap();
    fs::write(repo.path("data/noise"), noise(2, 400_000)).unwrap();
    let second = report(&done(&repo, &["--json", "run"]), 3);
    let answers = json!([{"run": 1, "outcome": "admitted"}, {"run": 2, "outcome": "admitted"}]);
    assert_eq!(second["answered"], answers, "{second}");
    assert_eq!(
        (&second["sources"][0]["pending"], &second["sources"][1]["ok"]),
        (&json!(true), &json!(false))
    );
    // One that was lost on its way is told by the exit code.
    let id = repo.json(["host", "list"])[0]["host_id"].as_str().unwrap().to_owned();
    fs::remove_dir_all(repo.folder().join("inbox").join(&id).join("00000000000000000003")).unwrap();
    fs::write(repo.path("words"), "other words\n").unwrap();
    expect(&done(&repo, &["run", "words"]), 0);
    repo.run(["host", "admit"]);
    let output = done(&repo, &["run", "files"]);
    let told = expect(&output, 3);
    assert!(told.contains("source 'files': run") && told.contains("is pending"), "{told}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("was refused"), "{output:?}");
    repo.ok(["host", "admit"]);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn esker_toml_of_a_host_is_for_backups_alone() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    let backup = report(&done(&repo, &["--json", "backup", "data"]), 0);
    assert_eq!((&backup["pending"], &backup["run"]), (&json!(true), &json!(1)), "{backup}");
    for flags in [&["--time", "2020-01-01"][..], &["--parent", "latest"], &["--delta"]] {
        let output = done(&repo, &[&["backup", "data"][..], flags].concat());
        expect(&output, 2);
        assert!(String::from_utf8_lossy(&output.stderr).contains("not for a write-only host"), "{output:?}");
    }
    expect(&done(&repo, &["run", "--accept-clock"]), 2);
    for words in
        [&["snapshots"][..], &["prune"], &["forget", "--keep-last", "1"], &["tier", "status"], &["init"]]
    {
        let output = done(&repo, words);
        assert_ne!(output.status.code(), Some(0), "{words:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("no password:"), "{words:?} asks for a password: {told}");
    }
    let output = done(&repo, &["snapshots"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is a write-only host, by"), "{output:?}");
    // Whoever names a password is a full client, of the same place.
    fs::write(repo.path("password"), "correct horse\n").unwrap();
    expect(&done(&repo, &["-p", "password", "host", "admit"]), 0);
    let listed = expect(&done(&repo, &["-p", "password", "--json", "snapshots"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap().as_array().unwrap().len(), 1);
    let own = report(&done(&repo, &["-p", "password", "--json", "backup", "data"]), 0);
    assert!(own["snapshot_id"].is_string() && own["pending"].is_null(), "{own}");

    // What was not written for a host is not followed as one.
    let toml = TOML.replace("cache_dir", "repository_id = \"00000000\"\ncache_dir");
    fs::write(repo.path("host.toml"), toml.replace("DIR", &repo.dir.path().display().to_string())).unwrap();
    let output = done(&repo, &["run"]);
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is of another repository"), "{output:?}");
    let promise = "\n[[promise]]\nkeep = \"1y\"\ntiers = [\"primary\"]\n";
    let toml = TOML.replace("bundle =", "repository = \"DIR/repo\"\npassword_file =") + promise;
    fs::write(repo.path("host.toml"), toml.replace("DIR", &repo.dir.path().display().to_string())).unwrap();
    let output = host(&repo, &["run"]).env("ESKER_BUNDLE", repo.path("web1.esker-host")).output().unwrap();
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("esker.toml of a full client"), "{output:?}");
}

/// What is of a full client is refused in words that say so, and another way to the place is one for all commands of a host.
#[test]
fn a_host_says_what_it_is_and_takes_another_way_to_its_place() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    for words in [&["tier", "status"][..], &["tier", "sync"], &["tier", "adopt", "x"]] {
        let output = done(&repo, words);
        expect(&output, 1);
        assert!(String::from_utf8_lossy(&output.stderr).contains("is a write-only host, by"), "{output:?}");
    }
    expect(&done(&repo, &["run", "nightly"]), 0);
    std::os::unix::fs::symlink(repo.folder(), repo.path("other-way")).unwrap();
    let again = report(&done(&repo, &["--json", "-r", "other-way", "run", "nightly"]), 0);
    assert_eq!(again["runs_pending"], 4, "with the same book: {again}");
    let backup = report(&done(&repo, &["--json", "-r", "other-way", "backup", "data"]), 0);
    assert_eq!(backup["run"], 5, "{backup}");
    expect(&done(&repo, &["-r", "data", "run"]), 10);
    for words in [&["-r", "web1.esker-host", "run"][..], &["-r", "web1.esker-host", "backup", "data"]] {
        let output = done(&repo, words);
        expect(&output, 10);
        assert!(String::from_utf8_lossy(&output.stderr).contains("--bundle"), "{output:?}");
    }
    expect(&repo.run(["-r", "web1.esker-host", "snapshots"]), 10);
}

/// Any other file in its place is found before a night fails. One that is not here may be there.
#[test]
fn a_file_that_is_no_hosts_is_no_bundle() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    assert!(expect(&done(&repo, &["config", "check"]), 0).contains("is sound"));
    fs::rename(repo.path("web1.esker-host"), repo.path("away")).unwrap();
    let output = done(&repo, &["config", "check"]);
    assert!(expect(&output, 0).contains("is sound"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("web1.esker-host"), "{output:?}");
    for other in ["correct horse\n", "", "{}"] {
        fs::write(repo.path("web1.esker-host"), other).unwrap();
        let output = done(&repo, &["config", "check"]);
        assert!(!expect(&output, 1).contains("is sound"), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("web1.esker-host"), "{output:?}");
    }
}

/// The file of a host, and a key file alike.
#[test]
fn keys_that_others_can_read_are_told_once_with_the_command_that_ends_it() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    repo.ok(["key", "add", "--new-key-file", "k"]);
    let warnings = |output: &Output, file: &str| {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let end = format!("chmod go= {}", repo.path(file).canonicalize().unwrap().display());
        told.lines().filter(|line| line.contains("can be read by other users") && line.contains(&end)).count()
    };
    for (file, words) in
        [("web1.esker-host", &["run", "files"][..]), ("k", &["snapshots", "--key-file", "k"])]
    {
        let output = done(&repo, words);
        expect(&output, 0);
        assert_eq!(warnings(&output, file), 0, "{output:?}");
        fs::set_permissions(repo.path(file), fs::Permissions::from_mode(0o644)).unwrap();
        let output = done(&repo, words);
        expect(&output, 0);
        assert_eq!(warnings(&output, file), 1, "{output:?}");
    }
}

#[test]
fn a_dry_run_says_what_a_real_one_admits_first() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    for words in [&["prune", "-n"][..], &["backup", "-n", "data"]] {
        assert!(!repo.ok(words).contains("a real run first admits"));
        let report = repo.json(words);
        assert_eq!((&report["runs_to_admit"], &report["hosts_to_admit"]), (&json!(0), &json!(0)), "{report}");
    }
    expect(&done(&repo, &["run"]), 0);
    for words in [&["prune", "-n"][..], &["backup", "-n", "data"]] {
        let told = repo.ok(words);
        assert!(told.contains("a real run first admits 2 runs of 1 host, "), "{told}");
        let report = repo.json(words);
        assert_eq!((&report["runs_to_admit"], &report["hosts_to_admit"]), (&json!(2), &json!(1)), "{report}");
        assert!(!repo.ok([words, &["--no-admit"]].concat()).contains("a real run first admits"));
    }
    assert!(repo.ok(["forget", "--keep-last", "9", "--prune", "-n"]).contains("first admits 2 runs"));
    assert_eq!(repo.json(["host", "list"])[0]["pending"], 2, "nothing was admitted");
    // By a run of a full client, and by what prunes.
    let toml = "repository = \"DIR/repo\"\n[[source]]\nname = \"own\"\nurls = [\"DIR/data\"]\n";
    fs::write(repo.path("full.toml"), toml.replace("DIR", &repo.dir.path().display().to_string())).unwrap();
    let full = |words: &[&str]| {
        let mut command = repo.command([&["-c", "full.toml"][..], words].concat());
        expect(&command.env_remove("ESKER_REPOSITORY").output().unwrap(), 0)
    };
    full(&["run", "--no-admit"]);
    assert_eq!(repo.snapshot_count(), 1);
    full(&["run"]);
    assert_eq!(repo.snapshot_count(), 4);
    expect(&done(&repo, &["run"]), 0);
    repo.ok(["forget", "--keep-last", "9", "--prune"]);
    assert_eq!(repo.snapshot_count(), 6);
    fs::write(repo.path("data/noise"), noise(3, 500_000)).unwrap();
    expect(&done(&repo, &["run"]), 0);
    // And what a revoked host left.
    repo.ok(["host", "revoke", "web1"]);
    let report = repo.json(["prune", "-n"]);
    assert_eq!(report["runs_to_admit"], json!(0));
    let left = report["revoked_objects"].as_u64().unwrap();
    assert!(left >= 4 && report["revoked_bytes"].as_u64().unwrap() > 400_000, "{report}");
    assert!(repo.ok(["prune", "-n"]).contains(&format!("would remove {left} objects with")));
    assert_eq!(repo.json(["prune"])["revoked_objects"], json!(left));
    assert_eq!(repo.json(["prune"])["revoked_objects"], json!(0));
}

#[test]
fn a_lost_head_loses_the_list_of_hosts_and_says_so() {
    let repo = Repo::new();
    prepare(&repo, TOML);
    expect(&done(&repo, &["run"]), 0);
    repo.ok(["host", "admit"]);
    // A copy of HEAD has it.
    fs::remove_file(repo.folder().join("HEAD")).unwrap();
    let report = repo.json(["repair", "head", "--dry-run"]);
    assert_eq!((&report["hosts"], &report["hosts_lost"]), (&json!(1), &json!(false)), "{report}");
    let told = repo.ok(["repair", "head"]);
    assert!(told.contains("1 write-only hosts are listed as the last HEAD that is known has them"), "{told}");
    expect(&done(&repo, &["run", "words"]), 0);
    assert_eq!(repo.json(["host", "admit"])["runs"][0]["outcome"], "admitted");
    // Without any, nobody knows how many there were.
    expect(&done(&repo, &["run", "words"]), 0);
    for copy in ["", "copies/1/", "copies/2/"] {
        fs::remove_file(repo.folder().join(format!("{copy}HEAD"))).unwrap();
    }
    fs::remove_dir_all(repo.path("cache")).unwrap();
    let told = repo.ok(["repair", "head"]);
    assert!(told.contains("how many there were is not known: 1 have something in inbox/"), "{told}");
    assert!(told.contains("'esker host add NAME --write-only' adds each again"), "{told}");
    assert_eq!(repo.json(["host", "list"]), json!([]));
    assert_eq!(repo.json(["host", "admit"])["runs"], json!([]));
    assert_eq!(repo.snapshot_count(), 3);
    // Added again, it goes on with a book of its own making.
    fs::remove_file(repo.path("web1.esker-host")).unwrap();
    repo.ok(["host", "add", "web1", "--write-only"]);
    let night = report_of(&repo);
    assert_eq!((&night["runs_pending"], &night["answered"]), (&json!(2), &json!([])), "{night}");
    let runs = repo.json(["host", "admit"])["runs"].clone();
    assert!(runs.as_array().unwrap().iter().all(|run| run["outcome"] == "admitted"), "{runs}");
    assert_eq!(repo.snapshot_count(), 5);
}

fn report_of(repo: &Repo) -> Value {
    report(&done(repo, &["--json", "run"]), 0)
}

#[test]
fn units_of_a_host_need_no_password() {
    let repo = Repo::new();
    prepare(&repo, &TOML.replace("cache_dir = \"DIR/cache-host\"\n", ""));
    expect(&done(&repo, &["generate", "systemd", "units"]), 0);
    let unit = repo.path("units/esker-nightly.service");
    let folder = repo.folder().display().to_string();
    assert!(settings(&unit)["ReadWritePaths"].contains(&format!("\"-{folder}\"")), "{:?}", settings(&unit));
    let output = command_of(&unit).env("ESKER_CACHE_DIR", repo.path("service cache")).output().unwrap();
    expect(&output, 0);
    assert_eq!(repo.json(["host", "list"])[0]["pending"], 2);
    // Of another user, the service manager reads the file.
    expect(&done(&repo, &["generate", "systemd", "units", "--user", "nobody"]), 0);
    let all = settings(&unit);
    let file = repo.path("web1.esker-host");
    assert_eq!(all["LoadCredential"], [format!("esker-bundle:{}", file.display())]);
    assert!(all["Environment"].contains(&"\"ESKER_BUNDLE=%d/esker-bundle\"".to_owned()), "{all:?}");
}

#[test]
fn a_host_runs_at_an_object_store_with_the_rights_of_two_prefixes() {
    let mut weed = Weed::start();
    let first = weed.repo("nights");
    let keys = ("AKHOST", "SKHOST");
    prepare(&first, TOML);
    let id = first.json(["host", "list"])[0]["host_id"].as_str().unwrap().to_owned();
    let (inbox, replies) = (format!("bk1/nights/inbox/{id}/*"), format!("bk1/nights/replies/{id}/*"));
    weed.restart_with(
        keys,
        &[format!("Write:{inbox}"), format!("Read:{replies}"), format!("List:{replies}")],
    );
    let admin = Repo::again(&first, format!("s3:http://127.0.0.1:{}/bk1/nights", weed.port()));
    // Here the place is another one than in the host's file, and the configuration says so.
    let tier = format!(
        "\n[[tier]]\nname = \"s3\"\nurl = \"s3://bk1/nights\"\nrole = \"primary\"\nretries = 2\n\
         endpoint = \"http://127.0.0.1:{}\"\n",
        weed.port()
    );
    let toml = TOML.replace("DIR", &first.dir.path().display().to_string()) + &tier;
    fs::write(first.path("host.toml"), toml).unwrap();
    let night = || {
        let mut command = host(&first, &["--json", "run", "nightly"]);
        command.env("AWS_ACCESS_KEY_ID", keys.0).env("AWS_SECRET_ACCESS_KEY", keys.1);
        report(&command.output().unwrap(), 0)
    };
    assert_eq!(night()["runs_pending"], 2);
    assert_eq!(admin.json(["host", "admit"])["runs"].as_array().unwrap().len(), 2);
    assert_eq!(night()["answered"].as_array().unwrap().len(), 2);
    admin.ok(["host", "admit"]);
    assert_eq!(admin.snapshot_count(), 4);
    admin.ok(["check", "--read-data"]);
}
