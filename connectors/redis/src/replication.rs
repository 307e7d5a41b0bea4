//! A whole dump into a server by replication: esker answers the server as its master, so that it loads at the speed at which it
//! reads a dump of its own.
//!
//! 1. The server's settings for its master are recorded and replaced, in one command ([`kept`]).
//! 2. `REPLICAOF`: it connects to us, proves that it is the one, and asks for all data ([`replica`], [`serving`]).
//! 3. The dump goes to it in a version that it loads ([`crate::keys::rewritten`]).
//! 4. `REPLICAOF NO ONE`, and the settings of before.
//!
//! A process that is killed between 1 and 4 leaves a replica of nobody; the next restore ends that ([`left`]). Nothing here
//! empties a server or proves what is loaded: [`crate::whole`] does.

use crate::keys::Dump;
use crate::keys::rewritten::{Rewritten, rewrite};
use crate::server::client::Client;
use crate::server::{Server, words};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Monitor, Repository, Result};
use kept::Kept;
use redis::RedisResult;
use replica::Listener;
use serving::{Failure, serve};
use state::State;
use std::time::Duration;

mod kept;
mod left;
mod offer;
mod replica;
mod serving;
mod state;

pub(crate) use left::Left;
pub(crate) use offer::Offer;

/// How long a server has to connect to us. It does so at once, and again every second.
const CONNECTS: Duration = Duration::from_secs(10);

/// What became of a load.
pub(crate) enum Outcome {
    Loaded(Rewritten),
    /// Nothing of it is in the server, which is a master with its own settings.
    Refused(String),
}

impl Offer {
    /// Loads all of `dump` in place of what the server has; `functions` are libraries that it gets if the dump has none.
    ///
    /// # Errors
    /// What went wrong, and whether the server is as it was but for its data.
    pub(crate) fn load(
        &self,
        server: &Server,
        repo: &Repository,
        dump: &Dump,
        functions: &[u8],
        now_ms: u64,
        monitor: &dyn Monitor,
    ) -> Result<Outcome> {
        let bound = Listener::bind(self.listens, self.peer, self.waiting.clone());
        let bound = bound.and_then(|listener| Ok((self.master(&listener)?, listener)));
        let (master, listener) = match bound {
            Ok(bound) => bound,
            Err(error) => return Ok(Outcome::Refused(format!("cannot listen at {}: {error}", self.listens))),
        };
        let mut client = server.connect()?;
        // For the questions during the load: a signal ends its waits, and no others.
        let mut watch = server.anew().connect()?;
        // Since it was asked, it may have become the replica of somebody.
        if let Err(why) = offer::is_free(&State::of(server, &mut client)?) {
            return Ok(Outcome::Refused(why));
        }
        // Of a master this changes nothing, and says whether it is allowed.
        if let Err(why) = left::no_master(&mut client) {
            return Ok(Outcome::Refused(why));
        }
        let kept = match Kept::of(&mut client, master) {
            Ok(kept) => kept,
            Err(why) => return Ok(Outcome::Refused(why)),
        };
        let secret = kept.sealed(repo.store().keys())?;
        let begun = match Kept::record(&mut client, &secret) {
            Err((why, true)) => return Ok(Outcome::Refused(why)),
            Err((why, false)) => Err(why),
            Ok(()) => kept.replace(&mut client).and_then(|()| attach(kept.master(), &mut client)),
        };
        let served = match begun.and_then(|()| listener.accept(&secret, CONNECTS, &|| monitor.interrupted()))
        {
            Ok(mut replica) => {
                let write = |to: &mut dyn std::io::Write| {
                    rewrite(repo, dump, self.loads, functions, now_ms, to, monitor)
                };
                monitor.count(Counter::BytesTotal, dump.len());
                // It stays connected until it is a master again; else it looks for us meanwhile.
                serve(&mut replica, server, &mut watch, kept.master(), write, monitor)
                    .map(|written| (written, replica))
            }
            Err(_) if monitor.interrupted() => Err(Failure::Ended(Error::Interrupted)),
            Err(why) => Err(Failure::Refused(why)),
        };
        // Nobody else is to connect, and nothing is to load any more.
        drop(listener);
        let ended = left::end(&kept, server, monitor);
        match (served, ended) {
            (Ok((written, _)), Ok(())) => Ok(Outcome::Loaded(written)),
            (Err(Failure::Refused(why)), Ok(())) => Ok(Outcome::Refused(why)),
            (Err(Failure::Ended(error)), Ok(())) => Err(error),
            (served, Err(why)) => {
                let first = match served {
                    Ok(_) => String::new(),
                    Err(Failure::Refused(why)) => format!("{why}; "),
                    Err(Failure::Ended(error)) => format!("{}; ", error.in_one_line()),
                };
                let why = format!(
                    "{first}it is not certain that it is a master with its own settings again ({why}); the same restore, \
                        run again, sees to that; if it has ended, its log says why"
                );
                Err(server.error(SourceErrorKind::Unavailable, why).into())
            }
        }
    }

