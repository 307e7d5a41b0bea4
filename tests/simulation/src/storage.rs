//! A store that keeps the contract's promises and no others: requests fail before or after they took effect,
//! answers are cut or altered, listings leave things out.

use crate::schedule::Turn;
use bytes::Bytes;
use chunkstore::format::names;
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult, Version};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The objects, shared by all hosts.
#[derive(Default)]
pub(crate) struct Disk(Mutex<BTreeMap<String, Bytes>>);

impl Disk {
    /// HEAD's bytes, wherever it lies.
    pub(crate) fn head(&self) -> Option<Bytes> {
        let objects = self.objects();
        let links = objects.range(format!("{}/", names::HEADS)..format!("{}0", names::HEADS));
        objects.get(names::HEAD).or_else(|| links.last().map(|(_, body)| body)).cloned()
    }

    /// The objects.
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often requests go wrong, per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A request fails; half of them after it took effect.
    pub(crate) fail: u64,
    /// An answer's bytes are altered or cut.
    pub(crate) alter: u64,
    /// An entry is left out of a listing.
    pub(crate) hide: u64,
}

/// Called with every name before it is deleted, and with HEAD's bytes after a swap.
pub(crate) trait Witness: Send + Sync {
    /// An object is about to go.
    fn deleting(&self, disk: &Disk, name: &str);
    /// HEAD was replaced.
    fn swapped(&self, disk: &Disk, old: Option<&Bytes>, new: &Bytes);
}

/// One host's way to the store.
pub(crate) struct Link {
    /// The objects.
    pub(crate) disk: Arc<Disk>,
    /// The actor that asks; `None` for the judge, who is never disturbed.
    pub(crate) turn: Option<Arc<TurnCell>>,
    /// How it goes wrong.
    pub(crate) faults: Faults,
    /// Who watches.
    pub(crate) witness: Option<Arc<dyn Witness>>,
}

/// A turn that the engine's traits, which want `Sync`, can hold: only its own thread ever uses it.
pub(crate) struct TurnCell(pub(crate) Mutex<Turn>);

impl TurnCell {
    /// The turn.
    pub(crate) fn get(&self) -> MutexGuard<'_, Turn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn error(kind: ErrorKind, op: &'static str, name: &str, why: &str) -> StorageError {
    StorageError { kind, op, object: name.to_owned(), source: why.into() }
}

fn version(body: &[u8]) -> Version {
    Version(blake3::hash(body).to_hex().to_string())
}

/// What becomes of a request.
#[derive(PartialEq)]
enum Fate {
    Well,
    FailsBefore,
    FailsAfter,
}

impl Link {
    fn fate(&self, op: &'static str, name: &str) -> StorageResult<Fate> {
        let Some(turn) = &self.turn else { return Ok(Fate::Well) };
        let turn = turn.get();
        turn.pass(op, name);
        if turn.is_dead() {
            return Err(error(ErrorKind::Failed, op, name, "this host is dead"));
        }
        if !turn.chance(self.faults.fail) {
            return Ok(Fate::Well);
        }
        Ok(if turn.chance(500) { Fate::FailsBefore } else { Fate::FailsAfter })
    }

    fn altered(&self, body: Bytes) -> Bytes {
        let Some(turn) = &self.turn else { return body };
        let turn = turn.get();
        if body.is_empty() || !turn.chance(self.faults.alter) {
            return body;
        }
        let at = turn.below(body.len() as u64) as usize;
        let mut bytes = body.to_vec();
        if turn.chance(500) {
            bytes[at] ^= 1 << turn.below(8);
        } else {
            bytes.truncate(at);
        }
        bytes.into()
    }

    fn find(&self, op: &'static str, name: &str) -> StorageResult<Bytes> {
        if self.fate(op, name)? != Fate::Well {
            return Err(error(ErrorKind::Failed, op, name, "503 slow down"));
        }
        let body = self.disk.objects().get(name).cloned();
        body.ok_or_else(|| error(ErrorKind::NotFound, op, name, "404"))
    }
}

