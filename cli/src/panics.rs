//! What a panic says: an error that people can report, or that the system refused a thread.

use crate::exit::{Code, Failure};
use crate::output;

/// From now on a panic is told as an error. One that is a refusal of the system ends the process, as a failure: others may
/// wait for the thread that there is not.
#[expect(clippy::exit, reason = "what a library cannot give back is not waited for")]
pub(crate) fn told_as_errors(json: bool) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(why) = refused(panic) {
            output::failure(&Failure::new(why), json);
            std::process::exit(Code::Failed as i32);
        }
        match json {
            true => output::exit_error(101, &panicked(panic)),
            false => usual(panic),
        }
    }));
}

/// What is said of a panic that is a refusal of the system: a library could not start a thread. Those of ours are started
/// by [`chunkstore::threads`], which tells it as an error.
fn refused(panic: &std::panic::PanicHookInfo<'_>) -> Option<String> {
    let why = panic.payload_as_str()?;
    // Of std, of tokio, and of rayon, whose pool Argon2 starts.
    let words =
        ["failed to spawn thread", "can't spawn worker thread", "thread pool has not been initialized"];
    let is_refusal = words.iter().any(|words| why.contains(words));
    is_refusal.then(|| format!("cannot start a thread: {}", chunkstore::threads::ADVICE))
}

/// A panic, for people who will report it.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let why = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    format!("internal error{}: {why}", place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line() {
        let told = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let said = std::sync::Arc::clone(&told);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            *said.lock().unwrap() = refused(panic).unwrap_or_else(|| panicked(panic));
        }));
        let told = |words: &str| {
            assert!(std::panic::catch_unwind(|| panic!("the {words} is gone")).is_err());
            told.lock().unwrap().clone()
        };
        let (floor, thread) = (told("floor"), told("failed to spawn thread"));
        let pool = told("The global thread pool has not been initialized.: ThreadPoolBuildError");
        std::panic::set_hook(usual);
        assert!(floor.starts_with("internal error at ") && floor.ends_with(": the floor is gone"), "{floor}");
        for thread in [thread, pool] {
            assert!(thread.starts_with("cannot start a thread") && thread.contains("ulimit"), "{thread}");
        }
    }

    /// Set in the process that panics.
    const PANICS: &str = "ESKER_TEST_PANICS";

    /// Of a process of its own, by the test below.
    #[test]
    fn panics_as_the_command_does() {
        if let Some(json) = std::env::var_os(PANICS) {
            told_as_errors(json == "json");
            panic!("the floor\nis gone");
        }
    }

    #[test]
    fn a_panic_under_json_is_an_error_line() {
        for mode in ["json", "text"] {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "--nocapture", "panics::tests::panics_as_the_command_does"]);
            let output = command.env(PANICS, mode).output().unwrap();
            assert!(!output.status.success());
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<serde_json::Value> =
                told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            if mode == "text" {
                assert!(lines.is_empty() && told.contains("panicked at"), "{told}");
                continue;
            }
            assert_eq!(lines.len(), 1, "{told}");
            let (kind, code, message) = (&lines[0]["message_type"], &lines[0]["code"], &lines[0]["message"]);
            assert!(kind == "exit_error" && code == 101, "{told}");
            let message = message.as_str().unwrap();
            assert!(
                message.starts_with("internal error at ") && message.ends_with("the floor\nis gone"),
                "{told}"
            );
            assert!(!told.contains("panicked at"), "{told}");
        }
    }
}
