//! One restore at a time into a database: a lock of the server's, which a connection of its own holds from before anything is
//! looked at until everything is done. The server gives it up when that connection ends, whatever ends it.
//!
//! Each program that does the work takes a second lock. One that goes on after its restore was killed is found by it.
//! Source: MariaDB's documentation, "GET_LOCK", "IS_USED_LOCK", "KILL".

use crate::server::{LOCAL_FILES_OFF, Server};
use chunkstore::pool::locked;
use chunkstore::threads;
use connector_kit::child::{self, Role, Running, Watch};
use engine::source::SourceErrorKind;
use engine::{Error, Result, shown};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the connection says something: what closes idle ones waits longer.
const ALIVE: Duration = Duration::from_secs(30);
/// Longest wait for an answer on that connection.
const ANSWER: Duration = Duration::from_secs(60);
/// So often it is looked whether the user has had enough.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Longest answer in bytes: names and numbers.
const MAX_ANSWER: usize = 64 << 10;
/// How long the client is waited for, which ends with its input.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Seconds that a lock is waited for, which a program that has just ended may still hold.
const PATIENCE: u32 = 1;

/// Locks of one restore.
pub(super) struct Locks {
    server: Server,
    session: RefCell<Option<Session>>,
    /// Names of the locks that are held.
    held: RefCell<Vec<String>>,
    /// The lock of the database that is worked on.
    current: RefCell<Option<String>>,
    /// Whether the server takes names of databases for the same in any case.
    folds: bool,
}

/// A client that is asked now and then.
struct Session {
    child: Running,
    watch: Watch,
    input: Option<Arc<Mutex<ChildStdin>>>,
    output: BufReader<ChildStdout>,
    /// Dropped, it ends the thread that keeps the connection alive.
    _end: Sender<()>,
}

impl Locks {
    pub(super) fn new(server: &Server) -> Self {
        let (session, held, current) = (RefCell::default(), RefCell::default(), RefCell::default());
        Self { server: server.clone(), session, held, current, folds: false }
    }

    /// Takes the lock of each of `targets`, or says who has it.
    pub(super) fn take(&mut self, targets: impl Iterator<Item = String>) -> Result<()> {
        let folds = self.server.query("SELECT @@lower_case_table_names <> 0")?;
        self.folds = folds.first().is_some_and(|row| row == &["1"]);
        for target in targets {
            let lock = self.lock_of(&target);
            self.take_one(&target, &lock)?;
            self.held.borrow_mut().push(lock);
        }
        Ok(())
    }

    /// The name of a database's lock: at most 64 characters, and digits and letters whatever the database is called.
    fn lock_of(&self, target: &str) -> String {
        let name = if self.folds { target.to_lowercase() } else { target.to_owned() };
        format!("esker-restore-{}", &blake3::hash(name.as_bytes()).to_hex()[..32])
    }

    fn take_one(&self, target: &str, lock: &str) -> Result<()> {
        let target = shown::name(target.as_bytes());
        if let Some(who) = self.get(lock)? {
            return Err(self.refused(&format!(
                "another restore into database '{target}' is at work ({}); nothing was touched: restore again when it has ended",
                self.holder(&who)
            )));
        }
        let work = format!("{lock}-w");
        if let Some(who) = self.get(&work)? {
            return Err(self.refused(&format!(
                "a program of a restore into database '{target}' that was cut off is still at work ({}); nothing was touched: restore again when it has ended, or KILL {who} ends it",
                self.holder(&who)
            )));
        }
        self.ask(&format!("SELECT RELEASE_LOCK('{work}')")).map(drop)
    }

    fn refused(&self, why: &str) -> Error {
        Error::Refused(format!("{}: {why}", self.server.shown))
    }

    /// Takes a lock; the connection that has it, if another does.
    fn get(&self, lock: &str) -> Result<Option<String>> {
        let answer = self.ask(&format!("SELECT GET_LOCK('{lock}', {PATIENCE}), IS_USED_LOCK('{lock}')"))?;
        match answer.split_once('\t') {
            Some(("1", _)) => Ok(None),
            Some(("0", who)) => Ok(Some(who.to_owned())),
            _ => Err(self.refused("the server cannot lock a restore: GET_LOCK has failed")),
        }
    }

    /// Whose connection that is, as far as this account may see it.
    fn holder(&self, id: &str) -> String {
        let number: u64 = id.parse().unwrap_or_default();
        let sql = format!("SELECT user, host FROM information_schema.processlist WHERE id = {number}");
        let rows = self.server.query(&sql).unwrap_or_default();
        match rows.into_iter().next().map(<[String; 2]>::try_from) {
            Some(Ok([user, host])) => {
                format!("connection {id} of '{}'@'{}'", shown::line(&user), shown::line(&host))
            }
            _ => format!("connection {id}"),
        }
    }

    /// Asks for one row on the connection that holds the locks.
    fn ask(&self, sql: &str) -> Result<String> {
        let mut session = self.session.borrow_mut();
        if session.is_none() {
            *session = Some(Session::open(&self.server)?);
        }
        let answer = session.as_mut().map_or(Ok(None), |session| session.ask(sql));
        answer.map_err(|error| error.to_string()).and_then(|line| line.ok_or_else(String::new)).map_err(
            |why| {
                let why = match session.take().map(Session::last_words).unwrap_or_default() {
                    text if text.trim().is_empty() => why,
                    text => crate::server::complaint(&text),
                };
                Error::from(self.server.error(
                    SourceErrorKind::Unavailable,
                    format!("the connection that holds the restore's lock: {why}"),
                ))
            },
        )
    }

    /// What is done next is done in `target`.
    pub(super) fn work_on(&self, target: &str) {
        let lock = self.lock_of(target);
        let is_held = self.held.borrow().contains(&lock);
        *self.current.borrow_mut() = Some(lock).filter(|_| is_held);
    }

