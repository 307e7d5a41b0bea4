//! The settings of a server that a load by replication changes for a time, and their record: it is in the server itself.
//!
//! A server sends the value of `masterauth` to its master as a password. The one-time secret of a load is the record of
//! what was there before, sealed by a key of the repository: whoever finds the server as a process left it that was
//! killed can put everything back if he can open the repository, from any machine, and nobody else can read the old
//! password. It is written by the command that makes the first change, so there is no moment without a record.

use crate::server::client::Client;
use crate::server::words;
use chunkstore::aead::counter_nonce;
use chunkstore::env::{Env as _, SystemEnv};
use chunkstore::format::TAG_LEN;
use chunkstore::id::{from_hex, to_hex};
use chunkstore::keys::KeyRing;
use redis::RedisResult;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// How the one-time secret begins.
const PREFIX: &str = "esker-1-";
const SALT: usize = 32;
const COMMITMENT: usize = 32;
/// What is sealed with the record, so that it stays in this place.
const PURPOSE: &[u8] = b"esker: settings of a Redis server during a restore";

/// Values of `CONFIG`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    masterauth: String,
    masteruser: String,
    /// `repl-diskless-load`; empty of a server that has none.
    diskless_load: String,
    /// Where the server finds its master meanwhile: a replica of anybody else is not ours to change.
    master: (String, u16),
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.masterauth.zeroize();
    }
}

/// What became of a record that was looked for.
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// It is one, and says this.
    Ours(Kept),
    /// It is one of another repository.
    Foreign,
}

/// The value of a setting.
pub(super) fn get(client: &mut Client, name: &str) -> Result<Option<Zeroizing<String>>, String> {
    let pair: RedisResult<Vec<String>> = redis::cmd("CONFIG").arg("GET").arg(name).query(client);
    let mut pair = pair.map_err(|error| format!("CONFIG GET is refused: {}", words(&error)))?;
    Ok(if pair.len() == 2 { pair.pop().map(Zeroizing::new) } else { None })
}

/// Changes a setting. The value is in no error.
pub(super) fn set(client: &mut Client, name: &str, value: &str) -> Result<(), String> {
    try_set(client, name, value).map_err(|(why, _)| why)
}

/// The same; an error says whether the server refused it, or may have done it.
fn try_set(client: &mut Client, name: &str, value: &str) -> Result<(), (String, bool)> {
    let done: RedisResult<()> = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query(client);
    done.map_err(|error| match (error.is_io_error(), error.code()) {
        (true, _) => (format!("CONFIG SET {name}: {}", words(&error)), false),
        (false, code) => (format!("CONFIG SET {name} is refused: {}", code.unwrap_or("an error")), true),
    })
}

impl Kept {
    /// As they are now, of a server that will find its master at `master`.
    pub(super) fn of(client: &mut Client, master: (String, u16)) -> Result<Self, String> {
        let mut text = |name| get(client, name).map(|value| value.map(|value| value.to_string()));
        Ok(Self {
            masterauth: text("masterauth")?.ok_or("it has no masterauth")?,
            masteruser: text("masteruser")?.unwrap_or_default(),
            diskless_load: text("repl-diskless-load")?.unwrap_or_default(),
            master,
        })
    }

    /// Of a server that had no settings for a master.
    #[cfg(test)]
    pub(super) fn of_master(host: &str, port: u16) -> Self {
        let mut kept = Self::default();
        kept.master = (host.to_owned(), port);
        kept
    }

    /// Where the server finds its master meanwhile.
    pub(super) fn master(&self) -> (&str, u16) {
        (&self.master.0, self.master.1)
    }

    /// The record that is in the place of `masterauth`, and the values of it.
    pub(super) fn find(keys: &KeyRing, client: &mut Client) -> Found {
        let Ok(Some(value)) = get(client, "masterauth") else { return Found::Nothing };
        match value.strip_prefix(PREFIX) {
            None => Found::Nothing,
            Some(hex) => Self::open(keys, hex).map_or(Found::Foreign, Found::Ours),
        }
    }

