//! How far `tier status` says that a tier is behind, tier by tier and group by group.

use crate::harness::Repo;
use crate::tiered::{Tiered, places, promise};
use serde_json::Value;

/// A group's path, and by how many snapshots and seconds a tier is behind with it.
type Group = (String, u64, Option<u64>);

/// What the status says of a tier: groups, seconds, and each group.
fn behind(repo: &Repo, tier: &str) -> (u64, u64, Vec<Group>) {
    let output = repo.run(["--json", "tier", "status"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tiers = status["tiers"].as_array().unwrap();
    let one = tiers.iter().find(|one| one["tier"] == tier).unwrap();
    let each = one["behind"].as_array().unwrap().iter().map(|group| {
        let path = group["paths"][0].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (path, group["snapshots"].as_u64().unwrap(), group["seconds"].as_u64())
    });
    let mut each: Vec<_> = each.collect();
    each.sort();
    (one["groups_behind"].as_u64().unwrap(), one["seconds_behind"].as_u64().unwrap(), each)
}

#[test]
fn each_tier_and_group_is_behind_by_what_it_lacks() {
    let world = Tiered::new(places("repo", ["far"]), &promise("forever", &["local"]));
    let repo = &world.repo;
    for name in ["a", "b", "c"] {
        std::fs::write(repo.path(name), name).unwrap();
    }
    let backup = |name: &str, time: &str| {
        repo.ok(["backup", name, "--no-sync", "--time", &format!("2026-03-01 {time}"), "--force"]);
    };
    assert_eq!(behind(repo, "far"), (0, 0, vec![]));
    backup("a", "10:00:00");
    assert_eq!(behind(repo, "far"), (1, 0, vec![("a".into(), 1, None)]));
    repo.ok(["tier", "sync"]);
    assert_eq!(behind(repo, "far"), (0, 0, vec![]));
    backup("a", "12:00:00");
    backup("b", "09:00:00");
    backup("a", "15:30:00");
    backup("c", "09:00:00");
    let each = vec![("a".into(), 2, Some(19_800)), ("b".into(), 1, None), ("c".into(), 1, None)];
    assert_eq!(behind(repo, "far"), (3, 19_800, each));
    assert_eq!(behind(repo, "local"), (0, 0, vec![]));
    let output = repo.run(["tier", "status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("tier 'far' is behind by 2 snapshots, 5.5 h"), "{text}");
    assert!(text.contains("tier 'far' is behind by 1 snapshot, nothing of it is there"), "{text}");
    repo.ok(["tier", "sync"]);
    assert_eq!(behind(repo, "far"), (0, 0, vec![]));
    // An older one that comes later is not what a tier is behind by.
    backup("b", "08:00:00");
    assert_eq!(behind(repo, "far"), (0, 0, vec![]));
    backup("b", "11:00:00");
    assert_eq!(behind(repo, "far"), (1, 7200, vec![("b".into(), 1, Some(7200))]));
}
