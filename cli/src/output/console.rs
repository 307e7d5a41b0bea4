//! The monitor of a run: what it tallies, shows on the way and says at its end.

use super::progress::{self, Phase, SHOWN};
use super::summary::{Part, Summary};
use super::{block, error_line, indented, json_error_line, json_line, line, with_names};
use crate::config::Global;
use crate::exit::Failure;
use crate::{small, stdout};
use chunkstore::pool::locked;
use chunkstore::threads;
use engine::entry::{display_path, rooted};
use engine::monitor::Tally;
use engine::{Counter, ItemError, Monitor, shown};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many errors of a kind are shown; the rest is counted. `--json` has all.
const SHOWN_ERRORS: u64 = 10;

/// What errors of a kind have in common: their message without numbers and quoted names.
fn kind(message: &str) -> String {
    let mut kind = String::new();
    let mut is_name = false;
    for character in message.chars() {
        match character {
            '\'' | '"' => is_name = !is_name,
            _ if is_name || character.is_ascii_digit() => {}
            _ => kind.push(character),
        }
    }
    kind
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
    /// Errors of each kind, and the last of each.
    kinds: Mutex<BTreeMap<String, (u64, String)>>,
    /// Errors that were shown: what several parts of a command meet is told once.
    said: Mutex<BTreeSet<String>>,
    stop: Arc<AtomicBool>,
    mode: Mode,
    verbose: bool,
    started: Instant,
    /// The path that is being worked on.
    current: Mutex<Vec<u8>>,
    phase: Mutex<Phase>,
    /// The bar of the phase, on a terminal.
    bar: Mutex<Option<ProgressBar>>,
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
        small::stops(&stop);
        let mode = match () {
            () if global.quiet => Mode::Quiet,
            () if global.json => Mode::Json,
            () if std::io::stderr().is_terminal() => Mode::Bar,
            () => Mode::Lines,
        };
        Ok(Arc::new(Self {
            tally: Tally::default(),
            kinds: Mutex::default(),
            said: Mutex::default(),
            stop,
            mode,
            verbose: global.verbose > 0 && !global.quiet,
            started: Instant::now(),
            current: Mutex::default(),
            phase: Mutex::new(Phase::new("", [0; SHOWN.len()])),
            bar: Mutex::new(None),
            working: Arc::default(),
            fps: global.progress_fps()?,
            json: global.json,
        }))
    }

    /// Set when the user interrupts.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Shows progress while `work` runs, which begins with the phase `name`.
    pub(crate) fn during<T>(self: &Arc<Self>, name: &str, work: impl FnOnce(&dyn Monitor) -> T) -> T {
        self.working.store(true, Ordering::Relaxed);
        self.begin(name);
        let ticker = (self.mode != Mode::Quiet && self.fps > 0.0).then(|| {
            let console = Arc::clone(self);
            threads::start("progress", move || console.tick())
        });
        // Without it nothing is shown on the way.
        let ticker = ticker.and_then(Result::ok);
        let result = work(&**self);
        self.working.store(false, Ordering::Relaxed);
        if let Some(ticker) = ticker {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
        self.finish();
        result
    }

    fn counts(&self) -> [u64; SHOWN.len()] {
        SHOWN.map(|counter| self.get(counter))
    }

    fn begin(&self, name: &str) {
        self.finish();
        *locked(&self.phase) = Phase::new(name, self.counts());
        if self.mode == Mode::Bar {
            *locked(&self.bar) = Some(progress::bar());
        }
    }

    /// What took long enough to be seen leaves its last line; with `-v` everything does.
    fn finish(&self) {
        let phase = std::mem::replace(&mut *locked(&self.phase), Phase::new("", self.counts()));
        let progress = phase.progress(self.counts());
        let bar = locked(&self.bar).take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let is_seen = match self.mode {
            Mode::Bar => self.verbose || progress.seconds >= progress::WORTH_A_LINE,
            Mode::Lines => self.verbose || (self.fps > 0.0 && progress.seconds >= 1.0 / self.fps),
            Mode::Quiet | Mode::Json => false,
        };
        // Between two phases there is nothing to tell of.
        if is_seen && !phase.name.is_empty() {
            error_line(&progress.done());
        }
    }

    fn tick(&self) {
        let pause = match self.mode {
            Mode::Bar => Duration::from_millis(100),
            // So few lines that no duration is long enough are none.
            _ => Duration::try_from_secs_f64(1.0 / self.fps).unwrap_or(Duration::MAX),
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
        let progress = locked(&self.phase).progress(self.counts());
        let current = locked(&self.current).clone();
        match self.mode {
            Mode::Quiet => {}
            Mode::Bar => {
                if let Some(bar) = &*locked(&self.bar) {
                    progress.draw(bar, &current);
                }
            }
            Mode::Lines => error_line(&progress.line()),
            Mode::Json => json_line(&progress.json(self.tally.errors().len(), &current)),
        }
    }

    /// Writes a line to standard error or output, above the bar.
    fn above_bar(&self, write: impl FnOnce()) {
        match &*locked(&self.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
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

    /// The result of a command: a line for people, or an object with the fields of `value` as its `summary`.
    pub(crate) fn result(&self, text: impl AsRef<str>, value: Value) {
        let mut summary = Summary::new(value);
        summary.line(text.as_ref());
        self.summary(&summary);
    }

    /// What a command reports at its end: a text for people, or an object.
    pub(crate) fn summary(&self, summary: &Summary) {
        if self.json {
            json_line(&summary.object());
            return;
        }
        for part in summary.text() {
            match part {
                Part::Line(text) => self.say(text),
                Part::Outcome { text, is_bad } => self.report(text, *is_bad),
                Part::Table(table) => self.say_table(table),
            }
        }
    }

    /// Prints a table, as [`block`], unless quiet.
    pub(crate) fn say_table(&self, table: &comfy_table::Table) {
        if self.mode != Mode::Quiet && !self.json {
            block(table.trim_fmt());
        }
    }

    /// What came of something: a result, or, where all is not well, what even a quiet command says.
    pub(crate) fn report(&self, text: &str, is_bad: bool) {
        match is_bad && self.mode == Mode::Quiet && !self.json {
            true => self.warn(text),
            false => self.say_message(text),
        }
    }

    /// Prints a message that may have several lines, unless quiet.
    pub(crate) fn say_message(&self, text: &str) {
        if self.mode != Mode::Quiet && !self.json {
            block(indented(text));
        }
    }

    /// Says what is not as it should be, but ends nothing.
    pub(crate) fn warn(&self, text: &str) {
        if self.json {
            json_error_line(json!({"message_type": "warning", "message": text}));
        } else {
            self.above_bar(|| error_line(&format!("warning: {text}")));
        }
    }

    /// The command only prints: without a reader it ends.
    pub(crate) fn only_prints(&self) {
        stdout::stops(&self.stop);
    }

    /// Counts an error with those of its kind; whether it is among the first, which are shown.
    fn is_shown(&self, error: &ItemError) -> bool {
        let said = format!("{}: {}", error.item, error.message);
        if locked(&self.said).contains(&said) {
            return false;
        }
        let mut kinds = locked(&self.kinds);
        let (count, last) = kinds.entry(kind(&error.message)).or_default();
        *count += 1;
        if *count > SHOWN_ERRORS {
            last.clone_from(&error.message);
        }
        let is_shown = *count <= SHOWN_ERRORS;
        if is_shown {
            locked(&self.said).insert(said);
        }
        is_shown
    }

    /// Says how many errors there were beyond those that were shown, by kind.
    fn tell_other_errors(&self) {
        let kinds = std::mem::take(&mut *locked(&self.kinds));
        for (count, last) in kinds.into_values().filter(|(count, _)| *count > SHOWN_ERRORS) {
            error_line(&format!("error: {} more: {last}", count - SHOWN_ERRORS));
        }
    }

    /// Says which esker.toml is followed, if that was asked for by `-v`.
    pub(crate) fn configuration(&self, file: &std::path::Path, speaks_of_repository: bool) {
        if !self.verbose {
            return;
        }
        if self.json {
            let value =
                json!({"message_type": "configuration", "speaks_of_repository": speaks_of_repository});
            json_error_line(with_names(value, &[("file", file.as_os_str().as_bytes())]));
        } else {
            let but = if speaks_of_repository {
                ""
            } else {
                ", without its password, key and cache: it speaks of another repository"
            };
            error_line(&format!("following {}{but}", shown::path(file)));
        }
    }

    /// The monitor to hand to the engine.
    pub(crate) fn monitor(&self) -> &dyn Monitor {
        self
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.tell_other_errors();
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
        let mut phase = locked(&self.phase);
        *phase = Phase::new(&phase.name, [0; SHOWN.len()]);
    }
    fn phase(&self, name: &str) {
        if self.working.load(Ordering::Relaxed) {
            self.begin(name);
        }
    }
    fn error(&self, error: ItemError) {
        if !self.json && !self.is_shown(&error) {
            self.tally.error(error);
            return;
        }
        let ItemError { during, item, message } = &error;
        if self.json {
            json_error_line(
                json!({"message_type": "error", "error": {"message": message}, "during": during, "item": item}),
            );
        } else {
            self.above_bar(|| error_line(&format!("error: {}: {message}", shown::line(item))));
        }
        self.tally.error(error);
    }
    fn warning(&self, message: &str) {
        self.warn(message);
    }
    fn note(&self, message: &str) {
        if self.json {
            json_error_line(json!({"message_type": "note", "message": message}));
        } else if self.mode != Mode::Quiet {
            self.above_bar(|| error_line(&format!("note: {message}")));
        }
    }
    fn current(&self, path: &[u8]) {
        if self.mode == Mode::Bar || self.mode == Mode::Json {
            let mut current = locked(&self.current);
            current.clear();
            current.extend_from_slice(path);
        }
    }
    fn entry(&self, action: &'static str, path: &[u8], size: u64) {
        if !self.verbose {
            return;
        }
        if self.json {
            let value = json!({"message_type": "verbose_status", "action": action, "data_size": size});
            json_line(&with_names(value, &[("item", &rooted(path))]));
        } else {
            self.above_bar(|| line(format!("{action:10} {}", display_path(path))));
        }
    }
    fn removal(&self, path: &std::path::Path, dry_run: bool) {
        match (self.mode, dry_run) {
            (Mode::Quiet, _) => {}
            (_, false) if !self.verbose => {}
            _ if self.json => {
                let action = if dry_run { "would_delete" } else { "deleted" };
                let value = json!({"message_type": "verbose_status", "action": action});
                json_line(&with_names(value, &[("item", path.as_os_str().as_bytes())]));
            }
            _ => {
                let verb = if dry_run { "would remove" } else { "removed" };
                self.above_bar(|| line(format!("{verb} {}", shown::path(path))));
            }
        }
    }
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
