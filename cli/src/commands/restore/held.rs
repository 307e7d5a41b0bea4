//! What every restore that removes something does before it begins.

use crate::context::Context;
use crate::exit::Failure;
use crate::tiers::Opened;
use engine::restore::Held;
use engine::snapshot::Listed;

/// Keeps what a snapshot needs from being pruned until the restore is over. Where HEAD cannot be written, the restore goes
/// on without, and says so.
pub(super) fn hold(opened: &Opened, found: &Listed, context: &Context) -> Result<Option<Held>, Failure> {
    let held = context
        .console
        .during("hold the snapshot", |_| Held::take(&opened.repo, &found.id).map_err(Failure::from))?;
    match held {
        Ok(held) => Ok(Some(held)),
        Err(error) => {
            let why = chunkstore::store::describe(&error);
            let said = format!(
                "snapshot {} is restored without being held, and a forget and prune elsewhere may take from it \
                 meanwhile: {why}",
                found.id.short()
            );
            context.console.warn(&said);
            Ok(None)
        }
    }
}
