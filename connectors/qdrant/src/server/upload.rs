//! The upload of a snapshot while it is read from the repository. It ends as soon as the server answers or the user has
//! had enough, or once the server takes nothing more for too long.

use super::{Failed, Qdrant};
use bytes::Bytes;
use chunkstore::threads;
use connector_kit::http::{LOOK, MAX_ANSWER, builder, chain};
use engine::log;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use std::io::{Error, ErrorKind, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Parts that were read and not sent yet.
const QUEUE: usize = 8;
/// Bytes of a part.
const PART: usize = 256 << 10;

/// A snapshot to upload.
pub struct Upload<'a> {
    /// The collection that it is for.
    pub collection: &'a str,
    /// The shard that it is for.
    pub shard: u64,
    /// Its bytes.
    pub len: u64,
    /// SHA-256 that the server shall compare.
    pub checksum: Option<&'a str>,
    /// Whose points count where there are several replicas.
    pub priority: &'a str,
}

/// Why an upload failed.
pub enum Unsent<E> {
    /// The user had enough.
    Interrupted,
    /// The snapshot could not be read.
    Unread(E),
    /// The server refused, or could not be reached.
    Failed(Failed),
}

/// How far the server has come.
#[derive(Default)]
struct Taken {
    /// Parts that it took.
    parts: AtomicU64,
    /// Whether it waits for us, or has all of them: then its silence is work.
    waits: AtomicBool,
}

impl Taken {
    /// The next part for the server.
    async fn next(
        &self,
        mut parts: Receiver<Result<Bytes, Error>>,
    ) -> Option<(Result<Bytes, Error>, Receiver<Result<Bytes, Error>>)> {
        self.waits.store(true, Ordering::Relaxed);
        let part = parts.recv().await?;
        self.waits.store(false, Ordering::Relaxed);
        self.parts.fetch_add(1, Ordering::Relaxed);
        Some((part, parts))
    }

    /// Ends once the server has taken nothing for `limit`.
    async fn stalls(&self, limit: Duration) {
        let (mut before, mut quiet) = (0, Duration::ZERO);
        while quiet < limit {
            tokio::time::sleep(LOOK).await;
            let now = self.parts.load(Ordering::Relaxed);
            quiet = if now == before && !self.waits.load(Ordering::Relaxed) {
                quiet + LOOK
            } else {
                Duration::ZERO
            };
            before = now;
        }
    }
}

/// Where the snapshot is written to.
struct Parts {
    sender: Sender<Result<Bytes, Error>>,
    part: Vec<u8>,
    /// Whether nobody takes them any more.
    closed: bool,
}

impl Parts {
    fn pass_on(&mut self, part: Result<Bytes, Error>) -> std::io::Result<()> {
        self.sender.blocking_send(part).map_err(|_| {
            self.closed = true;
            Error::from(ErrorKind::BrokenPipe)
        })
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::take(&mut self.part);
        self.pass_on(Ok(part.into()))
    }
}

impl Qdrant {
    /// Uploads a snapshot of a shard, which `write` writes, and takes its data over.
    pub fn upload<E: Send>(
        &self,
        upload: &Upload<'_>,
        interrupted: &dyn Fn() -> bool,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send,
    ) -> Result<(), Unsent<E>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Unsent::Failed(self.silent(format!("upload: {error}"))))?;
        let (sender, receiver) = channel(QUEUE);
        std::thread::scope(|scope| {
            let reading = threads::start_in(scope, "esker-upload", move || {
                let mut parts = Parts { sender, part: vec![], closed: false };
                let written = write(&mut parts);
                if written.is_err() && !parts.closed {
                    // A request that is cut off, and not one that looks whole.
                    let _ = parts.pass_on(Err(ErrorKind::UnexpectedEof.into()));
                }
                (written, parts.closed)
            })
            .map_err(|error| Unsent::Failed(self.silent(format!("upload: {error}"))))?;
            let asked = log::asked();
            let sent = runtime.block_on(async {
                let taken = Arc::new(Taken::default());
                let request = pin!(self.request(upload, receiver, Arc::clone(&taken)));
                let stop = pin!(async {
                    while !interrupted() {
                        tokio::time::sleep(LOOK).await;
                    }
                });
                let limit = self.patience.progress;
                let stall = pin!(taken.stalls(limit));
                match select(request, select(stop, stall)).await {
                    Either::Left((sent, _)) => sent.map_err(Unsent::Failed),
                    Either::Right((Either::Left(_), _)) => Err(Unsent::Interrupted),
                    Either::Right((Either::Right(_), _)) => Err(Unsent::Failed(self.silent(format!(
                        "upload: {} takes nothing more for {} s; look at the server's log, its disk, and the line to it \
                         (a proxy between?)",
                        self.address,
                        limit.as_secs()
                    )))),
                }
            });
            let answer = match &sent {
                Ok(()) => Ok(()),
                Err(Unsent::Failed(failed)) => Err(failed.error.to_string()),
                Err(_) => Err("interrupted".to_owned()),
            };
            let (collection, shard) = (upload.collection, upload.shard);
            asked.told("qdrant", || format!("upload of collection '{collection}', shard {shard}"), &answer);
            // The connection goes with it, and with that whom `write` waits for.
            runtime.shutdown_background();
            match (sent, reading.join()) {
                (Err(Unsent::Interrupted), _) => Err(Unsent::Interrupted),
                // What the server said is the reason, unless it had to do with half a snapshot.
                (_, Ok((Err(error), false))) => Err(Unsent::Unread(error)),
                (sent, Ok(_)) => sent,
                (_, Err(panic)) => std::panic::resume_unwind(panic),
            }
        })
    }

    async fn request(
        &self,
        upload: &Upload<'_>,
        parts: Receiver<Result<Bytes, Error>>,
        taken: Arc<Taken>,
    ) -> Result<(), Failed> {
        let shard = upload.shard.to_string();
        let url = self.url(&["collections", upload.collection, "shards", &shard, "snapshots", "upload"]);
        let client = builder(&self.options).map_err(|error| self.silent(error))?.build();
        let client = client.map_err(|error| self.silent(chain(&error)))?;
        let parts = unfold(parts, move |parts| {
            let taken = Arc::clone(&taken);
            async move { taken.next(parts).await }
        });
        let part =
            reqwest::multipart::Part::stream_with_length(reqwest::Body::wrap_stream(parts), upload.len)
                .file_name(format!("shard-{shard}.snapshot"));
        let form = reqwest::multipart::Form::new().part("snapshot", part);
        let mut request = client.post(url).query(&[("wait", "true"), ("priority", upload.priority)]);
        if let Some(checksum) = upload.checksum {
            request = request.query(&[("checksum", checksum)]);
        }
        if let Some(key) = &self.key {
            request = request.header("api-key", key);
        }
        let mut response =
            request.multipart(form).send().await.map_err(|error| self.cut_off("upload", error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let mut said = vec![];
        while said.len() < MAX_ANSWER
            && let Ok(Some(part)) = response.chunk().await
        {
            said.extend_from_slice(&part);
        }
        Err(self.refused("upload", status.as_u16(), &String::from_utf8_lossy(&said)))
    }
}
