//! Files and folders that only the user can access, whatever the umask: caches, indexes, spill files and notes. Their
//! content reveals much about the data, and another writer could stop a backup or mislead it.

use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Mode of folders.
pub const FOLDER: u32 = 0o700;
/// Mode of files.
pub const FILE: u32 = 0o600;

/// Makes a folder and its missing parents. An existing one of ours is closed to others.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)?;
    close(path, FOLDER)
}

/// Opens a file for reading. What is no file, such as a pipe that nobody writes to, is an error and is not waited for;
/// symbolic links are not followed.
pub fn read(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no file")),
    }
}

/// Opens a file for writing, and creates it if necessary; existing content stays. Symbolic links are not followed.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if is_open(&metadata) {
        file.set_permissions(Permissions::from_mode(FILE))?;
    }
    Ok(file)
}

/// Makes a file for reading and writing. Whatever has its name already, also a link, is an error.
pub fn new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// One for writing that may be there, emptied.
pub fn create(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Writes a file.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Writes a file, and has it on disk when it returns.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file, which is the old one or the new one whatever happens; `random` makes the name of the new one unique.
///
/// # Errors
/// What failed; then nothing was replaced.
pub fn replace_durably(path: &Path, bytes: &[u8], random: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("{random}.new"));
    let done = write_durably(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()));
    if done.is_err() {
        let _ = fs::remove_file(&beside);
    }
    done
}

/// Closes a folder of ours to others, and everything beneath it, as far as that can be done: a library wrote it, by the
/// umask.
pub fn close_all(path: &Path) {
    let _ = close(path, FOLDER);
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => close_all(&path),
            Ok(kind) if kind.is_file() => {
                let _ = close(&path, FILE);
            }
            _ => {}
        }
    }
}

fn is_open(metadata: &fs::Metadata) -> bool {
    metadata.mode() & 0o077 != 0 && metadata.uid() == rustix::process::geteuid().as_raw()
}

fn close(path: &Path, mode: u32) -> io::Result<()> {
    if is_open(&fs::metadata(path)?) {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_in() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let inner = folder.path().join("a/b");
        super::folder(&inner).unwrap();
        assert_eq!((mode(&inner), mode(inner.parent().unwrap())), (0o700, 0o700));
        let file = inner.join("file");
        write(&file, b"first").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        drop(open(&file).unwrap());
        super::folder(&inner).unwrap();
        assert_eq!((mode(&file), mode(&inner), fs::read(&file).unwrap()), (0o600, 0o700, b"first".to_vec()));
        fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        close_all(folder.path());
        assert_eq!(mode(&file), 0o600);
        std::os::unix::fs::symlink(&file, inner.join("link")).unwrap();
        assert!(
            create(&inner.join("link")).is_err() && new(&inner.join("link")).is_err() && new(&file).is_err()
        );
        std::os::unix::fs::symlink(inner.join("nothing"), inner.join("loose")).unwrap();
        assert!(new(&inner.join("loose")).is_err() && !inner.join("nothing").exists());
        drop(new(&inner.join("new")).unwrap());
        assert_eq!(mode(&inner.join("new")), 0o600);
        assert_eq!(fs::read(&file).unwrap(), b"first");
        assert!(read(&inner.join("link")).is_err() && read(&inner).is_err() && read(&file).is_ok());
        let pipe = inner.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        assert!(read(&pipe).is_err());
    }
}
