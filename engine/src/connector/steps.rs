//! The words of a restore's plan. They are the same for every system: `--dry-run` prints them, and every restore prints them
//! before it begins.

/// How a database, a collection or a server's data gets what a snapshot has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The server does not have it.
    New,
    /// The server has it, and it is empty.
    Empty,
    /// The server has it, and keeps what else is in it.
    Into,
    /// It is restored beside the existing one, and takes its place when it is complete.
    Switched,
    /// The existing one is removed first, after a proof that the new one can be had.
    Proved,
    /// The existing one is removed first, without a proof.
    Unproven,
}

impl Way {
    const fn words(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Empty => "into the existing one, which is empty",
            Self::Into => "into the existing one, beside what it has",
            Self::Switched => "beside the existing one, then switched",
            Self::Proved => "in place, after a proof",
            Self::Unproven => "in place, without a proof",
        }
    }
}

/// The steps of a plan in order: lines, of which those that begin with spaces belong to the one before.
#[derive(Clone, Debug, Default)]
pub struct Steps(Vec<String>);

impl Steps {
    /// Adds a step.
    pub fn add(&mut self, step: impl Into<String>) {
        self.0.push(step.into());
    }

    /// Adds the step of one thing, and which way it goes; [`Steps::with`] says the rest.
    pub fn of(&mut self, thing: impl std::fmt::Display, way: Way) {
        self.add(format!("{thing}: {}", way.words()));
    }

    /// Adds a line that belongs to the step before.
    pub fn with(&mut self, line: impl std::fmt::Display) {
        self.add(format!("  {line}"));
    }

    /// Says what the step before leaves unchanged.
    pub fn stays(&mut self, what: impl std::fmt::Display) {
        self.with(format_args!("stays as it was: {what}"));
    }

    /// Says what the step before leaves behind.
    pub fn leaves(&mut self, what: impl std::fmt::Display) {
        self.with(format_args!("left over: {what}"));
    }

    /// All of them.
    #[must_use]
    pub fn lines(self) -> Vec<String> {
        self.0
    }
}
