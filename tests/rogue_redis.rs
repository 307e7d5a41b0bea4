//! A server that is no Redis, or a bad one: silent, dripping, without end, or of another mind about who is who.

use crate::harness::Repo;
use crate::rogue::{Act, Rogue, Session, ended_by, fails_with};

impl Session {
    /// Answers commands: those whose words contain `until` by what `then` does, all before them as a Redis would.
    fn redis(
        &mut self,
        until: &str,
        then: impl FnOnce(&mut Self) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut asked = String::new();
        loop {
            let bytes = self.hear()?;
            if bytes.is_empty() {
                return Ok(());
            }
            asked.push_str(&String::from_utf8_lossy(&bytes).to_uppercase());
            if asked.contains(until) {
                return then(self);
            }
            // As many answers as there are commands, each of which begins with its length.
            for command in asked.split_inclusive("\r\n").filter(|line| line.starts_with('*')) {
                let is_ping = asked.contains("PING") && command.starts_with("*1");
                self.say(if is_ping { "+PONG\r\n" } else { "+OK\r\n" })?;
            }
            asked.clear();
        }
    }
}

fn url(rogue: &Rogue, scheme: &str) -> String {
    format!("{scheme}://:topsecret@127.0.0.1:{}", rogue.port)
}

const EVERY: &[&str] = &["redis", "redis+scan"];

#[test]
fn what_has_no_end_has_a_bound() {
    let repo = Repo::new();
    // Where it begins, what it does, of which schemes, and what is told.
    let cases: &[(&str, Act, &[&str], &str)] = &[
        ("AUTH", |s| s.flood(b"x"), EVERY, "127.0.0.1"),
        ("AUTH", |s| s.say(b"+").and_then(|()| s.flood(b"x")), EVERY, "127.0.0.1"),
        ("AUTH", |s| s.flood(b"\r\n"), EVERY, "nothing but empty lines"),
        (
            "AUTH",
            |s| s.say("HTTP/1.1 302 Found\r\nLocation: redis://127.0.0.1:1/\r\n\r\n"),
            EVERY,
            "HTTP/1.1",
        ),
        ("AUTH", |s| s.say("-MOVED 1 127.0.0.1:1\r\n"), EVERY, "MOVED"),
        ("AUTH", |s| s.stream.shutdown(std::net::Shutdown::Both), EVERY, "hung up"),
        ("PING", |s| s.flood(b"-ERR no\r\n"), EVERY, "127.0.0.1"),
        ("SELECT", |s| s.flood(b"+x"), &["redis"], "127.0.0.1"),
        ("PSYNC", |s| s.flood(b"\n"), &["redis"], "nothing but empty lines"),
        (
            "PSYNC",
            |s| s.say("+FULLRESYNC a 1\r\n").and_then(|()| s.flood(b"x")),
            &["redis"],
            "a line of more than 65536 bytes",
        ),
        ("PSYNC", |s| s.say("+FULLRESYNC a 1\r\n$99999999999999999999\r\n"), &["redis"], "127.0.0.1"),
        (
            "PSYNC",
            |s| {
                s.say("+FULLRESYNC a 1\r\n$18446744073709551615\r\nREDIS0011").and_then(|()| s.flood(b"\xfa"))
            },
            &["redis"],
            "127.0.0.1",
        ),
        (
            "PSYNC",
            |s| s.say(b"+FULLRESYNC a 1\r\n$1000\r\nREDIS0011\xfa\x09redis-ver\x037.2"),
            &["redis"],
            "127.0.0.1",
        ),
        (
            "INFO",
            |s| s.say("$99999999999\r\n").and_then(|()| s.flood(b"x")),
            &["redis+scan"],
            "more than 64 MiB",
        ),
        (
            "INFO",
            |s| s.say("*999999999\r\n").and_then(|()| s.flood(b":1\r\n")),
            &["redis+scan"],
            "more than 64 MiB",
        ),
        ("INFO", |s| s.flood(b"*1\r\n"), &["redis+scan"], "nested deeper"),
        ("INFO", |s| s.say(b"+").and_then(|()| s.flood(b"x")), &["redis+scan"], "more than 65536 bytes"),
        ("INFO", |s| s.say("-MOVED 1 127.0.0.1:1\r\n"), &["redis+scan"], "MOVED"),
        ("INFO", |s| s.say("$10\r\nabc"), &["redis+scan"], "127.0.0.1"),
    ];
    for (until, act, schemes, words) in cases {
        for scheme in *schemes {
            let rogue = Rogue::start(move |session| session.redis(until, act));
            let told = fails_with(&[21, 25], &repo, 300, 60, &["backup", &url(&rogue, scheme)]);
            assert!(told.contains(words) && told.contains("127.0.0.1"), "{scheme} {until} {words}: {told}");
            assert!(!told.contains("topsecret"), "{told}");
        }
    }
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn a_signal_ends_every_wait() {
    let repo = Repo::new();
    let cases: &[(&str, Act, &[&str], &str)] = &[
        ("AUTH", |s| s.silence(), EVERY, "backup"),
        ("AUTH", |s| s.drip(b'+'), EVERY, "backup"),
        ("PING", |s| s.drip(b'\n'), &["redis"], "backup"),
        ("INFO", |s| s.silence(), &["redis+scan"], "backup"),
        ("INFO", |s| s.say("$1000\r\n").and_then(|()| s.drip(b'x')), &["redis+scan"], "backup"),
        ("PSYNC", |s| s.silence(), &["redis"], "backup"),
        ("PSYNC", |s| s.drip(b'\n'), &["redis"], "backup"),
        (
            "PSYNC",
            |s| s.say("+FULLRESYNC a 1\r\n$1000000\r\n").and_then(|()| s.silence()),
            &["redis"],
            "backup",
        ),
        (
            "PSYNC",
            |s| s.say("+FULLRESYNC a 1\r\n$1000000\r\nREDIS0011\u{0}").and_then(|()| s.drip(0)),
            &["redis"],
            "backup",
        ),
        ("PSYNC", |s| s.silence(), &["redis"], "stream"),
        ("PSYNC", |s| s.drip(b'\n'), &["redis"], "stream"),
        ("AUTH", |s| s.drip(b'+'), &["redis"], "stream"),
    ];
    for (at, (until, act, schemes, command)) in cases.iter().enumerate() {
        for scheme in *schemes {
            let rogue = Rogue::start(move |session| session.redis(until, act));
            let signal = ["-TERM", "-INT"][at % 2];
            ended_by(signal, &repo, &[command, &url(&rogue, scheme)], || rogue.arrivals() > 0);
        }
    }
    assert_eq!(repo.snapshot_count(), 0);
}

/// One that is asked for TLS and speaks none hears nothing of the login.
#[test]
fn nothing_is_given_to_who_must_not_have_it() {
    let repo = Repo::new();
    for act in [
        (|s| s.say("+OK\r\n").and_then(|()| s.flood(b"+PONG\r\n"))) as Act,
        |s| s.say("-NOAUTH Authentication required.\r\n").and_then(|()| s.silence()),
        |s| s.say(b"\x15\x03\x01\x00\x02\x02\x28"),
        |s| s.say(b"\x16\x03\x03\xff\xff").and_then(|()| s.flood(b"\0")),
    ] {
        for scheme in ["rediss", "rediss+scan"] {
            let rogue = Rogue::start(act);
            let told = fails_with(&[25], &repo, 300, 60, &["backup", &url(&rogue, scheme)]);
            assert!(!rogue.has_heard("topsecret") && !told.contains("topsecret"), "{scheme}: {told}");
        }
    }
}
