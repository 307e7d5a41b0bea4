//! A data directory of PostgreSQL that is being created. Its content comes from an untrusted server: every member of
//! its archives is created beneath the folder, through no link, and must be something that a base backup has: files,
//! folders, and the links of `pg_tblspc`. Source: PostgreSQL's documentation, "Streaming Replication Protocol",
//! `BASE_BACKUP`; "Database File Layout".

use engine::restore::target::{Target, split};
use engine::{Error, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Where the links to tablespaces lie.
const SPACES: &str = "pg_tblspc";

/// Whose files are.
pub(super) type Owner = (u32, u32);

/// The folder.
pub(super) struct DataDirectory {
    path: PathBuf,
    root: Target,
    /// Whose the files are, if we can give them away.
    pub(super) owner: Option<Owner>,
    /// The tablespaces that the archives have links for.
    links: BTreeSet<String>,
}

/// The error of a step at a path.
pub(super) fn failed(op: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = engine::shown::path(path);
    move |source| Error::Target { op, path: path.clone(), source }
}

fn malformed(why: String) -> Error {
    Error::Malformed { what: "a base backup".into(), why }
}

/// Makes a folder for nobody but the server, or takes one that is empty.
pub(super) fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed("protect", path))
}

/// Whether nothing is in a folder, or it is not there.
pub(super) fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("read", folder)(error)),
    }
}

/// A member's path as one beneath the folder: no `..`, nothing from the root.
fn beneath(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| *part != b".").collect();
    let is_plain = |part: &&[u8]| !part.is_empty() && **part != b".."[..] && !part.contains(&0);
    parts.iter().all(is_plain).then(|| parts.join(&b'/'))
}

