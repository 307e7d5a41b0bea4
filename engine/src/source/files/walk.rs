//! The walk through named paths, in manifest order: which paths exist, which are left out and why. It opens no file but
//! markers, so that the backup and the count for its progress use the same walk. Beneath named paths it goes from
//! folder to folder by handles: exchanging a folder for a link does not redirect it.

use super::place::{Folder, Name, Place, Status, names_in, path_of};
use super::roots::Roots;
use super::{FilesOptions, is_gone};
use crate::patterns::Verdict;
use crate::{Counter, ItemError, Monitor};
use rustix::fs::OFlags;
use rustix::process::{Resource, getrlimit};
use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One thing to be saved.
pub(super) struct Found {
    /// Path in the manifest.
    pub(super) stored: Vec<u8>,
    /// Path on disk, for people.
    pub(super) real: PathBuf,
    /// How to get there.
    pub(super) place: Place,
    pub(super) metadata: Status,
    /// Whether it was named by the user: it does not vanish without a word.
    pub(super) named: bool,
    /// A folder that only leads to what was named; a symbolic link there counts as the folder it leads to.
    pub(super) leads: bool,
}

/// A step of the walk: one path, and how it was come to.
#[derive(Clone)]
struct Step {
    stored: Vec<u8>,
    real: PathBuf,
    /// Its node, if it was named or leads to what was.
    node: Option<usize>,
    /// Of what the folder above lists.
    listed: Option<Listed>,
}

#[derive(Clone)]
struct Listed {
    /// The folder that lists it, and its device.
    folder: Folder,
    device: u64,
    name: OsString,
    /// Whether it is a folder, if the listing says so.
    is_folder: Option<bool>,
}

/// A folder whose content is still to be visited.
#[derive(Clone)]
struct Frame {
    stored: Vec<u8>,
    real: PathBuf,
    /// What it lists, the next last.
    names: Vec<Name>,
    /// Names of nodes beneath it, the next last.
    nodes: Vec<(Vec<u8>, usize)>,
    /// The folder; closed, and opened again when it is needed, where many lie beneath it.
    folder: Option<Folder>,
    /// Device and inode of the folder.
    id: (u64, u64),
}

/// Folders that are open at most, while those beneath them are walked through.
const MOST_OPEN: usize = 32;
/// Looks at something that is another thing each time, before it is taken as it is.
const LOOKS: usize = 4;

/// The walk.
#[derive(Clone)]
pub(super) struct Walk {
    roots: Arc<Roots>,
    options: Arc<FilesOptions>,
    stack: Vec<Frame>,
    started: bool,
    last: Option<Step>,
    /// What could not be looked at or into, or was not to be, as it would be stored.
    unseen: Vec<Vec<u8>>,
}

/// Most such paths that a snapshot keeps; of more, all is taken for unseen.
const MAX_UNSEEN: usize = 1000;

/// What becomes of a folder's content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    All,
    /// Only named paths.
    Named,
}

impl Walk {
    pub(super) fn new(roots: Arc<Roots>, options: Arc<FilesOptions>) -> Self {
        Self { roots, options, stack: vec![], started: false, last: None, unseen: vec![] }
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Notes a path of which, or of whose content, the snapshot will know nothing.
    pub(super) fn did_not_see(&mut self, stored: Vec<u8>) {
        if self.unseen.len() <= MAX_UNSEEN && self.unseen.last() != Some(&stored) {
            self.unseen.push(stored);
        }
    }

    /// Those paths.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &[u8]> {
        let is_all = self.unseen.len() > MAX_UNSEEN;
        let named = self.roots.named().iter().filter(move |_| is_all).map(|(_, stored)| stored.as_slice());
        named.chain(self.unseen.iter().filter(move |_| !is_all).map(Vec::as_slice))
    }

    /// The next thing to be saved.
    pub(super) fn next(&mut self, monitor: &dyn Monitor) -> Option<Found> {
        if !self.started {
            self.started = true;
            self.start(monitor);
        }
        while let Some(frame) = self.stack.last_mut() {
            let (listed, node) = (frame.names.last(), frame.nodes.last());
            let order = match (listed, node) {
                (None, None) => {
                    self.stack.pop();
                    continue;
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((listed, _)), Some((node, _))) => listed.as_bytes().cmp(node),
            };
            let listed = if order.is_le() { frame.names.pop() } else { None };
            let node = if order.is_ge() { frame.nodes.pop() } else { None };
            let name = match (&listed, &node) {
                (Some((name, _)), _) => name.clone(),
                (None, Some((name, _))) => OsString::from_vec(name.clone()),
                (None, None) => continue,
            };
            let mut stored = frame.stored.clone();
            if !stored.is_empty() {
                stored.push(b'/');
            }
            stored.extend_from_slice(name.as_bytes());
            let node = node.map(|(_, node)| node);
            let real = match node {
                Some(node) => self.roots.node(node).real.clone(),
                None => frame.real.join(&name),
            };
            let listed = match listed.map(|(name, is_folder)| (name, is_folder, frame.open())) {
                None => None,
                Some((name, is_folder, Ok(folder))) => {
                    Some(Listed { folder, device: frame.id.0, name, is_folder })
                }
                Some((.., Err(error))) => {
                    let (stored, real) = (frame.stored.clone(), frame.real.clone());
                    frame.names.clear();
                    report(&real, &error, monitor);
                    self.did_not_see(stored);
                    None
                }
            };
            let step = Step { stored, real, node, listed };
            self.last = Some(step.clone());
            if let Some(found) = self.visit(step, monitor) {
                return Some(found);
            }
        }
        None
    }

