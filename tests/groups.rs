//! Which snapshots are of one thing, and what rules, promises and runs may remove. docs/groups.md has its table from here.

use crate::harness::{Repo, expect, source_root};
use crate::pg::Postgres;
use chunkstore::head::RootColumns as _;
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::ChunkStore;
use connector_kit::command;
use connector_kit::stream::{StreamOptions, StreamSource};
use engine::columns::SnapshotColumns;
use engine::connector::Context;
use engine::entry::Time;
use engine::group::GroupBy;
use engine::monitor::Tally;
use engine::snapshot::Snapshot;
use engine::source::Source;
use engine::source::files::{FilesOptions, FilesSource};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::Arc;

/// What is backed up, as it is typed, and the paths and origins that its group has.
const TABLE: &[(&str, &str, &str)] = &[
    ("/usr", "/usr", "files"),
    ("/usr/../usr/ /usr", "/usr", "files"),
    ("/usr /bin/sh", "/bin/sh /usr", "files"),
    ("postgres://keeper@db/shop", "/postgres/db:5432", "postgres keeper@shop"),
    (
        "postgresql://keeper:secret@db:5432/billing?sslmode=require",
        "/postgres/db:5432",
        "postgres keeper@billing",
    ),
    ("postgres://keeper@db", "/postgres/db:5432", "postgres keeper@*"),
    ("postgres+physical://keeper@db", "/postgres/db:5432/physical", "postgres+physical keeper@*"),
    ("redis://db", "/redis/db:6379/dump.rdb", "redis *"),
    ("redis://:secret@db/3", "/redis/db:6379/database-3.rdb", "redis 3"),
    ("redis+scan://db", "/redis/db:6379/dump.rdb", "redis+scan *"),
    ("qdrant+http://db", "/qdrant/db:6333", "qdrant *"),
    ("qdrant+http://secret@db/images", "/qdrant/db:6333/collections/images", "qdrant images"),
    ("--stdin-from-command -- /usr/bin/pg_dump shop", "/pg_dump", "command pg_dump HASH"),
    ("--stdin-from-command --stdin-filename shop.sql -- pg_dump shop", "/shop.sql", "command pg_dump HASH"),
    ("--stdin", "/stdin", "stdin, and the format that came, and from what program or file"),
    ("--stdin --stdin-filename shop.sql", "/shop.sql", "stdin, and the format that came"),
];

/// Opens what a line of the table names, as `esker backup` does.
fn open(typed: &str) -> Box<dyn Source> {
    let words: Vec<&str> = typed.split(' ').collect();
    let time = Time::default();
    let name = words.iter().position(|word| *word == "--stdin-filename").map(|at| words[at + 1]);
    if let Some(at) = words.iter().position(|word| *word == "--") {
        let command: Vec<OsString> = words[at + 1..].iter().map(OsString::from).collect();
        let program = engine::group::program(&command);
        let name = name.unwrap_or(&program).to_owned();
        return Box::new(
            command::source(command, vec![], name.as_bytes(), time, StreamOptions::default()).unwrap(),
        );
    }
    if words.contains(&"--stdin") {
        let null = std::fs::File::open("/dev/null").unwrap();
        let name = name.unwrap_or("stdin");
        return Box::new(
            StreamSource::reader(null, name.as_bytes(), time, StreamOptions::default()).unwrap(),
        );
    }
    if typed.contains("://") {
        let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
        return connectors::open(typed, time, &context).unwrap();
    }
    let paths: Vec<PathBuf> = words.iter().map(PathBuf::from).collect();
    Box::new(FilesSource::new(&paths, FilesOptions::default(), &Tally::default()).unwrap())
}

