//! Following a server whose changes esker asks for: attach, take, commit every few seconds, come back after trouble, and begin
//! anew where what is stored cannot be continued. A connector whose server sends a base whenever it likes has a loop of
//! its own.

use super::{FollowOptions, Growing, Report, Standing};
use crate::source::Status;
use crate::{Error, Monitor, Result};
use std::time::{Duration, Instant};

/// Between two attempts to attach.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether the user has had enough.
const TICK: Duration = Duration::from_millis(100);

/// A server's changes, and what the repository has of them.
pub trait Feed {
    /// A connection to the server, over which changes come.
    type Session;

    /// The snapshot that grows.
    fn growing(&mut self) -> &mut Growing;

    /// Where that stands; `None` without a base.
    fn standing(&self) -> Option<Standing>;

    /// Makes a base. There is none afterwards if somebody forgot it at once.
    ///
    /// # Errors
    /// Of the server and of the repository; they end the stream.
    fn new_base(&mut self) -> Result<()>;

    /// Connects to the server, from where the changes that are stored end.
    ///
    /// # Errors
    /// Why that cannot be.
    fn attach(&mut self) -> std::result::Result<Self::Session, Left>;

    /// Takes in what comes, for 200 ms at most; returns whether there is so much that it has to be committed at once.
    ///
    /// # Errors
    /// Why the session is over.
    fn take(&mut self, session: &mut Self::Session) -> std::result::Result<bool, Left>;

    /// Makes durable what has come, if that is anything new. Returns why the session is over, if looking at it showed that
    /// it is.
    ///
    /// # Errors
    /// Of the repository; they end the stream.
    fn commit(&mut self, session: &mut Self::Session) -> Result<Option<Left>>;
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Something is wrong that may pass. What came before it is committed.
    Trouble(String),
    /// What the server has does not continue what is stored: a new base begins.
    NeedsBase(String),
    /// The base is over, or the user has had enough: nothing is wrong.
    Ended,
}

