//! The folders that a restore is in, from the target down, each by a handle: files are created and folders finished
//! there, even if they were moved meanwhile, and no path is looked up again for every file.

use super::handle::{Place, exchanged, place};
use rustix::fd::OwnedFd;
use rustix::fs::fstat;
use rustix::process::{Resource, getrlimit};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Handles that are kept at most; those of folders further up are opened again when they are needed.
const MOST: usize = 32;

/// See the module.
pub(super) struct EnteredFolders {
    chain: RefCell<Vec<EnteredFolder>>,
    most: usize,
}

struct EnteredFolder {
    path: Vec<u8>,
    place: Place,
    handle: Option<Rc<OwnedFd>>,
}

/// The rest of a path beneath a folder; empty for the folder itself.
fn rest<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

impl EnteredFolders {
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(limit / 4).unwrap_or(MOST).clamp(2, MOST);
        Self { chain: RefCell::default(), most }
    }

    /// Notes a folder that is open. Those that it does not lie in are left.
    pub(super) fn enter(&self, path: &[u8], folder: OwnedFd) -> io::Result<()> {
        let place = place(&fstat(&folder)?);
        let mut chain = self.chain.borrow_mut();
        while chain.pop_if(|last| rest(path, &last.path).is_none_or(<[u8]>::is_empty)).is_some() {}
        chain.push(EnteredFolder { path: path.to_vec(), place, handle: Some(Rc::new(folder)) });
        self.limit(&mut chain);
        Ok(())
    }

    /// Closes handles, those that are furthest up first.
    fn limit(&self, chain: &mut [EnteredFolder]) {
        let open = chain.iter().filter(|folder| folder.handle.is_some()).count();
        let far = chain.iter_mut().filter(|folder| folder.handle.is_some());
        far.take(open.saturating_sub(self.most)).for_each(|folder| folder.handle = None);
    }

    /// The nearest folder that a path lies in, or that it is, and what is left of the path from there. `open` opens one
    /// again by its whole path.
    pub(super) fn nearest<'a>(
        &self,
        path: &'a [u8],
        open: impl FnOnce(&[u8]) -> io::Result<OwnedFd>,
    ) -> io::Result<Option<(Rc<OwnedFd>, &'a [u8])>> {
        let mut chain = self.chain.borrow_mut();
        let found = chain.iter_mut().rev().find_map(|folder| Some((rest(path, &folder.path)?, folder)));
        let Some((rest, folder)) = found else { return Ok(None) };
        if let Some(handle) = &folder.handle {
            return Ok(Some((Rc::clone(handle), rest)));
        }
        let handle = open(&folder.path)?;
        if place(&fstat(&handle)?) != folder.place {
            return Err(exchanged());
        }
        let handle = Rc::new(handle);
        folder.handle = Some(Rc::clone(&handle));
        // Those beneath it were left, or are needed again later than it.
        let open = chain.iter().filter(|folder| folder.handle.is_some()).count();
        if open > self.most
            && let Some(last) = chain.iter_mut().rev().find(|folder| folder.handle.is_some())
        {
            last.handle = None;
        }
        Ok(Some((handle, rest)))
    }
}
