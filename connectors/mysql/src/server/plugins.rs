//! Which ways of logging in MariaDB's programs know. A server chooses the way, and they load what it names: of these
//! `mysql_clear_password` and `dialog` give it the password as it is. Over a line that others can read they find a folder
//! without these two.
//! Source: MariaDB's documentation, "Authentication Plugins", "Client Authentication Plugins".

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Those that prove that they know the password. `mysql_native_password` is a part of the programs.
const PROVING: &[&str] =
    &["caching_sha2_password.so", "client_ed25519.so", "parsec.so", "sha256_password.so"];
/// Those that tell it.
const TELLING: &[&str] = &["mysql_clear_password", "dialog"];
/// Where packages have them, within these and one folder further down.
const ROOTS: &[&str] = &["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"];
const WITHIN: &[&str] =
    &["libmariadb3/plugin", "mariadb/plugin", "mysql/plugin", "libmariadb/plugin", "plugin"];

/// A folder with links to those that prove, as far as they are installed.
///
/// # Errors
/// If it cannot be made.
pub(super) fn proving() -> std::io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("esker-plugins-").tempdir()?;
    let places = places();
    for name in PROVING {
        if let Some(file) = places.iter().map(|place| place.join(name)).find(|file| file.exists()) {
            symlink(file, folder.path().join(name))?;
        }
    }
    Ok(folder)
}

fn places() -> Vec<PathBuf> {
    let mut all = vec![];
    for root in ROOTS.iter().map(Path::new) {
        let further = std::fs::read_dir(root).into_iter().flatten().flatten();
        // Of this machine: a folder is named after the kind that it is for.
        let further = further.map(|entry| entry.path()).filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(std::env::consts::ARCH))
        });
        for above in std::iter::once(root.to_owned()).chain(further) {
            all.extend(WITHIN.iter().map(|within| above.join(within)));
        }
    }
    all.retain(|place| place.is_dir());
    all
}

/// What is said of a login that failed since it would have told the password.
pub(super) fn hint(why: &str) -> Option<&'static str> {
    let is_it = |name: &&&str| why.contains(&format!("{name} could not be loaded"));
    TELLING.iter().find(is_it).map(|_| {
        "the server asks for the password in clear text over a line that is not known to be encrypted, and does not get it: \
         give the server's authority (-o tls.ca=FILE), or allow it with ?enable-cleartext-plugin=1 in the URL"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_the_password_is_not_there() {
        let folder = proving().unwrap();
        for name in TELLING {
            assert!(!folder.path().join(format!("{name}.so")).exists());
        }
        let why =
            "ERROR 2013: Plugin dialog could not be loaded: /tmp/dialog.so: cannot open shared object file";
        assert!(hint(why).is_some() && hint("Plugin x could not be loaded").is_none());
    }
}
