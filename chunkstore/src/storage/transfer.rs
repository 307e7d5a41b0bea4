//! One HTTP request and its answer. A slow upload may take any time, but a silent store is detected. An answer must
//! arrive at a minimum rate; an answer that is not an object's content has a bound, since it is read into memory. A
//! failed request may always be repeated: object names are used once, so an existing object shows by its bytes whose it
//! is, and a swap of HEAD is read back.

use super::line::Line;
use crate::pool::locked;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that are handed to the connection at a time: each time it asks for more is a sign of life.
const PART: usize = 64 << 10;

/// What the kernel may still hold of a body that was handed over whole (`tcp_wmem` of tcp(7), with room to spare), and the
/// slowest line, in bytes a second, over which it is waited for: beyond that nobody sees it move.
const UNSEEN: u64 = 8 << 20;
const SLOWEST: u64 = 64 << 10;

/// The rates, in bytes a second, below which an answer is given up once the patience is used up: of a part of a pack,
/// and of anything else. HEAD and pages of listings have some hundred kilobytes, most other objects less.
const PART_RATE: u64 = 1 << 10;
const WHOLE_RATE: u64 = 8 << 10;
/// The longest answer that is no object's content. A page of a listing has 1000 names of at most 1 KiB (S3 API
/// reference, `ListObjectsV2`), 5000 on Azure.
const MAX_ANSWER: u64 = 32 << 20;

/// What is wrong with a request's progress.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no data was sent or received for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("only {received} bytes of the answer arrived within {} s", .after.as_secs())]
    Crawls { received: u64, after: Duration },
    #[error("the answer is longer than {MAX_ANSWER} bytes, which no answer of this kind is")]
    Endless,
}

/// An answer that broke off: nobody below repeats a request of which a part of the answer was read.
fn broken_off(trouble: Trouble) -> HttpError {
    // The same would come again.
    let is_endless = matches!(trouble, Trouble::Endless);
    HttpError::new(if is_endless { HttpErrorKind::Unknown } else { HttpErrorKind::Interrupted }, trouble)
}

/// Whether an answer is an object's bytes; all else is about objects.
fn is_content(request: &HttpRequest) -> bool {
    const ABOUT: &[&str] =
        &["list-type", "comp", "restype", "versions", "versioning", "lifecycle", "object-lock"];
    let query = request.uri().query().unwrap_or_default();
    let mut names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    request.method() == http::Method::GET && !names.any(|name| ABOUT.contains(&name))
}

/// Sends a request; `patience` is the longest time without progress, and what an answer may take beside its rate.
pub(super) async fn send(
    client: &reqwest::Client,
    request: HttpRequest,
    patience: Duration,
    line: &Line,
) -> Result<HttpResponse, HttpError> {
    let is_content = is_content(&request);
    let rate = if request.headers().contains_key(http::header::RANGE) { PART_RATE } else { WHOLE_RATE };
    let (parts, body) = request.into_parts();
    let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
    let mut request = reqwest::Request::new(parts.method, url);
    *request.headers_mut() = parts.headers;
    let moved = Moved { line: line.clone(), ..Moved::default() };
    *request.body_mut() =
        Some(reqwest::Body::wrap(Upload { body, part: Bytes::new(), sent: 0, moved: moved.clone() }));
    let answer = match select(pin!(client.execute(request)), pin!(moved.has_stopped(patience))).await {
        Either::Left((answer, _)) => answer.map_err(broken)?,
        Either::Right(_) => return Err(HttpError::new(HttpErrorKind::Request, Trouble::Stalled(patience))),
    };
    let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    // Redirects and errors have words of their own.
    let most = if is_content && parts.status.is_success() { u64::MAX } else { MAX_ANSWER };
    let (received, waited, waiting, line) = (0, Duration::ZERO, None, line.clone());
    let download = Download { body, patience, rate, most, received, waited, waiting, line };
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(download)))
}

/// An error as `object_store` expects it: `Request` is retried, for every request.
fn broken(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_builder() || error.is_redirect() {
        HttpErrorKind::Unknown
    } else {
        HttpErrorKind::Request
    };
    HttpError::new(kind, error.without_url())
}

/// When something last moved, or may still move unseen.
#[derive(Clone)]
struct Moved {
    until: Arc<Mutex<Instant>>,
    line: Line,
}

impl Default for Moved {
    fn default() -> Self {
        Self { until: Arc::new(Mutex::new(Instant::now())), line: Line::default() }
    }
}

impl Moved {
    /// Something moved; `unseen` bytes may still do so.
    fn now(&self, unseen: u64) {
        let until = Instant::now() + Duration::from_secs(unseen.min(UNSEEN) / SLOWEST);
        *locked(&self.until) = until;
    }

    /// Ends when nothing has moved for so long.
    async fn has_stopped(&self, patience: Duration) {
        loop {
            let until = *locked(&self.until) + patience;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// A request's body, part by part.
struct Upload<B> {
    body: B,
    part: Bytes,
    /// Bytes that were handed over.
    sent: u64,
    moved: Moved,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.moved.now(self.sent);
        if self.part.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.part = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other,
            }
        }
        let len = self.part.len().min(PART);
        self.sent += len as u64;
        self.moved.line.moved(len);
        Poll::Ready(Some(Ok(Frame::data(self.part.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let more = self.part.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + more);
        }
        hint.set_lower(hint.lower() + more);
        hint
    }
}

/// An answer's body.
struct Download {
    body: reqwest::Body,
    patience: Duration,
    /// Bytes a second that it has to come with.
    rate: u64,
    /// Bytes that it may have.
    most: u64,
    received: u64,
    /// How long was waited for all that came, without the time in which nobody wanted more.
    waited: Duration,
    /// Since when it is waited for more, and the alarm that ends this.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    line: Line,
}

impl Download {
    /// Counts received bytes.
    fn take(&mut self, len: usize) -> Result<(), Trouble> {
        self.line.moved(len);
        self.received += len as u64;
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        if self.received > self.most {
            return Err(Trouble::Endless);
        }
        if self.waited > self.allowed() { Err(self.crawls()) } else { Ok(()) }
    }

    /// How long to wait for the next byte.
    fn allowed(&self) -> Duration {
        self.patience + Duration::from_secs(self.received / self.rate)
    }

    fn crawls(&self) -> Trouble {
        Trouble::Crawls { received: self.received, after: self.waited }
    }

    /// No data is available; returns why the wait is over, if it is.
    fn wait(&mut self, context: &mut Context<'_>) -> Option<Trouble> {
        if self.waiting.is_none() {
            let now = Instant::now();
            let left = self.allowed().saturating_sub(self.waited).min(self.patience);
            self.waiting = Some((now, Box::pin(sleep_until(now + left))));
        }
        let (since, alarm) = self.waiting.as_mut()?;
        if alarm.as_mut().poll(context).is_pending() {
            return None;
        }
        let silence = since.elapsed();
        self.waited += silence;
        Some(if silence >= self.patience { Trouble::Stalled(self.patience) } else { self.crawls() })
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match self.take(frame.data_ref().map_or(0, Bytes::len)) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(why) => Poll::Ready(Some(Err(broken_off(why)))),
            },
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error.without_url()))
            })),
            Poll::Pending => match self.wait(context) {
                Some(why) => Poll::Ready(Some(Err(broken_off(why)))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
