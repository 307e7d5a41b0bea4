//! Named paths, normalized before the walk, and the tree of folders that leads to them.
//!
//! Each named path gets one place in the snapshot, and no two get the same one. The walk visits every named path,
//! whatever is between it and another one above (a mount point, an exclude, a marker, a symbolic link).

use super::{FilesOptions, Own};
use crate::source::{SourceError, SourceErrorKind};
use crate::{ItemError, Monitor};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// A named path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    /// As it was given.
    given: PathBuf,
    /// What `stored` is relative to: `/`, or the current folder.
    base: PathBuf,
    /// Path in the manifest.
    stored: Vec<u8>,
    /// A symbolic link that was named with a slash at its end: what it leads to is meant.
    follow: bool,
}

impl Root {
    fn real(&self) -> PathBuf {
        join(&self.base, &self.stored)
    }

    /// Stores it under its absolute path.
    fn make_absolute(&mut self) {
        let real = self.real();
        self.stored = stored(&real);
        self.base = PathBuf::from("/");
    }
}

/// A folder that leads to named paths, or a named path itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// Whether it was named.
    pub(super) is_root: bool,
    /// Whether what is there is looked at through a symbolic link.
    pub(super) follow: bool,
    /// Path on disk.
    pub(super) real: PathBuf,
    /// Name and number of the nodes beneath, in byte order.
    pub(super) children: BTreeMap<Vec<u8>, usize>,
}

/// All named paths as a tree; node 0 is the root of everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    nodes: Vec<Node>,
    /// Path on disk and in the manifest.
    named: Vec<(PathBuf, Vec<u8>)>,
}

impl Roots {
    /// Examines the named paths. Missing ones are item errors; if all are missing, that is an error.
    pub(super) fn resolve(
        paths: &[PathBuf],
        options: &FilesOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self, SourceError> {
        let mut roots = vec![];
        for path in paths {
            match locate(path) {
                Ok(root) => roots.push(root),
                Err(error) => monitor.error(ItemError {
                    during: "scan",
                    item: crate::shown::path(path),
                    message: error.to_string(),
                }),
            }
        }
        if roots.is_empty() {
            let shown = paths.iter().map(|path| crate::shown::path(path)).collect::<Vec<_>>().join(", ");
            return Err(SourceError::new(SourceErrorKind::Missing, shown, "nothing there to back up"));
        }
        go_around_links(&mut roots, monitor);
        if let Some((relative, absolute)) = same_names(&roots) {
            monitor.note(&format!(
                "'{}' and '{}' would get the same name in the snapshot: relative paths are stored under their \
                 absolute ones",
                crate::shown::path(relative),
                crate::shown::path(absolute)
            ));
            roots.iter_mut().for_each(Root::make_absolute);
            go_around_links(&mut roots, monitor);
        }
        refuse_own(&roots, &options.own)?;
        let made = Self::tree(&roots);
        tell_links(&roots, monitor);
        Ok(made)
    }

    fn tree(roots: &[Root]) -> Self {
        let mut nodes = vec![Node { real: PathBuf::from("/"), ..Node::default() }];
        let mut named = vec![];
        for root in roots {
            let mut at = 0;
            let mut real = root.base.clone();
            for name in root.stored.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
                real.push(OsStr::from_bytes(name));
                let next = nodes.len();
                at = *nodes[at].children.entry(name.to_vec()).or_insert(next);
                if at == next {
                    nodes.push(Node { real: real.clone(), ..Node::default() });
                }
            }
            let node = &mut nodes[at];
            if !node.is_root {
                node.real.clone_from(&real);
                node.is_root = true;
                named.push((real, root.stored.clone()));
            }
            node.follow |= root.follow;
        }
        Self { nodes, named }
    }

    pub(super) fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// The named paths, absolute and as they are stored, without those that were named twice, in the order in which
    /// they were named.
    pub(super) fn named(&self) -> &[(PathBuf, Vec<u8>)] {
        &self.named
    }
}

/// The place in the manifest of a path given by the user: an absolute path under its own name, a relative one under its
/// relative name, as in restic; one with `..` under its absolute name.
fn locate(path: &Path) -> std::io::Result<Root> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(std::io::Error::other("an empty path names nothing; '.' is the current folder"));
    }
    fs::symlink_metadata(path)?;
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let through = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let given = path.to_owned();
    if plain.components().any(|part| part == Component::ParentDir) {
        // What is before `..` may be a symbolic link: only the kernel knows where that leads.
        let absolute = std::path::absolute(path)?;
        let real = match (absolute.parent(), absolute.file_name(), plain.components().next_back()) {
            (Some(parent), Some(name), Some(Component::Normal(_))) if !through => {
                parent.canonicalize()?.join(name)
            }
            _ => absolute.canonicalize()?,
        };
        return Ok(Root { given, base: PathBuf::from("/"), stored: stored(&real), follow: false });
    }
    let base = if plain.is_absolute() { PathBuf::from("/") } else { std::env::current_dir()? };
    let stored = stored(&plain);
    let follow = through && is_link(&join(&base, &stored));
    Ok(Root { given, base, stored, follow })
}

