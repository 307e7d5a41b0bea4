//! What stands beside a server that loads by replication: replicas and a master of its own, settings that change how it loads, and
//! others who connect where it does.

use crate::harness::{Repo, expect, free_port, run, server, wait_for};
use crate::redis::{Redis, apt_redis};
use crate::redis_replication::{begin, fill, is_itself, restore, slow, start};
use crate::relay::Relay;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;

/// A repository with the data of a server, and their digest.
fn backed_up() -> (Repo, String) {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let saved = redis.digest();
    (repo, saved)
}

fn target(repo: &Repo, name: &str, more: &[&str]) -> Redis {
    start(repo, &apt_redis(), name, more)
}

/// Makes `one` a replica of `other`, and waits until it has its data.
fn follow(one: &Redis, other: &Redis) {
    one.cli(&["CONFIG", "SET", "masterauth", ""]);
    one.cli(&["CONFIG", "SET", "masteruser", ""]);
    one.cli(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    in_step(one);
}

fn in_step(replica: &Redis) {
    wait_for("replica", 60, || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
}

fn is_replica_of(one: &Redis, other: &Redis) -> bool {
    let info = one.cli(&["INFO", "replication"]);
    info.contains("role:slave") && info.contains(&format!("master_port:{}", other.port()))
}

fn whole<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "latest", "--to", url, "--whole"][..], more].concat()
}

