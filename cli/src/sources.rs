//! Paths and URLs as one source: what `backup`, `run` and `bench` are told to read.

use crate::context::Context;
use crate::exit::Failure;
use engine::Monitor;
use engine::connector::Context as SourceContext;
use engine::entry::Time;
use engine::names::escaped_url;
use engine::source::files::{FilesOptions, FilesSource};
use engine::source::{Several, Source, Stamped, without_password};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

/// Opens paths and URLs, several as one set.
pub(crate) fn open(
    names: Vec<OsString>,
    files: FilesOptions,
    time: Time,
    keep_going: bool,
    context: &Context,
    monitor: &dyn Monitor,
) -> Result<Box<dyn Source>, Failure> {
    let (urls, paths): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|source| connectors::is_url(&escaped_url(source.as_bytes())));
    let mut sources: Vec<Box<dyn Source>> = vec![];
    if !urls.is_empty() {
        let options = SourceContext { keep_going, ..url_options(context)? };
        for url in &urls {
            sources.push(stamped(connectors::open(&escaped_url(url.as_bytes()), time, &options)?));
        }
    }
    if let Some(unknown) = paths.iter().find(|path| is_unknown_url(path)) {
        return Err(Failure::usage(format!(
            "{}: no source has this scheme; there are {}",
            without_password(&escaped_url(unknown.as_bytes())),
            connectors::schemes().join(", ")
        )));
    }
    if !paths.is_empty() {
        let paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        let files = FilesOptions { own: context.own_folders(), ..files };
        sources.push(stamped(Box::new(FilesSource::new(&paths, files, monitor)?)));
    }
    match (sources.pop(), sources.is_empty()) {
        (None, _) => Err(Failure::usage(
            "nothing to back up: give paths, URLs, --stdin or --stdin-from-command -- COMMAND",
        )),
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            sources.push(last);
            Ok(Box::new(Several::new(sources)))
        }
    }
}

/// Whether this is a URL of a kind that nobody knows, rather than a path.
fn is_unknown_url(argument: &std::ffi::OsStr) -> bool {
    let text = escaped_url(argument.as_bytes());
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    let is_scheme =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    scheme.is_some_and(|scheme| !scheme.is_empty() && is_scheme(scheme))
        && std::fs::symlink_metadata(argument).is_err()
}

/// The same, with times in its records.
pub(crate) fn stamped(source: Box<dyn Source>) -> Box<dyn Source> {
    Box::new(Stamped::new(source, crate::context::now))
}

/// The most sessions that read one server, and that write into one, at a time unless the user asks for more.
const READERS: usize = 4;
const WRITERS: usize = 8;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// What URL sources need to know besides their URLs.
pub(crate) fn url_options(context: &Context) -> Result<SourceContext, Failure> {
    let mut options = context.global.settings()?;
    crate::config::settings_of_environment(&mut options.connectors)?;
    let scratch = match context.cache().as_deref().and_then(|cache| cache.parent()) {
        Some(cache) => cache.join("spill"),
        None => std::env::temp_dir(),
    };
    if !scratch.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&scratch).map_err(|error| {
            Failure::new(format!(
                "cannot make {} for what does not fit into memory: {error}",
                scratch.display()
            ))
        })?;
    }
    Ok(SourceContext {
        settings: options.connectors,
        // Within bounds that a server will not mind.
        sessions: cores().clamp(2, READERS),
        restore_sessions: cores().min(WRITERS),
        environment: crate::config::connectors_environment(),
        tls: options.tls,
        tls_files: options.tls_files,
        stop: context.console.stop(),
        ..SourceContext::new(scratch, crate::context::now)
    })
}
