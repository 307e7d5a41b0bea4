//! A repository in a container of Azure Blob Storage.

use super::cloud::CloudStorage;
use super::identity::NoIdentity;
use super::identity::azure::Identity;
use super::identity::is_own_address;
use super::object::Objects;
use super::requests::{Ask, Requests, Sign, escape_all};
use super::s3::retry;
use super::shelf::{Hidden, Lying, Page, Placing, Retrieval, Shelf, Warmth};
use super::{ErrorKind, HttpOptions, StorageError, StorageResult};
use bytes::Bytes;
use http::Method;
use object_store::Result as ObjectResult;
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider, MicrosoftAzureBuilder};
use object_store::client::HttpRequest;
use object_store::prefix::PrefixStore;
use serde::Deserialize;
use std::sync::Arc;

/// Where the container is and how to get in.
#[derive(Clone, Default)]
pub struct AzureOptions {
    /// `https://account.blob.core.windows.net`, as which it is taken if empty; an emulator's has the account as path.
    pub endpoint: String,
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// Folder in the container; may be empty.
    pub prefix: String,
    /// Account key, in base64.
    pub access_key: String,
    /// A shared access signature instead of the key, as `sv=…&sig=…`.
    pub sas: String,
    /// An identity of Azure, if there is neither a key nor a signature.
    pub identity: Option<Arc<Identity>>,
    /// HTTP.
    pub http: HttpOptions,
}

impl std::fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AzureOptions({}/{}/{})", self.endpoint, self.container, self.prefix)
    }
}

/// Prepares access to a prefix of a container; nothing is sent yet.
///
/// # Errors
///
/// There is no way to it, or nothing that proves who we are. A token of an identity goes to a store whose certificate is
/// verified, or to this machine's own addresses, since whoever sees it can use it.
pub fn open(options: &AzureOptions) -> StorageResult<CloudStorage> {
    let place = format!("azure://{}/{}", options.container, options.prefix);
    let endpoint = match options.endpoint.trim_end_matches('/') {
        "" => format!("https://{}.blob.core.windows.net", options.account),
        endpoint => endpoint.to_owned(),
    };
    let connector = options.http.connector(endpoint.starts_with("http://"), &place)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&options.account)
        .with_container_name(&options.container)
        .with_endpoint(endpoint.clone())
        .with_allow_http(endpoint.starts_with("http://"))
        .with_http_connector(connector.clone())
        .with_retry(retry(&options.http));
    if !options.access_key.is_empty() {
        builder = builder.with_access_key(&options.access_key);
    }
    if !options.sas.is_empty() {
        let pairs = options.sas.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('='));
        builder = builder.with_sas_authorization(
            pairs.map(|(key, value)| (decoded(key), decoded(value))).collect::<Vec<_>>(),
        );
    }
    if options.access_key.is_empty() && options.sas.is_empty() {
        let failed = |why: &str| StorageError {
            kind: ErrorKind::Denied,
            op: "open",
            object: place.clone(),
            source: NoIdentity::refused(why).into(),
        };
        // Otherwise object_store looks for credentials by itself, and elsewhere.
        let identity = options.identity.as_ref().ok_or_else(|| failed("no credentials for this store"))?;
        let is_verified = endpoint.starts_with("https://") && !options.http.any_certificate;
        if !is_verified && !is_own_address(&endpoint) {
            return Err(failed(
                "a token of Azure goes only over https, to a store whose certificate is verified: whoever sees it can use it",
            ));
        }
        builder = builder.with_credentials(Arc::<Identity>::clone(identity));
    }
    let store = builder.build().map_err(|source| StorageError {
        kind: ErrorKind::Failed,
        op: "open",
        object: place.clone(),
        source: source.into(),
    })?;
    let signer =
        AzureSigner { credentials: Arc::clone(store.credentials()), account: options.account.clone() };
    let objects =
        Objects::new(Arc::new(PrefixStore::new(store, options.prefix.as_str())), place, connector.line())?;
    let container = format!("{endpoint}/{}", options.container);
    let requests = Requests::new(&objects, signer, container, &options.prefix, &options.http, &connector);
    Ok(CloudStorage { objects, connections: options.http.connections, shelf: Box::new(AzureShelf(requests)) })
}

struct AzureSigner {
    credentials: AzureCredentialProvider,
    account: String,
}

impl Sign for AzureSigner {
    async fn sign(&self, request: &mut HttpRequest) -> ObjectResult<()> {
        let credential = self.credentials.get_credential().await?;
        AzureAuthorizer::new(&credential, &self.account).try_authorize(request)
    }
}

/// Access tiers, as the Blob service's REST reference describes them (Put Blob, Get Blob Properties, Set Blob
/// Tier). Immutability policies are set for containers by whoever owns the account; there are no locks here.
struct AzureShelf(Requests<AzureSigner>);

