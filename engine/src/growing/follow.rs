//! Following a server whose changes esker asks for: attach, take, commit every few seconds, come back after trouble, and begin
//! anew where what is stored cannot be continued. A connector whose server sends a base whenever it likes has a loop of
//! its own.

use super::{FollowOptions, Growing, Report, Standing};
use crate::{Error, Monitor, Result};
use std::time::{Duration, Instant};

/// Between two attempts to attach.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts to make a base that is due.
const AGAIN: Duration = Duration::from_secs(600);
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

    /// Makes a base. There is none afterwards if somebody forgot it at once; after an error, the one before is still there.
    ///
    /// # Errors
    /// Of the server and of the repository. They end the stream, unless there is a base to go on with and the server is at
    /// fault.
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

    /// Makes durable what has come, if that is worth a commit; at the `last` of a stream, anything new is. Returns why the
    /// session is over, if looking at it showed that it is.
    ///
    /// # Errors
    /// Of the repository; they end the stream.
    fn commit(&mut self, session: &mut Self::Session, last: bool) -> Result<Option<Left>>;
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Something is wrong that may pass. What came before it is committed.
    Trouble(String),
    /// What the server has does not continue what is stored: a new base begins.
    NeedsBase(String),
    /// The base is old: a new one is to be made.
    Due,
    /// The base is gone, which was said, or the user has had enough.
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
    // When a base that was due failed.
    let mut failed: Option<Instant> = None;
    loop {
        while !feed.growing().has_base() {
            feed.new_base()?;
            tell_base(feed, report);
        }
        let left = match feed.attach() {
            Ok(mut session) => stay(feed, &mut session, failed, options, monitor, report)?,
            Err(left) => left,
        };
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        match left {
            Left::Ended => {}
            Left::NeedsBase(why) => feed.growing().leave(&why, monitor),
            Left::Trouble(why) => {
                tell_trouble(feed, &why, report);
                pause(PAUSE, monitor);
            }
            // Until there is a new one, the old one goes on.
            Left::Due => match feed.new_base() {
                Err(Error::Source(error)) => {
                    tell_trouble(feed, &format!("the new base that is due failed: {error}"), report);
                    failed = Some(now());
                }
                made => {
                    made?;
                    tell_base(feed, report);
                    failed = None;
                }
            },
        }
    }
}

fn tell_base<F: Feed>(feed: &F, report: &mut Report<'_>) {
    if let Some(standing) = feed.standing() {
        report(&Standing { new_base: true, ..standing }, None);
    }
}

fn tell_trouble<F: Feed>(feed: &F, why: &str, report: &mut Report<'_>) {
    if let Some(standing) = feed.standing() {
        report(&Standing { attached: false, ..standing }, Some(why));
    }
}

