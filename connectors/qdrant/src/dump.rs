//! Qdrant, shard by shard, one at a time. A snapshot of a shard is read while the server makes it, or, where that cannot be,
//! made on the server, read without landing on disk here, and removed there. The tar is cut at its members
//! (`tar_cuts.rs`): what did not change costs nothing.

use crate::server::{Description, Failed, Qdrant};
use connector_kit::entries::InOrder;
use download::Shard;
use engine::connector::Context;
use engine::entry::Time;
use engine::names::encoded;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::{Item, Opener, Source, SourceError, SourceErrorKind};
use engine::{ItemError, Monitor};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

mod download;
mod leftovers;
mod run;

pub use run::Run;

/// What the descriptions of all collections of a server may take, in bytes of JSON; one has some kilobytes. In memory they
/// take a multiple of that.
const MAX_DESCRIPTIONS: usize = 32 << 20;

/// What came out while reading, for the record.
type Details = Rc<RefCell<BTreeMap<String, String>>>;

/// The folder of collections in a snapshot, of a server at `address`.
#[must_use]
pub fn folder(address: &str) -> String {
    format!("qdrant/{address}")
}

/// The key of a record's details that says that a collection went while it was read.
pub(crate) fn gone(collection: &str) -> String {
    format!("gone:{collection}")
}

/// A collection in messages.
fn shown(server: &Qdrant, collection: &str) -> String {
    format!("{}: collection '{collection}'", server.shown)
}

/// The source of `qdrant+http://` and `qdrant+https://`.
pub struct QdrantSource {
    server: Qdrant,
    time: Time,
    options: Context,
    items: InOrder,
    details: Details,
    descriptions: Vec<Description>,
    /// What is to be told before the first item.
    left_out: Vec<ItemError>,
}

impl QdrantSource {
    /// Asks for nothing yet.
    pub fn new(url: &url::Url, time: Time, options: &Context) -> Result<Self, SourceError> {
        Ok(Self {
            server: Qdrant::new(url, options)?,
            time,
            options: options.clone(),
            items: InOrder::default(),
            details: Details::default(),
            descriptions: vec![],
            left_out: vec![],
        })
    }

    fn leave_out(&mut self, collection: &str, message: String) {
        let item = shown(&self.server, collection);
        self.left_out.push(ItemError { during: "archival", item, message });
    }

    /// Everything about a collection; `None` if there is none of that name.
    fn describe(
        &self,
        name: &str,
        version: &str,
        aliases: &BTreeMap<String, String>,
        peers: &BTreeSet<u64>,
    ) -> Result<Option<Description>, Failed> {
        let Some(found) = self.server.collection(name)? else { return Ok(None) };
        if !found["config"].is_object() {
            let why = "the answer has no configuration, by which it could be made again";
            return Err(Failed { status: None, error: self.server.error(why) });
        }
        let cluster = match self.server.cluster(name) {
            Err(Failed { status: Some(404), .. }) => return Ok(None),
            cluster => cluster?,
        };
        let schema = found["payload_schema"].as_object().cloned().unwrap_or_default();
        Ok(Some(Description {
            name: name.to_owned(),
            version: version.to_owned(),
            config: found["config"].clone(),
            payload_schema: schema.into_iter().collect(),
            aliases: aliases.iter().filter(|(_, of)| *of == name).map(|(alias, _)| alias.clone()).collect(),
            shards: cluster.local(true).map(|replica| replica.shard_id).collect(),
            peer_id: Some(cluster.peer_id),
            peers: cluster
                .replicas
                .iter()
                .map(|replica| replica.peer_id)
                .chain(peers.iter().copied())
                .collect(),
            replicas: cluster.replicas,
            // It is told, and compared with what comes back; a node that is down may keep it from being counted.
            points: self.server.count(name).ok(),
        }))
    }

    /// A collection's entries, and how long its description is.
    fn items_of(&self, description: &Description) -> (Vec<Item>, usize) {
        let own = format!("{}/collections/{}", folder(&self.server.address), encoded(&description.name));
        let text = serde_json::to_string_pretty(description).unwrap_or_default() + "\n";
        let len = text.len();
        let mut items = vec![
            Item::folder(&own, self.time),
            AtHand::item(&format!("{own}/collection.json"), self.time, text.into_bytes()),
        ];
        for number in &description.shards {
            let shard = Shard {
                server: self.server.clone(),
                collection: description.name.clone(),
                number: *number,
                details: Rc::clone(&self.details),
                scratch: self.options.scratch.clone(),
                named: self.server.collection.is_some(),
                keep_going: self.options.keep_going,
            };
            let open: Opener = Box::new(move || shard.open());
            items.push(Item::stream(format!("{own}/shard-{number}.snapshot"), self.time, open));
        }
        (items, len)
    }