fn stored(path: &Path) -> Vec<u8> {
    path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes().to_vec()
}

fn join(base: &Path, stored: &[u8]) -> PathBuf {
    if stored.is_empty() { base.to_owned() } else { base.join(OsStr::from_bytes(stored)) }
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

/// The paths above one in a manifest, from the root of everything down.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    (!path.is_empty()).then_some(0).into_iter().chain(ends).map(|end| &path[..end])
}

/// A named path beneath another one, with a symbolic link in between, cannot be stored there: the link is. It is stored
/// where the link leads.
fn go_around_links(roots: &mut [Root], monitor: &dyn Monitor) {
    let key = |root: &Root| (root.base.clone(), root.stored.clone());
    let named: HashSet<_> = roots.iter().map(key).collect();
    let followed: HashSet<_> = roots.iter().filter(|root| root.follow).map(key).collect();
    for root in roots {
        let mut is_inside = false;
        let mut link = None;
        for folder in above(&root.stored) {
            let key = (root.base.clone(), folder.to_vec());
            is_inside |= named.contains(&key);
            if is_inside && !folder.is_empty() && !followed.contains(&key) {
                link = link.or_else(|| Some(join(&root.base, folder)).filter(|path| is_link(path)));
            }
        }
        let real = root.real();
        let (Some(link), Some(parent), Some(name)) = (link, real.parent(), real.file_name()) else {
            continue;
        };
        let Ok(parent) = parent.canonicalize() else { continue };
        let real = parent.join(name);
        monitor.note(&format!(
            "'{}' is behind the symbolic link '{}', which is saved as a link: it is stored as '{}'",
            crate::shown::path(&root.given),
            crate::shown::path(&link),
            crate::shown::path(&real)
        ));
        root.stored = stored(&real);
        root.base = PathBuf::from("/");
    }
}

/// A relative and an absolute path that would share a folder in the snapshot which are two on disk.
fn same_names(roots: &[Root]) -> Option<(&Path, &Path)> {
    let first = |root: &Root| root.stored.split(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let (absolute, relative): (Vec<_>, Vec<_>) = roots.iter().partition(|root| root.base == Path::new("/"));
    let firsts: BTreeMap<Vec<u8>, &Root> = absolute.iter().map(|root| (first(root), *root)).collect();
    let any = absolute.first()?;
    relative.iter().find_map(|root| {
        let name = first(root);
        let everything = firsts.get(&b""[..]);
        let other = if name.is_empty() { Some(any) } else { firsts.get(&name).or(everything) };
        Some((root.given.as_path(), other?.given.as_path()))
    })
}

/// The repository is not saved into itself.
fn refuse_own(roots: &[Root], own: &[Own]) -> Result<(), SourceError> {
    let own: Vec<&Own> = own.iter().filter(|own| own.is_store).collect();
    let mut seen = BTreeSet::new();
    for root in roots.iter().filter(|_| !own.is_empty()) {
        let real = root.real();
        let folders = real.ancestors().take_while(|folder| seen.insert(folder.to_path_buf()));
        for folder in folders {
            let Ok(metadata) = fs::metadata(folder) else { continue };
            if let Some(own) = own.iter().find(|own| own.is_at((metadata.dev(), metadata.ino()))) {
                let why = format!("this lies in {} itself and cannot be saved into it", own.what);
                let given = crate::shown::path(&root.given);
                return Err(SourceError::new(SourceErrorKind::Missing, given, why));
            }
        }
    }
    Ok(())
}

/// Notes which named paths are symbolic links to something that is not saved.
fn tell_links(roots: &[Root], monitor: &dyn Monitor) {
    let all: HashSet<PathBuf> = roots.iter().map(Root::real).collect();
    for root in roots.iter().filter(|root| !root.follow) {
        let real = root.real();
        let Some(target) = is_link(&real).then(|| real.canonicalize().ok()).flatten() else { continue };
        if target.ancestors().any(|folder| all.contains(folder)) {
            continue;
        }
        let given = crate::shown::path(&root.given);
        let meant = match target.is_dir() {
            true => format!("name '{given}/' if that is meant"),
            false => format!("name '{}' if that is meant", crate::shown::path(&target)),
        };
        monitor.note(&format!(
            "'{given}' is a symbolic link and saved as one, without what it leads to; {meant}"
        ));
    }
}
