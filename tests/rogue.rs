//! What tests with servers of bad will share: a server that does with each connection what it is told, and commands that
//! must end by a signal, or fail within bounds of memory and time.

use crate::harness::{Process, Repo, run, wait_for};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a server does with a connection.
pub(crate) type Act = fn(&mut Session) -> std::io::Result<()>;

/// A connection of a client.
pub(crate) struct Session {
    pub(crate) stream: TcpStream,
    /// What clients said, of all sessions.
    pub(crate) heard: Arc<Mutex<Vec<u8>>>,
    came: Arc<AtomicU64>,
}

impl Session {
    /// Some of what the client says; nothing once it has hung up.
    pub(crate) fn hear(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64 << 10];
        let len = self.stream.read(&mut bytes)?;
        bytes.truncate(len);
        self.note(&bytes);
        Ok(bytes)
    }

    pub(crate) fn note(&self, bytes: &[u8]) {
        self.heard.lock().unwrap().extend_from_slice(bytes);
    }

    /// The client has come to where the test wants it.
    pub(crate) fn arrived(&self) {
        self.came.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Nothing, until the client hangs up.
    pub(crate) fn silence(&mut self) -> std::io::Result<()> {
        self.arrived();
        while !self.hear()?.is_empty() {}
        Ok(())
    }

    /// One byte a second.
    pub(crate) fn drip(&mut self, byte: u8) -> std::io::Result<()> {
        self.arrived();
        loop {
            self.say([byte])?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// The same without end.
    pub(crate) fn flood(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let many = bytes.repeat((1 << 16) / bytes.len() + 1);
        loop {
            self.stream.write_all(&many)?;
        }
    }
}

/// A running server; its threads end with the test's process.
pub(crate) struct Rogue {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    came: Arc<AtomicU64>,
}

impl Rogue {
    pub(crate) fn start(act: impl Fn(&mut Session) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_at(0, act)
    }

    /// The same at a port where another server was.
    pub(crate) fn start_at(
        port: u16,
        act: impl Fn(&mut Session) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heard, came) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicU64>::default());
        let (ours, act) = ((Arc::clone(&heard), Arc::clone(&came)), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, came) = (Arc::clone(&ours.0), Arc::clone(&ours.1));
                let act = Arc::clone(&act);
                std::thread::spawn(move || act(&mut Session { stream, heard, came }));
            }
        });
        Self { port, heard, came }
    }

    /// How often a client has come to where the test wants it.
    pub(crate) fn arrivals(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    pub(crate) fn has_heard(&self, words: &str) -> bool {
        self.heard.lock().unwrap().windows(words.len()).any(|some| some == words.as_bytes())
    }
}

/// Runs a command until `is_there`, then ends it by SIGTERM; what it said.
pub(crate) fn ended(repo: &Repo, args: &[&str], is_there: impl Fn() -> bool) -> String {
    ended_by("-TERM", repo, args, is_there)
}

/// The same by a signal of the caller's choice.
pub(crate) fn ended_by(signal: &str, repo: &Repo, args: &[&str], is_there: impl Fn() -> bool) -> String {
    let log = repo.path("stderr");
    let errors = std::fs::File::create(&log).unwrap();
    let mut command = repo.command(args);
    // A cache that knows nothing, so that everything is asked for.
    let cache = tempfile::tempdir().unwrap();
    command.env("ESKER_CACHE_DIR", cache.path()).stdout(Stdio::null()).stderr(errors);
    // A group of its own, which gets the signal as from a terminal.
    command.process_group(0);
    let mut child = Process(command.spawn().unwrap());
    wait_for(&format!("{args:?}: a request"), 20, || {
        assert!(
            child.0.try_wait().unwrap().is_none(),
            "{args:?}: {}",
            std::fs::read_to_string(&log).unwrap()
        );
        is_there()
    });
    std::thread::sleep(Duration::from_millis(200));
    run("kill", &[signal, "--", &format!("-{}", child.0.id())]);
    let signalled = Instant::now();
    // Two seconds, and what a busy machine needs besides.
    wait_for(&format!("{args:?}: its end"), 10, || child.0.try_wait().unwrap().is_some());
    let told = std::fs::read_to_string(&log).unwrap();
    let code = child.0.wait().unwrap().code();
    assert_eq!(code, Some(130), "{args:?} after {:?}: {told}", signalled.elapsed());
    told
}

/// Runs a command that is to fail; what it said. It, and each program that it started, has taken no more than `mib` of
/// memory.
pub(crate) fn fails_within(repo: &Repo, mib: u64, seconds: u64, args: &[&str]) -> String {
    let (code, told) = failed_within(repo, mib, seconds, args);
    assert!(code.is_some_and(|code| code != 0 && code != 101), "{args:?}: {code:?} {told}");
    told
}

/// The same with an exit code of `codes`.
pub(crate) fn fails_with(codes: &[i32], repo: &Repo, mib: u64, seconds: u64, args: &[&str]) -> String {
    let (code, told) = failed_within(repo, mib, seconds, args);
    assert!(code.is_some_and(|code| codes.contains(&code)), "{args:?}: {code:?} {told}");
    told
}

fn failed_within(repo: &Repo, mib: u64, seconds: u64, args: &[&str]) -> (Option<i32>, String) {
    let log = repo.path("stderr");
    let errors = std::fs::File::create(&log).unwrap();
    let mut child = Process(repo.command(args).stdout(Stdio::null()).stderr(errors).spawn().unwrap());
    let began = Instant::now();
    let code = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status.code();
        }
        for (name, peak) in family(child.0.id()) {
            assert!(peak <= mib, "{args:?}: {name} {peak} MiB");
        }
        assert!(began.elapsed() < Duration::from_secs(seconds), "{args:?}: not after {seconds} s");
        std::thread::sleep(Duration::from_millis(10));
    };
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(!told.contains("panicked"), "{args:?}: {told}");
    (code, told)
}

/// Names of a process and its children, with the most memory that each has had, in MiB. One that has ended has none.
fn family(process: u32) -> Vec<(String, u64)> {
    let list = |id: u32| {
        std::fs::read_dir(format!("/proc/{id}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
            .collect::<Vec<u32>>()
    };
    let peak = |id: u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let peak = value("VmHWM:")?.trim_end_matches(" kB").parse::<u64>().ok()?;
        Some((value("Name:").unwrap_or_default().to_owned(), peak / 1024))
    };
    std::iter::once(process).chain(list(process)).filter_map(peak).collect()
}
