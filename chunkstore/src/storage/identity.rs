//! Who a machine or a program is for a cloud, where no key is given: roles of AWS, identities of Azure.
//!
//! What proves it is asked for over clients of its own and never over that of a store: the services of a machine speak
//! plain HTTP, which a store's client refuses. It is kept while it is good and renewed before it ends. It goes to the
//! store and to nobody else.

use super::line::{Driver, Line};
use super::{ErrorKind, StorageError, StorageResult};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub mod answers;
mod asking;
pub mod aws;
pub mod azure;
mod kept;

/// Why there is no proof of who we are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoIdentity {
    /// Whether another attempt later may end otherwise without anybody having changed anything.
    pub is_away: bool,
    /// What happened and what to do; no secret is in it.
    pub why: String,
}

impl NoIdentity {
    /// Somebody has to change something.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { is_away: false, why: why.into() }
    }

    /// The service cannot be reached, is slow, or fails.
    pub fn away(why: impl Into<String>) -> Self {
        Self { is_away: true, why: why.into() }
    }
}

/// The missing identity that an error is about, if it is about one.
pub(super) fn missing(error: &(dyn std::error::Error + 'static)) -> Option<NoIdentity> {
    let mut next = Some(error);
    while let Some(link) = next {
        if let Some(why) = link.downcast_ref::<NoIdentity>() {
            return Some(why.clone());
        }
        next = link.source();
    }
    None
}

impl From<&NoIdentity> for ErrorKind {
    fn from(why: &NoIdentity) -> Self {
        if why.is_away { Self::Failed } else { Self::Denied }
    }
}

/// Whether a URL is of this machine's own address.
pub(super) fn is_own_address(url: &str) -> bool {
    asking::address(url, "").is_ok_and(|url| asking::is_own(&url))
}

/// Waits on a plain thread until it is known who we are, or `stop` is set; `of` is for messages.
fn prove<T>(
    of: &str,
    stop: &Arc<AtomicBool>,
    coming: impl Future<Output = Result<T, NoIdentity>>,
) -> StorageResult<()> {
    const OP: &str = "get credentials for";
    let failed = |kind, source: Box<dyn std::error::Error + Send + Sync>| StorageError {
        kind,
        op: OP,
        object: of.to_owned(),
        source,
    };
    let driver = Driver::new(Line::new(stop)).map_err(|error| failed(ErrorKind::Failed, error.into()))?;
    let known = driver.drive(OP, || of.to_owned(), coming)?;
    known.map(drop).map_err(|why| failed(ErrorKind::from(&why), why.into()))
}
