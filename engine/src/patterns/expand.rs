//! Names in a file of paths, in which `*`, `?` and `[…]` match existing names, as in a shell.

#![expect(clippy::disallowed_methods, reason = "it expands patterns to existing names")]

use super::glob::Glob;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// The matching paths, in byte order. A path that exists means itself, whatever characters it has. Names that begin
/// with a dot match like others. No match is no error here; the result is empty.
pub fn expand_paths(line: &[u8]) -> Result<Vec<PathBuf>, String> {
    let itself = PathBuf::from(OsString::from_vec(line.to_vec()));
    if std::fs::symlink_metadata(&itself).is_ok() {
        return Ok(vec![itself]);
    }
    let mut found = vec![PathBuf::from(if line.starts_with(b"/") { "/" } else { "" })];
    for component in line.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        if matches!(component, b"." | b"..") {
            found.iter_mut().for_each(|path| path.push(OsStr::from_bytes(component)));
            continue;
        }
        let glob = Glob::parse(component, false)?;
        let mut next = vec![];
        for folder in found {
            if let Glob::Literal(name) = &glob {
                next.push(folder.join(OsStr::from_bytes(name)));
                continue;
            }
            let listed = if folder.as_os_str().is_empty() { ".".as_ref() } else { folder.as_path() };
            let Ok(entries) = std::fs::read_dir(listed) else { continue };
            let mut names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.retain(|name| glob.fits(name.as_bytes()));
            names.sort_unstable();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        next.retain(|path| std::fs::symlink_metadata(path).is_ok());
        found = next;
    }
    found.retain(|path| !path.as_os_str().is_empty());
    Ok(found)
}
