//! HTTP to the server that a URL names, and to no other: requests and answers with limits of time and of bytes, which also
//! end when the user interrupts.

use crate::tls::Lines as _;
use bytes::{Bytes, BytesMut};
use engine::connector::Context;
use engine::source::{SourceError, SourceErrorKind, without_password};
use reqwest::{Client, ClientBuilder, Response};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

pub use reqwest::{Method, RequestBuilder};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = crate::handshake::SET_UP;
/// After so long without a word, the system asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long an answer of [`Http`] may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether the user has had enough.
pub const LOOK: Duration = Duration::from_millis(100);
/// How long all of what is put in order may take once the user has had enough.
const FAREWELL: Duration = Duration::from_millis(1500);

/// The longest answer that is taken as a whole, in bytes: JSON takes a multiple of that in memory.
pub const MAX_ANSWER: usize = 16 << 20;

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// So long.
    For(Duration),
    /// As long as the server works.
    Work,
    /// The same for a change whose outcome must be known: once the user has had enough, what is left of `FAREWELL`.
    Change,
    /// So long, even if the user has had enough: this puts in order what was begun. What is left of `FAREWELL` then.
    InOrder(Duration),
}

/// Why there is no answer.
pub enum Halt {
    /// The user has had enough.
    Interrupted,
    /// Nothing came for so long.
    Silent(Duration),
    /// The connection failed.
    Broken(reqwest::Error),
    /// The answer is longer than [`MAX_ANSWER`].
    Endless,
}

/// The connections to a server.
pub struct Line {
    runtime: Option<Runtime>,
    stop: Arc<AtomicBool>,
    /// When what is put in order must be done, once the user has had enough.
    end: OnceLock<Instant>,
}

