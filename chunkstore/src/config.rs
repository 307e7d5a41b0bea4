//! The settings that `init` decides and that never change: `config`, one line of JSON and one of MAC. It can be read
//! without a key, so that a newer format is recognised before a passphrase is needed.

use crate::chunker::{ChunkerParams, FASTCDC_2020};
use crate::format::{FORMAT_VERSION, HEAD_CHAIN, KNOWN_FEATURES, names};
use crate::keys::{KeyRing, split_lines};
use crate::{Error, RepositoryId, Result, id::from_hex, id::to_hex};
use serde::{Deserialize, Serialize};

/// The chunker of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerConfig {
    /// Algorithm; [`FASTCDC_2020`] in format 1.
    pub id: String,
    /// Version of the algorithm; 1.
    pub version: u32,
    /// Label under which its key is derived from the master key; `gear`.
    pub key_label: String,
    /// Sizes for content. Manifests are cut between records instead (docs/format.md).
    pub data: ChunkerParams,
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Format version.
    pub esker: u32,
    /// Random name of this repository.
    pub repository_id: RepositoryId,
    /// Features without which nothing here can be read or written correctly.
    pub required_features: Vec<String>,
    /// How streams are cut.
    pub chunker: ChunkerConfig,
    /// How packs are padded; `padme-4096` in format 1.
    pub padding: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How HEAD is replaced.
    #[serde(default, skip_serializing_if = "HeadMethod::is_swap")]
    pub head: HeadMethod,
    /// Whether each pack has parity beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parity: bool,
    /// The tier that this place was made as, for good: a HEAD of another place does not count here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
}

/// How HEAD is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadMethod {
    /// The store compares and swaps.
    #[default]
    Swap,
    /// The store creates only objects that do not exist: [`crate::storage::chain`].
    Chain,
    /// The store supports neither: its user must make sure that there is one writer at a time.
    SingleWriter,
}

impl HeadMethod {
    fn is_swap(&self) -> bool {
        *self == Self::Swap
    }
}

/// Settings that are decided when a repository is made, for the store that it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// How HEAD is replaced.
    pub head: HeadMethod,
    /// Whether each pack has parity beside it.
    pub parity: bool,
}

impl Config {
    /// The configuration of a new repository.
    pub fn new(
        repository_id: RepositoryId,
        data: ChunkerParams,
        created_ms: u64,
        layout: Layout,
    ) -> Result<Self> {
        data.validate()?;
        Ok(Self {
            esker: u32::from(FORMAT_VERSION),
            repository_id,
            required_features: match layout.head {
                HeadMethod::Chain => vec![HEAD_CHAIN.into()],
                HeadMethod::Swap | HeadMethod::SingleWriter => vec![],
            },
            chunker: ChunkerConfig { id: FASTCDC_2020.into(), version: 1, key_label: "gear".into(), data },
            padding: "padme-4096".into(),
            created_ms,
            head: layout.head,
            parity: layout.parity,
            tier: None,
        })
    }

    /// Writes the two lines.
    pub fn seal(&self, keys: &KeyRing) -> Result<Vec<u8>> {
        let line = serde_json::to_string(self).map_err(|error| Error::Invalid(error.to_string()))?;
        let mac = to_hex(&keys.config_mac(line.as_bytes()));
        Ok(format!("{line}\n{mac}\n").into_bytes())
    }

    /// Reads the first line, before any key is known, and refuses what this code cannot handle.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::corrupt(names::CONFIG, why);
        let (line, _) = split_lines(bytes).ok_or_else(|| corrupt("not two lines"))?;
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| Error::corrupt(names::CONFIG, error))?;
        // First, since a newer configuration may look different otherwise.
        Self::refuse_newer(&value)?;
        let config: Self =
            serde_json::from_value(value).map_err(|error| Error::corrupt(names::CONFIG, error))?;
        let chunker = &config.chunker;
        if chunker.id != FASTCDC_2020 || chunker.version != 1 || chunker.key_label != "gear" {
            return Err(Error::Unsupported { why: format!("chunker '{}'", chunker.id) });
        }
        chunker.data.validate()?;
        Ok(config)
    }

    /// Whether the first line says that a later version wrote it.
    pub(crate) fn is_newer(bytes: &[u8]) -> bool {
        let value = split_lines(bytes).and_then(|(line, _)| serde_json::from_str(line).ok());
        value.is_some_and(|value| matches!(Self::refuse_newer(&value), Err(Error::Unsupported { .. })))
    }

    fn refuse_newer(value: &serde_json::Value) -> Result<()> {
        let corrupt = |why: &str| Error::corrupt(names::CONFIG, why);
        let version = value.get("esker").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(FORMAT_VERSION)) {
            let version = version.ok_or_else(|| corrupt("no format version"))?;
            return Err(Error::Unsupported {
                why: format!("format version {version}, this esker reads {FORMAT_VERSION}"),
            });
        }
        let features = value.get("required_features").and_then(|list| list.as_array());
        for feature in features.into_iter().flatten() {
            let feature = feature.as_str().ok_or_else(|| corrupt("a feature is not a string"))?;
            if !KNOWN_FEATURES.contains(&feature) {
                return Err(Error::Unsupported { why: format!("required feature '{feature}'") });
            }
        }
        Ok(())
    }

    /// Checks the MAC once the keys are known.
    pub fn verify(bytes: &[u8], keys: &KeyRing) -> Result<()> {
        let (line, mac) = split_lines(bytes).ok_or_else(|| Error::corrupt(names::CONFIG, "not two lines"))?;
        let mac = from_hex(mac).unwrap_or_default();
        if blake3::Hash::from(keys.config_mac(line.as_bytes())) == *mac.as_slice() {
            Ok(())
        } else {
            Err(Error::corrupt(names::CONFIG, "its MAC does not match"))
        }
    }
}
