//! One named thing in a snapshot, and its encoding in a manifest.

use chunkstore::format::{Decoder, Encoder, Malformed};
use std::cmp::Ordering;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes: a regular file or a stream.
    File = 1,
    /// A directory.
    Dir = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A character device.
    CharDevice = 5,
    /// A block device.
    BlockDevice = 6,
    /// A socket; recorded, never restored.
    Socket = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::CharDevice,
            6 => Self::BlockDevice,
            7 => Self::Socket,
            _ => return None,
        })
    }

    /// restic's name for it in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::CharDevice => "chardev",
            Self::BlockDevice => "dev",
            Self::Socket => "socket",
        }
    }
}

/// A point in time: seconds since the Unix epoch, and nanoseconds below a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// An entry's metadata. Access times are left out: reading changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading slash, components separated by `/`; any bytes but NUL.
    pub path: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, if known.
    pub user: Vec<u8>,
    /// Group's name, if known.
    pub group: Vec<u8>,
    /// Content changed.
    pub mtime: Time,
    /// Metadata changed.
    pub ctime: Time,
    /// Size in bytes when the entry was listed; 0 for streams, whose size is known at their end.
    pub size: u64,
    /// Device number.
    pub device: u64,
    /// Inode there.
    pub inode: u64,
    /// Names of that inode; above 1, entries of equal device and inode are hard links.
    pub links: u64,
    /// Device number of a device.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes, POSIX ACLs among them, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Longest path and longest value of an attribute that Linux allows, with room.
const MAX_PATH: usize = 64 << 10;
const MAX_XATTR: usize = 128 << 10;
const MAX_XATTRS: u32 = 4096;

impl Entry {
    /// A stream that has no file behind it.
    #[must_use]
    pub fn stream(path: impl Into<Vec<u8>>, time: Time) -> Self {
        Self {
            path: path.into(),
            kind: Kind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: vec![],
            group: vec![],
            mtime: time,
            ctime: time,
            size: 0,
            device: 0,
            inode: 0,
            links: 1,
            rdev: 0,
            target: vec![],
            xattrs: vec![],
        }
    }

    /// A directory above streams.
    #[must_use]
    pub fn folder(path: impl Into<Vec<u8>>, time: Time) -> Self {
        Self { kind: Kind::Dir, mode: 0o700, ..Self::stream(path, time) }
    }

    /// The path for people; see [`display_path`].
    #[must_use]
    pub fn display_path(&self) -> String {
        display_path(&self.path)
    }

    /// Last component of the path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Whether nothing but time of access can have changed since `older`.
    #[must_use]
    pub fn same_metadata(&self, older: &Self) -> bool {
        Self { ctime: older.ctime, size: older.size, ..self.clone() } == *older
    }

