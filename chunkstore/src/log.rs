//! What events of the log have in common: the targets that a filter names, and how durations are given.

use std::time::Instant;

/// Target of events that are requests to a store, at debug.
pub const STORE: &str = "store";

/// Milliseconds since then, to a tenth.
#[must_use]
pub fn ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10_000.0).round() / 10.0
}
