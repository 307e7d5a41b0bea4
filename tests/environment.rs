//! What stands around a run: a home that cannot be written, variables that are empty, the service manager.

use crate::harness::{Process, Repo, expect, noise, run, wait_for};
use crate::redis::{Redis, apt_redis};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn warned(output: &Output, times: usize) {
    expect(output, 0);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told.matches("cannot be written").count(), times, "{told}");
}

#[test]
fn a_cache_that_cannot_be_written_stops_nothing() {
    let repo = Repo::empty();
    std::fs::write(repo.path("data"), noise(1, 100_000)).unwrap();
    let file = repo.path("data");
    let nowhere = file.join("home");
    let with = |args: &[&str]| {
        let mut command = repo.command(args);
        command.env_remove("ESKER_CACHE_DIR").env("HOME", &nowhere);
        command.output().unwrap()
    };
    // Made whole, at once.
    warned(&with(&["init"]), 1);
    warned(&with(&["backup", "data"]), 1);
    let listed = with(&["snapshots"]);
    warned(&listed, 1);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("1 snapshots"));
    warned(&with(&["check", "--read-data"]), 1);
    warned(&with(&["restore", "latest", "--target", "out"]), 1);
    warned(&with(&["--no-cache", "snapshots"]), 0);
    // A folder that was named is warned of, too; under --json as JSON.
    let cache = nowhere.display().to_string();
    let output = repo.run(["--json", "--cache-dir", &cache, "snapshots"]);
    warned(&output, 1);
    let warning: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(warning["message_type"], "warning");
    // Something stands in the place of the repository's own folder.
    repo.ok(["backup", "data"]);
    let folders = repo.path("cache/repositories");
    for entry in std::fs::read_dir(&folders).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
            std::fs::write(&path, "").unwrap();
        }
    }
    expect(&repo.run(["snapshots"]), 0);
    expect(&repo.run(["backup", "--force", "data"]), 0);
    assert_eq!(repo.snapshot_count(), 3);
}

#[test]
fn an_empty_variable_is_unset() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    let empty = [
        "ESKER_CONFIG",
        "ESKER_REPOSITORY_FILE",
        "ESKER_PASSWORD_FILE",
        "ESKER_PASSWORD_COMMAND",
        "ESKER_KEY_FILE",
        "ESKER_FROM_KEY_FILE",
        "ESKER_KMS",
        "ESKER_FROM_KMS",
        "ESKER_KMS_CACHE",
        "ESKER_KMS_TOKEN_FILE",
        "ESKER_COMPRESSION",
        "ESKER_PACK_SIZE",
        "ESKER_NO_DELTA",
        "ESKER_DELTA",
        "ESKER_FROM_REPOSITORY",
        "ESKER_FROM_PASSWORD_FILE",
        "ESKER_PROGRESS_FPS",
        "ESKER_LOG",
        "ESKER_HOST",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
    ];
    let mut command = repo.command(["backup", "data"]);
    command.envs(empty.map(|name| (name, "")));
    expect(&command.output().unwrap(), 0);
    let mut command = repo.command(["snapshots"]);
    command.env("ESKER_CACHE_DIR", "");
    expect(&command.output().unwrap(), 0);
    let told = repo.with("ESKER_REPOSITORY", "").fails(1, ["snapshots"]);
    assert!(told.contains("which repository?"), "{told}");
}

