//! SIGHUP, of a terminal that goes away: it ends a command that has servers to stop and folders to remove in order, as SIGTERM
//! does. Other commands end at once, as programs do that do nothing about it.

use signal_hook::consts::SIGHUP;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// From now on it sets `stop`, and the second one ends the process; unless it is ignored, as `nohup` has it.
///
/// # Errors
/// Of the system.
pub(crate) fn ends(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores(SIGHUP, &status) {
        signal_hook::flag::register_conditional_shutdown(SIGHUP, 130, Arc::clone(stop))?;
        signal_hook::flag::register(SIGHUP, Arc::clone(stop))?;
    }
    Ok(())
}

/// Whether a process with this status ignores a signal. Source: `proc_pid_status(5)`, "SigIgn".
fn ignores(signal: i32, status: &str) -> bool {
    let all = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let all = all.and_then(|all| u64::from_str_radix(all.trim(), 16).ok()).unwrap_or_default();
    all & 1 << (signal - 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_a_bit() {
        assert!(ignores(SIGHUP, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores(SIGHUP, "SigIgn:\t0000000000001000\n") && !ignores(SIGHUP, ""));
    }
}
