//! The servers that the suite is run for.

use super::list::{ListServer, TOKEN};
use crate::harness::{Repo, noise};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One of a system: a server, a folder, a command.
pub(super) trait Fixture {
    /// Puts data there, the same for the same seed.
    fn fill(&self, seed: u64);
    /// Changes a little of it.
    fn change(&self, seed: u64);
    /// What is there, in a form that is equal if the data is equal.
    fn state(&self) -> String;
    /// The words that `esker backup` is given.
    fn backup(&self) -> Vec<String>;
    /// The words that `esker restore` is given.
    fn restore(&self) -> Vec<String>;
    /// The port of its server.
    fn port(&self) -> Option<u16> {
        None
    }
    /// The words of a restore over what is there; `None` if that is always refused.
    fn over(&self) -> Option<&'static [&'static str]> {
        Some(&["--replace"])
    }
    /// Whether `--dry-run` is a choice of its restores.
    fn plans(&self) -> bool {
        true
    }
    /// Whether what a restore said that came to no end tells how things stand, which are neither as they were before nor
    /// `saved`.
    fn tells(&self, _said: &str, _before: &str, _saved: &str) -> bool {
        false
    }
    /// Looks at what a restore left that was interrupted and said this, or that is done, and clears it away where nothing is
    /// restored over it.
    fn clear(&self, _said: Option<&str>) {}
}

/// A system, and how one of it is started in a folder of the scratch folder.
pub(super) struct System {
    pub(super) name: &'static str,
    /// The password that must not be seen.
    pub(super) secret: Option<&'static str>,
    /// The exit codes of a backup whose server is gone in the middle.
    pub(super) cut_off: &'static [i32],
    pub(super) start: fn(&Repo, &str) -> Box<dyn Fixture>,
}

/// Text without repetition.
fn text(seed: u64, len: usize) -> String {
    noise(seed, len / 2).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) const EXAMPLE: System = System {
    name: "example",
    secret: Some(TOKEN),
    cut_off: &[21, 25],
    start: |_, _| Box::new(ListServer::start()),
};

impl ListServer {
    fn url(&self) -> String {
        format!("example+http://127.0.0.1:{}/some/list", self.port)
    }
}

impl Fixture for ListServer {
    fn fill(&self, seed: u64) {
        let mut items = self.shared.items.lock().unwrap();
        items.clear();
        for number in 0..40 {
            items.insert(format!("item {number}"), json!({"n": number, "text": text(seed + number, 20_000)}));
        }
        for name in ["", ".", "..", "a/b", "ä&=%2F+", "zero\u{0}"] {
            items.insert(name.into(), json!([name, null, -1.5, u64::MAX]));
        }
    }
    fn change(&self, seed: u64) {
        self.shared.items.lock().unwrap().insert("item 7".into(), json!(seed));
    }
    fn state(&self) -> String {
        json!(*self.shared.items.lock().unwrap()).to_string()
    }
    fn backup(&self) -> Vec<String> {
        vec![self.url()]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--to".into(), self.url()]
    }
    /// How many items are written: of six, the value is the same whatever was saved, and of the last, the answer may be missing.
    fn tells(&self, said: &str, _: &str, saved: &str) -> bool {
        let saved: BTreeMap<String, Value> = serde_json::from_str(saved).unwrap();
        let items = self.shared.items.lock().unwrap();
        let equal = items.iter().filter(|(name, value)| saved.get(*name) == Some(value)).count();
        let told = |count: usize| said.contains(&format!("{count} of {} items are in", saved.len()));
        (equal.saturating_sub(7)..=equal).any(told)
    }
    fn port(&self) -> Option<u16> {
        Some(self.port)
    }
}

pub(super) const REDIS: System = System {
    name: "redis",
    secret: Some("sesame"),
    cut_off: &[21, 25],
    start: |repo, folder| Box::new(RedisOf { server: redis(repo, folder), scheme: "redis" }),
};

pub(super) const REDIS_SCAN: System = System {
    name: "redis+scan",
    secret: Some("sesame"),
    cut_off: &[21, 25],
    start: |repo, folder| Box::new(RedisOf { server: redis(repo, folder), scheme: "redis+scan" }),
};

fn redis(repo: &Repo, folder: &str) -> Redis {
    let settings = ["--repl-diskless-sync-delay", "0", "--requirepass", "sesame"];
    Redis::start(&apt_redis(), &repo.path(folder), &settings)
}

pub(super) struct RedisOf {
    pub(super) server: Redis,
    pub(super) scheme: &'static str,
}

impl RedisOf {
    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://:sesame@127.0.0.1:{}", self.server.port())
    }
}

impl Fixture for RedisOf {
    fn fill(&self, seed: u64) {
        let script = "for i = 1, 4000 do redis.call('SET', 'k'..i, redis.sha1hex(ARGV[1]..i)..redis.sha1hex(i..ARGV[1])..redis.sha1hex('x'..i..ARGV[1])) end";
        self.server.cli(&["FLUSHALL"]);
        self.server.cli(&["EVAL", script, "0", &seed.to_string()]);
    }
    fn change(&self, seed: u64) {
        self.server.cli(&["SET", "k7", &seed.to_string()]);
    }
    fn state(&self) -> String {
        self.server.digest()
    }
    fn backup(&self) -> Vec<String> {
        vec![self.url(self.scheme)]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--to".into(), self.url("redis")]
    }
    /// How many keys are no more as `fill` made them with 3; or that the server has a part, and the way back.
    fn tells(&self, said: &str, _: &str, _: &str) -> bool {
        let script = "local n = 0 for i = 1, 4000 do local is = redis.sha1hex('3'..i)..redis.sha1hex(i..'3')..redis.sha1hex('x'..i..'3') if redis.call('GET', 'k'..i) ~= is then n = n + 1 end end return n";
        let written = self.server.cli(&["EVAL", script, "0"]);
        let way_back = "has a part of the snapshot now; to go back: esker restore";
        said.contains(&format!("{} keys are written in", written.trim())) || said.contains(way_back)
    }
    fn port(&self) -> Option<u16> {
        Some(self.server.port())
    }
}

