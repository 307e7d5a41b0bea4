//! Requests to the services that say who we are: bounded answers, few attempts, no redirect, and no proxy for those of
//! this machine.

use super::NoIdentity;
use crate::storage::HttpOptions;
use crate::storage::reach::{AUTHORITIES, SET_UP, chain, explained};
use http::{HeaderMap, HeaderValue, Method};
use reqwest::{Certificate, Client, Url};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Longest answer, in bytes: a token of Azure has some kilobytes.
const MAX_ANSWER: usize = 256 << 10;
/// Longest file with a token, in bytes.
const MAX_TOKEN: usize = 64 << 10;
/// A service of the machine is as near as its host: so long for a connection, so long for an answer. No attempt begins
/// later than the second one after the first began.
const NEAR: Duration = Duration::from_secs(2);
const NEAR_ANSWER: Duration = Duration::from_secs(4);
/// The first pause between two attempts; each is four times the last.
const PAUSE: Duration = Duration::from_millis(250);

/// Where a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// On this machine or beside it: it is reached without a proxy and soon.
    Machine,
    /// Anywhere.
    Elsewhere,
}

/// A request that can be sent again.
pub(super) struct Ask {
    pub(super) site: Site,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Ask {
    pub(super) fn get(site: Site, url: Url) -> Self {
        Self { site, method: Method::GET, url, headers: HeaderMap::new(), body: Zeroizing::default() }
    }

    /// A form of these names and values.
    pub(super) fn form(site: Site, url: Url, fields: &[(&str, &str)]) -> Self {
        let mut form = Zeroizing::new(String::with_capacity(MAX_TOKEN));
        for (name, value) in fields {
            if !form.is_empty() {
                form.push('&');
            }
            form.push_str(&Zeroizing::new(pair(name, value)));
        }
        let body = Zeroizing::new(form.as_bytes().to_vec());
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(http::header::CONTENT_TYPE, kind);
        Self { site, method: Method::POST, url, headers, body }
    }

    /// With one more header; its value is a secret, and no library prints it. `from` is what gave it.
    pub(super) fn header(mut self, name: &'static str, value: &str, from: &str) -> Result<Self, NoIdentity> {
        let value = HeaderValue::from_str(value);
        let mut value =
            value.map_err(|_| NoIdentity::refused(format!("{from} has letters that no header can have")))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What a status other than success means; `said` are the service's own words, or nothing.
    pub(super) fn refused(&self, said: &str) -> NoIdentity {
        let words = if said.is_empty() { String::new() } else { format!(" ({said})") };
        NoIdentity { is_away: is_later(self.status), why: format!("it answers {}{words}", self.status) }
    }
}

/// Statuses after which the same may succeed. 410: Azure's metadata service is being updated ("Azure Instance Metadata
/// Service", errors).
fn is_later(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 410 | 429)
}

/// What asks.
pub(super) struct Asking {
    /// Authorities to trust in addition to the system's, as PEM.
    authorities: Vec<u8>,
    user_agent: String,
}

impl Asking {
    /// Of the options, authorities and the user agent count. Certificates are always verified: who could pretend to be the
    /// service would have what proves who we are.
    pub(super) fn new(http: &HttpOptions) -> Self {
        Self { authorities: http.authorities.clone(), user_agent: http.agent().to_owned() }
    }

    /// Sends until there is an answer that counts.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Reply, NoIdentity> {
        let client = self.client(ask)?;
        let longest = set_up(ask);
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            let attempt = Instant::now();
            let reply = once(&client, ask).await;
            let ms = u64::try_from(attempt.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (status, error) = match &reply {
                Ok(reply) => (reply.status, None),
                Err(why) => (0, Some(&*why.why)),
            };
            let method = ask.method.as_str();
            tracing::debug!(target: "credentials", method, status, ms, error, "{}", shown(&ask.url));
            let is_final = match &reply {
                Ok(reply) => !is_later(reply.status),
                // A certificate that does not fit will not fit the next time.
                Err(why) => !why.is_away || why.why.contains("certificate") || why.why.contains("TLS?"),
            };
            if is_final || began.elapsed() + pause >= longest {
                return reply;
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
    }

    /// A new one for each proof: its connections would not outlive the runtime that they were made on.
    fn client(&self, ask: &Ask) -> Result<Client, NoIdentity> {
        let failed = |error: reqwest::Error| NoIdentity::refused(chain(&error));
        let is_near = ask.site == Site::Machine;
        let mut builder = Client::builder()
            .user_agent(&self.user_agent)
            .https_only(ask.url.scheme() != "http")
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(set_up(ask))
            .timeout(if is_near { NEAR_ANSWER } else { SET_UP });
        // A proxy would see what goes in clear, and does not know the addresses of this machine.
        if is_near || ask.url.scheme() == "http" || is_own(&ask.url) {
            builder = builder.no_proxy();
        }
        if !self.authorities.is_empty() {
            let bundle = Certificate::from_pem_bundle(&self.authorities).map_err(failed)?;
            builder = builder.tls_certs_merge(bundle);
        }
        builder.build().map_err(failed)
    }
}

/// Longest time for a connection to be set up, and for all attempts.
fn set_up(ask: &Ask) -> Duration {
    if ask.site == Site::Machine { NEAR } else { SET_UP }
}

async fn once(client: &Client, ask: &Ask) -> Result<Reply, NoIdentity> {
    let is_tls = ask.url.scheme() == "https";
    let limit = set_up(ask);
    let failed = |error: reqwest::Error| {
        NoIdentity::away(explained(&chain(&error.without_url()), is_tls, limit, AUTHORITIES))
    };
    let mut request = client.request(ask.method.clone(), ask.url.clone()).headers(ask.headers.clone());
    if ask.method != Method::GET {
        request = request.body(ask.body.to_vec());
    }
    let mut response = request.send().await.map_err(failed)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    // At once as large as it can become: what grows leaves copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(NoIdentity::away(format!("its answer has more than {} KiB", MAX_ANSWER >> 10)));
        }
        body.extend_from_slice(&part);
    }
    Ok(Reply { status, headers, body })
}

