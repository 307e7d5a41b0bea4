//! A whole dump into a server by replication: esker answers the server as its master, so that it loads at the speed at which it
//! reads a dump of its own.
//!
//! 1. The server's settings for its master are recorded and replaced, in one command ([`kept`]).
//! 2. `REPLICAOF`: it connects to us, proves that it is the one, and asks for all data ([`replica`]).
//! 3. The dump goes to it in a version that it loads ([`crate::keys::rewritten`]).
//! 4. `REPLICAOF NO ONE`, and the settings of before.
//!
//! A process that is killed between 1 and 4 leaves a replica of nobody; the next restore ends that ([`left`]). Nothing here
//! empties a server or proves what is loaded: [`crate::whole`] does.

use crate::keys::Dump;
use crate::keys::rewritten::{Ended, Loads, Rewritten, rewrite};
use crate::server::address::Address;
use crate::server::client::Client;
use crate::server::{Server, words};
use crate::settings::{REPLICATE_FROM, host_and_port};
use chunkstore::threads;
use connector_kit::waiting::Waiting;
use engine::connector::Context;
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Monitor, Repository, Result};
use kept::Kept;
use redis::RedisResult;
use replica::{Listener, Replica};
use state::State;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod kept;
mod left;
mod replica;
mod state;

pub(crate) use left::Left;

/// How long a server has to connect to us. It does so at once, and again every second.
const CONNECTS: Duration = Duration::from_secs(10);
/// How often it is asked how far it is.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the version and checksum at the end of a payload.
const FOOTER: usize = 10;

/// That a server can load by replication, as far as it says before anything is changed.
pub(crate) struct Offer {
    loads: Loads,
    /// Where we listen.
    listens: SocketAddr,
    /// Who may connect; anybody with the secret, if the user says where we are.
    peer: Option<IpAddr>,
    /// Where the server finds us; the port is that of the listener if it is 0.
    found_at: (String, u16),
    /// The waits for the replica. They are others than those for the server: one that a signal ended would end its setting
    /// in order, too.
    waiting: Waiting,
}

/// What became of a load.
pub(crate) enum Outcome {
    Loaded(Rewritten),
    /// Nothing of it is in the server, which is a master with its own settings.
    Refused(String),
}

impl Offer {
    /// Asks the server, and changes nothing.
    ///
    /// # Errors
    /// Of the connection; within it, why replication is not possible, for people.
    pub(crate) fn ask(server: &Server, context: &Context) -> Result<std::result::Result<Self, String>> {
        let place = context.settings.get(REPLICATE_FROM.name);
        if place == Some("never") {
            return Ok(Err("-o redis.replicate-from=never".into()));
        }
        let mut client = server.connect()?;
        let state = match State::of(server, &mut client) {
            Ok(state) => state,
            Err(error) => return Ok(Err(error.in_one_line().to_string())),
        };
        if state.is_cluster_node() {
            return Ok(Err("a node of a cluster takes no REPLICAOF".into()));
        }
        if !state.is_master() {
            return Ok(Err("it is a replica".into()));
        }
        if let Err(why) = has_no_sentinel(&mut client).and_then(|()| Kept::of(&mut client).map(drop)) {
            return Ok(Err(why));
        }
        let loads = match version(&mut client, &state) {
            Ok(loads) => loads,
            Err(why) => return Ok(Err(why)),
        };
        let ends = match &server.address {
            Address::Unix(_) => Some((Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into())),
            Address::Tcp(..) => client.ends(),
        };
        let Some((ours, theirs)) = ends else { return Ok(Err("our own address is not known".into())) };
        if let Err(why) = is_plain(server, &mut client, theirs) {
            return Ok(Err(why));
        }
        let waiting = Waiting::new(&context.stop);
        Ok(Ok(match place.and_then(host_and_port) {
            Some((host, port)) => Self {
                loads,
                listens: match ours {
                    IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
                    IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
                },
                peer: None,
                found_at: (host.to_owned(), port),
                waiting,
            },
            None => Self {
                loads,
                listens: (ours, 0).into(),
                peer: Some(theirs),
                found_at: (ours.to_canonical().to_string(), 0),
                waiting,
            },
        }))
    }

    /// What the server loads.
    pub(crate) fn loads(&self) -> Loads {
        self.loads
    }

