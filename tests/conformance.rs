//! What every system has to do alike, run for each: docs/adding-a-connector.md says what a connector is, and this when it is
//! done. A system is a [`Fixture`]; what one system does by itself is in its own tests.

use crate::harness::{Repo, source_root};
use crate::proved::nothing_for_what_cannot_be_had;
use crate::relay::Relay;
use fixtures::{EXAMPLE, Fixture, MYSQL, POSTGRES, QDRANT, REDIS, REDIS_SCAN, System};
use forgotten::what_is_forgotten_meanwhile;
use frozen::what_is_frozen;
use interruptions::interruptions;
use local::{FILES, PHYSICAL, PIPE, REDIS_AOF, REDIS_RDB};
use secrecy::no_secret_is_seen;

mod choices;
mod credentials;
mod fixtures;
mod forgotten;
mod frozen;
mod interruptions;
mod list;
mod local;
mod secrecy;

/// A repository that knows the token of the example.
fn repo() -> Repo {
    Repo::new().with("ESKER_EXAMPLE_TOKEN", list::TOKEN)
}

fn start(system: &System, repo: &Repo, folder: &str, seed: u64) -> Box<dyn Fixture> {
    let fixture = (system.start)(repo, folder);
    fixture.fill(seed);
    fixture
}

/// `esker backup`, with small packs.
fn backup_words(of: &dyn Fixture) -> Vec<String> {
    ["--pack-size", "2", "backup"].into_iter().map(str::to_owned).chain(of.backup()).collect()
}

fn restore_words(of: &dyn Fixture, more: &[&str]) -> Vec<String> {
    let to = of.restore().into_iter();
    ["restore", "latest"]
        .into_iter()
        .map(str::to_owned)
        .chain(to)
        .chain(more.iter().map(|word| (*word).into()))
        .collect()
}

/// The order of manifests.
fn key(path: &str) -> Vec<u8> {
    path.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect()
}

fn order_and_the_second_night(system: &System) {
    let repo = repo();
    let one = start(system, &repo, "one", 1);
    repo.ok(backup_words(&*one));
    let list = repo.ok(["ls", "latest"]);
    let paths: Vec<Vec<u8>> = list.lines().filter(|line| line.starts_with('/')).map(key).collect();
    assert!(!paths.is_empty() && paths.is_sorted(), "{list}");
    let first = repo.json(["stats", "--mode", "raw-data"])["total_size"].as_u64().unwrap();
    repo.ok(backup_words(&*one));
    let second = repo.json(["stats", "--mode", "raw-data"])["total_size"].as_u64().unwrap();
    assert!(first > 200_000 && second - first < first / 20, "{}: {first}, then {second}", system.name);
    one.change(2);
    repo.ok(backup_words(&*one));
    let third = repo.json(["stats", "--mode", "raw-data"])["total_size"].as_u64().unwrap();
    assert!(third > second, "{}: {second}, then {third}", system.name);
}

fn a_server_that_goes_in_the_middle(system: &System) {
    let repo = repo();
    let one = start(system, &repo, "one", 1);
    let Some(port) = one.port() else { panic!("{} has no server", system.name) };
    let relay = Relay::to(port, u64::MAX);
    let words: Vec<String> = backup_words(&*one)
        .into_iter()
        .map(|word| word.replace(&format!(":{port}"), &format!(":{}", relay.port)))
        .collect();
    for bytes in [100, 20_000, 100_000] {
        relay.allow(bytes);
        let output = repo.run(&words);
        let code = output.status.code().unwrap();
        assert!(system.cut_off.contains(&code), "{}, after {bytes}: {output:?}", system.name);
        assert_eq!(repo.snapshot_count(), 0, "{}, after {bytes}: {output:?}", system.name);
    }
    relay.allow(u64::MAX);
    repo.ok(words);
}

