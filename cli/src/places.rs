//! From the text of a place to an open store: where a repository or a tier is.

use crate::exit::Failure;
use crate::variables::{environment, environment_path};
use crate::{small, words};
use chunkstore::storage::azure::{self, AzureOptions};
use chunkstore::storage::limit::{Limited, Rates};
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::logged::Logged;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::{HttpOptions, Storage};
use engine::names::{path_bytes, path_text};
use engine::shown;
use forms::Form;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod credentials;
mod forms;

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

/// How a folder is made that is to be a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// It must be there.
    No,
    /// For its owner alone.
    Private,
    /// For its group, too.
    Shared,
}

/// A place.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    S3(Box<S3Options>),
    Azure(Box<AzureOptions>),
}

impl Place {
    /// Reads what people write; docs/places.md has the forms. Credentials come from where the clouds' own tools look
    /// for them.
    pub(crate) fn parse(word: &OsStr, details: &Details) -> Result<Self, Failure> {
        let there = |path: &Path| bytes_of(path).exists();
        match Form::parse(&path_text(word.as_bytes()), there).map_err(Failure::new)? {
            Form::Folder(folder) => Ok(Self::Folder(bytes_of(&folder))),
            Form::S3 { endpoint, bucket, prefix } => {
                if let (Some(host), Some(given)) = (&endpoint, &details.endpoint)
                    && host.trim_end_matches('/') != given.trim_end_matches('/')
                {
                    without_credentials(given)?;
                    return Err(Failure::new(format!(
                        "the place names {host}, and 'endpoint' {given}: leave one of them out"
                    )));
                }
                let endpoint = endpoint.or_else(|| details.endpoint.clone());
                s3_options(endpoint, bucket, text_of(&prefix)?, details)
                    .map(|options| Self::S3(Box::new(options)))
            }
            Form::Azure { container, prefix } => azure_options(container, text_of(&prefix)?, details)
                .map(|options| Self::Azure(Box::new(options))),
        }
    }

    /// How it is reached over HTTP, if it is.
    pub(crate) fn http(&mut self) -> Option<&mut HttpOptions> {
        match self {
            Self::Folder(_) => None,
            Self::S3(options) => Some(&mut options.http),
            Self::Azure(options) => Some(&mut options.http),
        }
    }

    /// Opens it; a folder is made if it is to be.
    pub(crate) fn open(&self, make: Make, rates: Rates) -> Result<Arc<dyn Storage>, Failure> {
        let storage: Arc<dyn Storage> = match self {
            Self::S3(options) => {
                credentials::of_amazon(options, "S3")?;
                let http = HttpOptions { stop: small::stop(), ..options.http.clone() };
                Arc::new(s3::open(&S3Options { http, ..(**options).clone() })?)
            }
            Self::Azure(options) => {
                credentials::of_azure(options)?;
                let http = HttpOptions { stop: small::stop(), ..options.http.clone() };
                Arc::new(azure::open(&AzureOptions { http, ..(**options).clone() })?)
            }
            Self::Folder(folder) if make == Make::No => {
                if !folder.is_dir() {
                    return Err(chunkstore::Error::NoRepository { place: shown::path(folder) }.into());
                }
                Arc::new(LocalStorage::open(folder)?)
            }
            Self::Folder(folder) => Arc::new(LocalStorage::create(folder, make == Make::Shared)?),
        };
        let storage: Arc<dyn Storage> = Arc::new(Logged::new(storage));
        Ok(if rates == Rates::default() {
            storage
        } else {
            Arc::new(Limited::new(storage, rates, small::stop()))
        })
    }

    /// Whether one of the two lies in the other, or both are one, however they were written.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.identity(), other.identity());
        let lies_in = |inner: &str, outer: &str| {
            let outer = outer.trim_end_matches('/');
            inner.trim_end_matches('/') == outer || inner.starts_with(&format!("{outer}/"))
        };
        lies_in(&ours, &theirs) || lies_in(&theirs, &ours)
    }

    /// What tells it from other places, however it was written.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Folder(folder) => {
                format!("file:{}", shown::path(&real(folder)))
            }
            Self::S3(options) => {
                format!("s3:{}/{}/{}", origin(&options.endpoint), options.bucket, plain(&options.prefix))
            }
            Self::Azure(options) => {
                let account = options.account.to_ascii_lowercase();
                let (own, endpoint) =
                    (format!("{account}.blob.core.windows.net:443"), origin(&options.endpoint));
                let host = if endpoint == AMAZON { own } else { endpoint };
                format!("azure:{host}/{account}/{}/{}", options.container, plain(&options.prefix))
            }
        }
    }
}

