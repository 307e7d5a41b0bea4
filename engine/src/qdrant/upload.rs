//! The upload of a snapshot while it is read from the repository. It ends as soon as the server answers or the user has
//! had enough; the blocking client of reqwest waits for neither.

use super::{Failed, Qdrant, builder, chain};
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use std::io::{Error, ErrorKind, Write};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Parts that were read and not sent yet.
const QUEUE: usize = 8;
/// Bytes of a part.
const PART: usize = 256 << 10;
/// How often to look whether the user has had enough.
const LOOK: Duration = Duration::from_millis(100);

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
            let reading = scope.spawn(move || {
                let mut parts = Parts { sender, part: vec![], closed: false };
                let written = write(&mut parts);
                if written.is_err() && !parts.closed {
                    // A request that is cut off, and not one that looks whole.
                    let _ = parts.pass_on(Err(ErrorKind::UnexpectedEof.into()));
                }
                (written, parts.closed)
            });
            let sent = runtime.block_on(async {
                let request = pin!(self.request(upload, receiver));
                let stop = pin!(async {
                    while !interrupted() {
                        tokio::time::sleep(LOOK).await;
                    }
                });
                match select(request, stop).await {
                    Either::Left((sent, _)) => sent.map_err(Unsent::Failed),
                    Either::Right(_) => Err(Unsent::Interrupted),
                }
            });
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
    ) -> Result<(), Failed> {
        let shard = upload.shard.to_string();
        let url = self.url(&["collections", upload.collection, "shards", &shard, "snapshots", "upload"]);
        let client = builder(&self.options).map_err(|error| self.silent(error))?.build();
        let client = client.map_err(|error| self.silent(chain(&error)))?;
        let parts = unfold(parts, |mut parts| async { parts.recv().await.map(|part| (part, parts)) });
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
        let response = request.multipart(form).send().await.map_err(|error| self.cut_off("upload", error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(self.refused("upload", status.as_u16(), &response.text().await.unwrap_or_default()))
    }
}
