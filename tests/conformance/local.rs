//! What the suite is run for and is no server: folders, commands, files that a server wrote, data directories.

use super::fixtures::{Fixture, RedisOf, System};
use crate::harness::{Repo, noise, run};
use crate::pg::Postgres;
use crate::redis::{Redis, apt_redis};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(super) const FILES: System = System {
    name: "files",
    secret: None,
    cut_off: &[],
    start: |repo, folder| {
        std::fs::create_dir(repo.path(folder)).unwrap();
        Box::new(Folder { path: repo.path(folder), name: folder.to_owned() })
    },
};

/// A folder, or what a restore made in it of one that is called `one`.
struct Folder {
    path: PathBuf,
    name: String,
}

/// Names and contents of the files of a folder, in order.
fn files(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return String::new() };
    let mut all: Vec<Value> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            json!([
                entry.file_name().to_str(),
                blake3::hash(&std::fs::read(entry.path()).unwrap()).to_string()
            ])
        })
        .collect();
    all.sort_by_key(Value::to_string);
    json!(all).to_string()
}

impl Fixture for Folder {
    fn fill(&self, seed: u64) {
        std::fs::create_dir_all(self.path.join("in")).unwrap();
        for number in 0..40 {
            std::fs::write(self.path.join(format!("in/{number}")), noise(seed + number, 10_000)).unwrap();
        }
    }
    fn change(&self, seed: u64) {
        std::fs::write(self.path.join("in/7"), seed.to_string()).unwrap();
    }
    fn state(&self) -> String {
        let restored = self.path.join("one/in");
        files(&if restored.exists() { restored } else { self.path.join("in") })
    }
    fn backup(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--target".into(), self.name.clone()]
    }
    fn over(&self) -> Option<&'static [&'static str]> {
        Some(&[])
    }
    /// Each file is whole, as it was or as it was saved.
    fn tells(&self, _: &str, before: &str, saved: &str) -> bool {
        let list = |text: &str| -> Vec<Value> { serde_json::from_str(text).unwrap_or_default() };
        let (before, saved) = (list(before), list(saved));
        list(&self.state()).iter().all(|file| before.contains(file) || saved.contains(file))
    }
}

pub(super) const PIPE: System = System {
    name: "pipe",
    secret: None,
    cut_off: &[],
    start: |repo, folder| Box::new(Pipe(repo.path(folder))),
};

/// What a command prints, or what a restore made of it in a folder beside.
struct Pipe(PathBuf);

impl Fixture for Pipe {
    fn fill(&self, seed: u64) {
        std::fs::write(&self.0, noise(seed, 500_000)).unwrap();
    }
    fn change(&self, seed: u64) {
        let text = [seed.to_string().into_bytes(), std::fs::read(&self.0).unwrap()].concat();
        std::fs::write(&self.0, text).unwrap();
    }
    fn state(&self) -> String {
        let restored = std::fs::read(self.0.with_extension("back").join("dump"));
        restored
            .or_else(|_| std::fs::read(&self.0))
            .map_or_else(|_| String::new(), |bytes| blake3::hash(&bytes).to_string())
    }
    fn backup(&self) -> Vec<String> {
        let name = self.0.display().to_string();
        ["--stdin-filename", "dump", "--stdin-from-command", "--", "cat", &name].map(str::to_owned).to_vec()
    }
    fn restore(&self) -> Vec<String> {
        vec!["--target".into(), self.0.with_extension("back").display().to_string()]
    }
    fn over(&self) -> Option<&'static [&'static str]> {
        Some(&[])
    }
}

pub(super) const REDIS_RDB: System = System {
    name: "redis+rdb",
    secret: Some("sesame"),
    cut_off: &[],
    start: |repo, folder| RedisFile::start(repo, folder, false),
};

pub(super) const REDIS_AOF: System = System {
    name: "redis+aof",
    secret: Some("sesame"),
    cut_off: &[],
    start: |repo, folder| RedisFile::start(repo, folder, true),
};

