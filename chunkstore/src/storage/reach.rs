//! The connection to a store over HTTP. A store that has answered once is worth many attempts; one that has not, and
//! cannot be connected to, is given up after [`SET_UP`]: most often its address or its scheme is wrong.

use super::line::Line;
use super::transfer;
use crate::pool::locked;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions, Result as ObjectResult};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time for a connection to be set up, TCP and TLS together; and for all attempts at the first one.
pub const SET_UP: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(String);

/// The option that names authorities to trust, of stores and of what is asked on the way to them.
pub const AUTHORITIES: &str = "--cacert FILE";

/// Explains a failed connection to people: `why` is an HTTP client's error with all its causes, `limit` is the longest time
/// for a connection to be set up, and `authorities` the option that names authorities to trust. A port without TLS gives no
/// error of its own: it is silent, closes the connection, or answers in its own protocol.
#[must_use]
pub fn explained(why: &str, is_tls: bool, limit: Duration, authorities: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if has(&["tcp connect error", "dns error"]) {
        return format!("cannot connect: {why}");
    }
    if is_tls && has(&["operation timed out", "deadline has elapsed"]) {
        return format!(
            "no connection over TLS within {} s: is the host reachable, and does this port speak TLS?",
            limit.as_secs()
        );
    }
    // As rustls calls a certificate that no known authority signed.
    if is_tls && has(&["UnknownIssuer"]) {
        return format!(
            "its certificate is of no authority that is trusted here; {authorities} names its authority ({why})"
        );
    }
    let is_no_tls = ["received corrupt message", "unexpected EOF", "eof", "Connection reset", "BadRecordMac"];
    if is_tls && why.contains("(Connect)") && has(&is_no_tls) {
        return format!("this is no TLS; does this port speak TLS? ({why})");
    }
    let is_no_http = ["invalid HTTP version", "HTTP/0.9", "connection closed before message completed"];
    if !is_tls && has(&is_no_http) {
        return format!("this is no HTTP; does this port speak TLS? Then the URL begins with https: ({why})");
    }
    format!("cannot connect or was cut off: {why}")
}

/// Characters of a service's own words that are shown.
const SHOWN: usize = 300;

/// Words of a service, bounded and without letters that act on a terminal.
#[must_use]
pub fn said(words: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let shown: String = words.trim().chars().take(SHOWN).map(plain).collect();
    if shown.is_empty() { "it says no more".to_owned() } else { format!("it says: {shown}") }
}

/// An error and all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut all = vec![error.to_string()];
    let mut next = error.source();
    while let Some(link) = next {
        let words = link.to_string();
        if !all.iter().any(|known| known.ends_with(&words)) {
            all.push(words);
        }
        next = link.source();
    }
    all.join(": ")
}

/// The client of a store. It knows whether the store has answered yet; all that send to it share one.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: HttpClient,
    /// Whether the store may be reached over plain HTTP.
    allow_http: bool,
    line: Line,
}

impl Connector {
    /// `allow_http` is what `client` was made with; `patience` is the longest time without progress in a request; what
    /// moves is counted on `line`.
    pub(super) fn new(client: reqwest::Client, allow_http: bool, patience: Duration, line: Line) -> Self {
        let has_answered = AtomicBool::new(false);
        let client = Client { client, patience, line: line.clone(), has_answered, first: None.into() };
        Self { client: HttpClient::new(client), allow_http, line }
    }

    /// What its requests go over.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// The client itself.
    pub(super) fn client(&self) -> HttpClient {
        self.client.clone()
    }
}

impl HttpConnector for Connector {
    /// `object_store` asks here for the clients of its own providers of credentials, too, with other options than the store's:
    /// this client would refuse their plain HTTP, or send a bearer's token by it. They are never used ([`super::identity`]).
    fn connect(&self, options: &ClientOptions) -> ObjectResult<HttpClient> {
        let wanted = options.get_config_value(&ClientConfigKey::AllowHttp);
        if wanted.is_none_or(|wanted| wanted == self.allow_http.to_string()) {
            return Ok(self.client());
        }
        Err(object_store::Error::Generic {
            store: "HTTP",
            source: "a client for credentials was asked for, and there is one for the store only".into(),
        })
    }
}

/// A client; see the module.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    patience: Duration,
    line: Line,
    has_answered: AtomicBool,
    /// When the first attempt began.
    first: std::sync::Mutex<Option<Instant>>,
}

impl Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_tls = request.uri().scheme_str() == Some("https");
        let began = {
            let mut first = locked(&self.first);
            *first.get_or_insert_with(Instant::now)
        };
        let error = match transfer::send(&self.client, request, self.patience, &self.line).await {
            Ok(response) => {
                self.has_answered.store(true, Ordering::Relaxed);
                return Ok(response);
            }
            Err(error) => error,
        };
        if self.has_answered.load(Ordering::Relaxed) {
            return Err(error);
        }
        let why = chain(&error);
        let is_certificate = why.contains("invalid peer certificate");
        let said = explained(why.trim_start_matches("HTTP error: "), is_tls, SET_UP, AUTHORITIES);
        if is_certificate || said.contains("TLS?") || began.elapsed() >= SET_UP {
            // Not tried again.
            return Err(HttpError::new(HttpErrorKind::Unknown, Unreachable(said)));
        }
        Err(error)
    }
}

impl HttpService for Client {
    // As the macro of async-trait writes it.
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.send(request))
    }
}

/// Why no connection came about, if that is what `error` is about.
pub(super) fn unreachable(error: &(dyn std::error::Error + 'static)) -> Option<Unreachable> {
    let mut next = Some(error);
    while let Some(link) = next {
        if let Some(why) = link.downcast_ref::<Unreachable>() {
            return Some(why.clone());
        }
        next = link.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_is_told_with_its_limit_and_its_way_out() {
        let limit = Duration::from_secs(3);
        let told = |why: &str| explained(why, true, limit, "-o tls.ca=FILE");
        assert!(told("(Connect): operation timed out").contains("within 3 s"));
        let unknown = told("client error (Connect): invalid peer certificate: UnknownIssuer");
        assert!(unknown.contains("-o tls.ca=FILE names its authority"), "{unknown}");
        // Another authority would not help.
        let expired = told("client error (Connect): invalid peer certificate: Expired");
        assert!(!expired.contains("tls.ca") && expired.contains("Expired"), "{expired}");
    }

    #[test]
    fn the_client_of_a_store_is_for_nothing_else() {
        for allow_http in [false, true] {
            let connector =
                Connector::new(reqwest::Client::new(), allow_http, SET_UP, Line::new(&Default::default()));
            let of_store = ClientOptions::new().with_allow_http(allow_http);
            let of_another = ClientOptions::new().with_allow_http(!allow_http);
            assert!(connector.connect(&of_store).is_ok() && connector.connect(&of_another).is_err());
        }
    }
}
