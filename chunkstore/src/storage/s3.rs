//! A repository in an S3 bucket.

use super::cloud::CloudStorage;
use super::identity::aws::Identity;
use super::identity::{NoIdentity, missing};
use super::object::Objects;
use super::reach::Connector;
use super::requests::Requests;
use super::{ErrorKind, HttpOptions, StorageError, StorageResult};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider, S3ConditionalPut};
use object_store::client::HttpRequest;
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
    /// Access key; empty with an identity.
    pub access_key_id: String,
    /// Secret key.
    pub secret_access_key: String,
    /// Session token of temporary credentials.
    pub session_token: String,
    /// A role of AWS, if there is no key.
    pub identity: Option<Arc<Identity>>,
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

impl S3Options {
    fn region(&self) -> &str {
        if self.region.is_empty() { "us-east-1" } else { &self.region }
    }
}

/// A bucket as `object_store` has it, and how to get in.
fn bucket(options: &S3Options, connector: &Connector, place: &str) -> StorageResult<AmazonS3> {
    let region = options.region();
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
    let failed = |kind, source: Box<dyn std::error::Error + Send + Sync>| {
        let object = place.to_owned();
        StorageError { kind, op: "open", object, source }
    };
    if options.access_key_id.is_empty() {
        // Otherwise object_store looks for credentials by itself, and elsewhere.
        let none = || failed(ErrorKind::Denied, NoIdentity::refused("no credentials for this store").into());
        let identity = options.identity.as_ref().ok_or_else(none)?;
        builder = builder.with_credentials(Arc::<Identity>::clone(identity));
    } else {
        builder = builder
            .with_access_key_id(&options.access_key_id)
            .with_secret_access_key(&options.secret_access_key);
        if !options.session_token.is_empty() {
            builder = builder.with_token(&options.session_token);
        }
    }
    builder.build().map_err(|source| failed(ErrorKind::Failed, source.into()))
}

/// Prepares access to a prefix of a bucket; nothing is sent yet.
pub fn open(options: &S3Options) -> StorageResult<CloudStorage> {
    let place = format!("s3:{}/{}/{}", options.endpoint, options.bucket, options.prefix);
    let region = options.region();
    let connector = options.http.connector(options.endpoint.starts_with("http://"), &place)?;
    let store = bucket(options, &connector, &place)?;
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

/// Signs requests to another service of AWS, with the credentials that a bucket is reached with.
pub struct AwsSigner {
    credentials: AwsCredentialProvider,
    service: &'static str,
    region: String,
}

impl AwsSigner {
    /// Of a service, by its name in signatures; nothing is sent yet. Of the options, region, credentials and HTTP count.
    pub fn new(service: &'static str, options: &S3Options) -> StorageResult<Self> {
        // The request that is signed is sent by others.
        let connector = options.http.connector(false, service)?;
        // A name is a must, and no bucket of it is ever asked for.
        let options = S3Options { bucket: service.into(), endpoint: String::new(), ..options.clone() };
        let credentials = Arc::clone(bucket(&options, &connector, service)?.credentials());
        Ok(Self { credentials, service, region: options.region().to_owned() })
    }

    /// The headers of a POST with this body, the given ones among them, signed.
    pub async fn headers(
        &self,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> StorageResult<http::HeaderMap> {
        let failed = |kind, source: Box<dyn std::error::Error + Send + Sync>| {
            let object = self.service.to_owned();
            StorageError { kind, op: "sign a request to", object, source }
        };
        let mut request = http::Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(bytes::Bytes::from(body).into());
        let mut request: HttpRequest = request.map_err(|error| failed(ErrorKind::Failed, error.into()))?;
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| match missing(&error) {
            Some(why) => failed(ErrorKind::from(&why), why.into()),
            None => failed(ErrorKind::Denied, error.into()),
        })?;
        let signed = AwsAuthorizer::new(&credential, self.service, &self.region);
        let signed = signed.try_authorize(&mut request, None);
        signed.map_err(|error| failed(ErrorKind::Failed, error.into()))?;
        Ok(request.into_parts().0.headers)
    }
}

/// How `object_store` is to try again. It counts time from the first attempt, and one upload over a slow line may take
/// long; how often is what bounds it.
pub(super) fn retry(http: &HttpOptions) -> RetryConfig {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    RetryConfig { backoff: BackoffConfig::default(), max_retries: http.retries, retry_timeout: LONGEST }
}
