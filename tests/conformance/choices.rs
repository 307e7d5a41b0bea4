//! The table of commands, choices and connectors: what a connector declares is honoured, which the named test shows, and
//! everything else is refused before a server is asked.

use super::repo;
use crate::harness::{Repo, expect, source_root, wait_for};
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Stdio;

/// Command, choice, connector, and the test that shows what the choice does. `*` is each connector that declares it, and
/// such a test is one of the suite: it runs for each system.
const SHOWN: &[(&str, &str, &str, &str)] = &[
    ("restore", "dry-run", "*", "conformance::into_a_server"),
    ("restore", "replace", "*", "conformance::into_a_server"),
    ("restore", "wait-thaw", "*", "conformance::frozen::what_is_frozen"),
    ("restore", "time", "redis", "journal::any_second_comes_back"),
    ("restore", "include", "redis", "keys::chosen_keys_go_into_a_live_server"),
    ("restore", "db", "redis", "keys::chosen_keys_go_into_a_live_server"),
    ("restore", "keys-from", "redis", "keys::chosen_keys_go_into_a_live_server"),
    ("restore", "map-prefix", "redis", "keys::chosen_keys_go_into_a_live_server"),
    ("restore", "skip-existing", "redis", "keys::chosen_keys_go_into_a_live_server"),
    ("restore", "whole", "redis", "keys::a_whole_server_there_and_back"),
    ("restore", "base-only", "redis", "keys::append_only_files_in_both_layouts"),
    ("restore", "no-safety-snapshot", "redis", "conformance::choices::a_whole_redis"),
    ("restore", "unproven", "redis", "conformance::choices::a_whole_redis"),
    ("restore", "yes", "redis", "conformance::choices::a_whole_redis"),
    ("restore", "include", "qdrant", "qdrant_restore::names_are_looked_at_before_anything_is_done"),
    ("restore", "exclude", "qdrant", "qdrant_cluster::shards_of_keys_come_back_by_their_keys"),
    ("restore", "rename", "qdrant", "qdrant_restore::a_neighbour_is_left_alone_and_so_are_aliases"),
    ("restore", "priority", "qdrant", "conformance::choices::whose_points_count"),
    ("restore", "allow-missing-shards", "qdrant", "qdrant_cluster::a_part_of_a_cluster_is_called_a_part"),
    ("restore", "no-owner", "postgres", "pg_rights::without_owners_nothing_opens"),
    ("restore", "database", "postgres", "postgres::a_cluster_comes_back_into_an_empty_one"),
    ("restore", "table", "postgres", "postgres::single_tables_come_back_with_what_is_theirs"),
    ("restore", "tablespace-map", "postgres", "pgr_needs::tablespaces_that_cannot_be_made_are_found_first"),
    ("restore", "no-tablespaces", "postgres", "pgr_needs::tablespaces_that_cannot_be_made_are_found_first"),
    ("restore", "jobs", "postgres", "pg_jobs::everything_comes_back_by_however_many_sessions"),
    ("restore", "as-owner", "postgres", "pg_as_owner::what_users_wrote_runs_with_their_own_rights"),
    ("restore", "time", "mysql", "mariadb::the_binary_log_brings_any_second_back"),
    ("restore", "database", "mysql", "mariadb::databases_and_tables_come_back"),
    ("restore", "table", "mysql", "mariadb::databases_and_tables_come_back"),
    ("restore", "no-tablespaces", "mysql", "maria_replace::one_table_that_is_refused_costs_itself"),
    ("restore", "keep-going", "mysql", "maria_replace::one_table_that_is_refused_costs_itself"),
    (
        "restore",
        "base-only",
        "mysql",
        "maria_outside::a_database_that_only_the_target_has_is_not_changed_by_a_log",
    ),
    ("restore --prepare", "time", "postgres", "physical::any_moment_comes_back"),
    (
        "restore --prepare",
        "dry-run",
        "postgres",
        "physical_over::what_differs_is_written_and_what_is_surplus_goes",
    ),
    (
        "restore --prepare",
        "replace",
        "postgres",
        "physical_over::what_differs_is_written_and_what_is_surplus_goes",
    ),
    ("restore --prepare", "standby", "postgres", "physical_over::a_standby_follows_its_primary"),
    ("restore --prepare", "wait-thaw", "postgres", "conformance::frozen::what_is_frozen"),
    ("stream", "slot", "postgres", "conformance::choices::a_slot_by_its_name"),
    ("stream", "drop-slot", "postgres", "conformance::choices::a_slot_by_its_name"),
    ("backup", "incremental", "postgres", "physical::incremental_backups_are_put_together"),
    ("backup", "-o redis.order", "redis", "keys::a_dump_in_the_order_it_came_gives_single_keys_too"),
    (
        "backup",
        "-o redis.replicate-from",
        "redis",
        "redis_replication::where_it_cannot_be_a_replica_it_gets_its_keys_one_by_one",
    ),
    ("backup", "-o postgres.format", "postgres", "pg_parts::what_cannot_be_read_is_left_out_by_name"),
    ("backup", "-o postgres.jobs", "postgres", "pg_parts::no_more_is_taken_than_the_server_has_to_spare"),
    ("backup", "-o postgres.at-once", "postgres", "pg_parts::no_more_is_taken_than_the_server_has_to_spare"),
];