    /// The address that the server connects to, for people.
    pub(crate) fn place(&self) -> String {
        match &self.found_at {
            (host, 0) => host.clone(),
            (host, port) => Address::Tcp(host.clone(), *port).to_string(),
        }
    }

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
        let listener = match Listener::bind(self.listens, self.peer, self.waiting.clone()) {
            Ok(listener) => listener,
            Err(error) => return Ok(Outcome::Refused(format!("cannot listen at {}: {error}", self.listens))),
        };
        let mut client = server.connect()?;
        // Of a master this changes nothing, and says whether it is allowed.
        if let Err(why) = left::no_master(&mut client) {
            return Ok(Outcome::Refused(why));
        }
        let kept = match Kept::of(&mut client) {
            Ok(kept) => kept,
            Err(why) => return Ok(Outcome::Refused(why)),
        };
        let secret = kept.sealed(repo.store().keys())?;
        let begun = match Kept::record(&mut client, &secret) {
            Err((why, true)) => return Ok(Outcome::Refused(why)),
            Err((why, false)) => Err(why),
            Ok(()) => kept.replace(&mut client).and_then(|()| self.attach(&listener, &mut client)),
        };
        let served = match begun.and_then(|()| listener.accept(&secret, CONNECTS, &|| monitor.interrupted()))
        {
            Ok(mut replica) => {
                let write = |to: &mut dyn std::io::Write| {
                    rewrite(repo, dump, self.loads, functions, now_ms, to, monitor)
                };
                monitor.count(Counter::BytesTotal, dump.len());
                // It stays connected until it is a master again; else it looks for us meanwhile.
                serve(&mut replica, server, &mut client, write, monitor).map(|written| (written, replica))
            }
            Err(_) if monitor.interrupted() => Err(Failure::Ended(Error::Interrupted)),
            Err(why) => Err(Failure::Refused(why)),
        };
        // Nobody else is to connect, and nothing is to load any more.
        drop(listener);
        let ended = left::end(&kept, server, &mut client, monitor);
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
                        run again, sees to that"
                );
                Err(server.error(SourceErrorKind::Unavailable, why).into())
            }
        }
    }

    /// Makes the server our replica.
    fn attach(&self, listener: &Listener, client: &mut Client) -> std::result::Result<(), String> {
        let (host, port) = &self.found_at;
        let port = match port {
            0 => listener.port().map_err(|error| format!("cannot listen: {error}"))?,
            port => *port,
        };
        let done: RedisResult<()> = redis::cmd("REPLICAOF").arg(host).arg(port).query(client);
        done.map_err(|error| format!("REPLICAOF is refused: {}", words(&error)))
    }
}

/// Why a load did not come to its end.
enum Failure {
    /// Another way may do.
    Refused(String),
    /// None will.
    Ended(Error),
}

/// Sends the dump, and waits until the server has loaded it.
fn serve(
    replica: &mut Replica,
    server: &Server,
    client: &mut Client,
    write: impl FnOnce(&mut dyn std::io::Write) -> std::result::Result<Rewritten, Ended> + Send,
    monitor: &dyn Monitor,
) -> std::result::Result<Rewritten, Failure> {
    let hang_up = replica.hang_up().map_err(|error| Failure::Refused(error.to_string()))?;
    let (is_over, sent) = (AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        let thread = threads::start_in(scope, "esker-master", || {
            let written = replica.send(write)?;
            *chunkstore::pool::locked(&sent) = Some(written);
            replica.stay(&is_over).map_err(Ended::Write)
        });
        let thread = thread.map_err(|error| Failure::Refused(error.to_string()))?;
        let watched = watch(server, client, &|| thread.is_finished(), &sent, monitor);
        is_over.store(true, Ordering::Relaxed);
        if !matches!(watched, Ok(Some(_))) {
            hang_up.now();
        }
        let ended =
            thread.join().unwrap_or_else(|_| Err(Ended::Unfit("the thread that sends it died".into())));
        match (watched, ended) {
            (Ok(Some(written)), _) => Ok(written),
            (Err(error), _) => Err(Failure::Ended(error)),
            (Ok(None), Err(Ended::Read(error))) => Err(Failure::Ended(error)),
            (Ok(None), Err(Ended::Unfit(why))) => Err(Failure::Refused(why)),
            (Ok(None), Err(Ended::Write(error))) => Err(Failure::Refused(format!(
                "it ended the transfer, and its log says why ({})",
                connector_kit::tls::plain(&error.to_string())
            ))),
            (Ok(None), Ok(())) => Err(Failure::Refused("it has another master now".into())),
        }
    })
}