pub(super) const MYSQL: System = System {
    name: "mysql",
    secret: Some("ses\"ame#"),
    cut_off: &[20, 21, 25],
    start: |repo, folder| Box::new(Maria::start(repo, folder)),
};

impl Fixture for Maria {
    fn fill(&self, seed: u64) {
        self.root("DROP DATABASE IF EXISTS shop; CREATE DATABASE shop");
        self.root(&format!("CREATE TABLE shop.t AS SELECT seq, SHA2(seq + {seed}000000, 512) AS a, SHA2(seq + {seed}500000, 512) AS b FROM shop.seq_1_to_3000"));
    }
    fn change(&self, seed: u64) {
        self.root(&format!("UPDATE shop.t SET a = '{seed}' WHERE seq = 7"));
    }
    fn state(&self) -> String {
        let all = self.root("SHOW DATABASES");
        let shop = all.lines().any(|name| name == "shop").then(|| self.dumped("shop"));
        all + "\n" + &shop.unwrap_or_default()
    }
    fn backup(&self) -> Vec<String> {
        vec![format!("{}/shop", self.url())]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--to".into(), format!("{}/shop", self.url())]
    }
    fn tells(&self, said: &str, before: &str, saved: &str) -> bool {
        tells_beside("shop.esker-", &self.state(), said, before, saved)
    }
    fn port(&self) -> Option<u16> {
        Some(self.port)
    }
}

/// Each database beside that is left is named, and all others are as they were or as they were saved.
fn tells_beside(beside: &str, now: &str, said: &str, before: &str, saved: &str) -> bool {
    let is_beside = |line: &&str| line.starts_with(beside);
    let others = |state: &str| state.lines().filter(|line| !is_beside(line)).collect::<Vec<_>>().join("\n");
    let is_named = now.lines().filter(is_beside).all(|name| said.contains(name) || before.contains(name));
    is_named && [before, saved].iter().any(|state| others(state) == others(now))
}

pub(super) const POSTGRES: System = System {
    name: "postgres",
    secret: Some("sesame"),
    cut_off: &[20, 21, 25],
    start: |repo, folder| Box::new(Postgres::version(repo, 15, folder, &[])),
};

impl Fixture for Postgres {
    fn fill(&self, seed: u64) {
        self.each("postgres", &["DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop"]);
        self.sql("shop", &format!("CREATE TABLE t AS SELECT i, sha512(('{seed} ' || i)::bytea) AS a, sha512((i || ' {seed}')::bytea) AS b FROM generate_series(1, 3000) i"));
    }
    fn change(&self, seed: u64) {
        self.sql("shop", &format!("UPDATE t SET a = '{seed}' WHERE i = 7"));
    }
    fn state(&self) -> String {
        let all = self.sql("postgres", "SELECT datname FROM pg_database ORDER BY 1");
        let shop = all.lines().any(|name| name == "shop").then(|| self.dumped("shop"));
        all + "\n" + &shop.unwrap_or_default()
    }
    fn backup(&self) -> Vec<String> {
        vec![format!("{}/shop", self.url())]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--to".into(), format!("{}/shop", self.url())]
    }
    fn tells(&self, said: &str, before: &str, saved: &str) -> bool {
        tells_beside("esker_restore_", &self.state(), said, before, saved)
    }
    fn port(&self) -> Option<u16> {
        Some(self.port)
    }
}

pub(super) const QDRANT: System = System {
    name: "qdrant",
    secret: Some("sesame"),
    cut_off: &[21, 25],
    start: |repo, folder| Box::new(Qdrant::start(&repo.path(folder), Some("sesame"))),
};

impl Qdrant {
    fn with_key(&self) -> String {
        self.url().replace("http://", "http://:sesame@")
    }
}

impl Fixture for Qdrant {
    fn fill(&self, seed: u64) {
        self.client(&format!("client.delete_collection('shop'); fill('shop', 500, seed={seed}, size=128)"));
    }
    fn change(&self, seed: u64) {
        self.client(&format!("client.upsert('shop', points(1, {seed}, first=7), wait=True)"));
    }
    fn state(&self) -> String {
        self.everything().to_string()
    }
    /// A collection that could not be removed is named, and the others are as they were or as they were saved; or all of it
    /// is in the collection beside that the message names. The one beside is removed again.
    fn tells(&self, said: &str, before: &str, saved: &str) -> bool {
        let [before, saved] = [before, saved].map(|state| serde_json::from_str::<Value>(state).unwrap());
        let mut now = self.everything();
        let beside = now[0].as_object_mut().unwrap().remove("shop.esker-1");
        self.client("client.delete_collection('shop.esker-1')");
        let stays = said
            .contains("collection 'shop.esker-1': this restore made it or began to, and could not remove it");
        let is_way_back = said.contains("all of its data is in collection 'shop.esker-1'")
            && beside.is_some_and(|beside| beside["points"] == saved[0]["shop"]["points"]);
        is_way_back || stays && (now == before || now == saved)
    }
    fn backup(&self) -> Vec<String> {
        vec![self.with_key()]
    }
    fn restore(&self) -> Vec<String> {
        vec!["--to".into(), self.with_key()]
    }
    fn port(&self) -> Option<u16> {
        Some(self.port())
    }
}