/// Where a test stands: `module::name` is in `tests/module.rs`.
fn is_test_of(test: &str, choice: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap();
    let path = source_root().join(format!("tests/{}.rs", module.replace("::", "/")));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let Some((_, rest)) = text.split_once(&format!("fn {name}(")) else { panic!("{test} is not there") };
    // Its own text, or that of a helper of its file.
    let flag = choice.trim_start_matches("-o ");
    assert!(rest.len() < text.len());
    ["replace", "dry-run"].contains(&flag) || text.contains(flag)
}

/// The test that shows a choice, if there is one.
fn shown(command: &str, choice: &str, connector: &str) -> Option<&'static str> {
    let fits = |row: &&(&str, &str, &str, &str)| {
        row.0 == command && row.1 == choice && (row.2 == "*" || row.2 == connector)
    };
    let (.., test) = SHOWN.iter().find(fits)?;
    assert!(is_test_of(test, choice), "{test} does not know {choice}");
    Some(test)
}

fn names(of: &Value) -> Vec<&str> {
    of.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn flags(choices: &Value) -> Vec<Value> {
    choices.as_array().cloned().unwrap_or_default()
}

/// All choices of connectors for one command, without doubles.
fn all_flags(of: &[Value], choices: &dyn Fn(&Value) -> Value) -> Vec<Value> {
    let mut all: Vec<Value> = vec![];
    for choice in of.iter().flat_map(|one| flags(&choices(one))) {
        if all.iter().all(|known| known["flag"] != choice["flag"]) {
            all.push(choice);
        }
    }
    all
}

/// A choice as words.
fn words(choice: &Value) -> Vec<String> {
    let mut words = vec![format!("--{}", choice["flag"].as_str().unwrap())];
    match (choice["flag"].as_str().unwrap(), choice["value"].as_str()) {
        (_, None) => {}
        ("time", _) => words.push("2026-01-01T00:00:00Z".into()),
        (_, Some("CONNINFO")) => words.push("host=h".into()),
        (_, Some("FILE")) => words.push("names".into()),
        (_, Some(form)) if form.contains('|') => words.push(form.split('|').next().unwrap().into()),
        (_, Some(form)) if form.contains('=') => words.push("a=b".into()),
        (_, Some(_)) => words.push("1".into()),
    }
    words
}

/// The table: a line of a command, a choice and a connector.
struct Table<'a> {
    repo: &'a Repo,
    lines: Vec<String>,
    problems: Vec<String>,
}

impl Table<'_> {
    /// Runs a command line with a choice, and looks whether that is refused; `declared` says whether it must not be.
    fn look(
        &mut self,
        row: (&str, &str, &str),
        declared: bool,
        words: &[String],
        accepts: &dyn Fn(&str) -> bool,
    ) {
        let (command, choice, connector) = row;
        let output = self.repo.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let honoured = shown(command, choice, connector);
        let verdict = match (declared, honoured) {
            (true, Some(test)) => format!("honoured: {test}"),
            (true, None) => "declared, and no test shows what it does".to_owned(),
            (false, _) => "refused".to_owned(),
        };
        let is_right = match declared {
            true => accepts(&said) && honoured.is_some(),
            // Usage, or our own word.
            false => !accepts(&said) && matches!(output.status.code(), Some(1 | 2)),
        };
        let line = format!("{command:18} {choice:22} {connector:10} {verdict}");
        if !is_right {
            self.problems.push(format!("{line}: {words:?}: {said}"));
        }
        self.lines.push(line);
    }
}

