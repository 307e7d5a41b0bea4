//! A server that is no MariaDB, or a bad one. MariaDB's own programs speak with it: what they hand on has bounds, they get
//! no password for it in clear text and no file of this machine, and a signal ends every wait for them.

use crate::harness::{Repo, certificates, run, wait_for};
use crate::mariadb::Maria;
use crate::rogue::{Rogue, Session, ended_by, fails_with};
use std::io::{Read as _, Result};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What is done in place of an answer to the packet of this number.
type Trick = fn(&mut Session, u8) -> Result<()>;

const OK: &[u8] = b"\0\0\0\x02\0\0\0";

fn packet(number: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..3], &[number], body].concat()
}

/// A text behind its length.
fn text(value: &str) -> Vec<u8> {
    [&[0xfd], &(value.len() as u32).to_le_bytes()[..3], value.as_bytes()].concat()
}

/// The head of an answer of rows, and the number of the packet that follows.
fn columns(number: u8, count: u8) -> (Vec<u8>, u8) {
    let mut all = packet(number + 1, &[count]);
    for column in 0..count {
        let names = ["def", "", "", "", "c", ""].map(text).concat();
        let rest = b"\x0c\x21\0\0\x04\0\0\xfd\0\0\0\0\0";
        all.extend(packet(number + 2 + column, &[&names, &rest[..]].concat()));
    }
    all.extend(packet(number + 2 + count, b"\xfe\0\0\x02\0"));
    (all, number + 3 + count)
}

fn rows(number: u8, rows: &[&[&str]]) -> Vec<u8> {
    let (mut all, mut next) = columns(number, rows.first().map_or(1, |row| row.len() as u8));
    for row in rows {
        all.extend(packet(next, &row.iter().flat_map(|value| text(value)).collect::<Vec<u8>>()));
        next += 1;
    }
    all.extend(packet(next, b"\xfe\0\0\x02\0"));
    all
}

impl Session {
    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut body)?;
        self.note(&body);
        Ok((head[3], body))
    }

    /// Serves: what contains `until` gets the trick, which is also `HELLO` and `LOGIN`; the rest what a server would say.
    fn mariadb(&mut self, until: &str, trick: impl Fn(&mut Self, u8) -> Result<()>) -> Result<()> {
        if until == "HELLO" {
            return trick(self, 0);
        }
        let mut hello =
            b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0abcdefgh\0\xdf\xf7\x21\x02\0\xff\0\x15".to_vec();
        hello.extend([0; 10]);
        hello.extend(b"abcdefghijkl\0mysql_native_password\0");
        self.say(packet(0, &hello))?;
        let (mut number, _) = self.packet()?;
        if until == "LOGIN" {
            return trick(self, number);
        }
        self.say(packet(number + 1, OK))?;
        loop {
            let body;
            (number, body) = self.packet()?;
            let asked = String::from_utf8_lossy(body.get(1..).unwrap_or_default()).into_owned();
            if body.first() == Some(&1) {
                return Ok(());
            }
            if asked.contains(until) {
                return trick(self, number);
            }
            self.say(said(number, &asked))?;
        }
    }

    /// Rows of `value` without end.
    fn endless_rows(&mut self, number: u8, value: &str) -> Result<()> {
        let (head, next) = columns(number, 1);
        self.say(head)?;
        let many: Vec<u8> = (0..=255_u8).flat_map(|at| packet(next.wrapping_add(at), &text(value))).collect();
        self.flood(&many)
    }
}

