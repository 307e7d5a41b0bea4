//! What all stores behind HTTP share: how to reach them, and what their error codes mean.

use super::ErrorKind;

/// How to reach a store over HTTP.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Transfers at the same time.
    pub connections: usize,
    /// Attempts after the first that failed with 5xx, a timeout or a broken connection.
    pub retries: usize,
    /// Longest time without an answer, in seconds.
    pub timeout_s: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        // Five connections, as restic: enough to hide latency, few enough to bound memory.
        Self { connections: 5, retries: 8, timeout_s: 120 }
    }
}

/// What the codes in S3's and Azure's answers mean for the caller, where the status alone misleads. From the
/// lists of error codes in the S3 API reference and of the Blob service.
const CODES: &[(&str, ErrorKind, &str)] = &[
    (
        "InvalidObjectState",
        ErrorKind::Frozen,
        "the object is frozen: it must be thawed before it can be read",
    ),
    ("BlobArchived", ErrorKind::Frozen, "the object is archived: it must be thawed before it can be read"),
    ("BlobBeingRehydrated", ErrorKind::Frozen, "the object is being thawed"),
    // Answered as 404, but it is not the object that is missing.
    ("NoSuchBucket", ErrorKind::Failed, "there is no such bucket; create it first"),
    ("ContainerNotFound", ErrorKind::Failed, "there is no such container; create it first"),
    (
        "RequestTimeTooSkewed",
        ErrorKind::Failed,
        "the clock of this machine is off by more than 15 minutes; set it right",
    ),
    ("ExpiredToken", ErrorKind::Denied, "the session token has expired; get new credentials"),
    ("TokenRefreshRequired", ErrorKind::Denied, "the session token has expired; get new credentials"),
    ("InvalidAccessKeyId", ErrorKind::Denied, "the store does not know this access key"),
    ("SignatureDoesNotMatch", ErrorKind::Denied, "the secret key is not that of the access key"),
    ("AuthenticationFailed", ErrorKind::Denied, "the account key or signature is wrong"),
    ("AuthorizationHeaderMalformed", ErrorKind::Failed, "the bucket is in another region; set 'region'"),
    ("PermanentRedirect", ErrorKind::Failed, "the bucket is in another region; set 'region' or 'endpoint'"),
    (
        "SlowDown",
        ErrorKind::Failed,
        "the store asks for fewer requests; use fewer connections or a bandwidth limit",
    ),
    (
        "ServerBusy",
        ErrorKind::Failed,
        "the store asks for fewer requests; use fewer connections or a bandwidth limit",
    ),
    ("InvalidStorageClass", ErrorKind::Failed, "the store does not know this storage class"),
    ("QuotaExceeded", ErrorKind::Full, "the quota of this account or bucket is used up"),
    ("XMinioStorageFull", ErrorKind::Full, "the store has no room left"),
    (
        "AccessDenied",
        ErrorKind::Denied,
        "access denied: the credentials lack the right to do this, or the object is locked",
    ),
];

/// What an answer's text means, if it names one of the known codes.
pub(super) fn explain(answer: &str) -> Option<(ErrorKind, &'static str)> {
    let found = CODES.iter().find(|(code, _, _)| answer.contains(code));
    found.map(|(_, kind, meaning)| (*kind, *meaning))
}

/// A store's refusal: its meaning first, its own words last.
#[derive(Debug, thiserror::Error)]
#[error("{meaning}")]
pub(super) struct Explained {
    pub(super) meaning: &'static str,
}
