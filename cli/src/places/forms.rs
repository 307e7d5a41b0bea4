//! What people write for a place, read the same in `-r`, esker.toml, `--from-repo` and everywhere. Words before a colon
//! that esker does not know are refused: what looks like another machine must not become a folder on this one.

use engine::secrets::without_secrets;
use std::path::{Path, PathBuf};

/// A place by its parts. Nothing was looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Folder(PathBuf),
    /// Without an endpoint it is that of the environment or the tier, else AWS.
    S3 {
        endpoint: Option<String>,
        bucket: String,
        prefix: String,
    },
    Azure {
        container: String,
        prefix: String,
    },
}

/// What there is, for messages.
pub(crate) const KINDS: &str = "a folder (with a colon in its name: ./a:b or file:a:b), file:/PATH, \
    s3:https://HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX or azure://CONTAINER/PREFIX";

/// Why a place with a key in it is refused. It is not shown.
pub(super) const CREDENTIALS: &str = "credentials do not belong into a place: for S3 set AWS_ACCESS_KEY_ID and \
    AWS_SECRET_ACCESS_KEY, for Azure AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN";

impl Form {
    /// Reads a place. `exists` tells which of a relative path's folders are there.
    pub(crate) fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(format!("the place is blank; there are {KINDS}"));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(format!(
                "'{}' begins or ends with a blank, or has a control character in it",
                engine::shown::line(&without_secrets(text))
            ));
        }
        if text.starts_with(r"\\") {
            return Err(format!("'{}' is a path of Windows; there are {KINDS}", without_secrets(text)));
        }
        // RFC 3986, section 3: what comes before the first colon is a scheme, unless a slash comes before it.
        match text.split_once(':').filter(|(word, _)| !word.contains('/')) {
            None => folder(text, exists),
            Some((word, rest)) => match word.to_ascii_lowercase().as_str() {
                "file" | "local" => file(rest),
                "s3" | "azure" if without_secrets(text) != text => Err(CREDENTIALS.into()),
                "s3" => s3(rest),
                "azure" => azure(rest),
                _ => Err(unknown(word, rest)),
            },
        }
    }
}

fn unknown(word: &str, rest: &str) -> String {
    let shown = match rest.starts_with("//") {
        true => format!("{word}://"),
        false => format!("{word}:"),
    };
    let hint = match word.to_ascii_lowercase().as_str() {
        "http" | "https" => format!("; for a store that speaks S3: s3:{shown}HOST/BUCKET"),
        letter if letter.len() == 1 && rest.starts_with(['\\', '/']) => " (a path of Windows?)".into(),
        _ => String::new(),
    };
    format!("there are no repositories on '{shown}'{hint}; there are {KINDS}")
}

fn folder(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Form, String> {
    if text == "~" || text.starts_with("~/") {
        return Err(format!("'{text}': only a shell knows '~'; write the whole path, or ./{text}"));
    }
    if let Some((first, _)) = text.split_once('/')
        && is_host(first)
        && !exists(Path::new(first))
    {
        return Err(format!(
            "'{0}' looks like a host and a bucket: write s3:https://{0}, or ./{0} for a folder",
            without_secrets(text)
        ));
    }
    Ok(Form::Folder(PathBuf::from(text)))
}

/// Names with a dot that end like a domain (RFC 1035, section 2.3.1).
fn is_host(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    labels.len() > 1
        && labels.iter().all(is_label)
        && labels
            .last()
            .is_some_and(|last| last.len() > 1 && last.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// `file:PATH`, or a URL of RFC 8089, whose host is this one.
fn file(rest: &str) -> Result<Form, String> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.strip_prefix("localhost").unwrap_or(rest) {
            path if path.starts_with('/') => path,
            _ => {
                let shown = without_secrets(&format!("file://{rest}"));
                return Err(format!("'{shown}' names another host; write file:/PATH or file:///PATH"));
            }
        },
    };
    if path.is_empty() {
        return Err("no folder: use file:/PATH".into());
    }
    Ok(Form::Folder(PathBuf::from(path)))
}

fn s3(rest: &str) -> Result<Form, String> {
    const NO_BUCKET: &str = "no bucket: use s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX";
    let (endpoint, path) = match rest.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            let scheme = scheme.to_ascii_lowercase();
            if scheme != "https" && scheme != "http" {
                return Err(format!("a store speaks https or http, not '{scheme}'"));
            }
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if host.is_empty() {
                return Err("no host: use s3:https://HOST/BUCKET/PREFIX".into());
            }
            (Some(format!("{scheme}://{host}")), path)
        }
        _ => match rest.strip_prefix("//") {
            Some(path) => (None, path),
            None => {
                let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
                // A bucket's name may have dots: then it is written with two slashes.
                match first.contains(['.', ':']) || first == "localhost" {
                    true => (Some(format!("https://{first}")), path),
                    false => (None, rest),
                }
            }
        },
    };
    if endpoint.as_ref().is_some_and(|endpoint| endpoint.contains('@')) {
        return Err(CREDENTIALS.into());
    }
    let (bucket, prefix) = parts(path);
    if bucket.is_empty() {
        return Err(NO_BUCKET.into());
    }
    if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
        return Err(format!("'{bucket}' is no bucket's name; with a host: s3:https://HOST/BUCKET/PREFIX"));
    }
    Ok(Form::S3 { endpoint, bucket, prefix })
}

fn azure(rest: &str) -> Result<Form, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let (container, prefix) = parts(path);
    // As restic writes it: azure:CONTAINER:/PREFIX.
    let container = container.strip_suffix(':').unwrap_or(&container).to_owned();
    if container.is_empty() {
        return Err("no container: use azure://CONTAINER/PREFIX".into());
    }
    // Naming and referencing containers, blobs, and metadata: Azure Storage, REST.
    if !container.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'$')) {
        return Err(format!("'{container}' is no container's name; use azure://CONTAINER/PREFIX"));
    }
    Ok(Form::Azure { container, prefix })
}

/// A bucket or container, and the folder in it.
fn parts(path: &str) -> (String, String) {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    (first.to_owned(), rest.trim_matches('/').to_owned())
}

#[cfg(test)]
#[path = "forms_table.rs"]
mod table;
