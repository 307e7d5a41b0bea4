//! The content of a regular file, with its holes, read without leaving a trace where that is allowed.

use crate::entry::display_path;
use crate::source::{Content, Piece, SourceError, SourceErrorKind};
use rustix::fs::{OFlags, SeekFrom};
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// A regular file: its data, and its holes as the file system knows them.
pub(super) struct FileContent {
    file: File,
    path: PathBuf,
    position: u64,
    /// End of the stretch of data that is being read; `None` where holes are not looked for.
    data_end: Option<u64>,
    before: (u64, i64, i64),
    changed: bool,
}

impl FileContent {
    pub(super) fn open(path: PathBuf, expected: &Metadata) -> Result<Self, SourceError> {
        let fail = |why: &dyn std::fmt::Display| {
            SourceError::new(SourceErrorKind::Item, path.display().to_string(), why)
        };
        let open = |more| {
            rustix::fs::open(
                &path,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | more,
                rustix::fs::Mode::empty(),
            )
        };
        // Only the owner may read without leaving a trace in the access time.
        let file = open(OFlags::NOATIME)
            .or_else(|_| open(OFlags::empty()))
            .map_err(|error| fail(&std::io::Error::from(error)))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| fail(&error))?;
        if !metadata.is_file() || metadata.ino() != expected.ino() || metadata.dev() != expected.dev() {
            return Err(fail(&"was replaced while it was being backed up"));
        }
        // Fewer blocks than bytes: there are holes, or the file system compresses; asking tells.
        let sparse = metadata.blocks() * 512 < metadata.len();
        let before = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { file, path, position: 0, data_end: sparse.then_some(0), before, changed: false })
    }

    /// In a sparse file at the end of a stretch of data: the hole that follows, if any.
    fn next_hole(&mut self) -> Result<Option<u64>, SourceError> {
        if self.data_end != Some(self.position) {
            return Ok(None);
        }
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.position)) {
            Ok(data) => data,
            // Nothing but a hole until the end.
            Err(rustix::io::Errno::NXIO) => self.file.metadata().map_err(|error| self.fail(error))?.len(),
            Err(rustix::io::Errno::INVAL) => {
                self.data_end = None;
                return Ok(None);
            }
            Err(error) => return Err(self.fail(error.into())),
        };
        let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(data)) {
            Ok(end) => end,
            Err(_) => data,
        };
        rustix::fs::seek(&self.file, SeekFrom::Start(data)).map_err(|error| self.fail(error.into()))?;
        let hole = data.saturating_sub(self.position);
        self.position = data;
        self.data_end = Some(end);
        Ok((hole > 0).then_some(hole))
    }

    fn fail(&self, error: std::io::Error) -> SourceError {
        SourceError::new(SourceErrorKind::Item, self.path.display().to_string(), error)
    }
}

impl Content for FileContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        if let Some(hole) = self.next_hole()? {
            return Ok(Piece::Hole(hole));
        }
        let most = match self.data_end {
            Some(end) => usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len()),
            None => buffer.len(),
        };
        let len = loop {
            match self.file.read(&mut buffer[..most]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result.map_err(|error| self.fail(error))?,
            }
        };
        self.position += len as u64;
        if len > 0 {
            return Ok(Piece::Data(len));
        }
        let after = self.file.metadata().map_err(|error| self.fail(error))?;
        self.changed = (after.len(), after.mtime(), after.mtime_nsec()) != self.before;
        Ok(Piece::End)
    }

    fn warning(&self) -> Option<String> {
        self.changed.then(|| {
            format!(
                "{} changed while it was being read",
                display_path(self.path.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default())
            )
        })
    }
}
