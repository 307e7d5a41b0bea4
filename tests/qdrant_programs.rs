//! Programs of Qdrant's official client, each of which prints JSON.

use crate::harness::{server, source_root};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// A Python that has loaded the client (`tests/servers/qdrant_programs.py`), which takes more than a second of a core. It ends
/// with the test, as its input does.
struct Interpreter {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Those that run no program now.
static IDLE: Mutex<Vec<Interpreter>> = Mutex::new(vec![]);

impl Interpreter {
    fn start() -> Self {
        let mut command = Command::new(server("vectors/bin/python"));
        command.arg(source_root().join("tests/servers/qdrant_programs.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output) }
    }

    fn run(&mut self, program: &str) -> (String, Option<String>) {
        writeln!(self.input, "{}", Value::from(program)).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

/// Runs a program for the server at a port, with its key if it has one. What it prints is JSON, or nothing.
///
/// # Panics
///
/// The program fails.
pub(crate) fn run(port: u16, key: Option<&str>, program: &str) -> Value {
    let key = key.map_or_else(|| "None".into(), |key| format!("'{key}'"));
    let head = format!(
        "import json, random\nfrom qdrant_client import QdrantClient, models\n\
         client = QdrantClient(url='http://127.0.0.1:{port}', api_key={key}, timeout=120, check_compatibility=False)\n{HELPERS}"
    );
    // Not held while it runs: another thread may run one at the same time.
    let idle = IDLE.lock().unwrap().pop();
    let mut interpreter = idle.unwrap_or_else(Interpreter::start);
    let (printed, failure) = interpreter.run(&(head + program));
    IDLE.lock().unwrap().push(interpreter);
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    serde_json::from_str(&printed).unwrap_or(Value::Null)
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
