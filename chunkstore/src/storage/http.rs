//! Common code of all stores over HTTP: connections, and the meaning of status codes.

use super::line::Line;
use super::reach::{Connector, SET_UP};
use super::{ErrorKind, StorageError, StorageResult};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How to reach a store over HTTP.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Transfers at the same time.
    pub connections: usize,
    /// Attempts after the first that failed with 5xx, a timeout or a broken connection.
    pub retries: usize,
    /// Longest time in which nothing comes and nothing goes, in seconds.
    pub timeout_s: u64,
    /// Authorities to trust in addition to the system's, as PEM; may be empty.
    pub authorities: Vec<u8>,
    /// Accept any certificate: an attacker on the network can read and change requests.
    pub any_certificate: bool,
    /// User agent of requests; empty for the client's default.
    pub user_agent: String,
    /// Set when the user has had enough: what waits for the store ends soon. Never set by default.
    pub stop: Arc<AtomicBool>,
}

impl HttpOptions {
    /// The client; `place` is for messages. It follows no redirect: what proves who we are is for one host only.
    pub(super) fn connector(&self, allow_http: bool, place: &str) -> StorageResult<Connector> {
        let failed = |source: reqwest::Error| StorageError {
            kind: ErrorKind::Failed,
            op: "open",
            object: place.to_owned(),
            source: source.into(),
        };
        let authorities = match self.authorities.is_empty() {
            true => vec![],
            false => reqwest::Certificate::from_pem_bundle(&self.authorities).map_err(failed)?,
        };
        let client = reqwest::Client::builder()
            .user_agent(self.agent())
            .tls_certs_merge(authorities)
            .tls_danger_accept_invalid_certs(self.any_certificate)
            .https_only(!allow_http)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(SET_UP)
            .build()
            .map_err(failed)?;
        let patience = Duration::from_secs(self.timeout_s);
        Ok(Connector::new(client, allow_http, patience, Line::new(&self.stop)))
    }

    /// The user agent of requests.
    pub(super) fn agent(&self) -> &str {
        match self.user_agent.as_str() {
            "" => concat!("esker/", env!("CARGO_PKG_VERSION")),
            agent => agent,
        }
    }
}

impl Default for HttpOptions {
    fn default() -> Self {
        // Five connections, as restic: enough to hide latency, few enough to bound memory.
        Self {
            connections: 5,
            retries: 8,
            timeout_s: 120,
            authorities: vec![],
            any_certificate: false,
            user_agent: String::new(),
            stop: Arc::default(),
        }
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
    (
        "AuthenticationFailed",
        ErrorKind::Denied,
        "the account key, signature or token is not valid, or no longer",
    ),
    ("InvalidAuthenticationInfo", ErrorKind::Denied, "the token is not valid, or no longer"),
    (
        "UnauthorizedBlobOverwrite",
        ErrorKind::Conflict,
        "there is an object of this name, and the credentials may only create new ones",
    ),
    (
        "AuthorizationPermissionMismatch",
        ErrorKind::Denied,
        "access denied: the credentials lack the right to do this",
    ),
    (
        "AuthorizationFailure",
        ErrorKind::Denied,
        "access denied: the credentials lack the right to do this, or the account's network rules keep this machine out",
    ),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Error codes of the Blob service, as its reference has them: what a code means is said in words.
    #[test]
    fn refusals_of_azure_are_in_words() {
        for (code, kind, words) in [
            ("AuthenticationFailed", ErrorKind::Denied, "token"),
            ("InvalidAuthenticationInfo", ErrorKind::Denied, "token"),
            ("AuthorizationFailure", ErrorKind::Denied, "network rules"),
            ("AuthorizationPermissionMismatch", ErrorKind::Denied, "the right to do this"),
            ("UnauthorizedBlobOverwrite", ErrorKind::Conflict, "only create"),
        ] {
            let answer =
                format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
            let (found, meaning) = explain(&answer).unwrap_or_else(|| panic!("{code}"));
            assert!(found == kind && meaning.contains(words), "{code}: {meaning}");
        }
    }
}
