//! Memory that others could read: passwords and keys lie in it while esker runs, so no core of it is written, and no other
//! process of the same user attaches to it. `ESKER_CORES=1` leaves both as they are, for debugging.

use crate::environment;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// The variable that leaves cores on.
const VARIABLE: &str = "ESKER_CORES";

/// Turns cores off, unless they are asked for.
///
/// # Errors
/// What is wrong with the variable.
pub(crate) fn disable() -> Result<(), String> {
    if let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty())
        && environment::switch(VARIABLE, &value)?
    {
        return Ok(());
    }
    // The hard limit stays: a command may raise its own again. Neither call fails with these arguments (setrlimit(2),
    // PR_SET_DUMPABLE(2const)); where a sandbox forbids one, the other still holds.
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    Ok(())
}
