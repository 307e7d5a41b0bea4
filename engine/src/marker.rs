//! Files that mark their folder as one whose content is left out.

#![expect(clippy::disallowed_methods, reason = "a marker is found by reading a file")]

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

const CACHEDIR_TAG: &str = "CACHEDIR.TAG:Signature: 8a477f597d28d172789f06886806bc55";

/// A file's name, and how the file must begin to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    name: OsString,
    header: Vec<u8>,
}

impl Marker {
    /// Reads `NAME` or `NAME:HEADER`, as restic does.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let shown = String::from_utf8_lossy(text).into_owned();
        let (name, header) = match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, &b""[..]),
        };
        if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
            return Err(format!("'{shown}' is not the name of a file, nor NAME:HEADER"));
        }
        Ok(Self { name: OsString::from_vec(name.to_vec()), header: header.to_vec() })
    }

    /// The tag of cache folders, by <https://bford.info/cachedir/>.
    #[must_use]
    pub fn cachedir_tag() -> Self {
        let (name, header) = CACHEDIR_TAG.split_once(':').unwrap_or_default();
        Self { name: name.into(), header: header.as_bytes().to_vec() }
    }

    /// Whether a folder holds it.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        let path = folder.join(&self.name);
        if self.header.is_empty() {
            return fs::symlink_metadata(&path).is_ok();
        }
        let mut head = vec![];
        fs::metadata(&path).is_ok_and(|metadata| metadata.is_file())
            && File::open(&path)
                .and_then(|file| file.take(self.header.len() as u64).read_to_end(&mut head))
                .is_ok_and(|_| head == self.header)
    }

    /// The same of a folder that is open.
    pub(crate) fn is_at(&self, folder: impl AsFd) -> bool {
        if self.header.is_empty() {
            return statat(&folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        }
        let is_file = statat(&folder, &self.name, AtFlags::empty())
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        // Another kind of file by now must not make this wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut head = vec![];
        is_file
            && openat(&folder, &self.name, flags, Mode::empty()).is_ok_and(|file| {
                let read = File::from(file).take(self.header.len() as u64).read_to_end(&mut head);
                read.is_ok() && head == self.header
            })
    }

    /// `NAME` or `NAME:HEADER`, as [`Marker::parse`] reads it.
    pub(crate) fn written(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        if self.header.is_empty() { name.to_vec() } else { [name, b":", &self.header].concat() }
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.name.as_bytes()).into_owned()
    }
}