/// Follows a server until interrupted; `report` hears of every commit.
///
/// # Errors
/// [`Error::Interrupted`] once the user has had enough and what came is durable. Errors of the repository, and those of a
/// base.
pub fn follow<F: Feed>(
    feed: &mut F,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<()> {
    let mut had_base = feed.growing().has_base();
    loop {
        while !feed.growing().has_base() {
            match feed.new_base() {
                // A server that was there will come back; one that never was may be a wrong address.
                Err(Error::Source(error)) if had_base && error.status != Status::Permanent => {
                    monitor.note(&format!("there is no base yet: {error}; trying again"));
                    pause(PAUSE, monitor);
                    if monitor.interrupted() {
                        return Err(Error::Interrupted);
                    }
                    continue;
                }
                made => made?,
            }
            had_base = true;
            if let Some(standing) = feed.standing() {
                report(&Standing { new_base: true, ..standing }, None);
            }
        }
        let left = match feed.attach() {
            Ok(mut session) => stay(feed, &mut session, options, monitor, report)?,
            Err(left) => left,
        };
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        match left {
            Left::Ended => {}
            Left::NeedsBase(why) => feed.growing().leave(&why, monitor),
            Left::Trouble(why) => {
                if let Some(standing) = feed.standing() {
                    report(&Standing { attached: false, ..standing }, Some(&why));
                }
                pause(PAUSE, monitor);
            }
        }
    }
}

/// One session, until something ends it.
#[expect(clippy::disallowed_methods, reason = "commits come in real time")]
fn stay<F: Feed>(
    feed: &mut F,
    session: &mut F::Session,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<Left> {
    // Half of the interval for waiting, half for the commit itself.
    let wait = options.interval / 2;
    let mut committed = Instant::now();
    loop {
        let taken = feed.take(session);
        let is_over = monitor.interrupted();
        let trouble = match taken {
            Ok(false) if !is_over && committed.elapsed() < wait => continue,
            Ok(_) => None,
            Err(Left::Trouble(why)) => Some(Left::Trouble(why)),
            Err(left) => return Ok(left),
        };
        committed = Instant::now();
        let left = feed.commit(session)?.or(trouble);
        if !feed.growing().has_base() {
            // It was forgotten, which is said.
            return Ok(Left::Ended);
        }
        if let Some(standing) = feed.standing() {
            report(&Standing { attached: !is_over && left.is_none(), ..standing }, None);
        }
        if let Some(left) = left {
            return Ok(left);
        }
        if is_over {
            return Ok(Left::Ended);
        }
        if feed.growing().is_old(options) {
            feed.growing().end();
            return Ok(Left::Ended);
        }
    }
}

/// Waits, unless interrupted.
#[expect(clippy::disallowed_methods, reason = "a live stream waits for a server, in real time")]
fn pause(long: Duration, monitor: &dyn Monitor) {
    let until = Instant::now() + long;
    while Instant::now() < until && !monitor.interrupted() {
        std::thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::backup::BackupOptions;
    use crate::monitor::Tally;
    use crate::source::{SourceError, SourceErrorKind};
    use chunkstore::ObjectId;
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::atomic::Ordering;

    /// A server that does what is written, and what was asked of it.
    struct Script<'a> {
        growing: Growing,
        monitor: &'a Tally,
        bases: VecDeque<Result<()>>,
        takes: VecDeque<std::result::Result<bool, Left>>,
        commits: VecDeque<Option<Left>>,
        done: String,
    }

    impl Feed for Script<'_> {
        type Session = ();
        fn growing(&mut self) -> &mut Growing {
            &mut self.growing
        }
        fn standing(&self) -> Option<Standing> {
            let snapshot = self.growing.snapshot?;
            let (until_ms, lag, position, stream_bytes) = (0, Duration::ZERO, 0, 0);
            Some(Standing {
                snapshot,
                until_ms,
                lag,
                position,
                stream_bytes,
                attached: true,
                new_base: false,
            })
        }
        fn new_base(&mut self) -> Result<()> {
            self.done += "base ";
            let made = self.bases.pop_front().unwrap();
            self.growing.snapshot = made.is_ok().then_some(ObjectId([1; 32]));
            made
        }
        fn attach(&mut self) -> std::result::Result<(), Left> {
            self.done += "attach ";
            Ok(())
        }
        fn take(&mut self, (): &mut ()) -> std::result::Result<bool, Left> {
            self.done += "take ";
            self.takes.pop_front().unwrap_or_else(|| {
                self.monitor.stop.store(true, Ordering::Relaxed);
                Ok(false)
            })
        }
        fn commit(&mut self, (): &mut ()) -> Result<Option<Left>> {
            self.done += "commit ";
            Ok(self.commits.pop_front().flatten())
        }
    }

    fn away(status: Status) -> Result<()> {
        Err(SourceError::new(SourceErrorKind::Unavailable, "server", "away").with_status(status).into())
    }

    /// What is done, how it ended, and what was reported: whether attached, and the trouble.
    fn followed(
        bases: Vec<Result<()>>,
        takes: Vec<std::result::Result<bool, Left>>,
        commits: Vec<Option<Left>>,
    ) -> (String, Error, String, Tally) {
        let tally = Tally::default();
        let layout = Layout { kind: "k", origin: "o".into(), folder: "f".into(), base: "b", stream: "s" };
        let growing = Growing {
            layout,
            snapshot: None,
            details: BTreeMap::new(),
            base: vec![],
            base_ms: 0,
            until_ms: 0,
        };
        let options = FollowOptions {
            interval: Duration::from_secs(3600),
            base_every: Duration::MAX,
            backup: BackupOptions::default(),
            scratch: std::path::PathBuf::new(),
            clock: || jiff::Timestamp::UNIX_EPOCH,
        };
        let mut script = Script {
            growing,
            monitor: &tally,
            bases: bases.into(),
            takes: takes.into(),
            commits: commits.into(),
            done: String::new(),
        };
        let mut said = String::new();
        let ended = follow(&mut script, &options, &tally, &mut |standing, trouble| {
            let attached = if standing.attached { "attached" } else { "detached" };
            said += &format!("{attached} {} ", trouble.unwrap_or("-"));
        });
        let done = script.done;
        (done, ended.unwrap_err(), said, tally)
    }

    #[test]
    fn what_came_before_trouble_or_a_signal_is_committed() {
        let (done, ended, said, _) =
            followed(vec![Ok(())], vec![Ok(false), Ok(true), Err(Left::Trouble("lost".into()))], vec![]);
        assert_eq!(done, "base attach take take commit take commit attach take commit ");
        assert!(matches!(ended, Error::Interrupted));
        assert_eq!(said, "attached - attached - detached - detached lost detached - ");
    }

    #[test]
    fn what_cannot_be_continued_begins_anew() {
        let other = || Left::NeedsBase("it is another log".into());
        let (done, _, _, tally) =
            followed(vec![Ok(()), Ok(()), Ok(())], vec![Err(other()), Ok(true)], vec![Some(other())]);
        assert_eq!(done, "base attach take base attach take commit base attach take commit ");
        let errors = tally.errors();
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].message, "it is another log; a new base follows");
    }

    #[test]
    fn a_later_base_is_tried_again_and_the_first_is_not() {
        let (done, ended, ..) = followed(vec![away(Status::Unknown)], vec![], vec![]);
        assert!(done == "base " && matches!(ended, Error::Source(_)), "{done} {ended}");
        let other = || vec![Err(Left::NeedsBase("gone".into()))];
        let (done, ended, _, tally) = followed(vec![Ok(()), away(Status::Unknown), Ok(())], other(), vec![]);
        assert_eq!(done, "base attach take base base attach take commit ");
        assert!(matches!(ended, Error::Interrupted) && tally.notes()[0].contains("there is no base yet"));
        let (done, ended, ..) = followed(vec![Ok(()), away(Status::Permanent)], other(), vec![]);
        assert!(done == "base attach take base " && matches!(ended, Error::Source(_)), "{done} {ended}");
    }
}
