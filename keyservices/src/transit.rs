//! The transit engine of OpenBao and HashiCorp Vault: `encrypt` and `decrypt` with associated data, as its HTTP API describes them.

use crate::client::{Ask, Client, Reach, Reply, headers, json};
use crate::{Address, Binding, KeyService, Kind, Refusal, Sealed, answers, secret_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Who we are for OpenBao and Vault.
#[derive(Clone, Default)]
pub struct TransitLogin {
    /// The token; empty if there is none.
    pub token: Zeroizing<String>,
}

/// A key of a transit engine.
pub struct Transit {
    client: Client,
    login: TransitLogin,
    origin: String,
    mount: String,
    key: String,
    namespace: String,
}

impl Transit {
    /// The key at an address.
    ///
    /// # Errors
    ///
    /// There is no token, or no way to it.
    pub fn new(
        [origin, mount, key, namespace]: [&str; 4],
        login: TransitLogin,
        reach: &Reach,
    ) -> Result<Self, Refusal> {
        if login.token.is_empty() {
            return Err(Refusal::new(
                Kind::NoLogin,
                "no token: set BAO_TOKEN, VAULT_TOKEN or ESKER_KMS_TOKEN_FILE, or log in with 'bao login' or 'vault login'",
            ));
        }
        Ok(Self {
            client: Client::new(origin, reach)?,
            login,
            origin: origin.to_owned(),
            mount: mount.to_owned(),
            key: key.to_owned(),
            namespace: namespace.to_owned(),
        })
    }

    fn ask(
        &self,
        op: &'static str,
        method: Method,
        what: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Reply, Refusal> {
        let mut pairs = vec![
            ("x-vault-token", self.login.token.as_str(), true),
            ("x-vault-request", "true", false),
            ("content-type", "application/json", false),
        ];
        if !self.namespace.is_empty() {
            pairs.push(("x-vault-namespace", self.namespace.as_str(), false));
        }
        let url = format!("{}/v1/{}/{what}/{}", self.origin, self.mount, self.key);
        self.client.send(op, &Ask { method, url: &url, headers: headers(&pairs)?, body })
    }

    fn change(&self, op: &'static str, name: &str, value: &str, binding: &Binding) -> Result<Reply, Refusal> {
        let bound = STANDARD.encode(binding.text());
        // Derived keys take the context, and cannot do without; others ignore it.
        let body = BTreeMap::from([(name, value), ("associated_data", &bound), ("context", &bound)]);
        let reply = self.ask(op, Method::POST, op, json(&body)?)?;
        if reply.is_success() { Ok(reply) } else { Err(answers::transit_refused(reply.status, &reply.body)) }
    }

    /// Refuses a key that is not there, as far as the token may look: `encrypt` would make one for a token that may.
    fn must_be_there(&self) -> Result<(), Refusal> {
        let reply = self.ask("look", Method::GET, "keys", Zeroizing::default())?;
        match reply.status {
            404 => Err(Refusal::new(
                Kind::Lost,
                "there is no such key, or no transit engine at this mount: make it first",
            )),
            _ => Ok(()),
        }
    }
}

impl KeyService for Transit {
    fn describe(&self) -> String {
        let within = match self.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", namespace {namespace}"),
        };
        format!("the transit engine at {}/{}{within}, key {}", self.origin, self.mount, self.key)
    }

    fn is_of(&self, slot: &Address, _key: &str) -> bool {
        let Address::Transit { origin, mount, key, namespace } = slot else { return false };
        (origin, mount, key, namespace) == (&self.origin, &self.mount, &self.key, &self.namespace)
    }

    fn wrap(&self, secret: &[u8; 32], binding: &Binding) -> Result<Sealed, Refusal> {
        self.must_be_there()?;
        let plain = Zeroizing::new(STANDARD.encode(secret));
        answers::transit_encrypted(&self.change("encrypt", "plaintext", &plain, binding)?.body)
    }

    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        let reply = self.change("decrypt", "ciphertext", &sealed.wrapped, binding)?;
        secret_of(&answers::transit_decrypted(&reply.body)?)
    }
}