impl Storage for Link {
    fn place(&self) -> String {
        "simulation".into()
    }

    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        // Nothing is ever damaged here, so there is nothing else to replace it with.
        self.put(name, body)
    }

    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        let fate = self.fate("write", name)?;
        if fate == Fate::FailsBefore {
            return Err(error(ErrorKind::Failed, "write", name, "503"));
        }
        let (old, link) = (self.disk.head(), name.starts_with(names::HEADS));
        // Of those that several may write, the first one counts.
        let numbered = link || [names::GRANTS, names::REPLIES].iter().any(|folder| name.starts_with(folder));
        if numbered && self.disk.objects().get(name).is_some_and(|other| *other != body) {
            return Err(error(ErrorKind::Conflict, "write", name, "412"));
        }
        match self.disk.objects().insert(name.to_owned(), body.clone()) {
            Some(other) if other != body => panic!("{name} is written twice, with other bytes"),
            _ => {}
        }
        if let Some(witness) = &self.witness
            && link
            && self.disk.head().as_ref() == Some(&body)
            && old.as_ref() != Some(&body)
        {
            witness.swapped(&self.disk, old.as_ref(), &body);
        }
        match fate {
            Fate::FailsAfter => Err(error(ErrorKind::Failed, "write", name, "no answer")),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        let body = self.altered(self.find("read", name)?);
        if body.len() as u64 > limit {
            return Err(error(ErrorKind::Failed, "read", name, "larger than any such object may be"));
        }
        Ok(body)
    }

    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        let body = self.find("read", name)?;
        let range = offset as usize..(offset + len) as usize;
        if range.end > body.len() {
            return Err(error(ErrorKind::Short, "read", name, "range beyond the object's end"));
        }
        Ok(self.altered(body.slice(range)))
    }

    fn len(&self, name: &str) -> StorageResult<u64> {
        Ok(self.find("read", name)?.len() as u64)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        if self.fate("list", folder)? != Fate::Well {
            return Err(error(ErrorKind::Failed, "list", folder, "503"));
        }
        let prefix = format!("{folder}/");
        let found: Vec<(String, usize)> = self
            .disk
            .objects()
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, body)| (name.clone(), body.len()))
            .collect();
        for (name, len) in found {
            // A chain of HEADs asks for listings that can be relied on.
            let faults = if folder == names::HEADS { 0 } else { self.faults.hide };
            let hidden = self.turn.as_ref().is_some_and(|turn| turn.get().chance(faults));
            if !hidden {
                each(&name, len as u64);
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> StorageResult<()> {
        let fate = self.fate("delete", name)?;
        if fate == Fate::FailsBefore {
            return Err(error(ErrorKind::Failed, "delete", name, "503"));
        }
        if let Some(witness) = &self.witness {
            witness.deleting(&self.disk, name);
        }
        self.disk.objects().remove(name);
        match fate {
            Fate::FailsAfter => Err(error(ErrorKind::Failed, "delete", name, "no answer")),
            _ => Ok(()),
        }
    }

    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        match self.find("read", name) {
            Ok(body) => Ok(Some((body.clone(), version(&body)))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let fate = self.fate("swap", name)?;
        // The answer to a request that did not arrive is as doubtful as one that was lost.
        let lost = |kind| Err(error(kind, "swap", name, "no answer"));
        if fate == Fate::FailsBefore {
            return lost(ErrorKind::Ambiguous);
        }
        let old = self.disk.objects().get(name).cloned();
        if old.as_ref().map(|body| version(body)).as_ref() != expected {
            return lost(ErrorKind::Conflict);
        }
        self.disk.objects().insert(name.to_owned(), body.clone());
        if let Some(witness) = &self.witness {
            witness.swapped(&self.disk, old.as_ref(), &body);
        }
        match fate {
            // A client that repeats a request whose answer was lost is told of a conflict with itself.
            Fate::FailsAfter => {
                let itself = self.turn.as_ref().is_some_and(|turn| turn.get().chance(500));
                lost(if itself { ErrorKind::Conflict } else { ErrorKind::Ambiguous })
            }
            _ => Ok(()),
        }
    }

    fn connections(&self) -> usize {
        2
    }

    chunkstore::plain_store!(stream_range leftovers is_near keeps_copies written_ms copies shelf);
}
