//! What all tests use: the binary under test, repositories in temporary folders, server processes.

use crate::begun;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::storage::Storage;
use chunkstore::store::{Access, Identity};
use engine::columns::SnapshotColumns;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The `esker` that was built beside this test binary.
pub(crate) fn esker_binary() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let binary = this.parent().and_then(Path::parent).unwrap().join("esker");
    assert!(
        binary.exists(),
        "{} is missing: run 'make test', or cargo build --release first",
        binary.display()
    );
    binary
}

/// The root of the source tree.
pub(crate) fn source_root() -> PathBuf {
    // As cargo sets it for the running test: two clones share the target folder, and a binary that the other
    // one built counts as fresh here.
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_owned()
}

/// A binary that scripts/install-servers.sh unpacked.
pub(crate) fn server(name: &str) -> PathBuf {
    let path = server_place(name);
    assert!(path.exists(), "{} is missing: run scripts/install-servers.sh", path.display());
    path
}

/// One that cannot be had everywhere: where it is not, the test says so and does without.
pub(crate) fn server_if_there(name: &str) -> Option<PathBuf> {
    let path = server_place(name);
    if !path.exists() {
        println!("skipped: {} is not there; scripts/install-servers.sh says why", path.display());
        return None;
    }
    Some(path)
}

fn server_place(name: &str) -> PathBuf {
    let folder = match std::env::var_os("ESKER_TEST_SERVERS") {
        Some(folder) => PathBuf::from(folder),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(cache) => PathBuf::from(cache),
            None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        }
        .join("esker/servers"),
    };
    folder.join(name)
}

/// Whether folders and servers outlive their test, for a look at them: docs/debugging.md.
fn keeps() -> bool {
    std::env::var_os("ESKER_TEST_KEEP").is_some_and(|value| !value.is_empty())
}

/// A folder that is removed when it is dropped, unless `ESKER_TEST_KEEP` is set.
fn scratch() -> TempDir {
    let mut folder = tempfile::tempdir().unwrap();
    if keeps() {
        println!("kept: {}", folder.path().display());
        folder.disable_cleanup(true);
    }
    folder
}

/// Waits until a file that was written just now counts as unchanged in the backup after the next one: a change within
/// the grain of the clock would not show in its metadata.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

/// How `esker.toml` names a primary in the folder `repo`.
const PRIMARIES: &[&str] = &["repository = \"DIR/repo\"", "url = \"file:DIR/repo\""];

/// A repository with its own cache and scratch folder.
pub(crate) struct Repo {
    pub(crate) dir: TempDir,
    place: String,
    environment: Vec<(String, String)>,
}

impl Repo {
    /// A folder that is no repository yet.
    pub(crate) fn empty() -> Self {
        let dir = scratch();
        let place = dir.path().join("repo").display().to_string();
        Self { dir, place, environment: vec![] }
    }

    /// A fresh repository on local disk, whose password costs little.
    pub(crate) fn new() -> Self {
        Self::made(&[])
    }

    /// The same with options of `esker init`.
    pub(crate) fn made(options: &[&str]) -> Self {
        let repo = Self::empty();
        begun::in_folder(repo.folder(), options);
        repo.ok([&["init"], options].concat());
        repo
    }

    /// A fresh repository elsewhere.
    pub(crate) fn at(place: String, environment: Vec<(String, String)>) -> Self {
        let repo = Self { dir: scratch(), place, environment };
        repo.ok(["init"]);
        repo
    }

    /// A primary on local disk with the tiers, sources and promises of `toml`, in which `DIR` is the scratch
    /// folder. Made, unless `init` says no; its password costs little.
    pub(crate) fn with_tiers(toml: &str, environment: &[(&str, &str)], init: bool) -> Self {
        let dir = scratch();
        let path = dir.path().join("esker.toml");
        std::fs::write(&path, toml.replace("DIR", &dir.path().display().to_string())).unwrap();
        let mut all: Vec<(String, String)> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        all.push(("ESKER_CONFIG".into(), path.display().to_string()));
        let repo = Self { dir, place: String::new(), environment: all };
        if init {
            let own = ["ESKER_PASSWORD", "ESKER_PASSWORD_FILE", "ESKER_KEY_FILE"];
            let primary = toml.lines().any(|line| PRIMARIES.contains(&line));
            if primary && !repo.environment.iter().any(|(name, _)| own.contains(&name.as_str())) {
                begun::in_folder(&repo.path("repo"), &[]);
            }
            // Tiers that cannot be reached yet are made later.
            let made = repo.run(["init"]);
            assert!(matches!(made.status.code(), Some(0 | 3)), "{made:?}");
        }
        repo
    }

