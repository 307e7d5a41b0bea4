//! Paths and URLs as one source: what `backup`, `run` and `bench` are told to read.

use crate::context::Context;
use crate::exit::Failure;
use engine::Monitor;
use engine::entry::Time;
use engine::source::files::{FilesOptions, FilesSource};
use engine::source::{Several, Source, Stamped, URL_SCHEMES, UrlOptions, is_url, open_url, without_password};
use std::ffi::OsString;
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
        names.into_iter().partition(|source| source.to_str().is_some_and(is_url));
    let mut sources: Vec<Box<dyn Source>> = vec![];
    if !urls.is_empty() {
        let options = UrlOptions { keep_going, ..url_options(context)? };
        for url in &urls {
            sources.push(stamped(open_url(&url.to_string_lossy(), time, &options)?));
        }
    }
    if let Some(unknown) = paths.iter().find(|path| is_unknown_url(path)) {
        return Err(Failure::new(format!(
            "{}: no source has this scheme; there are {}",
            without_password(&unknown.to_string_lossy()),
            URL_SCHEMES.join(", ")
        )));
    }
    if !paths.is_empty() {
        let paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        sources.push(stamped(Box::new(FilesSource::new(&paths, files, monitor)?)));
    }
    match (sources.pop(), sources.is_empty()) {
        (None, _) => Err(Failure::new(
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
    let scheme = argument.to_str().and_then(|text| Some(text.split_once("://")?.0));
    let is_scheme =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    scheme.is_some_and(|scheme| !scheme.is_empty() && is_scheme(scheme))
        && std::fs::symlink_metadata(argument).is_err()
}

/// The same, with times in its records.
pub(crate) fn stamped(source: Box<dyn Source>) -> Box<dyn Source> {
    Box::new(Stamped::new(source, crate::context::now))
}

/// As many sessions as there are cores, within bounds that a server will not mind.
fn sessions() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 4)
}

/// What URL sources need to know besides their URLs.
pub(crate) fn url_options(context: &Context) -> Result<UrlOptions, Failure> {
    let settings = context.global.settings()?;
    let (redis_user, redis_password) = crate::config::redis_login()?;
    let scratch =
        match context.global.cache(context.file.as_ref()).as_deref().and_then(|cache| cache.parent()) {
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
    Ok(UrlOptions {
        postgres_format: settings.postgres_format,
        postgres_jobs: settings.postgres_jobs.unwrap_or_else(sessions),
        postgres_at_once: settings.postgres_at_once.unwrap_or(1),
        environment: crate::config::database_environment(),
        tls_files: settings.tls_files,
        redis_order: settings.redis_order,
        redis_user,
        redis_password,
        qdrant_api_key: crate::config::qdrant_key()?,
        tls: settings.tls,
        scratch,
        keep_going: false,
        qdrant_run: engine::source::qdrant::Run::default(),
        clock: crate::context::now,
    })
}