/// The document's table is what the code does.
#[test]
fn the_table_of_groups_is_what_the_document_says() {
    let mut lines = vec!["| what is backed up | paths | origins |".to_owned(), "|---|---|---|".to_owned()];
    for (typed, paths, origins) in TABLE {
        let source = open(typed);
        let snapshot = Snapshot { paths: source.paths(), sources: source.records(), ..Snapshot::default() };
        let key = GroupBy::default().key(&snapshot);
        assert_eq!(key.paths.join(" "), *paths, "{typed}");
        let shown = key.origins.join(", ");
        assert!(!shown.contains("secret") && !key.unknown, "{shown}");
        let expected = origins.trim_end_matches(" HASH").split(", and the format").next().unwrap();
        assert_eq!(shown, expected, "{typed}");
        lines.push(format!("| `{typed}` | `{paths}` | `{origins}` |"));
    }
    let table = lines.join("\n");
    let text = std::fs::read_to_string(source_root().join("docs/groups.md")).unwrap();
    assert!(text.contains(&table), "docs/groups.md must have this table:\n{table}");
}

/// The ids of what a plan of `forget` removes, and of what it keeps.
fn plan(repo: &Repo, rules: &[&str]) -> (Vec<String>, Vec<String>) {
    let plan = repo.json([&["forget", "-n"][..], rules].concat());
    let ids = |which: &str| -> Vec<String> {
        let groups = plan.as_array().unwrap().iter();
        let all = groups.flat_map(|group| group[which].as_array().unwrap());
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    (ids("remove"), ids("keep"))
}

/// Databases of one server are things of their own, for rules and for runs.
#[test]
fn one_database_does_not_push_out_another() {
    let servers = Repo::empty();
    let postgres = Postgres::start(&servers);
    postgres.sql("postgres", "CREATE DATABASE shop");
    postgres.sql("postgres", "CREATE DATABASE billing");
    let url = |name: &str| {
        let url = postgres.url();
        format!("{}/{name}", url.trim_end_matches('/'))
    };
    let toml = format!(
        "repository = \"DIR/repo\"\n[[source]]\nname = \"shop\"\nurls = [\"{}\"]\n[[source]]\nname = \"billing\"\nurls = \
         [\"{}\"]\n[[promise]]\nselect = {{ class = \"daily\" }}\nkeep = \"30d\"\ntiers = [\"primary\"]\n[[run]]\nname = \"nightly\"\n",
        url("shop"),
        url("billing")
    );
    let repo = Repo::with_tiers(&toml, &[], true);
    for name in ["shop", "billing", ""] {
        repo.ok(["backup", &url(name)]);
    }
    let (remove, keep) = plan(&repo, &["--keep-last", "1"]);
    assert_eq!((remove.len(), keep.len()), (0, 3));
    for _ in 0..2 {
        let report = repo.json(["run", "nightly"]);
        assert_eq!(report["promises_behind"].as_array().unwrap().len(), 0, "{report}");
    }
    let all = repo.json(["snapshots"]);
    let of = |made_by: &str, name: &str| {
        let snapshots = all.as_array().unwrap().iter();
        let is =
            |one: &&Value| one["made_by"] == made_by && one["sources"][0]["identity"]["database"] == name;
        snapshots.filter(is).count()
    };
    // The first of the day is promised, the second is the newest of its group; what was made by hand stays.
    for name in ["shop", "billing"] {
        assert_eq!((of("run:nightly", name), of("hand", name)), (2, 1), "{all}");
    }
    assert_eq!(of("hand", ""), 1, "{all}");
    repo.ok(["run", "nightly"]);
    let text = repo.ok(["run", "nightly"]);
    assert!(text.contains("stays until somebody forgets it on primary (the last of its group)"), "{text}");
    assert!(repo.ok(["forget", "-n"]).contains("made by hand"));
}

/// Streams without a name are told apart by the program that writes them, once they do not fit into a pipe, and by the file
/// that they are read from.
#[test]
fn streams_without_a_name_are_told_apart() {
    let repo = Repo::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        std::fs::write(repo.path(name), crate::harness::text(seed, 300_000)).unwrap();
    }
    let backup = |script: &str| {
        let mut command = std::process::Command::new("bash");
        let like = repo.command(["snapshots"]);
        command.args(["-c", script]).current_dir(repo.dir.path());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let esker = crate::harness::esker_binary();
        let path = format!("{}:{}", esker.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let output = command.env("PATH", path).output().unwrap();
        expect(&output, 0);
        String::from_utf8(output.stderr).unwrap()
    };
    for _ in 0..2 {
        assert!(backup("cat a | esker backup --stdin").contains("'cat'"));
        assert!(backup("dd if=b bs=9k status=none | esker backup --stdin").contains("'dd'"));
        assert!(backup("(cat a; cat b) | esker backup --stdin").contains("'bash'"));
        backup("esker backup --stdin < a");
        backup("esker backup --stdin < b");
        // With a name, it is what it is called.
        backup(
            "cat a | esker backup --stdin --stdin-filename it; cat b | esker backup --stdin --stdin-filename it",
        );
        // What is short may have been written by whoever has ended.
        assert!(!backup("printf short | esker backup --stdin --allow-empty").contains("printf"));
    }
    let (remove, keep) = plan(&repo, &["--keep-last", "1"]);
    assert_eq!((remove.len(), keep.len()), (9, 7));
    repo.ok(["forget", "--keep-last", "1"]);
    let all = repo.json(["snapshots"]);
    let from = |one: &Value| one["sources"][0]["details"]["from"].as_str().map(str::to_owned);
    let mut from: Vec<String> = all.as_array().unwrap().iter().filter_map(from).collect();
    from.sort();
    let file = |name: &str| repo.path(name).canonicalize().unwrap().display().to_string();
    assert_eq!(from, [file("a"), file("b"), "bash".into(), "cat".into(), "dd".into()]);
}

#[test]
fn streams_have_the_names_of_their_commands_and_are_told_apart() {
    let repo = Repo::new();
    let command = |words: &[&str]| {
        let all = [&["backup", "--stdin-from-command", "--"][..], words].concat();
        let output = repo.run(all);
        expect(&output, 0);
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(command(&["echo", "shop", "hunter2"]), "");
    let other = command(&["echo", "billing"]);
    assert!(other.contains("before it, of the same name, came from command echo"), "{other}");
    command(&["/usr/bin/printf", "all"]);
    let pipe = String::from_utf8(repo.feed(["backup", "--stdin"], b"plain").stderr).unwrap();
    assert!(pipe.contains("--stdin-filename"), "{pipe}");
    // What came is all that is known of a pipe with a name, and of a short one.
    let json = expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "stdin"], b"{\"a\": 1}\n"), 0);
    assert!(!json.is_empty());
    let all = repo.ok(["snapshots", "--json"]);
    assert!(!all.contains("hunter2") && !all.contains("billing"), "{all}");
    assert_eq!(repo.json(["snapshots", "--path", "/echo"]).as_array().unwrap().len(), 2);
    assert_eq!(repo.json(["snapshots", "--path", "/printf"]).as_array().unwrap().len(), 1);
    let (remove, keep) = plan(&repo, &["--keep-last", "1"]);
    assert_eq!((remove.len(), keep.len()), (0, 5));
    // The same words are the same thing.
    command(&["echo", "billing"]);
    assert_eq!(plan(&repo, &["--keep-last", "1"]).0.len(), 1);
    let groups = repo.ok(["forget", "-n", "--keep-daily", "1"]);
    assert!(groups.contains("from command echo "), "{groups}");
    assert!(groups.contains("none of the last 1 days keeps it"), "{groups}");
    assert!(groups.contains("daily snapshot; goes after 1 newer day\n"), "{groups}");
}