/// What a server writes: its dump, or its append-only files.
struct RedisFile {
    server: RedisOf,
    /// What is backed up.
    path: PathBuf,
    is_log: bool,
}

impl RedisFile {
    fn start(repo: &Repo, folder: &str, is_log: bool) -> Box<dyn Fixture> {
        let mut settings = vec!["--repl-diskless-sync-delay", "0", "--requirepass", "sesame"];
        // Of two files in one set, the names differ.
        match is_log {
            true => {
                settings.extend([
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                    "--appenddirname",
                    folder,
                ]);
            }
            false => settings.extend(["--dbfilename", folder]),
        }
        let path = repo.path(folder).join(folder);
        let server = Redis::start(&apt_redis(), &repo.path(folder), &settings);
        Box::new(Self { server: RedisOf { server, scheme: "redis" }, path, is_log })
    }

    fn save(&self) {
        if !self.is_log {
            self.server.server.cli(&["SAVE"]);
        }
    }
}

impl Fixture for RedisFile {
    fn fill(&self, seed: u64) {
        self.server.fill(seed);
        self.save();
    }
    fn change(&self, seed: u64) {
        self.server.change(seed);
        self.save();
    }
    fn state(&self) -> String {
        self.server.state()
    }
    fn backup(&self) -> Vec<String> {
        let scheme = if self.is_log { "aof" } else { "rdb" };
        vec![format!("redis+{scheme}://{}", self.path.display())]
    }
    fn restore(&self) -> Vec<String> {
        self.server.restore()
    }
    fn over(&self) -> Option<&'static [&'static str]> {
        Some(&["--whole", "--yes"])
    }
    fn tells(&self, said: &str, before: &str, saved: &str) -> bool {
        self.server.tells(said, before, saved)
    }
}

pub(super) const PHYSICAL: System = System {
    name: "postgres+physical",
    secret: Some("sesame"),
    cut_off: &[21, 25],
    start: |repo, folder| {
        let server = Postgres::version(repo, 15, folder, &[]);
        Box::new(Physical { server, back: repo.path(&format!("{folder}-back")) })
    },
};

/// A server, or one that is started on the data directory that a restore made beside.
struct Physical {
    server: Postgres,
    back: PathBuf,
}

impl Fixture for Physical {
    fn fill(&self, seed: u64) {
        self.server.fill(seed);
    }
    fn change(&self, seed: u64) {
        self.server.change(seed);
    }
    fn state(&self) -> String {
        let data = self.back.join("data");
        let is_empty = std::fs::read_dir(&data).map_or(true, |mut entries| entries.next().is_none());
        if is_empty {
            return self.server.state();
        }
        if rustix::process::geteuid().is_root() {
            run("chown", &["postgres", self.back.to_str().unwrap()]);
        }
        let mut server = Postgres::on(self.server.bin.clone(), self.back.clone(), &[]);
        crate::harness::wait_for("recovery", 60, || {
            server.sql("postgres", "SELECT pg_is_in_recovery()") == "f"
        });
        let state = server.state();
        server.stop();
        state
    }
    fn backup(&self) -> Vec<String> {
        vec![self.server.url().replace("postgres://", "postgres+physical://")]
    }
    fn restore(&self) -> Vec<String> {
        std::fs::create_dir_all(&self.back).unwrap();
        vec!["--target".into(), self.back.join("data").display().to_string(), "--prepare".into()]
    }
    fn port(&self) -> Option<u16> {
        Some(self.server.port)
    }
    fn over(&self) -> Option<&'static [&'static str]> {
        None
    }
    fn plans(&self) -> bool {
        false
    }
    fn clear(&self, said: Option<&str>) {
        let data = self.back.join("data");
        if std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some()) {
            let is_told = |said: &str| said.contains("is not whole, and no server starts on it");
            assert!(said.is_none_or(is_told), "{said:?}");
            std::fs::remove_dir_all(&data).unwrap();
        }
    }
}
