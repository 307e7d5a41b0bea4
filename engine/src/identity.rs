//! What a source is, for the rules that act on several snapshots of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The identity of a source, which distinguishes it from others with the same paths. Never a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Its name in esker.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a command: a keyed hash of its words, which may hold passwords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// Of a server: the user who reads it, if the URL lacks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of a server: the database, if it is one, where the URL does not say all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Of a server: where it is, if settings outside the URL say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