    /// The statement by which a program says that it is at work.
    pub(super) fn at_work(&self) -> String {
        match &*self.current.borrow() {
            Some(lock) => format!("DO GET_LOCK('{lock}-w', 30)"),
            None => "DO 0".to_owned(),
        }
    }

    /// That the lock of the database that is worked on was held all the time.
    pub(super) fn is_held(&self) -> Result<()> {
        let Some(lock) = self.current.borrow().clone() else { return Ok(()) };
        let lost = |why: &str| {
            self.refused(&format!(
                "the connection that holds the restore's lock was lost, and another restore may have begun{why}"
            ))
        };
        if self.session.borrow().is_none() {
            return Err(lost(""));
        }
        let answer = self.ask(&format!("SELECT IS_USED_LOCK('{lock}') = CONNECTION_ID()"));
        match answer {
            Ok(answer) if answer == "1" => Ok(()),
            Ok(_) => Err(lost("")),
            Err(error) => Err(lost(&format!(": {error}"))),
        }
    }

    /// The same, and takes the lock again if it was lost: for what looks at all it changes.
    pub(super) fn hold_again(&self, target: &str) -> Result<()> {
        match self.is_held() {
            Ok(()) => Ok(()),
            Err(_) => self.take_one(target, &self.lock_of(target)),
        }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        let mut session = self.session.borrow_mut();
        if session.is_none() {
            return;
        }
        // The next restore may begin before the server sees that the connection has ended.
        let all: Vec<String> =
            self.held.borrow().iter().map(|lock| format!("RELEASE_LOCK('{lock}')")).collect();
        if let Some(session) = session.as_mut().filter(|_| !all.is_empty()) {
            let _ = session.ask(&format!("SELECT {}", all.join(", ")));
        }
        if let Some(session) = session.take() {
            session.last_words();
        }
    }
}

impl Session {
    fn open(server: &Server) -> Result<Self> {
        let failed =
            |why: String| Error::from(server.error(SourceErrorKind::Command, format!("mariadb: {why}")));
        let mut command = server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            "--quick",
            "--skip-column-names",
            "--unbuffered",
            "--binary-mode",
            "--skip-reconnect",
        ]);
        command.args([LOCAL_FILES_OFF, "--connect-timeout=10", "--default-character-set=utf8mb4"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for us: what is to be undone is undone under the lock.
        command.process_group(0);
        let mut child =
            child::spawn(&mut command, Role::Client).map_err(|error| failed(error.to_string()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("no pipe to the command".into()));
        };
        let input = Arc::new(Mutex::new(input));
        let (end, ended) = channel::<()>();
        let alive = Arc::downgrade(&input);
        let pulse = threads::start("esker-alive", move || {
            while ended.recv_timeout(ALIVE) == Err(RecvTimeoutError::Timeout) {
                let Some(input) = alive.upgrade() else { return };
                let mut input = locked(&input);
                if input.write_all(b"DO 0;\n").and_then(|()| input.flush()).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = pulse {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(error.to_string()));
        }
        let (watch, output) = (server.watch.clone(), BufReader::new(output));
        let mut session = Self { child, watch, input: Some(input), output, _end: end };
        // It is answered by what is asked next.
        let _ = session.tell("SET SESSION wait_timeout = 31536000");
        Ok(session)
    }

    fn tell(&mut self, sql: &str) -> std::io::Result<()> {
        let Some(input) = &self.input else { return Ok(()) };
        let mut input = locked(input);
        input.write_all(format!("{sql};\n").as_bytes())?;
        input.flush()
    }

    /// Its answer, unless it has ended.
    fn ask(&mut self, sql: &str) -> std::io::Result<Option<String>> {
        self.tell(sql)?;
        let mut line = vec![];
        let output = &mut self.output;
        let came = self.watch.until(Some(ANSWER), || {
            if output.buffer().is_empty() {
                let mut set = [PollFd::new(output.get_ref(), PollFlags::IN)];
                // A signal ends a look, and says nothing of bytes.
                if matches!(rustix::event::poll(&mut set, Some(&LOOK)), Ok(0) | Err(Errno::INTR)) {
                    return Ok(None);
                }
            }
            let bytes = output.fill_buf()?;
            let (is_end, len) = match memchr::memchr(b'\n', bytes) {
                Some(at) => (true, at + 1),
                None => (bytes.is_empty(), bytes.len()),
            };
            line.extend_from_slice(&bytes[..len]);
            output.consume(len);
            match line.len() > MAX_ANSWER {
                true => Err(std::io::Error::other(format!("an answer of more than {MAX_ANSWER} bytes"))),
                false => Ok(is_end.then_some(())),
            }
        });
        if !matches!(came, Ok(Some(()))) {
            let _ = self.child.kill();
            came?;
            return Err(std::io::Error::other(format!("no answer for {} s", ANSWER.as_secs())));
        }
        let line = String::from_utf8_lossy(&line);
        Ok((!line.is_empty()).then(|| line.trim_end().to_owned()))
    }

    /// Ends it; what it complained of.
    fn last_words(mut self) -> String {
        self.input = None;
        let said = self.child.stderr.take();
        let listener =
            said.and_then(|said| threads::start("esker-said", move || child::complaints(said)).ok());
        // One that waits for its server does not see that its input has ended.
        let child = &mut self.child;
        let ended = self.watch.until(Some(LAST_WORDS), || {
            let status = child.try_wait()?;
            if status.is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(status)
        });
        if !matches!(ended, Ok(Some(_))) {
            let _ = child.kill();
            let _ = child.wait();
        }
        listener.and_then(|listener| listener.join().ok()).unwrap_or_default()
    }
}
