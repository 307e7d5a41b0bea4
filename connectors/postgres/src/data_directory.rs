//! A data directory of PostgreSQL that is being created. Its content comes from an untrusted server: every member of
//! its archives is created beneath the folder, through no link, and must be something that a base backup has: files,
//! folders, and the links of `pg_tblspc`. Source: PostgreSQL's documentation, "Streaming Replication Protocol",
//! `BASE_BACKUP`; "Database File Layout".

use engine::restore::target::{Target, split};
use engine::{Error, Result};
use member::SPACES;
pub(super) use member::{Member, What, for_all_members, twice};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FlockOperation, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
pub(super) use surplus::{Expected, Known};

mod member;
mod surplus;

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

/// Makes a folder for nobody but us, which was not there, and those above it.
fn new_folder(path: &Path) -> Result<OwnedFd> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(failed("make", above))?;
    }
    DirBuilder::new().mode(0o700).create(path).map_err(failed("make", path))?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path)(errno.into()))?;
    is_new(&folder).map_err(failed("open", path))?;
    Ok(folder)
}

/// That a folder which was just made is still that one.
fn is_new(folder: &OwnedFd) -> io::Result<()> {
    let is_ours = fs::fstat(folder)?.st_uid == rustix::process::geteuid().as_raw();
    match is_ours && surplus::names(folder)?.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other("somebody exchanged it while it was being made")),
    }
}

