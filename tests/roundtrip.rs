//! Material that nobody here wrote, there and back: what scripts/roundtrip.sh fetched. A piece that is not in the cache is
//! skipped with a message. All differences of a piece are told, not only the first.

mod difference;
mod mariadb;
mod mysqltest;
mod postgres;
mod rdb;

use crate::harness::Repo;
use std::path::PathBuf;

/// A folder that scripts/roundtrip.sh fetched.
fn piece(name: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let folder = match variable("ESKER_ROUNDTRIP") {
        Some(folder) => folder,
        None => cache()?.join("esker/roundtrip"),
    };
    let path = folder.join(name);
    if !path.is_dir() {
        println!("skipped: {name} is not there: run scripts/roundtrip.sh");
        return None;
    }
    Some(path)
}

/// Whether `make roundtrip` asks for what takes minutes, too.
fn is_large() -> bool {
    std::env::var_os("ESKER_ROUNDTRIP_LARGE").is_some()
}

/// A piece that takes minutes.
fn large_piece(name: &str) -> Option<PathBuf> {
    if !is_large() {
        println!("skipped: {name}: make roundtrip runs it");
        return None;
    }
    piece(name)
}

/// What was found out about a piece.
struct Findings {
    name: String,
    differences: Vec<String>,
}

impl Findings {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), differences: vec![] }
    }

    /// Notes what is not as it should be, shortened, and goes on.
    fn differs(&mut self, what: &str) {
        let what: String = what.trim_end().chars().take(2000).collect();
        println!("{}: {what}", self.name);
        self.differences.push(what);
    }

    /// Runs esker; whether it succeeded.
    fn run(&mut self, repo: &Repo, args: &[&str]) -> bool {
        let output = repo.run(args);
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            self.differs(&format!("'esker {}': {}: {text}", args.join(" "), output.status));
        }
        output.status.success()
    }

    /// Fails if anything was noted.
    fn end(self) {
        let first: Vec<_> = self.differences.iter().take(100).map(String::as_str).collect();
        let count = self.differences.len();
        assert!(count == 0, "{}: {count} differences:\n{}", self.name, first.join("\n"));
    }
}
