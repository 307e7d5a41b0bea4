//! From the text of a place to an open store: where a repository or a tier is.

use crate::exit::Failure;
use crate::{small, words};
use chunkstore::storage::azure::AzureOptions;
use chunkstore::storage::limit::{Limited, Rates};
use chunkstore::storage::local::LocalStorage;
use chunkstore::storage::logged::Logged;
use chunkstore::storage::s3::S3Options;
use chunkstore::storage::{HttpOptions, Storage};
use engine::names::{path_bytes, path_text};
use engine::shown;
use forms::Form;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod amazon;
mod azure;
mod forms;
mod identities;

pub(crate) use amazon::amazon;
pub(crate) use azure::azure_login;

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

/// A place that another machine is to find, as its flag `--place` says it: its form is checked, and a folder is made absolute,
/// since that machine may stand in another one. How the place is reached from there is not known here.
pub(crate) fn for_another_machine(word: &OsStr) -> Result<OsString, Failure> {
    if word.is_empty() {
        return Err(Failure::usage("--place: no place is given"));
    }
    // Nothing is looked up here.
    let form = Form::parse(&path_text(word.as_bytes()), |_: &Path| false);
    match form.map_err(|why| Failure::usage(format!("--place: {why}")))? {
        Form::Folder(folder) => Ok(std::path::absolute(bytes_of(&folder))?.into_os_string()),
        Form::S3 { .. } | Form::Azure { .. } => Ok(word.to_owned()),
    }
}

impl Place {
    /// Reads what people write; docs/places.md has the forms. Credentials come from where the clouds' own tools look
    /// for them.
    pub(crate) fn parse(word: &OsStr, details: &Details) -> Result<Self, Failure> {
        let there = |path: &Path| bytes_of(path).exists();
        match Form::parse(&path_text(word.as_bytes()), there).map_err(Failure::usage)? {
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
                amazon::options(endpoint, bucket, text_of(&prefix)?, details)
                    .map(|options| Self::S3(Box::new(options)))
            }
            Form::Azure { container, prefix } => azure::options(container, text_of(&prefix)?, details)
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
                let http = HttpOptions { stop: small::stop(), ..options.http.clone() };
                let options = amazon::proven(&S3Options { http, ..(**options).clone() })?;
                Arc::new(chunkstore::storage::s3::open(&options)?)
            }
            Self::Azure(options) => {
                let http = HttpOptions { stop: small::stop(), ..options.http.clone() };
                let options = azure::proven(&AzureOptions { http, ..(**options).clone() })?;
                Arc::new(chunkstore::storage::azure::open(&options)?)
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
    if is_plain { Ok(()) } else { Err(Failure::usage(forms::CREDENTIALS)) }
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