impl Shelf for AzureShelf {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        if placing.locked_until.is_some() {
            return self.no_locks(name);
        }
        self.0.objects.put(name, body, placing)
    }

    /// List Blobs. Names that XML cannot have come percent-encoded.
    fn page(&self, folder: &str, from: Option<&str>) -> StorageResult<Page> {
        let prefix = escape_all(&self.0.key(&format!("{folder}/")));
        let from = from.map(|from| format!("&marker={}", escape_all(from))).unwrap_or_default();
        let query = format!("comp=list{from}&prefix={prefix}&restype=container");
        let answer = self.0.send(&Ask::new("list", Method::GET, "", query), &[])?;
        let page: Blobs = quick_xml::de::from_str(&answer.text())
            .map_err(|error| self.0.unreadable(folder, &format!("the store's answer: {error}")))?;
        // Folders of a hierarchical namespace, which are there as long as something is in them.
        let blobs = page.blobs.blobs.into_iter().filter(|blob| !blob.properties.is_folder());
        let objects = blobs.map(|blob| (blob.name.text(), blob.properties.len));
        Ok(Page { objects: self.0.names(objects), next: page.next })
    }

    /// Delete Blob: not every account and signature allows batches (Blob service REST reference, Blob Batch).
    fn remove(&self, name: &str) -> Option<StorageResult<()>> {
        let ask = Ask::new("delete", Method::DELETE, name, "").header("x-ms-delete-snapshots", "include");
        Some(self.0.send(&ask, &[404]).map(drop))
    }

    fn look(&self, name: &str) -> StorageResult<Lying> {
        let answer = self.0.send(&Ask::new("look at", Method::HEAD, name, ""), &[])?;
        let class = answer.header("x-ms-access-tier").map(str::to_owned);
        let warmth = match (class.as_deref(), answer.header("x-ms-archive-status")) {
            (Some("Archive"), Some(status)) if status.starts_with("rehydrate-pending") => Warmth::Thawing,
            (Some("Archive"), _) => Warmth::Frozen,
            _ => Warmth::Hot,
        };
        let len = answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or_default();
        Ok(Lying { len, class, warmth, locked_until: None })
    }

    /// A thawed blob stays so: Azure has no copy that expires, `days` are not used.
    fn thaw(&self, name: &str, _days: u32, retrieval: Retrieval) -> StorageResult<bool> {
        let priority = if retrieval == Retrieval::Expedited { "High" } else { "Standard" };
        if self.look(name)?.warmth != Warmth::Frozen {
            return Ok(false);
        }
        let ask = Ask::new("thaw", Method::PUT, name, "comp=tier")
            .header("x-ms-access-tier", "Hot")
            .header("x-ms-rehydrate-priority", priority);
        // 409: it is at it already.
        Ok(self.0.send(&ask, &[409])?.status.is_success())
    }

    fn lock(&self, name: &str, _until: u64) -> StorageResult<()> {
        self.no_locks(name)
    }

    /// Rules are the account's, beyond the reach of the Blob service.
    fn hazards(&self) -> StorageResult<Vec<String>> {
        Ok(vec![])
    }

    /// Versions are removed with a right of their own; deletes leave them to the account's rules.
    fn is_versioned(&self) -> StorageResult<bool> {
        Ok(false)
    }

    fn hidden(&self) -> StorageResult<Hidden> {
        Ok(Hidden::default())
    }

    fn remove_hidden(&self, _name: &str) -> StorageResult<()> {
        Ok(())
    }
    fn bring_back(&self) -> StorageResult<u64> {
        Ok(0)
    }
}

/// List Blobs.
#[derive(Deserialize)]
struct Blobs {
    #[serde(rename = "Blobs", default)]
    blobs: Listed,
    #[serde(rename = "NextMarker", default)]
    next: Option<String>,
}

#[derive(Default, Deserialize)]
struct Listed {
    #[serde(rename = "Blob", default)]
    blobs: Vec<Blob>,
}

#[derive(Deserialize)]
struct Blob {
    #[serde(rename = "Name")]
    name: Name,
    #[serde(rename = "Properties", default)]
    properties: Properties,
}

#[derive(Deserialize)]
struct Name {
    #[serde(rename = "@Encoded", default)]
    encoded: Option<String>,
    #[serde(rename = "$text", default)]
    text: String,
}

impl Name {
    fn text(self) -> String {
        match self.encoded.as_deref() {
            Some("true") => decoded(&self.text),
            _ => self.text,
        }
    }
}

#[derive(Default, Deserialize)]
struct Properties {
    #[serde(rename = "Content-Length", default)]
    len: u64,
    #[serde(rename = "ResourceType", default)]
    kind: String,
}

impl Properties {
    fn is_folder(&self) -> bool {
        self.kind == "directory"
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl AzureShelf {
    fn no_locks(&self, name: &str) -> StorageResult<()> {
        let why =
            "no locks on Azure: set an immutability policy on the container, and leave object_lock_days out";
        Err(self.0.objects.failed("lock", name, why))
    }
}
