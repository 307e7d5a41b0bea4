//! Progress, phase by phase: each has its own time, counts, total and estimate. Two phases count different things, so
//! what one counted is never added to the other.

use super::bytes;
use crate::units::counted;
use engine::Counter;
use engine::entry::{display_path, rooted};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::time::Instant;

/// The counters that progress is made of.
pub(super) const SHOWN: [Counter; 4] =
    [Counter::FilesTotal, Counter::BytesTotal, Counter::FilesDone, Counter::BytesDone];
/// A phase of so many seconds leaves its last line on a terminal.
pub(super) const WORTH_A_LINE: f64 = 1.0;

/// A part of the work.
pub(super) struct Phase {
    pub(super) name: String,
    started: Instant,
    /// The counters when it began.
    base: [u64; SHOWN.len()],
}

/// Where a phase is.
pub(super) struct Progress {
    name: String,
    pub(super) seconds: f64,
    files_total: u64,
    total: u64,
    files: u64,
    done: u64,
}

impl Phase {
    pub(super) fn new(name: &str, base: [u64; SHOWN.len()]) -> Self {
        Self { name: name.to_owned(), started: Instant::now(), base }
    }

    /// With the counters as they are now.
    pub(super) fn progress(&self, now: [u64; SHOWN.len()]) -> Progress {
        self.after(self.started.elapsed().as_secs_f64(), now)
    }

    fn after(&self, seconds: f64, now: [u64; SHOWN.len()]) -> Progress {
        let own = |at: usize| now[at].saturating_sub(self.base[at]);
        let [files_total, total, files, done] = [own(0), own(1), own(2), own(3)];
        Progress { name: self.name.clone(), seconds, files_total, total, files, done }
    }
}

impl Progress {
    /// Seconds to go, if that can be told.
    fn remaining(&self) -> Option<f64> {
        let is_known = self.total > self.done && self.done > 0;
        is_known.then(|| self.seconds * (self.total - self.done) as f64 / self.done as f64)
    }

    fn rate(&self) -> String {
        bytes((self.done as f64 / self.seconds.max(0.001)) as u64)
    }

    fn files(&self) -> String {
        if self.files > 0 { format!("{}, ", counted(self.files, "file")) } else { String::new() }
    }

    /// A line for a log.
    pub(super) fn line(&self) -> String {
        let total = if self.total >= self.done && self.total > 0 {
            format!(" of {}", bytes(self.total))
        } else {
            String::new()
        };
        let eta = self.remaining().map_or_else(String::new, |seconds| format!(", {seconds:.0} s left"));
        let (files, done, rate) = (self.files(), bytes(self.done), self.rate());
        format!("[{:.0} s] {}: {files}{done}{total} at {rate}/s{eta}", self.seconds, self.name)
    }

    /// The last line of a phase.
    pub(super) fn done(&self) -> String {
        let (files, done, rate) = (self.files(), bytes(self.done), self.rate());
        format!("{}: {files}{done} in {:.1} s, {rate}/s", self.name, self.seconds)
    }

    pub(super) fn draw(&self, bar: &ProgressBar, current: &[u8]) {
        if self.total >= self.done && self.total > 0 {
            bar.set_length(self.total);
        }
        bar.set_position(self.done);
        bar.set_prefix(self.name.clone());
        bar.set_message(if current.is_empty() { String::new() } else { display_path(current) });
    }

    pub(super) fn json(&self, errors: usize, current: &[u8]) -> Value {
        json!({
            "message_type": "status",
            "phase": self.name,
            "seconds_elapsed": self.seconds as u64,
            "seconds_remaining": self.remaining().map(|seconds| seconds as u64),
            "percent_done": if self.total > 0 { (self.done as f64 / self.total as f64).min(1.0) } else { 0.0 },
            "total_files": self.files_total,
            "files_done": self.files,
            "total_bytes": self.total,
            "bytes_done": self.done,
            "error_count": errors,
            "current_files": [String::from_utf8_lossy(&rooted(current))],
        })
    }
}

/// A bar for one phase; one that was cleared is not drawn again.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{prefix} {elapsed_precise} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_counts_for_itself() {
        // 29 files were backed up; now they are copied.
        let phase = Phase::new("tier 's3': copy", [29, 1000, 29, 1000]);
        let progress = phase.after(5.0, [58, 3048, 34, 1512]);
        assert_eq!(
            progress.line(),
            "[5 s] tier 's3': copy: 5 files, 512 B of 2.00 KiB at 102 B/s, 15 s left"
        );
        assert_eq!(progress.done(), "tier 's3': copy: 5 files, 512 B in 5.0 s, 102 B/s");
        let value = progress.json(0, b"");
        assert_eq!((&value["total_bytes"], &value["bytes_done"]), (&2048.into(), &512.into()));
        assert_eq!((&value["percent_done"], &value["phase"]), (&0.25.into(), &"tier 's3': copy".into()));
        // Nothing is known yet.
        assert_eq!(phase.after(5.0, [29, 1000, 29, 1000]).line(), "[5 s] tier 's3': copy: 0 B at 0 B/s");
    }
}
