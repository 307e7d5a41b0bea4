//! The URL of a key service and of a key in it: what users name, and what slots say. It has no credentials.

use chunkstore::format::MAX_SERVICE_LEN;
use percent_encoding::percent_decode_str;
use std::fmt::{self, Display, Formatter};
use url::{Host, Url};

/// Hosts of Azure's vaults, and what a token for each is for. A token is good for every vault of its owner, so it is sent to
/// no other host.
const AZURE_HOSTS: &[(&str, &str)] = &[
    (".vault.azure.net", "https://vault.azure.net"),
    (".vault.azure.cn", "https://vault.azure.cn"),
    (".vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net"),
    (".managedhsm.azure.net", "https://managedhsm.azure.net"),
];

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `aws-kms://REGION/KEY[?endpoint=URL]`
    Aws {
        /// The region.
        region: String,
        /// A key's id, its ARN, an alias (`alias/NAME`), or an alias's ARN.
        key: String,
        /// Another endpoint than the region's own.
        endpoint: Option<String>,
    },
    /// `vault://HOST[:PORT]/MOUNT/KEY[?namespace=NAME]`: the transit engine of OpenBao and Vault.
    Transit {
        /// `https://HOST:PORT`; `http:` on the machine's own addresses.
        origin: String,
        /// Where the engine is mounted.
        mount: String,
        /// The key.
        key: String,
        /// The namespace; may be empty.
        namespace: String,
    },
    /// `azure-kv://VAULT.vault.azure.net/KEY[/VERSION]`
    Azure {
        /// The host, with a port if it is not 443.
        host: String,
        /// The key.
        key: String,
        /// A version of it; any if empty.
        version: String,
    },
}

/// What all forms are.
const FORMS: &str = "a key service is aws-kms://REGION/KEY, vault://HOST:8200/MOUNT/KEY or azure-kv://VAULT.vault.azure.net/KEY";

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SERVICE_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the URL of a key service has at most {MAX_SERVICE_LEN} visible letters of ASCII"
            ));
        }
        let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if place.contains('@') || text.contains('#') {
            return Err(
                "the URL of a key service has no credentials in it: docs/keys.md says where they come from"
                    .into(),
            );
        }
        let (host, path) = place.split_once('/').ok_or(FORMS)?;
        let parts: Vec<&str> = path.split('/').collect();
        let is_whole =
            !host.is_empty() && parts.iter().all(|part| !part.is_empty() && !matches!(*part, "." | ".."));
        if !is_whole {
            return Err(FORMS.into());
        }
        match scheme {
            "aws-kms" => aws(host, path, query),
            "vault" | "vault+http" => transit(scheme == "vault+http", host, &parts, query),
            "azure-kv" => azure(host, &parts, query),
            _ => Err(FORMS.into()),
        }
    }

    /// What an Azure token has to be for, if the host may have one.
    pub(crate) fn azure_resource(host: &str) -> Option<&'static str> {
        let name = host.split(':').next().unwrap_or_default();
        if is_loopback(name) {
            return AZURE_HOSTS.first().map(|(_, resource)| *resource);
        }
        let found = AZURE_HOSTS.iter().find(|(end, _)| {
            name.strip_suffix(end).is_some_and(|vault| !vault.is_empty() && !vault.contains('.'))
        });
        found.map(|(_, resource)| *resource)
    }
}

/// Reads `name=value` pairs, of which only `known` may be there, once.
fn only(query: &str, known: &str) -> Result<Option<String>, String> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != known || found.is_some() {
            return Err(format!("'{name}' is no part of the URL of this key service, or is there twice"));
        }
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{known} is not UTF-8"))?;
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) || value.contains(['&', '?', '#']) {
            return Err(format!("{known} has letters that it cannot have"));
        }
        found = Some(value.into_owned());
    }
    Ok(found.filter(|value| !value.is_empty()))
}

fn named(what: &str, text: &str, more: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.as_bytes().contains(&byte);
    match text.bytes().all(fits) && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(format!("'{text}' is no {what}")),
    }
}

/// The machine's own addresses.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `scheme://host[:port]` in one form. Plain HTTP is for the machine's own addresses only: whatever proves who we are goes over it.
fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("{text}: {error}"))?;
    let host = url.host().ok_or_else(|| format!("{text} has no host"))?;
    let is_near = match &host {
        Host::Domain(name) => is_loopback(name),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && is_near) {
        return Err(format!("{text}: a key service is reached over https; plain http only on this machine"));
    }
    if url.path() != "/" || url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{text}: only scheme, host and port belong here"));
    }
    let port = url.port_or_known_default().unwrap_or_default();
    Ok(format!("{}://{host}:{port}", url.scheme()))
}

fn aws(region: &str, key: &str, query: &str) -> Result<Address, String> {
    let region = named("region of AWS", region, "-")?;
    let key = named("key of AWS KMS", key, "-_/:.")?;
    let is_known = !key.contains('/') || key.starts_with("alias/") || key.starts_with("arn:");
    if !is_known {
        return Err(format!("'{key}' is no key of AWS KMS: give its id, its ARN or alias/NAME"));
    }
    let endpoint = only(query, "endpoint")?.map(|endpoint| origin(&endpoint)).transpose()?;
    Ok(Address::Aws { region, key, endpoint })
}

