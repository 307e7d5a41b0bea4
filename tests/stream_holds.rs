//! Snapshots of live streams that people tag, hold and forget while a stream makes them longer.

use crate::harness::{Process, Repo, run, wait_for};
use crate::redis::{Redis, apt_redis};

/// What a person says of the snapshot of a stream stays said, and one that is forgotten is followed by a new base.
#[test]
fn a_stream_keeps_holds_and_tags_and_outlives_its_snapshot() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &[]);
    redis.cli(&["SET", "n", "1"]);
    let all = || repo.json(["snapshots"]).as_array().unwrap().clone();
    let log = std::fs::File::create(repo.path("log")).unwrap();
    let mut command = repo.command(["stream", &redis.url(), "--interval", "1s"]);
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(std::process::Stdio::null());
    let mut stream = Process(command.spawn().unwrap());
    wait_for("a base", 60, || all().len() == 1);
    repo.ok(["tag", "--hold", "--add", "mine", "latest"]);
    for number in 2..5 {
        redis.cli(&["SET", "n", &number.to_string()]);
        std::thread::sleep(std::time::Duration::from_millis(700));
    }
    let held = |snapshots: &[serde_json::Value]| {
        snapshots
            .iter()
            .any(|one| one["tags"].to_string().contains("mine") && one.to_string().contains("hold"))
    };
    assert_eq!(all().len(), 1, "{:?}", all());
    assert!(held(&all()), "{:?}", all());
    repo.ok(["tag", "--release", "latest"]);
    let id = all()[0]["id"].as_str().unwrap().to_owned();
    // A longer one may be in its place by now, which is meant, too; an id that it had before names it.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(repo.json(["snapshots", &id]).as_array().unwrap().len(), 1);
    repo.ok(["forget", &id]);
    wait_for("a new base", 60, || {
        redis.cli(&["INCR", "n"]);
        std::fs::read_to_string(repo.path("log")).unwrap().contains("forgotten") && all().len() == 1
    });
    redis.cli(&["SET", "n", "last"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    run("kill", &["-INT", &stream.0.id().to_string()]);
    assert!(stream.0.wait().unwrap().success());
    let target = Redis::start(&apt_redis(), &repo.path("target"), &[]);
    let until = all()[0]["sources"][0]["details"]["until-ms"].as_str().unwrap().parse().unwrap();
    let until = jiff::Timestamp::from_millisecond(until).unwrap().to_string();
    repo.ok(["restore", "latest", "--to", &target.url(), "--time", &until]);
    assert_eq!(target.cli(&["GET", "n"]).trim(), "last");
}
