//! Restores into Qdrant: what comes back besides points, what is left alone, and what is lost when something fails: nothing.

use crate::harness::{Repo, expect, wait_for};
use crate::qdrant_double::Qdrant;
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn restore(repo: &Repo, code: i32, to: &str, more: &[&str]) -> String {
    let output = repo.run(["restore", "latest", "--to", to].iter().chain(more));
    expect(&output, code);
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// Makes the data of the next backup newer than what the server can read, and the server as old as before.
const NEWER: &str = "
import pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob('version.info'):
    path.write_text('99.0.0')
";

#[test]
fn a_collection_comes_back_with_all_that_it_is() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client(
        "fill('strict', 300, size=8, shard_number=3, metadata={'owner': 'team a'}, strict_mode_config=models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False))
client.update_collection('strict', collection_params=models.CollectionParamsDiff(read_fan_out_factor=2, read_fan_out_delay_ms=50))
client.create_payload_index('strict', 'kw', models.KeywordIndexParams(type='keyword', is_tenant=True))
client.create_payload_index('strict', 'n', models.PayloadSchemaType.INTEGER)
for name in ['a b', 'žluť 日本', '.hidden', '100%', 'plus+and&', 'err404', 'a%20b']:
    fill(name, 5, size=4)
alias(**{'current': 'strict', 'ζ alias': 'a b'})",
    );
    let wanted = source.everything();
    let backup = repo.json(["backup", &source.url()]);
    assert!(backup["total_files_processed"].as_u64().unwrap() > 10, "{backup}");
    let target = Qdrant::start(&repo.path("target"), None);
    // A plan first, which touches nothing.
    let plan = restore(&repo, 0, &target.url(), &["--dry-run"]);
    assert!(
        plan.contains("'strict'") && plan.contains("3 shards") && plan.contains("alias 'current'"),
        "{plan}"
    );
    assert_eq!(target.everything(), json!([{}, []]));
    restore(&repo, 0, &target.url(), &[]);
    assert_eq!(target.everything(), wanted);
    // The schema is the collection's own, and not only its segments': strict mode lets a filter pass.
    let found = target.client(
        "print(json.dumps([len(scroll('strict', scroll_filter=models.Filter(must=[models.FieldCondition(key='kw', match=models.MatchValue(value='b'))]))), client.get_collection('strict').status]))",
    );
    assert_eq!(found, json!([100, "green"]), "and it is not left grey");
}

#[test]
fn a_neighbour_is_left_alone_and_so_are_aliases() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('indexed', 50, size=4); fill('sharded', 60, size=4, shard_number=2); alias(ix='indexed', sh='sharded')");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client(
        "fill('live', 70, size=4); fill('sharded', 10, size=4); fill('sh', 3, size=4); alias(**{'ix': 'live', 'newer alias': 'sharded'})",
    );
    let before = target.everything();
    let told = restore(&repo, 3, &target.url(), &["--replace"]);
    assert!(told.contains("alias 'ix'") && told.contains("'live'"), "{told}");
    assert!(told.contains("alias 'sh'") && told.contains("collection of that name"), "{told}");
    let after = target.everything();
    assert_eq!(after[0]["live"], before[0]["live"]);
    assert_eq!(after[0]["sh"], before[0]["sh"]);
    assert_eq!(after[0]["sharded"], source.everything()[0]["sharded"]);
    assert_eq!(after[1], before[1], "ix is live's still, and the newer alias came back");
    assert_eq!(after[0].as_object().unwrap().len(), 4, "nothing else is left there");
    // A name that is an alias there.
    let told = restore(&repo, 1, &target.url(), &["--include", "indexed", "--rename", "indexed=ix"]);
    assert!(told.contains("'ix' is an alias of collection 'live'"), "{told}");
    // As a copy, its aliases stay with what has them.
    restore(&repo, 0, &target.url(), &["--include", "indexed", "--rename", "indexed=copy"]);
    assert_eq!(target.everything()[1], before[1]);
}