#[test]
fn what_is_held_stays() {
    let repo = Repo::new();
    std::fs::write(repo.path("file"), "x").unwrap();
    let said = repo.ok(["backup", "--time", "2026-01-01 00:00:00", "file"]);
    assert!(said.contains("stays until somebody forgets it") && said.contains("--keep-until"), "{said}");
    repo.ok(["backup", "--time", "2026-01-02 00:00:00", "--keep-until", "2999-01-01 00:00:00", "file"]);
    repo.ok(["backup", "--time", "2026-01-03 00:00:00", "file"]);
    repo.ok(["backup", "--time", "2026-01-04 00:00:00", "file"]);
    let id = |at: usize| repo.json(["snapshots"])[at]["id"].as_str().unwrap().to_owned();
    repo.ok(["tag", &id(0), "--hold"]);
    let list = repo.ok(["snapshots"]);
    assert!(list.contains("held") && list.contains("kept until 2999-01-01"), "{list}");
    assert_eq!(repo.json(["snapshots"])[0]["hold"], "held");
    let rules = ["--keep-last", "1"];
    assert_eq!(plan(&repo, &rules).0, [id(2)]);
    assert!(repo.ok(["forget", "-n", "--keep-last", "1"]).contains("held"));
    repo.ok(["tag", &id(0), &id(1), "--release"]);
    assert_eq!(plan(&repo, &rules).0.len(), 3);
    // Whoever names it means it.
    repo.ok(["tag", &id(0), "--hold"]);
    repo.ok(["forget", &id(0)]);
    assert_eq!(repo.snapshot_count(), 3);
}

