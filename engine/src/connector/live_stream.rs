//! A server whose every change can be kept.

use super::{Choice, Chosen, Context};
use crate::growing::{FollowOptions, Report};
use crate::{Monitor, Repository, Result};

/// A system whose servers tell every change.
pub trait LiveStream: Sync {
    /// The schemes of URLs of servers that can be followed.
    fn schemes(&self) -> &'static [&'static str];
    /// The choices of `stream` that it honours, besides those that all have.
    fn choices(&self) -> &'static [&'static Choice] {
        &[]
    }
    /// Looks at the URL and the choices. `label` is a name of this host and repository: lower case letters, digits and `_`.
    ///
    /// # Errors
    /// Why this server cannot be followed.
    fn open(&self, url: &str, label: &str, chosen: &Chosen, context: &Context) -> Result<Box<dyn Following>>;
}

/// A server that is followed.
pub trait Following {
    /// Where it is, for metrics.
    fn place(&self) -> String;
    /// Ends the stream for good instead, if that was chosen: what the server keeps for it goes. Returns what was done.
    ///
    /// # Errors
    /// Why it cannot be ended.
    fn let_go(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Follows until interrupted; every commit is reported.
    ///
    /// # Errors
    /// Why it cannot go on.
    fn follow(
        &mut self,
        repo: &Repository,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut Report<'_>,
    ) -> Result<()>;
}
