//! Requests about snapshots of shards.

use super::{Failed, Qdrant};
use bytes::Bytes;
use connector_kit::http::{Halt, LOOK, Wait, chain};
use jiff::Timestamp;
use reqwest::Response;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the removal of a snapshot may take.
const REMOVAL: Duration = Duration::from_secs(60);

/// A snapshot on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name there.
    pub name: String,
    /// SHA-256 in hexadecimal digits; servers before 1.7 have none.
    pub checksum: Option<String>,
}

/// A snapshot on its way here.
pub struct Body {
    server: Qdrant,
    response: Response,
    /// What came and was not read.
    part: Bytes,
    has_begun: bool,
    /// How long was waited for what comes next: a reader that is late is no fault of the server.
    waited: Duration,
}

/// What of a snapshot came.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// So many bytes, more than 0.
    Bytes(usize),
    /// Nothing for a moment.
    Nothing,
    /// It is over.
    End,
}

impl Body {
    fn new(server: &Qdrant, response: Response) -> Self {
        let (part, waited) = (Bytes::new(), Duration::ZERO);
        Self { server: server.clone(), response, part, has_begun: false, waited }
    }

    /// Reads on; `buffer` is not empty.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Came, String> {
        if self.part.is_empty() {
            match self.server.line.next(&mut self.response) {
                Ok(Some(part)) if part.is_empty() => return Ok(Came::End),
                Ok(Some(part)) => self.part = part,
                Ok(None) => return self.quiet(),
                Err(Halt::Interrupted | Halt::Silent(_) | Halt::Endless) => return Err("interrupted".into()),
                Err(Halt::Broken(error)) => {
                    return Err(format!("the transfer broke off: {}", chain(&error.without_url())));
                }
            }
            (self.has_begun, self.waited) = (true, Duration::ZERO);
        }
        let part = self.part.split_to(self.part.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(Came::Bytes(part.len()))
    }

    fn quiet(&mut self) -> Result<Came, String> {
        self.waited += LOOK;
        let patience = &self.server.patience;
        let (limit, what) = match self.has_begun {
            true => (patience.progress, "the server sends nothing more"),
            false => (patience.begin, "the server sends nothing of the snapshot"),
        };
        if self.waited < limit {
            return Ok(Came::Nothing);
        }
        let (address, seconds) = (&self.server.address, limit.as_secs());
        Err(format!(
            "{what} for {seconds} s; look at its log, its disk, and the line to {address} (a proxy between?)"
        ))
    }
}

impl Qdrant {
    /// Reads a snapshot of a shard while the server makes it: nothing lands on the server's disk. `None` if this server
    /// cannot do that, or has no such shard.
    pub fn stream_snapshot(&self, collection: &str, shard: u64) -> Result<Option<Body>, Failed> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshot"]);
        match self.send(self.client.get(url), Wait::For(self.patience.begin), "snapshot") {
            Err(Failed { status: Some(404 | 405), .. }) => Ok(None),
            response => response.map(|response| Some(Body::new(self, response))),
        }
    }

    /// Names of the snapshots of a shard that lie on the server's disk, and the server's time, if it tells.
    pub fn snapshots(
        &self,
        collection: &str,
        shard: u64,
    ) -> Result<(BTreeSet<String>, Option<Timestamp>), Failed> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshots"]);
        let (what, wait) = ("snapshots", Wait::For(self.patience.answer));
        let response = self.send(self.client.get(url), wait, what)?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
        let list = self.result_of(self.read_json(response, wait, what)?, what)?;
        let list = list.as_array().into_iter().flatten();
        Ok((list.filter_map(|snapshot| Some(snapshot["name"].as_str()?.to_owned())).collect(), time))
    }

    /// Makes a snapshot of a shard on the server's disk.
    pub fn make_snapshot(&self, collection: &str, shard: u64) -> Result<Made, Failed> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshots"]);
        let made = self.result(self.client.post(url).query(&[("wait", "true")]), Wait::Work, "snapshot")?;
        let name = made["name"].as_str().ok_or_else(|| self.silent("snapshot: the answer names none"))?;
        Ok(Made { name: name.to_owned(), checksum: made["checksum"].as_str().map(str::to_owned) })
    }

    /// Reads a snapshot of a shard.
    pub fn download(&self, collection: &str, shard: u64, name: &str) -> Result<Body, Failed> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        let response = self.send(self.client.get(url), Wait::For(self.patience.begin), "download")?;
        Ok(Body::new(self, response))
    }

    /// Removes a snapshot of a shard; one that is gone is removed.
    pub fn delete_snapshot(&self, collection: &str, shard: u64, name: &str) -> Result<(), Failed> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        let request = self.client.delete(url).query(&[("wait", "true")]);
        match self.send(request, Wait::InOrder(REMOVAL), "remove the snapshot") {
            Err(Failed { status: Some(404), .. }) => Ok(()),
            done => done.map(drop),
        }
    }
}
