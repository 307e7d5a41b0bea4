//! Requests about snapshots of shards.

use super::{Failed, Qdrant};
use reqwest::blocking::Response;

/// A snapshot on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name there.
    pub name: String,
    /// SHA-256 in hexadecimal digits; servers before 1.7 have none.
    pub checksum: Option<String>,
}

impl Qdrant {
    /// Reads a snapshot of a shard while the server makes it: nothing lands on the server's disk. `None` if this server
    /// cannot do that, or has no such shard.
    pub fn stream_snapshot(&self, collection: &str, shard: u64) -> Result<Option<Response>, Failed> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshot"]);
        match self.send(self.client.get(url), "snapshot") {
            Err(Failed { status: Some(404 | 405), .. }) => Ok(None),
            response => response.map(Some),
        }
    }

    /// Makes a snapshot of a shard on the server's disk.
    pub fn make_snapshot(&self, collection: &str, shard: u64) -> Result<Made, Failed> {
        let url = self.url(&["collections", collection, "shards", &shard.to_string(), "snapshots"]);
        let made = self.result(self.client.post(url).query(&[("wait", "true")]), "snapshot")?;
        let name = made["name"].as_str().ok_or_else(|| self.silent("snapshot: the answer names none"))?;
        Ok(Made { name: name.to_owned(), checksum: made["checksum"].as_str().map(str::to_owned) })
    }

    /// Reads a snapshot of a shard.
    pub fn download(&self, collection: &str, shard: u64, name: &str) -> Result<Response, Failed> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        self.send(self.client.get(url), "download")
    }

    /// Removes a snapshot of a shard; one that is gone is removed.
    pub fn delete_snapshot(&self, collection: &str, shard: u64, name: &str) -> Result<(), Failed> {
        let shard = shard.to_string();
        let url = self.url(&["collections", collection, "shards", &shard, "snapshots", name]);
        match self.send(self.client.delete(url).query(&[("wait", "true")]), "remove the snapshot") {
            Err(Failed { status: Some(404), .. }) => Ok(()),
            done => done.map(drop),
        }
    }
}