/// Each choice that a connector declares is taken, and a test shows what it does; each that another one declares is refused.
/// Prints the table.
#[test]
fn every_choice_is_honoured_or_refused() {
    let repo = repo();
    std::fs::write(repo.path("names"), "one\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let all: Vec<Value> = repo.json(["connectors"]).as_array().unwrap().clone();
    let mut table = Table { repo: &repo, lines: vec![], problems: vec![] };

    let into = |one: &Value| one["restores_to"]["choices"].clone();
    let folder = |one: &Value| one["restores_to_folder"]["choices"].clone();
    let follows = |one: &Value| one["follows"]["choices"].clone();
    let declares =
        |choices: &Value, choice: &Value| flags(choices).iter().any(|own| own["flag"] == choice["flag"]);
    let targets: Vec<&Value> = all.iter().filter(|one| !one["restores_to"].is_null()).collect();
    assert!(targets.len() >= 5 && targets.iter().any(|one| one["name"] == "example"), "{targets:?}");
    for choice in all_flags(&all, &into) {
        for one in &targets {
            let scheme = one["restores_to"]["schemes"][0].as_str().unwrap();
            let to = format!("{scheme}://127.0.0.1:{port}");
            let row = ("restore", choice["flag"].as_str().unwrap(), one["name"].as_str().unwrap());
            // What is for changes of all that is there is given with that.
            let more: &[&str] = match row.1 {
                "no-safety-snapshot" | "unproven" | "yes" if declares(&into(one), &choice) => &["--whole"],
                _ => &[],
            };
            let line = [&["restore", "latest", "--to", &to], more].concat();
            let line: Vec<String> = line.into_iter().map(str::to_owned).chain(words(&choice)).collect();
            let accepts = |said: &str| said.contains("no snapshot") && !said.contains(" is not for ");
            table.look(row, declares(&into(one), &choice), &line, &accepts);
        }
    }
    let any_target = |one: &Value| match (into(one), folder(one)) {
        (Value::Array(servers), Value::Array(folders)) => [servers, folders].concat().into(),
        (servers, _) => servers,
    };
    let one = all.iter().find(|one| !one["restores_to_folder"].is_null()).unwrap();
    for choice in all_flags(&all, &any_target) {
        let line = ["restore", "latest", "--target", "there", "--prepare"].map(str::to_owned);
        let line = [&line[..], &words(&choice)[..]].concat();
        let row = ("restore --prepare", choice["flag"].as_str().unwrap(), one["name"].as_str().unwrap());
        let accepts = |said: &str| said.contains("no snapshot");
        table.look(row, declares(&folder(one), &choice), &line, &accepts);
    }
    for choice in all_flags(&all, &follows) {
        for one in all.iter().filter(|one| !one["follows"].is_null()) {
            let scheme = one["follows"]["schemes"][0].as_str().unwrap();
            // Nobody listens there: what is taken fails, and is not refused for its flags.
            let line = ["stream".to_owned(), format!("{scheme}://127.0.0.1:1")];
            let row = ("stream", choice["flag"].as_str().unwrap(), one["name"].as_str().unwrap());
            let accepts = |said: &str| !said.contains("--");
            table.look(
                row,
                declares(&follows(one), &choice),
                &[&line[..], &words(&choice)].concat(),
                &accepts,
            );
        }
    }
    let there = repo.dir.path().to_str().unwrap();
    for one in &all {
        let incremental = names(&one["incremental"]);
        for scheme in one["schemes"].as_array().unwrap().iter().filter_map(|scheme| scheme["name"].as_str()) {
            // Of files, and of sockets.
            let is_path =
                ["rdb", "aof", "file", "unix"].iter().any(|end| scheme.ends_with(&format!("+{end}")));
            let url = format!("{scheme}://{}", if is_path { there } else { "127.0.0.1:1" });
            let line = ["backup", "--incremental", &url].map(str::to_owned);
            let row = ("backup", "incremental", one["name"].as_str().unwrap());
            table.look(row, incremental.contains(&scheme), &line, &|said| !said.contains("--incremental"));
        }
        for setting in flags(&one["settings"]).iter().filter(|setting| setting["secret"] == false) {
            let (name, values) = (setting["name"].as_str().unwrap(), setting["values"].as_str().unwrap());
            let value = if values.contains('|') { values.split('|').next().unwrap() } else { "2" };
            let row = ("backup", &*format!("-o {name}"), one["name"].as_str().unwrap());
            for (value, is_right) in [(value, true), ("nonsense", false)] {
                let scheme = one["schemes"][0]["name"].as_str().unwrap();
                let line = ["backup", "-o", &format!("{name}={value}"), &format!("{scheme}://127.0.0.1:1")];
                table.look(row, is_right, &line.map(str::to_owned), &|said| !said.contains(name));
            }
        }
    }
    println!("{}", table.lines.join("\n"));
    assert!(table.problems.is_empty(), "{}", table.problems.join("\n"));
    assert!(listener.accept().is_err(), "the server was asked");
    // No line of the list is of something that nobody declares.
    for (command, choice, connector, _) in SHOWN {
        let begin = format!("{command:18} {choice:22} ");
        let is_there =
            |line: &&String| line.starts_with(&begin) && (*connector == "*" || line.contains(connector));
        let line = table.lines.iter().find(|line| is_there(line) && line.contains("honoured"));
        assert!(line.is_some(), "{command} {choice} {connector}: not declared any more");
    }
}

/// `--yes`, `--no-safety-snapshot` and `--unproven` of a restore of all of a Redis.
#[test]
fn a_whole_redis() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.cli(&["EVAL", "for i = 1, 2000 do redis.call('SET', 'k'..i, redis.sha1hex(i)) end", "0"]);
    let url = redis.url();
    repo.ok(["backup", &url]);
    let saved = redis.digest();
    redis.cli(&["SET", "mine", "1"]);
    let live = redis.digest();
    let words = ["--log", "debug", "restore", "latest", "--to", &url, "--whole"];
    let text = repo.fails(1, words);
    assert!(text.contains("--yes") && redis.digest() == live, "{text}");
    let snapshots = || repo.snapshot_count();
    // How often packs were read; and how many snapshots there are more.
    let done = |more: &[&str]| {
        redis.cli(&["SET", "mine", "1"]);
        let before = snapshots();
        let output = repo.run([&words[..], &["--yes"], more].concat());
        expect(&output, 0);
        assert_eq!(redis.digest(), saved, "{more:?}");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        (log.lines().filter(|line| line.contains("packs/")).count(), snapshots() - before)
    };
    assert_eq!(done(&[]).1, 1, "what was there is saved");
    let (proved, none) = done(&["--no-safety-snapshot"]);
    assert_eq!(none, 0);
    let (unproven, _) = done(&["--no-safety-snapshot", "--unproven"]);
    assert!(0 < unproven && unproven < proved, "{unproven} reads of {proved}");
}