    /// Says which shards nobody reads. Now all sources of the run are started.
    fn tell_missing(&mut self) {
        for description in std::mem::take(&mut self.descriptions) {
            let missing = self.options.shared.get::<Run>().missing(&description);
            if missing.is_empty() {
                continue;
            }
            let numbers: Vec<String> = missing.iter().map(u64::to_string).collect();
            let numbers = numbers.join(", ");
            let states: BTreeSet<&str> = description
                .replicas
                .iter()
                .filter(|replica| missing.contains(&replica.shard_id) && replica.state != "Active")
                .map(|replica| replica.state.as_str())
                .collect();
            let states = states.into_iter().collect::<Vec<_>>().join(", ");
            let why = match states.as_str() {
                "" => "they lie on other nodes".to_owned(),
                states => format!("they lie on other nodes, or their replicas are not Active ({states})"),
            };
            self.details.borrow_mut().insert(format!("missing:{}", description.name), numbers.clone());
            self.leave_out(
                &description.name,
                format!("shards {numbers} are not in this backup: {why}; back up every node of the cluster in one command"),
            );
        }
    }
}

impl Source for QdrantSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = SourceRecord::new("qdrant", self.server.shown.clone(), false);
        record.details = self.details.borrow().clone();
        vec![record]
    }

    fn paths(&self) -> Vec<String> {
        let folder = folder(&self.server.address);
        vec![match &self.server.collection {
            Some(collection) => format!("/{folder}/collections/{}", encoded(collection)),
            None => format!("/{folder}"),
        }]
    }

    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        let version = self.server.version()?;
        leftovers::remove(&self.options.scratch, &self.server);
        self.details.borrow_mut().insert("server".into(), version.clone());
        let names = match &self.server.collection {
            Some(name) => BTreeSet::from([name.clone()]),
            None => self.server.collections()?,
        };
        let aliases = self.server.aliases()?;
        if let Some((alias, of)) =
            self.server.collection.as_ref().and_then(|name| aliases.get_key_value(name))
        {
            let why = format!("'{alias}' is an alias; name its collection, '{of}'");
            return Err(SourceError::new(SourceErrorKind::Missing, &self.server.shown, why));
        }
        let peers = self.server.peers()?.unwrap_or_default();
        let mut items = vec![];
        let mut room = MAX_DESCRIPTIONS;
        for name in names {
            match self.describe(&name, &version, &aliases, &peers) {
                Ok(Some(description)) => {
                    self.options.shared.get::<Run>().note(&description);
                    let (own, len) = self.items_of(&description);
                    room = room.checked_sub(len).ok_or_else(|| {
                        let most = MAX_DESCRIPTIONS >> 20;
                        self.server
                            .error(format!("the descriptions of its collections take more than {most} MiB"))
                    })?;
                    items.extend(own);
                    self.descriptions.push(description);
                }
                Ok(None) if self.server.collection.is_some() => {
                    let why = format!("there is no collection '{name}'");
                    return Err(SourceError::new(SourceErrorKind::Missing, &self.server.shown, why));
                }
                Ok(None) => {
                    self.leave_out(&name, "it was removed while the server was read; it is left out".into());
                }
                // What the server says of one collection; with a line that is down, all of them are.
                Err(Failed { status: Some(_), error }) if self.options.keep_going => {
                    self.leave_out(&name, format!("{}; it is left out", error.why));
                }
                Err(Failed { status, mut error }) => {
                    let hint = if status.is_some() { "; --keep-going leaves it out" } else { "" };
                    error.why = format!("collection '{name}': {}{hint}", error.why);
                    return Err(error);
                }
            }
        }
        let above = format!("{}/collections", folder(&self.server.address));
        self.items = InOrder::beneath(&above, self.time, items).map_err(|why| self.server.error(why))?;
        Ok(())
    }

    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        self.tell_missing();
        for left_out in self.left_out.drain(..) {
            monitor.error(left_out);
        }
        Ok(self.items.take())
    }

    fn tolerates_item_errors(&self) -> bool {
        // Of collections that go meanwhile, and of what --keep-going leaves out.
        true
    }
}
