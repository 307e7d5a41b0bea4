//! What a load by replication left in a server that was killed half way: a replica of nobody, with our secret as `masterauth`.
//! The next restore finds it and ends it.

use super::kept::{Found, Kept};
use super::state::State;
use crate::server::client::Client;
use crate::server::{Server, words};
use chunkstore::keys::KeyRing;
use engine::source::SourceErrorKind;
use engine::{Error, Monitor, Result};
use redis::RedisResult;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// How long it is asked whether a process still is where a replica looks for its master.
const QUESTION: Duration = Duration::from_secs(1);
/// How often a server is asked whether it has loaded.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a server that has loaded all has to find out that its connection to its master has ended: it reads that after the
/// load, and says "up" until then.
const HEARING: Duration = Duration::from_secs(3);
/// How long that is waited for after a signal: a load whose connection has ended ends at once, but for one from a file.
const ORDERLY: Duration = Duration::from_secs(8);

/// The settings that it had before.
pub(crate) struct Left(Kept);

impl Left {
    /// Looks, and waits while the server loads what was sent to it; changes nothing.
    ///
    /// # Errors
    /// That a restore is at work in it, or that its settings can be put back only from another repository.
    pub(crate) fn find(server: &Server, keys: &KeyRing, monitor: &dyn Monitor) -> Result<Option<Self>> {
        let mut client = server.connect_busy()?;
        let (mut is_told, mut up_since) = (false, None);
        loop {
            // Users for a few keys may have no INFO, and then no CONFIG either.
            let Ok(state) = State::of(server, &mut client) else { return Ok(None) };
            let kept = match Kept::find(keys, &mut client) {
                Found::Nothing => return Ok(None),
                Found::Ours(kept) => kept,
                Found::Foreign => return Err(foreign(server)),
            };
            // Of anybody else it was made a replica after that, and is left to be one.
            let is_ours = state.is_replica_of(kept.master());
            if is_ours && is_somebody(kept.master()) {
                return Err(at_work(server, kept.master()));
            }
            if state.is_loading() {
                up_since = None;
            } else if !(is_ours && state.has_master()) {
                return Ok(Some(Self(kept)));
            } else if up_since.get_or_insert_with(Instant::now).elapsed() > HEARING {
                return Err(at_work(server, kept.master()));
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            if !is_told && state.is_loading() {
                monitor.note("the server still loads what a restore sent to it that was interrupted");
                is_told = true;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Makes the server a master with its own settings again, if it still is as it was found. What it has loaded stays in it.
    ///
    /// # Errors
    /// What it refuses, and those of [`Left::find`].
    pub(crate) fn end(self, server: &Server, keys: &KeyRing, monitor: &dyn Monitor) -> Result<()> {
        // Since then the user was asked.
        let Some(Self(kept)) = Self::find(server, keys, monitor)? else { return Ok(()) };
        end(&kept, server, monitor).map_err(|why| told(server, &why))
    }
}

fn foreign(server: &Server) -> Error {
    Error::Refused(format!(
        "{} has settings of a restore from another repository that did not end; run that one again, or REPLICAOF NO ONE \
            and CONFIG SET masterauth with your own value, or ''",
        server.shown
    ))
}

fn at_work(server: &Server, (host, port): (&str, u16)) -> Error {
    Error::Refused(format!(
        "another restore is at work in {}, which loads from it; if that ended less than a minute ago, try again then; if \
            something else listens at {host}:{port} by now, REPLICAOF NO ONE on the server first",
        server.shown
    ))
}

fn told(server: &Server, why: &str) -> Error {
    server.error(SourceErrorKind::Unavailable, why).into()
}

/// Whether somebody answers where a replica looks for its master.
fn is_somebody((host, port): (&str, u16)) -> bool {
    // On one machine, a connection to a free port may be given that port, and then it is one to itself.
    let is_another = |stream: TcpStream| stream.local_addr().ok() != stream.peer_addr().ok();
    let answers = |address| TcpStream::connect_timeout(&address, QUESTION).is_ok_and(is_another);
    (host, port).to_socket_addrs().is_ok_and(|mut all| all.any(answers))
}

/// No replica of ours any more, and its own settings, in this order: with the record of them until the last. It goes over a
/// connection of its own, whatever became of others, and over another one if that is lost.
pub(super) fn end(kept: &Kept, server: &Server, monitor: &dyn Monitor) -> std::result::Result<(), String> {
    let (server, began) = (server.anew(), Instant::now());
    loop {
        let connected = server.connect().map_err(|error| error.why);
        match connected.and_then(|mut client| put_in_order(kept, &mut client, monitor)) {
            Err(_) if began.elapsed() < ORDERLY => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn put_in_order(kept: &Kept, client: &mut Client, monitor: &dyn Monitor) -> std::result::Result<(), String> {
    // It takes no REPLICAOF while it loads.
    let (began, mut is_told) = (Instant::now(), false);
    let mut state = State::ask(client)?;
    while state.is_loading() {
        if monitor.interrupted() && began.elapsed() > ORDERLY {
            return Err(
                "it still loads what was sent; the same restore, run again, puts its settings back".into()
            );
        }
        if !is_told && began.elapsed() > QUESTION {
            monitor.note("the server loads what was sent to it; its settings are put back after that");
            is_told = true;
        }
        std::thread::sleep(PAUSE);
        state = State::ask(client)?;
    }
    // One that somebody gave another master keeps that.
    if state.is_replica_of(kept.master()) {
        no_master(client)?;
    }
    kept.put_back(client)
}

/// Makes a server a master. One that is has nothing to do.
pub(super) fn no_master(client: &mut Client) -> std::result::Result<(), String> {
    let done: RedisResult<()> = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query(client);
    done.map_err(|error| format!("REPLICAOF NO ONE: {}", words(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::env::SeededEnv;
    use chunkstore::id::RepositoryId;
    use engine::connector::Context;
    use engine::monitor::Tally;
    use std::io::Write as _;
    use std::net::TcpListener;

    /// What is found in a server that says these of itself, one after the other and the last for ever, as a replica of a
    /// process that was killed.
    fn found(states: &[&str]) -> std::result::Result<bool, String> {
        let keys = KeyRing::generate(RepositoryId([7; 16]), &SeededEnv::new(1)).unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let kept = Kept::of_master("127.0.0.1", gone);
        let secret = kept.sealed(&keys).unwrap();
        let mut answers = String::from("+PONG\r\n");
        let forever = std::iter::repeat_n(states.last().unwrap(), 100);
        for state in states.iter().chain(forever) {
            let info = format!("role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:{gone}\r\n{state}\r\n");
            answers += &format!("${}\r\n{info}\r\n", info.len());
            answers += &format!("*2\r\n$10\r\nmasterauth\r\n${}\r\n{}\r\n", secret.len(), *secret);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answers.as_bytes()).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink())
        });
        let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
        let server = Server::new(&url.parse().unwrap(), &context).unwrap();
        let left = Left::find(&server, &keys, &Tally::default());
        left.map(|left| left.is_some()).map_err(|error| error.in_one_line().to_string())
    }

    /// A process may die when all that it sent is on its way: the server loads that, and says that it is in step with its
    /// master until it reads that the connection has ended.
    #[test]
    fn a_master_that_died_is_up_for_a_moment() {
        let (loading, up, down) =
            ("loading:1\r\nmaster_link_status:down", "master_link_status:up", "master_link_status:down");
        assert_eq!(found(&[loading, up, down]), Ok(true));
        assert_eq!(found(&[loading, "master_sync_in_progress:1", down]), Ok(true));
        assert_eq!(found(&[down]), Ok(true));
        // One that is not on this machine, behind a tunnel say, lives on.
        let told = found(&[loading, up]).unwrap_err();
        assert!(told.contains("another restore is at work"), "{told}");
    }
}
