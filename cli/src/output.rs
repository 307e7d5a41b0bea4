//! Everything that is printed: results to standard output, progress and errors to standard error.

use crate::config::Global;
use crate::exit::Failure;
use crate::{small, stdout};
use chunkstore::pool::locked;
use chunkstore::threads;
use engine::entry::{display_path, rooted};
use engine::monitor::Tally;
use engine::names::path_text;
use engine::{Counter, ItemError, Monitor, secrets, shown};
use indicatif::ProgressBar;
use progress::{Phase, SHOWN};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod log;
mod progress;

pub(crate) use log::{Flags as LogFlags, has_failed as log_has_failed, start as start_logging};

/// Writes one line to standard output, whatever names are in it; see [`shown`].
pub(crate) fn line(text: impl AsRef<str>) {
    stdout::write(format!("{}\n", shown::line(text.as_ref())).as_bytes());
}

/// Writes several lines: a table, whose cells are names as [`shown::name`] has them, or a document.
pub(crate) fn block(text: impl AsRef<str>) {
    stdout::write(format!("{}\n", shown::text(text.as_ref())).as_bytes());
}

/// A message of several lines, each but the first indented, so that none of others looks like one of ours.
fn indented(text: &str) -> String {
    shown::text(text).trim_end().replace('\n', "\n  ")
}

/// Writes a JSON value as a line to standard output.
pub(crate) fn json_line(value: &serde_json::Value) {
    stdout::write(format!("{}\n", harmless(value.to_string())).as_bytes());
}

/// The value with names in it that may be bytes of any kind: `field` as text, in which bytes that are not UTF-8 are
/// U+FFFD, and where that is not all of it, `field_exact` in the reversible form that commands take.
pub(crate) fn with_names(mut value: Value, names: &[(&str, &[u8])]) -> Value {
    for (field, bytes) in names {
        let (text, exact) = (String::from_utf8_lossy(bytes), path_text(bytes));
        if text != exact {
            value[format!("{field}_exact")] = exact.into();
        }
        value[*field] = text.into();
    }
    value
}

/// Writes a JSON value for people to standard output.
pub(crate) fn json_block(value: &serde_json::Value) {
    json_text(format!("{value:#}"));
}

/// Writes lines of JSON text to standard output.
pub(crate) fn json_text(text: String) {
    stdout::write(format!("{}\n", harmless(text)).as_bytes());
}

/// JSON text in which what [`shown::is_hidden`] is escaped (RFC 8259, section 7): within strings it may stand as it is.
fn harmless(text: String) -> String {
    let is_escaped = |character: char| character != '\n' && shown::is_hidden(character);
    if !text.chars().any(is_escaped) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            let mut units = [0; 2];
            out.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(character);
        }
    }
    out
}

/// Says that the log's file does not take what is logged.
fn failed_log(error: &std::io::Error, json: bool) {
    let message = format!("the log file cannot be written to: {error}");
    if json {
        json_error_line(json!({"message_type": "log", "level": "warn", "message": message}));
    } else {
        error_line(&format!("warning: {message}"));
    }
}

fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", indented(&secrets::in_message(text)));
}

fn json_error_line(mut value: serde_json::Value) {
    without_secrets(&mut value);
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(value.to_string()));
}

/// Hides what is secret in the URLs of messages, however deep they stand.
fn without_secrets(value: &mut Value) {
    for (name, value) in value.as_object_mut().into_iter().flatten() {
        match value {
            Value::String(text) if name == "message" || name == "item" => {
                *text = secrets::in_message(text).into_owned();
            }
            Value::Object(_) => without_secrets(value),
            _ => {}
        }
    }
}

/// Adds a line to standard error.
pub(crate) fn note(text: &str) {
    error_line(text);
}

/// Prints the last object of a run that failed.
pub(crate) fn exit_error(code: u8, message: &str) {
    json_error_line(json!({"message_type": "exit_error", "code": code, "message": message}));
}

/// Prints why a run failed.
pub(crate) fn failure(failure: &Failure, json: bool) {
    if json {
        exit_error(failure.code as u8, &failure.message);
    } else {
        error_line(&format!("esker: {}", failure.message));
    }
}

/// A table with a heading.
pub(crate) fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table
}

/// Seconds as restic shows them: `1:05`, `2:00:07`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

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

    /// What took long enough to be seen leaves its last line.
    fn finish(&self) {
        let phase = std::mem::replace(&mut *locked(&self.phase), Phase::new("", self.counts()));
        let progress = phase.progress(self.counts());
        let bar = locked(&self.bar).take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let is_seen = match self.mode {
            Mode::Bar => progress.seconds >= progress::WORTH_A_LINE,
            Mode::Lines => self.fps > 0.0 && progress.seconds >= 1.0 / self.fps,
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
    pub(crate) fn result(&self, text: impl AsRef<str>, mut value: serde_json::Value) {
        if self.json {
            value["message_type"] = json!("summary");
            json_line(&value);
        } else {
            self.say(text);
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
                ", without its password and cache: it speaks of another repository"
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
