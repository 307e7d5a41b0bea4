//! Drills: restores that are rehearsed into scratch servers, timed phase by phase, proved by counts, and compared with what
//! was promised. What a drill found is a [`Report`].

use crate::connector::scratch::Count;
use chunkstore::ObjectId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

mod expectation;
pub mod stored;

pub use expectation::{Expectation, shown};

/// What the JSON of a report begins with: the version of its schema (docs/drills.md).
pub const SCHEMA: &str = "esker-drill-1";

/// Times phases one after the other, without gaps: what lies between two of them belongs to the later one.
pub struct Stopwatch<'a> {
    now: &'a dyn Fn() -> Duration,
    began: Duration,
    last: Duration,
    phases: Vec<Phase>,
}

/// A phase, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name: one of [`Step::name`].
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// The phases of a drill, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The snapshot is found, and the index read.
    Locate,
    /// The scratch server is started. No part of the recovery time: after a disaster, somebody has to bring a server, which
    /// takes a time of its own.
    Start,
    /// The plan of the restore is made.
    Plan,
    /// What will be written is read and checked first, where the system's restore does so.
    Prove,
    /// The data is read, sent and taken in by the server, with its indexes.
    Restore,
    /// What is there is counted and compared.
    Verify,
    /// The scratch server is stopped and removed. No part of the recovery time.
    Stop,
}

impl Step {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Start => "start",
            Self::Plan => "plan",
            Self::Prove => "prove",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Stop => "stop",
        }
    }
}

impl<'a> Stopwatch<'a> {
    /// Starts it, as of a moment on the clock `now`, which never goes back: the first phase includes what was done since then.
    #[must_use]
    pub fn start(now: &'a dyn Fn() -> Duration, began: Duration) -> Self {
        Self { now, began, last: began, phases: vec![] }
    }

    /// Ends a phase.
    pub fn lap(&mut self, step: Step) {
        let now = (self.now)();
        let seconds = now.saturating_sub(self.last).as_secs_f64();
        self.last = now;
        self.phases.push(Phase { name: step.name().to_owned(), seconds });
    }

    /// The phases, and the seconds from the beginning to the end of the last.
    #[must_use]
    pub fn finish(self) -> (Vec<Phase>, f64) {
        (self.phases, self.last.saturating_sub(self.began).as_secs_f64())
    }
}

/// What is promised for a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objective {
    /// Recovery time objective: longest time from the decision to restore until the data is there and checked.
    pub rto: Option<Duration>,
    /// Recovery point objective: largest age of the newest record that can be restored.
    pub rpo: Option<Duration>,
}

/// A promise and what was measured, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `rto` or `rpo`.
    pub name: String,
    /// What is promised; `None` if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective_seconds: Option<f64>,
    /// What was measured.
    pub seconds: f64,
    /// Whether the promise is kept, or there is none.
    pub met: bool,
}

impl Measured {
    fn new(name: &str, objective: Option<Duration>, seconds: f64) -> Self {
        let objective_seconds = objective.map(|objective| objective.as_secs_f64());
        let met = objective_seconds.is_none_or(|most| seconds <= most);
        Self { name: name.to_owned(), objective_seconds, seconds, met }
    }
}

/// Something that was expected, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// What: `keys in database 0`, or as the user named it.
    pub name: String,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Whether that is right.
    pub met: bool,
}

impl From<Count> for Assertion {
    fn from(count: Count) -> Self {
        Self {
            name: count.what,
            expected: count.expected.to_string(),
            found: count.found.to_string(),
            met: count.expected == count.found,
        }
    }
}

/// What a drill found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it began.
    pub time: Timestamp,
    /// The source, as esker.toml names it; empty without one.
    pub source: String,
    /// The system: the title of its connector, or `files`.
    pub system: String,
    /// The machine that the drill ran on.
    pub hostname: String,
    /// The snapshot; `None` if none was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<ObjectId>,
    /// The newest record that was restored: when the backup of it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_point: Option<Timestamp>,
    /// The program that took the data.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// The phases, in order.
    pub phases: Vec<Phase>,
    /// The wall time of all of it, in seconds.
    pub seconds: f64,
    /// Bytes that were restored.
    pub bytes: u64,
    /// Recovery time and recovery point, against what is promised.
    pub objectives: Vec<Measured>,
    /// What was compared.
    pub assertions: Vec<Assertion>,
    /// What went wrong, in the order in which it was found; empty if the drill passed.
    pub failures: Vec<String>,
}

