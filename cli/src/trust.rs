//! Whether esker.toml may be followed. It names commands, which run as whoever runs esker: one that somebody else wrote,
//! or can write, is not followed, as ssh and git do with theirs. And whether others can read a key, or put another one in its
//! place: that is said, and the key is used all the same, since a backup that is not made helps nobody.

use crate::exit::Failure;
use crate::user;
use chunkstore::pool::locked;
use engine::shown;
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How a file came to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its name was given: the folder that it lies in is the business of whoever named it.
    Named,
    /// It lies where esker looks.
    There,
}

/// Refuses a file that is not ours or root's, or that others can write; one that was only found also if they could
/// put another in its place.
pub(crate) fn check(path: &Path, found: Found) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read {}: {error}", shown::path(path)));
    let real = path.canonicalize().map_err(failed)?;
    let advice = |why: String| {
        let path = shown::path(path);
        let named = if found == Found::There { ", or name it with --config" } else { "" };
        Failure::new(format!(
            "{why}: {path} is not followed, because it says what is run. If it is right, make it yours \
             (chown, chmod go-w){named}"
        ))
    };
    if let Some(why) = weakness(&real.metadata().map_err(failed)?, false) {
        return Err(advice(format!("{} {why}", shown::path(path))));
    }
    if found == Found::Named {
        return Ok(());
    }
    // A link's own folder counts, too.
    let named = std::path::absolute(path).map_err(failed)?;
    let above = named.parent().into_iter().map(|folder| (0, folder));
    for (depth, folder) in above.chain(real.ancestors().skip(1).enumerate()) {
        // In a folder such as /tmp nobody can touch a folder of ours; a file that lies in it by itself is too near.
        let metadata = folder.metadata().map_err(failed)?;
        if let Some(why) = weakness(&metadata, depth > 0) {
            return Err(advice(format!("{} {why}", shown::path(folder))));
        }
    }
    Ok(())
}

/// Says once, with the command that ends it, that others can read a file with a key, or put another one in its place. Pipes
/// and devices are nobody else's.
pub(crate) fn warn_of_others(path: &Path) {
    static SAID: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Some(warning) = in_hands_of_others(path) else { return };
    if locked(&SAID).insert(path.to_owned()) {
        tracing::warn!("{warning}");
    }
}

/// What others can do with a file that has a key, and how to end it.
fn in_hands_of_others(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let metadata = real.metadata().ok().filter(Metadata::is_file)?;
    if metadata.mode() & 0o077 != 0 {
        let why = match metadata.mode() & 0o022 {
            0 => "can be read by other users",
            _ => "can be written by other users",
        };
        return Some(format!("{} has a key and {why}: {}", shown::path(path), chmod("go=", &real)));
    }
    real.ancestors().skip(1).find_map(|folder| {
        let why = writers(&folder.metadata().ok()?, true)?;
        let (file, above) = (shown::path(path), shown::path(folder));
        Some(format!("{file} has a key, and {above} {why}: {}", chmod("go-w", folder)))
    })
}

/// The command as one types it.
fn chmod(mode: &str, path: &Path) -> String {
    let name = shown::path(path);
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+=@".contains(&byte));
    match is_plain {
        true => format!("chmod {mode} {name}"),
        false => format!("chmod {mode} '{}'", name.replace('\'', "'\\''")),
    }
}

/// Whose hands something is in, if not ours or root's alone. With `sticky`, that bit makes up for others' writing.
fn weakness(metadata: &Metadata, sticky: bool) -> Option<String> {
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() && Some(owner) != behind_sudo() {
        return Some(format!("belongs to user {owner}"));
    }
    writers(metadata, sticky)
}

/// Who else can write something.
fn writers(metadata: &Metadata, sticky: bool) -> Option<String> {
    let (group, mode) = (metadata.gid(), metadata.mode());
    if sticky && mode & 0o1000 != 0 {
        return None;
    }
    if mode & 0o002 != 0 {
        return Some("can be written by everybody".into());
    }
    if mode & 0o020 != 0 && group != 0 && !user::is_alone_in(group) {
        return Some(format!("can be written by group {group}"));
    }
    None
}

/// Who became root by sudo, and could do there whatever the file says without it.
fn behind_sudo() -> Option<u32> {
    let uid = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    rustix::process::geteuid().is_root().then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_others_can_write_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("esker.toml");
        std::fs::write(&file, "").unwrap();
        let chmod = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (folder_mode, file_mode, there, named) in [
            (0o700, 0o600, true, true),
            (0o755, 0o644, true, true),
            (0o777, 0o644, false, true),
            (0o1777, 0o644, false, true),
            (0o755, 0o646, false, false),
        ] {
            chmod(folder.path(), folder_mode);
            chmod(&file, file_mode);
            assert_eq!(check(&file, Found::There).is_ok(), there, "{folder_mode:o} {file_mode:o}");
            assert_eq!(check(&file, Found::Named).is_ok(), named, "{folder_mode:o} {file_mode:o}");
        }
        chmod(folder.path(), 0o700);
    }

    #[test]
    fn a_key_that_others_can_read_or_replace_is_told_with_what_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let file = folder.join("it's a key");
        std::fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (folder_mode, file_mode, words) in [
            (0o700, 0o600, None),
            (0o755, 0o400, None),
            (0o1777, 0o600, None),
            (0o700, 0o640, Some(("can be read by other users", "go= "))),
            (0o700, 0o604, Some(("can be read by other users", "go= "))),
            (0o700, 0o622, Some(("can be written by other users", "go= "))),
            (0o777, 0o600, Some(("can be written by everybody", "go-w "))),
        ] {
            set(&folder, folder_mode);
            set(&file, file_mode);
            let told = in_hands_of_others(&file);
            assert_eq!(told.is_some(), words.is_some(), "{folder_mode:o} {file_mode:o}: {told:?}");
            let (Some(told), Some((why, mode))) = (told, words) else { continue };
            assert!(told.contains(why) && told.contains(mode), "{told}");
            // The command ends it.
            let command = told.split_once(": chmod").unwrap().1;
            let done = std::process::Command::new("sh").args(["-c", &format!("chmod{command}")]).status();
            assert!(done.unwrap().success());
            assert_eq!(in_hands_of_others(&file), None, "{command}");
        }
        set(&folder, 0o700);
        assert_eq!(in_hands_of_others(Path::new("/dev/null")), None);
    }
}
