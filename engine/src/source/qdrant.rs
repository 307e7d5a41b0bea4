//! Qdrant, shard by shard: a snapshot is made on the server, read without landing on disk here, checked against
//! the server's checksum, and removed there. One at a time, so that the server needs room for one shard. The tar
//! is cut at its members (`tar_cuts.rs`): a segment that did not change costs nothing.

use super::stream::AtHand;
use super::tar_cuts::TarCuts;
use super::{Content, Item, Opener, Piece, Source, SourceError, SourceErrorKind, UrlOptions};
use crate::Monitor;
use crate::entry::{Time, compare_paths};
use crate::qdrant::{Made, Qdrant};
use crate::snapshot::SourceRecord;
use reqwest::blocking::Response;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::rc::Rc;

/// What came out while reading, for the record.
type Details = Rc<RefCell<BTreeMap<String, String>>>;

/// The source of `qdrant+http://` and `qdrant+https://`.
pub struct QdrantSource {
    server: Qdrant,
    time: Time,
    items: VecDeque<Item>,
    details: Details,
}

impl QdrantSource {
    /// Asks for nothing yet.
    pub fn new(url: &url::Url, time: Time, options: &UrlOptions) -> Result<Self, SourceError> {
        let server = Qdrant::new(url, options)?;
        Ok(Self { server, time, items: VecDeque::new(), details: Details::default() })
    }

    fn folder(&self) -> String {
        format!("qdrant/{}", self.server.address)
    }

    fn shard(&self, collection: &str, shard: u64) -> Item {
        let (server, details, name) = (self.server.clone(), Rc::clone(&self.details), collection.to_owned());
        let path = format!("{}/collections/{collection}/shard-{shard}.snapshot", self.folder());
        let open: Opener = Box::new(move || {
            let made = server.make_snapshot(&name, shard)?;
            let mut content = Download {
                server,
                collection: name,
                shard,
                made,
                response: None,
                hash: Sha256::new(),
                details,
            };
            content.response =
                Some(content.server.download(&content.collection, shard, &content.made.name)?);
            Ok(Box::new(TarCuts::new(Box::new(content))) as Box<dyn Content>)
        });
        Item::stream(&path, self.time, open)
    }

    fn text(&self, path: String, text: String) -> Item {
        AtHand::item(&path, self.time, text.into_bytes())
    }
}

impl Source for QdrantSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new("qdrant", self.server.shown.clone(), false);
        record.details = self.details.borrow().clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        let folder = self.folder();
        vec![match &self.server.collection {
            Some(collection) => format!("/{folder}/collections/{collection}"),
            None => format!("/{folder}"),
        }]
    }

    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let version = self.server.version()?;
        self.details.borrow_mut().insert("server".into(), version.clone());
        let names = match &self.server.collection {
            Some(name) => vec![name.clone()],
            None => self.server.collections()?,
        };
        let aliases = self.server.aliases()?;
        let folder = self.folder();
        let mut items: Vec<Item> = ["qdrant", &folder, &format!("{folder}/collections")]
            .map(|path| Item::folder(path, self.time))
            .into();
        for name in names {
            let Some(found) = self.server.collection(&name)? else {
                return Err(SourceError::new(
                    SourceErrorKind::Missing,
                    &self.server.shown,
                    format!("there is no collection '{name}'"),
                ));
            };
            let own = format!("{folder}/collections/{name}");
            if !crate::entry::is_valid_path(own.as_bytes()) || name.contains('/') {
                return Err(self.server.error(format!("'{name}' is not a usable name")));
            }
            let shards = self.server.local_shards(&name)?;
            let mine: Vec<&String> =
                aliases.iter().filter(|(_, of)| *of == name).map(|(alias, _)| alias).collect();
            let described = serde_json::json!({
                "name": name,
                "config": found["config"],
                "aliases": mine,
                "shards": shards,
                "version": version,
            });
            items.push(Item::folder(&own, self.time));
            items.push(self.text(format!("{own}/collection.json"), format!("{described:#}\n")));
            items.extend(shards.into_iter().map(|shard| self.shard(&name, shard)));
        }
        items.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
        self.items = items.into();
        Ok(())
    }

    fn next_item(&mut self, _: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.items.pop_front())
    }
}

/// A snapshot of a shard on its way in; removed from the server whatever comes of it.
struct Download {
    server: Qdrant,
    collection: String,
    shard: u64,
    made: Made,
    response: Option<Response>,
    hash: Sha256,
    details: Details,
}

impl Content for Download {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let incomplete = |why: String| {
            SourceError::new(
                SourceErrorKind::Incomplete,
                &self.server.shown,
                format!("shard {}: {why}", self.shard),
            )
        };
        let Some(response) = &mut self.response else { return Ok(Piece::End) };
        match response.read(buffer) {
            Ok(0) => {
                self.response = None;
                let mine: String =
                    self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                if self.made.checksum.as_ref().is_some_and(|theirs| !theirs.eq_ignore_ascii_case(&mine)) {
                    return Err(incomplete("what came does not match the server's checksum".into()));
                }
                let key = format!("sha256:{}/{}", self.collection, self.shard);
                self.details.borrow_mut().insert(key, mine);
                Ok(Piece::End)
            }
            Ok(len) => {
                self.hash.update(&buffer[..len]);
                Ok(Piece::Data(len))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(Piece::Wait),
            Err(error) => Err(incomplete(format!("the transfer broke off: {error}"))),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.response = None;
        if let Err(error) = self.server.delete_snapshot(&self.collection, self.shard, &self.made.name) {
            tracing::warn!(%error, "the snapshot stays on the server");
        }
    }
}
