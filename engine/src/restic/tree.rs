//! Folders of a snapshot of restic, and what is in them, as entries.
//!
//! Source: restic, `doc/design.rst`, "Trees and Data"; `internal/data/node.go` for what that leaves open: names are quoted
//! as Go quotes strings, modes are those of Go's `os.FileMode`.

use super::repository::Id;
use crate::entry::{Entry, Kind, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A folder.
#[derive(Deserialize)]
pub struct Tree {
    /// What is in it.
    #[serde(default)]
    pub nodes: Option<Vec<Node>>,
}

/// Something in a folder.
#[derive(Clone, Deserialize)]
pub struct Node {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    mode: u32,
    mtime: Option<jiff::Timestamp>,
    ctime: Option<jiff::Timestamp>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    user: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    linktarget: String,
    #[serde(default)]
    linktarget_raw: Option<String>,
    #[serde(default)]
    extended_attributes: Option<Vec<Attribute>>,
    /// Of Windows: creation time, flags, security descriptors.
    #[serde(default)]
    generic_attributes: Option<serde_json::Value>,
    #[serde(default)]
    device: u64,
    /// Of a file: the blobs of its content, in order.
    #[serde(default)]
    pub content: Option<Vec<Id>>,
    /// Of a folder: what is in it.
    #[serde(default)]
    pub subtree: Option<Id>,
}

#[derive(Clone, Deserialize)]
struct Attribute {
    name: String,
    #[serde(default)]
    value: Option<String>,
}

/// Bits of Go's `os.FileMode` and those of chmod(2).
const MODE_BITS: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];

impl Node {
    /// Its name, as bytes; `None` if it is not quoted as Go does.
    #[must_use]
    pub fn name(&self) -> Option<Vec<u8>> {
        unquote(&self.name)
    }

    /// What it is; `None` for what restic calls irregular, and for what later versions may know.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Some(match self.kind.as_str() {
            "file" => Kind::File,
            "dir" => Kind::Dir,
            "symlink" => Kind::Symlink,
            "fifo" => Kind::Fifo,
            "chardev" => Kind::CharDevice,
            "dev" => Kind::BlockDevice,
            "socket" => Kind::Socket,
            _ => return None,
        })
    }

    /// restic's word for what it is.
    #[must_use]
    pub fn word(&self) -> &str {
        &self.kind
    }

    /// Whether it has attributes of Windows, which an entry cannot hold.
    #[must_use]
    pub fn has_windows_attributes(&self) -> bool {
        self.generic_attributes.as_ref().is_some_and(|value| !value.is_null())
    }

    /// As an entry of this path.
    ///
    /// # Errors
    /// If an attribute, a link's target or the whole of it could not be read again.
    pub fn entry(&self, path: Vec<u8>, kind: Kind) -> Result<Entry, String> {
        let time = |time: Option<jiff::Timestamp>| {
            // Before 1970 jiff counts a fraction backwards, the kernel forwards.
            let nanoseconds = time.unwrap_or_default().as_nanosecond();
            let seconds = nanoseconds.div_euclid(1_000_000_000);
            Time {
                seconds: i64::try_from(seconds).unwrap_or_default(),
                nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default(),
            }
        };
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| error.to_string());
        let target = match (&self.linktarget_raw, kind) {
            (_, kind) if kind != Kind::Symlink => vec![],
            (Some(raw), _) => decode(raw)?,
            (None, _) => self.linktarget.clone().into_bytes(),
        };
        let mut xattrs = vec![];
        for attribute in self.extended_attributes.iter().flatten() {
            let value = attribute.value.as_deref().map(decode).transpose()?.unwrap_or_default();
            xattrs.push((attribute.name.clone().into_bytes(), value));
        }
        xattrs.sort();
        let special = MODE_BITS.iter().filter(|(go, _)| self.mode & go != 0);
        let entry = Entry {
            path,
            kind,
            mode: special.fold(self.mode & 0o777, |mode, (_, bit)| mode | bit),
            uid: self.uid,
            gid: self.gid,
            user: self.user.clone().into_bytes(),
            group: self.group.clone().into_bytes(),
            mtime: time(self.mtime),
            ctime: time(self.ctime),
            size: if kind == Kind::File { self.size } else { 0 },
            device: self.device_id,
            inode: self.inode,
            links: self.links.max(1),
            rdev: self.device,
            target,
            xattrs,
        };
        entry.check()?;
        Ok(entry)
    }
}

/// Undoes Go's `strconv.Quote`, without its quotes: `\xff` is a byte that is not UTF-8, `\u200b` what does not print.
fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let letter = after.chars().next()?;
        let (digits, from) = match letter {
            'x' => (2, 1),
            'u' => (4, 1),
            'U' => (8, 1),
            '0'..='7' => (3, 0),
            _ => (0, 1),
        };
        let number = after.get(from..from + digits)?;
        match letter {
            'x' => out.push(u8::from_str_radix(number, 16).ok()?),
            '0'..='7' => out.push(u8::from_str_radix(number, 8).ok()?),
            'u' | 'U' => {
                let letter = char::from_u32(u32::from_str_radix(number, 16).ok()?)?;
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            '\\' | '"' | '\'' => out.push(u8::try_from(letter).ok()?),
            _ => return None,
        }
        rest = after.get(from + digits..)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_go_quoted() {
        for (quoted, name) in [
            ("plain", &b"plain"[..]),
            ("", b""),
            (r"a\xffb", b"a\xffb"),
            (r"\\x41", b"\\x41"),
            (r"tab\t line\n bell\a \v\f\r\b", b"tab\t line\n bell\x07 \x0b\x0c\r\x08"),
            (r#"\"q\" \'"#, b"\"q\" '"),
            (r"\u200b\U0001f600\101", "\u{200b}\u{1f600}A".as_bytes()),
            ("ümlaut", "ümlaut".as_bytes()),
        ] {
            assert_eq!(unquote(quoted).as_deref(), Some(name), "{quoted}");
        }
        for broken in [r"\", r"\x", r"\x4", r"\xgg", r"\u12", r"\ud800", r"\q", r"\777", r"\xé"] {
            assert_eq!(unquote(broken), None, "{broken}");
        }
    }

    #[test]
    fn times_before_1970_count_forwards() {
        let node: Node = serde_json::from_str(
            r#"{"name":"a","type":"file","mode":2147484141,"mtime":"1969-12-31T23:59:58.25Z","size":3}"#,
        )
        .unwrap();
        let entry = node.entry(b"a".to_vec(), Kind::File).unwrap();
        assert_eq!(entry.mtime, Time { seconds: -2, nanoseconds: 250_000_000 });
        assert_eq!((entry.mode, entry.size, entry.links), (0o755, 3, 1));
    }
}