impl Line {
    /// A line that ends when `stop` is set.
    ///
    /// # Errors
    /// That the system gives no thread.
    pub fn new(stop: &Arc<AtomicBool>) -> std::io::Result<Self> {
        // Its own, and one that looks names up: a runtime to which one is refused panics.
        chunkstore::threads::check(2)?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime: Some(runtime), stop: Arc::clone(stop), end: OnceLock::new() })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for what comes.
    ///
    /// # Errors
    /// Why it does not come.
    pub fn wait<T>(
        &self,
        wait: Wait,
        coming: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, Halt> {
        let Some(runtime) = &self.runtime else { return Err(Halt::Interrupted) };
        let began = Instant::now();
        runtime.block_on(async {
            let mut coming = pin!(coming);
            loop {
                if self.is_stopped() {
                    let (Wait::InOrder(_) | Wait::Change) = wait else { return Err(Halt::Interrupted) };
                    if Instant::now() >= *self.end.get_or_init(|| Instant::now() + FAREWELL) {
                        return Err(Halt::Interrupted);
                    }
                }
                if let Ok(came) = tokio::time::timeout(LOOK, &mut coming).await {
                    return came.map_err(Halt::Broken);
                }
                if let Wait::For(limit) | Wait::InOrder(limit) = wait
                    && began.elapsed() >= limit
                {
                    return Err(Halt::Silent(limit));
                }
            }
        })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn send(&self, request: RequestBuilder, wait: Wait) -> Result<Response, Halt> {
        self.wait(wait, request.send())
    }

    /// All of an answer, which has a largest size.
    ///
    /// # Errors
    /// Why it does not come.
    pub fn whole(&self, mut response: Response, wait: Wait) -> Result<Bytes, Halt> {
        let all = async {
            let mut all = BytesMut::new();
            while let Some(part) = response.chunk().await? {
                all.extend_from_slice(&part);
                if all.len() > MAX_ANSWER {
                    return Ok(None);
                }
            }
            Ok(Some(all.freeze()))
        };
        self.wait(wait, all)?.ok_or(Halt::Endless)
    }

    /// The next bytes of an answer: `None` if there are none for a moment, no bytes at its end.
    ///
    /// # Errors
    /// Why there will be none.
    pub fn next(&self, response: &mut Response) -> Result<Option<Bytes>, Halt> {
        match self.wait(Wait::For(LOOK), response.chunk()) {
            Ok(part) => Ok(Some(part.unwrap_or_default())),
            Err(Halt::Silent(_)) => Ok(None),
            Err(halt) => Err(halt),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A look-up of a name that nobody waits for any more would be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An error and all that caused it: the first link alone says "client error (Connect)" of every fault of TLS.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut all: Vec<String> = vec![];
    let mut next = Some(error);
    while let Some(link) = next {
        let words = link.to_string();
        if all.last().is_none_or(|last| !last.ends_with(&words)) {
            all.push(words);
        }
        next = link.source();
    }
    all.join(": ")
}

/// A client that is not built yet, with the certificates of the context.
///
/// # Errors
/// What is wrong with the certificates.
pub fn builder(options: &Context) -> Result<ClientBuilder, String> {
    options.tls.check()?;
    let mut client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        // Between two requests a shard may be copied: by then the server has hung up on a connection that waits.
        .pool_max_idle_per_host(0)
        // The key goes to the server that the URL names, and to no other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(pem) = &options.tls.authorities {
        let certificates = reqwest::Certificate::from_pem_bundle(pem);
        client = client.tls_certs_only(certificates.map_err(|bad| format!("tls.ca: {}", chain(&bad)))?);
    }
    if let (Some(certificate), Some(key)) = (&options.tls.certificate, &options.tls.key) {
        let both = [certificate.as_slice(), b"\n", key].concat();
        let identity = reqwest::Identity::from_pem(&both);
        client = client.identity(identity.map_err(|bad| format!("tls.cert and tls.key: {}", chain(&bad)))?);
    }
    Ok(client)
}

/// A server that answers soon, by a URL of host, port and path.
pub struct Http {
    /// The URL, as it may be shown and stored.
    pub shown: String,
    /// `host:port`.
    pub address: String,
    /// The path of the URL, without slashes at its ends.
    pub path: String,
    url: String,
    /// Where credentials come from, for those who lack them.
    logins: &'static str,
    client: Client,
    line: Line,
}

impl Http {
    /// `prefix` is what stands before `http://` or `https://`.
    ///
    /// # Errors
    /// What is wrong with the URL or the certificates.
    pub fn new(
        url: &str,
        prefix: &str,
        logins: &'static str,
        context: &Context,
    ) -> Result<Self, SourceError> {
        let shown = without_password(url);
        let wrong =
            |why: &dyn ToString| SourceError::new(SourceErrorKind::Unavailable, &shown, why.to_string());
        let plain = url.strip_prefix(prefix).unwrap_or(url);
        let parsed = url::Url::parse(plain).map_err(|error| wrong(&error))?;
        let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
            return Err(wrong(&"there is no host in the URL"));
        };
        let address = format!("{host}:{port}");
        engine::secrets::check_host(&address).map_err(|why| wrong(&why))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
            return Err(wrong(&format!("the URL takes host, port and path; a login comes from {logins}")));
        }
        let client = builder(context).map_err(|why| wrong(&why))?.build();
        Ok(Self {
            address,
            path: parsed.path().trim_matches('/').to_owned(),
            url: plain.to_owned(),
            logins,
            client: client.map_err(|error| wrong(&chain(&error)))?,
            line: Line::new(&context.stop).map_err(|error| wrong(&error))?,
            shown,
        })
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }

    /// A request for the URL.
    pub fn request(&self, method: Method) -> RequestBuilder {
        self.client.request(method, &self.url)
    }

    /// Sends a request; returns the body of an answer that says that all is well.
    ///
    /// # Errors
    /// What the server says instead, or why it says nothing.
    pub fn ask(&self, request: RequestBuilder) -> Result<Bytes, SourceError> {
        let asked = engine::log::asked();
        let answer = self.answer(request);
        asked.told("http", || self.shown.clone(), &answer);
        answer.map_err(|why| self.error(SourceErrorKind::Unavailable, why))
    }

    fn answer(&self, request: RequestBuilder) -> Result<Bytes, String> {
        let told = |halt: Halt| match halt {
            Halt::Interrupted => "interrupted".to_owned(),
            Halt::Silent(limit) => format!("no answer within {} s", limit.as_secs()),
            Halt::Broken(error) => chain(&error.without_url()),
            Halt::Endless => format!("the answer has more than {} MiB", MAX_ANSWER >> 20),
        };
        let response = self.line.send(request, Wait::For(PATIENCE)).map_err(told)?;
        let status = response.status();
        let hint = match status.as_u16() {
            401 | 403 => format!("; a login comes from {}", self.logins),
            300..=399 => " (the server sends elsewhere; name that place in the URL)".to_owned(),
            _ => String::new(),
        };
        match status.is_success() {
            true => self.line.whole(response, Wait::For(PATIENCE)).map_err(told),
            false => Err(format!("the server answers {status}{hint}")),
        }
    }
}