/// Whether a text is the number of a tablespace.
pub(super) fn is_oid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl DataDirectory {
    /// Makes one, or takes an empty folder.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if something is in it.
    pub(super) fn make(path: &Path) -> Result<Self> {
        private_folder(path)?;
        if !is_empty(path)? {
            let shown = engine::shown::path(path);
            return Err(Error::Refused(format!(
                "{shown} is not empty; what is restored goes into an empty folder"
            )));
        }
        Self::open(path)
    }

    /// One that is there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), root: Target::open(path, false)?, owner: None, links: BTreeSet::new() })
    }

    /// An archive's members. Links of tablespaces are noted and not made: they lead to where the server had them.
    pub(super) fn unpack(&mut self, reader: impl Read) -> Result<()> {
        let read = failed("unpack into", &self.path);
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(&read)? {
            let mut entry = entry.map_err(&read)?;
            let name = entry.path_bytes().into_owned();
            let shown = engine::shown::name(&name);
            let path =
                beneath(&name).ok_or_else(|| malformed(format!("'{shown}' leads out of the target")))?;
            let header = entry.header();
            let number = |value: io::Result<u64>| {
                u32::try_from(value.map_err(&read)?)
                    .map_err(|_| malformed(format!("'{shown}' belongs to nobody")))
            };
            let owner = (number(header.uid())?, number(header.gid())?);
            let mode = Mode::from_raw_mode(header.mode().map_err(&read)? & 0o777);
            let seconds = i64::try_from(header.mtime().map_err(&read)?).unwrap_or_default();
            let kind = header.entry_type();
            if rustix::process::geteuid().is_root() {
                self.owner = Some(owner);
            }
            let at = |error: io::Error| match error.kind() {
                io::ErrorKind::AlreadyExists => malformed(format!("'{shown}' comes twice")),
                _ => failed("unpack", &self.path.join(engine::shown::name(&path)))(error),
            };
            if kind.is_dir() {
                self.folder(&path, mode).map_err(at)?;
            } else if kind.is_file() {
                let mut file = self.new_file(&path).map_err(at)?;
                io::copy(&mut entry, &mut file).map_err(&read)?;
                self.finish(&file, mode, Some(seconds)).map_err(at)?;
            } else if let Some(oid) = kind.is_symlink().then(|| space_linked(&path)).flatten() {
                self.links.insert(oid);
            } else {
                return Err(malformed(format!("'{shown}' is nothing that a data directory has")));
            }
        }
        // What fills the last record.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(&read)?;
        Ok(())
    }

    fn folder(&self, path: &[u8], mode: Mode) -> io::Result<()> {
        if path.is_empty() {
            // The folder itself stays closed until all is in it.
            return Ok(());
        }
        match fs::mkdirat(&*self.root.parent(path)?, split(path).1, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let folder = self.root.open_beneath(path, OFlags::DIRECTORY)?;
        self.finish(&folder, mode | Mode::RWXU, None)
    }

    fn new_file(&self, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&*self.root.parent(path)?, split(path).1, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Sets owner, mode and time of an open file.
    fn finish(&self, file: impl AsFd, mode: Mode, mtime: Option<i64>) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fs::fchmod(&file, mode)?;
        if let Some(seconds) = mtime {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        }
        Ok(())
    }

    /// A new file, for nobody but the server.
    pub(super) fn put(&self, path: &str, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let error = |op| failed(op, &self.path.join(path));
        let mut file = self.new_file(path.as_bytes()).map_err(error("make"))?;
        fill(&mut file)?;
        self.finish(&file, Mode::RUSR | Mode::WUSR, None).map_err(error("write"))
    }

    /// A new file with these bytes in the place of what is there.
    pub(super) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.remove(path)?;
        self.put(path, |file| file.write_all(bytes).map_err(failed("write", &self.path.join(path))))
    }

    /// What a file holds; nothing if there is none.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>> {
        let error = failed("read", &self.path.join(path));
        match self.root.open_beneath(path.as_bytes(), OFlags::RDONLY) {
            Ok(file) => {
                let mut bytes = vec![];
                File::from(file).read_to_end(&mut bytes).map_err(&error)?;
                Ok(bytes)
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(source) => Err(error(source)),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        let error = failed("remove", &self.path.join(path));
        let parent = self.root.parent(path.as_bytes()).map_err(&error)?;
        match fs::unlinkat(&*parent, split(path.as_bytes()).1, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error(errno.into())),
        }
    }

    /// Links each tablespace to its folder.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the backup has links to others.
    pub(super) fn link(&self, spaces: &[(String, PathBuf)]) -> Result<()> {
        if let Some(oid) = self.links.iter().find(|oid| spaces.iter().all(|(space, _)| space != *oid)) {
            return Err(malformed(format!("tablespace {oid} is not in it")));
        }
        for (oid, folder) in spaces {
            let place = format!("{SPACES}/{oid}");
            let error = failed("link", &self.path.join(&place));
            let parent = self.root.parent(place.as_bytes()).map_err(&error)?;
            fs::symlinkat(folder, &*parent, oid.as_str()).map_err(|errno| error(errno.into()))?;
            self.give_link(&parent, oid).map_err(&error)?;
        }
        Ok(())
    }

    fn give_link(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives the folder itself away: the last step, since its owner can change what is in it from then on.
    pub(super) fn give(&self) -> Result<()> {
        let root = self.root.open_beneath(b"", OFlags::DIRECTORY).map_err(failed("open", &self.path))?;
        self.finish(root, Mode::RWXU, None).map_err(failed("give away", &self.path))
    }

    /// Gives away the folder and what is in it, which a program of ours made.
    pub(super) fn give_all(&self) -> Result<()> {
        if self.owner.is_some() {
            self.give_beneath(&self.path)?;
        }
        self.give()
    }

    fn give_beneath(&self, folder: &Path) -> Result<()> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        for entry in std::fs::read_dir(folder).map_err(failed("read", folder))? {
            let entry = entry.map_err(failed("read", folder))?;
            if entry.file_type().map_err(failed("read", folder))?.is_dir() {
                self.give_beneath(&entry.path())?;
            }
            std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid))
                .map_err(failed("give away", &entry.path()))?;
        }
        Ok(())
    }
}

