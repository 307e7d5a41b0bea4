//! What a restore of a whole server did.

use super::Whole;
use super::held::Held;
use crate::keys::side_by_side::CONNECTIONS;
use crate::loaded::loaded;
use crate::stream::replay::{self, ReplayReport};
use engine::connector::{Extent, Restored, fields};
use serde_json::json;
use std::time::Duration;

/// What was done.
pub(super) struct Done {
    pub(super) loaded: Held,
    pub(super) loading: Duration,
    pub(super) verifying: Duration,
    pub(super) differences: u64,
    pub(super) replayed: Option<ReplayReport>,
}

impl Done {
    /// The same, for people and programs.
    pub(super) fn told(self, whole: &Whole<'_>) -> Restored {
        let Self {
            loaded: Held { report, functions, one_by_one },
            loading,
            verifying,
            differences,
            replayed,
        } = self;
        let mut restored = loaded(&report, false);
        let by_replication = one_by_one.is_none() && !whole.dump.is_empty();
        let mut refused = report.refused + report.existing;
        restored.fields.extend(fields(json!({
            "functions_restored": functions,
            "loaded_by": (!whole.dump.is_empty()).then_some(if by_replication { "replication" } else { "RESTORE" }),
            "seconds_loading": loading.as_secs_f64(),
            "seconds_verifying": verifying.as_secs_f64(),
            "keys_different": differences,
            "commands_replayed": replayed.as_ref().map(|replayed| replayed.commands),
            "commands_refused": replayed.as_ref().map(|replayed| replayed.refused),
            "reached": replayed.as_ref().filter(|_| whole.streams()).map(|replayed| replay::shown(replayed.reached_ms)),
        })));
        let (loading, verifying) = (loading.as_secs_f64(), verifying.as_secs_f64());
        restored.lines.extend(match &one_by_one {
            Some(why) => Some(format!(
                "loaded by RESTORE over {CONNECTIONS} connections in {loading:.1} s, not by replication: {why}"
            )),
            None if by_replication => Some(format!("loaded by replication in {loading:.1} s")),
            // Of commands alone.
            None => None,
        });
        if functions > 0 {
            restored.lines.push(format!("restored {functions} function libraries"));
        }
        if differences == 0 && !whole.dump.is_empty() {
            restored.lines.push(match &replayed {
                Some(_) => format!(
                    "verified, before the commands: every key of the base was on the server, and no other ({verifying:.1} s)"
                ),
                None => format!(
                    "verified: every key of the snapshot is on the server, and no other ({verifying:.1} s)"
                ),
            });
        }
        if let Some(replayed) = replayed {
            refused += replayed.refused;
            let at = match replayed.reached_ms {
                0 => String::new(),
                reached => format!("; the last at {}", replay::shown(reached)),
            };
            restored.lines.push(format!("replayed {} commands{at}", replayed.commands));
        }
        restored.extent = if differences + refused == 0 { Extent::Whole } else { Extent::Part };
        restored
    }
}
