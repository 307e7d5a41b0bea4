//! Tokens of Azure for a machine or a program: by a client's secret, by a federated token (workload identity), or from the machine
//! itself (managed identity).

use crate::client::{Ask, Client, Reach, headers};
use crate::refusal::said;
use crate::{Kind, Refusal, answers};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Where Azure's machines ask who they are ("Azure Instance Metadata Service").
const METADATA: &str = "http://169.254.169.254";
/// It is as near as the host of the machine.
const METADATA_WAIT: Duration = Duration::from_secs(2);
/// A token is not used in its last minute.
const SPARE: Duration = Duration::from_secs(60);
/// Longest federated token, in bytes.
const MAX_TOKEN: u64 = 64 << 10;

/// How Azure is told who we are.
#[derive(Clone)]
pub enum How {
    /// An application's own secret.
    Secret(Zeroizing<String>),
    /// A file with a token of another issuer, which is written anew from time to time.
    Federated(PathBuf),
    /// This machine's identity, from the endpoint that App Service and others name, with their header.
    Endpoint(String, Zeroizing<String>),
    /// This machine's identity.
    Machine,
}

/// Who we are for Azure.
#[derive(Clone)]
pub struct AzureLogin {
    /// `https://login.microsoftonline.com`, or what is in its place.
    pub authority: String,
    /// The tenant; empty for a machine's identity.
    pub tenant: String,
    /// The application, or the identity of several; may be empty.
    pub client: String,
    /// The proof.
    pub how: How,
}

/// Gives tokens, each for as long as it is good.
pub(crate) struct Tokens {
    login: AzureLogin,
    resource: &'static str,
    reach: Reach,
    known: Mutex<Option<(Zeroizing<String>, Instant)>>,
}

impl Tokens {
    pub(crate) fn new(login: AzureLogin, resource: &'static str, reach: &Reach) -> Self {
        Self { login, resource, reach: reach.clone(), known: Mutex::new(None) }
    }

    /// A token that is good now.
    pub(crate) fn get(&self) -> Result<Zeroizing<String>, Refusal> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, _)) = known.as_ref().filter(|(_, until)| Instant::now() + SPARE < *until) {
            return Ok(token.clone());
        }
        let (token, seconds) = self
            .ask()
            .map_err(|refusal| Refusal { why: format!("no token of Azure: {}", refusal.why), ..refusal })?;
        *known = Some((token.clone(), Instant::now() + Duration::from_secs(seconds)));
        Ok(token)
    }

    fn ask(&self) -> Result<(Zeroizing<String>, u64), Refusal> {
        let client = &self.login.client;
        match &self.login.how {
            How::Secret(secret) => self.of_tenant(&[
                ("grant_type", "client_credentials"),
                ("client_id", client),
                ("client_secret", secret),
            ]),
            How::Federated(file) => {
                let token = read(file)?;
                self.of_tenant(&[
                    ("grant_type", "client_credentials"),
                    ("client_id", client),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                    ("client_assertion", token.trim()),
                ])
            }
            How::Endpoint(endpoint, header) => {
                let version = [("api-version", "2019-08-01")];
                self.of_machine(
                    endpoint,
                    &version,
                    &[("x-identity-header", header, true)],
                    self.reach.timeout,
                )
            }
            How::Machine => {
                let url = format!("{METADATA}/metadata/identity/oauth2/token");
                let version = [("api-version", "2018-02-01")];
                let asked = self.of_machine(&url, &version, &[("metadata", "true", false)], METADATA_WAIT);
                asked.map_err(|refusal| Refusal {
                    why: format!(
                        "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE are not set, and this \
                         machine's metadata service gives none: {refusal}"
                    ),
                    ..refusal
                })
            }
        }
    }

    /// "Microsoft identity platform and the OAuth 2.0 client credentials flow".
    fn of_tenant(&self, fields: &[(&str, &str)]) -> Result<(Zeroizing<String>, u64), Refusal> {
        let scope = format!("{}/.default", self.resource);
        let mut form = Zeroizing::new(pair("scope", &scope));
        for (name, value) in fields {
            form.push('&');
            form.push_str(&Zeroizing::new(pair(name, value)));
        }
        let url = format!("{}/{}/oauth2/v2.0/token", self.login.authority, self.login.tenant);
        let headers = headers(&[("content-type", "application/x-www-form-urlencoded", false)])?;
        let body = Zeroizing::new(form.as_bytes().to_vec());
        let ask = Ask { method: Method::POST, url: &url, headers, body };
        self.sent(&ask, self.reach.timeout)
    }

    fn of_machine(
        &self,
        endpoint: &str,
        more: &[(&str, &str)],
        proof: &[(&'static str, &str, bool)],
        timeout: Duration,
    ) -> Result<(Zeroizing<String>, u64), Refusal> {
        let mut url = format!("{endpoint}?{}", pair("resource", self.resource));
        let id = ("client_id", self.login.client.as_str());
        for (name, value) in more.iter().chain((!self.login.client.is_empty()).then_some(&id)) {
            url = format!("{url}&{}", pair(name, value));
        }
        let ask =
            Ask { method: Method::GET, url: &url, headers: headers(proof)?, body: Zeroizing::default() };
        self.sent(&ask, timeout)
    }

    fn sent(&self, ask: &Ask<'_>, timeout: Duration) -> Result<(Zeroizing<String>, u64), Refusal> {
        let client = Client::new(ask.url, &Reach { timeout, ..self.reach.clone() })?;
        let reply = client.send("token", ask)?;
        if reply.is_success() {
            return answers::azure_token(&reply.body);
        }
        let kind = if reply.status >= 500 || reply.status == 429 { Kind::Away } else { Kind::NoLogin };
        let why = format!("it answers {} ({})", reply.status, said(&problem(&reply.body)));
        Err(Refusal::new(kind, why))
    }
}

/// What an answer of OAuth 2.0 says of a failure.
fn problem(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let of = |name: &str| answer[name].as_str().map(str::to_owned);
    of("error_description").or_else(|| of("error")).unwrap_or_default()
}

fn pair(name: &str, value: &str) -> String {
    format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

fn read(file: &PathBuf) -> Result<Zeroizing<String>, Refusal> {
    let failed = |why: String| Refusal::new(Kind::NoLogin, format!("{}: {why}", file.display()));
    let len = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if len > MAX_TOKEN {
        return Err(failed(format!("more than {} KiB are no token", MAX_TOKEN >> 10)));
    }
    std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| failed(error.to_string()))
}
