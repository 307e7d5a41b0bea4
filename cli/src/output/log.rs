//! The log: events on standard error, and in a file if there is one. Each event is one line: for people, with colours
//! only on a terminal, or one JSON object. What servers and stores say comes through here, so it is shown as everything
//! of others is, and without secrets.

use super::failed_log;
use super::json::harmless;
use crate::config::Global;
use crate::exit::Failure;
use connector_kit::child::SAID;
use engine::{secrets, shown};
use rustix::fs::OFlags;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

/// Libraries of others whose events are about their own works. They are heard where a filter names them.
const OTHERS: &[&str] = &["h2", "hyper_util", "object_store", "quinn", "quinn_proto", "quinn_udp"];

/// What is logged, and where to.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// What to log, instead of what -v says: error, warn, info, debug or trace, or a list such as info,store=debug
    #[arg(long = "log", env = "ESKER_LOG", global = true, value_name = "FILTER", value_parser = filter)]
    filter: Option<String>,
    /// Append the log to this file, at least at info; standard error then has warnings alone
    #[arg(long, global = true, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Lines of the log as text or as JSON objects; text unless --json is given
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    log_format: Option<Form>,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Text,
    Json,
}

/// A filter that can be followed: a level, or a list of targets with levels.
fn filter(text: &str) -> Result<String, String> {
    // An empty variable counts as not set.
    if text.is_empty() && std::env::var_os("ESKER_LOG").is_some_and(|value| value.is_empty()) {
        return Ok(String::new());
    }
    text.split(',').try_for_each(directive)?;
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// What stands between two commas of a filter. [`EnvFilter`] takes a word that is no level for a target, and nothing for
/// everything: a mistyped level would silence all others.
fn directive(text: &str) -> Result<(), String> {
    const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace", "off"];
    let shown = shown::line(text);
    let (target, level) = match text.rsplit_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, text),
    };
    if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
        return Err(format!("'{shown}': the level is one of {}", LEVELS.join(", ")));
    }
    let is_name = |target: &str| {
        let is_in_one = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
        !target.is_empty() && target.bytes().all(is_in_one)
    };
    match target {
        Some(target) if !is_name(target) => Err(format!("'{shown}': a target has letters, digits, _ and ::")),
        _ => Ok(()),
    }
}

/// A filter with the libraries of others left out, unless it names them, and `otherwise` for the targets that it does not
/// name, unless it has a level for them. `text` was looked at before.
fn followed(text: Option<&str>, otherwise: &str) -> String {
    let mut text = text.unwrap_or(otherwise).to_owned();
    if text.split(',').all(|directive| directive.contains('=')) {
        text = format!("{otherwise},{text}");
    }
    for name in OTHERS {
        if !text.contains(name) {
            // Writing to a text does not fail.
            let _ = write!(text, ",{name}=warn");
        }
    }
    text
}

/// Starts it.
///
/// # Errors
/// If the file cannot be opened, or what was asked for contradicts itself.
pub(crate) fn start(global: &Global) -> Result<(), Failure> {
    let Flags { filter, log_file, log_format } = &global.log;
    let asked = filter.as_deref().filter(|filter| !filter.is_empty()).or(match global.verbose {
        0 => None,
        1 => Some("info"),
        2 => Some("debug"),
        _ => Some("trace"),
    });
    if global.json && *log_format == Some(Form::Text) && log_file.is_none() {
        return Err(Failure::usage(
            "with --json every line on standard error is a JSON object: --log-format text is for --log-file",
        ));
    }
    let form = log_format.unwrap_or(if global.json { Form::Json } else { Form::Text });
    let file = match log_file {
        Some(path) => {
            let file = opened(path).map_err(|error| {
                Failure::new(format!("cannot open the log file {}: {error}", shown::path(path)))
            })?;
            let lines = match form {
                Form::Json => Lines::Json,
                Form::Text => Lines::Plain { coloured: false, timed: true },
            };
            Some(
                Log::new(Place::File { file, json: global.json }, lines)
                    .with_filter(EnvFilter::new(followed(asked, "info"))),
            )
        }
        None => None,
    };
    let (heard, form) = match &file {
        // Standard error has what a person must see; under `--json`, as JSON.
        Some(_) => (None, if global.json { Form::Json } else { Form::Text }),
        None => (asked, form),
    };
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = match form {
        Form::Json => Lines::Json,
        Form::Text => {
            Lines::Plain { coloured: has_colours && std::io::stderr().is_terminal(), timed: heard.is_some() }
        }
    };
    let stderr = Log::new(Place::Stderr, lines).with_filter(EnvFilter::new(followed(heard, "warn")));
    // Only a second start could fail.
    let _ = Registry::default().with(file).with(stderr).try_init();
    Ok(())
}

