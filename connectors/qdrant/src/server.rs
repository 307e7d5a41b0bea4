//! A Qdrant server, by its REST interface. Source: the OpenAPI description in its repository
//! (github.com/qdrant/qdrant, `docs/redoc/master/openapi.json`).

use crate::settings::API_KEY;
use connector_kit::handshake::SET_UP;
use connector_kit::http::{self, Halt, Line, Wait, builder, chain};
use connector_kit::tls::AUTHORITIES;
use engine::connector::Context;
use engine::log;
use engine::source::{SourceError, SourceErrorKind, without_password};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use std::sync::Arc;

mod collections;
mod description;
mod patience;
mod snapshots;
mod upload;

pub use collections::{Cluster, Replica};
pub use description::Description;
pub use patience::Patience;
pub use snapshots::{Body, Came, Made};
pub use upload::{Unsent, Upload};

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
    line: Arc<Line>,
    patience: Patience,
    options: Context,
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

impl From<Failed> for engine::Error {
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

impl Qdrant {
    /// Reads `qdrant+http[s]://[[:]api-key@]host[:port][/collection]`.
    pub fn new(url: &url::Url, options: &Context) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let error =
            |why: &dyn ToString| SourceError::new(SourceErrorKind::Unavailable, &shown, why.to_string());
        let address = address(url).ok_or_else(|| error(&"no host in the URL"))?;
        engine::secrets::check_host(&address).map_err(|why| error(&why))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(error(&"the URL takes no parameters: host, port and the name of a collection"));
        }
        let scheme = url.scheme().trim_start_matches("qdrant+");
        let decoded =
            |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let collection = url.path().trim_matches('/');
        let user = Some(url.username()).filter(|user| !user.is_empty());
        // Without a colon before it, it stands in the user's place.
        let own = url.password().or(user).map(decoded);
        let key = own.or_else(|| options.settings.get(API_KEY.name).map(str::to_owned));
        let client = builder(options).map_err(|bad| error(&bad))?;
        Ok(Self {
            base: format!("{scheme}://{address}"),
            address,
            collection: (!collection.is_empty()).then(|| decoded(collection)),
            key,
            client: client.build().map_err(|bad| error(&chain(&bad)))?,
            line: Arc::new(Line::new(&options.stop).map_err(|bad| error(&bad))?),
            patience: Patience::default(),
            shown,
            options: options.clone(),
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
        let why = chain(&error.without_url());
        let is_tls = self.base.starts_with("https:");
        let why = chunkstore::storage::reach::explained(&why, is_tls, SET_UP, AUTHORITIES);
        self.silent(format!("{what}: {why}"))
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

    /// What is told of an answer that did not come.
    fn halted(&self, what: &str, halt: Halt) -> Failed {
        match halt {
            Halt::Interrupted => self.silent(format!("{what}: interrupted")),
            Halt::Silent(limit) => self.silent(format!(
                "{what}: no answer from {} within {} s; is this Qdrant's REST port, and what does its log say?",
                self.address,
                limit.as_secs()
            )),
            Halt::Broken(error) => self.cut_off(what, error),
            Halt::Endless => self.silent(format!(
                "{what}: the answer of {} has more than {} MiB, which no such answer has",
                self.address,
                http::MAX_ANSWER >> 20
            )),
        }
    }

    fn send(&self, request: RequestBuilder, wait: Wait, what: &str) -> Result<Response, Failed> {
        let asked = log::asked();
        let answer = self.send_on(request, wait, what);
        asked.told("qdrant", || what.to_owned(), &answer.as_ref().map_err(|failed| &failed.error));
        answer
    }

    fn send_on(&self, request: RequestBuilder, wait: Wait, what: &str) -> Result<Response, Failed> {
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        let response = self.line.send(request, wait).map_err(|halt| self.halted(what, halt))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = self.line.whole(response, Wait::For(self.patience.first)).unwrap_or_default();
        Err(self.refused(what, status.as_u16(), &String::from_utf8_lossy(&said)))
    }

    /// An answer in JSON.
    fn json(&self, request: RequestBuilder, wait: Wait, what: &str) -> Result<Value, Failed> {
        let response = self.send(request, wait, what)?;
        self.read_json(response, wait, what)
    }

    fn read_json(&self, response: Response, wait: Wait, what: &str) -> Result<Value, Failed> {
        let said = self.line.whole(response, wait).map_err(|halt| self.halted(what, halt))?;
        serde_json::from_slice(&said).map_err(|error| self.silent(format!("{what}: {error}")))
    }

    /// What an answer holds under `result`.
    fn result(&self, request: RequestBuilder, wait: Wait, what: &str) -> Result<Value, Failed> {
        self.result_of(self.json(request, wait, what)?, what)
    }

    /// The same of an answer that has come. One without it, such as a proxy gives, is none of Qdrant's.
    fn result_of(&self, mut answer: Value, what: &str) -> Result<Value, Failed> {
        let result = answer.get_mut("result").map(Value::take);
        result.ok_or_else(|| self.silent(format!("{what}: the answer has no result")))
    }

    /// The same of a question, which a server answers soon.
    fn ask(&self, request: RequestBuilder, what: &str) -> Result<Value, Failed> {
        self.result(request, Wait::For(self.patience.answer), what)
    }

    /// The server's version. It is asked for first: a server that says nothing is found out here.
    pub fn version(&self) -> Result<String, Failed> {
        let request = self.client.get(self.url(&[]));
        let value = self.json(request, Wait::For(self.patience.first), "version")?;
        value["version"].as_str().map(str::to_owned).ok_or_else(|| self.silent("this is no Qdrant"))
    }
}
