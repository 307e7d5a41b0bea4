//! One esker.toml: `esker run` backs up, copies, forgets and reports.

use crate::glacier::Glacier;
use crate::harness::{Repo, expect, noise};
use crate::pg::Postgres;
use crate::redis::Redis;
use crate::seaweed::Weed;
use serde_json::Value;

const TOML: &str = r#"
parallel = 3
password_command = "echo correct horse"
timezone = "UTC"

[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "s3"
url = "s3://bk1/run"
endpoint = "http://127.0.0.1:S3PORT"
retries = 2

[[tier]]
name = "glacier"
url = "s3://cold/run"
endpoint = "http://127.0.0.1:COLDPORT"
role = "vault"
class = "DEEP_ARCHIVE"
retries = 2

[[source]]
name = "redis"
urls = ["REDIS"]
tags = ["database"]
hooks = { before = "echo before >> DIR/hooks", after = "echo after $ESKER_SNAPSHOT >> DIR/hooks", failed = "echo failed >> DIR/hooks" }

[[source]]
name = "postgres"
urls = ["POSTGRES"]
tags = ["database"]

[[source]]
name = "files"
urls = ["DIR/data"]

[[promise]]
select = { tag = "database", class = "hourly" }
keep = "7d"
tiers = ["local"]

[[promise]]
select = { class = "daily" }
keep = "30d"
tiers = ["local", "s3"]

[[promise]]
select = { class = "monthly" }
keep = "1y"
tiers = ["glacier"]

[[run]]
name = "nightly"
schedule = "*-*-* 02:00"
"#;

#[test]
fn a_night_of_three_sources_and_three_tiers() {
    let (weed, glacier) = (Weed::start(), Glacier::start(1.0, 60.0));
    let servers = Repo::empty();
    let redis = Redis::start("redis-server".as_ref(), &servers.path("redis"), &[]);
    redis.fill(2000);
    let postgres = Postgres::start(&servers);
    postgres
        .sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i");
    let toml = TOML
        .replace("S3PORT", &weed.port().to_string())
        .replace("COLDPORT", &glacier.port.to_string())
        .replace("REDIS", &redis.url())
        .replace("POSTGRES", &postgres.url());
    let credentials =
        [("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST"), ("AWS_REGION", "us-east-1")];
    let repo = Repo::with_tiers(&toml, &credentials, true);
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/file"), noise(1, 1_000_000)).unwrap();
    repo.ok(["config", "check"]);
    let shown = repo.ok(["config", "check"]);
    assert!(!shown.contains("sesame"), "a password is nobody's to read: {shown}");

    let report = repo.json(["run", "nightly"]);
    let sources = |report: &Value| -> Vec<(String, bool)> {
        let all = report["sources"].as_array().unwrap();
        all.iter().map(|one| (one["name"].as_str().unwrap().into(), one["ok"].as_bool().unwrap())).collect()
    };
    let all = ["redis", "postgres", "files"];
    assert_eq!(sources(&report), all.map(|name| (name.to_owned(), true)), "{report}");
    assert_eq!(report["promises_behind"].as_array().unwrap().len(), 0, "{report}");
    let status = repo.json(["tier", "status"]);
    let snapshots: Vec<u64> =
        status["tiers"].as_array().unwrap().iter().map(|tier| tier["snapshots"].as_u64().unwrap()).collect();
    assert_eq!(snapshots, [3, 3, 3], "the first of a day is the first of its month: {status}");
    let hooks = std::fs::read_to_string(repo.path("hooks")).unwrap();
    assert!(hooks.starts_with("before\nafter ") && !hooks.contains("failed"), "{hooks}");

    // One source is down: the others are done, and it is said what that means.
    drop(redis);
    std::fs::write(repo.path("data/file"), noise(2, 1_000_000)).unwrap();
    let output = repo.command(["--json", "run", "nightly"]).output().unwrap();
    let report: Value = serde_json::from_str(expect(&output, 3).lines().last().unwrap()).unwrap();
    assert_eq!(sources(&report)[0], ("redis".into(), false), "{report}");
    assert!(sources(&report)[1].1 && sources(&report)[2].1);
    let behind = report["promises_behind"].to_string();
    assert!(behind.contains("hourly tag=database on local (source 'redis' failed)"), "{behind}");
    assert!(std::fs::read_to_string(repo.path("hooks")).unwrap().ends_with("failed\n"));
    let text = expect(&repo.run(["run", "redis"]), 1);
    assert!(text.contains("source 'redis': FAILED"), "{text}");
    let unknown = repo.fails(1, ["run", "weekly"]);
    assert!(unknown.contains("there is no run or source 'weekly'"), "{unknown}");

    // A second run of the same name leaves, or waits.
    let slow = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
    let slow = slow.replace(
        "name = \"files\"\n",
        "name = \"files\"\nhooks = { before = \"touch started; while [ ! -e go ]; do sleep 0.05; done\" }\n",
    );
    std::fs::write(repo.path("esker.toml"), slow).unwrap();
    let mut first = repo.command(["-q", "run", "files"]).spawn().unwrap();
    crate::harness::wait_for("the first run", 30, || repo.path("started").exists());
    repo.fails(11, ["run", "files"]);
    let mut waiting = repo.command(["-q", "run", "files", "--if-running", "wait"]).spawn().unwrap();
    std::fs::write(repo.path("go"), "").unwrap();
    assert!(first.wait().unwrap().success() && waiting.wait().unwrap().success());

    repo.ok(["generate", "systemd", repo.path("units").to_str().unwrap()]);
    let unit = std::fs::read_to_string(repo.path("units/esker-nightly.service")).unwrap();
    assert!(unit.contains("run nightly"), "{unit}");
    let timer = std::fs::read_to_string(repo.path("units/esker-nightly.timer")).unwrap();
    assert!(timer.contains("OnCalendar=*-*-* 02:00"), "{timer}");
}

/// Other keys, other chunks, the same content.
#[test]
fn snapshots_are_copied_to_another_repository() {
    let (from, to) = (Repo::new(), Repo::made(&["--chunk-size", "64k"]));
    let tree = from.path("tree");
    std::fs::create_dir(&tree).unwrap();
    crate::trees::odd_tree(&tree);
    from.ok(["backup", "--tag", "kept", tree.to_str().unwrap()]);
    expect(&from.feed(["backup", "--stdin"], &noise(3, 20_000_000)), 0);
    std::fs::write(to.path("password"), "correct horse\n").unwrap();
    let copy = ["copy", "--from-repo", from.folder().to_str().unwrap(), "--from-password-file", "password"];
    assert_eq!(to.json(copy)["copied"], 2);
    let again = to.json(copy);
    assert_eq!((again["copied"].as_u64(), again["skipped"].as_u64()), (Some(0), Some(2)));
    let (a, b) = (from.json(["snapshots"]), to.json(["snapshots"]));
    for key in ["time", "paths", "hostname", "tags"] {
        assert_eq!(a[0][key], b[0][key], "{key}");
    }
    assert!(to.run(["dump", "latest", "stdin"]).stdout == noise(3, 20_000_000));
    to.ok(["restore", "latest", "--tag", "kept", "--target", "out"]);
    let restored = to.path("out").join(tree.strip_prefix("/").unwrap());
    crate::trees::similar(&crate::trees::describe(&tree), &crate::trees::describe(&restored));
    to.ok(["check", "--read-data"]);
    let same = from.fails(1, ["copy", "--from-repo", from.folder().to_str().unwrap()]);
    assert!(same.contains("copies of one repository"), "{same}");
}

/// Whether changed chunks are stored as differences, `esker run` takes from esker.toml as `backup` does.
#[test]
fn delta_of_esker_toml_holds_for_runs() {
    let repo = Repo::new();
    let mut table = crate::nights::Table::new(40_000);
    let mut night = |line: &str| {
        std::fs::write(repo.path("dump"), table.dump()).unwrap();
        table.next_night();
        let (place, dump) = (repo.folder().display(), repo.path("dump"));
        let toml = format!(
            "{line}\nrepository = \"{place}\"\n[[source]]\nname = \"dump\"\ncommand = [\"cat\", \"{}\"]\nfilename = \"dump.sql\"\n",
            dump.display()
        );
        std::fs::write(repo.path("delta.toml"), toml).unwrap();
        let mut command = repo.command(["-c", "delta.toml", "run"]);
        crate::harness::expect(&command.env_remove("ESKER_REPOSITORY").output().unwrap(), 0);
        repo.json(["snapshots", "latest"])[0]["summary"]["delta_blobs"].as_u64().unwrap()
    };
    night("");
    assert_eq!(night("delta = false"), 0);
    assert!(night("") > 0);
}

/// So does `esker stream`, whose bases would else be differences to the ones before.
#[test]
fn delta_of_esker_toml_holds_for_streams() {
    for (line, is_delta) in [("delta = false\n", false), ("", true)] {
        let repo = Repo::new();
        let redis = crate::redis::Redis::start(&crate::redis::apt_redis(), &repo.path("redis"), &[]);
        // Of 40,000 values that do not compress, one in a hundred changes.
        let write = |every: u32, night: u32| {
            let value = format!("redis.sha1hex(n .. ':' .. {night})");
            let script = format!("for n = 1, 40000, {every} do redis.call('SET', 'key:' .. n, {value}) end");
            redis.cli(&["EVAL", &script, "0"]);
        };
        write(1, 0);
        let toml = format!("{line}repository = \"{}\"\n", repo.folder().display());
        std::fs::write(repo.path("delta.toml"), toml).unwrap();
        let log = std::fs::File::create(repo.path("log")).unwrap();
        let args = ["-c", "delta.toml", "stream", &redis.url(), "--interval", "1s", "--base-every", "5s"];
        let mut command = repo.command(args);
        command
            .env_remove("ESKER_REPOSITORY")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(std::process::Stdio::null());
        let mut stream = crate::harness::Process(command.spawn().unwrap());
        crate::harness::wait_for("a base", 60, || repo.snapshot_count() == 1);
        write(100, 1);
        crate::harness::wait_for("a second base", 60, || repo.snapshot_count() >= 2);
        crate::harness::run("kill", &["-INT", &stream.0.id().to_string()]);
        assert!(stream.0.wait().unwrap().success());
        let chunks = repo.json(["stats"])["delta_blob_count"].as_u64().unwrap();
        assert_eq!(chunks > 0, is_delta, "{line:?}: {chunks} differences");
    }
}
