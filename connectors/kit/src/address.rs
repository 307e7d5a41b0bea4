//! Common parts of the URLs of sources.

use engine::source::{SourceError, SourceErrorKind};
use std::path::PathBuf;

/// The absolute path of a URL of a file or folder, which has no host.
///
/// # Errors
/// That it has one, or that the path is relative.
pub fn path_of(url: &url::Url) -> Result<PathBuf, SourceError> {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(url.path()).collect();
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let is_local = url.host_str().unwrap_or_default().is_empty() && path.is_absolute();
    is_local.then_some(path).ok_or_else(|| {
        SourceError::new(SourceErrorKind::Missing, url.as_str(), "give an absolute path after '://'")
    })
}