impl Report {
    /// Notes what went wrong, and in which phase.
    pub fn failed(&mut self, step: Step, why: &str) {
        self.failures.push(format!("{}: {why}", step.name()));
    }

    /// What was measured under a name, `rto` or `rpo`.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<&Measured> {
        self.objectives.iter().find(|one| one.name == name)
    }

    /// Whether all was as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// The seconds that a recovery would have taken, of what was rehearsed.
    #[must_use]
    pub fn recovery_seconds(phases: &[Phase]) -> f64 {
        let outside = [Step::Start, Step::Stop].map(Step::name);
        phases.iter().filter(|phase| !outside.contains(&&*phase.name)).map(|phase| phase.seconds).sum()
    }

    /// Compares what was measured with what is promised; what is not kept is a failure.
    pub fn judge(&mut self, objective: Objective) {
        let recovery = Self::recovery_seconds(&self.phases);
        let mut measured = vec![];
        // Of a restore that ended early, the time says nothing.
        if self.failures.is_empty() {
            measured.push(Measured::new("rto", objective.rto, recovery));
        }
        if let Some(point) = self.recovery_point {
            let age = self.time.duration_since(point).as_secs_f64().max(0.0);
            measured.push(Measured::new("rpo", objective.rpo, age));
        }
        for one in &measured {
            if let (false, Some(most)) = (one.met, one.objective_seconds) {
                let what = if one.name == "rto" { "recovery took" } else { "the newest record is of" };
                let ago = if one.name == "rto" { "" } else { " ago" };
                self.failures.push(format!("{what} {:.1} s{ago}, and {most:.0} s are promised", one.seconds));
            }
        }
        for one in self.assertions.iter().filter(|one| !one.met) {
            self.failures.push(format!("{}: expected {}, found {}", one.name, one.expected, one.found));
        }
        self.objectives = measured;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;

    pub(crate) fn report(phases: Vec<Phase>) -> Report {
        Report {
            schema: SCHEMA.into(),
            time: Timestamp::from_second(10_000).unwrap(),
            source: "cache".into(),
            system: "Example".into(),
            hostname: "web1".into(),
            snapshot_id: None,
            recovery_point: Some(Timestamp::from_second(9_000).unwrap()),
            server: String::new(),
            seconds: phases.iter().map(|phase| phase.seconds).sum(),
            phases,
            bytes: 0,
            objectives: vec![],
            assertions: vec![],
            failures: vec![],
        }
    }

    #[test]
    fn phases_have_no_gaps_and_recovery_is_without_the_scratch_server() {
        let clock = Cell::new(5);
        let now = || {
            clock.set(clock.get() + 3);
            Duration::from_secs(clock.get())
        };
        let mut watch = Stopwatch::start(&now, Duration::from_secs(4));
        [Step::Locate, Step::Start, Step::Restore, Step::Stop].into_iter().for_each(|step| watch.lap(step));
        let (phases, seconds) = watch.finish();
        assert_eq!((phases.len(), seconds), (4, 13.0));
        assert_eq!(phases.iter().map(|phase| phase.seconds).sum::<f64>(), seconds);
        assert_eq!(Report::recovery_seconds(&phases), 7.0);
    }

    #[test]
    fn what_is_promised_and_not_kept_is_a_failure() {
        let phases = vec![Phase { name: "restore".into(), seconds: 60.0 }];
        for (rto, rpo, failures) in
            [(None, None, 0), (Some(60), Some(1000), 0), (Some(59), Some(1000), 1), (Some(60), Some(999), 1)]
        {
            let mut report = report(phases.clone());
            report.judge(Objective { rto: rto.map(Duration::from_secs), rpo: rpo.map(Duration::from_secs) });
            assert_eq!(report.failures.len(), failures, "{:?}", report.failures);
            assert_eq!(report.objectives.len(), 2);
        }
        let mut report = report(phases);
        report.assertions.push(Count { what: "keys".into(), expected: 3, found: 2 }.into());
        report.judge(Objective::default());
        assert_eq!(report.failures, ["keys: expected 3, found 2"]);
        assert!(!report.passed());
    }
}