#[test]
fn names_that_are_not_utf8_are_things_of_their_own() {
    let repo = Repo::new();
    let names: Vec<OsString> =
        [&b"M\xfcller"[..], b"M\xf6ller", b"M%FCller"].map(|name| OsString::from_vec(name.into())).into();
    for name in &names {
        std::fs::create_dir(repo.dir.path().join(name)).unwrap();
        std::fs::write(repo.dir.path().join(name).join("f"), name.as_bytes()).unwrap();
        for _ in 0..2 {
            expect(&repo.run([OsString::from("backup"), name.clone()]), 0);
        }
    }
    let (remove, keep) = plan(&repo, &["--keep-daily", "1"]);
    assert_eq!((remove.len(), keep.len()), (3, 3));
    let paths = |args: &[OsString]| -> Vec<String> {
        let output = repo.command(["--json", "snapshots", "--path"]).args(args).output().unwrap();
        let all: Value = serde_json::from_str(&expect(&output, 0)).unwrap();
        let paths = all.as_array().unwrap().iter().map(|one| one["paths"][0].as_str().unwrap().to_owned());
        paths.collect()
    };
    let here = repo.dir.path().display().to_string();
    let both = |name: &str| vec![format!("{here}/{name}"); 2];
    assert_eq!(paths(&names[..1]), both("M%FCller"));
    assert_eq!(paths(&names[1..2]), both("M%F6ller"));
    // As a list shows it.
    assert_eq!(paths(&["M%F6ller".into()]), both("M%F6ller"));
    assert_eq!(paths(&["M%25FCller".into()]), both("M%25FCller"));
    // The parent is of the same folder.
    let output = repo.command(["--json", "backup"]).arg(&names[0]).output().unwrap();
    let summary: Value = serde_json::from_str(expect(&output, 0).lines().last().unwrap()).unwrap();
    assert_eq!((&summary["files_new"], &summary["files_changed"]), (&0.into(), &0.into()), "{summary}");
}

/// restic 0.18 keeps two of these: the newest of the month, and the oldest as long as there is room.
#[test]
fn the_oldest_stays_as_long_as_a_rule_has_counts_left() {
    let repo = Repo::new();
    std::fs::write(repo.path("file"), "x").unwrap();
    for day in 1..=4 {
        repo.ok(["backup", "--time", &format!("2026-10-0{day} 02:00:00"), "file"]);
    }
    let all = repo.json(["snapshots"]);
    let id = |at: usize| all[at]["id"].as_str().unwrap().to_owned();
    assert_eq!(plan(&repo, &["--keep-monthly", "12"]).1, [id(3), id(0)]);
    assert_eq!(plan(&repo, &["--keep-monthly", "1"]).1, [id(3)]);
    assert_eq!(plan(&repo, &["--keep-within", "2d"]).1, [id(3), id(2)]);
    assert!(repo.ok(["forget", "-n", "--keep-monthly", "12"]).contains("oldest monthly snapshot"));
}