    /// Visits the last path again: it was found to be another one now.
    pub(super) fn again(&mut self, monitor: &dyn Monitor) -> Option<Found> {
        self.last.clone().and_then(|step| self.visit(step, monitor))
    }

    /// The root of everything has no entry of its own.
    fn start(&mut self, monitor: &dyn Monitor) {
        let node = self.roots.node(0);
        let (is_root, real) = (node.is_root, node.real.clone());
        let content = if is_root { Content::All } else { Content::Named };
        let place = Place::Path { path: real.clone(), follow: true };
        match look(&place, content) {
            Ok((metadata, folder)) => self.descend(vec![], real, metadata, folder, Some(0), monitor),
            Err(error) => report(&real, &error, monitor),
        }
    }

    fn visit(&mut self, step: Step, monitor: &dyn Monitor) -> Option<Found> {
        if let Some(node) = step.node.filter(|node| self.roots.node(*node).is_root) {
            return self.visit_named(step, node, monitor);
        }
        let found = step.listed.as_ref().and_then(|listed| self.visit_listed(&step, listed, monitor));
        match (found, step.node) {
            (None, Some(node)) => self.visit_leading(step, node, monitor),
            (found, _) => found,
        }
    }

    /// A path that the user named: no filter applies to it.
    fn visit_named(&mut self, step: Step, node: usize, monitor: &dyn Monitor) -> Option<Found> {
        let Step { stored, real, .. } = step;
        let place = Place::Path { path: real.clone(), follow: self.roots.node(node).follow };
        let (metadata, folder) = match look(&place, Content::All) {
            Ok(looked) => looked,
            Err(error) => {
                report(&real, &error, monitor);
                self.did_not_see(stored);
                return None;
            }
        };
        let is_dir = metadata.is_dir();
        let fits = self.verdict(&real, Some(is_dir)) == Verdict::Fits;
        if fits || self.is_too_large(&metadata) || self.is_marked(&real, &folder) {
            let shown = crate::shown::path(&real);
            monitor.note(&format!("'{shown}' was named and is saved, although an exclude fits it"));
        }
        if is_dir {
            self.descend(stored.clone(), real.clone(), metadata, folder, Some(node), monitor);
        }
        Some(Found { stored, real, place, metadata, named: true, leads: false })
    }

    /// Visits an entry of a folder. An excluded path is not read.
    fn visit_listed(&mut self, step: &Step, listed: &Listed, monitor: &dyn Monitor) -> Option<Found> {
        let Step { stored, real, node, .. } = step;
        let place = Place::In { folder: Arc::clone(&listed.folder), name: listed.name.clone() };
        if self.verdict(real, listed.is_folder) == Verdict::Fits {
            return None;
        }
        let is_other = |metadata: &Status| self.options.one_file_system && listed.device != metadata.id().0;
        let looked = place.status().and_then(|metadata| {
            // What is mounted there may not answer.
            let content = if is_other(&metadata) { Content::Named } else { Content::All };
            look(&place, content)
        });
        let (metadata, mut folder) = match looked {
            Ok(looked) => looked,
            Err(error) if is_gone(&error) => {
                monitor.count(Counter::Vanished, 1);
                return None;
            }
            Err(error) => {
                report(real, &error, monitor);
                self.did_not_see(stored.clone());
                return None;
            }
        };
        let is_dir = metadata.is_dir();
        if listed.is_folder != Some(is_dir) && self.verdict(real, Some(is_dir)) == Verdict::Fits {
            return None;
        }
        if self.is_too_large(&metadata) {
            return None;
        }
        if is_dir && let Some(own) = self.options.own.iter().find(|own| own.is_at(metadata.id())) {
            monitor.note(&format!("'{}' is {} and left out", crate::shown::path(real), own.what));
            self.did_not_see(stored.clone());
            return None;
        }
        let elsewhere = is_other(&metadata);
        // The mount point itself is kept, empty, as restic does: it must be there to mount on.
        if elsewhere && !is_dir {
            self.did_not_see(stored.clone());
            return None;
        }
        if is_dir {
            if elsewhere || self.is_marked(real, &folder) {
                folder = Looked::Passed;
                self.did_not_see(stored.clone());
            }
            self.descend(stored.clone(), real.clone(), metadata, folder, *node, monitor);
        } else if node.is_some() {
            // Not a folder, although a named path lies beneath it.
            return None;
        }
        let (stored, real) = (stored.clone(), real.clone());
        Some(Found { stored, real, place, metadata, named: false, leads: false })
    }

