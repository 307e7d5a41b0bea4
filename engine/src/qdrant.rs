//! A Qdrant server, by its REST interface. Source: the OpenAPI description in its repository
//! (github.com/qdrant/qdrant, `docs/redoc/master/openapi.json`).

use crate::source::{SourceError, SourceErrorKind, UrlOptions, without_password};
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;
use std::time::Duration;

mod collections;
mod description;
mod snapshots;
mod upload;

pub use collections::{Cluster, Replica};
pub use description::Description;
pub use snapshots::Made;
pub use upload::{Unsent, Upload};

/// How long to wait for a connection. Snapshots take as long as they take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may be, in words of an error.
const MAX_WORDS: usize = 500;
/// The port if the URL has none.
const PORT: u16 = 6333;

/// A server, or one collection of it.
#[derive(Clone)]
pub struct Qdrant {
    /// `host:port`.
    pub address: String,
    /// The collection that the URL names.
    pub collection: Option<String>,
    /// The URL without secrets.
    pub shown: String,
    base: String,
    key: Option<String>,
    client: Client,
    options: UrlOptions,
}

/// A request that failed.
#[derive(Debug)]
pub struct Failed {
    /// What the server answered; `None` if it answered nothing.
    pub status: Option<u16>,
    /// What to tell.
    pub error: SourceError,
}

impl From<Failed> for SourceError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<Failed> for crate::Error {
    fn from(failed: Failed) -> Self {
        Self::Source(failed.error)
    }
}

/// `host:port` of a URL.
#[must_use]
pub fn address(url: &url::Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(format!("{host}:{}", url.port().unwrap_or(PORT)))
}

/// An error and all that caused it: the first link alone says "client error (Connect)" of every fault of TLS.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut all: Vec<String> = vec![];
    let mut next = Some(error);
    while let Some(link) = next {
        let words = link.to_string();
        if all.last().is_none_or(|last| !last.ends_with(&words)) {
            all.push(words);
        }
        next = link.source();
    }
    all.join(": ")
}

impl Qdrant {
    /// Reads `qdrant+http[s]://[[:]api-key@]host[:port][/collection]`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let error =
            |why: &dyn ToString| SourceError::new(SourceErrorKind::Unavailable, &shown, why.to_string());
        let address = address(url).ok_or_else(|| error(&"no host in the URL"))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(error(&"the URL takes no parameters: host, port and the name of a collection"));
        }
        let scheme = url.scheme().trim_start_matches("qdrant+");
        let decoded =
            |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let collection = url.path().trim_matches('/');
        let user = Some(url.username()).filter(|user| !user.is_empty());
        let options = UrlOptions {
            // Without a colon before it, it stands in the user's place.
            qdrant_api_key: url.password().or(user).map(decoded).or_else(|| options.qdrant_api_key.clone()),
            ..options.clone()
        };
        let client = reqwest::blocking::ClientBuilder::from(builder(&options).map_err(|bad| error(&bad))?);
        Ok(Self {
            base: format!("{scheme}://{address}"),
            address,
            collection: (!collection.is_empty()).then(|| decoded(collection)),
            key: options.qdrant_api_key.clone(),
            client: client.timeout(None).build().map_err(|bad| error(&chain(&bad)))?,
            shown,
            options,
        })
    }

    /// An error about it.
    pub fn error(&self, why: impl ToString) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, &self.shown, why)
    }

    fn silent(&self, why: impl ToString) -> Failed {
        Failed { status: None, error: self.error(why) }
    }

    /// A path of segments, each escaped.
    fn url(&self, segments: &[&str]) -> String {
        let mut url = self.base.clone();
        for segment in segments {
            url.push('/');
            url.extend(percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC));
        }
        url
    }

    /// What nothing was heard of.
    fn cut_off(&self, what: &str, error: reqwest::Error) -> Failed {
        // The address is in the message already.
        self.silent(format!("{what}: cannot connect or was cut off: {}", chain(&error.without_url())))
    }

    /// What the server refused, in its words.
    fn refused(&self, what: &str, status: u16, text: &str) -> Failed {
        let text: String = text.chars().take(MAX_WORDS).collect();
        let words = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|value| Some(value["status"]["error"].as_str()?.to_owned()))
            .unwrap_or(text);
        let hint = match status {
            401 => " (the API key is missing or wrong: ESKER_QDRANT_API_KEY or ESKER_QDRANT_API_KEY_FILE)",
            // Servers before 1.9 refuse a wrong key so.
            403 if words.to_lowercase().contains("invalid api") => {
                " (the API key is wrong: ESKER_QDRANT_API_KEY or ESKER_QDRANT_API_KEY_FILE)"
            }
            403 => " (the server knows the API key, but it has too few rights for this)",
            300..=399 => " (the server sends elsewhere; name that place in the URL)",
            _ => "",
        };
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        Failed { status: Some(status), error: self.error(format!("{what}: {status}{words}{hint}")) }
    }

    fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, Failed> {
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        let response = request.send().map_err(|error| self.cut_off(what, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(self.refused(what, status.as_u16(), &response.text().unwrap_or_default()))
    }

    /// What an answer holds under `result`.
    fn result(&self, request: RequestBuilder, what: &str) -> Result<Value, Failed> {
        let mut value: Value = self
            .send(request, what)?
            .json()
            .map_err(|error| self.silent(format!("{what}: {}", chain(&error.without_url()))))?;
        Ok(value["result"].take())
    }

    /// The server's version.
    pub fn version(&self) -> Result<String, Failed> {
        let response = self.send(self.client.get(self.url(&[])), "version")?;
        let value: Value = response.json().map_err(|_| self.silent("this is no Qdrant"))?;
        value["version"].as_str().map(str::to_owned).ok_or_else(|| self.silent("this is no Qdrant"))
    }
}

/// A client that is not built yet.
fn builder(options: &UrlOptions) -> Result<reqwest::ClientBuilder, String> {
    options.tls.check()?;
    let mut client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // Between two requests a shard may be copied: by then the server has hung up on a connection that waits.
        .pool_max_idle_per_host(0)
        // The key goes to the server that the URL names, and to no other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(pem) = &options.tls.authorities {
        let certificates = reqwest::Certificate::from_pem_bundle(pem);
        client = client.tls_certs_only(certificates.map_err(|bad| format!("tls.ca: {}", chain(&bad)))?);
    }
    if let (Some(certificate), Some(key)) = (&options.tls.certificate, &options.tls.key) {
        let both = [certificate.as_slice(), b"\n", key].concat();
        let identity = reqwest::Identity::from_pem(&both);
        client = client.identity(identity.map_err(|bad| format!("tls.cert and tls.key: {}", chain(&bad)))?);
    }
    Ok(client)
}
