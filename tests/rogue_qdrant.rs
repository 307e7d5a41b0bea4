//! A server that is no Qdrant, or a bad one: without end, silent in the middle, or of another place.

use crate::harness::Repo;
use crate::rogue::{Act, Rogue, Session, ended_by, fails_with};
use std::sync::OnceLock;

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";

impl Session {
    /// Answers a request: one whose line contains `until` by what `then` does, others as a Qdrant with one collection would.
    fn qdrant(
        &mut self,
        until: &str,
        then: impl FnOnce(&mut Self) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let asked = String::from_utf8_lossy(&self.hear()?).into_owned();
        let line = asked.lines().next().unwrap_or_default();
        if line.contains(until) {
            return then(self);
        }
        let body = match line.split(' ').nth(1).unwrap_or_default() {
            "/" => r#"{"title":"qdrant","version":"1.15.0"}"#,
            "/collections" => r#"{"result":{"collections":[{"name":"a"}]}}"#,
            "/aliases" => r#"{"result":{"aliases":[]}}"#,
            "/cluster" => r#"{"result":{"status":"disabled","peers":{}}}"#,
            "/collections/a" => r#"{"result":{"config":{},"payload_schema":{},"status":"green"}}"#,
            "/collections/a/cluster" => {
                r#"{"result":{"peer_id":1,"local_shards":[{"shard_id":0,"state":"Active"}],"remote_shards":[]}}"#
            }
            "/collections/a/points/count" => r#"{"result":{"count":1}}"#,
            _ => return self.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        };
        self.say(format!("{JSON}Content-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// The head of an answer that says that it is endless, and `bytes` without end.
    fn endless(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.say(format!("{JSON}Content-Length: 9000000000000\r\n\r\n"))?;
        self.flood(bytes)
    }

    /// As many `parts` as fit into an answer that is long enough for one, within `around`.
    fn full(&mut self, around: [&str; 2], part: &str) -> std::io::Result<()> {
        let many = vec![part; ((16 << 20) - 200) / (part.len() + 1)].join(",");
        let body = [around[0], &many, around[1]].concat();
        self.say(format!("{JSON}Content-Length: {}\r\n\r\n{body}", body.len()))
    }
}

fn url(rogue: &Rogue) -> String {
    format!("qdrant+http://127.0.0.1:{}", rogue.port)
}

fn at(until: &'static str, act: Act) -> Rogue {
    Rogue::start(move |session| session.qdrant(until, act))
}

#[test]
fn what_has_no_end_has_a_bound() {
    let repo = Repo::new().with("ESKER_QDRANT_API_KEY", "topsecret");
    let places: &[(&str, &[&str])] = &[
        ("version", &["GET / "]),
        ("collections", &["GET /collections "]),
        ("aliases", &["GET /aliases "]),
        ("cluster", &["GET /cluster "]),
        ("collection", &["GET /collections/a "]),
        ("shards", &["GET /collections/a/cluster "]),
    ];
    for (what, places) in places {
        for place in *places {
            let told = fails_with(&[25], &repo, 200, 60, &["backup", &url(&at(place, |s| s.endless(b"0,")))]);
            assert!(told.contains("has more than 16 MiB") && told.contains(what), "{what}: {told}");
        }
    }
    let cases: &[(&str, Act, &str)] = &[
        (
            "GET /collections ",
            |s| {
                s.say(format!("{JSON}Transfer-Encoding: chunked\r\n\r\n"))?;
                s.flood(format!("1000\r\n{}\r\n", "[".repeat(0x1000)).as_bytes())
            },
            "has more than 16 MiB",
        ),
        (
            "GET /collections ",
            |s| {
                s.say("HTTP/1.1 500 No\r\nContent-Length: 9000000000\r\n\r\n")?;
                s.flood(b"x")
            },
            "500",
        ),
        // A head without end, a redirect to itself, and no HTTP at all.
        ("GET / ", |s| s.say("HTTP/1.1 200 OK\r\n").and_then(|()| s.flood(b"X-A: b\r\n")), "127.0.0.1"),
        (
            "GET / ",
            |s| {
                s.say("HTTP/1.1 100 Continue\r\n\r\n")
                    .and_then(|()| s.flood(b"HTTP/1.1 100 Continue\r\n\r\n"))
            },
            "127.0.0.1",
        ),
        (
            "GET / ",
            |s| s.say("HTTP/1.1 307 No\r\nLocation: /collections\r\nContent-Length: 0\r\n\r\n"),
            "307",
        ),
        ("GET / ", |s| s.flood(b"\0"), "127.0.0.1"),
        ("GET /collections ", |s| s.say(format!("{JSON}Content-Length: 100\r\n\r\n{{\"res")), "127.0.0.1"),
        // Within the bound, and not what it should be.
        ("GET /collections ", |s| s.full(["{\"result\":", ""], "[[[[[[[["), "collections"),
        (
            "GET /collections/a/cluster ",
            |s| s.full(["{\"result\":{\"remote_shards\":[],\"local_shards\":[", "]}}"], "{}"),
            "one has no number",
        ),
    ];
    for (place, act, words) in cases {
        let rogue = at(place, *act);
        let told = fails_with(&[25], &repo, 700, 60, &["backup", &url(&rogue)]);
        assert!(told.contains(words) && told.contains("127.0.0.1"), "{words}: {told}");
        assert!(!told.contains("topsecret"), "{told}");
    }
    assert_eq!(repo.snapshot_count(), 0);
}

/// Answers within their bounds, of many collections, do not add up without one.
#[test]
fn descriptions_have_a_bound_together() {
    let repo = Repo::new();
    let rogue = Rogue::start(|session| {
        static CONFIG: OnceLock<String> = OnceLock::new();
        let asked = String::from_utf8_lossy(&session.hear()?).into_owned();
        let names = (0..200).map(|number| format!("{{\"name\":\"{number}\"}}")).collect::<Vec<_>>().join(",");
        let body = match asked.split(' ').nth(1).unwrap_or_default() {
            "/" => r#"{"title":"qdrant","version":"1.15.0"}"#.to_owned(),
            "/collections" => format!("{{\"result\":{{\"collections\":[{names}]}}}}"),
            "/aliases" => r#"{"result":{"aliases":[]}}"#.to_owned(),
            "/cluster" => r#"{"result":{"peers":{}}}"#.to_owned(),
            path if path.ends_with("/cluster") => {
                r#"{"result":{"peer_id":1,"local_shards":[],"remote_shards":[]}}"#.to_owned()
            }
            path if path.ends_with("/count") => r#"{"result":{"count":1}}"#.to_owned(),
            _ => CONFIG
                .get_or_init(|| {
                    format!("{{\"result\":{{\"config\":{{\"x\":[{}0]}}}}}}", "0,".repeat(6 << 20))
                })
                .clone(),
        };
        session.say(format!("{JSON}Content-Length: {}\r\n\r\n{body}", body.len()))
    });
    let told = fails_with(&[25], &repo, 1500, 120, &["backup", &url(&rogue)]);
    assert!(told.contains("descriptions of its collections") && told.contains("127.0.0.1"), "{told}");
}

/// JSON that is no object, as a proxy may say it, or lacks what was asked for.
#[test]
fn an_answer_that_is_another_is_an_error() {
    let repo = Repo::new();
    for place in
        ["GET / ", "GET /collections ", "GET /aliases ", "GET /collections/a ", "GET /collections/a/cluster "]
    {
        for act in [
            (|s| s.say(format!("{JSON}Content-Length: 1\r\n\r\n3"))) as Act,
            |s| s.say(format!("{JSON}Content-Length: 4\r\n\r\n\"ok\"")),
            |s| s.say(format!("{JSON}Content-Length: 4\r\n\r\n[{{}}]")),
            |s| s.say(format!("{JSON}Content-Length: 13\r\n\r\n{{\"result\":{{}}}}")),
        ] {
            let output = repo.run(["backup", &url(&at(place, act))]);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!told.contains("panicked") && output.status.code() != Some(101), "{place}: {told}");
            assert!(matches!(output.status.code(), Some(3 | 25 | 26)), "{place}: {output:?}");
        }
    }
}

#[test]
fn a_signal_ends_every_wait() {
    let repo = Repo::new();
    let snapshot = "/collections/a/shards/0/snapshot";
    let cases: &[(&str, Act)] = &[
        ("GET / ", |s| s.silence()),
        ("GET / ", |s| s.drip(b'H')),
        ("GET / ", |s| {
            s.arrived();
            s.flood(b"HTTP/1.1 100 Continue\r\n\r\n")
        }),
        ("GET / ", |s| s.say("HTTP/1.1 200 OK\r\n").and_then(|()| s.drip(b'X'))),
        ("GET /collections ", |s| {
            s.say(format!("{JSON}Content-Length: 100000\r\n\r\n")).and_then(|()| s.drip(b'['))
        }),
        ("GET /collections/a ", |s| {
            s.say(format!("{JSON}Content-Length: 9\r\n\r\n")).and_then(|()| s.silence())
        }),
        ("GET /collections/a/cluster ", |s| s.silence()),
        (snapshot, |s| s.silence()),
        (snapshot, |s| {
            s.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n").and_then(|()| s.drip(0))
        }),
        (snapshot, |s| {
            s.say("HTTP/1.1 404 No\r\nContent-Length: 100000\r\n\r\n").and_then(|()| s.drip(b'x'))
        }),
    ];
    for (number, (place, act)) in cases.iter().enumerate() {
        let rogue = at(place, *act);
        let signal = ["-TERM", "-INT"][number % 2];
        ended_by(signal, &repo, &["backup", &url(&rogue)], || rogue.arrivals() > 0);
    }
    assert_eq!(repo.snapshot_count(), 0);
}

/// One that is asked for TLS and speaks none hears nothing of the key.
#[test]
fn nothing_is_given_to_who_must_not_have_it() {
    let repo = Repo::new().with("ESKER_QDRANT_API_KEY", "topsecret");
    let rogue = Rogue::start(|session| session.qdrant("NEVER", |_| Ok(())));
    let https = url(&rogue).replace("+http:", "+https:");
    let told = fails_with(&[25], &repo, 300, 60, &["backup", &https]);
    assert!(!rogue.has_heard("topsecret") && !told.contains("topsecret"), "{told}");
}