/// Whether a text is the number of a tablespace.
pub(super) fn is_oid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl DataDirectory {
    /// Makes one that is not there.
    pub(super) fn make(path: &Path) -> Result<Self> {
        Ok(Self::of(path, new_folder(path)?))
    }

    /// Makes one in another.
    pub(super) fn make_in(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let made = self.root.open_beneath(b"", OFlags::DIRECTORY).and_then(|root| {
            fs::mkdirat(&root, name, Mode::RWXU)?;
            let folder = self.root.open_beneath(name.as_bytes(), OFlags::DIRECTORY)?;
            is_new(&folder).map(|()| folder)
        });
        made.map(|folder| Self::of(&path, folder)).map_err(failed("make", &path))
    }

    /// An open folder.
    pub(super) fn of(path: &Path, root: OwnedFd) -> Self {
        Self { path: path.into(), root: Target::of(root), owner: None, links: BTreeSet::new() }
    }

    /// One that is there; `None` if nothing is.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(Self::of(path, folder))),
            Err(Errno::NOENT) if path.symlink_metadata().is_err() => Ok(None),
            Err(errno) => Err(failed("open", path)(errno.into())),
        }
    }

    /// Another handle on the folder.
    pub(super) fn handle(&self) -> Result<OwnedFd> {
        self.root.open_beneath(b"", OFlags::DIRECTORY).map_err(failed("open", &self.path))
    }

    /// The same folder again.
    pub(super) fn again(&self) -> Result<Self> {
        Ok(Self { owner: self.owner, ..Self::of(&self.path, self.handle()?) })
    }

    /// Whether nothing is in it but what file systems have in their root.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let names = surplus::names(&self.handle()?).map_err(failed("read", &self.path))?;
        Ok(names.iter().all(|(name, _)| name == surplus::OF_FILE_SYSTEM))
    }

    /// Keeps other restores out as long as what is returned is there.
    ///
    /// # Errors
    /// [`Error::Refused`] if another one is at work.
    pub(super) fn lock(&self) -> Result<OwnedFd> {
        let handle = self.handle()?;
        match fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            // Some file systems have no locks.
            Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS) => Ok(handle),
            Err(Errno::AGAIN) => Err(Error::Refused(format!(
                "another restore writes into {}",
                engine::shown::path(&self.path)
            ))),
            Err(errno) => Err(failed("lock", &self.path)(errno.into())),
        }
    }

    /// Keeps its owner out until it is given away.
    pub(super) fn take(&self) -> Result<()> {
        let handle = self.handle()?;
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        settle(&handle, uid.is_root().then(|| (uid.as_raw(), gid.as_raw())), Mode::RWXU)
            .map_err(failed("take", &self.path))
    }

    /// Gives a file another name in the same folder; `false` if it is not there.
    pub(super) fn rename(&self, folder: &str, from: &str, to: &str) -> Result<bool> {
        let error = failed("rename", &self.path.join(folder).join(from));
        let above = match self.root.open_beneath(folder.as_bytes(), OFlags::DIRECTORY) {
            Ok(above) => above,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(error(source)),
        };
        match fs::renameat(&above, from, &above, to) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(error(errno.into())),
        }
    }

    /// Makes a member that is a folder; notes a link to a tablespace, which leads to where the server had it.
    pub(super) fn begin(&mut self, member: &Member) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            self.owner = Some(member.owner);
        }
        match &member.what {
            What::Folder => self.folder(&member.path, member.mode).map_err(self.at(member)),
            What::File { .. } => Ok(()),
            What::Space(oid) => {
                self.links.insert(oid.clone());
                Ok(())
            }
        }
    }

    /// A new file for a member.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is one.
    pub(super) fn new_member(&self, member: &Member) -> Result<File> {
        self.new_file(&member.path).map_err(self.at(member))
    }

    /// The error of a member.
    pub(super) fn at(&self, member: &Member) -> impl Fn(io::Error) -> Error + use<> {
        let shown = engine::shown::name(&member.path);
        let failed = failed("unpack", &self.shown(&member.path));
        move |error| match error.kind() {
            io::ErrorKind::AlreadyExists => malformed(format!("'{shown}' comes twice")),
            _ => match error.downcast::<Error>() {
                Ok(error) => error,
                Err(error) => failed(error),
            },
        }
    }

    /// Waits until all that was written to its file system is on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        let root = self.root.open_beneath(b"", OFlags::DIRECTORY);
        let done = root.and_then(|root| Ok(fs::syncfs(root)?));
        done.map_err(failed("write", &self.path))
    }

    /// A path in it, for people.
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    /// The regular file at a path that has no other name, to be read and written.
    pub(super) fn old_file(&self, path: &[u8]) -> Option<File> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK;
        let file = File::from(self.root.open_beneath(path, flags).ok()?);
        let metadata = file.metadata().ok()?;
        (metadata.is_file() && metadata.nlink() == 1).then_some(file)
    }

    /// A new file in the place of whatever is there.
    pub(super) fn fresh_file(&self, member: &Member) -> Result<File> {
        self.remove_all(&member.path)?;
        self.new_member(member)
    }

    /// Owner, mode and time of a file that has all of its bytes.
    pub(super) fn finish_member(&self, file: &File, member: &Member) -> Result<()> {
        let owner = rustix::process::geteuid().is_root().then_some(member.owner);
        let time = Timespec { tv_sec: member.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let done = settle(file, owner, member.mode).and_then(|()| Ok(fs::futimens(file, &times)?));
        done.map_err(self.at(member))
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
        self.finish(&folder, mode | Mode::RWXU)
    }

    fn new_file(&self, path: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&*self.root.parent(path)?, split(path).1, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Sets owner and mode of an open file.
    fn finish(&self, file: impl AsFd, mode: Mode) -> io::Result<()> {
        settle(file, self.owner, mode)
    }

    /// A new file, for nobody but the server.
    pub(super) fn put(&self, path: &str, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let error = |op| failed(op, &self.path.join(path));
        let mut file = self.new_file(path.as_bytes()).map_err(error("make"))?;
        fill(&mut file)?;
        self.finish(&file, Mode::RUSR | Mode::WUSR).map_err(error("write"))
    }

    /// A new file with these bytes in the place of what is there.
    pub(super) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.remove(path)?;
        self.put(path, |file| file.write_all(bytes).map_err(failed("write", &self.path.join(path))))
    }

    /// What a file holds; nothing if there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is no file, or longer than `most` bytes.
    pub(super) fn read(&self, path: &str, most: u64) -> Result<Vec<u8>> {
        let shown = self.path.join(path);
        let error = failed("read", &shown);
        let file = match self.root.open_beneath(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(error(source)),
        };
        let metadata = file.metadata().map_err(&error)?;
        if !metadata.is_file() || metadata.len() > most {
            let shown = engine::shown::path(&shown);
            return Err(Error::Refused(format!("{shown} is not the file that a server or a restore writes")));
        }
        let mut bytes = vec![];
        file.take(most).read_to_end(&mut bytes).map_err(&error)?;
        Ok(bytes)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file is one that we made.
    pub(super) fn is_own(&self, path: &str) -> bool {
        let uid = rustix::process::geteuid().as_raw();
        self.root.stat(path.as_bytes()).is_some_and(|stat| stat.st_uid == uid)
    }

    /// Whether anything has a name.
    pub(super) fn has(&self, path: &str) -> bool {
        self.root.stat(path.as_bytes()).is_some()
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
        self.finish(root, Mode::RWXU).map_err(failed("give away", &self.path))
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

/// Sets owner and mode.
fn settle(file: impl AsFd, owner: Option<Owner>, mode: Mode) -> io::Result<()> {
    if let Some((uid, gid)) = owner {
        fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(fs::fchmod(&file, mode)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

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

    /// All members of an archive into the folder.
    fn unpack(data: &mut DataDirectory, bytes: &[u8]) -> Result<()> {
        let path = data.path.clone();
        for_all_members(io::Cursor::new(bytes), &path, &mut |member, content| {
            data.begin(&member)?;
            if !matches!(member.what, What::File { .. }) {
                return Ok(());
            }
            let mut file = data.new_member(&member)?;
            io::copy(content, &mut file).unwrap();
            data.finish_member(&file, &member)
        })
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
            let result = unpack(&mut data, &archive(members)).and_then(|()| data.link(&[]));
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
        unpack(&mut data, &archive(&members)).unwrap();
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
        assert!(data.read("recovery.signal", 99).is_err());
        data.replace("recovery.signal", b"new").unwrap();
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert_eq!(std::fs::read(path.join("recovery.signal")).unwrap(), b"new");
    }
}