#[test]
fn names_are_looked_at_before_anything_is_done() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('bq', 20, size=4); fill('few', 5, size=4); fill('things', 7, size=4)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('bq', 33, size=4, seed=5); fill('things', 9, size=4)");
    let before = target.everything();
    for (more, told) in [
        (&["--include", "bq", "--rename", "qb=before", "--replace"][..], "'qb' is none of"),
        (
            &["--include", "few", "--include", "things", "--rename", "few=things", "--replace"],
            "would both be called",
        ),
        (&["--include", "few", "--rename", "few="], "empty"),
        (&["--include", "few", "--rename", "few=a/b"], "no name for a collection"),
        (&["--include", "few", "--rename", "few=x", "--rename", "few=y"], "two names"),
        (&["--include", "f*w", "--include", "nothing*"], "no collection 'nothing*'"),
        (&["--exclude", "nothing", "--replace"], "no collection 'nothing'"),
        (&["--include", "few", "--exclude", "f*"], "left to restore"),
        (&["--include", "few", "--sparse"], "--sparse is not for Qdrant"),
        (&["--include", "few", "--db", "1"], "--db is not for Qdrant"),
        (&["--include", "bq"], "there already: bq"),
    ] {
        let is_usage = told.contains(" is not for ");
        let output = restore(&repo, if is_usage { 2 } else { 1 }, &target.url(), more);
        assert!(output.contains(told), "{more:?}: {output}");
        assert_eq!(target.everything(), before, "{more:?}");
    }
    // Patterns, and a name in the URL.
    restore(&repo, 0, &target.url(), &["--include", "f*", "--exclude", "b*"]);
    assert_eq!(target.everything()[0]["few"], source.everything()[0]["few"]);
    restore(&repo, 0, &format!("{}/newname", target.url()), &["--include", "things"]);
    assert_eq!(target.everything()[0]["newname"]["points"], source.everything()[0]["things"]["points"]);
    assert!(restore(&repo, 1, &format!("{}/newname", target.url()), &[]).contains("no collection 'newname'"));
    let output = restore(&repo, 2, "qdrant://127.0.0.1:1", &[]);
    assert!(output.contains("qdrant+http://"), "{output}");
}

#[test]
fn what_is_there_stays_until_all_is_proved() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('good', 40, size=4); fill('multi', 50, size=4, shard_number=2)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('good', 11, size=4); fill('multi', 25, size=4); alias(m='multi')");
    let live = target.everything();

    // A newer server made it.
    target.fault("version", Some("1.17.4"));
    let told = restore(&repo, 1, &target.url(), &["--replace"]);
    assert!(
        told.contains("upgrade it first") && told.contains("1.18.3") && told.contains("1.17.4"),
        "{told}"
    );
    target.fault("version", None);
    assert_eq!(target.everything(), live);

    // The data is newer, whatever the servers say.
    let newer = std::process::Command::new(crate::harness::server("vectors/bin/python"))
        .args(["-c", NEWER, source.folder.join("collections").join(hex("multi")).to_str().unwrap()])
        .status();
    assert!(newer.unwrap().success());
    repo.ok(["backup", &source.url(), "--tag", "newer"]);
    let told = restore(&repo, 25, &target.url(), &["--replace"]);
    assert!(told.contains("newer than application version"), "{told}");
    assert_eq!(target.everything(), live, "not even the other one was touched, and nothing was left");
    // Where nothing is there, no empty collection stays.
    let empty = Qdrant::start(&repo.path("empty"), None);
    restore(&repo, 25, &empty.url(), &["--include", "multi"]);
    assert_eq!(empty.everything(), json!([{}, []]));
    repo.ok(["forget", "latest"]);

    // A target without room: what the server says is told, not that the line broke.
    target.fault("refuse", Some(""));
    let told = restore(&repo, 25, &target.url(), &["--replace"]);
    assert!(told.contains("No space left on device"), "{told}");
    target.fault("refuse", None);
    assert_eq!(target.everything(), live);

    // A damaged repository says so itself.
    let pack = largest(&repo.folder().join("packs"));
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, vec![0; bytes.len()]).unwrap();
    let told = restore(&repo, 1, &target.url(), &["--replace"]);
    assert!(!told.contains("cut off"), "{told}");
    assert_eq!(target.everything(), live);
    std::fs::write(&pack, bytes).unwrap();

    restore(&repo, 0, &target.url(), &["--replace"]);
    let after = target.everything();
    assert_eq!(after[0]["good"]["points"], source.client("print(json.dumps(scroll('good')))"));
    assert_eq!(after[0]["multi"]["points"].as_array().unwrap().len(), 50);
    assert_eq!(after[1], live[1]);
    assert_eq!(after[0].as_object().unwrap().len(), 2);
}

fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn largest(folder: &std::path::Path) -> std::path::PathBuf {
    let mut all = vec![];
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => all.push((entry.metadata().unwrap().len(), entry.path())),
            }
        }
    }
    all.into_iter().max().unwrap().1
}