    /// Whether a reader accepts it: entries that [`Entry::decode`] refuses must not be written.
    pub fn check(&self) -> Result<(), &'static str> {
        if [self.mtime, self.ctime].iter().any(|time| time.nanoseconds > 999_999_999) {
            return Err("nanoseconds over a second");
        }
        if !is_valid_path(&self.path) {
            return Err("not a path beneath the root");
        }
        if [&self.path, &self.user, &self.group, &self.target].iter().any(|field| field.len() > MAX_PATH) {
            return Err("a path, an owner's name or a link's target is too long");
        }
        if self.xattrs.len() > MAX_XATTRS as usize {
            return Err("too many attributes");
        }
        if self.xattrs.iter().any(|(name, value)| name.len() > MAX_PATH || value.len() > MAX_XATTR) {
            return Err("an attribute is too long");
        }
        Ok(())
    }

    /// Appends the record's body.
    pub fn encode(&self, out: &mut Encoder) {
        out.u8(self.kind as u8).u32(self.mode).u32(self.uid).u32(self.gid);
        for time in [self.mtime, self.ctime] {
            out.i64(time.seconds).u32(time.nanoseconds);
        }
        out.u64(self.size).u64(self.device).u64(self.inode).u64(self.links).u64(self.rdev);
        out.var(&self.path).var(&self.user).var(&self.group).var(&self.target);
        out.u32(u32::try_from(self.xattrs.len()).unwrap_or(u32::MAX));
        for (name, value) in &self.xattrs {
            out.var(name).var(value);
        }
    }

    /// Reads a record's body and refuses invalid paths.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let kind =
            Kind::from_byte(decoder.u8()?).ok_or_else(|| decoder.malformed("unknown kind of entry"))?;
        let (mode, uid, gid) = (decoder.u32()?, decoder.u32()?, decoder.u32()?);
        let mut time = || -> Result<Time, Malformed> {
            let time = Time { seconds: decoder.i64()?, nanoseconds: decoder.u32()? };
            if time.nanoseconds > 999_999_999 {
                return Err(decoder.malformed("nanoseconds over a second"));
            }
            Ok(time)
        };
        let (mtime, ctime) = (time()?, time()?);
        let (size, device, inode) = (decoder.u64()?, decoder.u64()?, decoder.u64()?);
        let (links, rdev) = (decoder.u64()?, decoder.u64()?);
        let path = decoder.var(MAX_PATH)?.to_vec();
        if !is_valid_path(&path) {
            return Err(decoder.malformed("not a path beneath the root"));
        }
        let (user, group) = (decoder.var(MAX_PATH)?.to_vec(), decoder.var(MAX_PATH)?.to_vec());
        let target = decoder.var(MAX_PATH)?.to_vec();
        let count = decoder.u32()?;
        if count > MAX_XATTRS {
            return Err(decoder.malformed("too many attributes"));
        }
        let mut xattrs = vec![];
        for _ in 0..count {
            xattrs.push((decoder.var(MAX_PATH)?.to_vec(), decoder.var(MAX_XATTR)?.to_vec()));
        }
        Ok(Self {
            path,
            kind,
            mode,
            uid,
            gid,
            user,
            group,
            mtime,
            ctime,
            size,
            device,
            inode,
            links,
            rdev,
            target,
            xattrs,
        })
    }
}

/// Whether a path is relative, normal and free of NUL: no empty, `.` or `..` component.
#[must_use]
pub fn is_valid_path(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A path for people, with a leading slash; see [`crate::shown::name`].
#[must_use]
pub fn display_path(path: &[u8]) -> String {
    crate::shown::name(&rooted(path))
}

/// A path with a leading slash.
#[must_use]
pub fn rooted(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// The order of manifests: component by component, so that a directory's content follows it.
#[must_use]
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is `folder` or beneath it; every path is beneath the empty path.
#[must_use]
pub fn is_beneath(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty()
        || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keeps_directories_together() {
        let mut paths = vec!["a.txt", "a", "b", "a/z", "a/b/c", "a-b"];
        paths.sort_by(|a, b| compare_paths(a.as_bytes(), b.as_bytes()));
        assert_eq!(paths, ["a", "a/b/c", "a/z", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "a\0b"] {
            assert!(!is_valid_path(path.as_bytes()), "{path:?}");
            let mut out = Encoder::default();
            let entry = Entry::stream(path, Time::default());
            assert!(entry.check().is_err(), "{path:?}");
            entry.encode(&mut out);
            assert!(Entry::decode(&mut Decoder::new(&out.bytes, "entry")).is_err());
        }
        assert!(is_valid_path(b"a/..b/...") && is_valid_path(b"\xff\xfe"));
    }

    #[test]
    fn round_trip() {
        let entry = Entry {
            xattrs: vec![
                (b"user.x".to_vec(), vec![0, 1]),
                (b"system.posix_acl_access".to_vec(), vec![2; 44]),
            ],
            mtime: Time { seconds: -5, nanoseconds: 999_999_999 },
            ..Entry::stream("a/\u{fc}", Time::default())
        };
        let mut out = Encoder::default();
        assert_eq!(entry.check(), Ok(()));
        entry.encode(&mut out);
        assert_eq!(Entry::decode(&mut Decoder::new(&out.bytes, "entry")).unwrap(), entry);
        for len in 0..out.bytes.len() {
            assert!(Entry::decode(&mut Decoder::new(&out.bytes[..len], "entry")).is_err());
        }
    }
}