#[test]
fn a_path_has_one_form_and_a_filter_that_fits_nothing_is_an_error() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("s")).unwrap();
    std::fs::write(repo.path("s/f"), "x").unwrap();
    repo.ok(["backup", "s"]);
    let list = repo.ok(["backup", "s", "s/", "./s/../s"]);
    assert!(list.contains("compared with snapshot"), "{list}");
    let paths = repo.json(["snapshots"]);
    assert_eq!(paths[0]["paths"], paths[1]["paths"]);
    let absolute = repo.path("s").display().to_string();
    for form in ["s", "s/", "./s", "s/../s", &absolute, &format!("{absolute}//")] {
        assert_eq!(repo.json(["snapshots", "--path", form]).as_array().unwrap().len(), 2, "{form}");
    }
    for (filter, shown) in [
        (["--path", "nope"], format!("--path {}", repo.path("nope").display())),
        (["--host", "nope"], "--host nope".into()),
        (["--tag", "a,b"], "--tag a,b".into()),
    ] {
        for command in [
            &["snapshots"][..],
            &["forget", "--keep-last", "1"],
            &["forget", "latest"],
            &["ls", "latest"],
            &["dump", "latest", "s/f"],
            &["restore", "latest", "--target", "out"],
            &["find", "f"],
            &["stats"],
            &["tag", "--add", "t"],
        ] {
            let said = repo.fails(1, [command, &filter[..]].concat());
            assert!(
                said.contains(&format!("nothing fits {shown}: none of 2 snapshots")),
                "{command:?}: {said}"
            );
        }
    }
    assert_eq!(repo.snapshot_count(), 2);
    // Where there is nothing, nothing can fit.
    let empty = Repo::new();
    assert_eq!(empty.json(["snapshots", "--host", "h"]).as_array().unwrap().len(), 0);
}

/// Makes of all snapshots what versions wrote that noted no identities.
fn take_identities_out(repo: &Repo) {
    let access = crate::harness::access(Arc::new(LocalStorage::open(repo.folder()).unwrap()));
    let store = ChunkStore::open(access, b"correct horse").unwrap();
    for root in store.head().roots.to_vec().unwrap() {
        let mut record: Value = serde_json::from_slice(&store.read_snapshot(&root).unwrap()).unwrap();
        for source in record["sources"].as_array_mut().unwrap() {
            source.as_object_mut().unwrap().remove("identity").unwrap();
        }
        let record = serde_json::to_vec(&record).unwrap();
        let session = store.open_session("test").unwrap();
        let new = store.write_snapshot(&record, &SnapshotColumns.of_record(&record)).unwrap();
        store.commit_in_place_of(root.id, &session, &[], &new, &HashSet::new()).unwrap();
    }
}

/// What versions before this one wrote does not say what it is of.
#[test]
fn no_rule_acts_on_what_does_not_say_what_it_came_from() {
    let repo = Repo::new();
    for text in ["one", "two"] {
        std::fs::write(repo.path("data"), text).unwrap();
        repo.ok(["backup", "data"]);
    }
    take_identities_out(&repo);
    let run = |args: &[&str]| repo.command(args).output().unwrap();
    assert!(expect(&run(&["--json", "snapshots"]), 0).matches("short_id").count() > 1);
    let before = expect(&run(&["snapshots"]), 0);
    let output = run(&["forget", "--keep-last", "1", "--group-by", "host"]);
    expect(&output, 0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--unknown-origin"), "{said}");
    assert_eq!(expect(&run(&["snapshots"]), 0), before);
}
