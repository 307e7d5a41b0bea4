//! The sending of a dump, and the server that is asked meanwhile how far it is.

use super::replica::Replica;
use super::state::State;
use crate::keys::rewritten::{Ended, Rewritten};
use crate::server::Server;
use crate::server::client::Client;
use chunkstore::threads;
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Monitor, Result};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is asked.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it may take nothing, or be loaded with all and not in step. A replica gives up a master that is silent for half
/// of that (`repl-timeout`).
const STALLED: Duration = Duration::from_secs(120);

/// Why a load did not come to its end.
pub(super) enum Failure {
    /// Another way may do.
    Refused(String),
    /// None will.
    Ended(Error),
}

/// How far the sending is.
#[derive(Default)]
struct Sending {
    /// Bytes that the server has taken.
    bytes: AtomicU64,
    /// Whether it is waited for.
    is_writing: AtomicBool,
    /// All of it.
    done: Mutex<Option<Rewritten>>,
}

/// What counts.
struct Counted<'a> {
    to: &'a mut dyn Write,
    sending: &'a Sending,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sending.is_writing.store(true, Ordering::Relaxed);
        let written = self.to.write(bytes);
        self.sending.is_writing.store(false, Ordering::Relaxed);
        if let Ok(written) = written {
            self.sending.bytes.fetch_add(written as u64, Ordering::Relaxed);
        }
        written
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// What the server came to.
enum Watched {
    /// It has all.
    InStep(Rewritten),
    /// The sending ended before that, and says why.
    HungUp,
    /// It takes nothing any more.
    Stalled,
}

/// Sends the dump, and waits until the server, which finds us at `master`, has loaded it.
pub(super) fn serve(
    replica: &mut Replica,
    server: &Server,
    client: &mut Client,
    master: (&str, u16),
    write: impl FnOnce(&mut dyn Write) -> std::result::Result<Rewritten, Ended> + Send,
    monitor: &dyn Monitor,
) -> std::result::Result<Rewritten, Failure> {
    let hang_up = replica.hang_up().map_err(|error| Failure::Refused(error.to_string()))?;
    let (is_over, sending) = (AtomicBool::new(false), Sending::default());
    std::thread::scope(|scope| {
        let thread = threads::start_in(scope, "esker-master", || {
            let written = replica.send(|to| write(&mut Counted { to, sending: &sending }));
            let ended = written.and_then(|written| {
                *chunkstore::pool::locked(&sending.done) = Some(written);
                replica.stay(&is_over).map_err(Ended::Write)
            });
            if ended.is_err() {
                // A server that waits for the rest of a dump answers nobody.
                hang_up.now();
            }
            ended
        });
        let thread = thread.map_err(|error| Failure::Refused(error.to_string()))?;
        let watched = watch(server, client, master, &|| thread.is_finished(), &sending, STALLED, monitor);
        is_over.store(true, Ordering::Relaxed);
        if !matches!(watched, Ok(Watched::InStep(_))) {
            hang_up.now();
        }
        let ended =
            thread.join().unwrap_or_else(|_| Err(Ended::Unfit("the thread that sends it died".into())));
        match (watched.map_err(Failure::Ended)?, ended) {
            (Watched::InStep(written), _) => Ok(written),
            (Watched::Stalled, _) => Err(Failure::Refused(format!(
                "it was not in step {} s after the last that it took",
                STALLED.as_secs()
            ))),
            (Watched::HungUp, Err(Ended::Read(error))) => Err(Failure::Ended(error)),
            (Watched::HungUp, Err(Ended::Unfit(why))) => Err(Failure::Refused(why)),
            (Watched::HungUp, Err(Ended::Write(error))) => Err(Failure::Refused(format!(
                "it ended the transfer, and its log says why ({})",
                connector_kit::tls::plain(&error.to_string())
            ))),
            (Watched::HungUp, Ok(())) => Err(Failure::Refused("it ended the transfer".into())),
        }
    })
}

