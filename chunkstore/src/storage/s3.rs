//! A repository in an S3 bucket, through `object_store`. HEAD is swapped with `If-Match` on its ETag
//! and created with `If-None-Match: *`. An ETag is a hash of the body, and every HEAD carries a fresh
//! nonce, so no two are equal.

use super::object::Objects;
use super::{ErrorKind, HttpOptions, Storage, StorageError, StorageResult, Version};
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, Error as ObjectError, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion, path::Path,
};
use std::sync::Arc;
use std::time::Duration;

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
    /// HTTP.
    pub http: HttpOptions,
}

impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Options({}/{}/{})", self.endpoint, self.bucket, self.prefix)
    }
}

/// Objects under a prefix of a bucket.
pub struct S3Storage {
    objects: Objects,
    connections: usize,
}

impl S3Storage {
    /// Prepares access; nothing is sent yet.
    pub fn open(options: &S3Options) -> StorageResult<Self> {
        let place = format!("s3:{}/{}/{}", options.endpoint, options.bucket, options.prefix);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&options.bucket)
            .with_region(if options.region.is_empty() { "us-east-1" } else { &options.region })
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_allow_http(options.endpoint.starts_with("http://"))
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: options.http.retries,
                retry_timeout: Duration::from_secs(options.http.timeout_s),
            })
            .with_client_options(
                ClientOptions::new()
                    .with_timeout(Duration::from_secs(options.http.timeout_s))
                    .with_allow_http(options.endpoint.starts_with("http://")),
            );
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
        let store = PrefixStore::new(store, options.prefix.as_str());
        Ok(Self { objects: Objects::new(Arc::new(store), place)?, connections: options.http.connections })
    }
}

impl Storage for S3Storage {
    fn place(&self) -> String {
        self.objects.place.clone()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects.put(name, body)
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.objects.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.objects.get_range(name, offset, len)
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.objects.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.objects.list(folder, each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.objects.delete(name)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        let read = async {
            let found = self.objects.store.get(&Path::from(name)).await?;
            let version = found.meta.e_tag.clone().unwrap_or_default();
            Ok((found.bytes().await?, Version(version)))
        };
        match self.objects.runtime.block_on(read) {
            Ok(found) => Ok(Some(found)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.objects.error("read", name, source)),
        }
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let mode = match expected {
            None => PutMode::Create,
            Some(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None }),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let path = Path::from(name);
        let swap = self.objects.store.put_opts(&path, PutPayload::from_bytes(body), options);
        match self.objects.runtime.block_on(swap) {
            Ok(_) => Ok(()),
            Err(source) => {
                let error = self.objects.error("swap", name, source);
                // The request may have got through before the answer was lost, and a 412 may be for
                // our own first attempt: the caller reads back and looks for its nonce.
                let kind = match error.kind {
                    ErrorKind::Failed | ErrorKind::NotFound => ErrorKind::Ambiguous,
                    kind => kind,
                };
                Err(StorageError { kind, ..error })
            }
        }
    }
    fn connections(&self) -> usize {
        self.connections
    }
    fn is_near(&self) -> bool {
        false
    }
}
