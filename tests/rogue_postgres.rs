//! A server that is no PostgreSQL, or a bad one: it asks for what it must not get, proves nothing, never ends, or says
//! numbers that are none. And the ways to log in that `require_auth` and `channel_binding` allow, at real servers.

#![expect(clippy::big_endian_bytes, reason = "PostgreSQL's protocol has numbers in network byte order")]

use crate::harness::{Repo, certificates, expect, run, wait_for};
use crate::pg::Postgres;
use crate::rogue::{Act, Rogue, Session, ended, fails_within};
use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

impl Session {
    fn send(&mut self, tag: u8, body: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&message(tag, body))
    }

    fn message(&mut self) -> std::io::Result<Vec<u8>> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
        self.stream.read_exact(&mut body)?;
        self.note(&body);
        Ok(body)
    }

    /// The same message without end.
    fn flood_of(&mut self, tag: u8, body: &[u8]) -> std::io::Result<()> {
        self.flood(&message(tag, body))
    }

    fn drip_notice(&mut self) -> std::io::Result<()> {
        // A notice of 100 kB, and no more of it than a byte a second.
        self.say(b"N\x00\x01\x86\xa0")?;
        self.drip(b'S')
    }

    /// Lets the client in as version `version`.
    fn welcome(&mut self, version: &str) -> std::io::Result<()> {
        self.send(b'R', &[0; 4])?;
        self.send(b'S', format!("server_version\0{version}\0").as_bytes())?;
        self.send(b'Z', b"I")
    }

    /// Answers statements: with these rows if they contain the words, else with none.
    fn answers(&mut self, answers: &[(&str, &[&[&str]])]) -> std::io::Result<()> {
        loop {
            let asked = String::from_utf8_lossy(&self.message()?).into_owned();
            for (_, rows) in answers.iter().filter(|(words, _)| asked.contains(words)) {
                for row in *rows {
                    self.send(b'D', &data_row(row))?;
                }
            }
            self.send(b'C', b"SELECT\0")?;
            self.send(b'Z', b"I")?;
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn data_row(values: &[&str]) -> Vec<u8> {
    let mut row = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        row.extend((value.len() as u32).to_be_bytes());
        row.extend(value.as_bytes());
    }
    row
}

/// Messages that are long, so that floods of them are.
fn notice() -> Vec<u8> {
    format!("M{}\0\0", "wait".repeat(2000)).into()
}

fn parameter() -> Vec<u8> {
    format!("a\0{}\0", "b".repeat(8000)).into()
}

/// A server whose sessions do this after the client's first message.
fn start(act: Act) -> Rogue {
    Rogue::start(move |session| {
        loop {
            let mut len = [0; 4];
            session.stream.read_exact(&mut len)?;
            let mut body = vec![0; u32::from_be_bytes(len) as usize - 4];
            session.stream.read_exact(&mut body)?;
            // The request for encryption, which is refused.
            if body == [0x04, 0xd2, 0x16, 0x2f] {
                session.say(b"N")?;
                continue;
            }
            return act(session);
        }
    })
}

fn place(rogue: &Rogue) -> String {
    format!("postgres://alice:topsecret@127.0.0.1:{}/shop", rogue.port)
}

/// SCRAM up to the proof, which is a wrong one, or left out.
fn scram(session: &mut Session, proof: Option<&str>) -> std::io::Result<()> {
    session.send(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")?;
    let first = session.message()?;
    let first = String::from_utf8_lossy(&first).into_owned();
    let nonce = first.split("r=").nth(1).unwrap_or_default().to_owned();
    session.send(b'R', format!("\0\0\0\x0br={nonce}more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096").as_bytes())?;
    session.message()?;
    if let Some(proof) = proof {
        session.send(b'R', format!("\0\0\0\x0cv={proof}").as_bytes())?;
    }
    session.welcome("15.1")?;
    session.answers(&[])
}

#[test]
fn nothing_is_given_to_who_must_not_have_it() {
    let repo = Repo::new();
    let clear: Act = |session| {
        session.send(b'R', &[0, 0, 0, 3])?;
        session.message()?;
        session.welcome("15.1")?;
        session.answers(&[])
    };
    let md5: Act = |session| {
        session.send(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])?;
        session.message()?;
        session.welcome("15.1")?;
        session.answers(&[])
    };
    let at_once: Act = |session| {
        session.welcome("15.1")?;
        session.answers(&[])
    };
    let wrong: Act = |session| scram(session, Some("d3JvbmdzaWduYXR1cmV3cm9uZ3NpZ25hdHVyZXdyb24="));
    let unproven: Act = |session| scram(session, None);
    let twice: Act = |session| {
        session.send(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])?;
        session.message()?;
        session.send(b'R', &[0, 0, 0, 3])?;
        session.message()?;
        session.welcome("15.1")
    };
    for (act, query, variables, words) in [
        (clear, "", &[][..], "clear text over a line without TLS"),
        (clear, "?sslmode=disable", &[], "clear text over a line without TLS"),
        (clear, "?require_auth=scram-sha-256", &[], "require_auth=scram-sha-256 forbids it"),
        (clear, "?require_auth=!password", &[], "forbids it"),
        (clear, "", &[("PGREQUIREAUTH", "scram-sha-256,md5")], "require_auth=scram-sha-256,md5 forbids it"),
        (md5, "?require_auth=scram-sha-256", &[], "asks for md5"),
        (at_once, "?require_auth=scram-sha-256", &[], "without asking for anything"),
        (at_once, "", &[("PGREQUIREAUTH", "!none")], "without asking for anything"),
        (wrong, "", &[], "SCRAM"),
        (unproven, "", &[], "did not prove that it knows the password"),
        (twice, "", &[], "a second proof"),
        (unproven, "?channel_binding=require", &[], "does not encrypt, and channel_binding=require"),
        (at_once, "?channel_binding=require", &[], "does not encrypt, and channel_binding=require"),
        (at_once, "", &[("PGCHANNELBINDING", "require")], "channel_binding=require"),
        (at_once, "?channel_binding=require&sslmode=disable", &[], "needs TLS"),
        (at_once, "?require_auth=gss", &[], "leaves nothing that esker can do"),
        (at_once, "?require_auth=md5,!none", &[], "either all words begin with '!'"),
    ] {
        let rogue = start(act);
        // The line for replication is another one.
        for scheme in if query.is_empty() { &["postgres", "postgres+physical"][..] } else { &["postgres"] } {
            let url = place(&rogue)
                .replacen("postgres", scheme, 1)
                .replace("/shop", if *scheme == "postgres" { "/shop" } else { "" });
            let mut command = repo.command(["backup", &(url + query)]);
            let output = command.envs(variables.iter().copied()).output().unwrap();
            expect(&output, 25);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains(words), "{query} {variables:?}: {told}");
            assert!(!rogue.has_heard("topsecret") && !told.contains("topsecret"), "{query} {variables:?}");
        }
    }
    // Where it is asked for, it is given.
    let rogue = start(clear);
    repo.run(["backup", &format!("{}?require_auth=password", place(&rogue))]);
    assert!(rogue.has_heard("topsecret"));
}

