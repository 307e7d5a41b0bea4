//! The user that scratch servers run as where root drills.

use engine::{Error, Result};
use rustix::process::geteuid;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The users whom servers run as where root starts them.
const DRILL: &str = "esker-drill";
const NOBODY: &str = "nobody";
/// The user and group that Linux itself takes for nobody (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65_534;

/// A user that servers run as: number, and that of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The one of scratch servers: `esker-drill` if there is one, else nobody; `None` if this is not root. Never the user of a server
    /// that may be in use: code of a dump runs as its server, and would have that one's files, and its logins by the name of the
    /// user.
    #[must_use]
    pub fn of_servers() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let all = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = [DRILL, NOBODY].iter().find_map(|name| Self::named(name, &all));
        Some(found.unwrap_or(Self { uid: OVERFLOW, gid: OVERFLOW }))
    }

    /// A line of `passwd(5)`, unless it is another name of root.
    fn named(name: &str, all: &str) -> Option<Self> {
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        let user = Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? };
        (user.uid != 0).then_some(user)
    }

    /// Gives it a folder, with `inside` of it, which go first: once the folder is another user's, a name in it may mean
    /// anything. A link is given, not what it leads to.
    ///
    /// # Errors
    /// Of the system.
    pub fn give(self, folder: &Path, inside: &[&Path]) -> Result<()> {
        for path in inside.iter().chain([&folder]) {
            let given = lchown(path, Some(self.uid), Some(self.gid));
            given.map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Has a program run as it, without any other group.
    pub fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Its number.
    pub(super) fn uid(self) -> u32 {
        self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_line_and_never_root() {
        let all = "root:x:0:0::/root:/bin/sh\nesker-drills:x:7:7:::\nnobody:x:65534:65533:n:/:/x\nesker-drill:x:0:0:::\n";
        assert_eq!(User::named("nobody", all), Some(User { uid: 65_534, gid: 65_533 }));
        assert_eq!((User::named("esker-drill", all), User::named("none", all)), (None, None));
    }

    #[test]
    fn a_link_is_given_and_not_what_it_leads_to() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (room, precious) = (folder.path().join("room"), folder.path().join("precious"));
        std::fs::create_dir(&room).unwrap();
        std::fs::write(&precious, b"").unwrap();
        let link = room.join("accounts");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        let user = User { uid: OVERFLOW, gid: OVERFLOW };
        user.give(&room, &[&link]).unwrap();
        let owner =
            |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(path).unwrap());
        assert_eq!((owner(&room), owner(&link), owner(&precious)), (OVERFLOW, OVERFLOW, 0));
    }
}
