//! Requests that `object_store` has no call for, sent through its own HTTP client and signed by its own signers:
//! classes, thawing, locks, versions and rules. Common code of all clouds.

use super::http::{Explained, explain};
use super::object::Objects;
use super::reach::{Connector, unreachable};
use super::{ErrorKind, HttpOptions, StorageError, StorageResult};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use object_store::Result as ObjectResult;
use object_store::client::{HttpClient, HttpRequest};
use std::time::Duration;

/// Signs a request in place.
pub(super) trait Sign: Send + Sync {
    /// Adds the headers that the store requires.
    fn sign(&self, request: &mut HttpRequest) -> impl Future<Output = ObjectResult<()>> + Send;
}

/// An answer, read whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What is asked of the store.
pub(super) struct Ask<'a> {
    pub(super) op: &'static str,
    pub(super) method: Method,
    /// The object; the bucket itself if empty.
    pub(super) name: &'a str,
    /// Without `?`.
    pub(super) query: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl<'a> Ask<'a> {
    pub(super) fn new(op: &'static str, method: Method, name: &'a str, query: impl Into<String>) -> Self {
        Self { op, method, name, query: query.into(), headers: vec![], body: Bytes::new() }
    }
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// Sends signed requests about the objects of one bucket.
pub(super) struct Requests<S> {
    pub(super) objects: Objects,
    client: HttpClient,
    signer: S,
    /// URL of the bucket, without a slash at its end.
    bucket: String,
    /// Folder in it; may be empty.
    pub(super) prefix: String,
    retries: usize,
}

/// First pause between attempts; each is twice the last.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Whether a store that answers so may answer otherwise a moment later. With 501 it says that it does not know the call at all
/// (RFC 9110, 15.6.2).
fn is_passing(status: StatusCode) -> bool {
    let is_temporary = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    is_temporary || status == StatusCode::TOO_MANY_REQUESTS
}

impl<S: Sign> Requests<S> {
    pub(super) fn new(
        objects: &Objects,
        signer: S,
        bucket: String,
        prefix: &str,
        options: &HttpOptions,
        connector: &Connector,
    ) -> Self {
        let prefix = prefix.trim_matches('/').to_owned();
        let (objects, client) = (objects.clone(), connector.client());
        Self { objects, client, signer, bucket, prefix, retries: options.retries }
    }

    /// The names of a page of a listing below the repository's place.
    pub(super) fn names(&self, objects: impl Iterator<Item = (String, u64)>) -> Vec<(String, u64)> {
        let place = self.key("");
        objects.filter_map(|(key, len)| Some((key.strip_prefix(&place)?.to_owned(), len))).collect()
    }

    /// An answer with names that others chose, of which the error tells: it is no other folder's.
    pub(super) fn unreadable(&self, folder: &str, why: &str) -> StorageError {
        StorageError { kind: ErrorKind::BadName, ..self.objects.failed("list", folder, why) }
    }

    /// The name of an object within the bucket.
    pub(super) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    fn error(
        &self,
        ask: &Ask<'_>,
        kind: ErrorKind,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StorageError {
        let place = &self.objects.place;
        let object = if ask.name.is_empty() { place.clone() } else { format!("{place}/{}", ask.name) };
        StorageError { kind, op: ask.op, object, source: source.into() }
    }

    /// Sends until there is an answer other than 429 and 5xx but 501; one that is no success is an error, unless `expected`
    /// has its status.
    pub(super) fn send(&self, ask: &Ask<'_>, expected: &[u16]) -> StorageResult<Answer> {
        let answer = self.objects.drive(ask.op, ask.name, async {
            let mut pause = PAUSE;
            for left in (0..=self.retries).rev() {
                let again = match self.once(ask).await {
                    Ok(answer) if is_passing(answer.status) => Ok(answer),
                    Ok(answer) => return Ok(answer),
                    Err(error) => Err(error),
                };
                if left == 0 || again.as_ref().is_err_and(|error| unreachable(&*error.source).is_some()) {
                    return again;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            Err(self.error(ask, ErrorKind::Failed, "no attempt was made"))
        })??;
        if answer.status.is_success() || expected.contains(&answer.status.as_u16()) {
            return Ok(answer);
        }
        let text = answer.text();
        if let Some((kind, meaning)) = explain(&text) {
            tracing::debug!(answer = text, "the store refused");
            return Err(self.error(ask, kind, Explained { meaning }));
        }
        let kind = match answer.status.as_u16() {
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::Conflict,
            401 | 403 => ErrorKind::Denied,
            _ => ErrorKind::Failed,
        };
        Err(self.error(ask, kind, format!("the store answered {}: {text}", answer.status)))
    }

    async fn once(&self, ask: &Ask<'_>) -> StorageResult<Answer> {
        let failed = |why: String| self.error(ask, ErrorKind::Failed, why);
        if has_dots(ask.name) {
            // URLs have no such parts: the request would be about another object (URL standard, "path state").
            return Err(self.error(ask, ErrorKind::BadName, "a part of its name is '.' or '..'"));
        }
        let key =
            if ask.name.is_empty() { String::new() } else { format!("/{}", escape(&self.key(ask.name))) };
        let query = if ask.query.is_empty() { String::new() } else { format!("?{}", ask.query) };
        let mut request =
            Request::builder().method(ask.method.clone()).uri(format!("{}{key}{query}", self.bucket));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if ask.method == Method::PUT || ask.method == Method::POST {
            request = request.header("content-length", ask.body.len());
        }
        let mut request: HttpRequest =
            request.body(ask.body.clone().into()).map_err(|error| failed(error.to_string()))?;
        self.signer
            .sign(&mut request)
            .await
            .map_err(|source| self.objects.error(ask.op, ask.name, source))?;
        let response = self.client.execute(request).await;
        let response = response.map_err(|source| match unreachable(&source) {
            Some(why) => self.error(ask, ErrorKind::Failed, why),
            None => self.error(ask, ErrorKind::Failed, source),
        })?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|source| self.error(ask, ErrorKind::Failed, source))?;
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }
}

/// Whether a part of a name is one that URLs lose.
pub(super) fn has_dots(name: &str) -> bool {
    name.split('/').any(|part| matches!(part, "." | ".."))
}

/// As [`escape`], slashes too: for values of a query.
pub(super) fn escape_all(text: &str) -> String {
    escape(text).replace('/', "%2F")
}

/// Percent-encodes all but what S3's signature (version 4) leaves as it is, and slashes.
pub(super) fn escape(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}