    /// The one-time secret that says what it is.
    pub(super) fn sealed(&self, keys: &KeyRing) -> engine::Result<Zeroizing<String>> {
        let mut salt = [0; SALT];
        SystemEnv.random(&mut salt)?;
        let key = keys.aside_key(&salt);
        let mut text = Zeroizing::new(
            serde_json::to_vec(self).map_err(|error| engine::Error::Invalid(error.to_string()))?,
        );
        let tag = key.cipher.seal(counter_nonce(0), PURPOSE, &mut text);
        let all = [&salt[..], &key.commitment, &text, &tag].concat();
        Ok(Zeroizing::new(format!("{PREFIX}{}", to_hex(&all))))
    }

    fn open(keys: &KeyRing, hex: &str) -> Option<Self> {
        let bytes = from_hex(hex)?;
        let (salt, rest) = bytes.split_first_chunk::<SALT>()?;
        let (commitment, rest) = rest.split_first_chunk::<COMMITMENT>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let key = keys.aside_key(salt);
        // The commitment is no secret: a different one is of another repository.
        if key.commitment != *commitment {
            return None;
        }
        let mut text = Zeroizing::new(text.to_vec());
        key.cipher.open(counter_nonce(0), PURPOSE, &mut text, tag).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes the record, which is the first change. An error says whether nothing was changed.
    pub(super) fn record(client: &mut Client, secret: &str) -> Result<(), (String, bool)> {
        try_set(client, "masterauth", secret)
    }

    /// Changes the other settings for a load.
    pub(super) fn replace(&self, client: &mut Client) -> Result<(), String> {
        if !self.masteruser.is_empty() {
            set(client, "masteruser", "")?;
        }
        // Straight into memory: else the server writes a file first, and puts it in the place of its dump.
        if self.diskless_load == "disabled" {
            // Where that is refused, it goes by the file.
            let _ = set(client, "repl-diskless-load", "on-empty-db");
        }
        Ok(())
    }

    /// Puts the settings back: the record goes last.
    pub(super) fn put_back(&self, client: &mut Client) -> Result<(), String> {
        if !self.diskless_load.is_empty() {
            set(client, "repl-diskless-load", &self.diskless_load)?;
        }
        if !self.masteruser.is_empty() {
            set(client, "masteruser", &self.masteruser)?;
        }
        set(client, "masterauth", &self.masterauth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::env::SeededEnv;
    use chunkstore::id::RepositoryId;

    fn keys(seed: u64) -> KeyRing {
        KeyRing::generate(RepositoryId([7; 16]), &SeededEnv::new(seed)).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_by_the_same_repository_alone() {
        let kept = Kept {
            masterauth: "old \"secret\" ß".into(),
            masteruser: "replica".into(),
            diskless_load: "disabled".into(),
            master: ("10.0.0.7".into(), 4001),
        };
        let own = keys(1);
        let (one, two) = (kept.sealed(&own).unwrap(), kept.sealed(&own).unwrap());
        assert_ne!(*one, *two, "a secret is used once");
        assert!(!one.contains("old") && one.starts_with(PREFIX));
        let hex = &one[PREFIX.len()..];
        assert!(Kept::open(&own, hex).is_some_and(|opened| opened == kept));
        assert!(Kept::open(&keys(2), hex).is_none());
        for at in [0, 64, 128, hex.len() - 1] {
            let mut bad = hex.to_owned().into_bytes();
            bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            assert!(Kept::open(&own, std::str::from_utf8(&bad).unwrap()).is_none(), "{at}");
        }
        for bad in ["", "0", "zz", &hex[..40], &hex[..hex.len() - 1]] {
            assert!(Kept::open(&own, bad).is_none(), "{bad}");
        }
    }
}
