//! The file that a host gets: where the repository is, and the keys that a host has. It is a secret, but opens nothing in the
//! repository: whoever has it can bring backups as that host, until the host is revoked.

use super::signature::SigningKey;
use crate::chunker::ChunkerParams;
use crate::id::{ObjectId, RepositoryId, from_hex, to_hex};
use crate::keys::HostKeys;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

/// What a host has.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Where the repository is, as users write it; without credentials.
    pub place: String,
    /// The host's name, which its snapshots have.
    pub name: String,
    /// Its keys.
    pub keys: HostKeys,
    /// What it signs with.
    pub signing: SigningKey,
    /// How it cuts.
    pub chunker: ChunkerParams,
}

/// The first member says what it is.
const VERSION: u32 = 1;

/// The file's JSON. Keys are hex.
#[derive(Serialize, Deserialize)]
struct Text {
    esker_host: u32,
    place: String,
    name: String,
    repository_id: RepositoryId,
    host_id: ObjectId,
    inbox_epoch: u32,
    inbox: ObjectId,
    chunker: ChunkerParams,
    signing_key: String,
    id_key: String,
    gear_key: String,
    channel_key: String,
}

impl Drop for Text {
    fn drop(&mut self) {
        for secret in [&mut self.signing_key, &mut self.id_key, &mut self.gear_key, &mut self.channel_key] {
            secret.zeroize();
        }
    }
}

impl Bundle {
    /// The file's text.
    ///
    /// # Errors
    ///
    /// None: the type has it for `serde_json`.
    pub fn to_text(&self) -> Result<Zeroizing<Vec<u8>>> {
        let keys = &self.keys;
        let text = Text {
            esker_host: VERSION,
            place: self.place.clone(),
            name: self.name.clone(),
            repository_id: keys.repository,
            host_id: keys.host,
            inbox_epoch: keys.epoch,
            inbox: ObjectId(keys.inbox),
            chunker: self.chunker,
            signing_key: to_hex(&*self.signing.to_bytes()),
            id_key: to_hex(&*keys.id_key),
            gear_key: to_hex(&*keys.gear_key),
            channel_key: to_hex(&*keys.channel),
        };
        let bytes = serde_json::to_vec_pretty(&text).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(Zeroizing::new(bytes))
    }

    /// Reads the file's text.
    ///
    /// # Errors
    ///
    /// It is none, or of a later version, or damaged. The message has nothing of its content.
    pub fn from_text(bytes: &[u8]) -> Result<Self> {
        let none = || {
            Error::Invalid(
                "it is not the file of a host, as 'esker host add' writes it, or it is damaged".into(),
            )
        };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| none())?;
        match value.get("esker_host").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(_) => {
                return Err(Error::Unsupported { why: "the file of the host is of a later version".into() });
            }
            None => return Err(none()),
        }
        let text: Text = serde_json::from_slice(bytes).map_err(|_| none())?;
        let key = |hex: &str| -> Result<Zeroizing<[u8; 32]>> {
            let bytes = Zeroizing::new(from_hex(hex).ok_or_else(none)?);
            Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| none())?))
        };
        text.chunker.validate()?;
        let keys = HostKeys {
            repository: text.repository_id,
            host: text.host_id,
            id_key: key(&text.id_key)?,
            gear_key: key(&text.gear_key)?,
            channel: key(&text.channel_key)?,
            epoch: text.inbox_epoch,
            inbox: text.inbox.0,
        };
        let signing = SigningKey::from_bytes(&*key(&text.signing_key)?);
        Ok(Self { place: text.place.clone(), name: text.name.clone(), keys, signing, chunker: text.chunker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::keys::KeyRing;

    #[test]
    fn a_bundle_comes_back_and_a_damaged_one_is_told_without_its_content() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let bundle = Bundle {
            place: "s3://bucket/esker".into(),
            name: "web1".into(),
            keys: keys.for_host(ObjectId([9; 32]), 1).unwrap(),
            signing: SigningKey::generate(&env).unwrap(),
            chunker: ChunkerParams::default(),
        };
        let text = bundle.to_text().unwrap();
        let again = Bundle::from_text(&text).unwrap();
        assert_eq!(again.to_text().unwrap(), text);
        assert_eq!(again.signing.public(), bundle.signing.public());
        let secret = to_hex(&*bundle.signing.to_bytes());
        assert!(!format!("{bundle:?}").contains(&secret[..8]));
        let damaged = String::from_utf8(text.to_vec()).unwrap().replace(&secret, &secret[1..]);
        for bad in [&text[..text.len() / 2], damaged.as_bytes(), b"", b"{\"esker_host\":2}"] {
            let told = Bundle::from_text(bad).unwrap_err().to_string();
            assert!(!told.contains(&secret[1..9]), "{told}");
        }
    }
}