/// The tablespace that a link is of.
fn space_linked(path: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(path).ok()?.strip_prefix(SPACES)?.strip_prefix('/')?;
    is_oid(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Is {
        File,
        Folder,
        Link(&'static str),
        Hard(&'static str),
        Pipe,
        Device,
    }

    /// An archive with these members, whose names are written as they are.
    fn archive(members: &[(&str, Is)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (name, is) in members {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let (kind, link, bytes): (_, _, &[u8]) = match is {
                Is::File => (tar::EntryType::Regular, None, b"from the server"),
                Is::Folder => (tar::EntryType::Directory, None, b""),
                Is::Link(to) => (tar::EntryType::Symlink, Some(to), b""),
                Is::Hard(to) => (tar::EntryType::Link, Some(to), b""),
                Is::Pipe => (tar::EntryType::Fifo, None, b""),
                Is::Device => (tar::EntryType::Char, None, b""),
            };
            header.set_entry_type(kind);
            if let Some(to) = link {
                header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
            }
            header.set_mode(0o4755);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            header.set_mtime(1_700_000_000);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names_beneath(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a rogue server sends, each beside a folder with a file that must stay as it is.
    #[test]
    fn nothing_leads_out_of_the_folder() {
        let cases: &[(&[(&str, Is)], &str)] = &[
            (&[("../beside/owned", Is::File)], "leads out"),
            (&[("global/../../beside/owned", Is::File)], "leads out"),
            (&[("/beside/owned", Is::File)], "leads out"),
            (&[("global//x", Is::File)], "leads out"),
            (&[("..", Is::Folder)], "leads out"),
            (&[("backup_manifest", Is::Link("../beside/precious"))], "nothing that"),
            (&[("pg_wal", Is::Link("../beside"))], "nothing that"),
            (&[("pg_wal", Is::Hard("../beside/precious"))], "nothing that"),
            (&[("postgresql.auto.conf", Is::Link("../beside/precious"))], "nothing that"),
            (&[("pg_tblspc", Is::Link("../beside"))], "nothing that"),
            (&[("pg_tblspc/x", Is::Link("../beside"))], "nothing that"),
            (&[("pg_tblspc/1/x", Is::Link("../beside"))], "nothing that"),
            (&[("pg_tblspc/1", Is::Link("../beside")), ("pg_tblspc/1/precious", Is::File)], "is not in it"),
            (&[("global", Is::Pipe)], "nothing that"),
            (&[("global", Is::Device)], "nothing that"),
            (&[("PG_VERSION", Is::File), ("PG_VERSION", Is::File)], "comes twice"),
            (&[("PG_VERSION", Is::Folder), ("PG_VERSION", Is::File)], "comes twice"),
        ];
        for (members, why) in cases {
            let folder = tempfile::tempdir().unwrap();
            let beside = folder.path().join("beside");
            std::fs::create_dir(&beside).unwrap();
            std::fs::write(beside.join("precious"), "precious").unwrap();
            let mut data = DataDirectory::make(&folder.path().join("data")).unwrap();
            let result = data.unpack(&archive(members)[..]).and_then(|()| data.link(&[]));
            let error = result.unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", members[0].0);
            assert_eq!(std::fs::read(beside.join("precious")).unwrap(), b"precious", "{}", members[0].0);
            assert_eq!(names_beneath(&beside), ["precious"]);
            assert_eq!(names_beneath(folder.path()), ["beside", "data"]);
        }
    }

    #[test]
    fn files_are_made_without_bits_that_give_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let mut data = DataDirectory::make(&path).unwrap();
        let members = [("./global/", Is::Folder), ("global/x", Is::File), ("global", Is::Folder)];
        data.unpack(&archive(&members)[..]).unwrap();
        assert_eq!(path.join("global/x").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read(path.join("global/x")).unwrap(), b"from the server");
    }

    /// A link that somebody put there meanwhile is not written through.
    #[test]
    fn links_that_are_there_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataDirectory::make(&path).unwrap();
        let precious = folder.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, path.join("recovery.signal")).unwrap();
        std::os::unix::fs::symlink(folder.path(), path.join("pg_wal")).unwrap();
        assert!(data.put("recovery.signal", |_| Ok(())).is_err());
        assert!(data.put("pg_wal/precious", |_| Ok(())).is_err());
        assert!(data.read("recovery.signal").is_err());
        data.replace("recovery.signal", b"new").unwrap();
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert_eq!(std::fs::read(path.join("recovery.signal")).unwrap(), b"new");
    }
}
