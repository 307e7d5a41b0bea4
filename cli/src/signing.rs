//! The key with which this machine signs the reports of drills: made when the first is signed, kept in a file that nobody else
//! can read. It opens nothing. It is no cache: without it, later reports are of another signer.

use crate::exit::Failure;
use crate::file::File;
use crate::user;
use crate::variables::environment_path;
use chunkstore::env::SystemEnv;
use chunkstore::id::{from_hex, to_hex};
use chunkstore::inbox::SigningKey;
use chunkstore::private;
use engine::shown;
use rustix::process::geteuid;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What the line with the key begins with.
const LABEL: &str = "ESKER-SIGNING-KEY-1";
/// Longer than any such file that esker made.
const MAX_LEN: u64 = 4096;
/// Bytes of the check sum behind the key.
const CHECK_LEN: usize = 4;

/// Which key signs.
#[derive(clap::Args, Debug)]
pub(crate) struct Flags {
    /// File with the key that signs reports; made if it does not exist [default: signing.key in
    /// $XDG_STATE_HOME/esker or ~/.local/state/esker]
    #[arg(long, value_name = "FILE", env = "ESKER_SIGNING_KEY")]
    signing_key: Option<PathBuf>,
}

impl Flags {
    /// The key, made if there is none yet.
    ///
    /// # Errors
    /// The file is not this user's alone, or is damaged; it can be neither read nor made.
    pub(crate) fn key(&self, file: Option<&File>) -> Result<SigningKey, Failure> {
        let given = self.signing_key.clone().or_else(|| file.and_then(|file| file.signing_key.clone()));
        if let Some(path) = given {
            return existing_or_new(&path);
        }
        let state = environment_path("XDG_STATE_HOME")
            .or_else(|| user::home_folder().map(|home| home.join(".local/state")));
        let folder = state.map(|state| state.join("esker")).ok_or_else(|| {
            Failure::new(
                "where is the key that signs reports? Name a file with --signing-key: this user has no home",
            )
        })?;
        own_folder(&folder).map_err(|error| {
            Failure::new(format!(
                "cannot use {} for the key that signs reports: {error}; --signing-key names another file",
                shown::path(&folder)
            ))
        })?;
        existing_or_new(&folder.join("signing.key"))
    }
}

/// Sees to it that the folder is there. One that others can change is refused, and left as it is: they could take the key away,
/// and another one would sign from then on.
fn own_folder(folder: &Path) -> io::Result<()> {
    match folder.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => private::folder(folder),
        Err(error) => Err(error),
        Ok(found) if !found.is_dir() => Err(refused("it is no folder")),
        Ok(found) if found.uid() != geteuid().as_raw() => Err(refused("it belongs to another user")),
        Ok(found) if found.mode() & 0o022 != 0 => {
            Err(refused("others can write into it: after 'chmod go-w' nobody else can"))
        }
        Ok(_) => Ok(()),
    }
}

fn existing_or_new(path: &Path) -> Result<SigningKey, Failure> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = make(path);
            match made {
                // Another drill was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
                made => made,
            }
        }
        found => found,
    }
    .map_err(|error| {
        let why = match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::LOOP) => "it is a symbolic link: name the file itself".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("the key that signs reports, {}: {why}", shown::path(path)))
    })
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn read(path: &Path) -> io::Result<SigningKey> {
    let file = private::read(path)?;
    let found = file.metadata()?;
    if found.uid() != geteuid().as_raw() {
        return Err(refused("it belongs to another user, who may sign with it, too"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refused(
            "others can read or write it, and may have it: after 'chmod go=' nobody else can, or name another file with \
             --signing-key, for a new key",
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_LEN).read_to_string(&mut text)?;
    key_in(&text).ok_or_else(|| {
        refused("it is damaged, or no signing key: put it back from a backup, or remove it for a new key")
    })
}

fn key_in(text: &str) -> Option<SigningKey> {
    let line = text.lines().find(|line| !line.starts_with('#'))?;
    let digits = line.trim_end().strip_prefix(LABEL)?.strip_prefix(':')?;
    let bytes = Zeroizing::new(from_hex(digits)?);
    let (seed, check) = bytes.split_last_chunk::<CHECK_LEN>()?;
    let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?);
    (checksum(&seed) == *check).then(|| SigningKey::from_bytes(&seed))
}

/// Of a key with a changed digit, all signatures would be of somebody else.
fn checksum(seed: &[u8; 32]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(LABEL.as_bytes()).update(seed);
    let mut check = [0; CHECK_LEN];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn text_of(key: &SigningKey) -> Zeroizing<String> {
    let seed = key.to_bytes();
    let (digits, check) = (Zeroizing::new(to_hex(&*seed)), to_hex(&checksum(&seed)));
    Zeroizing::new(format!(
        "# Signs the reports of drills of esker on this machine, and opens nothing. Keep it to yourself.\n{LABEL}:{}{check}\n",
        *digits
    ))
}

/// Makes a file that is whole as soon as it has its name, and takes no other's place.
fn make(path: &Path) -> io::Result<SigningKey> {
    let key = SigningKey::generate(&SystemEnv).map_err(io::Error::other)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text_of(&key).as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_key_is_made_once_and_only_ours_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let public = |path: &Path| existing_or_new(path).map(|key| key.public().0);
        let made = public(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(public(&path).unwrap(), made);
        assert_ne!(public(&folder.path().join("other")).unwrap(), made);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside them");
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(public(&link).unwrap_err().message.contains("symbolic link"));
        assert!(public(folder.path()).unwrap_err().message.contains("no file"));
        assert!(public(&folder.path().join("none/key")).is_err());
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(public(&path).unwrap_err().message.contains("others can"), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(public(&path).unwrap(), made);
    }

    #[test]
    fn only_a_folder_of_ours_is_taken_and_none_is_changed() {
        let above = tempfile::tempdir().unwrap();
        let [made, open, link] = ["made", "open", "link"].map(|name| above.path().join(name));
        own_folder(&made).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&made), 0o700);
        fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        own_folder(&made).unwrap();
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o775)).unwrap();
        assert!(own_folder(&open).unwrap_err().to_string().contains("others can write"));
        symlink(&made, &link).unwrap();
        assert!(own_folder(&link).unwrap_err().to_string().contains("no folder"));
        assert_eq!((mode(&made), mode(&open)), (0o755, 0o775));
    }

    #[test]
    fn every_changed_digit_of_a_key_is_noticed() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let text = text_of(&key);
        assert_eq!(key_in(&text).unwrap().public(), key.public());
        let start = text.find(LABEL).unwrap();
        for at in start..text.len() - 1 {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            assert!(key_in(std::str::from_utf8(&changed).unwrap()).is_none(), "{at}");
        }
        assert!(key_in(&text[..text.len() - 3]).is_none() && key_in("").is_none());
    }
}