    /// The repository of another one, by another way, with a cache of its own.
    pub(crate) fn again(other: &Self, place: String) -> Self {
        Self { dir: scratch(), place, environment: other.environment.clone() }
    }

    /// The same with a variable for every command.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the scratch folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The repository's folder.
    pub(crate) fn folder(&self) -> &Path {
        Path::new(&self.place)
    }

    /// The command with repository, password and cache set.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(esker_binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TZ", "UTC")
            .env("HOME", self.dir.path());
        if !self.place.is_empty() {
            command.env("ESKER_REPOSITORY", &self.place);
        }
        command.env("ESKER_PASSWORD", begun::PASSWORD);
        command.env("ESKER_CACHE_DIR", self.path("cache")).envs(self.environment.iter().cloned());
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs it, whatever comes of it.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it and demands success; returns standard output.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        expect(&self.run(args), 0)
    }

    /// Runs it and demands an exit code; returns standard error.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        expect(&output, code);
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs it with `--json` and returns the last line of standard output.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(["--json"]);
        command.args(args);
        let text = expect(&command.output().unwrap(), 0);
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }

    /// Feeds bytes to standard input.
    pub(crate) fn feed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// How many snapshots there are.
    pub(crate) fn snapshot_count(&self) -> usize {
        self.json(["snapshots"]).as_array().unwrap().len()
    }
}

/// Demands an exit code; returns standard output.
pub(crate) fn expect(output: &Output, code: i32) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    stdout.into_owned()
}

/// A port that nobody listens on, nor on that plus 10,000, and that no other test gets while this process lives. Below
/// those that the kernel gives to connections, one of which could have it before the server does.
pub(crate) fn free_port() -> u16 {
    let folder = std::env::temp_dir().join("esker-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    let random = std::collections::hash_map::RandomState::new();
    let start = std::hash::BuildHasher::hash_one(&random, std::process::id()) % 10_000;
    let take = |port: u16| {
        let lock = std::fs::File::create(folder.join(port.to_string())).ok()?;
        lock.try_lock().ok()?;
        std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
        Some(lock)
    };
    for number in 0..10_000 {
        let port = 10_000 + ((start + number) % 10_000) as u16;
        if let Some(lock) = take(port)
            && take(port + 10_000).is_some()
        {
            // Held until the process ends.
            std::mem::forget(lock);
            return port;
        }
    }
    panic!("no port is free");
}

/// A server process; killed when dropped, unless `ESKER_TEST_KEEP` is set.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if keeps() {
            println!("kept: process {}", self.0.id());
            return;
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, seconds: u64, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(seconds), "{what}: not after {seconds} s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program and demands success; returns standard output.
pub(crate) fn run(program: impl AsRef<OsStr>, args: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {stderr}", program.as_ref().to_string_lossy());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators".
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Lines of numbered text, the same for the same seed.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    let mut number = seed;
    while bytes.len() < len {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(bytes, "{}\tcustomer {:06}\tbalance {}", bytes.len(), number >> 44, number >> 50).unwrap();
    }
    bytes.truncate(len);
    bytes
}

/// In the scratch folder: an authority `ca`, and certificates of it, with their keys, for a `server` at 127.0.0.1 and for
/// a `client`; `other` is an authority that nobody knows.
pub(crate) fn certificates(repo: &Repo) {
    let script = "
        ec='ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        for name in ca other; do
            openssl req -x509 -newkey $ec -keyout $name.key -out $name.pem -days 2 -subj /CN=$name -addext basicConstraints=critical,CA:TRUE
        done
        for name in server client; do
            openssl req -newkey $ec -keyout $name.key -out $name.csr -subj /CN=$name
            printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > $name.ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile $name.ext
        done";
    let made = Command::new("sh").args(["-ec", script]).current_dir(repo.dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// How the library reaches what is in `storage`: without a cache, on the threads that call it.
pub(crate) fn access(storage: Arc<dyn Storage>) -> Access {
    Access {
        storage,
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
    }
}