/// `--priority` is what the server is told.
#[test]
fn whose_points_count() {
    let repo = Repo::new();
    let server = Qdrant::start(&repo.path("qdrant"), None);
    server.client("fill('things', 10)");
    repo.ok(["backup", &server.url()]);
    let told = |more: &[&str]| {
        let before = server.log().len();
        repo.ok([&["restore", "latest", "--to", &server.url(), "--replace"], more].concat());
        let log = server.log()[before..].to_owned();
        log.lines()
            .filter_map(|line| line.split("priority=").nth(1))
            .map(|rest| rest.split([' ', '&']).next().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    for (words, priority) in [
        (&[][..], "snapshot"),
        (&["--priority", "replica"], "replica"),
        (&["--priority", "no_sync"], "no_sync"),
    ] {
        assert_eq!(told(words), std::collections::BTreeSet::from([priority.to_owned()]));
    }
    repo.fails(2, ["restore", "latest", "--to", &server.url(), "--replace", "--priority", "mine"]);
}

/// `--slot` names the slot of a stream, and `--drop-slot` ends that one and no other.
#[test]
fn a_slot_by_its_name() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["max_wal_senders=5", "max_replication_slots=3"]);
    server.sql("postgres", "SELECT pg_create_physical_replication_slot('of_others')");
    let url = server.url();
    let slots = || server.sql("postgres", "SELECT slot_name FROM pg_replication_slots ORDER BY 1");
    let mut command = repo.command(["stream", &url, "--slot", "ours", "--interval", "1s"]);
    let mut following = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the stream", 60, || repo.snapshot_count() == 1);
    assert_eq!(slots(), "of_others\nours");
    let pid = rustix::process::Pid::from_raw(following.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(following.wait().unwrap().code(), Some(0));
    assert_eq!(slots(), "of_others\nours", "what the server keeps for it is kept");
    repo.ok(["stream", &url, "--slot", "ours", "--drop-slot"]);
    assert_eq!(slots(), "of_others");
}