/// Asks the server how far it is until all was sent and loaded; `None` if the sending ended before that, or it has another
/// master.
fn watch(
    server: &Server,
    client: &mut Client,
    is_sent_off: &dyn Fn() -> bool,
    sent: &Mutex<Option<Rewritten>>,
    monitor: &dyn Monitor,
) -> Result<Option<Rewritten>> {
    let mut loaded = 0;
    loop {
        std::thread::sleep(PAUSE);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        let state = State::of(server, client).map_err(|error| {
            let why = format!(
                "the server ended while it loaded, or hangs ({}); its log says why",
                error.in_one_line()
            );
            Error::from(server.error(SourceErrorKind::Unavailable, why))
        })?;
        // As a replica it does not look at that (`replica-ignore-maxmemory`), and as a master it would remove keys.
        if state.is_too_full() {
            let why = format!("OOM: the data take more than maxmemory ({} bytes)", state.number("maxmemory"));
            return Err(server.error(SourceErrorKind::Unavailable, why).into());
        }
        if !state.is_replica() {
            return Ok(None);
        }
        if let Some(written) = *chunkstore::pool::locked(sent) {
            if state.is_in_step() {
                return Ok(Some(written));
            }
            // It loads from a file that it wrote: how far it is, only it knows.
            let (total, done) = (state.number("loading_total_bytes"), state.number("loading_loaded_bytes"));
            if state.is_loading() && total > 0 {
                if loaded == 0 {
                    monitor.phase("the server loads the dump");
                    monitor.count(Counter::BytesTotal, total);
                }
                monitor.count(Counter::BytesDone, done.saturating_sub(loaded));
                loaded = loaded.max(done);
            }
        }
        if is_sent_off() {
            return Ok(None);
        }
    }
}

/// Sentinels would take a master that becomes a replica for a failover.
fn has_no_sentinel(client: &mut Client) -> std::result::Result<(), String> {
    // Where the list is refused, nobody sees them; they are rare where users are.
    let clients: RedisResult<String> = redis::cmd("CLIENT").arg("LIST").query(client);
    match clients {
        Ok(clients) if clients.contains(" name=sentinel-") => Err("a Sentinel watches it".into()),
        _ => Ok(()),
    }
}

/// The version of the format that it writes, which is the newest that it loads.
fn version(client: &mut Client, state: &State) -> std::result::Result<Loads, String> {
    const WITH_FUNCTIONS: u32 = 7;
    let number = if state.major() < WITH_FUNCTIONS {
        // `RDB_VERSION` in `rdb.h` of Redis 5 to 6.2; older ones have 8.
        if state.major() >= 5 { 9 } else { 8 }
    } else {
        // Every payload says it; this one needs no key.
        let payload: RedisResult<Vec<u8>> = redis::cmd("FUNCTION").arg("DUMP").query(client);
        let payload = payload.map_err(|error| {
            format!("FUNCTION DUMP, which says its version, is refused: {}", words(&error))
        })?;
        let footer = payload.split_last_chunk::<FOOTER>().map(|(_, footer)| footer);
        footer.map_or(0, |footer| u16::from_le_bytes([footer[0], footer[1]]))
    };
    Loads::of(number).ok_or_else(|| format!("it writes dumps of version {number}, which is too old"))
}

/// Whether the server would fetch the data in the way that the user reaches it.
fn is_plain(server: &Server, client: &mut Client, theirs: IpAddr) -> std::result::Result<(), String> {
    let tls = kept::get(client, "tls-replication")?.is_some_and(|value| *value == "yes");
    match (tls, server.tls.is_some() && !theirs.to_canonical().is_loopback()) {
        (true, _) => {
            Err("it fetches data over TLS alone (tls-replication yes), and esker has no certificate for that"
                .into())
        }
        (false, true) => Err("it would fetch the data without TLS (tls-replication no)".into()),
        (false, false) => Ok(()),
    }
}

/// The function libraries of a server as an RDB has them; none of one that has no functions.
///
/// # Errors
/// What it refuses.
pub(crate) fn functions(server: &Server) -> Result<Vec<u8>> {
    let payload: RedisResult<Vec<u8>> = redis::cmd("FUNCTION").arg("DUMP").query(&mut server.connect()?);
    let payload = payload.map_err(|error| {
        server.error(SourceErrorKind::Unavailable, format!("FUNCTION DUMP: {}", words(&error)))
    })?;
    Ok(payload.split_last_chunk::<FOOTER>().map(|(libraries, _)| libraries.to_vec()).unwrap_or_default())
}

/// Has the server write its data to its disk, if it does so by itself: of a load it counts no changes after which it would.
/// Returns why it does not.
pub(crate) fn save(server: &Server) -> Result<Option<String>> {
    let mut client = server.connect()?;
    match kept::get(&mut client, "save") {
        Ok(Some(points)) if !points.is_empty() => {}
        _ => return Ok(None),
    }
    let done: RedisResult<redis::Value> = redis::cmd("BGSAVE").arg("SCHEDULE").query(&mut client);
    Ok(done.err().map(|error| {
        format!("the server does not write its data to its disk yet: BGSAVE: {}", words(&error))
    }))
}
