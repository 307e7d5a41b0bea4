//! Why a key service does not do what it is asked for, and whether it may do so later.

use std::fmt::{self, Display, Formatter};

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does not accept the credentials, or there are none.
    NoLogin,
    /// It does not let these credentials do this.
    Denied,
    /// The key is disabled, or may not be used now.
    Disabled,
    /// The key is deleted, or about to be.
    Lost,
    /// The key's policy refuses versions of this age.
    TooOld,
    /// What is to be unwrapped was wrapped for something else, under another key, or was changed.
    Context,
    /// It cannot do this at all: the key is of another type.
    Unfit,
    /// It cannot be reached, is slow, fails, or answers what is no answer.
    Away,
    /// The user had enough.
    Interrupted,
}

/// A refusal, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind.
    pub kind: Kind,
    /// What happened and what to do; no secret is in it.
    pub why: String,
}

impl Refusal {
    /// Makes one.
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    /// Whether another attempt later may end otherwise without anybody having changed anything.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.kind == Kind::Away
    }

    /// Whether the service itself said that the secret is not to be had: what was kept of it is not to be used either.
    #[must_use]
    pub fn revokes(&self) -> bool {
        !matches!(self.kind, Kind::Away | Kind::Interrupted | Kind::Unfit)
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
