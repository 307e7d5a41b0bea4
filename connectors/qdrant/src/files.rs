//! The storage folder of a Qdrant that does not run (`qdrant+file:///qdrant/storage`): a file tree like any other, stored
//! under its own path, but all of it or nothing, of one moment. A running server is known by its locks and refused; what
//! changes while it is read fails the backup, since segments, logs and descriptions of different moments are no volume.
//! Links that lead out of the folder are refused rather than stored without what they lead to.

use connector_kit::address::path_of;
use engine::Monitor;
use engine::connector::Context;
use engine::monitor::Tally;
use engine::snapshot::SourceRecord;
use engine::source::files::{FilesOptions, FilesSource};
use engine::source::{Content, Item, Piece, Proof, Scanner, Source, SourceError, SourceErrorKind};
use std::collections::{BTreeMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub mod layout;
use layout::{Storage, Unreadable, held_log, is_storage, tree};

/// Kind of its records.
pub const KIND: &str = "qdrant+file";
/// statfs(2): a file system in memory, where a write to a mapped file leaves its times as they are.
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// What tells that a file is another one, or was written to.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    mode: u32,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            mode: metadata.mode(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The source of `qdrant+file://`.
pub struct VolumeSource {
    root: PathBuf,
    record: SourceRecord,
    files: FilesSource,
    /// Everything in the folder as it was at the start.
    before: BTreeMap<PathBuf, Stamp>,
    /// Whether times tell that a file is the parent snapshot's.
    times_tell: bool,
    keep_going: bool,
}

fn incomplete(path: &Path, why: impl ToString) -> SourceError {
    SourceError::new(SourceErrorKind::Incomplete, engine::shown::path(path), why)
}

fn unreadable((path, why): Unreadable) -> SourceError {
    incomplete(
        &path,
        format!("{why}; a volume is backed up whole ('esker backup PATH' takes any folder as it is)"),
    )
}

/// A running server has things in memory that its folder lacks.
fn refuse_running(root: &Path) -> Result<(), SourceError> {
    match held_log(root).map_err(|error| incomplete(root, error))? {
        None => Ok(()),
        Some(log) => Err(incomplete(
            root,
            format!(
                "a Qdrant runs on this folder ({} is locked): stop it, or back it up through its interface, \
                 qdrant+http://HOST:6333",
                log.display()
            ),
        )),
    }
}

impl VolumeSource {
    /// Looks at the folder and at whether a server runs on it.
    pub fn open(url: &url::Url, options: &Context) -> Result<Self, SourceError> {
        let given = path_of(url)?;
        let missing = |why: &dyn ToString| {
            SourceError::new(SourceErrorKind::Missing, engine::shown::path(&given), why.to_string())
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(missing(&"in a path of a URL, '?' is written as %3F and '#' as %23"));
        }
        // A link to the folder would be stored as a link.
        let root = given.canonicalize().map_err(|error| missing(&error))?;
        if !is_storage(&root) {
            return Err(missing(
                &"this is no storage folder of a Qdrant: it has no folder 'collections'; give the one that \
                  storage.storage_path of its configuration names",
            ));
        }
        refuse_running(&root)?;
        let mut record = SourceRecord::new(KIND, root.display().to_string(), true);
        describe(&Storage::read(&root).map_err(unreadable)?, &mut record);
        let tally = Tally::default();
        let files = FilesSource::new(std::slice::from_ref(&root), FilesOptions::default(), &tally)?;
        Ok(Self {
            root,
            record,
            files,
            before: BTreeMap::new(),
            times_tell: true,
            keep_going: options.keep_going,
        })
    }

    /// Everything in the folder, and whether its file systems keep the times of writes.
    fn look(&self) -> Result<(BTreeMap<PathBuf, Stamp>, bool), SourceError> {
        let all = tree(&self.root).map_err(unreadable)?;
        let (mut devices, mut times_tell) = (HashSet::new(), true);
        for (path, metadata) in &all {
            let path = self.root.join(path);
            if metadata.is_symlink() {
                return Err(incomplete(
                    &path,
                    "is a symbolic link, and what it leads to would not be stored; mount it here instead, or back up \
                     its target as well, by 'esker backup PATH PATH'",
                ));
            }
            if devices.insert(metadata.dev()) {
                let system = rustix::fs::statfs(&path).map_err(|error| incomplete(&path, error))?;
                times_tell &= i128::from(system.f_type) != TMPFS_MAGIC;
            }
        }
        Ok((all.into_iter().map(|(path, metadata)| (path, Stamp::new(&metadata))).collect(), times_tell))
    }

    /// Whether the folder is as it was at the start.
    fn prove_unchanged(&self) -> Result<(), SourceError> {
        let (after, _) = self.look()?;
        let gone = self.before.keys().find(|path| !after.contains_key(*path));
        let other =
            after.iter().find(|(path, stamp)| self.before.get(*path) != Some(stamp)).map(|(path, _)| path);
        match gone.or(other) {
            Some(path) => Err(changed(&self.root.join(path).display().to_string())),
            None => refuse_running(&self.root),
        }
    }
}

fn changed(path: &str) -> SourceError {
    let why = "changed while the volume was read: stop the server for as long as the backup takes";
    SourceError::new(SourceErrorKind::Incomplete, path, why)
}

/// Writes down what the folder says.
fn describe(storage: &Storage, record: &mut SourceRecord) {
    let details = &mut record.details;
    if let Some(server) = &storage.server {
        details.insert("server".into(), server.clone());
    }
    let text = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    details.insert("collections".into(), storage.collections.len().to_string());
    for (name, collection) in &storage.collections {
        details.insert(format!("shards:{name}"), text(&collection.shards));
        details.insert(format!("version:{name}"), collection.version.clone());
        if !collection.aliases.is_empty() {
            let aliases = serde_json::Value::from(collection.aliases.clone());
            details.insert(format!("aliases:{name}"), aliases.to_string());
        }
        if !collection.remote_shards.is_empty() {
            let remote = text(&collection.remote_shards);
            tracing::warn!(
                "collection '{name}': shards {remote} are on other nodes; this folder has {}",
                details[&format!("shards:{name}")]
            );
            details.insert(format!("remote-shards:{name}"), remote);
        }
    }
}

impl Source for VolumeSource {
    fn records(&self) -> Vec<SourceRecord> {
        vec![self.record.clone()]
    }
    fn paths(&self) -> Vec<String> {
        self.files.paths()
    }
    fn scanner(&self) -> Option<Scanner> {
        self.files.scanner()
    }
    fn tolerates_item_errors(&self) -> bool {
        self.keep_going
    }
    fn start(&mut self, _: [u64; 2]) -> Result<(), SourceError> {
        refuse_running(&self.root)?;
        (self.before, self.times_tell) = self.look()?;
        Ok(())
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let tally = Tally::default();
        let item = self.files.next_item(if self.keep_going { monitor } else { &tally })?;
        if let Some(error) = tally.errors().first() {
            return Err(unreadable((error.item.clone().into(), error.message.clone())));
        }
        let Some(mut item) = item else {
            self.prove_unchanged()?;
            return Ok(None);
        };
        if !self.times_tell {
            item.proof = Proof::Nothing;
        }
        let (path, keep_going) = (item.entry.display_path(), self.keep_going);
        item.content = item.content.map(|open| -> engine::source::Opener {
            Box::new(move || {
                let content = open().map_err(|error| strict(error, keep_going))?;
                Ok(Box::new(Whole { content, path, keep_going }))
            })
        });
        Ok(Some(item))
    }
}

/// A file that cannot be read is the end of the backup, unless the user said otherwise.
fn strict(error: SourceError, keep_going: bool) -> SourceError {
    // Nothing of a volume that is not in use vanishes or is replaced.
    let is_item =
        |kind| matches!(kind, SourceErrorKind::Item | SourceErrorKind::Vanished | SourceErrorKind::Replaced);
    if !is_item(error.kind) {
        return error;
    }
    if keep_going {
        return SourceError { kind: SourceErrorKind::Item, ..error };
    }
    let why = format!("{}; --keep-going leaves it out", error.why);
    SourceError::new(SourceErrorKind::Incomplete, error.what, why)
}

/// The content of a file that must not change meanwhile.
struct Whole {
    content: Box<dyn Content>,
    path: String,
    keep_going: bool,
}

impl Content for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let piece = self.content.read(buffer).map_err(|error| strict(error, self.keep_going))?;
        match self.content.warning() {
            Some(_) if piece == Piece::End => Err(changed(&self.path)),
            _ => Ok(piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(root: &Path) -> Result<VolumeSource, SourceError> {
        let url = format!("qdrant+file://{}", root.display());
        VolumeSource::open(
            &url::Url::parse(&url).unwrap(),
            &Context::new(std::env::temp_dir(), jiff::Timestamp::now),
        )
    }

    /// Reads all of a volume, and does something before the last file's content; returns the files.
    fn read(root: &Path, meanwhile: &dyn Fn()) -> Result<Vec<String>, SourceError> {
        let mut source = open(root)?;
        source.start([0; 2])?;
        let mut found = vec![];
        while let Some(item) = source.next_item(&Tally::default())? {
            let path = item.entry.display_path();
            if path.ends_with("raft_state.json") {
                meanwhile();
            }
            if let Some(open) = item.content {
                let mut content = open()?;
                while content.read(&mut [0; 100])? != Piece::End {}
                found.push(path);
            }
        }
        Ok(found)
    }

    #[test]
    fn a_volume_is_of_one_moment_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(open(&root).err().unwrap().kind, SourceErrorKind::Missing);
        put(&root, "collections/things/config.json", "{}");
        put(&root, "collections/things/0/segments/s/segment.json", "{}");
        put(&root, "collections/things/0/wal/open-1", "");
        put(&root, "raft_state.json", "{}");
        let whole = ["0/segments/s/segment.json", "0/wal/open-1", "config.json"]
            .map(|path| format!("{}/collections/things/{path}", root.display()));
        let mut whole: Vec<String> = whole.into();
        whole.push(format!("{}/raft_state.json", root.display()));
        assert_eq!(read(&root, &|| {}).unwrap(), whole);

        let (config, beside) = (root.join("collections/things/config.json"), folder.path().join("beside"));
        let log = root.join("collections/things/0/wal");
        let server = fs::File::open(&log).unwrap();
        let changes: [(&str, &dyn Fn()); 7] = [
            ("what was read", &|| fs::write(&config, "{ }").unwrap()),
            ("what is being read", &|| put(&root, "raft_state.json", "{ }")),
            ("replaced", &|| {
                fs::copy(&config, &beside).unwrap();
                fs::rename(&beside, &config).unwrap();
            }),
            ("its rights", &|| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(&config, mode).unwrap();
            }),
            ("new", &|| put(&root, "collections/things/0/segments/t/segment.json", "{}")),
            ("gone", &|| fs::remove_dir_all(root.join("collections/things/0/segments/t")).unwrap()),
            ("a server", &|| server.lock().unwrap()),
        ];
        for (what, change) in changes {
            let error = read(&root, change).expect_err(what);
            assert_eq!(error.kind, SourceErrorKind::Incomplete, "{what}: {error}");
        }
        let error = open(&root).err().unwrap();
        assert!(error.to_string().contains("qdrant+http://"), "{error}");
        drop(server);
        assert_eq!(read(&root, &|| {}).unwrap(), whole);
    }
}
