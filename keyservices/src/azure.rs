//! Azure Key Vault and Managed HSM: `wrapkey` and `unwrapkey` with RSA-OAEP-256, as their REST reference describes them.
//!
//! RSA-OAEP binds nothing to what it wraps, so the hash of the binding is wrapped with the secret. Whoever has the public part of the
//! key can wrap: what is unwrapped says nothing about who wrapped it.

use crate::client::{Ask, Client, Reach, Reply, headers, json};
use crate::{Address, Binding, KeyService, Kind, Refusal, Sealed, answers, secret_of};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chunkstore::storage::HttpOptions;
use chunkstore::storage::identity::NoIdentity;
use chunkstore::storage::identity::azure::{Identity, Login};
use reqwest::Method;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The version of the interface.
const API: &str = "api-version=7.4";

/// A key of a vault.
pub struct AzureVault {
    client: Client,
    identity: Identity,
    host: String,
    key: String,
    version: String,
}

impl AzureVault {
    /// The key at an address: host, key, and a version or nothing.
    ///
    /// # Errors
    ///
    /// The host is none of Azure's, or there is no way to it.
    pub fn new([host, key, version]: [&str; 3], login: Login, reach: &Reach) -> Result<Self, Refusal> {
        let resource = Address::azure_resource(host)
            .ok_or_else(|| Refusal::new(Kind::NoLogin, "tokens of Azure are for its own vaults"))?;
        let http = HttpOptions { authorities: reach.authorities.clone(), ..HttpOptions::default() };
        let identity = Identity::new(login, resource, &http).map_err(no_token)?;
        Ok(Self {
            client: Client::new(&format!("https://{host}"), reach)?,
            identity,
            host: host.to_owned(),
            key: key.to_owned(),
            version: version.to_owned(),
        })
    }

    fn ask(
        &self,
        op: &'static str,
        method: Method,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Reply, Refusal> {
        let token = self.client.wait(self.identity.token())?.map_err(no_token)?;
        let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
        let headers =
            headers(&[("authorization", &bearer, true), ("content-type", "application/json", false)])?;
        let url = format!("https://{}/keys/{}{path}?{API}", self.host, self.key);
        let reply = self.client.send(op, &Ask { method, url: &url, headers, body })?;
        if reply.is_success() { Ok(reply) } else { Err(answers::azure_refused(reply.status, &reply.body)) }
    }

    fn change(&self, op: &'static str, version: &str, value: &str) -> Result<Reply, Refusal> {
        let body = json(&BTreeMap::from([("alg", "RSA-OAEP-256"), ("value", value)]))?;
        self.ask(op, Method::POST, &format!("/{version}/{op}"), body)
    }

    /// The version in a key's id, if that is of this vault and key.
    fn version_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        let place = id.strip_prefix("https://")?;
        let (host, path) = place.split_once('/')?;
        let host = host.to_ascii_lowercase();
        let version = path.strip_prefix("keys/")?.strip_prefix(self.key.as_str())?.strip_prefix('/')?;
        let is_version =
            (1..=64).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (host.trim_end_matches(":443") == self.host && is_version).then_some(version)
    }

    fn known_version<'a>(&self, id: &'a str) -> Result<&'a str, Refusal> {
        self.version_of(id).ok_or_else(|| {
            Refusal::new(
                Kind::Context,
                "it speaks of another key than the one that was named, or the slot does",
            )
        })
    }
}

fn no_token(why: NoIdentity) -> Refusal {
    let kind = if why.is_away { Kind::Away } else { Kind::NoLogin };
    Refusal::new(kind, format!("no token of Azure: {why}"))
}

/// The hash of a binding, which is wrapped with the secret.
fn mark(binding: &Binding) -> [u8; 32] {
    *blake3::hash(binding.text().as_bytes()).as_bytes()
}

impl KeyService for AzureVault {
    fn describe(&self) -> String {
        let version =
            if self.version.is_empty() { String::new() } else { format!(", version {}", self.version) };
        format!("the vault {}, key {}{version}", self.host, self.key)
    }

    fn is_of(&self, slot: &Address, key: &str) -> bool {
        let Address::Azure { host, key: named, .. } = slot else { return false };
        let is_version = self.version.is_empty() || self.version_of(key) == Some(self.version.as_str());
        *host == self.host && *named == self.key && is_version
    }

    fn wrap(&self, secret: &[u8; 32], binding: &Binding) -> Result<Sealed, Refusal> {
        let version = match self.version.as_str() {
            "" => {
                let reply = self.ask("get", Method::GET, "", Zeroizing::default())?;
                self.known_version(&answers::azure_key(&reply.body)?)?.to_owned()
            }
            version => version.to_owned(),
        };
        let plain = Zeroizing::new([&secret[..], &mark(binding)].concat());
        let reply = self.change("wrapkey", &version, &Zeroizing::new(URL_SAFE_NO_PAD.encode(&*plain)))?;
        let sealed = answers::azure_wrapped(&reply.body)?;
        if self.known_version(&sealed.key)? != version {
            return Err(Refusal::new(
                Kind::Away,
                "it wrapped with another version of the key than was asked for",
            ));
        }
        Ok(sealed)
    }

    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        let version = self.known_version(&sealed.key)?;
        let reply = self.change("unwrapkey", version, &sealed.wrapped)?;
        let (_, plain) = answers::azure_unwrapped(&reply.body)?;
        let (secret, bound) = plain.split_at_checked(32).unwrap_or((&plain, &[]));
        if blake3::Hash::from(mark(binding)) != *bound {
            let why = "the wrapped secret was made for another repository or slot";
            return Err(Refusal::new(Kind::Context, why));
        }
        secret_of(secret)
    }
}
