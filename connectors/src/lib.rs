//! The connectors that this build has: one line and one feature each.

use engine::connector::{Connector, Context, Format};
use engine::entry::Time;
use engine::source::{Source, SourceError, SourceErrorKind, without_password};
use std::sync::LazyLock;

/// All of them, in the order in which help shows them.
#[must_use]
pub fn all() -> &'static [&'static dyn Connector] {
    &[
        #[cfg(feature = "redis")]
        &connector_redis::Redis,
        #[cfg(feature = "qdrant")]
        &connector_qdrant::Qdrant,
        #[cfg(feature = "postgres")]
        &connector_postgres::Postgres,
        #[cfg(feature = "mysql")]
        &connector_mysql::Mysql,
        #[cfg(feature = "example")]
        &connector_example::Example,
    ]
}

/// The scheme of a URL, if a connector knows it.
#[must_use]
pub fn scheme(argument: &str) -> Option<(&'static dyn Connector, &str)> {
    let (scheme, _) = argument.split_once("://")?;
    let known = |connector: &&dyn Connector| connector.schemes().iter().any(|own| own.name == scheme);
    all().iter().copied().find(known).map(|connector| (connector, scheme))
}

/// The beginnings of all URLs: `redis://` and its like.
#[must_use]
pub fn schemes() -> Vec<String> {
    let all = all().iter().flat_map(|connector| connector.schemes());
    all.map(|scheme| format!("{}://", scheme.name)).collect()
}

/// Whether an argument is a source's URL rather than a path.
#[must_use]
pub fn is_url(argument: &str) -> bool {
    scheme(argument).is_some()
}

/// Opens the source that a URL names. `time` is the backup's.
///
/// # Errors
/// What is wrong with the URL, or why the server cannot be had.
pub fn open(url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
    match scheme(url) {
        Some((connector, _)) => connector.open(url, time, context),
        None => {
            let why = format!("no source has this scheme; there are {}", schemes().join(", "));
            Err(SourceError::new(SourceErrorKind::Unavailable, without_password(url), why))
        }
    }
}

/// The formats of streams that are known.
#[must_use]
pub fn formats() -> &'static [&'static Format] {
    static ALL: LazyLock<Vec<&'static Format>> = LazyLock::new(|| {
        let general = connector_kit::format::GENERAL.iter();
        let all = general.chain(all().iter().flat_map(|connector| connector.formats()));
        all.copied().collect()
    });
    &ALL
}

/// The format of that name.
#[must_use]
pub fn format(name: &str) -> Option<&'static Format> {
    formats().iter().copied().find(|format| format.name == name)
}

#[cfg(test)]
mod formats_tests;
