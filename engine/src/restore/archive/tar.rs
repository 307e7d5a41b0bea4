//! Tar: a ustar header for each entry, and before it a pax header (POSIX.1-2001) with what that cannot hold. Attributes stand
//! under `SCHILY.xattr.`, where GNU tar, bsdtar and star read them.

use super::Archive;
use crate::entry::{Entry, Kind};
use ::tar::{EntryType, Header};
use std::io::{self, Write};

/// Longest name that is put into a ustar header: its first field.
const SHORT: usize = 100;
/// Largest number of seven octal digits: owners above stand in the pax header.
const MAX_OWNER: u32 = 0o777_7777;
/// Largest size and time of eleven octal digits.
const MAX_LONG: u64 = 0o777_7777_7777;
const BLOCK: u64 = 512;

pub(super) struct Tar<'a> {
    out: &'a mut dyn Write,
    /// Bytes of content that the current entry has.
    written: u64,
}

impl<'a> Tar<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, written: 0 }
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = (BLOCK - self.written % BLOCK) % BLOCK;
        let zeros = [0; BLOCK as usize];
        self.written = 0;
        self.out.write_all(&zeros[..usize::try_from(rest).unwrap_or_default()])
    }

    /// Writes a pax header, if there is anything in it.
    fn extended(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(records)?;
        self.written = records.len() as u64;
        self.pad()
    }
}

/// Adds `LEN KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Puts text into a field of a header, or into the pax header if it does not fit.
fn put(field: &mut [u8], text: &[u8], key: &[u8], records: &mut Vec<u8>) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
    if text.len() > SHORT.min(field.len()) || !text.is_ascii() {
        record(records, key, text);
    }
}

impl Archive for Tar<'_> {
    fn begin(&mut self, path: &[u8], entry: &Entry, size: u64) -> io::Result<bool> {
        let kind = match entry.kind {
            Kind::File => EntryType::Regular,
            Kind::Dir => EntryType::Directory,
            Kind::Symlink => EntryType::Symlink,
            Kind::Fifo => EntryType::Fifo,
            Kind::CharDevice => EntryType::Char,
            Kind::BlockDevice => EntryType::Block,
            Kind::Socket => return Ok(false),
        };
        let mut records = vec![];
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(entry.mode & 0o7777);
        header.set_size(size.min(MAX_LONG));
        if size > MAX_LONG {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        let seconds = u64::try_from(entry.mtime.seconds).unwrap_or_default().min(MAX_LONG);
        header.set_mtime(seconds);
        if entry.mtime.nanoseconds > 0 || i64::try_from(seconds) != Ok(entry.mtime.seconds) {
            // A fraction counts away from zero in a decimal number.
            let total = i128::from(entry.mtime.seconds) * 1_000_000_000 + i128::from(entry.mtime.nanoseconds);
            let sign = if total < 0 { "-" } else { "" };
            let total = total.unsigned_abs();
            let text = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
            record(&mut records, b"mtime", text.as_bytes());
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > MAX_OWNER {
                record(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        header.set_uid(u64::from(entry.uid.min(MAX_OWNER)));
        header.set_gid(u64::from(entry.gid.min(MAX_OWNER)));
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            header.set_device_major(rustix::fs::major(entry.rdev))?;
            header.set_device_minor(rustix::fs::minor(entry.rdev))?;
        }
        let mut name = path.to_vec();
        if entry.kind == Kind::Dir {
            name.push(b'/');
        }
        let raw = header.as_ustar_mut().ok_or_else(|| io::Error::other("no ustar header"))?;
        put(&mut raw.name, &name, b"path", &mut records);
        put(&mut raw.linkname, &entry.target, b"linkpath", &mut records);
        // One byte less than the field: it ends with a NUL.
        put(&mut raw.uname[..31], &entry.user, b"uname", &mut records);
        put(&mut raw.gname[..31], &entry.group, b"gname", &mut records);
        for (name, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        header.set_cksum();
        self.extended(&records)?;
        self.out.write_all(header.as_bytes())?;
        self.written = 0;
        Ok(true)
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(&mut self) -> io::Result<()> {
        self.pad()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()
    }
}
