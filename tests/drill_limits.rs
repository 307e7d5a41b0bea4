//! The ends of drills: assertions that never end, daemons, signals, two drills at once, what a killed one left that cannot be seen.

use crate::harness::{Repo, expect, wait_for};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::redis::{Redis, apt_redis};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A folder, and further tables.
const FILES: &str = r#"
repository = "DIR/repo"

[[source]]
name = "files"
urls = ["DIR/data"]
"#;

/// A repository with the sources of `toml`, backed up; drills are below its folder, which servers of root's can reach.
pub(crate) fn backed_up(toml: &str) -> Repo {
    let repo = Repo::with_tiers(toml, &[], true);
    std::fs::set_permissions(repo.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = repo.path("drills").display().to_string();
    let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/noise"), "noise").unwrap();
    repo.ok(["run"]);
    repo
}

/// The failures of a drill of everything, which fails.
pub(crate) fn failures(command: &mut Command) -> Vec<String> {
    let said = expect(&command.output().unwrap(), 24);
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let drills = summary["drills"].as_array().unwrap().iter();
    let all = drills.flat_map(|one| one["failures"].as_array().unwrap());
    all.map(|failure| failure.as_str().unwrap().to_owned()).collect()
}

/// How many processes have a word on their command line.
fn with_word(word: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let said = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    said.filter(|line| line.split(|byte| *byte == 0).any(|one| one == word.as_bytes())).count()
}

fn is_bare(repo: &Repo) -> bool {
    std::fs::read_dir(repo.path("drills/esker-drills")).is_ok_and(|mut all| all.next().is_none())
}

/// A number that is on no other command line.
fn number() -> String {
    format!("{}.5", 100_000 + u32::from(crate::harness::free_port()))
}

const ENDLESS: &str = r#"
[[source]]
name = "cache"
urls = ["REDIS"]

[[source]]
name = "shop"
urls = ["POSTGRES"]

[[source]]
name = "books"
urls = ["MARIA"]

[[assertion]]
source = "files"
name = "endless"
command = ["sh", "-c", "sleep NUMBER & sleep NUMBER"]
timeout = "1s"

[[assertion]]
source = "files"
name = "long"
command = ["cat", "/dev/zero"]

[[assertion]]
source = "files"
name = "a byte too long"
command = ["sh", "-c", "head -c 4194304 /dev/zero | tr '\\0' ' '; echo"]
expect = "5"

[[assertion]]
source = "cache"
name = "waits"
redis = "BLPOP nothing 0"
expect = "1"
timeout = "1s"

[[assertion]]
source = "shop"
name = "sleeps"
sql = "SELECT pg_sleep(1000)"
expect = "1"
timeout = "1500ms"

[[assertion]]
source = "shop"
name = "goes on"
sql = "SELECT stubborn()"
expect = "1"
timeout = "1s"

[[assertion]]
source = "books"
name = "sleeps, too"
sql = "SELECT SLEEP(1000)"
expect = "0"
timeout = "1s"
"#;

/// A function that no time limit of the server's ends.
const STUBBORN: &str = "create function stubborn() returns int language plpgsql as \
    'begin loop begin perform pg_sleep(1000); exception when query_canceled then null; end; end loop; end'";

#[test]
fn what_has_no_end_is_ended_and_named() {
    let servers = Repo::empty();
    let redis = Redis::start(&apt_redis(), &servers.path("redis"), &[]);
    redis.cli(&["SET", "a", "1"]);
    let postgres = Postgres::start(&servers);
    postgres.sql("postgres", "create database shop");
    postgres.sql("shop", STUBBORN);
    let maria = Maria::start(&servers, "maria");
    maria.root("CREATE DATABASE books; CREATE TABLE books.one (id int)");
    let number = number();
    let toml = format!("{FILES}{ENDLESS}").replace("NUMBER", &number).replace("REDIS", &redis.url());
    let toml = toml.replace("MARIA", &maria.url());
    let repo = backed_up(&toml.replace("POSTGRES", &format!("{}/shop", postgres.url())));
    let began = Instant::now();
    let said = failures(&mut repo.command(["--json", "drill"]));
    let wanted = [
        "endless: expected done, found the command did not end within 1.0 s",
        "long: expected done, found the command printed more than 4 MiB",
        "a byte too long: expected 5, found the command printed more than 4 MiB",
        "waits: expected 1, found no answer within 1 s",
        "sleeps: expected 1, found no answer within 1.5 s",
        "goes on: expected 1, found no answer within 1 s",
        "sleeps, too: expected 0, found no answer within 1 s",
    ];
    assert_eq!(said, wanted);
    assert!(began.elapsed() < Duration::from_secs(120));
    assert!(with_word(&number) == 0 && is_bare(&repo));
    // A time that is none, or too long.
    let path = repo.path("esker.toml");
    let sound = std::fs::read_to_string(&path).unwrap();
    for (time, why) in
        [("0s", "nothing answers in no time"), ("2d", "a day at most"), ("soon", "a time such as")]
    {
        std::fs::write(&path, sound.replace("1500ms", time)).unwrap();
        let told = expect(&repo.run(["config", "check"]), 1);
        assert!(told.contains(why), "{time}: {told}");
    }
}

/// One that leaves its group, its session, the folder and its environment.
const DAEMON: &str = r#"
[[assertion]]
source = "files"
name = "daemon"
command = ["sh", "-c", "setsid sh -c 'cd /; exec env -i /bin/sleep NUMBER' >/dev/null 2>&1 & sleep 1"]
"#;

#[test]
fn a_daemon_ends_with_its_drill() {
    let number = number();
    let repo = backed_up(&format!("{FILES}{DAEMON}").replace("NUMBER", &number));
    repo.ok(["drill"]);
    assert_eq!(with_word(&number), 0);
    assert!(is_bare(&repo));
}

/// It waits until the test has seen that it is there.
const WAITS: &str = r#"
[[assertion]]
source = "files"
name = "waits"
command = ["sh", "-c", "touch DIR/begun; while ! test -e DIR/go; do sleep 0.1; done"]
"#;

fn waiting(repo: &Repo, command: &mut Command) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the assertion", 60, || repo.path("begun").exists());
    child
}

