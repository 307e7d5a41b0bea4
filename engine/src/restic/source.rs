//! A snapshot of restic as a source: its folders in order, its blobs as one stream a file, cut and sealed anew.

use super::repository::{Id, Kind as BlobKind, Repository, Snapshot};
use super::tree::{Node, Tree};
use crate::entry::Kind;
use crate::filters;
use crate::snapshot::SourceRecord;
use crate::source::{Content, Item, Opener, Piece, Proof, Source, SourceError, SourceErrorKind};
use crate::stored::LOST;
use crate::{ItemError, Monitor};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Folders within folders that are followed: a path has at most 4096 bytes on Linux.
const MAX_DEPTH: usize = 4096;

/// The source.
pub struct ResticSource {
    repo: Arc<Repository>,
    snapshot: Snapshot,
    /// The snapshot whose copy is the parent: what its folders have in common with these need not be read again.
    before: Option<Id>,
    keep_going: bool,
    folders: Vec<Folder>,
    started: bool,
    windows: u64,
    /// Entries that were damaged and left out, or whose content was.
    lost: Arc<AtomicU64>,
}

/// A folder that is being walked through.
struct Folder {
    path: Vec<u8>,
    /// What is still to come, the last first.
    nodes: Vec<(Vec<u8>, Node)>,
    before: Before,
}

/// What the earlier snapshot has at the same place.
enum Before {
    Nothing,
    /// The very same folder.
    Same,
    Other(HashMap<Vec<u8>, Node>),
}

impl ResticSource {
    /// The snapshot; `before` is the one whose copy is named as the parent of the backup. With `keep_going`, what is
    /// damaged is named and left out.
    #[must_use]
    pub fn new(
        repo: &Arc<Repository>,
        snapshot: Snapshot,
        before: Option<&Snapshot>,
        keep_going: bool,
    ) -> Self {
        Self {
            repo: Arc::clone(repo),
            snapshot,
            before: before.map(|snapshot| snapshot.tree),
            keep_going,
            folders: vec![],
            started: false,
            windows: 0,
            lost: Arc::default(),
        }
    }

    /// Entries whose attributes of Windows were left out so far.
    #[must_use]
    pub fn windows_attributes(&self) -> u64 {
        self.windows
    }

    fn load(&self, id: Id) -> Result<Vec<(Vec<u8>, Node)>, SourceError> {
        let broken = |why: String| SourceError::new(SourceErrorKind::Incomplete, format!("tree {id}"), why);
        let text = self.repo.blob(BlobKind::Tree, id)?;
        let tree: Tree = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let mut nodes = vec![];
        for node in tree.nodes.unwrap_or_default() {
            let name = node.name().filter(|name| {
                !matches!(name.as_slice(), b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
            });
            let name = name.ok_or_else(|| broken("it holds a name that no file can have".into()))?;
            nodes.push((name, node));
        }
        nodes.sort_by(|a, b| a.0.cmp(&b.0));
        if nodes.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
            return Err(broken("it holds one name twice".into()));
        }
        Ok(nodes)
    }

    fn enter(&mut self, path: Vec<u8>, id: Id, before: Option<Id>) -> Result<(), SourceError> {
        if self.folders.len() >= MAX_DEPTH {
            let why = "folders are nested too deeply";
            return Err(SourceError::new(SourceErrorKind::Incomplete, format!("tree {id}"), why));
        }
        let mut nodes = self.load(id)?;
        nodes.reverse();
        let before = match before {
            Some(before) if before == id => Before::Same,
            // What the earlier one can no longer give is read from this one.
            Some(before) => {
                self.load(before).map_or(Before::Nothing, |nodes| Before::Other(nodes.into_iter().collect()))
            }
            None => Before::Nothing,
        };
        self.folders.push(Folder { path, nodes, before });
        Ok(())
    }

