//! Where a repository or a tier lies, from what people write, to an open store.

use crate::config::environment;
use crate::exit::Failure;
use chunkstore::storage::azure::{self, AzureOptions};
use chunkstore::storage::limit::{Limited, Rates};
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::{HttpOptions, Storage};
use std::path::PathBuf;
use std::sync::Arc;

/// What goes with a place and is not part of its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    pub(crate) http: HttpOptions,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) lock_governance: bool,
}

/// A place.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    S3(Box<S3Options>),
    Azure(Box<AzureOptions>),
}

impl Place {
    /// Reads what people write: a folder, `file:FOLDER`, `s3:https://HOST/BUCKET/PREFIX`, `s3://BUCKET/PREFIX`,
    /// `azure://CONTAINER/PREFIX`. Credentials come from where the clouds' own tools look for them.
    pub(crate) fn parse(text: &str, details: &Details) -> Result<Self, Failure> {
        if let Some(rest) = text.strip_prefix("s3:") {
            return s3_options(rest, details).map(|options| Self::S3(Box::new(options)));
        }
        if let Some(rest) = text.strip_prefix("azure://").or_else(|| text.strip_prefix("azure:")) {
            return azure_options(rest, details).map(|options| Self::Azure(Box::new(options)));
        }
        let folder = ["local:", "file://", "file:"].iter().find_map(|scheme| text.strip_prefix(scheme));
        if let (None, Some((scheme, _))) = (folder, text.split_once("://")) {
            return Err(Failure::new(format!(
                "repositories on '{scheme}' are not supported; use a folder, s3: or azure:"
            )));
        }
        match folder.unwrap_or(text) {
            "" => Err(Failure::new("no folder: use file:/PATH")),
            folder => Ok(Self::Folder(PathBuf::from(folder))),
        }
    }

    /// Opens it; a folder is made if it is to be created.
    pub(crate) fn open(&self, create: bool, rates: Rates) -> Result<Arc<dyn Storage>, Failure> {
        let storage: Arc<dyn Storage> = match self {
            Self::S3(options) => Arc::new(s3::open(options)?),
            Self::Azure(options) => Arc::new(azure::open(options)?),
            Self::Folder(folder) if create => Arc::new(LocalStorage::create(folder)?),
            Self::Folder(folder) if folder.is_dir() => Arc::new(LocalStorage::open(folder)?),
            Self::Folder(folder) => {
                return Err(chunkstore::Error::NoRepository { place: folder.display().to_string() }.into());
            }
        };
        Ok(if rates == Rates::default() { storage } else { Arc::new(Limited::new(storage, rates)) })
    }
}

/// `https://host/bucket/prefix`, `host/bucket/prefix` or `//bucket/prefix`.
fn s3_options(rest: &str, details: &Details) -> Result<S3Options, Failure> {
    let (endpoint, path) = if let Some(path) = rest.strip_prefix("//") {
        let endpoint = details.endpoint.clone().or_else(|| environment("AWS_ENDPOINT_URL"));
        (endpoint.unwrap_or_default(), path.to_owned())
    } else {
        let (scheme, rest) = match rest.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => ("https", rest),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        (format!("{scheme}://{host}"), path.to_owned())
    };
    let path = path.trim_end_matches('/');
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let prefix = prefix.trim_start_matches('/');
    if bucket.is_empty() {
        return Err(Failure::new("no bucket: use s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX"));
    }
    let region = details.region.clone().or_else(|| environment("AWS_REGION"));
    let mut options = S3Options {
        endpoint,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        region: region.or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or_default(),
        access_key_id: environment("AWS_ACCESS_KEY_ID").unwrap_or_default(),
        secret_access_key: environment("AWS_SECRET_ACCESS_KEY").unwrap_or_default(),
        session_token: environment("AWS_SESSION_TOKEN").unwrap_or_default(),
        lock_governance: details.lock_governance,
        http: details.http.clone(),
    };
    // A profile that is named goes before the environment; one that is the default, after it.
    let named = details.profile.clone().or_else(|| environment("AWS_PROFILE"));
    if details.profile.is_some() || options.access_key_id.is_empty() {
        let wanted = named.is_some();
        read_profile(&mut options, &named.unwrap_or_else(|| "default".into()), wanted)?;
    }
    Ok(options)
}

/// Credentials and region of a profile, from the files of the AWS command line.
fn read_profile(options: &mut S3Options, profile: &str, wanted: bool) -> Result<(), Failure> {
    let home = environment("HOME").map(PathBuf::from).unwrap_or_default().join(".aws");
    let file =
        |name: &str, variable: &str| environment(variable).map_or_else(|| home.join(name), PathBuf::from);
    let credentials = file("credentials", "AWS_SHARED_CREDENTIALS_FILE");
    let config = file("config", "AWS_CONFIG_FILE");
    let section = if profile == "default" { profile.to_owned() } else { format!("profile {profile}") };
    let mut found = false;
    for (path, section) in [(&config, section.as_str()), (&credentials, profile)] {
        let Ok(ini) = ini::Ini::load_from_file(path) else { continue };
        let Some(values) = ini.section(Some(section)) else { continue };
        found = true;
        let value = |key: &str| values.get(key).map(str::to_owned);
        if let (Some(id), Some(secret)) = (value("aws_access_key_id"), value("aws_secret_access_key")) {
            (options.access_key_id, options.secret_access_key) = (id, secret);
            options.session_token = value("aws_session_token").unwrap_or_default();
        }
        if options.region.is_empty() {
            options.region = value("region").unwrap_or_default();
        }
        if options.endpoint.is_empty() {
            options.endpoint = value("endpoint_url").unwrap_or_default();
        }
    }
    if found || !wanted {
        return Ok(());
    }
    Err(Failure::new(format!(
        "there is no profile '{profile}' in {} or {}",
        credentials.display(),
        config.display()
    )))
}

/// `container/prefix`.
fn azure_options(rest: &str, details: &Details) -> Result<AzureOptions, Failure> {
    let (container, prefix) = rest.trim_matches('/').split_once('/').unwrap_or((rest.trim_matches('/'), ""));
    if container.is_empty() {
        return Err(Failure::new("no container: use azure://CONTAINER/PREFIX"));
    }
    let either = |names: [&str; 2]| names.into_iter().find_map(environment);
    let account =
        details.account.clone().or_else(|| either(["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]));
    let account = account.ok_or_else(|| {
        Failure::new("which storage account? Set AZURE_STORAGE_ACCOUNT, or 'account' of the tier")
    })?;
    Ok(AzureOptions {
        endpoint: details
            .endpoint
            .clone()
            .or_else(|| environment("AZURE_STORAGE_ENDPOINT"))
            .unwrap_or_default(),
        account,
        container: container.to_owned(),
        prefix: prefix.to_owned(),
        access_key: either(["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]).unwrap_or_default(),
        sas: either(["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]).unwrap_or_default(),
        http: details.http.clone(),
    })
}
