//! Secrets of slots that are kept for the time when their service is down, if the user asked for it.
//!
//! A file for each slot, for its owner alone, in a folder that the system empties when the user logs out or the machine starts anew.
//! It is sealed under a key that is derived from the id of this start of the machine and from the wrapped secret: a copy of the file alone opens
//! nothing. Whoever is this user, or root, on this machine while the file is there, and reads the store, has what the service
//! would give. A file that others can read, or that somebody else owns, is not used.

use crate::{Binding, Sealed};
use chunkstore::aead::{Cipher, counter_nonce};
use chunkstore::env::{Env, random_array};
use chunkstore::keys::derive;
use chunkstore::private;
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// What files begin with; the last byte is the version.
const MAGIC: &[u8; 8] = b"eskkept\x01";
/// Magic, time of making and time of keeping in milliseconds, salt.
const HEADER: usize = 8 + 8 + 8 + 32;
/// Header, secret, tag.
const LEN: usize = HEADER + 32 + 16;
/// End of the names of files.
const END: &str = "kept";
/// What tells one start of the machine from the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A folder of kept secrets.
#[derive(Clone, Debug)]
pub struct CacheFolder(PathBuf);

/// Kept secrets, and for how long.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: CacheFolder,
    keep: Duration,
}

impl CacheFolder {
    /// A folder that the system empties.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Removes all that is kept.
    ///
    /// # Errors
    ///
    /// What stays.
    pub fn clear(&self) -> Result<(), String> {
        self.remove(&|_| true)
    }

    fn remove(&self, which: &dyn Fn(&Path) -> bool) -> Result<(), String> {
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{}: {error}", self.0.display())),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|end| end == END) && which(&path) {
                std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Whether nobody else can read it.
fn is_ours(found: &Metadata) -> bool {
    found.uid() == rustix::process::getuid().as_raw() && found.mode() & 0o077 == 0
}

/// Whether a file was kept so long, or is of the future.
fn is_over(made_ms: u64, keep_ms: u64, now_ms: u64) -> bool {
    now_ms < made_ms || now_ms - made_ms >= keep_ms
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// When a file was made, and for how long it is kept.
fn times(bytes: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    bytes.starts_with(MAGIC).then(|| Some((number(8)?, number(16)?))).flatten()
}

impl Cache {
    /// Kept for so long.
    #[must_use]
    pub fn new(folder: CacheFolder, keep: Duration) -> Self {
        Self { folder, keep }
    }

    fn path(&self, binding: &Binding) -> PathBuf {
        self.folder.0.join(format!("{}.{END}", binding.slot))
    }

    /// The key of a file. Of the machine's start and the slot, so that neither alone is enough.
    fn cipher(salt: &[u8], sealed: &Sealed, binding: &Binding) -> Result<Cipher, String> {
        let boot = std::fs::read(BOOT_ID).map_err(|error| format!("{BOOT_ID}: {error}"))?;
        let seed = blake3::derive_key("esker 2026 kept secrets of key services", &boot);
        let wrapped = blake3::hash(sealed.wrapped.as_bytes());
        let key = derive(
            &Zeroizing::new(seed),
            "kept",
            &[salt, binding.repository.as_bytes(), binding.slot.as_bytes(), wrapped.as_bytes()],
        );
        Ok(Cipher::new(&key))
    }

    /// Keeps a secret.
    ///
    /// # Errors
    ///
    /// Why it is not kept.
    pub fn put(
        &self,
        secret: &[u8; 32],
        sealed: &Sealed,
        binding: &Binding,
        env: &dyn Env,
    ) -> Result<(), String> {
        let shown = |error: std::io::Error| format!("{}: {error}", self.folder.0.display());
        private::folder(&self.folder.0).map_err(shown)?;
        self.check_folder()?;
        self.sweep(env);
        let salt: [u8; 32] = random_array(env).map_err(|error| error.to_string())?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&ms(env.now()).to_le_bytes());
        bytes.extend_from_slice(&ms(self.keep).to_le_bytes());
        bytes.extend_from_slice(&salt);
        let mut body = Zeroizing::new(*secret);
        let tag = Self::cipher(&salt, sealed, binding)?.seal(counter_nonce(0), &bytes, &mut *body);
        bytes.extend_from_slice(&*body);
        bytes.extend_from_slice(&tag);
        let unique: [u8; 8] = random_array(env).map_err(|error| error.to_string())?;
        let unique = format!("{:016x}", u64::from_le_bytes(unique));
        private::replace_durably(&self.path(binding), &bytes, &unique).map_err(shown)
    }

    /// A secret that is kept, unless its time is over.
    ///
    /// # Errors
    ///
    /// Why what is there is not used.
    pub fn get(
        &self,
        sealed: &Sealed,
        binding: &Binding,
        env: &dyn Env,
    ) -> Result<Option<Zeroizing<[u8; 32]>>, String> {
        let path = self.path(binding);
        let shown = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let opened =
            OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(shown(&error)),
        };
        self.check_folder()?;
        let found = file.metadata().map_err(|error| shown(&error))?;
        if !found.is_file() || !is_ours(&found) {
            return Err(shown(&"others can read it, or own it; it is not used. Remove it"));
        }
        let bytes = read(file).map_err(|error| shown(&error))?;
        let (Some((made_ms, keep_ms)), LEN) = (times(&bytes), bytes.len()) else {
            return Err(shown(&"it is damaged"));
        };
        if is_over(made_ms, keep_ms.min(ms(self.keep)), ms(env.now())) {
            self.drop(binding);
            return Ok(None);
        }
        let (header, rest) = bytes.split_at(HEADER);
        let (body, tag) = rest.split_at(32);
        let salt = header.get(24..).unwrap_or_default();
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(body);
        let opened = Self::cipher(salt, sealed, binding)?.open(counter_nonce(0), header, &mut *secret, tag);
        match opened {
            Ok(()) => Ok(Some(secret)),
            // Of an earlier start of the machine, or of what the slot was before.
            Err(_) => {
                self.drop(binding);
                Ok(None)
            }
        }
    }

    fn check_folder(&self) -> Result<(), String> {
        let folder = &self.folder.0;
        let found =
            std::fs::symlink_metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        match found.is_dir() && is_ours(&found) {
            true => Ok(()),
            false => Err(format!("{}: others can read it, or own it; it is not used", folder.display())),
        }
    }

    /// Lets go of what is kept of a slot.
    pub fn drop(&self, binding: &Binding) {
        if let Err(error) = std::fs::remove_file(self.path(binding))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(target: "key", %error, "a kept secret of a key service could not be removed");
        }
    }

    /// Removes what was kept long enough.
    fn sweep(&self, env: &dyn Env) {
        let now_ms = ms(env.now());
        let is_done = |path: &Path| {
            let bytes = File::open(path).and_then(read).unwrap_or_default();
            times(&bytes).is_none_or(|(made_ms, keep_ms)| is_over(made_ms, keep_ms, now_ms))
        };
        if let Err(error) = self.folder.remove(&is_done) {
            tracing::warn!(target: "key", error, "a kept secret of a key service could not be removed");
        }
    }
}

/// No more than can be there.
fn read(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    file.take(LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