fn into_a_server(system: &System) {
    let repo = repo();
    let one = start(system, &repo, "one", 1);
    repo.ok(backup_words(&*one));
    let saved = one.state();
    let two = (system.start)(&repo, "two");
    let empty = two.state();
    if two.plans() {
        repo.ok(restore_words(&*two, &["--dry-run"]));
        assert!(two.state() == empty, "{}: a dry run changed something", system.name);
    }
    repo.ok(restore_words(&*two, &[]));
    assert!(two.state() == saved, "{}: not equal", system.name);
    // Over what is there: refused, and without a change; then told, and tried.
    two.fill(3);
    let live = two.state();
    // Nothing of it, or all that is not there: 1, or 3 where single things are refused.
    let refused = repo.run(restore_words(&*two, &[])).status.code();
    assert!(matches!(refused, Some(1 | 3)), "{}: {refused:?}", system.name);
    assert!(two.state() == live, "{}: a refused restore changed something", system.name);
    let Some(over) = two.over() else { return };
    repo.ok(restore_words(&*two, &[over, &["--dry-run"]].concat()));
    assert!(two.state() == live, "{}: a dry run changed something", system.name);
    let words = restore_words(&*two, over);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    nothing_for_what_cannot_be_had(&repo, &words, &|| two.state());
    assert!(two.state() == saved, "{}: not equal", system.name);
}

fn into_a_folder(system: &System) {
    let repo = repo();
    let one = start(system, &repo, "one", 1);
    repo.ok(backup_words(&*one));
    let saved = one.state();
    let two = (system.start)(&repo, "two");
    repo.ok(restore_words(&*two, &["--dry-run"]));
    assert_eq!(two.state(), "", "{}: a dry run changed something", system.name);
    repo.ok(restore_words(&*two, &["--verify"]));
    assert!(two.state() == saved, "{}: not equal", system.name);
    // A backup after that is another state, and each of both comes back.
    one.change(2);
    repo.ok(backup_words(&*one));
    repo.ok(restore_words(&*two, &["--overwrite", "never"]));
    assert!(two.state() == saved, "{}: something was overwritten", system.name);
    repo.ok(restore_words(&*two, &[]));
    assert!(two.state() == one.state() && two.state() != saved, "{}: not equal", system.name);
}

fn two_in_one_set(system: &System) {
    let repo = repo();
    let (one, two) = (start(system, &repo, "one", 1), start(system, &repo, "two", 2));
    let words = [&["backup".to_owned()][..], &one.backup()[..], &two.backup()[..]].concat();
    repo.ok(words);
    let sources = &repo.json(["snapshots"])[0]["sources"];
    assert_eq!(sources.as_array().unwrap().len(), 2, "{sources}");
}

/// Makes a test of each claim for each system.
macro_rules! suite {
    ($($module:ident: $system:expr, [$($claim:ident),*];)*) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $claim() {
                super::$claim(&$system);
            })*
        })*
    };
}

suite! {
    files: FILES, [order_and_the_second_night, into_a_folder, interruptions, what_is_frozen];
    pipe: PIPE, [order_and_the_second_night, into_a_folder, interruptions, what_is_frozen];
    example: EXAMPLE, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
    redis_sync: REDIS, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
    redis_scan: REDIS_SCAN, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
    redis_rdb: REDIS_RDB, [order_and_the_second_night, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_frozen];
    redis_aof: REDIS_AOF, [order_and_the_second_night, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_frozen];
    mysql: MYSQL, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
    postgres: POSTGRES, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
    postgres_physical: PHYSICAL, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_frozen];
    qdrant: QDRANT, [order_and_the_second_night, a_server_that_goes_in_the_middle, no_secret_is_seen, into_a_server, interruptions, two_in_one_set, what_is_forgotten_meanwhile, what_is_frozen];
}

/// The page shows the example as it is.
#[test]
fn the_page_shows_the_code() {
    let read = |name: &str| std::fs::read_to_string(source_root().join(name)).unwrap();
    let page = read("docs/adding-a-connector.md");
    let example = ["lib", "list", "source", "target"].map(|name| format!("example/src/{name}"));
    let kit = ["entries", "http"].map(|name| format!("kit/src/{name}"));
    let files = example.iter().chain(&kit).map(|name| read(&format!("connectors/{name}.rs")));
    let code = files.collect::<Vec<_>>().concat();
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 8, "{}", blocks.len());
    for block in blocks {
        assert!(code.contains(block), "neither connectors/example nor connectors/kit has:\n{block}");
    }
}
