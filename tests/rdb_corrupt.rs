//! Values that do not hold together: what our check says is what a server says that sanitizes what it loads; a backup
//! names them and keeps them, and a restore does not call them young.

use crate::harness::{Repo, expect, server};
use crate::rdb_dumps::{DumpBytes, intset, listpack, numbers, string, ziplist};
use crate::redis::{Redis, apt_redis};
use connector_redis::rdb::check::{Flaw, check};
use connector_redis::rdb::{Version, dump_payload};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

/// One value that is right, by name, type and bytes.
type Sample = (&'static str, u8, Vec<u8>);

/// A node of a stream with two entries, the second of which has fields of its own and a third that is deleted.
fn node() -> Vec<u8> {
    let entry = |flags, sequence, more: &[Result<i64, &'static [u8]>]| {
        let mut all: Vec<Result<i64, &[u8]>> = vec![Ok(flags), Ok(0), Ok(sequence)];
        all.extend_from_slice(more);
        all.push(Ok(all.len() as i64));
        all
    };
    let mut items: Vec<Result<i64, &[u8]>> = vec![Ok(2), Ok(1), Ok(1), Err(b"f"), Ok(0)];
    items.extend(entry(2, 0, &[Err(b"v")]));
    items.extend(entry(0, 1, &[Ok(1), Err(b"g"), Err(b"w")]));
    items.extend(entry(3, 2, &[Err(b"gone")]));
    numbers(&items)
}

#[expect(clippy::big_endian_bytes, reason = "streams write ids big-endian")]
fn id(number: u64) -> Vec<u8> {
    [1u64.to_be_bytes(), number.to_be_bytes()].concat()
}

/// A stream with a group, two pending entries and two consumers.
fn stream(kind: u8) -> Vec<u8> {
    let active: &[u8] = if kind >= 21 { &[0; 8] } else { b"" };
    let mut out = [&[1][..], &string(&id(0)), &string(&node())].concat();
    out.extend_from_slice(&[2, 1, 2]);
    if kind >= 19 {
        out.extend_from_slice(&[1, 0, 1, 2, 3]);
    }
    out.extend_from_slice(&[&[1][..], &string(b"group"), &[1, 1]].concat());
    if kind >= 19 {
        out.push(2);
    }
    out.push(2);
    for number in 0..2 {
        out.extend_from_slice(&[&id(number)[..], &[0; 8], &[1]].concat());
    }
    out.push(2);
    for (name, number) in [(&b"alice"[..], 0), (b"bob", 1)] {
        out.extend_from_slice(&[&string(name)[..], &[0; 8], active, &[1], &id(number)].concat());
    }
    out
}

fn samples() -> Vec<Sample> {
    let texts: &[&[u8]] = &[b"a", b"b", b"12", b"c"];
    let list = |items: &[&[u8]]| {
        let count = [items.len() as u8];
        [&count[..], &items.iter().flat_map(|item| string(item)).collect::<Vec<_>>()].concat()
    };
    let scores = [&[2][..], &string(b"m"), b"\x031.5", &string(b"n"), &[254]].concat();
    let binary =
        [&[2][..], &string(b"m"), &1.5f64.to_le_bytes(), &string(b"n"), &2f64.to_le_bytes()].concat();
    let compressed = vec![0xc3, 4, 9, 0, b'a', 6 << 5, 0];
    vec![
        ("string", 0, string(b"text")),
        ("compressed string", 0, compressed.clone()),
        ("list", 1, list(texts)),
        ("set", 2, list(texts)),
        ("set with a compressed member", 2, [&[2][..], &compressed, &string(b"b")].concat()),
        ("zset", 3, scores),
        ("hash", 4, [&[2][..], &list(texts)[1..]].concat()),
        ("zset of binary scores", 5, binary),
        ("zipmap", 9, string(b"\x02\x01k\x02\x00vv\x01l\x01\x02w..\xff")),
        ("list of a ziplist", 10, string(&ziplist(texts))),
        ("intset", 11, string(&intset(&[-3, 1, 400]))),
        ("zset of a ziplist", 12, string(&ziplist(&[b"m", b"1.5", b"n", b"inf"]))),
        ("hash of a ziplist", 13, string(&ziplist(texts))),
        (
            "quicklist of ziplists",
            14,
            [&[2][..], &string(&ziplist(texts)), &string(&ziplist(&[b"z"]))].concat(),
        ),
        ("stream", 15, stream(15)),
        ("hash of a listpack", 16, string(&listpack(texts))),
        ("zset of a listpack", 17, string(&listpack(&[b"m", b"1.5", b"n", b"2"]))),
        ("quicklist", 18, [&[2, 2][..], &string(&listpack(texts)), &[1], &string(b"a plain node")].concat()),
        ("stream of 7.0", 19, stream(19)),
        ("set of a listpack", 20, string(&listpack(texts))),
        ("stream of 7.2", 21, stream(21)),
    ]
}

/// What a server says of values.
struct Judge {
    stream: BufReader<TcpStream>,
    redis: Redis,
}

impl Judge {
    fn new(repo: &Repo, name: &str) -> Self {
        let args = ["--sanitize-dump-payload", "yes"];
        let redis = Redis::start(&server(name), &repo.path(name), &args);
        let address = redis.url().trim_start_matches("redis://").to_owned();
        Self { stream: BufReader::new(TcpStream::connect(address).unwrap()), redis }
    }

    fn accepts(&mut self, kind: u8, value: &[u8]) -> bool {
        let version = Version { valkey: false, number: 12 };
        let payload = dump_payload(version, kind, value);
        let command = connector_redis::resp::encode(&[b"RESTORE", b"k", b"0", &payload, b"REPLACE"]);
        self.stream.get_mut().write_all(&command).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line == "+OK\r\n" || line.contains("Bad data format"), "{line:?}");
        line == "+OK\r\n"
    }
}