/// One session, until something ends it. A base that is due waits a while if one has `failed`.
fn stay<F: Feed>(
    feed: &mut F,
    session: &mut F::Session,
    failed: Option<Instant>,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<Left> {
    // Half of the interval for waiting, half for the commit itself.
    let wait = options.interval / 2;
    let mut committed = now();
    loop {
        let taken = feed.take(session);
        let is_over = monitor.interrupted();
        let trouble = match taken {
            Ok(false) if !is_over && committed.elapsed() < wait => continue,
            Ok(_) => None,
            Err(Left::Trouble(why)) => Some(Left::Trouble(why)),
            Err(left) => return Ok(left),
        };
        let left = feed.commit(session, is_over)?.or(trouble);
        committed = now();
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
        if feed.growing().is_old(options) && failed.is_none_or(|at| at.elapsed() >= AGAIN) {
            return Ok(Left::Due);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a live stream waits for a server, in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Waits, unless interrupted.
#[expect(clippy::disallowed_methods, reason = "a live stream waits for a server, in real time")]
fn pause(long: Duration, monitor: &dyn Monitor) {
    let until = now() + long;
    while now() < until && !monitor.interrupted() {
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
        /// Whether a commit takes as long as the wait between two.
        is_slow: bool,
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
            made?;
            self.growing.snapshot = Some(ObjectId([1; 32]));
            Ok(())
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
        fn commit(&mut self, (): &mut (), last: bool) -> Result<Option<Left>> {
            self.done += if last { "last " } else { "commit " };
            if self.is_slow {
                std::thread::sleep(INTERVAL);
            }
            Ok(self.commits.pop_front().flatten())
        }
    }

    fn away() -> Result<()> {
        Err(SourceError::new(SourceErrorKind::Unavailable, "server", "away").into())
    }

    const INTERVAL: Duration = Duration::from_millis(40);

    /// What is done, how it ended, and what was reported: whether attached, and the trouble.
    fn followed(
        bases: Vec<Result<()>>,
        takes: Vec<std::result::Result<bool, Left>>,
        commits: Vec<Option<Left>>,
        change: impl FnOnce(&mut Script<'_>, &mut FollowOptions),
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
        let mut options = FollowOptions {
            interval: Duration::from_secs(3600),
            base_every: Duration::MAX,
            backup: BackupOptions::default(),
            scratch: std::path::PathBuf::new(),
            clock: || jiff::Timestamp::from_second(100).unwrap(),
        };
        let mut script = Script {
            growing,
            monitor: &tally,
            bases: bases.into(),
            takes: takes.into(),
            commits: commits.into(),
            is_slow: false,
            done: String::new(),
        };
        change(&mut script, &mut options);
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
        let takes = vec![Ok(false), Ok(true), Err(Left::Trouble("lost".into()))];
        let (done, ended, said, _) = followed(vec![Ok(())], takes, vec![], |_, _| ());
        assert_eq!(done, "base attach take take commit take commit attach take last ");
        assert!(matches!(ended, Error::Interrupted));
        assert_eq!(said, "attached - attached - detached - detached lost detached - ");
    }

    #[test]
    fn what_cannot_be_continued_begins_anew() {
        let other = || Left::NeedsBase("it is another log".into());
        let (bases, takes) = (vec![Ok(()), Ok(()), Ok(())], vec![Err(other()), Ok(true)]);
        let (done, _, _, tally) = followed(bases, takes, vec![Some(other())], |_, _| ());
        assert_eq!(done, "base attach take base attach take commit base attach take last ");
        let errors = tally.errors();
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].message, "it is another log; a new base follows");
    }

    #[test]
    fn a_base_that_fails_ends_the_stream_if_there_is_nothing_to_go_on_with() {
        let (done, ended, ..) = followed(vec![away()], vec![], vec![], |_, _| ());
        assert!(done == "base " && matches!(ended, Error::Source(_)), "{done} {ended}");
        let other = vec![Err(Left::NeedsBase("gone".into()))];
        let (done, ended, ..) = followed(vec![Ok(()), away()], other, vec![], |_, _| ());
        assert!(done == "base attach take base " && matches!(ended, Error::Source(_)), "{done} {ended}");
    }

    #[test]
    fn the_old_base_goes_on_until_one_that_is_due_is_there() {
        let is_old = |_: &mut Script<'_>, options: &mut FollowOptions| options.base_every = Duration::ZERO;
        let takes = || vec![Ok(true), Ok(true)];
        let (done, _, said, _) = followed(vec![Ok(()), away()], takes(), vec![], is_old);
        assert_eq!(done, "base attach take commit base attach take commit take last ");
        assert!(said.contains("detached the new base that is due failed: server: away"), "{said}");
        let (done, ..) = followed(vec![Ok(()), Ok(()), Ok(())], takes(), vec![], is_old);
        assert_eq!(done, "base attach take commit base attach take commit base attach take last ");
    }

    /// Otherwise each commit would have what came in one moment, and the stream falls behind for ever.
    #[test]
    fn what_comes_after_a_slow_commit_is_waited_for() {
        let takes = vec![Ok(true), Ok(false), Ok(false), Ok(false)];
        let (done, ..) = followed(vec![Ok(())], takes, vec![], |script, options| {
            script.is_slow = true;
            options.interval = 2 * INTERVAL;
        });
        assert_eq!(done, "base attach take commit take take take take last ");
    }
}
