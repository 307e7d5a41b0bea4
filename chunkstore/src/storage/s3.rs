//! A repository in an S3 bucket.

use super::cloud::CloudStorage;
use super::object::Objects;
use super::requests::Requests;
use super::{ErrorKind, HttpOptions, StorageError, StorageResult};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, RetryConfig};
use shelf::{S3Shelf, S3Signer};
use std::sync::Arc;
use std::time::Duration;

mod answers;
mod shelf;

/// Where the bucket is and how to get in.
#[derive(Clone, Default)]
pub struct S3Options {
    /// `https://host[:port]`; AWS itself if empty.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Folder in the bucket; may be empty.
    pub prefix: String,
    /// Region; `us-east-1` if empty.
    pub region: String,
    /// Access key, empty for the instance's own role.
    pub access_key_id: String,
    /// Secret key.
    pub secret_access_key: String,
    /// Session token of temporary credentials.
    pub session_token: String,
    /// Locks may be removed with a special right (`GOVERNANCE`) instead of by nobody (`COMPLIANCE`).
    pub lock_governance: bool,
    /// HTTP.
    pub http: HttpOptions,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Options({}/{}/{})", self.endpoint, self.bucket, self.prefix)
    }
}

/// Prepares access to a prefix of a bucket; nothing is sent yet.
pub fn open(options: &S3Options) -> StorageResult<CloudStorage> {
    let place = format!("s3:{}/{}/{}", options.endpoint, options.bucket, options.prefix);
    let region = if options.region.is_empty() { "us-east-1" } else { &options.region };
    let connector = options.http.connector(options.endpoint.starts_with("http://"), &place)?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_region(region)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_allow_http(options.endpoint.starts_with("http://"))
        .with_http_connector(connector.clone())
        // Objects are removed one by one, and some stores know no call for many.
        .with_disable_bulk_delete(true)
        .with_retry(retry(&options.http));
    if !options.endpoint.is_empty() {
        builder = builder.with_endpoint(&options.endpoint);
    }
    if !options.access_key_id.is_empty() {
        builder = builder
            .with_access_key_id(&options.access_key_id)
            .with_secret_access_key(&options.secret_access_key);
    }
    if !options.session_token.is_empty() {
        builder = builder.with_token(&options.session_token);
    }
    let store = builder.build().map_err(|source| StorageError {
        kind: ErrorKind::Failed,
        op: "open",
        object: place.clone(),
        source: source.into(),
    })?;
    let signer = S3Signer { credentials: Arc::clone(store.credentials()), region: region.to_owned() };
    let objects =
        Objects::new(Arc::new(PrefixStore::new(store, options.prefix.as_str())), place, connector.line())?;
    let endpoint = match options.endpoint.trim_end_matches('/') {
        "" => format!("https://s3.{region}.amazonaws.com"),
        endpoint => endpoint.to_owned(),
    };
    let bucket = format!("{endpoint}/{}", options.bucket);
    let requests = Requests::new(&objects, signer, bucket, &options.prefix, &options.http, &connector);
    let shelf = Box::new(S3Shelf::new(requests, options.lock_governance));
    Ok(CloudStorage { objects, connections: options.http.connections, shelf })
}

/// How `object_store` is to try again. It counts time from the first attempt, and one upload over a slow line may take
/// long; how often is what bounds it.
pub(super) fn retry(http: &HttpOptions) -> RetryConfig {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    RetryConfig { backoff: BackoffConfig::default(), max_retries: http.retries, retry_timeout: LONGEST }
}