#[test]
fn a_service_file_says_how_to_log_in() {
    let repo = Repo::new();
    let rogue = start(|session| {
        session.welcome("15.1")?;
        session.answers(&[])
    });
    let text =
        format!("[shop]\nhost=127.0.0.1\nport={}\nuser=alice\nrequire_auth=scram-sha-256\n", rogue.port);
    std::fs::write(repo.path("services"), text).unwrap();
    let repo = repo.with("PGSERVICEFILE", "services");
    let told = repo.fails(25, ["backup", "postgres:///shop?service=shop"]);
    assert!(told.contains("require_auth=scram-sha-256 forbids it"), "{told}");
}

#[test]
fn what_has_no_end_has_a_bound() {
    let repo = Repo::new();
    let cases: &[(Act, u64, &str)] = &[
        // 1 GiB before the login.
        (
            |session| session.stream.write_all(b"R\x40\0\0\0").and_then(|()| session.silence()),
            200,
            "more than 16 MiB",
        ),
        (|session| session.flood_of(b'N', &notice()), 200, "more than 16 MiB"),
        (|session| session.flood_of(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), 200, "second proof"),
        (
            |session| session.send(b'R', &[0; 4]).and_then(|()| session.flood_of(b'S', &parameter())),
            200,
            "more than 16 MiB",
        ),
        (|session| session.flood_of(b'v', b"\0\x03\0\0\0\0\0\0"), 200, "127.0.0.1"),
        (
            |session| {
                session.send(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")?;
                let first = String::from_utf8_lossy(&session.message()?).into_owned();
                let nonce = first.split("r=").nth(1).unwrap_or_default().to_owned();
                let wants = format!("\0\0\0\x0br={nonce}more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4000000000");
                session.send(b'R', wants.as_bytes())?;
                session.silence()
            },
            200,
            "more than 10000000 rounds of SCRAM",
        ),
        (|session| session.drip_notice(), 200, "the login did not end within 3 s (connect_timeout)"),
        (|session| session.silence(), 200, "the login did not end within 3 s (connect_timeout)"),
        (
            |session| session.welcome("15.1").and_then(|()| session.flood_of(b'N', &notice())),
            200,
            "more than 64 MiB of notices",
        ),
        (
            |session| session.welcome("15.1").and_then(|()| session.flood_of(b'S', &parameter())),
            200,
            "more than 64 MiB of notices",
        ),
        (
            |session| {
                session
                    .welcome("15.1")
                    .and_then(|()| session.flood_of(b'D', &data_row(&["x".repeat(20_000).as_str()])))
            },
            1100,
            "more rows than fit",
        ),
        (
            |session| session.welcome("15.1").and_then(|()| session.flood_of(b'D', &data_row(&[""; 1000]))),
            1100,
            "more rows than fit",
        ),
    ];
    for (act, mib, words) in cases {
        let rogue = start(*act);
        let seconds = if words.contains("connect_timeout") { 3 } else { 30 };
        let url = format!("{}?connect_timeout={seconds}", place(&rogue));
        let told = fails_within(&repo, *mib, 60, &["backup", &url]);
        assert!(told.contains(words) && told.contains("127.0.0.1"), "{words}: {told}");
    }
}

/// Rows that come before what a statement streams.
#[test]
fn rows_before_a_base_backup_have_a_bound() {
    let repo = Repo::new();
    for body in [data_row(&["x".repeat(20_000).as_str()]), data_row(&[""; 1000])] {
        let rogue = Rogue::start(move |session| {
            let mut len = [0; 4];
            session.stream.read_exact(&mut len)?;
            session.stream.read_exact(&mut vec![0; u32::from_be_bytes(len) as usize - 4])?;
            session.welcome("17.1")?;
            loop {
                let asked = String::from_utf8_lossy(&session.message()?).into_owned();
                if asked.contains("BASE_BACKUP") {
                    return session.flood_of(b'D', &body);
                }
                let row: &[&str] =
                    if asked.contains("IDENTIFY") { &["1", "1", "0/0", ""] } else { &["16MB"] };
                session.send(b'D', &data_row(row))?;
                session.send(b'C', b"SELECT\0")?;
                session.send(b'Z', b"I")?;
            }
        });
        let url = format!("postgres+physical://alice@127.0.0.1:{}/?sslmode=disable", rogue.port);
        let told = fails_within(&repo, 1100, 60, &["backup", &url]);
        assert!(told.contains("more rows than fit") && told.contains("127.0.0.1"), "{told}");
    }
}

#[test]
fn a_signal_ends_every_wait() {
    let repo = Repo::new();
    let before: &[Act] = &[|session| session.silence(), |session| session.drip_notice()];
    let after: &[Act] = &[
        |session| session.welcome("15.1").and_then(|()| session.silence()),
        |session| session.welcome("15.1").and_then(|()| session.drip_notice()),
    ];
    for (at, act) in before.iter().chain(after).enumerate() {
        let rogue = start(*act);
        let url = place(&rogue).replace("/shop", "");
        let commands: [&[&str]; 4] = [
            &["backup", &url],
            &["stream", &url.replacen("postgres", "postgres+physical", 1)],
            &["backup", &url.replacen("postgres", "postgres+physical", 1)],
            &["backup", &format!("{url}?connect_timeout=0")],
        ];
        for command in &commands[at % 2..] {
            let before = rogue.arrivals();
            ended(&repo, command, || rogue.arrivals() > before);
        }
    }
}

/// Versions, sizes, places and timelines that a server may say: an error, no panic and no endless work.
#[test]
fn numbers_of_a_server_are_not_trusted() {
    let repo = Repo::new();
    for version in ["999999999.4", "", "-1", "15.99999999999999999999"] {
        let version: &'static str = version;
        static VERSION: Mutex<&str> = Mutex::new("");
        *VERSION.lock().unwrap() = version;
        let rogue = start(|session| {
            session.welcome(&VERSION.lock().unwrap().to_owned())?;
            session.answers(&[])
        });
        fails_within(&repo, 300, 60, &["backup", &place(&rogue)]);
        fails_within(
            &repo,
            300,
            60,
            &["backup", &place(&rogue).replace("/shop", "").replacen("postgres", "postgres+physical", 1)],
        );
    }
    for (size, system) in [
        ("0MB", ["1", "1", "0/0", ""]),
        ("99999999999999GB", ["1", "1", "0/0", ""]),
        ("-1", ["1", "1", "0/0", ""]),
        ("3MB", ["1", "1", "0/0", ""]),
        ("16MB", ["1", "99999999999999", "0/0", ""]),
        ("16MB", ["99999999999999999999999", "1", "FFFFFFFF/FFFFFFFF", ""]),
        ("16MB", ["1", "-1", "zzz/0", ""]),
        ("16MB", ["1", "0", "FFFFFFFFFF/FFFFFFFFFF", ""]),
        ("", ["", "", "", ""]),
    ] {
        static ANSWERS: Mutex<(&str, [&str; 4])> = Mutex::new(("", [""; 4]));
        *ANSWERS.lock().unwrap() = (size, system);
        let rogue = start(|session| {
            session.welcome("17.1")?;
            let (size, system) = *ANSWERS.lock().unwrap();
            session.answers(&[
                ("wal_segment_size", &[&[size]]),
                ("IDENTIFY_SYSTEM", &[&system]),
                ("SHOW", &[&[size]]),
            ])
        });
        let url = place(&rogue).replace("/shop", "").replacen("postgres", "postgres+physical", 1);
        let began = Instant::now();
        for command in ["backup", "stream"] {
            let told = fails_within(&repo, 300, 60, &[command, &url]);
            assert!(!told.contains("panicked") && told.contains("127.0.0.1"), "{size} {system:?}: {told}");
        }
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

/// Roles that log in in one way each. Returns the server, which speaks TLS if it can.
fn with_roles(repo: &Repo, version: u32, tls: bool) -> Postgres {
    let server = Postgres::version(repo, version, "pg", &[]);
    server.each(
        "postgres",
        &[
            "CREATE DATABASE shop",
            "CREATE ROLE scram SUPERUSER LOGIN PASSWORD 'sesame'",
            "CREATE ROLE clear SUPERUSER LOGIN PASSWORD 'sesame'",
            "CREATE ROLE open SUPERUSER LOGIN",
        ],
    );
    server.sql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE digest SUPERUSER LOGIN PASSWORD 'sesame'",
    );
    server.sql("shop", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    if tls {
        certificates(repo);
        let (from, home) = (repo.dir.path().display(), server.home.display());
        let script = format!("cd {from} && cp server.pem server.key {home} && chmod 600 {home}/server.key");
        run("sh", &["-ec", &script]);
        if rustix::process::geteuid().is_root() {
            run("chown", &["postgres", &format!("{home}/server.key"), &format!("{home}/server.pem")]);
        }
        for (name, value) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("ssl", "on")]
        {
            let value = if value == "on" { value.to_owned() } else { format!("{home}/{value}") };
            server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        }
    }
    let rules: String =
        [("clear", "password"), ("digest", "md5"), ("open", "trust"), ("all", "scram-sha-256")]
            .iter()
            .map(|(who, how)| format!("host all,replication {who} 127.0.0.1/32 {how}\n"))
            .collect();
    std::fs::write(server.home.join("data/pg_hba.conf"), rules).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()");
    let url = format!("postgres://127.0.0.1:{}/postgres?user=open&sslmode=prefer", server.port);
    wait_for("the rules", 20, || {
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let output = server.program("psql").args([&url, "-XAtqc", sql]).output().unwrap();
        output.stdout == if tls { b"t\n" } else { b"f\n" }
    });
    server
}

/// Backs up as one of the roles; what it comes to.
fn logs_in(repo: &Repo, server: &Postgres, scheme: &str, case: (&str, &str, i32, &str)) {
    let (who, query, code, words) = case;
    let path = if scheme == "postgres" { "/shop" } else { "/" };
    let url = format!("{scheme}://{who}:sesame@127.0.0.1:{}{path}{query}", server.port);
    let output = repo.run(["backup", &url]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{scheme} {who} {query}: {told}");
    assert!(told.contains(words), "{scheme} {who} {query}: {told}");
}

#[test]
fn ways_to_log_in_over_tls() {
    let repo = Repo::new();
    let server = with_roles(&repo, 15, true);
    // Without programs of PostgreSQL, whose versions before 16 do not know it.
    logs_in(
        &repo,
        &server,
        "postgres+physical",
        ("scram", "?channel_binding=require&require_auth=scram-sha-256", 0, ""),
    );
    for case in [
        ("scram", "?require_auth=md5", 25, "asks for scram-sha-256"),
        ("digest", "?channel_binding=require", 25, "channel_binding=require"),
        ("digest", "?require_auth=scram-sha-256", 25, "asks for md5"),
        ("clear", "", 0, ""),
        ("clear", "?sslmode=disable", 25, "clear text over a line without TLS"),
        ("clear", "?require_auth=scram-sha-256", 25, "in clear text"),
        ("open", "?require_auth=!none", 25, "without asking for anything"),
        ("open", "?channel_binding=require", 25, "without SCRAM-SHA-256-PLUS"),
        ("scram", "", 0, ""),
        ("scram", "?channel_binding=require", 0, ""),
        ("scram", "?channel_binding=require&sslmode=disable", 25, "needs TLS"),
    ] {
        logs_in(&repo, &server, "postgres", case);
    }
    if !std::path::Path::new("/usr/lib/postgresql/16").exists() {
        logs_in(&repo, &server, "postgres", ("scram", "?require_auth=scram-sha-256", 20, "since version 16"));
    }
}

#[test]
fn ways_to_log_in_without_tls() {
    let repo = Repo::new().with("PATH", &crate::postgres::path_with(18));
    let server = with_roles(&repo, 18, false);
    for case in [
        ("scram", "?require_auth=scram-sha-256", 0, ""),
        ("scram", "?require_auth=md5", 25, "asks for scram-sha-256"),
        ("scram", "?channel_binding=require", 25, "does not encrypt"),
        ("digest", "?require_auth=md5,scram-sha-256", 0, ""),
        ("clear", "", 25, "clear text over a line without TLS"),
        ("clear", "?require_auth=password", 0, ""),
        ("open", "?require_auth=none", 0, ""),
    ] {
        logs_in(&repo, &server, "postgres", case);
    }
}