/// What no server writes, but some take.
const STRICTER: [&str; 8] = [
    "something stands behind it",
    "it ends in the middle of something",
    "a length that is none",
    "a compressed string cannot be decompressed",
    "a score is not a number",
    "a node of the stream does not hold together",
    "the stream does not have as many entries as it says",
    "a pending entry belongs to two consumers, or twice to one",
];

/// Fields that expire, of a type that only Redis 8 of the servers here knows.
fn expiring(fields: &[(&'static [u8], i64)]) -> Vec<u8> {
    let items: Vec<_> = fields.iter().flat_map(|(name, ms)| [Err(*name), Err(&b"v"[..]), Ok(*ms)]).collect();
    let first = fields.iter().map(|(_, ms)| *ms).find(|ms| *ms > 0).unwrap_or_default();
    [&first.to_le_bytes()[..], &string(&numbers(&items))].concat()
}

/// Values that are wrong in one thing, which a server that checks refuses.
fn wrong() -> Vec<(&'static str, u8, Vec<u8>)> {
    let texts: &[&[u8]] = &[b"a", b"b"];
    let changed = |mut bytes: Vec<u8>, at: usize, to: u8| {
        assert_ne!(bytes[at], to);
        bytes[at] = to;
        bytes
    };
    let pair = |kind: u8, old: &[u8], new: &[u8]| {
        let bytes = stream(kind);
        let at = bytes.windows(old.len()).rposition(|window| window == old).unwrap();
        [&bytes[..at], new, &bytes[at + old.len()..]].concat()
    };
    vec![
        ("a count of a listpack", 16, string(&changed(listpack(texts), 4, 3))),
        ("a length of a listpack", 16, string(&changed(listpack(texts), 0, 14))),
        ("a length at an entry's end", 16, string(&changed(listpack(texts), 8, 3))),
        ("a field without a value", 16, string(&listpack(&[b"a", b"b", b"c"]))),
        ("a field twice", 16, string(&listpack(&[b"a", b"b", b"a", b"c"]))),
        ("a member twice", 20, string(&listpack(&[b"a", b"a"]))),
        ("a scored member twice", 17, string(&listpack(&[b"a", b"1", b"a", b"2"]))),
        ("a field of a ziplist twice", 13, string(&ziplist(&[b"a", b"b", b"a", b"c"]))),
        ("a ziplist's last entry", 10, string(&changed(ziplist(texts), 4, 10))),
        ("a ziplist's length of the one before", 10, string(&changed(ziplist(texts), 13, 4))),
        ("a ziplist's count", 10, string(&changed(ziplist(texts), 8, 1))),
        ("a node's ziplist", 14, [&[1][..], &string(&changed(ziplist(texts), 8, 1))].concat()),
        ("a node's listpack", 18, [&[1, 2][..], &string(&changed(listpack(texts), 4, 1))].concat()),
        ("a node of no kind", 18, [&[1, 3][..], &string(&listpack(texts))].concat()),
        ("integers out of order", 11, string(&intset(&[7, 1]))),
        ("integers twice", 11, string(&intset(&[7, 7]))),
        ("integers of no width", 11, string(&changed(intset(&[1, 2]), 0, 3))),
        ("integers that are none", 11, string(&intset(&[]))),
        ("a field of a zipmap twice", 9, string(b"\x02\x01k\x01\x00v\x01k\x01\x00w\xff")),
        ("a zipmap's count", 9, string(b"\x03\x01k\x01\x00v\xff")),
        ("a member of a table twice", 2, [&[2][..], &string(b"1"), &[0xc0, 1]].concat()),
        (
            "a field of a table twice",
            4,
            [&[2][..], &string(b"a"), &string(b"b"), &string(b"a"), &string(b"c")].concat(),
        ),
        ("a score that is none", 5, [&[1][..], &string(b"a"), &f64::NAN.to_le_bytes()].concat()),
        ("a text score that is none", 3, [&[1][..], &string(b"a"), &[253]].concat()),
        ("a compressed string", 0, vec![0xc3, 4, 9, 0, b'a', 6 << 5, 9]),
        ("a compressed member", 2, vec![1, 0xc3, 4, 8, 0, b'a', 6 << 5, 0]),
        ("a consumer's pending entry", 21, pair(21, &id(1), &id(5))),
        ("two consumers of a name", 21, pair(21, b"\x03bob", b"\x05alice")),
        ("a pending entry of nobody", 15, pair(15, &[&[1][..], &id(1)].concat(), &[0])),
        ("a node without an id", 19, pair(19, &string(&id(0)), &string(b"short"))),
        (
            "a node's count of entries",
            15,
            [&[1][..], &string(&id(0)), &string(&numbers(&[Ok(2), Ok(0), Ok(0), Ok(0)])), &[2, 1, 2, 0]]
                .concat(),
        ),
        ("a stream's entries without nodes", 15, vec![0, 2, 1, 2, 0]),
    ]
}

#[test]
fn a_check_says_what_a_server_says() {
    let repo = Repo::new();
    let (mut seven, mut eight) = (Judge::new(&repo, "valkey-8"), Judge::new(&repo, "redis-8"));
    for (name, kind, value) in samples() {
        assert_eq!(check(kind, &value), Ok(()), "{name}");
        for judge in [&mut seven, &mut eight] {
            assert!(judge.accepts(kind, &value), "{name}");
        }
    }
    for (name, kind, value) in wrong() {
        assert!(matches!(check(kind, &value), Err(Flaw::Corrupt(_))), "{name}: {:?}", check(kind, &value));
        for judge in [&mut seven, &mut eight] {
            assert!(!judge.accepts(kind, &value), "{name}");
        }
    }
    const FAR: i64 = 4_000_000_000_000;
    for (name, right, fields) in [
        ("in order", true, &[(&b"f"[..], FAR), (b"g", FAR + 1), (b"h", 0)][..]),
        ("out of order", false, &[(b"f", FAR + 1), (b"g", FAR)]),
        ("one that does not expire first", false, &[(b"f", 0), (b"g", FAR)]),
        ("twice", false, &[(b"f", FAR), (b"f", FAR)]),
        ("never", false, &[(b"f", i64::MAX)]),
        ("before all times", false, &[(b"f", -1)]),
    ] {
        let value = expiring(fields);
        assert_eq!((check(25, &value).is_ok(), eight.accepts(25, &value)), (right, right), "fields {name}");
    }
    // Every byte changed in several ways: what a server refuses, we name. We may be the stricter, of scores that are no
    // numbers and entries that two consumers share.
    let mut refused = 0;
    for (name, kind, value) in samples() {
        for at in 0..value.len() {
            for change in [1, 2, 0x80, 0xff] {
                let mut bad = value.clone();
                bad[at] ^= change;
                let (ours, theirs) = (check(kind, &bad), seven.accepts(kind, &bad));
                refused += u32::from(!theirs);
                assert!(theirs || ours.is_err(), "{name}, byte {at} by {change:#x}: {ours:?}, but refused");
                let Err(Flaw::Corrupt(why)) = ours else { continue };
                assert!(
                    !theirs || STRICTER.contains(&why),
                    "{name}, byte {at} by {change:#x}: {why}, but taken"
                );
            }
        }
    }
    assert!(refused > 500, "{refused}");
    assert_eq!(eight.redis.cli(&["PING"]).trim(), "PONG");
}

#[test]
fn what_servers_write_is_never_called_corrupt() {
    let repo = Repo::new();
    for (binary, name) in [
        (server("redis-6.2"), "6.2"),
        (apt_redis(), "7.0"),
        (server("redis-8"), "8"),
        (server("valkey-8"), "v8"),
        (server("valkey-9"), "v9"),
    ] {
        let large = [
            "--hash-max-ziplist-value",
            "3000000",
            "--list-max-ziplist-size",
            "100000",
            "--repl-diskless-sync-delay",
            "0",
            "--hash-max-ziplist-entries",
            "20000",
            "--set-max-intset-entries",
            "100000",
            "--zset-max-ziplist-entries",
            "20000",
            "--zset-max-ziplist-value",
            "20000",
        ];
        let redis = Redis::start(&binary, &repo.path(name), &large);
        redis.fill(3000);
        redis.fill_every_type();
        // Entries at the steps of the lengths of packed lists, and packed lists larger than what is kept in memory.
        let script = r"
            for _, len in ipairs({0, 62, 63, 64, 125, 126, 127, 128, 250, 251, 252, 253, 254, 255, 4094, 4095, 4096,
                                  16375, 16376, 16377, 16378, 16379, 16380, 16381, 16382, 16383, 16384, 2097144,
                                  2097145, 2097146, 2097147, 2097148}) do
              redis.call('HSET', 'steps', 'f'..len, string.rep('x', len))
              redis.call('HSET', 'step:'..len, 'f', string.rep('y', len), 'g', -len)
              redis.call('RPUSH', 'list', string.rep('z', len), len)
            end
            for i = 1, 9000 do
              redis.call('HSET', 'packed', i, -i * i * i)
              redis.call('ZADD', 'scores', i / 3, i)
              redis.call('ZADD', 'infinite', i % 2 == 0 and '-inf' or 'inf', i)
              redis.call('XADD', 'wide', '*', 'f', i, 'g'..i % 10, i)
            end
            redis.call('XGROUP', 'CREATE', 'wide', 'g', '0')
            return 1";
        redis.cli(&["EVAL", script, "0"]);
        redis.cli(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "5000", "STREAMS", "wide", ">"]);
        redis.cli(&["XTRIM", "wide", "MAXLEN", "7777"]);
        for order in ["canonical", "raw"] {
            repo.ok(["-o", &format!("redis.order={order}"), "backup", &redis.url()]);
        }
        for snapshot in repo.json(["snapshots"]).as_array().unwrap() {
            let details = &snapshot["sources"][0]["details"];
            assert!(
                details["corrupt-values"].is_null() && details["empty-values"].is_null(),
                "{name}: {details}"
            );
        }
    }
}

#[test]
fn corrupt_values_are_named_and_kept() {
    let twice = string(&listpack(&[b"a", b"a"]));
    let dump = DumpBytes::new("REDIS0011")
        .key(0, b"good", &string(b"value"))
        .key(20, b"bad\n/\x1b[31m", &twice)
        .raw(b"\xfe\x03")
        .key(11, b"worse", &string(&intset(&[2, 1])))
        .finish();
    let repo = Repo::new();
    std::fs::write(repo.path("x.rdb"), &dump).unwrap();
    let url = format!("redis+rdb://{}", repo.path("x.rdb").display());
    for order in ["canonical", "raw"] {
        let told = repo.fails(3, ["-o", &format!("redis.order={order}"), "backup", &url]);
        for words in ["0/bad%0A%2F%1B[31m", "3/worse", "an element is there twice"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        let all = repo.json(["snapshots"]);
        let details = &all.as_array().unwrap().last().unwrap()["sources"][0]["details"];
        assert_eq!((&details["corrupt-values"], &details["order"]), (&"2".into(), &order.into()));
        let target = Redis::start(&server("redis-8"), &repo.path(order), &["--sanitize-dump-payload", "yes"]);
        let told = repo.fails(3, ["restore", "latest", "--to", &target.url()]);
        assert!(told.contains("corrupt") && !told.contains("older"), "{told}");
        assert_eq!(target.cli(&["GET", "good"]).trim(), "value");
        assert_eq!(target.cli(&["DBSIZE"]).trim(), "1");
    }
    // As it came, to the byte.
    assert!(repo.run(["dump", "latest", "redis/files/x.rdb"]).stdout == dump);
    let output = repo.feed(["backup", "--stdin", "--stdin-filename", "x.rdb"], &dump);
    expect(&output, 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("3/worse"));
}

#[test]
fn corrupt_values_at_the_head_of_an_append_only_file() {
    let repo = Repo::new();
    let dump = DumpBytes::new("REDIS0009").key(11, b"worse", &string(&intset(&[2, 1]))).finish();
    let command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    std::fs::write(repo.path("x.aof"), [&dump[..], command].concat()).unwrap();
    let told = repo.fails(3, ["backup", &format!("redis+aof://{}", repo.path("x.aof").display())]);
    assert!(told.contains("0/worse") && told.contains("corrupt"), "{told}");
    assert!(repo.run(["dump", "latest", "redis/files/x.aof"]).stdout == [&dump[..], command].concat());
}

/// What `RESTORE` brings in an append-only file is looked into as what stands in a dump: a server stops there.
#[test]
fn corrupt_values_that_commands_bring() {
    let repo = Repo::new();
    let version = Version::parse(b"REDIS0010").unwrap();
    let good = dump_payload(version, 11, &string(&intset(&[1, 2])));
    let bad = dump_payload(version, 11, &string(&intset(&[2, 1])));
    let mut torn = good.clone();
    torn[3] ^= 1;
    let aof = |payload: &[u8], name: &[u8]| {
        let mut all = connector_redis::resp::encode(&[b"SELECT", b"3"]);
        all.extend(connector_redis::resp::encode(&[b"SET", b"k", b"0", b"v"]));
        all.extend(connector_redis::resp::encode(&[name, b"key", b"0", payload, b"REPLACE"]));
        all
    };
    std::fs::create_dir(repo.path("parts")).unwrap();
    std::fs::write(repo.path("parts/a.aof.manifest"), "file a.aof.1.incr.aof seq 1 type i\n").unwrap();
    for (payload, name, code) in [
        (&good, &b"RESTORE"[..], 0),
        (&bad, b"restore", 3),
        (&torn, b"RESTORE", 3),
        (&bad, b"restore-asking", 3),
        (&bad, b"SET", 0),
    ] {
        for (place, folder) in [("x.aof", ""), ("parts", "/a.aof.1.incr.aof")] {
            std::fs::write(repo.path(&format!("{place}{folder}")), aof(payload, name)).unwrap();
            let output = repo.run(["backup", &format!("redis+aof://{}", repo.path(place).display())]);
            let told = expect(&output, code) + &String::from_utf8_lossy(&output.stderr);
            assert_eq!(told.contains(&format!("redis/files/{place}{folder}: 3/key")), code == 3, "{told}");
            let path = format!("redis/files/{place}{folder}");
            assert!(repo.run(["dump", "latest", &path]).stdout == aof(payload, name), "{path}");
        }
    }
}

#[test]
fn collections_without_elements_are_left_out_by_every_server() {
    let dump = DumpBytes::new("REDIS0010")
        .key(0, b"good", &string(b"value"))
        .key(1, b"list", &[0])
        .key(2, b"set", &[0])
        .key(4, b"hash", &[0])
        .key(5, b"zset", &[0])
        .key(10, b"ziplist", &string(&ziplist(&[])))
        .key(16, b"listpack", &string(&listpack(&[])))
        .key(18, b"quicklist", &[0])
        .key(14, b"nodes", &[&[1][..], &string(&ziplist(&[]))].concat())
        .key(18, b"plain", &[1, 1, 0])
        .key(15, b"stream", &[0, 0, 0, 0, 0])
        .finish();
    let repo = Repo::new();
    std::fs::write(repo.path("x.rdb"), &dump).unwrap();
    repo.ok(["backup", &format!("redis+rdb://{}", repo.path("x.rdb").display())]);
    let details = &repo.json(["snapshots"])[0]["sources"][0]["details"];
    assert_eq!(details["empty-values"], "9", "{details}");
    let args = ["--repl-diskless-sync-delay", "0"];
    let target = Redis::start(&apt_redis(), &repo.path("target"), &args);
    let said = repo.ok(["restore", "latest", "--to", &target.url(), "--whole"]);
    assert!(said.contains("9 are collections without elements"), "{said}");
    assert_eq!(target.cli(&["DBSIZE"]).trim(), "2");
}

#[test]
fn names_that_look_like_the_format() {
    // Every opcode, type and delimiter as a key, a member and a value; functions, fields about the dump and what modules
    // keep that hold them too.
    let mut dump = DumpBytes::new("REDIS0011");
    let hostile: &[&[u8]] = &[
        b"",
        b"\0",
        b"\xff",
        b"\xfe\x00\xfe\x01",
        b"REDIS0011",
        b"\xff\0\0\0\0\0\0\0\0",
        b"\xfa\x01a\x01b",
        b"a\0b",
        b"a\0",
        b"a",
        b"../../x",
        b"a/b",
        b"dump.rdb.index",
        b"\xf5\x40\x40#!lua",
        b"\n--\n-- Current Database: `zb`\n",
        b"\x1b[2J",
        b"\xc0\x01",
        b"1",
    ];
    for name in hostile {
        dump = dump.raw(&[&[0xfa][..], &string(name), &string(b"\xfe\x09\xff")].concat());
    }
    // A module's own before the keys: id, when, a string, a number, the end.
    for text in hostile {
        dump =
            dump.raw(&[&[0xf7, 0x81][..], &[0; 8], &[2, 1, 5], &string(text), &[2, 0x40, 0xff, 0]].concat());
    }
    let function = |name: &str| {
        format!(
            "#!lua name={name}\nredis.register_function('{name}', function() return '\u{fe}\u{ff} REDIS0011 \\255' end)"
        )
    };
    let functions = ["zb", "opcode"].map(function);
    for code in &functions {
        dump = dump.raw(&[&[0xf5][..], &string(code.as_bytes())].concat());
    }
    for database in [0, 1] {
        dump = dump.raw(&[0xfe, database]);
        for (number, name) in hostile.iter().enumerate() {
            dump = match number % 3 {
                0 => dump.key(0, name, &string(hostile[(number + 5) % hostile.len()])),
                1 => dump.key(2, name, &[&[2][..], &string(name), &string(b"other\xff")].concat()),
                _ => dump.raw(b"\xfc\xff\xff\xff\xff\xff\xff\x00\x00").key(
                    4,
                    name,
                    &[&[1][..], &string(name), &string(b"\xff")].concat(),
                ),
            };
        }
    }
    let dump = dump.finish();
    let repo = Repo::new();
    std::fs::write(repo.path("x.rdb"), &dump).unwrap();
    let url = format!("redis+rdb://{}", repo.path("x.rdb").display());
    for order in ["canonical", "raw"] {
        repo.ok(["-o", &format!("redis.order={order}"), "backup", &url]);
        let target = Redis::start(&apt_redis(), &repo.path(order), &["--repl-diskless-sync-delay", "0"]);
        let done = repo.json(["restore", "latest", "--to", &target.url(), "--whole"]);
        assert_eq!((&done["functions_restored"], &done["keys_different"]), (&2.into(), &0.into()), "{done}");
        assert_eq!(target.cli(&["FCALL", "zb", "0"]).trim(), target.cli(&["FCALL", "opcode", "0"]).trim());
        for database in ["0", "1"] {
            let size = target.cli(&["-n", database, "DBSIZE"]);
            assert_eq!(size.trim(), hostile.len().to_string(), "{order}");
        }
        assert_eq!(target.cli(&["-n", "1", "SISMEMBER", "REDIS0011", "REDIS0011"]).trim(), "1");
        // What one key says is in no other.
        let key = repo.run(["dump", "latest:redis/1/REDIS0011"]).stdout;
        let text = String::from_utf8_lossy(&key).into_owned();
        assert!(text.contains("other") && !text.contains("lua"), "{text}");
    }
}