#[test]
fn what_is_broken_can_be_replaced() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('multi', 50, size=4)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('multi', 25, size=4)");
    // As a restore by hand breaks it: the data is taken over, and cannot be read.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "echo no tar > x; curl -s -F snapshot=@x \"$0/collections/multi/shards/0/snapshots/upload\"; curl -s -o /dev/null -w '%{http_code}' \"$0/collections/multi\"",
            &target.url().replace("qdrant+", ""),
        ])
        .current_dir(repo.dir.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("500"));
    assert!(restore(&repo, 1, &target.url(), &[]).contains("there already: multi"));
    restore(&repo, 0, &target.url(), &["--replace"]);
    assert_eq!(target.everything(), source.everything());
    // And what is broken does not keep the others from being backed up, if that is wanted.
    target.client("fill('other', 5, size=4)");
    let broken = std::process::Command::new("sh")
        .args([
            "-c",
            "curl -s -F snapshot=@x \"$0/collections/multi/shards/0/snapshots/upload\"",
            &target.url().replace("qdrant+", ""),
        ])
        .current_dir(repo.dir.path())
        .output();
    assert!(broken.unwrap().status.success());
    assert!(repo.fails(25, ["backup", &target.url()]).contains("--keep-going"));
    assert!(repo.fails(3, ["backup", "--keep-going", &target.url()]).contains("'multi'"));
    let fresh = Qdrant::start(&repo.path("fresh"), None);
    restore(&repo, 0, &fresh.url(), &[]);
    assert_eq!(fresh.everything()[0].as_object().unwrap().len(), 1);
}

#[test]
fn an_upload_ends_at_once_when_the_user_had_enough() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('things', 50, size=4)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('neighbour', 5, size=4)");
    let live = target.everything();
    target.fault("slow", Some(""));
    for (rename, replace) in [("things=new", false), ("things=neighbour", true)] {
        let mut command = repo.command(["restore", "latest", "--to", &target.url(), "--rename", rename]);
        command.args(replace.then_some("--replace")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let before = target.log().matches("upload").count();
        let child = command.spawn().unwrap();
        wait_for("the upload", 60, || target.log().matches("upload").count() > before);
        std::thread::sleep(Duration::from_millis(1500));
        let pid = child.id().to_string();
        let start = Instant::now();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        expect(&output, 130);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(target.everything(), live, "{rename}");
    }
}

#[test]
fn what_the_server_still_makes_when_the_user_had_enough_is_removed_or_named() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('things', 50, size=4)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    // One that is soon made is removed; of one that takes longer than anybody waits for, the name is told.
    for (pause, is_removed) in [("0.8", true), ("6", false)] {
        target.fault("late_create", Some(pause));
        let asked = || target.log().matches("PUT /collections/things").count();
        let before = asked();
        let mut command = repo.command(["restore", "latest", "--to", &target.url()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the request", 60, || asked() > before);
        let pid = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        expect(&output, 130);
        let said = String::from_utf8_lossy(&output.stderr);
        let is_named = said.contains("collection 'things': this restore made it or began to");
        let is_there = target.everything()[0].get("things").is_some();
        assert!(!is_there || is_named, "{said}");
        assert_eq!(is_there, !is_removed, "{said}");
        target.client("client.delete_collection('things')");
    }
}

#[test]
fn each_collection_has_progress_of_its_own() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('one', 50, size=4); fill('two', 3000, size=64)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('one', 5, size=4)");
    target.fault("slow", Some("0.02"));
    let mut command = repo.command(["--json", "restore", "latest", "--to", &target.url(), "--replace"]);
    let output = command.env("ESKER_PROGRESS_FPS", "20").output().unwrap();
    let out = expect(&output, 0);
    let listed = repo.ok(["--json", "ls", "latest", "--recursive"]);
    let entries: Vec<serde_json::Value> =
        listed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let size = |name: &str| {
        let is_its = |path: &str| path.contains(&format!("/{name}/shard-"));
        let own = entries.iter().find(|entry| entry["path"].as_str().is_some_and(is_its));
        own.map(|entry| entry["size"].clone())
    };
    let mut phases: Vec<(String, serde_json::Value)> = vec![];
    for line in out.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let name = line["phase"].as_str().unwrap_or_default();
        if line["message_type"] == "status" && name.starts_with("collection") && line["bytes_done"] != 0 {
            assert!(line["bytes_done"].as_u64() <= line["total_bytes"].as_u64(), "{line}");
            if phases.last().is_none_or(|(last, _)| last != name) {
                phases.push((name.to_owned(), line["total_bytes"].clone()));
            }
        }
    }
    let wanted: Vec<(String, serde_json::Value)> = [
        ("collection 'one', beside as 'one.esker-1'", "one"),
        ("collection 'one'", "one"),
        ("collection 'two'", "two"),
    ]
    .map(|(phase, name)| (phase.to_owned(), size(name).unwrap()))
    .into();
    assert_eq!(phases, wanted);
}
