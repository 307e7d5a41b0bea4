//! The ground of scratch servers: a private folder for each drill, the programs that run in it, and the end of both, also after
//! a drill that was killed.

use engine::{Error, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

mod ground;
mod process;
mod user;
mod work;

pub use ground::{Ground, NAME_LEN, root};
pub use process::{Log, Process, command};
pub use user::User;
pub use work::VARIABLE;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A port of this machine that nobody listens at.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let port = listener.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Error::Invalid(format!("no port for a scratch server: {error}")))
}

/// A program on `path`, the first of these names that can be run. Entries that are relative are left out: what they mean
/// depends on the folder that esker is started in, and the program runs in another.
#[must_use]
pub fn find(names: &[&str], path: Option<&str>) -> Option<PathBuf> {
    let folders = || std::env::split_paths(path.unwrap_or_default()).filter(|folder| folder.is_absolute());
    let can_run = |program: &PathBuf| {
        std::fs::metadata(program).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
    };
    names.iter().find_map(|name| folders().map(|folder| folder.join(name)).find(can_run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn programs_can_be_run_and_have_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        for (place, mode) in [(&first, 0o644), (&second, 0o755)] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("server"), "").unwrap();
            std::fs::set_permissions(place.join("server"), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = |folders: &[&str]| find(&["none", "server"], Some(&folders.join(":")));
        let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
        assert_eq!(path(&[first, second]), Some(PathBuf::from(second).join("server")));
        // Where this test runs, each of them is a folder with such a file in it.
        let here = std::env::current_dir().unwrap();
        let up = "../".repeat(here.components().count());
        let relative = format!("{up}{}", second.trim_start_matches('/'));
        assert!(PathBuf::from(&relative).join("server").is_file());
        assert_eq!(path(&[&relative, "", first]), None);
    }
}