/// A command that is run by other words.
fn by(words: &[&str], command: &Command) -> Command {
    let mut by = Command::new(words[0]);
    by.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    by.env_clear().stdin(Stdio::null());
    by.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        by.current_dir(folder);
    }
    by
}

#[test]
fn a_terminal_that_goes_away_ends_a_drill_in_order() {
    let repo = backed_up(&format!("{FILES}{WAITS}"));
    let hang_up = |child: &Child| kill_process(Pid::from_child(child), Signal::HUP).unwrap();
    let mut child = waiting(&repo, &mut repo.command(["drill"]));
    hang_up(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(is_bare(&repo));
    // As nohup has it: it is ignored.
    std::fs::remove_file(repo.path("begun")).unwrap();
    let mut ignoring = by(&["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"], &repo.command(["drill"]));
    let mut child = waiting(&repo, &mut ignoring);
    hang_up(&child);
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(repo.path("go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(is_bare(&repo));
}

#[test]
fn two_drills_at_once_leave_each_other_alone() {
    let repo = backed_up(&format!("{FILES}{WAITS}"));
    let mut first = waiting(&repo, &mut repo.command(["drill"]));
    // While one is at work, others begin, all at once.
    let others: Vec<Child> = (0..3)
        .map(|_| {
            let mut command = repo.command(["drill"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    assert!(first.try_wait().unwrap().is_none());
    std::fs::write(repo.path("go"), "").unwrap();
    for mut one in others.into_iter().chain([first]) {
        assert_eq!(one.wait().unwrap().code(), Some(0));
    }
    assert!(is_bare(&repo));
}

/// Root without the right to look at other users' processes, as in some containers.
#[test]
fn what_cannot_be_looked_for_is_told() {
    if !geteuid().is_root() {
        println!("skipped: only root drills as another user");
        return;
    }
    let repo = backed_up(FILES);
    let blind = || by(&["setpriv", "--bounding-set", "-sys_ptrace"], &repo.command(["--json", "drill"]));
    expect(&blind().output().unwrap(), 0);
    std::fs::create_dir(repo.path("drills/esker-drills/00000000000000aa")).unwrap();
    let said = failures(&mut blind());
    assert!(
        said[0].contains("00000000000000aa is of a drill that was killed")
            && said[0].contains("CAP_SYS_PTRACE"),
        "{said:?}"
    );
    repo.ok(["drill"]);
    assert!(is_bare(&repo));
}
