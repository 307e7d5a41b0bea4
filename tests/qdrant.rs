//! Qdrant: a double of its REST interface over shards of its own engine (`tests/servers/qdrant.py`), driven by the
//! official client as well, so that it is right and not merely agreeable.

use crate::harness::{Process, Repo, free_port, noise, server, source_root, wait_for};
use crate::relay::{cut_after, cuts};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

struct Qdrant {
    _process: Process,
    port: u16,
    key: Option<&'static str>,
}

impl Qdrant {
    fn start(folder: &Path, key: Option<&'static str>) -> Self {
        let port = free_port();
        let mut command = Command::new(server("vectors/bin/python"));
        command
            .arg(source_root().join("tests/servers/qdrant.py"))
            .arg(port.to_string())
            .arg(folder)
            .args(key);
        let qdrant = Self { _process: Process::start(&mut command), port, key };
        wait_for("qdrant", 60, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        qdrant
    }

    fn url(&self) -> String {
        format!("qdrant+http://127.0.0.1:{}", self.port)
    }

    /// Runs a program of the official client, which prints JSON.
    fn client(&self, program: &str) -> Value {
        let key = self.key.map_or_else(|| "None".into(), |key| format!("'{key}'"));
        let head = format!(
            "import json, random\nfrom qdrant_client import QdrantClient, models\nimport warnings\nwarnings.simplefilter('ignore')\n\
             client = QdrantClient(url='http://127.0.0.1:{}', api_key={key}, timeout=120, check_compatibility=False)\n{HELPERS}",
            self.port
        );
        let output =
            Command::new(server("vectors/bin/python")).args(["-c", &(head + program)]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn answers(&self, collection: &str) -> Value {
        self.client(&format!("print(json.dumps(answers('{collection}')))"))
    }
}

const HELPERS: &str = r#"
def vector(seed):
    rng = random.Random(seed)
    return [rng.random() for _ in range(128)]
def fill(name, count, seed=0):
    client.create_collection(name, vectors_config=models.VectorParams(size=128, distance=models.Distance.COSINE))
    for start in range(0, count, 1000):
        client.upsert(name, [models.PointStruct(id=i, vector=vector(i + seed), payload={'n': i, 'text': 'point %d' % i}) for i in range(start, min(start + 1000, count))], wait=True)
def answers(name):
    found = []
    for seed in range(20):
        points = client.query_points(name, query=vector(-seed - 1), limit=5).points
        found.append([[point.id, round(point.score, 5), point.payload] for point in points])
    return [client.count(name, exact=True).count, found]
"#;

#[test]
fn a_second_night_costs_what_changed_and_comes_back() {
    let count: u32 =
        std::env::var("ESKER_QDRANT_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000);
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
    let folder = repo.path("qdrant");
    let qdrant = Qdrant::start(&folder, Some("sesame"));
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
    for (fault, code, told) in
        [("full", 25, "No space left"), ("flip", 21, "checksum"), ("cut", 21, "broke off")]
    {
        std::fs::write(folder.join(fault), "").unwrap();
        assert!(backup(code).contains(told), "{fault}");
        std::fs::remove_file(folder.join(fault)).unwrap();
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
        let url = format!("qdrant+http://127.0.0.1:{}", cut_after(qdrant.port, at));
        let code = repo.run(["backup", &url]).status.code().unwrap();
        assert!([21, 25].contains(&code), "{at} of {whole}: {code}");
    }
    assert_eq!(repo.snapshot_count(), 1);
    repo.ok(["backup", &format!("qdrant+http://127.0.0.1:{}", cut_after(qdrant.port, u64::MAX))]);
}
