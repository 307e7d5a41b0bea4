//! A physical backup of PostgreSQL as a data directory that a server starts from: its tars unpacked, the WAL after it put
//! beside them, and what the server is to recover to written down. The server recovers when it is started.
//!
//! No server starts on a part of it: `global/pg_control` comes last, and goes first where an older copy is replaced.

use crate::data_directory::{
    DataDirectory, Expected, Known, Member, SPACES, What, for_all_members, is_empty, private_folder, twice,
};
use archive::{Archive, cut_short};
use backup::{Backup, BaseBackup};
use engine::connector::Steps;
use engine::restore::{Located, dump, located};
use engine::snapshot::{Listed, Snapshot};
use engine::{Counter, Error, Monitor, Repository, Result};
use filling::{Filled, Filling, Large, Task, padded};
use recovery::{Outcome, recovery};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use there::{CONTROL, MARK, There};

mod archive;
mod backup;
mod chain;
mod earlier;
mod filling;
mod recovery;
mod there;

pub use earlier::{Base, earlier};

/// Choices for it.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The data directory, which is made, or is empty.
    pub target: PathBuf,
    /// Whether it may be an older copy, of which is written what differs.
    pub replace: bool,
    /// The moment to recover to; the last one if not given.
    pub time: Option<jiff::Timestamp>,
    /// How a standby connects to its primary; none for a server of its own.
    pub standby: Option<String>,
    /// Threads that fill files.
    pub threads: usize,
    /// Where programs are looked for besides their packages' folders.
    pub path: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrepareReport {
    /// Backups that were put together.
    pub backups: usize,
    /// Segments of WAL.
    pub segments: usize,
    /// Bytes written.
    pub bytes: u64,
    /// Files that were written, or parts of them.
    pub files: u64,
    /// Files and folders that were removed.
    pub removed: usize,
    /// Whether a transaction of the WAL ends after the moment: then the server stops there, else at the WAL's end.
    pub stops: bool,
    /// The end of the last transaction of the WAL after the backup.
    pub last: Option<jiff::Timestamp>,
}

/// What the moments of a snapshot's stream are, in milliseconds since 1970: from the base's to the last.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<(u64, u64)> {
    let record = snapshot.sources.iter().find(|source| source.kind == crate::stream::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some((number("base-ms")?, number("until-ms")?))
}

/// Whether a snapshot has a physical backup.
#[must_use]
pub fn is_physical(snapshot: &Snapshot) -> bool {
    let is_one = |kind: &str| kind == crate::physical::KIND || kind == crate::stream::KIND;
    snapshot.sources.iter().any(|source| is_one(&source.kind))
}

/// Members up to this length are written by whoever walks through a tar: their chunks have others beside them.
const SMALL: u64 = 64 << 10;

/// A data directory that is to be made.
pub(crate) struct Preparing<'a> {
    repo: &'a Repository,
    snapshot: &'a Listed,
    options: PrepareOptions,
    backup: Backup,
    there: There,
    /// The tars of the one base backup, where they go, and what is there that they do not have.
    tars: Vec<Tar>,
    /// Where the links to tablespaces lead that are there.
    links: BTreeMap<String, PathBuf>,
    filled: Filled,
}

/// A tar of a base backup.
struct Tar {
    /// The number of its tablespace.
    space: Option<String>,
    /// Where it goes.
    folder: PathBuf,
    content: Located,
    surplus: Vec<Vec<u8>>,
}

/// The file without which no server starts, and its bytes.
type Control = (Member, Vec<u8>);

/// Writes it.
fn put_control(data: &DataDirectory, control: Option<Control>) -> Result<()> {
    let (member, bytes) = control.ok_or_else(|| Error::Malformed {
        what: "a base backup".into(),
        why: format!("it has no {CONTROL}"),
    })?;
    let mut file = data.fresh_file(&member)?;
    file.write_all(&bytes).map_err(data.at(&member))?;
    data.finish_member(&file, &member)
}

/// Where a tablespace goes: beside the data directory.
fn space_folder(target: &Path, oid: &str) -> PathBuf {
    let folder = PathBuf::from(format!("{}-tablespaces", target.display())).join(oid);
    std::path::absolute(&folder).unwrap_or(folder)
}