/// A URL without its query.
fn shown(url: &Url) -> &str {
    url.as_str().split('?').next().unwrap_or_default()
}

/// A name and a value of a query or a form.
pub(super) fn pair(name: &str, value: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

/// A URL that `from` names.
///
/// # Errors
///
/// It is none of http or https with a host, or has what no such URL has.
pub(super) fn address(text: &str, from: &str) -> Result<Url, NoIdentity> {
    let url = Url::parse(text).ok().filter(|url| {
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain
    });
    url.ok_or_else(|| NoIdentity::refused(format!("{from} is to be http://HOST or https://HOST")))
}

/// The same where a secret goes to the URL: over TLS, or on this machine alone.
pub(super) fn safe_address(text: &str, from: &str) -> Result<Url, NoIdentity> {
    let url = address(text, from)?;
    if url.scheme() == "https" || is_own(&url) {
        return Ok(url);
    }
    Err(NoIdentity::refused(format!("{from} is to begin with https://: what proves who we are goes there")))
}

fn ip(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether it is this machine's own address.
pub(super) fn is_own(url: &Url) -> bool {
    url.host_str() == Some("localhost") || ip(url).is_some_and(|address| address.is_loopback())
}

/// Whether it is this machine, or can only be beside it: link-local addresses, and those that EC2 keeps for its services.
pub(super) fn is_near(url: &Url) -> bool {
    const EC2: [u16; 2] = [0xfd00, 0x0ec2];
    let is_of_ec2 = |address: Ipv6Addr| address.segments().starts_with(&EC2);
    is_own(url)
        || ip(url).is_some_and(|address| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local() || is_of_ec2(address),
        })
}

/// A token in a file, which is written anew from time to time; without the line's end.
pub(super) fn token_in(file: &Path) -> Result<Zeroizing<String>, NoIdentity> {
    let failed = |why: String| NoIdentity::refused(format!("{}: {why}", file.display()));
    let len = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if len > MAX_TOKEN as u64 {
        return Err(failed(format!("more than {} KiB are no token", MAX_TOKEN >> 10)));
    }
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| failed(error.to_string()))?;
    match text.trim() {
        "" => Err(failed("it is empty".to_owned())),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_goes_where_it_may() {
        for (text, own, near) in [
            ("http://127.0.0.1:1/x", true, true),
            ("http://localhost/x", true, true),
            ("http://[::1]:2", true, true),
            ("http://169.254.170.2/v2", false, true),
            ("http://[fd00:ec2::23]/v1", false, true),
            ("http://[fe80::1]/", false, true),
            ("http://10.0.0.1/", false, false),
            ("http://localhost.example.org/", false, false),
            ("http://[fd00:ec3::23]/v1", false, false),
        ] {
            let url = address(text, "X").unwrap();
            assert_eq!((is_own(&url), is_near(&url)), (own, near), "{text}");
            assert_eq!(safe_address(text, "X").is_ok(), own, "{text}");
            assert!(safe_address(&text.replace("http:", "https:"), "X").is_ok(), "{text}");
        }
        for bad in ["", "localhost:80", "ftp://x", "http://", "http://user@host/", "http://h/#x", "/v2"] {
            let refused = address(bad, "AWS_X").unwrap_err();
            assert!(!refused.is_away && refused.why.contains("AWS_X"), "{bad}: {refused}");
        }
    }
}
