//! Credentials of Azure and what goes with them, as its own tools find them: the account's key or a signature, then an application's
//! secret or token, then the machine's identity. docs/places.md has the order.

use super::identities::{Identities, none_empty, proved};
use super::{Details, without_credentials};
use crate::exit::Failure;
use crate::variables::{environment, environment_path, environment_text};
use chunkstore::storage::azure::AzureOptions;
use chunkstore::storage::identity::azure::{ARC_KEYS, AUTHORITY, How, Identity, Login, METADATA, STORAGE};
use zeroize::Zeroizing;

const KEYS: [&str; 2] = ["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
const SIGNATURES: [&str; 2] = ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"];

static IDENTITIES: Identities<Login, Identity> = Identities::new();

pub(super) fn options(container: String, prefix: String, details: &Details) -> Result<AzureOptions, Failure> {
    let either = |names: [&str; 2]| names.into_iter().find_map(environment);
    let account =
        details.account.clone().or_else(|| either(["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]));
    let account = account.ok_or_else(|| {
        Failure::new("which storage account? Set AZURE_STORAGE_ACCOUNT, or 'account' of the tier")
    })?;
    let endpoint = details.endpoint.clone().or_else(|| environment("AZURE_STORAGE_ENDPOINT"));
    let endpoint = endpoint.unwrap_or_default();
    without_credentials(&endpoint)?;
    Ok(AzureOptions {
        endpoint,
        account,
        container,
        prefix,
        access_key: either(KEYS).unwrap_or_default(),
        sas: either(SIGNATURES).unwrap_or_default(),
        identity: None,
        http: details.http.clone(),
    })
}

/// The options of a store with what proves who we are, which is asked for and comes before anything is asked of the store: without
/// it every request would fail for itself.
pub(super) fn proven(options: &AzureOptions) -> Result<AzureOptions, Failure> {
    const WHAT: &str = "Azure";
    if !options.access_key.is_empty() || !options.sas.is_empty() {
        return Ok(options.clone());
    }
    let keys = format!("set {} or {}", KEYS[0], SIGNATURES[0]);
    let missing = |why: &str| Failure::new(format!("no credentials for {WHAT}: {why}"));
    none_empty(&[KEYS, SIGNATURES].concat()).map_err(|why| missing(&format!("{keys} ({why})")))?;
    let login = azure_login()?;
    let else_set = if matches!(login.how, How::Machine(_)) { format!("{keys}; or ") } else { String::new() };
    let identity = IDENTITIES.of(login, &options.http.authorities, |login| {
        Identity::new(login, STORAGE, &options.http).map_err(|why| missing(&why.to_string()))
    })?;
    proved(WHAT, &else_set, identity.prove(WHAT, &options.http.stop))?;
    Ok(AzureOptions { identity: Some(identity), ..options.clone() })
}

/// Who we are for Azure, in the order of its own tools (`DefaultAzureCredential`): an application with a secret, one with a token of
/// another issuer, the machine. Nobody is asked yet.
pub(crate) fn azure_login() -> Result<Login, Failure> {
    let text = |name: &str| Ok::<_, Failure>(environment_text(name)?.unwrap_or_default());
    let (tenant, client) = (text("AZURE_TENANT_ID")?, text("AZURE_CLIENT_ID")?);
    let authority = text("AZURE_AUTHORITY_HOST")?;
    let authority = match authority.as_str() {
        "" => AUTHORITY.to_owned(),
        url if url.contains("://") => url.to_owned(),
        host => format!("https://{host}"),
    };
    // An application without a tenant would be taken for the machine otherwise.
    let of_application = |name: &str| match (tenant.is_empty(), client.is_empty()) {
        (false, false) => Ok(()),
        (true, _) => Err(Failure::new(format!("{name} is set, but not AZURE_TENANT_ID"))),
        (_, true) => Err(Failure::new(format!("{name} is set, but not AZURE_CLIENT_ID"))),
    };
    let (endpoint, header) = (environment_text("IDENTITY_ENDPOINT")?, environment_text("IDENTITY_HEADER")?);
    let how = if let Some(secret) = environment_text("AZURE_CLIENT_SECRET")? {
        of_application("AZURE_CLIENT_SECRET")?;
        How::Secret(Zeroizing::new(secret))
    } else if let Some(file) = environment_path("AZURE_FEDERATED_TOKEN_FILE") {
        of_application("AZURE_FEDERATED_TOKEN_FILE")?;
        How::Federated(file)
    } else {
        match (endpoint, header, environment_text("IMDS_ENDPOINT")?) {
            (Some(endpoint), Some(header), _) => How::Endpoint(endpoint, Zeroizing::new(header)),
            (Some(endpoint), None, Some(_)) => How::Arc(endpoint, ARC_KEYS.into()),
            (Some(_), None, None) => {
                let why = "IDENTITY_ENDPOINT is set, but neither IDENTITY_HEADER (App Service) nor IMDS_ENDPOINT (Azure Arc)";
                return Err(Failure::new(why));
            }
            (None, ..) => {
                let named = environment_text("AZURE_POD_IDENTITY_AUTHORITY_HOST")?;
                How::Machine(named.unwrap_or_else(|| METADATA.to_owned()))
            }
        }
    };
    Ok(Login { authority, tenant, client, how })
}