impl<'a> Preparing<'a> {
    /// Looks at the snapshot and the folder, and changes nothing.
    ///
    /// # Errors
    /// Why it cannot be made there; what cannot be read.
    pub(crate) fn plan(
        repo: &'a Repository,
        snapshot: &'a Listed,
        options: PrepareOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        repo.sync_index(monitor)?;
        let backup = Backup::read(repo, &snapshot.snapshot)?;
        let there = There::look(&options.target, &backup)?;
        if there == There::Cluster && !options.replace {
            return Err(Error::Refused(format!(
                "{} is a data directory of this cluster: with --replace it becomes that of the snapshot, and only what differs \
                 is written; another folder leaves it alone",
                engine::shown::path(&options.target)
            )));
        }
        let (tars, links, filled) = (vec![], BTreeMap::new(), Filled::default());
        let mut plan = Self { repo, snapshot, options, backup, there, tars, links, filled };
        if let [base] = &plan.backup.bases[..] {
            plan.tars = plan.tars_of(base, &plan.options.target)?;
        }
        if plan.is_over() {
            plan.look_over()?;
        }
        Ok(plan)
    }

    /// Whether something is in the folder.
    pub(crate) fn is_over(&self) -> bool {
        self.there != There::Nothing
    }

    /// The tars of a base backup, which goes into `target`.
    fn tars_of(&self, base: &BaseBackup, target: &Path) -> Result<Vec<Tar>> {
        let above = base.files.first().and_then(|path| path.rsplit_once('/')).map_or("", |(above, _)| above);
        let is_tar = |path: &[u8]| path.ends_with(b".tar");
        let mut found = located(self.repo, &self.snapshot.snapshot, above.as_bytes(), &is_tar)?;
        let tars = base.tars().map(|(path, space)| {
            let content = found.remove(path.as_bytes());
            let content =
                content.ok_or_else(|| Error::NoEntry { path: engine::shown::name(path.as_bytes()) })?;
            let folder = space.map_or_else(|| target.to_owned(), |space| space_folder(target, space));
            Ok(Tar { space: space.map(str::to_owned), folder, content, surplus: vec![] })
        });
        tars.collect()
    }

    /// Finds what is in the folders that the backup does not have.
    fn look_over(&mut self) -> Result<()> {
        self.links = DataDirectory::look_at(&self.options.target)?.spaces()?;
        for tar in &mut self.tars {
            if !tar.folder.exists() {
                continue;
            }
            if let Some(space) = &tar.space {
                // What another cluster has there is not ours.
                let is_linked = self.links.get(space) == Some(&tar.folder);
                if !is_linked && self.there == There::Cluster && !is_empty(&tar.folder)? {
                    return Err(Error::Refused(format!(
                        "{} is not empty, and not the tablespace {space} of {}; nothing was changed",
                        engine::shown::path(&tar.folder),
                        engine::shown::path(&self.options.target)
                    )));
                }
            }
            let mut expected = Expected::new();
            if tar.space.is_none() {
                let links = self.links.keys().map(|space| format!("{SPACES}/{space}"));
                let own = [MARK, "backup_manifest"].into_iter().map(str::to_owned).chain(links);
                expected.extend(own.map(|path| (path.into_bytes(), Known::Own)));
            }
            for_all_members(Archive::new(self.repo, &tar.content), &tar.folder, &mut |member, _| {
                if matches!(member.what, What::Space(_)) {
                    return Ok(());
                }
                let known = if member.what == What::Folder { Known::Folder } else { Known::File };
                match expected.insert(member.path.clone(), known) {
                    None | Some(Known::Own) => Ok(()),
                    Some(Known::Folder) if known == Known::Folder => Ok(()),
                    Some(_) => Err(twice(&member)),
                }
            })?;
            tar.surplus = DataDirectory::look_at(&tar.folder)?.surplus(&expected)?;
        }
        Ok(())
    }

