//! How long esker waits for a server: until it is silent for too long, until a deadline for the whole has passed, or until
//! the user has had enough. Every socket of ours is read and written through this, so that a signal ends every wait.

use chunkstore::threads;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long one call of the system waits: so often the user's wish is looked at. Sockets have this as their time-outs.
pub const TICK: Duration = Duration::from_millis(100);
/// How much longer is waited for what was asked before the user had enough.
const GRACE: Duration = Duration::from_millis(1500);
/// How much longer for what was asked after that: it puts in order what was begun.
const ORDERLY: Duration = Duration::from_secs(10);

/// The waits for one server; clones are other waits for the same one.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// Set when the user has had enough.
    stop: Arc<AtomicBool>,
    /// Longest silence; none for ever.
    patience: Option<Duration>,
    /// When all of it must have come, whatever comes.
    deadline: Option<Instant>,
    /// When it is over, since the user has had enough.
    end: Option<Instant>,
    /// Set when a wait for this server was given up: no other is begun.
    is_left: Arc<AtomicBool>,
}

/// Said of a wait that a signal ended.
#[must_use]
pub fn interrupted() -> Error {
    Error::other("interrupted")
}

impl Waiting {
    /// Waits as long as it takes, until `stop` is set.
    #[must_use]
    pub fn new(stop: &Arc<AtomicBool>) -> Self {
        Self { stop: Arc::clone(stop), ..Self::default() }
    }

    /// Other waits for the same signal: one of these that was given up ends none of them.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::new(&self.stop)
    }

    /// What some work gives that knows no signals, such as looking a name up. It goes on by itself when it is given up.
    ///
    /// # Errors
    /// The work's own, or [`interrupted`].
    pub fn work<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        threads::start("esker-wait", move || sender.send(work()))?;
        self.clone()
            .until(|| match receiver.recv_timeout(TICK) {
                Ok(done) => done.map(Some),
                Err(RecvTimeoutError::Timeout) => Err(ErrorKind::WouldBlock.into()),
                // The work panics for no input; its message was printed.
                Err(RecvTimeoutError::Disconnected) => Ok(None),
            })?
            .ok_or_else(interrupted)
    }

    /// From now on the longest silence is `patience`.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// From now on all must come within so long.
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Whether the time for all of it is over.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Something new is asked.
    pub fn asked(&mut self) {
        self.end = self.stop.load(Ordering::Relaxed).then(|| Instant::now() + ORDERLY);
    }

    /// Whether to go on.
    fn check(&mut self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.is_left.load(Ordering::Relaxed) || now >= *self.end.get_or_insert(now + GRACE) {
                self.is_left.store(true, Ordering::Relaxed);
                return Err(interrupted());
            }
        }
        if self.is_overdue() { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// What a call of the system comes to that ends after [`TICK`] if there is nothing for it to do.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`] if it took too long; and [`interrupted`].
    pub fn until<T>(&mut self, mut once: impl FnMut() -> Result<T>) -> Result<T> {
        let mut silent = None;
        loop {
            self.check()?;
            let began = Instant::now();
            match once() {
                Err(error) if is_silence(&error) => {
                    let since = *silent.get_or_insert(began);
                    if self.patience.is_some_and(|patience| since.elapsed() >= patience) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }
}

/// Whether a call ended because nothing came in time.
#[must_use]
pub fn is_silence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A connection, whose every read and write ends by a signal. A Unix socket takes all that is asked of a TCP one here:
/// reading, writing, time-outs, hanging up.
pub struct Socket {
    stream: TcpStream,
    /// How long it is waited for what comes.
    pub waiting: Waiting,
}

impl Socket {
    /// Connects to an address within `limit`; for ever if none.
    ///
    /// # Errors
    /// The system's, or [`interrupted`].
    pub fn tcp(address: SocketAddr, limit: Option<Duration>, waiting: Waiting) -> Result<Self> {
        let stream = waiting.work(move || match limit {
            Some(limit) => TcpStream::connect_timeout(&address, limit),
            None => TcpStream::connect(address),
        })?;
        Self::of(stream, waiting)
    }

    /// A connection that somebody made to us.
    ///
    /// # Errors
    /// The system's.
    pub fn accepted(stream: TcpStream, waiting: Waiting) -> Result<Self> {
        stream.set_nonblocking(false)?;
        Self::of(stream, waiting)
    }

    /// Connects to a socket of this machine.
    ///
    /// # Errors
    /// The system's, or [`interrupted`].
    pub fn unix(path: PathBuf, waiting: Waiting) -> Result<Self> {
        let stream = waiting.work(move || UnixStream::connect(path))?;
        Self::over(stream, waiting)
    }

    /// Over a stream that is there.
    ///
    /// # Errors
    /// The system's.
    pub fn over(stream: UnixStream, waiting: Waiting) -> Result<Self> {
        Self::of(OwnedFd::from(stream).into(), waiting)
    }

    fn of(stream: TcpStream, waiting: Waiting) -> Result<Self> {
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(Self { stream, waiting })
    }

    /// The system's socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let stream = &mut self.stream;
        self.waiting.until(|| stream.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        // A server may be busy for as long as it takes; that it says nothing is not missed while we write.
        let patience = self.waiting.patience.take();
        let stream = &mut self.stream;
        let written = self.waiting.until(|| stream.write(bytes));
        self.waiting.patience = patience;
        written
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence() -> Result<()> {
        std::thread::sleep(Duration::from_millis(10));
        Err(ErrorKind::WouldBlock.into())
    }

    #[test]
    fn waits_end() {
        let stop = Arc::<AtomicBool>::default();
        let mut waiting = Waiting::new(&stop);
        waiting.set_patience(Some(Duration::from_millis(50)));
        assert!(is_silence(&waiting.until(silence).unwrap_err()));
        waiting.set_patience(None);
        waiting.set_deadline(Some(Duration::from_millis(50)));
        assert!(is_silence(&waiting.until(silence).unwrap_err()));
        // Even if something comes all the time.
        assert!(is_silence(&waiting.until(|| Ok(1)).unwrap_err()));
        waiting.set_deadline(None);
        stop.store(true, Ordering::Relaxed);
        let began = Instant::now();
        assert_eq!(waiting.until(|| Ok(1)).unwrap(), 1);
        assert_eq!(waiting.until(silence).unwrap_err().to_string(), "interrupted");
        assert!(began.elapsed() >= GRACE && began.elapsed() < ORDERLY / 2);
        let other = waiting.clone();
        assert!(other.work(|| Ok(())).is_err(), "no other wait is begun");
        let never = Waiting::new(&stop).work(|| {
            std::thread::sleep(ORDERLY * 2);
            Ok(())
        });
        assert!(never.is_err());
        // What is asked after the signal puts things in order.
        let mut waiting = Waiting::new(&stop);
        waiting.asked();
        std::thread::sleep(GRACE * 2);
        assert_eq!(waiting.until(|| Ok(1)).unwrap(), 1);
    }
}
