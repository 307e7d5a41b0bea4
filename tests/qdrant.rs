//! Qdrant: a double of its REST interface over shards of its own engine (`tests/servers/qdrant.py`), driven by the
//! official client as well, so that it is right and not merely agreeable.

use crate::harness::{Repo, free_port, noise};
use crate::qdrant_double::Qdrant;
use crate::relay::{cut_after, cuts};
use serde_json::Value;

#[test]
fn a_second_night_costs_what_changed_and_comes_back() {
    let count: u32 =
        std::env::var("ESKER_QDRANT_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    qdrant.client(&format!("fill('things', {count}); fill('few', 100, 7)"));
    qdrant.client(
        "client.update_collection_aliases([models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name='things', alias_name='current'))])",
    );
    let first = repo.json(["backup", &qdrant.url()]);
    qdrant.client(&format!(
        "client.upsert('things', [models.PointStruct(id=i, vector=vector(i + 1), payload={{'n': -i}}) for i in range(5, {count}, 100)], wait=True)"
    ));
    let second = repo.json(["backup", &qdrant.url()]);
    let stored = |summary: &Value| summary["data_added_packed"].as_u64().unwrap();
    println!(
        "{count} points: {} bytes of {}, 1 % upserted: {} bytes ({:.2} %)",
        stored(&first),
        first["total_bytes_processed"],
        stored(&second),
        stored(&second) as f64 * 100.0 / stored(&first) as f64
    );
    assert!(stored(&second) * 20 <= stored(&first));
    let listed =
        qdrant.client("print(json.dumps([s.name for s in client.list_shard_snapshots('things', 0)]))");
    assert_eq!(listed, Value::Array(vec![]), "nothing stays on the server");

    let wanted = qdrant.answers("things");
    let target = Qdrant::start(&repo.path("target"), None);
    let report = repo.json(["restore", "latest", "--to", &target.url()]);
    assert_eq!(report["collections"]["things"], count, "{report}");
    assert_eq!(target.answers("things"), wanted);
    assert_eq!(target.answers("current"), wanted, "by its alias");
    assert_eq!(target.answers("few"), qdrant.answers("few"));
    // Nothing that is there is touched unasked; one collection, under another name, as it was before.
    let refused = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--include", "few"]);
    assert!(refused.contains("few") && refused.contains("--rename"), "{refused}");
    repo.ok([
        "restore",
        "latest~1",
        "--to",
        &target.url(),
        "--include",
        "things",
        "--rename",
        "things=before",
    ]);
    let before = target.answers("before");
    assert!(before != wanted && before[0] == count);
    repo.ok(["restore", "latest~1", "--to", &target.url(), "--include", "things", "--replace"]);
    assert_eq!(target.answers("things"), before);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn what_goes_wrong_is_told_and_makes_no_snapshot() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), Some("sesame"));
    qdrant.client("fill('things', 2000)");
    let url = qdrant.url();
    assert!(repo.fails(25, ["backup", &url]).contains("ESKER_QDRANT_API_KEY"));
    let backup = |code: i32| {
        let output = repo.command(["backup", &url]).env("ESKER_QDRANT_API_KEY", "sesame").output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(!text.contains("sesame"), "{text}");
        text
    };
    // Streamed, as new servers can, and made on the server's disk.
    for (how, fault, code, told) in [
        ("", "full", 25, "Broken pipe"),
        ("", "cut", 21, "broke off"),
        ("", "short", 21, "ended before"),
        ("", "dropped", 21, "ended before"),
        ("nostream", "full", 25, "No space left"),
        ("nostream", "flip", 21, "checksum"),
        ("nostream", "cut", 21, "broke off"),
    ] {
        for file in [how, fault].into_iter().filter(|file| !file.is_empty()) {
            qdrant.fault(file, Some(""));
        }
        let text = backup(code);
        assert!(text.contains(told), "{how} {fault}: {text}");
        for file in [how, fault].into_iter().filter(|file| !file.is_empty()) {
            qdrant.fault(file, None);
        }
        let left =
            qdrant.client("print(json.dumps([s.name for s in client.list_shard_snapshots('things', 0)]))");
        assert_eq!(left, Value::Array(vec![]), "{fault}");
    }
    assert_eq!(repo.snapshot_count(), 0);
    backup(0);
    let place = url.replace("http://", "http://:sesame@") + "/nothing";
    assert!(repo.fails(1, ["backup", &place]).contains("no collection 'nothing'"));
    let nobody = format!("qdrant+http://127.0.0.1:{}", free_port());
    assert!(repo.fails(25, ["backup", &nobody]).contains("cannot connect"));
    assert!(
        repo.fails(1, ["restore", "latest", "--to", &url.replace("http://", "http://:sesame@")])
            .contains("there already")
    );
}

#[test]
fn a_qdrant_that_is_cut_off_makes_no_snapshot() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    qdrant.client("fill('things', 300)");
    // What a backup reads, with the heads of its answers.
    let whole = repo.json(["backup", &qdrant.url()])["total_bytes_processed"].as_u64().unwrap();
    let random = noise(10, 8 * cuts() as usize);
    for bytes in random.chunks(8) {
        let at = u64::from_le_bytes(bytes.try_into().unwrap()) % whole;
        let url = format!("qdrant+http://127.0.0.1:{}", cut_after(qdrant.port(), at));
        let code = repo.run(["backup", &url]).status.code().unwrap();
        assert!([21, 25].contains(&code), "{at} of {whole}: {code}");
    }
    assert_eq!(repo.snapshot_count(), 1);
    repo.ok(["backup", &format!("qdrant+http://127.0.0.1:{}", cut_after(qdrant.port(), u64::MAX))]);
}