    /// The next node that can be kept, below the folder on top.
    fn item(
        &mut self,
        path: Vec<u8>,
        node: &Node,
        older: Option<&Node>,
    ) -> Result<Option<Item>, SourceError> {
        let shown = crate::entry::display_path(&path);
        let broken = |why: String| SourceError::new(SourceErrorKind::Incomplete, shown.clone(), why);
        let Some(kind) = node.kind() else {
            return Err(broken(format!("restic calls it '{}', which esker cannot keep", node.word())));
        };
        let entry = node.entry(path.clone(), kind).map_err(broken)?;
        if node.has_windows_attributes() {
            self.windows += 1;
        }
        if kind == Kind::Dir
            && let Some(subtree) = node.subtree
        {
            self.enter(path, subtree, older.and_then(|older| older.subtree))?;
        }
        let content = node.content.clone().unwrap_or_default();
        let same =
            older.is_some_and(|older| older.content == node.content && older.kind() == Some(Kind::File));
        let (keep_going, lost) = (self.keep_going, Arc::clone(&self.lost));
        let open = (kind == Kind::File).then(|| {
            let repo = Arc::clone(&self.repo);
            let open: Opener = Box::new(move || {
                let blobs =
                    Blobs { repo, ids: content, at: 0, ready: vec![], offset: 0, shown, keep_going, lost };
                Ok(Box::new(blobs))
            });
            open
        });
        let proof = if same { Proof::Metadata } else { Proof::Nothing };
        Ok(Some(Item { entry, content: open, proof, leads: false }))
    }
}

impl Source for ResticSource {
    fn records(&self) -> Vec<SourceRecord> {
        let record = |path: &String| {
            let mut record = SourceRecord::new("files", path.clone(), false);
            record.details.insert("restic_repository".into(), self.repo.id().to_owned());
            record.details.insert("restic_snapshot".into(), self.snapshot.id.to_string());
            let lost = self.lost.load(Ordering::Relaxed);
            if lost > 0 {
                record.details.insert(LOST.into(), lost.to_string());
            }
            record
        };
        let mut records: Vec<SourceRecord> = self.snapshot.paths.iter().map(record).collect();
        let excludes = self.snapshot.excludes.as_deref().unwrap_or_default();
        if let Some(first) = records.first_mut() {
            first.details.insert(filters::FILTERS.into(), filters::of_others("restic", excludes));
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        self.snapshot.paths.clone()
    }
    fn may_be_empty(&self) -> bool {
        true
    }
    fn tolerates_item_errors(&self) -> bool {
        self.keep_going
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        if !self.started {
            self.started = true;
            self.enter(vec![], self.snapshot.tree, self.before)?;
        }
        loop {
            let Some(folder) = self.folders.last_mut() else { return Ok(None) };
            let Some((name, node)) = folder.nodes.pop() else {
                self.folders.pop();
                continue;
            };
            let path =
                if folder.path.is_empty() { name.clone() } else { [&folder.path[..], &name].join(&b'/') };
            let older = match &mut folder.before {
                Before::Nothing => None,
                Before::Same => Some(node.clone()),
                Before::Other(nodes) => nodes.remove(&name),
            };
            match self.item(path, &node, older.as_ref()) {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(error) if self.keep_going && error.kind == SourceErrorKind::Incomplete => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    monitor.error(ItemError { during: "import", item: error.what, message: error.why });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The content of a file.
struct Blobs {
    repo: Arc<Repository>,
    ids: Vec<Id>,
    /// Blobs that were read.
    at: usize,
    /// Those of them that were not handed out, the last first.
    ready: Vec<Vec<u8>>,
    /// Bytes of the last of them that were.
    offset: usize,
    shown: String,
    /// Whether the other files are wanted although this one is damaged.
    keep_going: bool,
    /// Counts those that are.
    lost: Arc<AtomicU64>,
}

impl Content for Blobs {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        loop {
            if let Some(blob) = self.ready.last() {
                let rest = blob.get(self.offset..).unwrap_or_default();
                if rest.is_empty() {
                    self.ready.pop();
                    self.offset = 0;
                    continue;
                }
                let len = buffer.len().min(rest.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                self.offset += len;
                return Ok(Piece::Data(len));
            }
            let ids = self.ids.get(self.at..).unwrap_or_default();
            if ids.is_empty() {
                return Ok(Piece::End);
            }
            self.ready = self.repo.run(BlobKind::Data, ids).map_err(|error| SourceError {
                kind: match error.kind {
                    SourceErrorKind::Incomplete if self.keep_going => {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                        SourceErrorKind::Item
                    }
                    kind => kind,
                },
                what: format!("{}: {}", self.shown, error.what),
                why: error.why,
                status: error.status,
            })?;
            self.at += self.ready.len();
            self.ready.reverse();
        }
    }
}
