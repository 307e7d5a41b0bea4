//! Variables of the environment: an empty one is unset.

use crate::exit::Failure;
use crate::words;
use std::path::PathBuf;

/// A folder or file that a variable names, in whatever bytes; an empty one is unset.
pub(crate) fn environment_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A variable's text; an empty one is unset. Bytes that are not UTF-8 are in the reversible form: what is not to be text
/// then is not found, rather than taken for unset.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(words::as_kept)
}

/// The same where it must be text.
pub(crate) fn environment_text(name: &str) -> Result<Option<String>, Failure> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(|value| words::text(&value, &format!("the variable {name}"))).transpose()
}