fn transit(is_plain: bool, host: &str, parts: &[&str], query: &str) -> Result<Address, String> {
    let (key, mount) = parts.split_last().ok_or(FORMS)?;
    if mount.is_empty() {
        return Err("the transit engine's mount is missing: vault://HOST:8200/MOUNT/KEY".into());
    }
    let mount: Result<Vec<String>, String> =
        mount.iter().map(|part| named("mount of a transit engine", part, "-_.")).collect();
    let namespace = only(query, "namespace")?.unwrap_or_default();
    let namespace = namespace.trim_matches('/');
    if !namespace.is_empty() {
        named("namespace", namespace, "-_./")?;
    }
    let host = match host.contains(':') {
        true => host.to_owned(),
        // The servers' own port.
        false => format!("{host}:8200"),
    };
    Ok(Address::Transit {
        origin: origin(&format!("{}://{host}", if is_plain { "http" } else { "https" }))?,
        mount: mount?.join("/"),
        key: named("key of a transit engine", key, "-_.")?,
        namespace: namespace.to_owned(),
    })
}

fn azure(host: &str, parts: &[&str], query: &str) -> Result<Address, String> {
    if !query.is_empty() {
        return Err("the URL of a vault of Azure has nothing behind a '?'".into());
    }
    let full = origin(&format!("https://{host}"))?;
    let host = full.trim_start_matches("https://").trim_end_matches(":443").to_owned();
    if Address::azure_resource(&host).is_none() {
        let known: Vec<String> = AZURE_HOSTS.iter().map(|(end, _)| format!("VAULT{end}")).collect();
        return Err(format!("{host} is no host of Azure's vaults ({})", known.join(", ")));
    }
    let (key, version) = match parts {
        [key] => (*key, ""),
        [key, version] => (*key, *version),
        _ => return Err(FORMS.into()),
    };
    if !version.is_empty() {
        named("version of a key", version, "")?;
    }
    Ok(Address::Azure { host, key: named("key of a vault", key, "-")?, version: version.to_owned() })
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws { region, key, endpoint } => {
                write!(f, "aws-kms://{region}/{key}")?;
                endpoint.iter().try_for_each(|endpoint| write!(f, "?endpoint={endpoint}"))
            }
            Self::Transit { origin, mount, key, namespace } => {
                let (scheme, host) = origin.split_once("://").unwrap_or(("https", origin));
                let scheme = if scheme == "http" { "vault+http" } else { "vault" };
                write!(f, "{scheme}://{host}/{mount}/{key}")?;
                if namespace.is_empty() { Ok(()) } else { write!(f, "?namespace={namespace}") }
            }
            Self::Azure { host, key, version } => {
                write!(f, "azure-kv://{host}/{key}")?;
                if version.is_empty() { Ok(()) } else { write!(f, "/{version}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_one_form() {
        for (text, expected) in [
            ("aws-kms://eu-central-1/alias/esker", "aws-kms://eu-central-1/alias/esker"),
            (
                "aws-kms://eu-central-1/arn:aws:kms:eu-central-1:1:key/0a-1b",
                "aws-kms://eu-central-1/arn:aws:kms:eu-central-1:1:key/0a-1b",
            ),
            ("aws-kms://r/0a-1b?endpoint=https://h", "aws-kms://r/0a-1b?endpoint=https://h:443"),
            (
                "aws-kms://r/0a?endpoint=http%3A%2F%2F127.0.0.1%3A5000",
                "aws-kms://r/0a?endpoint=http://127.0.0.1:5000",
            ),
            ("vault://Host/transit/k", "vault://host:8200/transit/k"),
            ("vault://h:1/team/transit/k?namespace=/a/b/", "vault://h:1/team/transit/k?namespace=a/b"),
            ("vault+http://127.0.0.1:8200/transit/k", "vault+http://127.0.0.1:8200/transit/k"),
            ("vault://[::1]:8200/transit/k", "vault://[::1]:8200/transit/k"),
            ("azure-kv://V.vault.azure.net/k", "azure-kv://v.vault.azure.net/k"),
            ("azure-kv://v.vault.azure.net:443/k/0a1b", "azure-kv://v.vault.azure.net/k/0a1b"),
            ("azure-kv://127.0.0.1:8443/k", "azure-kv://127.0.0.1:8443/k"),
        ] {
            let read = Address::parse(text).unwrap();
            assert_eq!(read.to_string(), expected);
            assert_eq!(Address::parse(expected), Ok(read));
        }
    }

    /// What would send credentials in clear, to hosts that they are not for, or with something else in the URL.
    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "aws-kms://",
            "aws-kms:///k",
            "aws-kms://eu/",
            "aws-kms://eu/a b",
            "aws-kms://eu/x/y",
            "aws-kms://eu/k?endpoint=http://example.org",
            "aws-kms://eu/k?endpoint=ftp://h",
            "aws-kms://eu/k?endpoint=https://h/path",
            "aws-kms://eu/k?other=1",
            "aws-kms://eu/k?endpoint=https://h&endpoint=https://i",
            "aws-kms://id:key@eu/k",
            "vault://h/k",
            "vault://h//k",
            "vault://h/../k",
            "vault://u:p@h/transit/k",
            "vault+http://example.org/transit/k",
            "vault+http://127.0.0.1.example.org/transit/k",
            "vault://h/transit/k?token=x",
            "vault://h/transit/k#x",
            "azure-kv://example.org/k",
            "azure-kv://vault.azure.net/k",
            "azure-kv://a.b.vault.azure.net/k",
            "azure-kv://v.vault.azure.net.example.org/k",
            "azure-kv://v.vault.azure.net/k/1/2",
            "https://h/k",
            &format!("vault://h/transit/{}", "k".repeat(MAX_SERVICE_LEN)),
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
