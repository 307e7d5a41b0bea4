//! HTTPS to one key service: bounded answers, few attempts, and an end when the user has had enough.

use crate::address::is_loopback;
use crate::{Kind, Refusal};
use chunkstore::storage::reach::{AUTHORITIES, explained};
use connector_kit::http::{Halt, LOOK, Line, Wait, chain};
use reqwest::header::HeaderMap;
use reqwest::{Certificate, Method, RequestBuilder};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use url::Url;
use zeroize::Zeroizing;

/// Longest answer, in bytes: a wrapped secret has less than 8 KiB.
const MAX_ANSWER: usize = 256 << 10;
/// Room for what is sent, in bytes: a wrapped secret, its binding twice, and names.
const MAX_BODY: usize = 16 << 10;
/// Attempts in all, as long as there is no answer that counts.
const ATTEMPTS: u32 = 3;
/// The first pause between two; the second is four times as long.
const PAUSE: Duration = Duration::from_millis(250);

/// How key services are reached.
#[derive(Clone)]
pub struct Reach {
    /// Authorities to trust in addition to the system's, as PEM; may be empty.
    pub authorities: Vec<u8>,
    /// How long to wait for an answer. No attempt begins later than this.
    pub timeout: Duration,
    /// Set when the user has had enough.
    pub stop: Arc<AtomicBool>,
}

/// A request that can be sent again.
pub struct Ask<'a> {
    /// Its method.
    pub method: Method,
    /// All of its URL.
    pub url: &'a str,
    /// What proves who we are, and what says what is sent.
    pub headers: HeaderMap,
    /// Its body; empty for none.
    pub body: Zeroizing<Vec<u8>>,
}

/// An answer.
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// Whether what was asked for was done.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The connections to one service.
pub struct Client {
    client: reqwest::Client,
    line: Line,
    reach: Reach,
}

impl Client {
    /// A client for the service at a URL. It follows no redirect, and only those on this machine's own addresses may be without TLS.
    ///
    /// # Errors
    ///
    /// What is wrong with the authorities.
    pub fn new(url: &str, reach: &Reach) -> Result<Self, Refusal> {
        let failed = |why: String| Refusal::new(Kind::Away, why);
        let is_plain = url.starts_with("http://");
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("esker/", env!("CARGO_PKG_VERSION")))
            .https_only(!is_plain)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(reach.timeout);
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        // A proxy would see what goes to this machine's own addresses in clear.
        if is_plain || host.is_some_and(|host| is_loopback(&host)) {
            builder = builder.no_proxy();
        }
        if !reach.authorities.is_empty() {
            let bundle = Certificate::from_pem_bundle(&reach.authorities);
            builder = builder.tls_certs_merge(bundle.map_err(|error| failed(chain(&error)))?);
        }
        Ok(Self {
            client: builder.build().map_err(|error| failed(chain(&error)))?,
            line: Line::new(&reach.stop).map_err(|error| failed(error.to_string()))?,
            reach: reach.clone(),
        })
    }

    /// Waits for what needs the network otherwise, such as credentials.
    ///
    /// # Errors
    ///
    /// It takes too long, or the user has had enough.
    pub fn wait<T>(&self, coming: impl Future<Output = T>) -> Result<T, Refusal> {
        let coming = async { Ok::<T, reqwest::Error>(coming.await) };
        self.line
            .wait(Wait::For(self.reach.timeout), coming)
            .map_err(|halt| told(halt, true, self.reach.timeout))
    }

    /// Sends until there is an answer that counts; `op` is for the log.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn send(&self, op: &'static str, ask: &Ask<'_>) -> Result<Reply, Refusal> {
        let began = Instant::now();
        let mut pause = PAUSE;
        for left in (0..ATTEMPTS).rev() {
            let attempt = Instant::now();
            let reply = self.once(ask);
            let status = reply.as_ref().map_or(0, |reply| reply.status);
            let error = reply.as_ref().err().map(|refusal| refusal.why.clone());
            let ms = u64::try_from(attempt.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(target: "key", op, status, ms, error, "{}", plain(ask.url));
            let is_final = match &reply {
                Ok(reply) => !(reply.status >= 500 || reply.status == 429),
                // A certificate that does not fit will not fit the next time.
                Err(refusal) => {
                    !refusal.is_away() || refusal.why.contains("certificate") || refusal.why.contains("TLS?")
                }
            };
            if is_final || left == 0 || began.elapsed() + pause >= self.reach.timeout {
                return reply;
            }
            self.pause(pause)?;
            pause *= 4;
        }
        Err(Refusal::new(Kind::Away, "no attempt was made"))
    }

    fn pause(&self, pause: Duration) -> Result<(), Refusal> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.reach.stop.load(Ordering::Relaxed) {
                return Err(Refusal::new(Kind::Interrupted, "interrupted"));
            }
            std::thread::sleep(LOOK.min(pause));
        }
        Ok(())
    }

    fn once(&self, ask: &Ask<'_>) -> Result<Reply, Refusal> {
        let is_tls = ask.url.starts_with("https://");
        let mut request: RequestBuilder =
            self.client.request(ask.method.clone(), ask.url).headers(ask.headers.clone());
        if ask.method != Method::GET {
            request = request.body(ask.body.to_vec());
        }
        let began = Instant::now();
        let sent = self.line.send(request, Wait::For(self.reach.timeout));
        let mut response = sent.map_err(|halt| told(halt, is_tls, self.reach.timeout))?;
        let status = response.status().as_u16();
        // At once as large as it can become: what grows leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        loop {
            // Also of an answer that goes on to come.
            if began.elapsed() >= self.reach.timeout {
                return Err(told(Halt::Silent(self.reach.timeout), is_tls, self.reach.timeout));
            }
            match self.line.next(&mut response).map_err(|halt| told(halt, is_tls, self.reach.timeout))? {
                None => {}
                Some(part) if part.is_empty() => return Ok(Reply { status, body }),
                Some(part) if body.len() + part.len() > MAX_ANSWER => {
                    return Err(told(Halt::Endless, is_tls, self.reach.timeout));
                }
                Some(part) => body.extend_from_slice(&part),
            }
        }
    }
}

/// A body of JSON. At once as large as it can become: what grows leaves copies behind.
pub(crate) fn json(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
    serde_json::to_writer(&mut *body, value)
        .map_err(|error| Refusal::new(Kind::Unfit, format!("what is to be sent is no JSON: {error}")))?;
    Ok(body)
}

fn told(halt: Halt, is_tls: bool, limit: Duration) -> Refusal {
    let why = match halt {
        Halt::Interrupted => return Refusal::new(Kind::Interrupted, "interrupted"),
        Halt::Silent(limit) => format!("no answer within {} s", limit.as_secs()),
        Halt::Broken(error) => explained(&chain(&error.without_url()), is_tls, limit, AUTHORITIES),
        Halt::Endless => format!("its answer has more than {} KiB", MAX_ANSWER >> 10),
    };
    Refusal::new(Kind::Away, why)
}

/// A URL without its query.
fn plain(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// Headers of these names and values. Those that hold secrets are marked, so that no library prints them.
///
/// # Errors
///
/// A value cannot be a header's.
pub(crate) fn headers(pairs: &[(&'static str, &str, bool)]) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value, is_secret) in pairs {
        let value = reqwest::header::HeaderValue::from_str(value);
        let mut value = value.map_err(|_| {
            Refusal::new(
                Kind::NoLogin,
                format!("what is given for {name} has letters that no header can have"),
            )
        })?;
        value.set_sensitive(*is_secret);
        headers.insert(*name, value);
    }
    Ok(headers)
}