/// Opens the file of the log. A pipe that nobody reads from is refused, rather than waited for.
fn opened(path: &Path) -> std::io::Result<File> {
    let waits = OFlags::NONBLOCK;
    let flags = i32::try_from(waits.bits()).unwrap_or_default();
    let file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    // From now on a reader that is slow is waited for.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - waits)?;
    Ok(file)
}

/// Whether a line of the log could not be written to its file.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Whether the file lacks a part of the log: then not all that was asked for is so.
pub(crate) fn has_failed() -> bool {
    HAS_FAILED.load(Ordering::Relaxed)
}

/// Where lines go.
enum Place {
    Stderr,
    File {
        file: File,
        /// Whether standard error has JSON.
        json: bool,
    },
}

/// A place that events are written to.
struct Log {
    place: Place,
    lines: Lines,
}

impl Log {
    fn new(place: Place, lines: Lines) -> Self {
        Self { place, lines }
    }

    /// Writes a line at once, so that those of other processes do not come in between.
    fn write(&self, mut line: String) {
        line.push('\n');
        let written = match &self.place {
            Place::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
            Place::File { file, .. } => (&*file).write_all(line.as_bytes()),
        };
        // Where standard error cannot be written to, nothing can be said.
        if let (Err(error), Place::File { json, .. }) = (written, &self.place)
            && !HAS_FAILED.swap(true, Ordering::Relaxed)
        {
            failed_log(&error, *json);
        }
    }
}