    /// Where the server finds us.
    fn master(&self, listener: &Listener) -> std::io::Result<(String, u16)> {
        let (host, port) = &self.found_at;
        let port = if *port == 0 { listener.port()? } else { *port };
        Ok((host.clone(), port))
    }
}

/// That a server is a replica which takes no writes, and so no restore; one that does not say takes them, as far as is known.
pub(crate) fn refusal(server: &Server) -> Option<Error> {
    let state = server.connect_busy().ok().and_then(|mut client| State::ask(&mut client).ok())?;
    state.is_read_only().then(|| {
        let master = state.master().map_or_else(String::new, |(host, port)| format!(", {host}:{port}"));
        Error::Refused(format!(
            "{} is a replica that takes no writes (READONLY): restore into its master{master}",
            server.shown
        ))
    })
}

/// Makes the server our replica.
fn attach((host, port): (&str, u16), client: &mut Client) -> std::result::Result<(), String> {
    let done: RedisResult<()> = redis::cmd("REPLICAOF").arg(host).arg(port).query(client);
    done.map_err(|error| format!("REPLICAOF is refused: {}", words(&error)))
}

/// How often a server is asked again that is still at another save, in milliseconds.
const PAUSE: u64 = 100;

/// Has the server write its data to its disk, or waits until it has, if it does so by itself: of a load it counts no changes
/// after which it would, and what is on its disk is from before the load. Returns why it does not.
///
/// It refuses while a child of it writes an RDB, as for the replica that has just read everything again: that is waited for,
/// as long as it takes.
pub(crate) fn save(server: &Server, monitor: &dyn Monitor) -> Result<Option<String>> {
    let mut client = server.connect()?;
    // One with an append-only file begins that by itself; until it is done, what is on the disk is from before.
    let (mut is_told, mut has_failed) = (false, false);
    loop {
        let state = State::of(server, &mut client)?;
        if !state.is_rewriting() {
            break;
        }
        if !std::mem::replace(&mut is_told, true) {
            monitor.phase("the server writes its append-only file");
        }
        if state.failed_to_rewrite() && !std::mem::replace(&mut has_failed, true) {
            monitor.note(
                "the server could not write its append-only file, as its log says, and tries again: that is waited for",
            );
        }
        if monitor.interrupted() {
            return Ok(Some(
                "the server has not written its append-only file yet, and a restart before that loses data"
                    .into(),
            ));
        }
        std::thread::sleep(Duration::from_millis(PAUSE));
    }
    if State::of(server, &mut client)?.failed_to_rewrite() {
        return Ok(Some(
            "the server could not write its append-only file, as its log says, and a restart loses what was restored; \
             BGREWRITEAOF once it can"
                .into(),
        ));
    }
    match kept::get(&mut client, "save") {
        Ok(Some(points)) if !points.is_empty() => {}
        _ => return Ok(None),
    }
    monitor.phase("have the server save it");
    loop {
        let done: RedisResult<redis::Value> = redis::cmd("BGSAVE").arg("SCHEDULE").query(&mut client);
        let why = match done {
            Ok(_) => return Ok(None),
            // Its words in `rdb.c`, `bgsaveCommand`; there is no code for it.
            Err(error) if words(&error).contains("already in progress") && !monitor.interrupted() => {
                std::thread::sleep(Duration::from_millis(PAUSE));
                continue;
            }
            Err(error) => words(&error),
        };
        return Ok(Some(format!(
            "the server has all of it in memory and nothing of it on its disk, and a restart loses it: BGSAVE is refused \
             ({why}); run it once the server can save"
        )));
    }
}