/// What a server with one empty database says.
fn said(number: u8, asked: &str) -> Vec<u8> {
    let value = |value: &str| rows(number, &[&[value]]);
    let mark = asked.strip_prefix("SELECT 0x").map(|rest| {
        let digits: Vec<u8> = rest.bytes().take_while(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        String::from_utf8(digits.chunks(2).map(byte).collect()).unwrap()
    });
    match (mark, asked) {
        (Some(mark), _) if asked.contains("@@error_count") => rows(number, &[&[&mark, "0"]]),
        (Some(mark), _) => value(&mark),
        (_, "SELECT VERSION()") => value("10.11.6-MariaDB"),
        (_, "SHOW DATABASES") => value("shop"),
        (_, "SELECT @@log_bin") => value("1"),
        (_, "SHOW BINARY LOGS") => rows(number, &[&["bin.000001", "1000"]]),
        (_, "SHOW MASTER STATUS") => rows(number, &[&["bin.000001", "4", "", ""]]),
        _ if asked.contains("@@lower_case_table_names <> 0") => value("0"),
        _ if asked.contains("GET_LOCK") => rows(number, &[&["1", "7"]]),
        _ if asked.contains("max_allowed_packet") => value("1073741824"),
        _ if asked.starts_with("SELECT") || asked.starts_with("SHOW") => rows(number, &[]),
        _ => packet(number + 1, OK),
    }
}

fn at(until: &'static str, trick: Trick) -> Rogue {
    Rogue::start(move |session| session.mariadb(until, trick))
}

fn url(rogue: &Rogue) -> String {
    format!("mysql://alice:topsecret@127.0.0.1:{}", rogue.port)
}

/// Places at which a server may stop being one: before and after the login, in what esker asks, and what mariadb-dump does.
const PLACES: &[&str] = &["HELLO", "LOGIN", "SELECT VERSION()", "SHOW DATABASES", "40103 SET TIME_ZONE"];

#[test]
fn what_has_no_end_has_a_bound() {
    let repo = Repo::new();
    for place in PLACES {
        let hangs_up: &[Trick] = &[
            |s, _| s.stream.shutdown(std::net::Shutdown::Both),
            |s, number| {
                s.say(&columns(number, 1).0[..20])?;
                s.stream.shutdown(std::net::Shutdown::Both)
            },
            |s, number| s.say(packet(number + 1, b"\xff\x28\x04#HY000\x1b[31mno\nway")),
            |s, _| s.flood(b"\x02"),
        ];
        // After the greeting a flood is rows, which only a signal ends.
        let hangs_up = if *place == "HELLO" { hangs_up } else { &hangs_up[..3] };
        for trick in hangs_up {
            let rogue = at(place, *trick);
            let told = fails_with(&[20, 21, 25], &repo, 300, 60, &["backup", &url(&rogue)]);
            assert!(told.contains("127.0.0.1") && !told.contains('\x1b'), "{place}: {told}");
            assert!(!told.contains("topsecret"), "{place}: {told}");
        }
    }
    let cases: &[(&str, Trick, u64, &str)] = &[
        (
            "SELECT VERSION()",
            |s, number| s.endless_rows(number, &"x".repeat(20_000)),
            800,
            "prints more rows than fit",
        ),
        ("SELECT VERSION()", |s, number| s.endless_rows(number, ""), 1100, "prints more rows than fit"),
        ("SHOW DATABASES", |s, number| s.endless_rows(number, "y"), 1100, "prints more rows than fit"),
        // One row of more than a client takes.
        (
            "SELECT VERSION()",
            |s, number| {
                let (head, mut next) = columns(number, 1);
                s.say(head)?;
                let piece = vec![b'x'; 0xff_ffff];
                loop {
                    s.say([0xff, 0xff, 0xff, next])?;
                    s.say(&piece)?;
                    next = next.wrapping_add(1);
                }
            },
            2300,
            "127.0.0.1",
        ),
    ];
    for (place, trick, mib, words) in cases {
        let rogue = at(place, *trick);
        let told = fails_with(&[20, 25], &repo, *mib, 120, &["backup", &url(&rogue)]);
        assert!(told.contains(words) && told.contains("127.0.0.1"), "{place} {words}: {told}");
    }
    assert_eq!(repo.snapshot_count(), 0);
}

/// What a program says of itself, whoever made it say so.
#[test]
fn programs_without_end_have_a_bound() {
    for (script, mib, words) in [
        ("exec yes rows", 1100, "prints more"),
        ("exec yes ''", 1100, "prints more"),
        ("exec tr '\\0' x </dev/zero", 700, "prints more"),
        ("yes ERROR 1045: no >&2", 300, "ERROR"),
        ("exec tr '\\0' x </dev/zero >&2", 300, "127.0.0.1"),
    ] {
        let repo = with_programs(script);
        let told = fails_with(&[20, 25], &repo, mib, 120, &["backup", "mysql://u:p@127.0.0.1:1/shop"]);
        assert!(
            told.contains(words) && told.contains("127.0.0.1") && told.len() < 300_000,
            "{script}: {told}"
        );
    }
}

/// A repository whose `mariadb` and `mariadb-dump` are a script.
fn with_programs(script: &str) -> Repo {
    let repo = Repo::new();
    let folder = repo.path("bin");
    std::fs::create_dir(&folder).unwrap();
    for name in ["mariadb", "mariadb-dump"] {
        std::fs::write(folder.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        run("chmod", &["755", folder.join(name).to_str().unwrap()]);
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    repo.with("PATH", &path)
}

#[test]
fn a_signal_ends_every_wait() {
    let repo = Repo::new();
    let tricks: &[Trick] = &[
        |s, _| s.silence(),
        |s, number| {
            s.say([0x40, 0x42, 0x0f, number.wrapping_add(1)])?;
            s.drip(b'a')
        },
        |s, number| {
            let (head, next) = columns(number, 1);
            s.say(head)?;
            s.say([0xff, 0xff, 0, next])?;
            s.drip(b'b')
        },
    ];
    for (number, place) in PLACES.iter().enumerate() {
        // A head of rows is an answer to a question only: elsewhere a program ends by itself.
        let is_question = place.starts_with("SELECT") || place.starts_with("SHOW");
        let tricks = if is_question { tricks } else { &tricks[..2] };
        for (other, trick) in tricks.iter().enumerate() {
            let rogue = at(place, *trick);
            let signal = ["-TERM", "-INT"][(number + other) % 2];
            let command = if other == 1 { "stream" } else { "backup" };
            ended_by(signal, &repo, &[command, &url(&rogue)], || rogue.arrivals() > 0);
        }
    }
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn a_signal_ends_every_wait_of_a_restore() {
    let repo = Repo::new();
    {
        let server = Maria::start(&repo, "my");
        server.root("CREATE DATABASE shop; CREATE TABLE shop.t AS SELECT seq FROM shop.seq_1_to_1000");
        server.root("CREATE VIEW shop.v AS SELECT 1");
        repo.ok(["backup", &server.url()]);
    }
    let tricks: [Trick; 2] = [|s, _| s.silence(), |s, _| s.drip(b'x')];
    let places = ["HELLO", "lower_case_table_names", "GET_LOCK"];
    for (number, place) in places.iter().enumerate() {
        for (other, trick) in tricks.iter().enumerate() {
            let rogue = at(place, *trick);
            let signal = ["-TERM", "-INT"][(number + other) % 2];
            let args = ["restore", "latest", "--to", &url(&rogue), "--database", "shop"];
            ended_by(signal, &repo, &args, || rogue.arrivals() > 0);
        }
    }
}

/// An event of a binary log, of which mariadb-binlog is told.
fn event(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let len = 19 + body.len() as u32;
    [&[0; 5][..], &[kind], &[1, 0, 0, 0], &len.to_le_bytes(), &[0; 4], &[flags, 0], body].concat()
}

/// A log that goes on in one of this name.
fn goes_on_in(session: &mut Session, mut number: u8, name: &str) -> Result<()> {
    let rotates = |name: &[u8]| event(4, 0x20, &[&[4, 0, 0, 0, 0, 0, 0, 0], name].concat());
    let mut described = [&b"\x04\0"[..], b"10.11.6-MariaDB", &[0; 35], &[0; 4], &[19, 56, 13]].concat();
    described.resize(220, 0);
    let logs = [
        rotates(b"bin.000001"),
        event(15, 1, &described),
        rotates(name.as_bytes()),
        event(15, 1, &described),
    ];
    for event in logs {
        number = number.wrapping_add(1);
        session.say(packet(number, &[&[0][..], &event].concat()))?;
    }
    session.silence()
}

/// Names of logs that would lead out of the folder in which they are fetched, or be a word of a command line.
const NAMES: [&str; 6] = [
    "../outside",
    "../../../../../../../../../../../tmp/esker-rogue-outside",
    "/tmp/esker-rogue-outside",
    "x/../../outside",
    "..",
    "--result-file=/tmp/esker-rogue-outside",
];

#[test]
fn a_log_stays_in_its_folder_whatever_its_name_is() {
    let repo = Repo::new();
    // One without any database has a log, too.
    let mut server = Maria::start(&repo, "my");
    let end = |mut process: crate::harness::Process| {
        run("kill", &["-TERM", &process.0.id().to_string()]);
        assert_eq!(process.0.wait().unwrap().code(), Some(0));
    };
    let process = crate::mariadb::following(&repo, &server.url());
    crate::mariadb::wait_durable(&repo, &server);
    end(process);
    let (port, url) = (server.port, server.url());
    server.kill();
    let name = Arc::new(Mutex::new(""));
    let said = Arc::clone(&name);
    let rogue = Rogue::start_at(port, move |session| {
        // With the name of the log that is asked for.
        session.mariadb("bin.0000", |session, number| goes_on_in(session, number, *said.lock().unwrap()))
    });
    for own in NAMES {
        *name.lock().unwrap() = own;
        let before = rogue.arrivals();
        let process = crate::mariadb::following(&repo, &url);
        let said = || std::fs::read_to_string(repo.path("log")).unwrap_or_default();
        let began = std::time::Instant::now();
        wait_for(own, 60, || {
            assert!(began.elapsed().as_secs() < 30, "{own}: {}", said());
            rogue.arrivals() > before
        });
        std::thread::sleep(std::time::Duration::from_secs(1));
        end(process);
        let strays = Command::new("find").arg(repo.dir.path()).args(["-name", "*outside*"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&strays.stdout), "", "{own}");
        assert!(!std::path::Path::new("/tmp/esker-rogue-outside").exists(), "{own}");
    }
}

/// Asks for the password by another way to log in.
fn asks(session: &mut Session, number: u8, plugin: &str) -> Result<()> {
    session.say(packet(number + 1, &[b"\xfe", plugin.as_bytes(), b"\0\x04Password: "].concat()))?;
    session.packet()?;
    session.silence()
}

#[test]
fn nothing_is_given_to_who_must_not_have_it() {
    let repo = Repo::new();
    certificates(&repo);
    let ca = format!("tls.ca={}", repo.path("ca.pem").display());
    let tricks: [Trick; 2] = [|s, n| asks(s, n, "mysql_clear_password"), |s, n| asks(s, n, "dialog")];
    for trick in tricks {
        for command in ["backup", "stream"] {
            let rogue = at("LOGIN", trick);
            let told = fails_with(&[25], &repo, 300, 60, &[command, &url(&rogue)]);
            assert!(told.contains("in clear text") && !told.contains("topsecret"), "{command}: {told}");
            assert!(!rogue.has_heard("topsecret"), "{command}");
            // One that speaks no TLS is no server that is asked for it.
            fails_with(&[25], &repo, 300, 60, &["-o", &ca, command, &url(&rogue)]);
            assert!(!rogue.has_heard("topsecret"), "{command}");
        }
    }
    // Where it is allowed, it is given.
    let rogue = at("LOGIN", |session, number| {
        session.say(packet(number + 1, b"\xfemysql_clear_password\0"))?;
        let (number, _) = session.packet()?;
        session.say(packet(number + 1, OK))
    });
    repo.run(["backup", &format!("{}/?enable-cleartext-plugin=1", url(&rogue))]);
    assert!(rogue.has_heard("topsecret"));
}

#[test]
fn no_server_gets_a_file_of_this_machine() {
    let repo = Repo::new();
    std::fs::write("/tmp/esker-rogue-mariadb-secret", "very secret rows\n").unwrap();
    for place in &PLACES[1..] {
        let rogue = at(place, |session, number| {
            if number > 0 {
                session.say(packet(number + 1, OK))?;
                session.packet()?;
            }
            session.say(packet(1, b"\xfb/tmp/esker-rogue-mariadb-secret"))?;
            // Its rows end with an empty packet.
            while !session.packet()?.1.is_empty() {}
            Ok(())
        });
        fails_with(&[20, 21, 25], &repo, 300, 60, &["backup", &url(&rogue)]);
        assert!(!rogue.has_heard("very secret rows"), "{place}");
    }
    std::fs::remove_file("/tmp/esker-rogue-mariadb-secret").unwrap();
}