impl<S> Layer<S> for Log
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut kept = span.extensions_mut();
        // Another place may have noted it.
        if kept.get_mut::<Said>().is_none() {
            let mut said = Said::default();
            attributes.record(&mut said);
            kept.insert(said);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(said) = span.extensions_mut().get_mut::<Said>()
        {
            values.record(said);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let scope = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans: Vec<(&'static str, Said)> = scope
            .map(|span| (span.name(), span.extensions().get::<Said>().cloned().unwrap_or_default()))
            .collect();
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        self.write(self.lines.line(level, target, said, &spans));
    }
}

/// What a line of the log looks like.
enum Lines {
    Json,
    Plain {
        coloured: bool,
        /// Begins with the time, as where the log was asked for.
        timed: bool,
    },
}

/// Now, to the millisecond (RFC 3339).
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

impl Lines {
    fn line(&self, level: Level, target: &str, said: Said, spans: &[(&str, Said)]) -> String {
        match self {
            Self::Json => {
                let level = level.as_str().to_ascii_lowercase();
                let mut line =
                    json!({"message_type": "log", "time": now(), "level": level, "target": target});
                line["message"] = secrets::in_message(&said.message).into();
                if !said.fields.is_empty() {
                    line["fields"] = said.object();
                }
                if !spans.is_empty() {
                    let named = |(name, said): &(&str, Said)| {
                        let mut span = said.object();
                        span["name"] = (*name).into();
                        span
                    };
                    line["spans"] = spans.iter().map(named).collect();
                }
                harmless(line.to_string())
            }
            // Lines of other programs are shown as they wrote them.
            Self::Plain { timed: false, .. } if target == SAID => {
                shown::line(&secrets::in_message(&said.message)).into_owned()
            }
            Self::Plain { coloured, timed } => {
                let mut text = String::new();
                for (name, said) in spans {
                    // Writing to a text does not fail.
                    let _ = write!(text, "{name}{{{}}}: ", said.words());
                }
                text.push_str(&secrets::in_message(&said.message));
                let words = said.words();
                if !words.is_empty() {
                    let space = if said.message.is_empty() { "" } else { " " };
                    let _ = write!(text, "{space}{words}");
                }
                let text = shown::line(&text);
                // What nobody asked for is a message as all others are: modules are named to those who asked for the log.
                let start = match (timed, level) {
                    (true, _) => format!("{level:>5}"),
                    (false, Level::ERROR) => "error".to_owned(),
                    (false, _) => "warning".to_owned(),
                };
                let start = match (coloured, level) {
                    (false, _) => start,
                    (true, Level::ERROR) => format!("\u{1b}[31m{start}\u{1b}[0m"),
                    (true, Level::WARN) => format!("\u{1b}[33m{start}\u{1b}[0m"),
                    (true, _) => format!("\u{1b}[2m{start}\u{1b}[0m"),
                };
                match timed {
                    true => format!("{} {start} {target}: {text}", now()),
                    false => format!("{start}: {text}"),
                }
            }
        }
    }
}

/// What an event or a span says: fields in the order in which they were written down.
#[derive(Clone, Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => match self.fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => self.fields.push((name, value)),
            },
        }
    }

    /// `name=value`, with spaces in between, and without secrets.
    fn words(&self) -> String {
        let mut words = String::new();
        for (name, value) in &self.fields {
            let space = if words.is_empty() { "" } else { " " };
            // Writing to a text does not fail.
            let _ = match value {
                Value::String(value) => write!(words, "{space}{name}={}", secrets::in_message(value)),
                value => write!(words, "{space}{name}={value}"),
            };
        }
        words
    }

    /// The fields, without secrets.
    fn object(&self) -> Value {
        let without_secrets = |value: &Value| match value {
            Value::String(text) => secrets::in_message(text).into(),
            value => value.clone(),
        };
        let fields = self.fields.iter().map(|(name, value)| ((*name).to_owned(), without_secrets(value)));
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        let fields = vec![
            ("place", "redis://u:hunter2@h\n WARN forged".into()),
            ("attempt", 3.into()),
            ("ms", 0.5.into()),
        ];
        Said { message: "it \u{1b}]0;title\u{7} broke: x://hunter2@h/".into(), fields }
    }

    #[test]
    fn an_event_is_one_line_without_secrets_and_escapes() {
        let spans = [("backup", said())];
        for lines in [
            Lines::Json,
            Lines::Plain { coloured: false, timed: false },
            Lines::Plain { coloured: false, timed: true },
        ] {
            let line = lines.line(Level::WARN, "esker", said(), &spans);
            assert!(!line.contains(char::is_control) && !line.contains("hunter2"), "{line}");
            assert!(line.contains("forged") && line.contains("broke") && line.contains("0.5"), "{line}");
        }
        let line = Lines::Json.line(Level::WARN, "esker", said(), &spans);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["message_type"], &value["level"]), (&"log".into(), &"warn".into()));
        assert_eq!((&value["fields"]["attempt"], &value["spans"][0]["name"]), (&3.into(), &"backup".into()));
        assert!(value["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
        // A module is named in the log, and to nobody who did not ask for the log.
        let plain = |timed| Lines::Plain { coloured: false, timed };
        let warned = |lines: Lines| lines.line(Level::WARN, "chunkstore::kept", said(), &[]);
        assert!(
            warned(plain(false)).starts_with("warning: it ") && !warned(plain(false)).contains("chunkstore")
        );
        assert!(warned(plain(true)).contains(" WARN chunkstore::kept: it "));
        let coloured = Lines::Plain { coloured: true, timed: false };
        assert!(coloured.line(Level::WARN, "esker", said(), &[]).starts_with("\u{1b}[33m"));
    }

    #[test]
    fn libraries_of_others_are_heard_where_they_are_named() {
        assert!(followed(Some("trace"), "warn").contains("h2=warn"));
        let named = followed(Some("info,h2=trace"), "warn");
        assert!(named.contains("h2=trace") && !named.contains("h2=warn"), "{named}");
        let bad = [
            "store=loud",
            "nonsense",
            "inof",
            "info,",
            "store=",
            "=info",
            "store",
            "",
            " ",
            "a b=info",
            "info,,debug",
        ];
        for text in bad {
            assert!(filter(text).is_err(), "{text}");
        }
        for text in ["info", "WARN", "info,store=debug", "chunkstore::head=trace,said=off"] {
            assert_eq!(filter(text).as_deref(), Ok(text));
            assert!(EnvFilter::try_new(followed(Some(text), "warn")).is_ok(), "{text}");
        }
    }
}
