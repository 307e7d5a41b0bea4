//! Lists that commands read from files, byte by byte: `-` is standard input. Those in which lines have a meaning are read
//! in `filters.rs`.

use crate::exit::Failure;
use crate::small;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Reads a file, or standard input for `-`.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    match file.as_os_str() == "-" {
        true => small::read_stdin(small::LIST),
        false => small::read(file, small::LIST),
    }
}

/// Paths of `--files-from-verbatim`: every line as it is, but empty ones.
pub(crate) fn verbatim(files: &[PathBuf]) -> Result<Vec<OsString>, Failure> {
    let mut paths = vec![];
    for file in files {
        let bytes = read(file)?;
        let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        paths.extend(lines.filter(|line| !line.is_empty()).map(|line| OsString::from_vec(line.to_vec())));
    }
    Ok(paths)
}

/// Paths of `--files-from-raw`: each ends with a NUL, also the last.
pub(crate) fn raw(files: &[PathBuf]) -> Result<Vec<OsString>, Failure> {
    let mut paths = vec![];
    for file in files {
        let bytes = read(file)?;
        let broken = |why: &str| Failure::new(format!("{}: {why}", file.display()));
        let Some(bytes) = bytes.strip_suffix(b"\0") else {
            match bytes.is_empty() {
                true => continue,
                false => return Err(broken("the last name does not end with a NUL: is the list whole?")),
            }
        };
        for name in bytes.split(|byte| *byte == 0) {
            if name.is_empty() {
                return Err(broken("it holds an empty name"));
            }
            paths.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(paths)
}
