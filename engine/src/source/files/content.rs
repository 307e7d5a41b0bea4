//! The content of a regular file, with its holes, read without leaving a trace where that is allowed.

use super::is_gone;
use super::place::Status;
use super::walk::Found;
use crate::source::{Content, Piece, SourceError, SourceErrorKind};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// Length and time: what changes when a file does.
type Version = (u64, i128);

fn version(status: &Status) -> Version {
    (status.len(), i128::from(status.0.st_mtime) * 1_000_000_000 + i128::from(status.0.st_mtime_nsec))
}

/// A regular file: its data, and its holes as the file system knows them.
pub(super) struct FileContent {
    file: File,
    path: PathBuf,
    position: u64,
    /// End of the stretch of data that is being read; `None` where holes are not looked for.
    data_end: Option<u64>,
    /// Bytes to ask for at once.
    most: usize,
    before: Version,
    changed: bool,
}

/// What is asked for where the kernel refuses more: files beneath `/proc/sys` are filled into one allocation of the size
/// asked for (`ENOMEM` for 4 MiB), others there want a page at most.
const LESS: [usize; 2] = [64 << 10, 4 << 10];

impl FileContent {
    /// Opens what was found, if it is that still: [`SourceErrorKind::Vanished`] or [`SourceErrorKind::Replaced`]
    /// otherwise. What was named does not vanish without a word.
    pub(super) fn open(found: &Found) -> Result<Self, SourceError> {
        let path = found.real.clone();
        let fail = |kind, why: &dyn std::fmt::Display| SourceError::new(kind, crate::shown::path(&path), why);
        let failed = |errno: Errno| {
            let error = std::io::Error::from(errno);
            let kind = match errno {
                // A symbolic link or a socket by now.
                Errno::LOOP | Errno::NXIO | Errno::NODEV => SourceErrorKind::Replaced,
                _ if is_gone(&error) && !found.named => SourceErrorKind::Vanished,
                _ => SourceErrorKind::Item,
            };
            fail(kind, &error)
        };
        let open = |more| found.place.open(OFlags::NONBLOCK | more);
        // Only the owner may read without leaving a trace in the access time.
        let file = open(OFlags::NOATIME).or_else(|_| open(OFlags::empty())).map_err(failed)?;
        let metadata = Status::of(&file).map_err(|error| fail(SourceErrorKind::Item, &error))?;
        let file = File::from(file);
        // Some file systems give a file another inode number each time; then the rest must be the same.
        let looks = |status: &Status| {
            let owner = (status.0.st_mode, status.0.st_uid, status.0.st_gid);
            (status.len(), status.0.st_mtime, status.0.st_mtime_nsec, owner)
        };
        let before = &found.metadata;
        if !metadata.is_file() || (metadata.id() != before.id() && looks(&metadata) != looks(before)) {
            return Err(fail(
                SourceErrorKind::Replaced,
                &"was replaced again and again while it was being backed up",
            ));
        }
        // Fewer blocks than bytes: there are holes, or the file system compresses; asking tells.
        let sparse = u64::try_from(metadata.0.st_blocks).unwrap_or_default() * 512 < metadata.len();
        let before = version(&metadata);
        let data_end = sparse.then_some(0);
        Ok(Self { file, path, position: 0, data_end, most: usize::MAX, before, changed: false })
    }

    /// In a sparse file at the end of a stretch of data: the hole that follows, if any.
    fn next_hole(&mut self) -> Result<Option<u64>, SourceError> {
        if self.data_end != Some(self.position) {
            return Ok(None);
        }
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(self.position)) {
            Ok(data) => data,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => self.file.metadata().map_err(|error| self.fail(error))?.len(),
            Err(Errno::INVAL) => {
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
        SourceError::new(SourceErrorKind::Item, crate::shown::path(&self.path), error)
    }
}

/// Whether a smaller read may succeed.
fn is_about_size(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::INVAL, Errno::NOMEM, Errno::TOOBIG, Errno::OVERFLOW].contains(&errno))
}

impl Content for FileContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        if let Some(hole) = self.next_hole()? {
            return Ok(Piece::Hole(hole));
        }
        let data = match self.data_end {
            Some(end) => usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len()),
            None => buffer.len(),
        };
        let len = loop {
            let most = data.min(self.most);
            match self.file.read(&mut buffer[..most]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => match LESS.iter().find(|less| **less < most && is_about_size(&error)) {
                    Some(less) => self.most = *less,
                    None => return Err(self.fail(error)),
                },
                Ok(len) => break len,
            }
        };
        self.position += len as u64;
        if len > 0 {
            return Ok(Piece::Data(len));
        }
        let after = Status::of(&self.file).map_err(|error| self.fail(error))?;
        self.changed = version(&after) != self.before;
        Ok(Piece::End)
    }

    fn warning(&self) -> Option<String> {
        self.changed.then(|| format!("{} changed while it was being read", crate::shown::path(&self.path)))
    }
}