#[test]
fn switches_by_variable() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    let with = |name: &str, value: &str, args: &[&str]| repo.command(args).env(name, value).output().unwrap();
    for value in ["1", "yes", "true", "on", "0", "no", "false", "off", "TRUE"] {
        expect(&with("ESKER_NO_DELTA", value, &["backup", "data"]), 0);
        // No other command minds it.
        expect(&with("ESKER_NO_DELTA", value, &["snapshots"]), 0);
    }
    expect(&with("ESKER_NO_DELTA", "0", &["backup", "--delta", "data"]), 0);
    for (name, value) in [
        ("ESKER_NO_DELTA", "maybe"),
        ("ESKER_DELTA", "2"),
        ("ESKER_PACK_SIZE", "big"),
        ("ESKER_COMPRESSION", "x"),
    ] {
        let output = with(name, value, &["backup", "data"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(name), "{told}");
    }
    let output = with("ESKER_PROGRESS_FPS", "fast", &["backup", "data"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ESKER_PROGRESS_FPS"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn bytes_that_are_no_utf8() {
    let repo = Repo::new();
    let latin = |text: &[u8]| OsStr::from_bytes(text).to_owned();
    let folder = repo.dir.path().join(latin(b"d\xe9j\xe0"));
    std::fs::create_dir_all(&folder).unwrap();
    for name in [&b"caf\xe9"[..], b"th\xe9", b"plain"] {
        std::fs::write(folder.join(latin(name)), name).unwrap();
    }
    // Another program's variable, a home and a password's file.
    let home = repo.dir.path().join(latin(b"h\xf6me"));
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("password"), "correct horse").unwrap();
    let run = |args: Vec<OsString>| {
        let mut command = repo.command(args);
        command
            .env("LATIN", latin(b"\xff"))
            .env("HOME", &home)
            .env("ESKER_PASSWORD_FILE", home.join("password"));
        command.env_remove("ESKER_CACHE_DIR");
        expect(&command.output().unwrap(), 0)
    };
    let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    let names = || {
        let listed = run(words("--json ls latest"));
        ["caf", "th", "plain"].map(|name| listed.contains(&format!("/{name}"))).to_vec()
    };
    run([words("backup"), vec![folder.clone().into()]].concat());
    assert_eq!(names(), [true, true, true]);
    assert!(home.join(".cache/esker").is_dir());
    run([words("restore latest --target"), vec![repo.dir.path().join(latin(b"\xe0ut")).into()]].concat());
    let restored = repo.dir.path().join(latin(b"\xe0ut")).join(folder.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(restored.join(latin(b"caf\xe9"))).unwrap(), b"caf\xe9");
}

const UNITS: &str = r#"
repository = "DIR/repo"
PASSWORD

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "30d"
tiers = ["primary"]

[[run]]
name = "nightly"
schedule = "30 1 * * *"

[[stream]]
name = "shop"
url = "REDIS"
interval = "400ms"
"#;

/// The settings of a unit file, by name, each with its values.
pub(crate) fn settings(unit: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(unit).unwrap();
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        all.entry(name.into()).or_default().push(value.into());
    }
    all
}

/// Words of a unit file: quoted or not, `%%` for `%`.
fn words(text: &str) -> Vec<String> {
    let mut all = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (word, left) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        all.push(word.replace("%%", "%"));
        rest = left.trim_start();
    }
    all
}

/// The command of a unit, in an empty environment with what the unit sets, in `/`.
pub(crate) fn command_of(unit: &Path) -> Command {
    let settings = settings(unit);
    let line = words(&settings["ExecStart"][0]);
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env_clear().current_dir("/").stdin(Stdio::null());
    for variable in settings.get("Environment").into_iter().flatten().flat_map(|value| words(value)) {
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value);
    }
    command
}

/// With a password's source, and made, if `password` is a line of esker.toml.
fn units(password: &str, redis: &str) -> Repo {
    let toml = UNITS.replace("PASSWORD", password).replace("REDIS", redis);
    let repo = Repo::with_tiers(&toml, &[], false);
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/file"), "content").unwrap();
    repo
}

fn generate(repo: &Repo) -> Output {
    repo.run([
        OsStr::new("generate"),
        OsStr::new("systemd"),
        repo.path("units").as_os_str(),
        OsStr::new("--environment-file"),
        repo.path("env").as_os_str(),
    ])
}

