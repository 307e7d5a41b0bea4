//! What is common to the credentials of all clouds.

use crate::exit::Failure;
use chunkstore::storage::{ErrorKind, StorageResult};
use std::sync::{Arc, Mutex, PoisonError};

/// An identity, and what it was made of: its way and the authorities to trust.
type Known<W, I> = (W, Vec<u8>, Arc<I>);

/// The identities that this process has, so that stores share what one of them got: several tiers ask once, and wait once for a
/// service that is not there.
pub(super) struct Identities<W, I>(Mutex<Vec<Known<W, I>>>);

impl<W: Clone + PartialEq, I> Identities<W, I> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(vec![]))
    }

    /// The one of a way and of authorities to trust.
    pub(super) fn of(
        &self,
        way: W,
        authorities: &[u8],
        make: impl FnOnce(W) -> Result<I, Failure>,
    ) -> Result<Arc<I>, Failure> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |(of, trusted, _): &&Known<W, I>| *of == way && trusted == authorities;
        if let Some((_, _, identity)) = known.iter().find(is_same) {
            return Ok(Arc::clone(identity));
        }
        let identity = Arc::new(make(way.clone())?);
        known.push((way, authorities.to_owned(), Arc::clone(&identity)));
        Ok(identity)
    }
}

/// What a proof came to; `what` is what it is for, `else_set` what could be set instead.
pub(super) fn proved(what: &str, else_set: &str, proof: StorageResult<()>) -> Result<(), Failure> {
    proof.map_err(|error| match error.kind {
        ErrorKind::Stopped => error.into(),
        _ => Failure::new(format!("no credentials for {what}: {else_set}{}", error.source)),
    })
}

/// Whoever sets a variable means it, even if what was to fill it gave nothing.
///
/// # Errors
///
/// Some of these are set, but empty.
pub(super) fn none_empty(names: &[&str]) -> Result<(), String> {
    let is_empty = |name: &&&str| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<&str> = names.iter().filter(is_empty).copied().collect();
    if empty.is_empty() { Ok(()) } else { Err(format!("set, but empty: {}", empty.join(", "))) }
}
