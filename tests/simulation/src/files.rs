//! A file system that loses what was not synced. It is stricter than POSIX asks programs to be prepared for and
//! than any real one: a file's bytes last only once the file was synced, its name only once its folder was; of
//! everything else any part may be lost, torn or come out of order; and what a failed sync was to make last, no
//! later sync does.

use crate::schedule::Random;
use chunkstore::storage::local::files::{Files, Found, Lock, NewFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder,
}

/// A change of names in a folder, undone or done as a whole.
#[derive(Clone, Debug)]
enum Change {
    Set(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Set(name, node) => drop(names.insert(name.clone(), *node)),
        Change::Remove(name) => drop(names.remove(name)),
        Change::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

#[derive(Clone, Default)]
struct Folder {
    live: BTreeMap<String, Node>,
    lasting: BTreeMap<String, Node>,
    /// Changes that the next sync makes last.
    pending: Vec<Change>,
}

impl Folder {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(change);
    }
}

#[derive(Clone, Default)]
struct Bytes {
    live: Vec<u8>,
    lasting: Vec<u8>,
}

#[derive(Clone, Default)]
struct Plane {
    files: Vec<Bytes>,
    folders: BTreeMap<PathBuf, Folder>,
    /// Folders that were removed, which may come back.
    removed: BTreeMap<PathBuf, Folder>,
}

/// What happens at a call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The power fails: no later call does anything.
    PowerCut,
    /// It fails, once; of a write, half is done.
    Fails(io::ErrorKind),
    /// It and every later write, or call that makes a name, fails: the disk is full.
    Full,
}

/// What is found after a power cut of what was not made to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Nothing.
    Nothing,
    /// All.
    Everything,
    /// The names, but no bytes.
    Names,
    /// The bytes, but no names.
    Content,
    /// Some names in any order, and of bytes a beginning, or some sectors with zeros between.
    Pieces(u64),
}

struct State {
    plane: Plane,
    /// Calls until trouble.
    left: u64,
    trouble: Option<Trouble>,
    dead: bool,
    full: bool,
    calls: u64,
}

/// The file system, shared by all who open it.
#[derive(Clone)]
pub struct FaultFs(Arc<Mutex<State>>);

/// Smallest unit that a disk writes whole.
const SECTOR: usize = 512;

/// What kind of call it is: deletions need no room.
#[derive(PartialEq)]
enum Kind {
    Writes,
    Removes,
}

