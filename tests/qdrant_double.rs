//! A Qdrant for tests (`tests/servers/qdrant.py`), driven by the official client.

use crate::harness::{Process, free_port, server, source_root, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server, or a cluster of them.
pub(crate) struct Qdrant {
    _process: Process,
    pub(crate) folder: PathBuf,
    ports: Vec<u16>,
    key: Option<&'static str>,
}

impl Qdrant {
    /// A server by itself.
    pub(crate) fn start(folder: &Path, key: Option<&'static str>) -> Self {
        Self::launch(folder, vec![free_port()], "", key)
    }

    /// A cluster of so many nodes.
    pub(crate) fn cluster(folder: &Path, nodes: usize) -> Self {
        let mark = if nodes == 1 { "+" } else { "" };
        Self::launch(folder, (0..nodes).map(|_| free_port()).collect(), mark, None)
    }

    fn launch(folder: &Path, ports: Vec<u16>, mark: &str, key: Option<&'static str>) -> Self {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut command = Command::new(server("vectors/bin/python"));
        command
            .arg(source_root().join("tests/servers/qdrant.py"))
            .arg(list.join(",") + mark)
            .arg(folder)
            .args(key);
        let process = Process::start(&mut command);
        for port in &ports {
            wait_for("qdrant", 60, || std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok());
        }
        Self { _process: process, folder: folder.to_owned(), ports, key }
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(crate) fn url(&self) -> String {
        self.node(0)
    }

    /// The URL of a node.
    pub(crate) fn node(&self, number: usize) -> String {
        format!("qdrant+http://127.0.0.1:{}", self.ports[number])
    }

    /// Makes a fault, or takes it away.
    pub(crate) fn fault(&self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => std::fs::write(self.folder.join(name), text).unwrap(),
            None => std::fs::remove_file(self.folder.join(name)).unwrap(),
        }
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs a program of the official client, which prints JSON.
    pub(crate) fn client(&self, program: &str) -> Value {
        let key = self.key.map_or_else(|| "None".into(), |key| format!("'{key}'"));
        let head = format!(
            "import json, random\nfrom qdrant_client import QdrantClient, models\nimport warnings\nwarnings.simplefilter('ignore')\n\
             client = QdrantClient(url='http://127.0.0.1:{}', api_key={key}, timeout=120, check_compatibility=False)\n{HELPERS}",
            self.port()
        );
        let output =
            Command::new(server("vectors/bin/python")).args(["-c", &(head + program)]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub(crate) fn answers(&self, collection: &str) -> Value {
        self.client(&format!("print(json.dumps(answers('{collection}')))"))
    }

    /// Every collection with its configuration, its indexes and all of its points; and all aliases.
    pub(crate) fn everything(&self) -> Value {
        self.client("print(json.dumps(everything()))")
    }
}

const HELPERS: &str = r#"
def vector(seed, size=128):
    rng = random.Random(seed)
    return [rng.random() for _ in range(size)]
def points(count, seed=0, size=128, first=0):
    return [models.PointStruct(id=i, vector=vector(i + seed, size), payload={'n': i, 'text': 'point %d' % i, 'kw': 'abc'[i % 3]}) for i in range(first, first + count)]
def fill(name, count, seed=0, size=128, **more):
    client.create_collection(name, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE), **more)
    for start in range(0, count, 1000):
        client.upsert(name, points(min(1000, count - start), seed, size, start), wait=True)
def alias(**names):
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias)) for alias, name in names.items()])
def answers(name):
    found = []
    for seed in range(20):
        points = client.query_points(name, query=vector(-seed - 1), limit=5).points
        found.append([[point.id, round(point.score, 5), point.payload] for point in points])
    return [client.count(name, exact=True).count, found]
def scroll(name, **more):
    all, offset = [], None
    while True:
        part, offset = client.scroll(name, limit=1000, offset=offset, with_payload=True, with_vectors=True, **more)
        all += [[point.id, point.payload, point.vector] for point in part]
        if offset is None:
            return all
def everything():
    found = {}
    for name in sorted(collection.name for collection in client.get_collections().collections):
        info = client.get_collection(name)
        schema = {field: index.model_dump(mode='json') for field, index in info.payload_schema.items()}
        found[name] = {'config': info.config.model_dump(mode='json'), 'schema': schema, 'points': scroll(name)}
    return [found, sorted([alias.alias_name, alias.collection_name] for alias in client.get_aliases().aliases)]
"#;
