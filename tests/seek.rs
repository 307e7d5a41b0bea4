//! What a dump in order is for: a restarted server costs what changed, and single keys cost the chunks they lie in.

use crate::harness::{Repo, free_port};
use crate::redis::{Redis, apt_redis};
use bytes::Bytes;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::{Storage, StorageResult, Version};
use chunkstore::store::{Access, Identity};
use connector_redis::keys::load::{LoadOptions, load};
use connector_redis::keys::{Selection, find, one};
use connector_redis::server::Server;
use engine::Repository;
use engine::columns::SnapshotColumns;
use engine::connector::Context;
use engine::monitor::Tally;
use engine::snapshot::Filter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk that counts what is read from it.
struct Metered {
    disk: LocalStorage,
    read: AtomicU64,
}

impl Storage for Metered {
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.disk.get(name, limit).inspect(|bytes| self.count(bytes.len()))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.disk.get_range(name, offset, len).inspect(|bytes| self.count(bytes.len()))
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        let read = self.disk.read_versioned(name)?;
        self.count(read.as_ref().map_or(0, |(bytes, _)| bytes.len()));
        Ok(read)
    }
    chunkstore::forward!(self => self.disk; place put replace len list leftovers delete swap connections is_near keeps_copies
        written_ms copies shelf);
    chunkstore::plain_store!(stream_range);
}

impl Metered {
    fn count(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Keys of a hundred bytes or so, as sessions and users are, whose values compress to a half.
fn fill(redis: &Redis, keys: u32) {
    let script = r"
        local from, to = tonumber(ARGV[1]), tonumber(ARGV[2])
        for i = from, to do
          local sha = redis.sha1hex(i)
          local kind = i % 4
          if kind == 0 then redis.call('HSET', 'user:'..sha, 'name', 'user '..i, 'token', redis.sha1hex(sha), 'seen', i * 7)
          elseif kind == 1 then redis.call('SET', 'session:'..sha, string.rep(redis.sha1hex(sha), 3), 'EX', 1000000 + i)
          elseif kind == 2 then redis.call('ZADD', 'scores:'..sha, i, sha, i * 2, 'b'..sha)
          else redis.call('SET', 'count:'..i, i) end
        end
        return 1";
    for from in (1..=keys).step_by(100_000) {
        let to = (from + 99_999).min(keys);
        redis.cli(&["EVAL", script, "0", &from.to_string(), &to.to_string()]);
    }
}

fn added(repo: &Repo, url: &str) -> u64 {
    repo.json(["backup", url])["data_added_packed"].as_u64().unwrap()
}

#[test]
fn a_restarted_server_costs_what_changed() {
    let repo = Repo::new();
    let folder = repo.path("redis");
    let args = ["--repl-diskless-sync-delay", "0", "--dbfilename", "dump.rdb"];
    let port = free_port();
    let redis = Redis::start_at(port, &apt_redis(), &folder, &args);
    let keys = 200_000;
    fill(&redis, keys);
    let first = added(&repo, &redis.url());
    redis.cli(&["SAVE"]);
    drop(redis);
    // It comes back with another seed for its hash tables; one key in a hundred changes.
    let redis = Redis::start_at(port, &apt_redis(), &folder, &args);
    redis.cli(&[
        "EVAL",
        "for i = 3, tonumber(ARGV[1]), 400 do redis.call('SET', 'count:'..i, i + 1)
           redis.call('HSET', 'user:'..redis.sha1hex(i + 1), 'seen', i)
           redis.call('SET', 'session:'..redis.sha1hex(i + 2), 'x', 'KEEPTTL')
           redis.call('ZADD', 'scores:'..redis.sha1hex(i + 3), 5, 'c') end
         return 1",
        "0",
        &keys.to_string(),
    ]);
    let second = added(&repo, &redis.url());
    println!(
        "restarted, 1 % changed: {second} of {first} bytes ({:.2} %)",
        second as f64 * 100.0 / first as f64
    );
    assert!(second * 20 <= first, "{second} of {first}");
}

#[test]
fn single_keys_cost_the_chunks_they_lie_in() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    let keys: u32 =
        std::env::var("ESKER_SEEK_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_400_000);
    fill(&redis, keys);
    // A prefix of a thousand keys among them.
    redis.cli(&[
        "EVAL",
        "for i = 1, 1000 do redis.call('SET', 'tenant:7:'..i, string.rep(redis.sha1hex(i), 4)) end return 1",
        "0",
    ]);
    let stored = added(&repo, &redis.url());
    let disk = LocalStorage::open(repo.folder()).unwrap();
    let metered = Arc::new(Metered { disk, read: AtomicU64::new(0) });
    let access = Access {
        storage: Arc::clone(&metered) as _,
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: Some(repo.path("cache/repositories")),
        identity: Identity::default(),
        columns: &SnapshotColumns,
    };
    let restore = |selection: Selection, name: &str| -> Redis {
        let target = Redis::start(&apt_redis(), &repo.path(name), &[]);
        let url = target.url().parse().unwrap();
        let server = Server::new(&url, &Context::new(std::env::temp_dir(), jiff::Timestamp::now)).unwrap();
        let count = selection.names.len();
        let start = std::time::Instant::now();
        metered.read.store(0, Ordering::Relaxed);
        let opened = Repository::open(access.clone(), b"correct horse").unwrap();
        let monitor = Tally::default();
        opened.sync_index(&monitor).unwrap();
        let found = opened.find("latest", &Filter::default(), &monitor).unwrap();
        let dump = one(find(&opened, &found.snapshot, b"redis").unwrap()).unwrap();
        let options = LoadOptions { selection, ..LoadOptions::default() };
        let report = load(&opened, &dump, &server, &options, &monitor).unwrap();
        let (read, took) = (metered.read.load(Ordering::Relaxed), start.elapsed());
        println!(
            "{name}: {} keys ({count} by name) of {keys}, {read} of {stored} stored bytes ({:.2} %), {took:?}",
            report.restored,
            read as f64 * 100.0 / stored as f64
        );
        let most = if count > 0 { 20 } else { 50 };
        assert!(read * most <= stored, "{read} of {stored} bytes were read");
        target
    };
    let names: std::collections::HashSet<Vec<u8>> =
        (0..50).map(|_| redis.cli(&["RANDOMKEY"]).trim().as_bytes().to_vec()).collect();
    let random = restore(Selection { names: names.clone(), ..Selection::default() }, "random");
    for name in names {
        let name = String::from_utf8(name).unwrap();
        let dump = |redis: &Redis| redis.cli(&["DUMP", &name]);
        assert_eq!(dump(&random), dump(&redis), "{name}");
    }
    let prefix = restore(Selection::new(None, &[b"tenant:7:*".to_vec()]), "prefix");
    assert_eq!(prefix.cli(&["DBSIZE"]).trim(), "1000");
    for number in [1, 500, 1000] {
        let dump = |redis: &Redis| redis.cli(&["DUMP", &format!("tenant:7:{number}")]);
        assert_eq!(dump(&prefix), dump(&redis));
    }
}