impl Default for FaultFs {
    fn default() -> Self {
        let mut plane = Plane::default();
        plane.folders.insert(PathBuf::from("/"), Folder::default());
        Self::with(plane, None, 0)
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    match (path.parent(), name) {
        (Some(folder), Some(name)) => Ok((folder.to_owned(), name.to_owned())),
        _ => Err(error(io::ErrorKind::InvalidInput)),
    }
}

impl FaultFs {
    fn with(plane: Plane, trouble: Option<Trouble>, left: u64) -> Self {
        let state = State { plane, left, trouble, dead: false, full: false, calls: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy with trouble ahead, after `left` calls that change something.
    #[must_use]
    pub fn troubled(&self, trouble: Trouble, left: u64) -> Self {
        Self::with(self.state().plane.clone(), Some(trouble), left)
    }

    /// Whether the trouble has come.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.state().trouble.is_none()
    }

    /// What is there when the power is back. Calls through the old one fail from now on.
    #[must_use]
    pub fn after_power_cut(&self, survives: Survives) -> Self {
        let mut state = self.state();
        state.dead = true;
        let mut random = match survives {
            Survives::Pieces(seed) => Some(Random::new(seed, "power cut")),
            _ => None,
        };
        let mut plane = state.plane.clone();
        let removed = std::mem::take(&mut plane.removed);
        let gone: Vec<_> =
            removed.into_iter().filter(|(path, _)| !plane.folders.contains_key(path)).collect();
        plane.folders.extend(gone);
        for bytes in &mut plane.files {
            if bytes.live != bytes.lasting {
                bytes.live = match (survives, &mut random) {
                    (Survives::Everything | Survives::Content, _) => bytes.live.clone(),
                    (_, Some(random)) => torn(&bytes.live, random),
                    _ => bytes.lasting.clone(),
                };
            }
            bytes.lasting.clone_from(&bytes.live);
        }
        for folder in plane.folders.values_mut() {
            let mut names = folder.lasting.clone();
            match (survives, &mut random) {
                (Survives::Everything | Survives::Names, _) => names.clone_from(&folder.live),
                (_, Some(random)) => {
                    let mut changes: Vec<&Change> =
                        folder.pending.iter().filter(|_| random.chance(500)).collect();
                    if random.chance(500) {
                        changes.reverse();
                    }
                    changes.into_iter().for_each(|change| apply(&mut names, change));
                }
                _ => {}
            }
            *folder = Folder { live: names.clone(), lasting: names, pending: vec![] };
        }
        // A folder that nothing names is gone with all that is in it.
        let named = |path: &Path, folders: &BTreeMap<PathBuf, Folder>| {
            split(path).is_ok_and(|(above, name)| {
                folders.get(&above).is_some_and(|above| above.live.get(&name) == Some(&Node::Folder))
            })
        };
        loop {
            let lost: Vec<PathBuf> = plane
                .folders
                .keys()
                .filter(|path| path.parent().is_some() && !named(path, &plane.folders))
                .cloned()
                .collect();
            if lost.is_empty() {
                break;
            }
            lost.iter().for_each(|path| drop(plane.folders.remove(path)));
        }
        Self::with(plane, None, 0)
    }

    /// Does `work`, unless trouble has come; `half` is what is done of it if it fails here.
    fn call<T>(
        &self,
        kind: Kind,
        work: impl FnOnce(&mut Plane) -> io::Result<T>,
        half: impl FnOnce(&mut Plane),
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.dead {
            return Err(error(io::ErrorKind::NotConnected));
        }
        if state.full && kind == Kind::Writes {
            return Err(error(io::ErrorKind::StorageFull));
        }
        state.calls += 1;
        if state.trouble.is_some() && state.left == 0 {
            let trouble = state.trouble.take();
            half(&mut state.plane);
            return Err(match trouble {
                Some(Trouble::Fails(kind)) => error(kind),
                Some(Trouble::Full) => {
                    state.full = true;
                    error(io::ErrorKind::StorageFull)
                }
                _ => {
                    state.dead = true;
                    error(io::ErrorKind::NotConnected)
                }
            });
        }
        state.left = state.left.saturating_sub(1);
        work(&mut state.plane)
    }

    fn look<T>(&self, look: impl FnOnce(&Plane) -> io::Result<T>) -> io::Result<T> {
        let state = self.state();
        if state.dead { Err(error(io::ErrorKind::NotConnected)) } else { look(&state.plane) }
    }
}

/// A beginning of the bytes, or some of their sectors.
fn torn(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut torn = bytes.to_vec();
    if random.chance(500) {
        torn.truncate(random.below(bytes.len() as u64 + 1) as usize);
    } else {
        for sector in torn.chunks_mut(SECTOR).filter(|_| random.chance(500)) {
            sector.fill(0);
        }
    }
    torn
}

impl Plane {
    fn folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        self.folders.get_mut(path).ok_or_else(|| error(io::ErrorKind::NotFound))
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let (folder, name) = split(path)?;
        let folder = self.folders.get(&folder).ok_or_else(|| error(io::ErrorKind::NotFound))?;
        folder.live.get(&name).copied().ok_or_else(|| error(io::ErrorKind::NotFound))
    }

    fn bytes(&self, path: &Path) -> io::Result<&Vec<u8>> {
        match self.node(path)? {
            Node::File(number) => Ok(&self.files[number].live),
            Node::Folder => Err(error(io::ErrorKind::IsADirectory)),
        }
    }
}

struct Open {
    fs: FaultFs,
    number: usize,
}

impl NewFile for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.number;
        self.fs.call(
            Kind::Writes,
            |plane| {
                plane.files[number].live.extend_from_slice(bytes);
                Ok(())
            },
            |plane| plane.files[number].live.extend_from_slice(&bytes[..bytes.len() / 2]),
        )
    }
    fn sync(self: Box<Self>) -> io::Result<()> {
        let number = self.number;
        self.fs.call(
            Kind::Writes,
            |plane| {
                let bytes = &mut plane.files[number];
                bytes.lasting.clone_from(&bytes.live);
                Ok(())
            },
            |_| {},
        )
    }
}