/// Asks the server how far it is until all was sent and loaded, or will not be; it may take nothing for `stalled` at most.
fn watch(
    server: &Server,
    client: &mut Client,
    master: (&str, u16),
    is_sent_off: &dyn Fn() -> bool,
    sending: &Sending,
    stalled: Duration,
    monitor: &dyn Monitor,
) -> Result<Watched> {
    let (mut loaded, mut last, mut since) = (0, (0, 0), Instant::now());
    loop {
        std::thread::sleep(PAUSE);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        // Before its state is asked for: what ended then is in that.
        let (is_sent_off, done) = (is_sent_off(), *chunkstore::pool::locked(&sending.done));
        let state = match State::ask(client) {
            Err(_) if monitor.interrupted() => return Err(Error::Interrupted),
            Err(error) => {
                let why = format!("the server ended while it loaded, or hangs ({error}); its log says why");
                return Err(server.error(SourceErrorKind::Unavailable, why).into());
            }
            Ok(state) => state,
        };
        // As a replica it does not look at that (`replica-ignore-maxmemory`), and as a master it would remove keys.
        if state.is_too_full() {
            let why = format!("OOM: the data take more than maxmemory ({} bytes)", state.number("maxmemory"));
            return Err(server.error(SourceErrorKind::Unavailable, why).into());
        }
        if !state.is_replica_of(master) {
            let why = match state.master() {
                Some((host, port)) => format!("it was made a replica of {host}:{port} while it loaded"),
                None => "it was made a master while it loaded".into(),
            };
            return Err(server.error(SourceErrorKind::Unavailable, why).into());
        }
        if let Some(written) = done {
            if state.is_in_step() {
                return Ok(Watched::InStep(written));
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
        if is_sent_off {
            return Ok(Watched::HungUp);
        }
        let now = (sending.bytes.load(Ordering::Relaxed), state.number("loading_loaded_bytes"));
        // What is not read yet, the server does not wait with.
        let is_waited_for = done.is_some() || sending.is_writing.load(Ordering::Relaxed);
        if now != last || !is_waited_for {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > stalled {
            return Ok(Watched::Stalled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::connector::Context;
    use engine::monitor::Tally;
    use std::net::TcpListener;

    const MASTER: (&str, u16) = ("10.0.0.7", 4001);

    /// What becomes of a load into a server that says this of itself all the time.
    fn watched(info: &str, is_sent_off: bool, sending: &Sending) -> std::result::Result<Watched, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let server =
            Server::new(&url.parse().unwrap(), &Context::new(std::env::temp_dir(), jiff::Timestamp::now))
                .unwrap();
        let answer = format!("${}\r\n{info}\r\n", info.len());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"+PONG\r\n").unwrap();
            // More than are asked for; the socket takes them all.
            (0..100).try_for_each(|_| stream.write_all(answer.as_bytes())).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink())
        });
        let mut client = server.connect().unwrap();
        let (stalled, monitor) = (PAUSE * 5, Tally::default());
        let watched = watch(&server, &mut client, MASTER, &|| is_sent_off, sending, stalled, &monitor);
        watched.map_err(|error| error.in_one_line().to_string())
    }

    fn replica_of_master(more: &str) -> String {
        format!("role:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:4001\r\n{more}")
    }

    /// A server reads the dump where it answers others: of a dump that ends early it hears before it is asked.
    #[test]
    fn a_server_that_waits_for_the_rest_is_hung_up_on() {
        let commands = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}", commands.local_addr().unwrap().port());
        let server =
            Server::new(&url.parse().unwrap(), &Context::new(std::env::temp_dir(), jiff::Timestamp::now))
                .unwrap();
        let (mut replica, mut theirs) = Replica::pair();
        std::thread::spawn(move || {
            let (mut stream, _) = commands.accept().unwrap();
            stream.write_all(b"+PONG\r\n").unwrap();
            std::io::copy(&mut theirs, &mut std::io::sink()).unwrap();
            let info = replica_of_master("master_link_status:down");
            (0..100).try_for_each(|_| write!(stream, "${}\r\n{info}\r\n", info.len())).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink())
        });
        let mut client = server.connect().unwrap();
        let write = |to: &mut dyn Write| {
            to.write_all(b"REDIS0011").unwrap();
            Err(Ended::Unfit("it has a module's value".into()))
        };
        match serve(&mut replica, &server, &mut client, MASTER, write, &Tally::default()) {
            Err(Failure::Refused(why)) => assert_eq!(why, "it has a module's value"),
            Err(Failure::Ended(error)) => panic!("{error}"),
            Ok(_) => panic!("it loaded nothing"),
        }
    }

    #[test]
    fn how_a_load_ends() {
        let all = Sending { done: Mutex::new(Some(Rewritten::default())), ..Sending::default() };
        let (up, down) =
            (replica_of_master("master_link_status:up"), replica_of_master("master_link_status:down"));
        assert!(matches!(watched(&up, false, &all), Ok(Watched::InStep(_))));
        // All sent, and never in step.
        assert!(matches!(watched(&down, false, &all), Ok(Watched::Stalled)));
        assert!(matches!(watched(&down, true, &all), Ok(Watched::HungUp)));
        // It reads nothing of what is sent.
        let blocked = Sending { is_writing: AtomicBool::new(true), ..Sending::default() };
        assert!(matches!(watched(&down, false, &blocked), Ok(Watched::Stalled)));
        // In step with what, before all was sent?
        assert!(matches!(watched(&up, true, &Sending::default()), Ok(Watched::HungUp)));
        for (info, words) in [
            (replica_of_master("used_memory:2\r\nmaxmemory:1"), "OOM"),
            (up.replace("4001", "4002"), "a replica of 10.0.0.7:4002"),
            ("role:master".into(), "made a master"),
        ] {
            let told = watched(&info, false, &all).err().unwrap();
            assert!(told.contains(words), "{told}");
        }
    }
}
