//! AWS KMS: `Encrypt` and `Decrypt` with an encryption context, as its API reference describes them.

use crate::client::{Ask, Client, Reach, Reply, json};
use crate::{Address, Binding, KeyService, Kind, Refusal, Sealed, answers, secret_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chunkstore::storage::ErrorKind;
use chunkstore::storage::s3::{AwsSigner, S3Options};
use reqwest::Method;
use serde::Serialize;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A key of AWS KMS.
pub struct Aws {
    client: Client,
    signer: AwsSigner,
    /// With a slash at its end.
    url: String,
    region: String,
    key: String,
    endpoint: Option<String>,
}

/// What a secret is bound to.
type Context = BTreeMap<&'static str, String>;

fn context(binding: &Binding) -> Context {
    binding.pairs().into_iter().collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypt<'a> {
    key_id: &'a str,
    plaintext: &'a str,
    encryption_context: Context,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypt<'a> {
    key_id: &'a str,
    ciphertext_blob: &'a str,
    encryption_context: Context,
}

impl Aws {
    /// The key at a region and endpoint. Of `login`, the credentials count.
    ///
    /// # Errors
    ///
    /// There is no way to it.
    pub fn new(
        region: &str,
        key: &str,
        endpoint: Option<&str>,
        login: &S3Options,
        reach: &Reach,
    ) -> Result<Self, Refusal> {
        // China has a domain of its own ("AWS KMS endpoints and quotas").
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let own = format!("https://kms.{region}.{domain}");
        let url = format!("{}/", endpoint.unwrap_or(&own).trim_end_matches('/'));
        let login = S3Options { region: region.to_owned(), endpoint: String::new(), ..login.clone() };
        let signer = AwsSigner::new("kms", &login);
        let signer =
            signer.map_err(|error| Refusal::new(Kind::NoLogin, chunkstore::error::describe(&error)))?;
        Ok(Self {
            client: Client::new(&url, reach)?,
            signer,
            url,
            region: region.to_owned(),
            key: key.to_owned(),
            endpoint: endpoint.map(str::to_owned),
        })
    }

    fn ask(&self, op: &'static str, target: &str, body: Zeroizing<Vec<u8>>) -> Result<Reply, Refusal> {
        let given = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
        let signed = self.client.wait(self.signer.headers(&self.url, &given, body.to_vec()))?;
        let mut headers = signed.map_err(|error| {
            let why = format!("no credentials of AWS: {}", chunkstore::error::describe(&error));
            // They may come from a service of the machine, which may be down.
            let kind = if error.kind == ErrorKind::Denied { Kind::NoLogin } else { Kind::Away };
            Refusal::new(kind, why)
        })?;
        for name in ["authorization", "x-amz-security-token"] {
            if let Some(value) = headers.get_mut(name) {
                value.set_sensitive(true);
            }
        }
        let reply = self.client.send(op, &Ask { method: Method::POST, url: &self.url, headers, body })?;
        if reply.is_success() { Ok(reply) } else { Err(answers::aws_refused(reply.status, &reply.body)) }
    }
}

impl KeyService for Aws {
    fn describe(&self) -> String {
        let at = self.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("AWS KMS in {}{at}, key {}", self.region, self.key)
    }

    fn is_of(&self, slot: &Address, key: &str) -> bool {
        let Address::Aws { region, key: named, endpoint } = slot else { return false };
        let is_here = *region == self.region && *endpoint == self.endpoint;
        let is_key = *named == self.key || key == self.key || key.ends_with(&format!(":key/{}", self.key));
        is_here && is_key
    }

    fn wrap(&self, secret: &[u8; 32], binding: &Binding) -> Result<Sealed, Refusal> {
        let plain = Zeroizing::new(STANDARD.encode(secret));
        let body =
            json(&Encrypt { key_id: &self.key, plaintext: &plain, encryption_context: context(binding) })?;
        answers::aws_encrypted(&self.ask("Encrypt", "TrentService.Encrypt", body)?.body)
    }

    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        // The key that the user named, not one that the slot names: who wrote the slot may have a key of their own.
        let encryption_context = context(binding);
        let body =
            json(&Decrypt { key_id: &self.key, ciphertext_blob: &sealed.wrapped, encryption_context })?;
        let reply = self.ask("Decrypt", "TrentService.Decrypt", body)?;
        let (key, plain) = answers::aws_decrypted(&reply.body)?;
        if key != sealed.key {
            let why = "it unwrapped with another key than the one that the slot has";
            return Err(Refusal::new(Kind::Context, why));
        }
        secret_of(&plain)
    }
}
