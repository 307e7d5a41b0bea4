//! Systems whose every item is an entry of a snapshot, `KIND/SERVER/FOLDER/NAME`: entries in manifest order for a backup,
//! and a plan that writes them to a server one after the other.

use engine::connector::{Origin, RestorePlan, Restored, Steps, Way};
use engine::entry::{Kind, Time, compare_paths, is_beneath};
use engine::inside::Inside;
use engine::manifest::for_all_entries;
use engine::names::decoded;
use engine::restore::dump;
use engine::shown::{counted, counted_are};
use engine::source::{Item, SourceError};
use engine::{Counter, Error, Monitor, Result};
use std::collections::{BTreeSet, VecDeque};

/// Entries of a source, in manifest order.
#[derive(Default)]
pub struct InOrder(VecDeque<Item>);

impl InOrder {
    /// Entries beneath a folder, in whichever order they come, with that folder and those above it.
    ///
    /// # Errors
    /// Which path comes twice.
    pub fn beneath(folder: &str, time: Time, entries: Vec<Item>) -> std::result::Result<Self, String> {
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        let mut all: Vec<Item> = ends.map(|end| Item::folder(&folder[..end], time)).chain(entries).collect();
        all.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
        match all.windows(2).find(|pair| pair[0].entry.path == pair[1].entry.path) {
            Some(pair) => Err(format!("{} comes twice; back it up again", pair[0].entry.display_path())),
            None => Ok(Self(all.into())),
        }
    }

    /// The next entry.
    pub fn take(&mut self) -> Option<Item> {
        self.0.pop_front()
    }
}

/// A server of items that have names.
pub trait Items {
    /// The URL without secrets.
    fn shown(&self) -> &str;
    /// The names of the items that are there.
    ///
    /// # Errors
    /// Why the server does not tell.
    fn names(&self) -> Result<BTreeSet<String>, SourceError>;
    /// Sets the value of an item.
    ///
    /// # Errors
    /// Why the server does not take it.
    fn put(&self, name: &str, value: Vec<u8>) -> Result<(), SourceError>;
}

/// A plan that writes the items of a snapshot to a server, each of them whole and in memory. `kind` is the kind of the
/// source's record, and the first folder. Items that are there already are overwritten if `replace` says so.
///
/// # Errors
/// That the snapshot has no such items or those of several servers, that items are in the way, or why the server cannot be
/// asked.
pub fn plan<'a>(
    from: Origin<'a>,
    kind: &str,
    server: impl Items + 'a,
    replace: bool,
) -> Result<Box<dyn RestorePlan + 'a>> {
    let items = stored(from, kind)?;
    let there = server.names()?;
    let in_the_way = items.iter().filter(|(_, name)| there.contains(name)).count();
    if in_the_way > 0 && !replace {
        return Err(Error::Refused(format!(
            "{in_the_way} of the items are in {} already; --replace overwrites them",
            server.shown()
        )));
    }
    Ok(Box::new(Plan { from, server, items, in_the_way, written: 0 }))
}

/// Paths and names of the items of one folder of one server in a snapshot.
fn stored(from: Origin<'_>, kind: &str) -> Result<Vec<(Vec<u8>, String)>> {
    let Origin { repo, snapshot, below } = from;
    let (inside, mut items, mut folders) = (Inside::new(below), vec![], BTreeSet::new());
    for_all_entries(repo.store(), &snapshot.snapshot.manifest, &mut |listed| {
        let path = listed.entry.path;
        let parts: Vec<&str> = std::str::from_utf8(&path).unwrap_or_default().split('/').collect();
        if let [own, server, folder, name] = parts[..]
            && own == kind
            && listed.entry.kind == Kind::File
            && (inside.is_all() || is_beneath(&path, inside.path()))
        {
            folders.insert(format!("{server}/{folder}"));
            let malformed = || Error::Malformed { what: name.to_owned(), why: "it is not UTF-8".into() };
            let name = decoded(name).ok_or_else(malformed)?;
            items.push((path, name));
        }
        Ok(())
    })?;
    match folders.len() {
        0 => Err(Error::NoEntry { path: below.to_owned() }),
        1 => Ok(items),
        _ => {
            let all = folders.into_iter().collect::<Vec<_>>().join(", ");
            Err(Error::Invalid(format!("this is of several servers; give SNAPSHOT:{kind}/ and one of {all}")))
        }
    }
}

struct Plan<'a, S> {
    from: Origin<'a>,
    server: S,
    items: Vec<(Vec<u8>, String)>,
    in_the_way: usize,
    written: usize,
}

impl<S> Plan<'_, S> {
    fn read(&self, path: &[u8], monitor: &dyn Monitor) -> Result<Vec<u8>> {
        let mut value = vec![];
        dump(self.from.repo, &self.from.snapshot.snapshot, path, &mut value, monitor)?;
        Ok(value)
    }
}

impl<S: Items> RestorePlan for Plan<'_, S> {
    fn shown(&self) -> &str {
        self.server.shown()
    }
    fn steps(&self) -> Vec<String> {
        let (all, old) = (self.items.len(), self.in_the_way);
        let mut steps = Steps::default();
        let way = if old > 0 { Way::Proved } else { Way::Into };
        steps.of(format_args!("the items at {}", self.server.shown()), way);
        steps.with(format_args!("write {}, and over {old} that the server has", counted(all, "item")));
        steps.stays("every other item");
        steps.lines()
    }
    fn removes(&self) -> bool {
        self.in_the_way > 0
    }
    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        if self.in_the_way == 0 {
            return Ok(());
        }
        self.items.iter().try_for_each(|(path, _)| self.read(path, monitor).map(drop))
    }
    fn stands(&self, _: Option<&str>) -> Option<String> {
        let (all, shown) = (self.items.len(), self.server.shown());
        Some(format!(
            "{} of {} in {shown}; run it again with --replace",
            self.written,
            counted_are(all, "item")
        ))
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        monitor.count(Counter::FilesTotal, self.items.len() as u64);
        let mut bytes = 0;
        for (path, name) in self.items.clone() {
            let value = self.read(&path, monitor)?;
            bytes += value.len() as u64;
            self.server.put(&name, value)?;
            self.written += 1;
            monitor.count(Counter::FilesDone, 1);
        }
        Ok(Restored {
            total: format!("restored {}", counted(self.written, "item")),
            bytes,
            ..Restored::default()
        })
    }
}