#[test]
fn units_run_in_an_empty_environment() {
    let scratch = Repo::empty();
    let redis = Redis::start(&apt_redis(), &scratch.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.fill(100);
    let repo = units("password_file = \"DIR/pw\"", &redis.url());
    repo.ok(["init"]);
    let told = expect(&generate(&repo), 0);
    assert!(told.contains("systemctl enable --now esker-nightly.timer esker-stream-shop.service"), "{told}");
    let service = repo.path("units/esker-nightly.service");
    let all = settings(&service);
    for name in ["User", "CacheDirectory", "NoNewPrivileges", "ProtectSystem", "OnFailure", "EnvironmentFile"]
    {
        assert!(all.contains_key(name), "{name}: {all:?}");
    }
    let whoami = run("id", &["-un"]);
    assert_eq!(all["User"], [whoami.trim()]);
    // Of the user database, whatever HOME says here.
    let entry = run("getent", &["passwd", whoami.trim()]);
    assert!(
        all["Environment"].contains(&format!("\"HOME={}\"", entry.split(':').nth(5).unwrap())),
        "{all:?}"
    );
    let mut command = command_of(&service);
    command.env("ESKER_CACHE_DIR", repo.path("service cache"));
    expect(&command.output().unwrap(), 0);
    assert_eq!(repo.snapshot_count(), 1);
    assert_eq!(settings(&repo.path("units/esker-nightly.timer"))["OnCalendar"], ["*-*-* 01:30:00"]);
    stream_of(&repo, &redis);
    if Command::new("systemd-analyze").arg("--version").output().is_ok() {
        for name in ["esker-nightly.service", "esker-nightly.timer", "esker-stream-shop.service"] {
            let mut command = Command::new("systemd-analyze");
            let output = command.args(["verify", name]).current_dir(repo.path("units")).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            let ours: Vec<&str> = told.lines().filter(|line| line.contains("esker")).collect();
            assert!(ours.is_empty(), "{told}");
        }
    }
}

/// Ready once attached, and ended with 0 by SIGTERM, with all that came.
fn stream_of(repo: &Repo, redis: &Redis) {
    let unit = repo.path("units/esker-stream-shop.service");
    assert_eq!(settings(&unit)["Type"], ["notify"]);
    assert_eq!(settings(&unit)["Restart"], ["always"]);
    let socket = UnixDatagram::bind(repo.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = command_of(&unit);
    command.env("NOTIFY_SOCKET", repo.path("notify")).env("ESKER_CACHE_DIR", repo.path("service cache"));
    let mut stream = Process::start(&mut command);
    let next = || {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    assert!(next().starts_with("READY=1"));
    redis.cli(&["SET", "last", "words"]);
    run("kill", &["-TERM", &stream.0.id().to_string()]);
    assert_eq!(stream.0.wait().unwrap().code(), Some(0));
    assert_eq!(next(), "STOPPING=1");
    let snapshots = repo.json(["snapshots"]);
    assert_eq!(snapshots.as_array().unwrap().iter().filter(|one| one["tags"][0] == "stream").count(), 1);
}

#[test]
fn units_need_a_source_of_the_password() {
    let repo = units("", "redis://127.0.0.1:1");
    let output = generate(&repo);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("password_file =") && told.contains(repo.path("env").to_str().unwrap()), "{told}");
    assert!(!repo.path("units").exists());
    // A file of variables is one, and is named in the units.
    std::fs::write(repo.path("env"), format!("ESKER_PASSWORD_FILE={}\n", repo.path("pw").display())).unwrap();
    expect(&generate(&repo), 0);
    let all = settings(&repo.path("units/esker-nightly.service"));
    assert_eq!(all["EnvironmentFile"], [format!("-{}", repo.path("env").display())]);
    // What is relative means something else for a service.
    let repo = units("password_file = \"pw\"", "redis://127.0.0.1:1");
    assert!(repo.fails(1, ["generate", "systemd", "units"]).contains("'pw'"));
    let repo = units("password_file = \"DIR/pw\"", "redis://127.0.0.1:1");
    assert!(
        repo.fails(1, ["generate", "systemd", "units", "--user", "nobody-of-that-name"])
            .contains("user database")
    );
    // Another user reads it by the service manager.
    repo.ok(["generate", "systemd", "units", "--user", "nobody"]);
    let all = settings(&repo.path("units/esker-nightly.service"));
    assert_eq!(all["LoadCredential"], [format!("esker-password:{}", repo.path("pw").display())]);
    assert_eq!(all["User"], ["nobody"]);
}

#[test]
fn schedules_are_checked() {
    let repo = units("password_file = \"DIR/pw\"", "redis://127.0.0.1:1").with("TZ", "America/New_York");
    let told = repo.ok(["config", "check"]);
    let line = told.lines().find(|line| line.starts_with("run 'nightly'")).unwrap();
    assert!(line.contains("*-*-* 01:30:00; next 20"), "{line}");
    assert_eq!(line.matches(" 01:30:00-0").count(), 3, "{line}");
    let value = repo.json(["config", "check"]);
    assert_eq!(value["schedules"][0]["next"].as_array().unwrap().len(), 3);
    let path = repo.path("esker.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for bad in ["every day at two", "61 2 * * *", "02:00\\nOnCalendar=*:*", "Mon..Foo 2:00"] {
        std::fs::write(&path, text.replace("30 1 * * *", bad)).unwrap();
        let output = repo.run(["config", "check"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{bad}: {told}");
        assert!(
            told.contains("schedule") && told.contains("'*-*-* 02:00'") && told.lines().count() == 1,
            "{told}"
        );
        let at = text.lines().position(|line| line.starts_with("schedule")).unwrap() + 1;
        assert!(told.contains(&format!("esker.toml:{at}:")), "{told}");
    }
}

#[test]
fn a_second_signal_ends_a_stream_at_once() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.fill(100);
    let mut command = repo.command(["--json", "stream", &redis.url(), "--interval", "500ms"]);
    let log = std::fs::File::create(repo.path("log")).unwrap();
    let mut stream = command.stdout(log).stderr(Stdio::null()).spawn().unwrap();
    let said = || std::fs::read_to_string(repo.path("log")).unwrap();
    wait_for("a base", 60, || said().contains("\"attached\":true"));
    let pid = stream.id().to_string();
    run("kill", &["-INT", &pid]);
    assert_eq!(stream.wait().unwrap().code(), Some(0));
    let last: serde_json::Value = serde_json::from_str(said().lines().last().unwrap()).unwrap();
    assert_eq!(last["message_type"], "summary");
    assert!(last["until"].is_string() && last["snapshot_id"].is_string(), "{last}");
    // One that has nothing yet was interrupted.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let mut command = repo.command(["stream", &url]);
    let mut stream = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (_held, _) = silent.accept().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let pid = stream.id().to_string();
    run("kill", &["-INT", &pid]);
    std::thread::sleep(Duration::from_millis(300));
    run("kill", &["-INT", &pid]);
    assert_eq!(stream.wait().unwrap().code(), Some(130));
}

/// What waits for ever ends by a signal, what has no end is refused, and a pipe is a file like others.
#[test]
fn small_files_that_are_no_files() {
    let repo = Repo::new();
    run("mkfifo", &[repo.path("fifo").to_str().unwrap()]);
    for line in [
        "-c fifo config check",
        "-p fifo snapshots",
        "--repository-file fifo snapshots",
        "--password-command 'sleep 60' snapshots",
        "backup --files-from fifo",
        "backup --exclude-file fifo password",
    ] {
        let args: Vec<String> = match line.split_once('\'') {
            Some((flag, rest)) => {
                let (value, rest) = rest.split_once('\'').unwrap();
                [flag.trim(), value, rest.trim()].map(str::to_owned).to_vec()
            }
            None => line.split(' ').map(str::to_owned).collect(),
        };
        let mut command = repo.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(child.try_wait().unwrap().is_none(), "{line} does not wait");
        run("kill", &["-TERM", &child.id().to_string()]);
        wait_for(line, 10, || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(130) && told.contains("interrupted"), "{line}: {told}");
    }
    std::fs::File::create(repo.path("large")).unwrap().set_len(1 << 40).unwrap();
    for line in ["-c large config check", "-p /dev/zero snapshots", "--repository-file /dev/zero snapshots"] {
        let told = repo.fails(1, line.split(' '));
        assert!(told.contains("bytes are not taken from there"), "{line}: {told}");
    }
    let mut command = Command::new("bash");
    let esker = crate::harness::esker_binary();
    command.args(["-c", "exec \"$0\" -r repo -p <(printf 'correct horse\\n') snapshots"]).arg(esker);
    command
        .current_dir(repo.dir.path())
        .env_remove("ESKER_PASSWORD")
        .env("ESKER_CACHE_DIR", repo.path("cache"));
    expect(&command.output().unwrap(), 0);
}

#[test]
fn no_pace_of_progress_is_a_panic() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), noise(1, 3_000_000)).unwrap();
    for fps in ["1e-300", "5e-324", "1e-20", "nan", "inf", "-1", "1e300"] {
        for words in [&["backup", "data"][..], &["--json", "backup", "data"]] {
            let output = repo.command(words).env("ESKER_PROGRESS_FPS", fps).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!told.contains("panicked") && !told.contains("internal error"), "{fps}: {told}");
            assert!(matches!(output.status.code(), Some(0..=2)), "{fps}: {output:?}");
        }
    }
}
