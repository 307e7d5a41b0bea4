//! What a backup of files leaves out, and files that list what it is to take: from what people write to what the engine
//! takes. `docs/filters.md` has the rules.

use crate::commands::lists::read;
use crate::exit::Failure;
use crate::variables::environment_path;
use engine::marker::Marker;
use engine::patterns::{Pattern, Patterns, expand_paths, read_lines};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Patterns of a flag, then those of files.
pub(crate) fn excludes(
    patterns: &[OsString],
    flag: &str,
    files: &[PathBuf],
    ignore_case: bool,
) -> Result<Patterns, Failure> {
    let parse = |text: &OsString| Pattern::parse(text.as_bytes(), flag, ignore_case);
    let mut list = patterns.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let variable = |name: &str| environment_path(name).map(|value| value.into_os_string().into_vec());
    for file in files {
        let name = file.display().to_string();
        list.extend(Pattern::parse_file(&read(file)?, &name, ignore_case, &variable)?);
    }
    let list = Patterns::new(list);
    list.refuse_everything()?;
    Ok(list)
}

/// What marks folders whose content is left out.
pub(crate) fn markers(names: &[OsString], caches: bool) -> Result<Vec<Marker>, Failure> {
    let parse = |name: &OsString| {
        let wrong = |why| Failure::usage(format!("--exclude-if-present {why}"));
        Marker::parse(name.as_bytes()).map_err(wrong)
    };
    let mut markers = names.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    markers.extend(caches.then(Marker::cachedir_tag));
    Ok(markers)
}

/// The paths that a file lists, one a line. A line that nothing fits stays as it is: to be missed like a path that is
/// not there.
pub(crate) fn listed(file: &Path) -> Result<Vec<OsString>, Failure> {
    let bytes = read(file)?;
    let mut paths = vec![];
    for (number, line) in read_lines(&bytes) {
        let text = || OsString::from_vec(line.to_vec());
        if connectors::is_url(&engine::names::escaped_url(line)) {
            paths.push(text());
            continue;
        }
        let found = expand_paths(line).map_err(|why| {
            Failure::usage(format!("{}:{number}: {}: {why}", file.display(), text().display()))
        })?;
        match found.is_empty() {
            true => paths.push(text()),
            false => paths.extend(found.into_iter().map(PathBuf::into_os_string)),
        }
    }
    Ok(paths)
}