#[test]
fn a_replica_of_a_living_master_stays_one() {
    let (repo, _) = backed_up();
    let master = target(&repo, "master", &[]);
    let replica = target(&repo, "replica", &[]);
    follow(&replica, &master);
    for keys in [0, 40] {
        if keys > 0 {
            master.fill(keys);
        }
        wait_for("keys", 20, || replica.digest() == master.digest());
        let url = replica.url();
        let output = repo.run(whole(&url, &["--yes", "--no-safety-snapshot"]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("READONLY"), "{told}");
        let refused = repo.fails(1, whole(&url, &["--dry-run"]));
        assert!(refused.contains(&format!("into its master, 127.0.0.1:{}", master.port())), "{refused}");
        in_step(&replica);
        assert!(is_replica_of(&replica, &master));
        assert_eq!(replica.digest(), master.digest());
    }
}

/// After esker was killed, somebody gave the server another master: that one stays, and the settings come back.
#[test]
fn another_master_after_a_kill_stays() {
    let (repo, _) = backed_up();
    let master = target(&repo, "master", &[]);
    let replica = target(&repo, "replica", &["--loading-process-events-interval-bytes", "1024"]);
    slow(&replica, "500");
    let mut child = begin(&repo, &replica);
    wait_for("replication", 60, || replica.cli(&["INFO", "replication"]).contains("role:slave"));
    child.kill().unwrap();
    child.wait().unwrap();
    let port = master.port().to_string();
    wait_for("another master", 60, || {
        replica.cli(&["REPLICAOF", "127.0.0.1", &port]).starts_with("OK") && is_replica_of(&replica, &master)
    });
    let url = replica.url();
    let output = repo.run(whole(&url, &["--yes"]));
    assert!(!output.status.success());
    assert!(is_replica_of(&replica, &master));
    assert_eq!(replica.cli(&["CONFIG", "GET", "masterauth"]), "masterauth\nold secret\n");
    assert!(!replica.cli(&["CONFIG", "GET", "masteruser"]).contains("masteruser\n\n"));
}

#[test]
fn its_own_replicas_get_the_data() {
    let (repo, saved) = backed_up();
    let target_ = target(&repo, "target", &[]);
    target_.fill(40);
    let replicas = [target(&repo, "one", &[]), target(&repo, "two", &[])];
    replicas.iter().for_each(|replica| follow(replica, &target_));
    let url = target_.url();
    let plan = repo.ok(whole(&url, &["--dry-run"]));
    assert!(plan.contains("its own 2 replicas load all of it"), "{plan}");
    assert_eq!(restore(&repo, &target_, &[])["loaded_by"], "replication");
    is_itself(&target_);
    for replica in &replicas {
        wait_for("data", 60, || replica.digest() == saved);
        in_step(replica);
        assert!(is_replica_of(replica, &target_));
    }
    // Where it takes writes only with them, they go on.
    target_.cli(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
    wait_for("lag", 20, || target_.cli(&["INFO", "replication"]).contains("min_slaves_good_slaves:2"));
    let plan = repo.ok(whole(&url, &["--dry-run"]));
    assert!(plan.contains("min-replicas-to-write"), "{plan}");
    assert_eq!(restore(&repo, &target_, &[])["loaded_by"], "RESTORE");
    for replica in &replicas {
        wait_for("data", 60, || replica.digest() == saved);
    }
}

#[test]
fn settings_that_change_how_it_loads() {
    let (repo, saved) = backed_up();
    let cases: [(PathBuf, &[&str]); 6] = [
        (apt_redis(), &["--replica-serve-stale-data", "no", "--replica-read-only", "no"]),
        (apt_redis(), &["--replica-announce-ip", "192.0.2.1", "--replica-announce-port", "1"]),
        (apt_redis(), &["--notify-keyspace-events", "KEA", "--replica-ignore-maxmemory", "no"]),
        (server("redis-8"), &["--repl-rdb-channel", "yes"]),
        (server("valkey-9"), &["--dual-channel-replication-enabled", "yes"]),
        (server("valkey-9"), &["--repl-diskless-load", "flush-before-load"]),
    ];
    for (number, (binary, args)) in cases.iter().enumerate() {
        let server = start(&repo, binary, &number.to_string(), args);
        server.fill(20);
        let done = restore(&repo, &server, &[]);
        assert_eq!(done["loaded_by"], "replication", "{args:?}: {done}");
        // Every key was compared; the digest of some types is another one on other servers.
        assert!(*binary != apt_redis() || server.digest() == saved, "{args:?}");
        assert!(server.cli(&["INFO", "replication"]).contains("role:master"), "{args:?}");
        assert_eq!(server.cli(&["CONFIG", "GET", "masterauth"]), "masterauth\nold secret\n", "{args:?}");
    }
}

/// What it has loaded is on its disk, where it has one.
#[test]
fn it_has_its_data_after_a_start() {
    let (repo, saved) = backed_up();
    for (name, args) in [("log", &["--appendonly", "yes"][..]), ("save", &["--save", "3600 1"])] {
        let port = free_port();
        let folder = repo.path(name);
        let args = [&["--masterauth", "old secret", "--masteruser", "old user"][..], args].concat();
        let server = Redis::start_at(port, &apt_redis(), &folder, &args);
        server.fill(20);
        assert_eq!(restore(&repo, &server, &[])["loaded_by"], "replication", "{name}");
        is_itself(&server);
        let busy = ["rdb_bgsave_in_progress:1", "aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"];
        wait_for("the disk", 60, || {
            let state = server.cli(&["INFO", "persistence"]);
            assert!(!state.contains("status:err"), "{state}");
            busy.iter().all(|busy| !state.contains(busy))
        });
        drop(server);
        let server = Redis::start_at(port, &apt_redis(), &folder, &args);
        wait_for("the load", 60, || server.cli(&["INFO", "persistence"]).contains("loading:0"));
        assert_eq!(server.digest(), saved, "{name}");
    }
}

/// A server that gets what it has no room for does not remove keys for it, and keeps none of our settings.
#[test]
fn more_than_maxmemory() {
    let (repo, _) = backed_up();
    let server = target(&repo, "full", &["--maxmemory", "1500kb", "--maxmemory-policy", "allkeys-lru"]);
    let told = repo.fails(25, whole(&server.url(), &["--yes"]));
    assert!(told.contains("OOM: the data take more than maxmemory"), "{told}");
    is_itself(&server);
    server.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    assert_eq!(restore(&repo, &server, &[])["loaded_by"], "replication");
}

/// For a database that it has not a server ends itself while it loads, and not for a command.
#[test]
fn more_databases_than_it_has() {
    let (repo, _) = backed_up();
    for order in ["canonical", "raw"] {
        let redis = target(&repo, &format!("source-{order}"), &[]);
        redis.cli(&["-n", "12", "SET", "far", "away"]);
        repo.ok(["-o", &format!("redis.order={order}"), "backup", &redis.url()]);
        let server = target(&repo, order, &["--databases", "4"]);
        let output = repo.run(whole(&server.url(), &["--yes"]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{told}");
        // Of one that was put in order it is known which databases it has.
        let why = match order {
            "canonical" => "it has no database 12 (keys of the snapshot there: 1)",
            _ => "keys of database 12, and the server has 4 databases",
        };
        assert!(told.contains(why), "{told}");
        is_itself(&server);
        let output = repo.run(whole(&server.url(), &["--yes", "--unproven"]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{told}");
        assert!(told.contains("keys of database 12, and the server has 4 databases"), "{told}");
        assert!(told.contains("cannot use database 12"), "{told}");
        is_itself(&server);
    }
}

#[test]
fn functions() {
    let repo = Repo::new();
    let redis = start(&repo, &server("valkey-9"), "redis", &[]);
    redis.fill(500);
    repo.ok(["backup", &redis.url()]);
    // A dump without functions leaves those of the server.
    let own = start(&repo, &server("redis-8"), "own", &[]);
    own.cli(&["SET", "some", "key"]);
    own.cli(&["FUNCTION", "LOAD", "#!lua name=own\nredis.register_function('own', function() return 1 end)"]);
    assert_eq!(restore(&repo, &own, &[])["loaded_by"], "replication");
    assert_eq!(own.cli(&["FCALL", "own", "0"]), "1\n");
    // One with functions replaces them, and one of them has the same name.
    let both = "#!lua name=own\nredis.register_function('own', function() return 2 end)";
    redis.cli(&["FUNCTION", "LOAD", both]);
    repo.ok(["backup", &redis.url()]);
    let done = restore(&repo, &own, &[]);
    assert_eq!(
        (&done["loaded_by"], &done["functions_restored"]),
        (&"replication".into(), &1.into()),
        "{done}"
    );
    assert_eq!(own.cli(&["FCALL", "own", "0"]), "2\n");
    // One that only Valkey compiles: the server is alive, has the keys, and the restore says what is missing.
    let new = "#!lua name=new\nserver.register_function('new', function() return 3 end)";
    redis.cli(&["FUNCTION", "LOAD", new]);
    repo.ok(["backup", &redis.url()]);
    let output = repo.run(whole(&own.url(), &["--yes"]));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("functions:"), "{told}");
    assert_eq!(own.cli(&["DBSIZE"]), redis.cli(&["DBSIZE"]));
    is_itself(&own);
}

/// A replica keeps what expires meanwhile; as a master it removes it.
#[test]
fn keys_that_expire_while_they_are_loaded() {
    let repo = Repo::new();
    let redis = target(&repo, "redis", &[]);
    redis.fill(2000);
    let left = redis.cli(&["DBSIZE"]);
    let some = "for i = 1, 200 do redis.call('SET', 'soon:'..i, i, 'PX', ARGV[1]) end return 1";
    redis.cli(&["EVAL", some, "0", "6000"]);
    repo.ok(["backup", &redis.url()]);
    let server = target(&repo, "server", &[]);
    slow(&server, "2000");
    assert_eq!(restore(&repo, &server, &[])["loaded_by"], "replication");
    wait_for("expiry", 30, || server.cli(&["DBSIZE"]) == left);
}

/// Whoever connects where the server does and is silent, or does not know the secret, changes nothing.
#[test]
fn others_who_connect_first() {
    let (repo, saved) = backed_up();
    let server = target(&repo, "server", &[]);
    let port = free_port();
    std::thread::spawn(move || {
        let mut open = vec![];
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.write_all(match open.len() % 3 {
                    0 => b"*2\r\n$4\r\nAUTH\r\n$5\r\nguess\r\n",
                    1 => b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
                    _ => b"",
                });
                open.push(stream);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let found_at = format!("redis.replicate-from=127.0.0.1:{port}");
    assert_eq!(restore(&repo, &server, &["-o", &found_at])["loaded_by"], "replication");
    assert_eq!(server.digest(), saved);
    is_itself(&server);
}

/// Behind a tunnel, our address is that of somebody else.
#[test]
fn a_server_behind_a_tunnel() {
    let (repo, saved) = backed_up();
    let server = target(&repo, "server", &[]);
    let relay = Relay::to(server.port(), u64::MAX);
    let url = format!("redis://127.0.0.1:{}", relay.port);
    let output = repo.run(whole(&url, &["--yes"]));
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &expect(&output, 0);
    assert!(told.contains("by a tunnel or NAT"), "{told}");
    assert_eq!(server.digest(), saved);
    is_itself(&server);
    let found_at = format!("redis.replicate-from=127.0.0.1:{}", free_port());
    let done = repo.json([&["-o", &found_at][..], &whole(&url, &["--yes"])].concat());
    assert_eq!(done["loaded_by"], "replication", "{done}");
    assert_eq!(server.digest(), saved);
    is_itself(&server);
}

/// Dumps that no server wrote: what makes a server end itself while it loads is never sent to one.
#[test]
fn a_crafted_dump_ends_no_server() {
    let key = |name: &[u8], value: u8| [&[0][..], name, &[1, value]].concat();
    let twice = |one: &[u8], other: &[u8]| {
        [b"REDIS0009\xfe\0", &key(one, b'1')[..], &key(b"\x01b", b'2'), &key(other, b'3')].concat()
    };
    let lua = [b"REDIS0009\xfa\x03LUA\x05not (\xfe\0", &key(b"\x01a", b'1')[..]].concat();
    for (dump, binary, order, code, count) in [
        // What is there is told, and that nobody can compare it.
        (twice(b"\x01a", b"\x01a"), apt_redis(), "raw", 25, "2"),
        // A number, and the same in letters.
        (twice(b"\xc0\x05", b"\x015"), server("redis-6.2"), "raw", 25, "2"),
        (lua.clone(), server("redis-6.2"), "raw", 0, "1"),
        (lua, server("redis-6.2"), "canonical", 0, "1"),
    ] {
        let repo = Repo::new();
        let file = repo.path("crafted.rdb");
        std::fs::write(&file, [&dump[..], b"\xff\0\0\0\0\0\0\0\0"].concat()).unwrap();
        let order = format!("redis.order={order}");
        repo.ok(["-o", &order, "backup", &format!("redis+rdb://{}", file.display())]);
        let target = start(&repo, &binary, "target", &[]);
        let url = target.url();
        expect(&repo.run(whole(&url, &["--yes", "--unproven"])), code);
        assert_eq!(target.cli(&["DBSIZE"]).trim(), count);
        is_itself(&target);
    }
}

/// What a server has no place for is found before it gets anything, also if it has nothing to lose.
#[test]
fn an_empty_server_is_asked_for_databases_and_functions() {
    let (repo, saved) = backed_up();
    let small = target(&repo, "small", &["--databases", "2"]);
    let old = start(&repo, &server("redis-6.2"), "old", &[]);
    for (server, why) in [(&small, "it has no database 3"), (&old, "it takes no functions")] {
        for more in ["--dry-run", "--yes"] {
            let told = repo.fails(1, whole(&server.url(), &[more]));
            assert!(told.contains(why), "{told}");
        }
        assert_eq!(server.cli(&["INFO", "keyspace"]).matches("keys=").count(), 0);
    }
    let target = target(&repo, "target", &[]);
    restore(&repo, &target, &[]);
    assert_eq!(target.digest(), saved);
}

/// A server that refuses to be emptied is told to be as it was.
#[test]
fn what_is_refused_changed_nothing() {
    let (repo, _) = backed_up();
    let target = target(&repo, "target", &[]);
    target.cli(&["SET", "old", "1"]);
    target.cli(&["ACL", "SETUSER", "default", "-flushall"]);
    let told = repo.fails(25, whole(&target.url(), &["--yes", "--no-safety-snapshot"]));
    assert!(told.contains("is as it was") && !told.contains("a part of the snapshot"), "{told}");
    assert_eq!(target.cli(&["GET", "old"]).trim(), "1");
}

/// What is in a server's memory alone, a restart loses.
#[test]
fn a_server_that_refuses_to_save_is_not_restored_whole() {
    let (repo, saved) = backed_up();
    let target = target(&repo, "target", &[]);
    target.cli(&["CONFIG", "SET", "save", "3600 1"]);
    target.cli(&["ACL", "SETUSER", "default", "-bgsave"]);
    let told = repo.fails(3, whole(&target.url(), &["--yes"]));
    assert!(told.contains("BGSAVE is refused") && told.contains("a restart loses it"), "{told}");
    assert_eq!(target.digest(), saved);
    is_itself(&target);
    // It saves by itself what it gets key by key, as its save points say.
    target.cli(&["FLUSHALL"]);
    repo.ok([&["-o", "redis.replicate-from=never"], &*whole(&target.url(), &["--yes"])].concat());
}

/// What a server with an append-only file has loaded is on its disk once it has written that anew.
#[test]
fn an_append_only_file_is_waited_for() {
    let (repo, saved) = backed_up();
    let target = target(&repo, "target", &["--appendonly", "yes"]);
    let rewrites = || target.cli(&["INFO", "persistence"]).contains("aof_rewrite_in_progress:1");
    target.cli(&["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
    let child = begin(&repo, &target);
    wait_for("rewrite", 60, rewrites);
    // One that fails is tried again by the server.
    let info = target.cli(&["INFO", "server"]);
    let server = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim();
    run("pkill", &["-KILL", "-P", server]);
    let done = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{told}");
    assert!(!rewrites() && target.cli(&["INFO", "persistence"]).contains("aof_last_bgrewrite_status:ok"));
    assert_eq!(target.digest(), saved);
    is_itself(&target);
}