/// A folder without links and `..`, also where it, or what it lies in, is not there yet.
fn real(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    for above in whole.ancestors() {
        if let (Ok(found), Ok(rest)) = (above.canonicalize(), whole.strip_prefix(above)) {
            let mut real = found;
            for part in rest.components() {
                match part {
                    std::path::Component::ParentDir => drop(real.pop()),
                    part => real.push(part),
                }
            }
            return real;
        }
    }
    whole
}

/// What an endpoint that is not said stands for: the cloud's own.
const AMAZON: &str = "aws";

/// Host and port of an endpoint, in one form. Buckets of AWS have names that are theirs everywhere, so its hosts are one.
fn origin(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.to_ascii_lowercase();
    let bare = host.split(':').next().unwrap_or_default();
    if host.is_empty() || bare.ends_with(".amazonaws.com") || bare.ends_with(".amazonaws.com.cn") {
        return AMAZON.into();
    }
    let host = host.replace("localhost", "127.0.0.1").replace("[::1]", "127.0.0.1");
    let has_port = host.rsplit(':').next().is_some_and(|port| {
        port.len() < host.len() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    let port = match (has_port, scheme.eq_ignore_ascii_case("http")) {
        (true, _) => "",
        (false, true) => ":80",
        (false, false) => ":443",
    };
    format!("{host}{port}/{}", plain(path)).trim_end_matches('/').to_owned()
}

/// A prefix as the store sees it: object_store leaves empty parts out.
fn plain(prefix: &str) -> String {
    prefix.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// Refuses an endpoint with a key in it, wherever it was set.
fn without_credentials(endpoint: &str) -> Result<(), Failure> {
    let is_plain = !endpoint.contains('@') && engine::secrets::without_secrets(endpoint) == endpoint;
    if is_plain { Ok(()) } else { Err(Failure::new(forms::CREDENTIALS)) }
}

/// A folder that the reversible form of a word named.
fn bytes_of(path: &Path) -> PathBuf {
    let bytes = path.to_str().map_or_else(|| path.as_os_str().as_bytes().to_vec(), path_bytes);
    PathBuf::from(OsString::from_vec(bytes))
}

/// The same of a name in a store, which is text.
fn text_of(name: &str) -> Result<String, Failure> {
    words::text(OsStr::from_bytes(&path_bytes(name)), "the place in the store")
}

/// The credentials of AWS that there are for another service of it, `what`.
pub(crate) fn amazon(region: &str, http: HttpOptions, what: &str) -> Result<S3Options, Failure> {
    let details = Details { http, region: Some(region.to_owned()), ..Details::default() };
    // An endpoint for S3 means nothing there.
    let options = s3_options(Some(format!("https://{region}")), String::new(), String::new(), &details)?;
    credentials::of_amazon(&options, what)?;
    Ok(options)
}

fn s3_options(
    endpoint: Option<String>,
    bucket: String,
    prefix: String,
    details: &Details,
) -> Result<S3Options, Failure> {
    let region = details.region.clone().or_else(|| environment("AWS_REGION"));
    let endpoint = endpoint.or_else(|| environment("AWS_ENDPOINT_URL"));
    let mut options = S3Options {
        endpoint: endpoint.unwrap_or_default(),
        bucket,
        prefix,
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
    without_credentials(&options.endpoint)?;
    Ok(options)
}

/// Credentials and region of a profile, from the files of the AWS command line.
fn read_profile(options: &mut S3Options, profile: &str, wanted: bool) -> Result<(), Failure> {
    let home = crate::user::home_folder().unwrap_or_default().join(".aws");
    let file = |name: &str, variable: &str| environment_path(variable).unwrap_or_else(|| home.join(name));
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

fn azure_options(container: String, prefix: String, details: &Details) -> Result<AzureOptions, Failure> {
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
        access_key: either(["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"]).unwrap_or_default(),
        sas: either(["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]).unwrap_or_default(),
        http: details.http.clone(),
    })
}