    /// What will be done, in words.
    pub(crate) fn steps(&self, shown: &str) -> Vec<String> {
        let mut steps = Steps::default();
        match self.there {
            There::Nothing => {
                steps.add(format!("make a data directory in {shown}"));
            }
            There::Unfinished | There::Cluster => {
                if self.there == There::Unfinished {
                    steps.add(format!(
                        "go on with the data directory in {shown}, which a restore left unfinished"
                    ));
                } else {
                    steps.add(format!(
                        "replace the data directory in {shown}: write files and pages that differ"
                    ));
                }
                let surplus = self.removed() as u64;
                if surplus > 0 {
                    let counted = engine::shown::counted(surplus, "name");
                    steps.add(format!("remove {counted} that the backup does not have"));
                    let all =
                        self.tars.iter().flat_map(|tar| tar.surplus.iter().map(move |path| (tar, path)));
                    for (tar, path) in all.take(SHOWN) {
                        let path = tar.folder.join(engine::restore::as_path(path));
                        steps.with(engine::shown::path(&path));
                    }
                    if self.removed() > SHOWN {
                        steps.with(format_args!("and {} more", self.removed() - SHOWN));
                    }
                }
                let is_ours = |to: &PathBuf| self.tars.iter().any(|tar| tar.folder == *to);
                for (space, to) in self.links.iter().filter(|(_, to)| !is_ours(to)) {
                    steps.leaves(format_args!("tablespace {space} in {}", engine::shown::path(to)));
                }
            }
        }
        for tar in self.tars.iter().filter(|tar| tar.space.is_some()) {
            let space = tar.space.as_deref().unwrap_or_default();
            steps.add(format!("put tablespace {space} into {}", engine::shown::path(&tar.folder)));
        }
        if self.backup.bases.len() > 1 {
            let counted = engine::shown::counted(self.backup.bases.len() as u64, "backup");
            steps.add(format!("put {counted} together by pg_combinebackup"));
        }
        if !self.backup.segments.is_empty() {
            let counted = engine::shown::counted(self.backup.segments.len() as u64, "segment");
            steps.add(format!("put {counted} of WAL into pg_wal"));
        }
        steps.lines()
    }

    /// How many names are there that the backup does not have.
    pub(crate) fn removed(&self) -> usize {
        self.tars.iter().map(|tar| tar.surplus.len()).sum()
    }

    /// Compares what is there with the backup, or reads what differs, and writes nothing. Returns how many bytes and files would
    /// be written.
    pub(crate) fn look(&self, is_read: bool, monitor: &dyn Monitor) -> Result<(u64, u64)> {
        let filled = Filled::default();
        let task = if is_read { Task::Prove } else { Task::Compare };
        self.expect(monitor);
        for tar in &self.tars {
            let mut data = DataDirectory::look_at(&tar.folder)?;
            self.unpack(tar, task, &mut data, &filled, &mut None, monitor)?;
        }
        if is_read {
            let manifests = self.backup.bases.iter().filter_map(BaseBackup::manifest);
            let segments = self.backup.segments.iter().map(|(_, path)| path.as_str());
            for path in manifests.chain(segments) {
                dump(self.repo, &self.snapshot.snapshot, path.as_bytes(), &mut std::io::sink(), monitor)?;
            }
        }
        Ok(filled.counts())
    }

    /// Tells how many bytes there are to go through.
    fn expect(&self, monitor: &dyn Monitor) {
        monitor.count(Counter::BytesTotal, self.tars.iter().map(|tar| tar.content.len()).sum());
    }

    /// Makes the data directory.
    ///
    /// # Errors
    /// What cannot be read or written: then no server starts on it, and the same again goes on.
    pub(crate) fn apply(&self, monitor: &dyn Monitor) -> Result<PrepareReport> {
        let target = &self.options.target;
        let mut control = None;
        let data = match &self.backup.bases[..] {
            [base] => {
                let data = self.begin()?;
                self.expect(monitor);
                self.fill(base, &self.tars, data, &mut control, monitor)?
            }
            several => {
                let owner = self.combine(several, monitor)?;
                let mut data = DataDirectory::open(target)?;
                data.owner = owner;
                data
            }
        };
        let (stops, last) = self.wal(&data, self.options.time, monitor)?;
        let outcome = match &self.options.standby {
            Some(primary) => Outcome::Standby(primary),
            None => Outcome::Server(self.options.time.filter(|_| stops)),
        };
        recovery(&data, outcome, !self.backup.segments.is_empty())?;
        // A server that starts finds all of it, also after the machine failed.
        data.sync()?;
        if self.backup.bases.len() == 1 {
            put_control(&data, control)?;
        }
        data.remove(MARK)?;
        data.give()?;
        data.sync()?;
        let (bytes, files) = self.filled.counts();
        let (backups, segments) = (self.backup.bases.len(), self.backup.segments.len());
        Ok(PrepareReport { backups, segments, bytes, files, removed: self.removed(), stops, last })
    }

