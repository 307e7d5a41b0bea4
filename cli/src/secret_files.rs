//! Files with new secrets: made, never written over, for the user alone, on disk before a key slot is listed that they open,
//! and removed if none is.

use crate::exit::Failure;
use chunkstore::ObjectId;
use chunkstore::keys::RawKey;
use engine::shown;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A file with a secret. Dropped before it was settled, it is removed.
pub(crate) struct SecretFile(Option<PathBuf>);

impl Drop for SecretFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl SecretFile {
    /// Writes a new file.
    pub(crate) fn write(path: &Path, text: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(format!(
                "{} exists, and may have a secret that is still needed: name another file",
                shown::path(path)
            )),
            _ => Failure::new(format!("cannot write {}: {error}", shown::path(path))),
        };
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = open.map_err(failed)?;
        let made = Self(Some(path.to_owned()));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
        folder.map_err(failed)?;
        Ok(made)
    }

    /// Writes a key file.
    pub(crate) fn of_key(path: &Path, key: &RawKey) -> Result<Self, Failure> {
        let line = key.text().line();
        let text = Zeroizing::new(format!(
            "# A key of an esker repository: whoever has it can open the repository. 'esker --key-file' reads it.\n{}\n",
            *line
        ));
        Self::write(path, &text)
    }

    /// Keeps the file.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }

    /// Keeps files if the slot that they open was made, or may have been; otherwise they are removed.
    pub(crate) fn settle_all(
        files: Vec<Self>,
        slot: Result<ObjectId, (Failure, bool)>,
    ) -> Result<ObjectId, Failure> {
        match slot {
            Ok(slot) => {
                files.into_iter().for_each(Self::keep);
                Ok(slot)
            }
            Err((failure, false)) => Err(failure),
            Err((failure, true)) if files.is_empty() => Err(failure),
            Err((failure, true)) => {
                let names: Vec<String> =
                    files.iter().filter_map(|file| file.0.as_deref()).map(shown::path).collect();
                files.into_iter().for_each(Self::keep);
                let message = format!(
                    "{}; a key slot may have been made all the same, so {} was kept: try whether it opens the repository",
                    failure.message,
                    names.join(", ")
                );
                Err(Failure { message, ..failure })
            }
        }
    }
}
