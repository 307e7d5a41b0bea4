//! What a base backup's tars have: files, folders, and the links of `pg_tblspc`, each with a path beneath the folder.

use super::{Owner, failed, is_oid, malformed};
use engine::{Error, Result};
use rustix::fs::Mode;
use std::io::{self, Read, Seek};
use std::path::Path;

/// Where the links to tablespaces lie.
pub(crate) const SPACES: &str = "pg_tblspc";

/// A member of a tar.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its path beneath the folder; empty for the folder itself.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    pub(crate) mode: Mode,
    pub(crate) owner: Owner,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Folder,
    /// A file, whose content begins at a byte of the tar.
    File {
        at: u64,
        len: u64,
    },
    /// A link to the tablespace of this number.
    Space(String),
}

impl Member {
    /// What an entry of a tar is.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what a data directory cannot have: a path that leads out of it, a link, a device.
    pub(super) fn of<R: Read>(entry: &tar::Entry<'_, R>, folder: &Path) -> Result<Self> {
        let read = failed("unpack into", folder);
        let name = entry.path_bytes().into_owned();
        let shown = engine::shown::name(&name);
        let path = beneath(&name).ok_or_else(|| malformed(format!("'{shown}' leads out of the target")))?;
        let header = entry.header();
        let number = |value: io::Result<u64>| {
            u32::try_from(value.map_err(&read)?)
                .map_err(|_| malformed(format!("'{shown}' belongs to nobody")))
        };
        let kind = header.entry_type();
        let what = if kind.is_dir() {
            What::Folder
        } else if kind.is_file() {
            What::File { at: entry.raw_file_position(), len: entry.size() }
        } else if let Some(oid) = kind.is_symlink().then(|| space_linked(&path)).flatten() {
            What::Space(oid)
        } else {
            return Err(malformed(format!("'{shown}' is nothing that a data directory has")));
        };
        Ok(Self {
            path,
            what,
            mode: Mode::from_raw_mode(header.mode().map_err(&read)? & 0o777),
            owner: (number(header.uid())?, number(header.gid())?),
            mtime: i64::try_from(header.mtime().map_err(&read)?).unwrap_or_default(),
        })
    }
}

/// That a member comes again.
pub(crate) fn twice(member: &Member) -> Error {
    malformed(format!("'{}' comes twice", engine::shown::name(&member.path)))
}

/// Hands over the members of a tar, in order; a file can be read where it is handed over.
///
/// # Errors
/// Of `each`; of reading; [`Error::Malformed`].
pub(crate) fn for_all_members<R: Read + Seek>(
    reader: R,
    folder: &Path,
    each: &mut dyn FnMut(Member, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let read = |error: io::Error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => failed("unpack into", folder)(error),
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries_with_seek().map_err(read)? {
        let mut entry = entry.map_err(read)?;
        let member = Member::of(&entry, folder)?;
        each(member, &mut entry)?;
    }
    Ok(())
}

/// A member's path as one beneath the folder: no `..`, nothing from the root.
fn beneath(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| *part != b".").collect();
    let is_plain = |part: &&[u8]| !part.is_empty() && **part != b".."[..] && !part.contains(&0);
    parts.iter().all(is_plain).then(|| parts.join(&b'/'))
}

/// The tablespace that a link is of.
fn space_linked(path: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(path).ok()?.strip_prefix(SPACES)?.strip_prefix('/')?;
    is_oid(name).then(|| name.to_owned())
}
