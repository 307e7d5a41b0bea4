//! Metadata that lstat(2) does not return: extended attributes, and the names of owners.

use rustix::io::Errno;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// An attribute: name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// All extended attributes of a path, ACLs among them, in order of name, as far as they can be read, and what could
/// not. A file system without any has none.
pub(super) fn read_xattrs(path: &Path) -> (Vec<Attribute>, Vec<String>) {
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        // Gone meanwhile: what it has is not asked any more.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOENT | Errno::NOTDIR) => return (vec![], vec![]),
        Err(error) => {
            let why = std::io::Error::from(error);
            return (
                vec![],
                vec![format!("saved without its extended attributes, which cannot be read: {why}")],
            );
        }
    };
    let (mut xattrs, mut failures) = (vec![], vec![]);
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(len) => xattrs.push((name.to_vec(), value[..len].to_vec())),
            Err(Errno::NODATA | Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => failures.push(format!(
                "saved without its attribute {}, which cannot be read: {}",
                String::from_utf8_lossy(name),
                std::io::Error::from(error)
            )),
        }
    }
    xattrs.sort();
    (xattrs, failures)
}

/// Names of users and groups, from /etc/passwd and /etc/group. Directory services are not asked; the
/// numbers are kept in any case.
#[derive(Default)]
pub(super) struct Names {
    users: Option<HashMap<u32, Vec<u8>>>,
    groups: Option<HashMap<u32, Vec<u8>>>,
}

impl Names {
    pub(super) fn user(&mut self, id: u32) -> Vec<u8> {
        let table = self.users.get_or_insert_with(|| read_ids("/etc/passwd"));
        table.get(&id).cloned().unwrap_or_default()
    }
    pub(super) fn group(&mut self, id: u32) -> Vec<u8> {
        let table = self.groups.get_or_insert_with(|| read_ids("/etc/group"));
        table.get(&id).cloned().unwrap_or_default()
    }
}

fn read_ids(path: &str) -> HashMap<u32, Vec<u8>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            Some((id.parse().ok()?, name.as_bytes().to_vec()))
        })
        .collect()
}
