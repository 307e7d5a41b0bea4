//! Qdrant in clusters: shards on several nodes, replicas, shard keys, and servers that have nothing to do with each other.

use crate::harness::{Repo, expect};
use crate::qdrant_double::Qdrant;
use serde_json::json;

fn restore(repo: &Repo, code: i32, snapshot: &str, to: &str, more: &[&str]) -> String {
    let output = repo.run(["restore", snapshot, "--to", to].iter().chain(more));
    expect(&output, code);
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

const POINTS: &str = "print(json.dumps(scroll('spread')))";

#[test]
fn a_part_of_a_cluster_is_called_a_part() {
    let repo = Repo::new();
    let cluster = Qdrant::cluster(&repo.path("cluster"), 2);
    cluster.client("fill('spread', 200, size=4, shard_number=4)");
    // One node: half of it, and that is said, in the run and by the restore.
    let told = repo.fails(3, ["backup", &cluster.url()]);
    assert!(
        told.contains("'spread'") && told.contains("shards 1, 3") && told.contains("every node"),
        "{told}"
    );
    let target = Qdrant::start(&repo.path("target"), None);
    let told = restore(&repo, 1, "latest", &target.url(), &[]);
    assert!(told.contains("shards 1, 3") && told.contains("--allow-missing-shards"), "{told}");
    assert_eq!(target.everything(), json!([{}, []]));
    let told = restore(&repo, 3, "latest", &target.url(), &["--allow-missing-shards"]);
    assert!(told.contains("missing"), "{told}");
    let found = target.client(POINTS).as_array().unwrap().len();
    assert!((1..200).contains(&found), "{found}");
    // All nodes in one command.
    repo.ok(["backup", &cluster.url(), &cluster.node(1)]);
    restore(&repo, 0, "latest", &target.url(), &["--replace"]);
    assert_eq!(target.client(POINTS), cluster.client(POINTS));
}

#[test]
fn of_replicas_one_active_is_taken() {
    let repo = Repo::new();
    let cluster = Qdrant::cluster(&repo.path("cluster"), 2);
    cluster.client("fill('spread', 100, size=4, shard_number=2, replication_factor=2)");
    let target = Qdrant::start(&repo.path("target"), None);
    repo.ok(["backup", &cluster.url(), &cluster.node(1)]);
    restore(&repo, 0, "latest", &target.url(), &[]);
    assert_eq!(target.client(POINTS), cluster.client(POINTS));
    // With every replica on it, one node is enough.
    repo.ok(["backup", &cluster.node(1)]);
    restore(&repo, 0, "latest", &target.url(), &["--replace"]);
    assert_eq!(target.client(POINTS), cluster.client(POINTS));
    // What is not active is not taken for good, unless another node has it.
    let port = cluster.port();
    cluster.fault("dead", Some(&format!("spread 0 {port} Dead\nspread 1 {port} Partial\n")));
    let told = repo.fails(3, ["backup", &cluster.url()]);
    assert!(told.contains("shards 0, 1") && told.contains("Dead") && told.contains("Partial"), "{told}");
    repo.ok(["backup", &cluster.url(), &cluster.node(1)]);
    restore(&repo, 0, "latest", &target.url(), &["--replace"]);
    assert_eq!(target.client(POINTS), cluster.client(POINTS));
}

#[test]
fn unrelated_servers_are_not_mixed() {
    let repo = Repo::new();
    let (one, two) = (Qdrant::start(&repo.path("one"), None), Qdrant::start(&repo.path("two"), None));
    one.client("fill('things', 20, size=4); fill('only', 3, size=4)");
    two.client("fill('things', 30, size=4, seed=9)");
    repo.ok(["backup", &one.url(), &two.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    let place = |qdrant: &Qdrant| format!("/qdrant/127.0.0.1:{}", qdrant.port());
    let told = restore(&repo, 1, "latest", &target.url(), &[]);
    assert!(
        told.contains(&place(&one)) && told.contains(&place(&two)) && told.contains("'things'"),
        "{told}"
    );
    restore(&repo, 0, "latest", &target.url(), &["--include", "only"]);
    restore(&repo, 0, &format!("latest:{}", place(&two)), &target.url(), &[]);
    assert_eq!(target.everything()[0]["things"], two.everything()[0]["things"]);
    let path = format!("latest:{}/collections/things", place(&one));
    restore(&repo, 0, &path, &target.url(), &["--replace"]);
    assert_eq!(target.everything()[0], one.everything()[0]);
    let told = restore(&repo, 1, "latest:/qdrant/nowhere:1", &target.url(), &[]);
    assert!(told.contains("nowhere:1"), "{told}");
}

#[test]
fn shards_of_keys_come_back_by_their_keys() {
    let repo = Repo::new();
    let cluster = Qdrant::cluster(&repo.path("cluster"), 1);
    cluster.client(
        "client.create_collection('tenants', vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE), sharding_method=models.ShardingMethod.CUSTOM, shard_number=1)
for key, count in [('acme', 1), ('gone', 2), (42, 2), ('last', 1)]:
    client.create_shard_key('tenants', key, shards_number=count)
client.delete_shard_key('tenants', 'gone')
client.upsert('tenants', points(40, size=4), shard_key_selector='acme')
client.upsert('tenants', points(60, size=4, first=100), shard_key_selector=42)
client.upsert('tenants', points(5, size=4, first=200), shard_key_selector='last')
fill('zz after it', 4, size=4)",
    );
    repo.ok(["backup", &cluster.url()]);
    // A server by itself has no shard keys: said before anything is made.
    let alone = Qdrant::start(&repo.path("alone"), None);
    assert!(restore(&repo, 1, "latest", &alone.url(), &[]).contains("cluster"));
    assert_eq!(alone.everything(), json!([{}, []]));
    restore(&repo, 0, "latest", &alone.url(), &["--exclude", "tenants"]);

    let target = Qdrant::cluster(&repo.path("target"), 1);
    restore(&repo, 0, "latest", &target.url(), &["--rename", "tenants=t2"]);
    let keyed = |name: &str| {
        format!(
            "print(json.dumps([[scroll('{name}', shard_key_selector=key) for key in ['acme', 42, 'last']], sorted([[s.shard_id, s.shard_key] for s in client.http.distributed_api.collection_cluster_info('{name}').result.local_shards])]))"
        )
    };
    let (found, wanted) = (target.client(&keyed("t2")), cluster.client(&keyed("tenants")));
    assert_eq!(found, wanted);
    assert_eq!(wanted[1], json!([[1, "acme"], [4, 42], [5, 42], [6, "last"]]));
    // A point that is written again finds the shard that it is in.
    let count = target.client(
        "client.upsert('t2', points(60, size=4, first=100, seed=3), shard_key_selector=42); print(json.dumps(client.count('t2').count))",
    );
    assert_eq!(count, 105);
}