impl Files for FaultFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let (folder, name) = split(path)?;
        let number = self.call(
            Kind::Writes,
            |plane| {
                let number = plane.files.len();
                let folder = plane.folder(&folder)?;
                if folder.live.contains_key(&name) {
                    return Err(error(io::ErrorKind::AlreadyExists));
                }
                folder.change(Change::Set(name.clone(), Node::File(number)));
                plane.files.push(Bytes::default());
                Ok(number)
            },
            |_| {},
        )?;
        Ok(Box::new(Open { fs: self.clone(), number }))
    }
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.look(|plane| {
            let bytes = plane.bytes(path)?;
            if bytes.len() as u64 > limit {
                return Err(error(io::ErrorKind::FileTooLarge));
            }
            Ok(bytes.clone())
        })
    }
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.look(|plane| {
            let range = plane.bytes(path)?.get(offset as usize..offset as usize + len);
            range.map(<[u8]>::to_vec).ok_or_else(|| error(io::ErrorKind::UnexpectedEof))
        })
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.look(|plane| Ok(plane.bytes(path)?.len() as u64))
    }
    fn list(&self, path: &Path, _most: u64) -> io::Result<Vec<Found>> {
        self.look(|plane| {
            let folder = plane.folders.get(path).ok_or_else(|| error(io::ErrorKind::NotFound))?;
            let found = folder.live.iter().map(|(name, node)| {
                let len = match node {
                    Node::File(number) => Some(plane.files[*number].live.len() as u64),
                    Node::Folder => None,
                };
                Found { name: name.clone(), len }
            });
            Ok(found.collect())
        })
    }
    fn rename(&self, from: &Path, to: &Path, keep: bool) -> io::Result<()> {
        let ((folder, from), (other, to)) = (split(from)?, split(to)?);
        assert_eq!(folder, other, "only within a folder");
        let work = |plane: &mut Plane| {
            let folder = plane.folder(&folder)?;
            let node = *folder.live.get(&from).ok_or_else(|| error(io::ErrorKind::NotFound))?;
            if keep && folder.live.contains_key(&to) {
                return Err(error(io::ErrorKind::AlreadyExists));
            }
            folder.change(Change::Rename(from.clone(), to.clone(), node));
            Ok(())
        };
        self.call(Kind::Writes, work, |_| {})
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = split(path)?;
        let work = |plane: &mut Plane| {
            plane.bytes(path)?;
            plane.folder(&folder)?.change(Change::Remove(name.clone()));
            Ok(())
        };
        self.call(Kind::Removes, work, |_| {})
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = split(path)?;
        let work = |plane: &mut Plane| {
            let above = plane.folder(&folder)?;
            if above.live.contains_key(&name) {
                return Err(error(io::ErrorKind::AlreadyExists));
            }
            above.change(Change::Set(name.clone(), Node::Folder));
            plane.folders.insert(path.to_owned(), Folder::default());
            Ok(())
        };
        self.call(Kind::Writes, work, |_| {})
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = split(path)?;
        let work = |plane: &mut Plane| {
            if !plane.folder(path)?.live.is_empty() {
                return Err(error(io::ErrorKind::DirectoryNotEmpty));
            }
            plane.folder(&folder)?.change(Change::Remove(name.clone()));
            let removed = plane.folders.remove(path).unwrap_or_default();
            plane.removed.insert(path.to_owned(), removed);
            Ok(())
        };
        self.call(Kind::Removes, work, |_| {})
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call(
            Kind::Writes,
            |plane| {
                let folder = plane.folder(path)?;
                let pending = std::mem::take(&mut folder.pending);
                pending.iter().for_each(|change| apply(&mut folder.lasting, change));
                Ok(())
            },
            // Taken for clean from now on.
            |plane| {
                if let Ok(folder) = plane.folder(path) {
                    folder.pending.clear();
                }
            },
        )
    }
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        // One process at a time in these tests; the file is made as the real one is.
        if !shared {
            match self.create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(Some(Box::new(())))
    }
}
