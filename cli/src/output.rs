//! Everything that is printed: results to standard output, progress and errors to standard error.

use crate::config::Global;
use crate::exit::Failure;
use engine::monitor::Tally;
use engine::{Counter, ItemError, Monitor};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes a line to standard output. A reader that hung up ends the output, not the work.
pub(crate) fn line(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
}

/// Writes a JSON value as a line to standard output.
pub(crate) fn json_line(value: &serde_json::Value) {
    line(value.to_string());
}

fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints why a run failed.
pub(crate) fn failure(failure: &Failure, json: bool) {
    if json {
        let code = failure.code as u8;
        error_line(
            &json!({"message_type": "exit_error", "code": code, "message": failure.message}).to_string(),
        );
    } else {
        error_line(&format!("esker: {}", failure.message));
    }
}

/// Logs to standard error: warnings, or what `-v` and ESKER_LOG ask for.
pub(crate) fn start_logging(verbose: u8) {
    let level = match verbose {
        0 | 1 => "warn",
        2 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ESKER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
}

/// A table with a heading.
pub(crate) fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Json,
    /// A bar on a terminal.
    Bar,
    /// A line now and then.
    Lines,
}

/// The monitor of a run: tally, progress, errors, ctrl-C.
pub(crate) struct Console {
    tally: Tally,
    stop: Arc<AtomicBool>,
    mode: Mode,
    verbose: bool,
    started: Instant,
    current: Mutex<String>,
    bar: Option<ProgressBar>,
    /// Set when the work begins; before and after, nothing is shown.
    working: Arc<AtomicBool>,
    fps: f64,
    json: bool,
}

impl Console {
    /// Prepares, and takes ctrl-C and SIGTERM: the first asks to stop, the second stops.
    pub(crate) fn start(global: &Global) -> Result<Arc<Self>, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mode = match () {
            () if global.quiet => Mode::Quiet,
            () if global.json => Mode::Json,
            () if std::io::stderr().is_terminal() => Mode::Bar,
            () => Mode::Lines,
        };
        let bar = (mode == Mode::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            let style = ProgressStyle::with_template("{elapsed_precise} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Ok(Arc::new(Self {
            tally: Tally::default(),
            stop,
            mode,
            verbose: global.verbose > 0 && !global.quiet,
            started: Instant::now(),
            current: Mutex::default(),
            bar,
            working: Arc::default(),
            fps: global.progress_fps(),
            json: global.json,
        }))
    }

    /// Shows progress while `work` runs.
    pub(crate) fn during<T>(self: &Arc<Self>, work: impl FnOnce(&dyn Monitor) -> T) -> T {
        self.working.store(true, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let ticker = (self.mode != Mode::Quiet && self.fps > 0.0).then(|| {
            let console = Arc::clone(self);
            std::thread::spawn(move || console.tick())
        });
        let result = work(&**self);
        self.working.store(false, Ordering::Relaxed);
        if let Some(ticker) = ticker {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        result
    }

    fn tick(&self) {
        let pause = match self.mode {
            Mode::Bar => Duration::from_millis(100),
            _ => Duration::from_secs_f64(1.0 / self.fps),
        };
        loop {
            std::thread::park_timeout(pause);
            if !self.working.load(Ordering::Relaxed) {
                return;
            }
            self.show();
        }
    }

    fn show(&self) {
        let (done, total) = (self.get(Counter::BytesDone), self.get(Counter::BytesTotal));
        let seconds = self.started.elapsed().as_secs_f64();
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let remaining = (total > done && done > 0).then(|| seconds * (total - done) as f64 / done as f64);
        match self.mode {
            Mode::Quiet => {}
            Mode::Bar => {
                if let Some(bar) = &self.bar {
                    if total >= done && total > 0 {
                        bar.set_length(total);
                    }
                    bar.set_position(done);
                    bar.set_message(current);
                }
            }
            Mode::Lines => {
                let rate = bytes((done as f64 / seconds.max(0.001)) as u64);
                let eta = remaining.map_or_else(String::new, |seconds| format!(", {seconds:.0} s left"));
                let files = self.get(Counter::FilesDone);
                error_line(&format!("[{seconds:.0} s] {files} files, {} at {rate}/s{eta}", bytes(done)));
            }
            Mode::Json => json_line(&json!({
                "message_type": "status",
                "seconds_elapsed": seconds as u64,
                "seconds_remaining": remaining.map(|seconds| seconds as u64),
                "percent_done": if total > 0 { (done as f64 / total as f64).min(1.0) } else { 0.0 },
                "total_files": self.get(Counter::FilesTotal),
                "files_done": self.get(Counter::FilesDone),
                "total_bytes": total,
                "bytes_done": done,
                "error_count": self.tally.errors().len(),
                "current_files": [current],
            })),
        }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// How many errors there were.
    pub(crate) fn error_count(&self) -> usize {
        self.tally.errors().len()
    }

    /// Prints a line of the result for people, unless quiet.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if self.mode != Mode::Quiet && !self.json {
            line(text);
        }
    }

    /// Says what is not as it should be, but ends nothing.
    pub(crate) fn warn(&self, text: &str) {
        if self.json {
            error_line(&json!({"message_type": "warning", "message": text}).to_string());
        } else {
            let text = format!("warning: {text}");
            match &self.bar {
                Some(bar) => bar.suspend(|| error_line(&text)),
                None => error_line(&text),
            }
        }
    }

    /// The monitor to hand to the engine.
    pub(crate) fn monitor(&self) -> &dyn Monitor {
        self
    }
}

impl Monitor for Console {
    fn count(&self, counter: Counter, by: u64) {
        self.tally.count(counter, by);
    }
    fn get(&self, counter: Counter) -> u64 {
        self.tally.get(counter)
    }
    fn restart(&self) {
        self.tally.restart();
    }
    fn error(&self, error: ItemError) {
        let ItemError { during, item, message } = &error;
        if self.json {
            error_line(&json!({"message_type": "error", "error": {"message": message}, "during": during, "item": item}).to_string());
        } else {
            let text = format!("error: {item}: {message}");
            match &self.bar {
                Some(bar) => bar.suspend(|| error_line(&text)),
                None => error_line(&text),
            }
        }
        self.tally.error(error);
    }
    fn current(&self, item: &str) {
        if self.mode == Mode::Bar || self.mode == Mode::Json {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.clear();
            current.push_str(item);
        }
    }
    fn entry(&self, action: &'static str, path: &str, size: u64) {
        if !self.verbose {
            return;
        }
        if self.json {
            json_line(
                &json!({"message_type": "verbose_status", "action": action, "item": path, "data_size": size}),
            );
        } else {
            let text = format!("{action:10} {path}");
            match &self.bar {
                Some(bar) => bar.suspend(|| line(&text)),
                None => line(&text),
            }
        }
    }
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