    /// Marks the folder, and sees to it that no server starts on it any more; removes what the backup does not have.
    fn begin(&self) -> Result<DataDirectory> {
        let data = if self.is_over() {
            private_folder(&self.options.target)?;
            DataDirectory::open(&self.options.target)?
        } else {
            DataDirectory::make(&self.options.target)?
        };
        data.replace(MARK, format!("system {}\n", self.backup.system).as_bytes())?;
        data.remove(CONTROL)?;
        if self.is_over() {
            data.sync()?;
            self.links.iter().try_for_each(|(space, _)| data.remove(&format!("{SPACES}/{space}")))?;
        }
        Ok(data)
    }

    /// The files of a base backup but the last one, in folders that are there.
    fn fill(
        &self,
        base: &BaseBackup,
        tars: &[Tar],
        mut data: DataDirectory,
        control: &mut Option<Control>,
        monitor: &dyn Monitor,
    ) -> Result<DataDirectory> {
        let mut spaces = vec![];
        for tar in tars {
            let Some(space) = &tar.space else {
                self.unpack(tar, Task::Write, &mut data, &self.filled, control, monitor)?;
                continue;
            };
            let mut own = if self.is_over() {
                private_folder(&tar.folder)?;
                DataDirectory::open(&tar.folder)?
            } else {
                DataDirectory::make(&tar.folder)?
            };
            self.unpack(tar, Task::Write, &mut own, &self.filled, control, monitor)?;
            own.give()?;
            spaces.push((space.clone(), tar.folder.clone()));
        }
        if let Some(path) = base.manifest() {
            let mut bytes = vec![];
            dump(self.repo, &self.snapshot.snapshot, path.as_bytes(), &mut bytes, monitor)?;
            data.replace("backup_manifest", &bytes)?;
        }
        data.link(&spaces)?;
        if let Some(parent) = spaces.first().and_then(|(_, folder)| folder.parent()) {
            let mut above = DataDirectory::open(parent)?;
            above.owner = data.owner;
            above.give()?;
        }
        Ok(data)
    }

    /// One tar into its folder.
    fn unpack(
        &self,
        tar: &Tar,
        task: Task,
        data: &mut DataDirectory,
        filled: &Filled,
        control: &mut Option<Control>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let is_over = self.is_over();
        if task == Task::Write {
            tar.surplus.iter().try_for_each(|path| data.remove_all(path))?;
        }
        let filling = Filling {
            repo: self.repo,
            folder: &tar.folder,
            is_over,
            task,
            threads: self.options.threads,
            filled,
            monitor,
        };
        filling.run(|each| {
            for_all_members(Archive::new(self.repo, &tar.content), &tar.folder, &mut |member, content| {
                if monitor.interrupted() {
                    return Err(Error::Interrupted);
                }
                let What::File { len, .. } = member.what else {
                    monitor.count(Counter::BytesDone, padded(1));
                    return if task == Task::Write { data.begin(&member) } else { Ok(()) };
                };
                monitor.count(Counter::BytesDone, padded(1));
                if len > tar.content.len() {
                    return Err(cut_short(&member));
                }
                if padded(len) >= SMALL {
                    return each(Large { member, content: &tar.content });
                }
                monitor.count(Counter::BytesDone, padded(len));
                let mut bytes = vec![];
                content.take(len).read_to_end(&mut bytes).map_err(data.at(&member))?;
                if bytes.len() as u64 != len {
                    return Err(cut_short(&member));
                }
                if member.path == CONTROL.as_bytes() && tar.space.is_none() && task == Task::Write {
                    *control = Some((member, bytes));
                    return Ok(());
                }
                filling.small(data, &member, &bytes)
            })
        })
    }
}

/// Files and folders that a plan names.
const SHOWN: usize = 10;

#[cfg(test)]
mod tests;
