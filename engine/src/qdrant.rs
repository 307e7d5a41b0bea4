//! A Qdrant server, by its REST interface. Source: the OpenAPI description in its repository
//! (github.com/qdrant/qdrant, `docs/redoc/master/openapi.json`).

use crate::source::{SourceError, SourceErrorKind, UrlOptions, password, without_password};
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;
use std::time::Duration;

/// How long to wait for a connection. Snapshots take as long as they take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may be, in words of an error.
const MAX_WORDS: usize = 500;

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
}

/// A snapshot on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name there.
    pub name: String,
    /// SHA-256 in hexadecimal digits; servers before 1.7 have none.
    pub checksum: Option<String>,
}

impl Qdrant {
    /// Reads `qdrant+http[s]://[:api-key@]host[:port][/collection]`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let error =
            |why: &dyn ToString| SourceError::new(SourceErrorKind::Unavailable, &shown, why.to_string());
        let host =
            url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| error(&"no host in the URL"))?;
        let scheme = url.scheme().trim_start_matches("qdrant+");
        let address = format!("{host}:{}", url.port().unwrap_or(6333));
        let collection = url.path().trim_matches('/');
        let collection = (!collection.is_empty())
            .then(|| percent_encoding::percent_decode_str(collection).decode_utf8_lossy().into_owned());
        // Between two requests a shard may be copied: by then the server has hung up on a connection that waits.
        let mut client =
            Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(None).pool_max_idle_per_host(0);
        if let Some(pem) = &options.tls.authorities {
            for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(|bad| error(&bad))? {
                client = client.add_root_certificate(certificate);
            }
        }
        if let (Some(certificate), Some(key)) = (&options.tls.certificate, &options.tls.key) {
            let both = [certificate.as_slice(), b"\n", key].concat();
            client = client.identity(reqwest::Identity::from_pem(&both).map_err(|bad| error(&bad))?);
        }
        Ok(Self {
            base: format!("{scheme}://{address}"),
            address,
            collection,
            key: password(url).or_else(|| options.qdrant_api_key.clone()),
            client: client.build().map_err(|bad| error(&bad))?,
            shown,
        })
    }

    /// An error about it.
    pub fn error(&self, why: impl ToString) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, &self.shown, why)
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

    fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, SourceError> {
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        let response = request.send().map_err(|error| {
            // The address is in the message already, and it may hold nothing else.
            let why =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            self.error(format!("{what}: cannot connect or was cut off: {why}"))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text: String = response.text().unwrap_or_default().chars().take(MAX_WORDS).collect();
        let words = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|value| Some(value["status"]["error"].as_str()?.to_owned()))
            .unwrap_or(text);
        let hint = match status.as_u16() {
            401 | 403 => {
                " (the API key is missing or wrong: ESKER_QDRANT_API_KEY or ESKER_QDRANT_API_KEY_FILE)"
            }
            _ => "",
        };
        Err(self.error(format!("{what}: {status}: {words}{hint}")))
    }

    /// What an answer holds under `result`.
    fn result(&self, request: RequestBuilder, what: &str) -> Result<Value, SourceError> {
        let mut value: Value =
            self.send(request, what)?.json().map_err(|error| self.error(format!("{what}: {error}")))?;
        Ok(value["result"].take())
    }

    /// The server's version.
    pub fn version(&self) -> Result<String, SourceError> {
        let response = self.send(self.client.get(self.url(&[])), "version")?;
        let value: Value = response.json().map_err(|error| self.error(error))?;
        value["version"].as_str().map(str::to_owned).ok_or_else(|| self.error("this is no Qdrant"))
    }

    /// Names of collections, in order.
    pub fn collections(&self) -> Result<Vec<String>, SourceError> {
        let found = self.result(self.client.get(self.url(&["collections"])), "collections")?;
        let list = found["collections"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            list.iter().filter_map(|collection| Some(collection["name"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    /// What the server says of a collection; `None` if there is none of that name.
    pub fn collection(&self, name: &str) -> Result<Option<Value>, SourceError> {
        match self.result(self.client.get(self.url(&["collections", name])), "collection") {
            Err(error) if error.why.contains("404") => Ok(None),
            found => found.map(Some),
        }
    }

    /// Ids of the shards of a collection that lie on this server.
    pub fn local_shards(&self, name: &str) -> Result<Vec<u64>, SourceError> {
        let found = self.result(self.client.get(self.url(&["collections", name, "cluster"])), "shards")?;
        let list = found["local_shards"].as_array().cloned().unwrap_or_default();
        Ok(list.iter().filter_map(|shard| shard["shard_id"].as_u64()).collect())
    }

    /// Aliases and their collections, in order.
    pub fn aliases(&self) -> Result<Vec<(String, String)>, SourceError> {
        let found = self.result(self.client.get(self.url(&["aliases"])), "aliases")?;
        let list = found["aliases"].as_array().cloned().unwrap_or_default();
        let text = |alias: &Value, key: &str| alias[key].as_str().map(str::to_owned);
        let mut aliases: Vec<_> = list
            .iter()
            .filter_map(|alias| Some((text(alias, "alias_name")?, text(alias, "collection_name")?)))
            .collect();
        aliases.sort();
        Ok(aliases)
    }

    /// Makes a snapshot of a shard.
    pub fn make_snapshot(&self, collection: &str, shard: u64) -> Result<Made, SourceError> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshots"]);
        let made = self.result(self.client.post(url).query(&[("wait", "true")]), "snapshot")?;
        let name = made["name"].as_str().ok_or_else(|| self.error("snapshot: the answer names none"))?;
        Ok(Made { name: name.to_owned(), checksum: made["checksum"].as_str().map(str::to_owned) })
    }

    /// Reads a snapshot of a shard.
    pub fn download(&self, collection: &str, shard: u64, name: &str) -> Result<Response, SourceError> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        self.send(self.client.get(url), "download")
    }

    /// Removes a snapshot of a shard.
    pub fn delete_snapshot(&self, collection: &str, shard: u64, name: &str) -> Result<(), SourceError> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        self.send(self.client.delete(url).query(&[("wait", "true")]), "remove the snapshot").map(drop)
    }

    /// Creates a collection as one that was backed up was configured.
    pub fn create_collection(&self, name: &str, config: &Value) -> Result<(), SourceError> {
        let mut wanted = serde_json::Map::new();
        if let Some(params) = config["params"].as_object() {
            wanted.extend(params.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        for (from, to) in [
            ("hnsw_config", "hnsw_config"),
            ("optimizer_config", "optimizers_config"),
            ("wal_config", "wal_config"),
            ("quantization_config", "quantization_config"),
            ("strict_mode_config", "strict_mode_config"),
        ] {
            if !config[from].is_null() {
                wanted.insert(to.to_owned(), config[from].clone());
            }
        }
        let request = self.client.put(self.url(&["collections", name])).json(&Value::Object(wanted));
        self.result(request, "create the collection").map(drop)
    }

    /// Removes a collection.
    pub fn delete_collection(&self, name: &str) -> Result<(), SourceError> {
        self.result(self.client.delete(self.url(&["collections", name])), "remove the collection").map(drop)
    }

    /// Gives a collection another name, besides.
    pub fn create_alias(&self, alias: &str, collection: &str) -> Result<(), SourceError> {
        let action =
            serde_json::json!({"create_alias": {"alias_name": alias, "collection_name": collection}});
        let request = self.client.post(self.url(&["collections", "aliases"]));
        self.result(request.json(&serde_json::json!({"actions": [action]})), "alias").map(drop)
    }

    /// Uploads a snapshot of a shard of `len` bytes and takes its data over.
    pub fn upload(
        &self,
        collection: &str,
        shard: u64,
        snapshot: impl std::io::Read + Send + 'static,
        len: u64,
        checksum: Option<&str>,
        priority: &str,
    ) -> Result<(), SourceError> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshots", "upload"]);
        let part = reqwest::blocking::multipart::Part::reader_with_length(snapshot, len)
            .file_name(format!("shard-{shard}.snapshot"));
        let form = reqwest::blocking::multipart::Form::new().part("snapshot", part);
        let mut request = self.client.post(url).query(&[("wait", "true"), ("priority", priority)]);
        if let Some(checksum) = checksum {
            request = request.query(&[("checksum", checksum)]);
        }
        self.send(request.multipart(form), "upload").map(drop)
    }

    /// Points of a collection, counted one by one.
    pub fn count(&self, name: &str) -> Result<u64, SourceError> {
        let request = self.client.post(self.url(&["collections", name, "points", "count"]));
        let found = self.result(request.json(&serde_json::json!({"exact": true})), "count")?;
        found["count"].as_u64().ok_or_else(|| self.error("count: no number"))
    }
}