    /// Visits a folder that is saved only because it leads to a named path.
    fn visit_leading(&mut self, step: Step, node: usize, monitor: &dyn Monitor) -> Option<Found> {
        let Step { stored, real, .. } = step;
        match Status::at(&real, true) {
            Ok(metadata) => {
                self.descend(stored.clone(), real.clone(), metadata, Looked::Passed, Some(node), monitor);
                let follow = Status::at(&real, false).is_ok_and(|link| !link.is_dir());
                let place = Place::Path { path: real.clone(), follow };
                Some(Found { stored, real, place, metadata, named: false, leads: true })
            }
            Err(error) => {
                report(&real, &error, monitor);
                self.did_not_see(stored);
                None
            }
        }
    }

    fn verdict(&self, real: &Path, is_folder: Option<bool>) -> Verdict {
        let path = real.as_os_str().as_bytes();
        let verdicts =
            [&self.options.excludes, &self.options.iexcludes].map(|set| set.verdict(path, is_folder));
        [Verdict::Fits, Verdict::DependsOnKind]
            .into_iter()
            .find(|verdict| verdicts.contains(verdict))
            .unwrap_or(Verdict::FitsNot)
    }

    fn is_too_large(&self, metadata: &Status) -> bool {
        metadata.is_file() && self.options.exclude_larger_than.is_some_and(|limit| metadata.len() > limit)
    }

    fn is_marked(&self, real: &Path, folder: &Looked) -> bool {
        let markers = &self.options.exclude_if_present;
        match folder {
            _ if markers.is_empty() => false,
            Looked::Open(folder) => {
                let path = path_of(folder).unwrap_or_else(|| real.to_owned());
                markers.iter().any(|marker| marker.is_in(&path))
            }
            _ => markers.iter().any(|marker| marker.is_in(real)),
        }
    }

    fn descend(
        &mut self,
        stored: Vec<u8>,
        real: PathBuf,
        metadata: Status,
        folder: Looked,
        node: Option<usize>,
        monitor: &dyn Monitor,
    ) {
        let mut names = vec![];
        let mut failed = None;
        let folder = match folder {
            Looked::Open(folder) => {
                (names, failed) = names_in(&folder);
                names.sort_unstable_by(|(a, _), (b, _)| b.as_bytes().cmp(a.as_bytes()));
                Some(folder)
            }
            Looked::Closed(error) => {
                failed = Some(error);
                None
            }
            Looked::Passed => None,
        };
        match failed {
            None => {}
            Some(error) if is_gone(&error) && !node.is_some_and(|node| self.roots.node(node).is_root) => {
                monitor.count(Counter::Vanished, 1);
            }
            Some(error) => {
                report(&real, &error, monitor);
                self.did_not_see(stored.clone());
            }
        }
        let children = node.map(|node| &self.roots.node(node).children);
        let nodes = children.into_iter().flatten().rev().map(|(name, node)| (name.clone(), *node)).collect();
        self.stack.push(Frame { stored, real, names, nodes, folder, id: metadata.id() });
        // A process may have few files open; the count for the progress walks at the same time.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(limit / 8).unwrap_or(MOST_OPEN).clamp(1, MOST_OPEN);
        let open = self.stack.iter().filter(|frame| frame.folder.is_some()).count();
        let far = self.stack.iter_mut().filter(|frame| frame.folder.is_some());
        far.take(open.saturating_sub(most)).for_each(|frame| frame.folder = None);
    }
}

impl Frame {
    /// The folder, opened again if it was closed: by its path, and only if it is the same one.
    fn open(&mut self) -> io::Result<Folder> {
        if let Some(folder) = &self.folder {
            return Ok(Arc::clone(folder));
        }
        let folder = Place::Path { path: self.real.clone(), follow: true }.open_folder()?;
        if Status::of(&folder)?.id() != self.id {
            return Err(io::Error::other("was exchanged for another folder while it was being backed up"));
        }
        self.folder = Some(Arc::clone(&folder));
        Ok(folder)
    }
}

/// What came of a look at a folder.
enum Looked {
    /// It is open.
    Open(Folder),
    /// It cannot be opened.
    Closed(io::Error),
    /// It is not a folder, or its content is not wanted.
    Passed,
}

/// Reads metadata, and opens a folder whose content is wanted; the metadata is that of the open folder.
fn look(place: &Place, content: Content) -> io::Result<(Status, Looked)> {
    for _ in 0..LOOKS {
        let metadata = place.status()?;
        if !metadata.is_dir() || content == Content::Named {
            return Ok((metadata, Looked::Passed));
        }
        match place.open(OFlags::DIRECTORY) {
            Ok(folder) => return Ok((Status::of(&folder)?, Looked::Open(Arc::new(folder)))),
            // A link or another thing by now.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {}
            Err(errno) => return Ok((metadata, Looked::Closed(errno.into()))),
        }
    }
    Err(io::Error::other("was exchanged again and again while it was being backed up"))
}

fn report(path: &Path, error: &dyn Display, monitor: &dyn Monitor) {
    monitor.error(ItemError { during: "scan", item: crate::shown::path(path), message: error.to_string() });
}
