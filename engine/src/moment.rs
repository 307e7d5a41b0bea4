//! A moment of a live stream: which snapshot can bring it back.

use crate::connector::Target;
use crate::snapshot::Listed;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// A moment for people: milliseconds since 1970 in RFC 3339.
#[must_use]
pub fn shown(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| ms.to_string(), |time| time.to_string())
}

/// The snapshot whose stream has a moment: of those that begin before it the one that begins last. All that are given are of
/// one server, or the choice is refused.
///
/// # Errors
/// Why there is none.
pub fn holding<'a>(target: &dyn Target, all: &'a [Listed], time: jiff::Timestamp) -> Result<&'a Listed> {
    let title = target.title();
    let ms = u64::try_from(time.as_millisecond()).unwrap_or_default();
    let streams = || all.iter().filter_map(|listed| Some((listed, target.span(&listed.snapshot)?)));
    let servers: BTreeSet<&str> = streams()
        .flat_map(|(listed, _)| &listed.snapshot.paths)
        .filter_map(|path| path.trim_start_matches('/').rsplit_once('/'))
        .map(|(server, _)| server)
        .collect();
    if servers.len() > 1 {
        let names: Vec<&str> = servers.into_iter().collect();
        return Err(Error::Invalid(format!(
            "there are streams of several servers; name one, as latest:{}",
            names.join(" or latest:")
        )));
    }
    let found = streams().filter(|(_, (from, _))| *from <= ms).max_by_key(|(_, (from, _))| *from);
    let Some((listed, (from, until))) = found else {
        let first = streams().map(|(_, (from, _))| from).min();
        return Err(Error::Invalid(match first {
            Some(first) => {
                format!(
                    "no stream of {title} goes back to {}; the first begins at {}",
                    shown(ms),
                    shown(first)
                )
            }
            None => format!("there is no stream of {title} here; 'esker stream' makes one"),
        }));
    };
    if ms > until {
        return Err(Error::Invalid(format!(
            "the stream goes from {} to {}, {} is not in it",
            shown(from),
            shown(until),
            shown(ms)
        )));
    }
    Ok(listed)
}
