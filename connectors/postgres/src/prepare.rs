//! A physical backup of PostgreSQL as a data directory that a server starts from: its tars unpacked, the WAL after it put
//! beside them, and what the server is to recover to written down. The server recovers when it is started.
//!
//! No server starts on a part of it: `global/pg_control` comes last, and goes first where an older copy is replaced.

use crate::data_directory::{DataDirectory, Expected, Known, Member, What, for_all_members, twice};
use archive::{Archive, cut_short};
use backup::{Backup, BaseBackup};
use engine::connector::Steps;
use engine::restore::{Located, dump, located};
use engine::snapshot::{Listed, Snapshot};
use engine::{Counter, Error, Monitor, Repository, Result};
use filling::{Filled, Filling, Large, Task, padded};
use found::Found;
use recovery::{Outcome, recovery};
use rustix::fd::OwnedFd;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use there::{CONTROL, MARK, MOST_CONTROL, There, in_use};

mod archive;
mod backup;
mod chain;
mod earlier;
mod filling;
mod found;
mod open;
mod recovery;
mod there;

pub use earlier::{Base, earlier};

/// Choices for it.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The data directory, which is made, or is empty.
    pub target: PathBuf,
    /// The server whose backup is taken, as in the snapshot's paths; empty if there is one.
    pub host: String,
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
    /// The folder, if it is there: whatever becomes of its path.
    folder: Option<DataDirectory>,
    /// What keeps other restores out of it.
    _lock: Option<OwnedFd>,
    /// The tars of the one base backup, where they go, and what is there that they do not have.
    tars: Vec<Tar>,
    filled: Filled,
    /// What the proof found of files that are there.
    found: Found,
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

/// Where tablespaces go: beside the data directory.
fn spaces_folder(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push("-tablespaces");
    let folder = PathBuf::from(name);
    std::path::absolute(&folder).unwrap_or(folder)
}

/// Where one goes.
fn space_folder(target: &Path, oid: &str) -> PathBuf {
    spaces_folder(target).join(oid)
}

/// `global/pg_control` of an older copy, until that of the backup is there.
const KEPT: &str = "global/pg_control.esker";
const KEPT_NAME: &str = "pg_control.esker";
const CONTROL_NAME: &str = "pg_control";

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
        let backup = Backup::read(repo, &snapshot.snapshot, &options.host)?;
        let folder = DataDirectory::open(&options.target)?;
        let lock = folder.as_ref().map(DataDirectory::lock).transpose()?;
        let there = folder.as_ref().map_or(Ok(There::Nothing), |folder| There::look(folder, &backup))?;
        if there == There::Cluster && !options.replace {
            return Err(Error::Refused(format!(
                "{} is a data directory of this cluster: with --replace it becomes that of the snapshot, and only what differs \
                 is written; another folder leaves it alone",
                engine::shown::path(&options.target)
            )));
        }
        let (tars, filled, found) = (vec![], Filled::default(), Found::default());
        let mut plan =
            Self { repo, snapshot, options, backup, there, folder, _lock: lock, tars, filled, found };
        if let [base] = &plan.backup.bases[..] {
            plan.tars = plan.tars_of(base, &plan.options.target)?;
        }
        let spaces = spaces_folder(&plan.options.target);
        if plan.backup.bases.iter().any(|base| base.tars().any(|(_, space)| space.is_some()))
            && spaces.symlink_metadata().is_ok()
        {
            return Err(Error::Refused(format!(
                "{} is there, and the backup's tablespaces go there: move it away, or give another folder; nothing was changed",
                engine::shown::path(&spaces)
            )));
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

    /// Finds what is in the folder that the backup does not have.
    fn look_over(&mut self) -> Result<()> {
        let Some(data) = &self.folder else { return Ok(()) };
        for tar in &mut self.tars {
            let mut expected = Expected::new();
            let own = [MARK, "backup_manifest", KEPT].map(|path| (path.as_bytes().to_vec(), Known::Own));
            expected.extend(own);
            for_all_members(Archive::new(self.repo, &tar.content), &tar.folder, &mut |member, _| {
                let known = if member.what == What::Folder { Known::Folder } else { Known::File };
                match expected.insert(member.path.clone(), known) {
                    None | Some(Known::Own) => Ok(()),
                    Some(Known::Folder) if known == Known::Folder => Ok(()),
                    Some(_) => Err(twice(&member)),
                }
            })?;
            tar.surplus = data.surplus(&expected)?;
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
        for (tar, folder) in self.tars.iter().zip(&self.folder) {
            self.unpack(tar, task, &mut folder.again()?, &filled, &mut None, monitor)?;
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
    pub(crate) fn apply(&mut self, monitor: &dyn Monitor) -> Result<PrepareReport> {
        let mut control = None;
        let data = match &self.backup.bases[..] {
            [_] => {
                let data = self.begin()?;
                self.expect(monitor);
                let [base] = &self.backup.bases[..] else { return Ok(PrepareReport::default()) };
                self.fill(base, &self.tars, data, &mut control, monitor)?
            }
            several => self.combine(several, monitor)?,
        };
        let (stops, last) = self.wal(&data, self.options.time, monitor)?;
        let outcome = match &self.options.standby {
            Some(primary) => Outcome::Standby(primary),
            None => Outcome::Server(self.options.time.filter(|_| stops)),
        };
        recovery(&data, outcome, !self.backup.segments.is_empty())?;
        // A server that starts finds all of it, also after the machine failed.
        data.sync()?;
        if let [_] = &self.backup.bases[..] {
            if let Some(why) = in_use(&data)? {
                let shown = engine::shown::path(&self.options.target);
                return Err(Error::Refused(format!("{shown} {why}")));
            }
            put_control(&data, control)?;
            data.remove(KEPT)?;
            data.sync()?;
        }
        data.remove(MARK)?;
        data.give()?;
        data.sync()?;
        let (bytes, files) = self.filled.counts();
        let (backups, segments) = (self.backup.bases.len(), self.backup.segments.len());
        Ok(PrepareReport { backups, segments, bytes, files, removed: self.removed(), stops, last })
    }

    /// How things stand after a failure.
    pub(crate) fn stands(&self, shown: &str) -> Option<String> {
        let folder = match &self.folder {
            Some(folder) => folder.again().ok(),
            None => DataDirectory::open(&self.options.target).ok().flatten(),
        };
        // pg_combinebackup makes the whole of it, without a mark.
        if self.backup.bases.len() > 1
            && folder.as_ref().is_some_and(|data| !data.is_empty().unwrap_or(false))
        {
            return Some(format!(
                "{shown} is not whole, and no server must start on it: remove it before the next try"
            ));
        }
        let Some(data) = folder.filter(|data| data.has(MARK)) else {
            return Some(format!("{shown} is as it was"));
        };
        if data.has(CONTROL) {
            return None;
        }
        let next = match self.tars.iter().any(|tar| tar.space.is_some()) {
            true => "remove it and its tablespaces' folder before the next try",
            false => "the same restore, run again, goes on",
        };
        Some(format!("{shown} is not whole, and no server starts on it (it has no {CONTROL}); {next}"))
    }

    /// Marks the folder, and sees to it that no server starts on it any more, nor anybody else writes there.
    fn begin(&mut self) -> Result<DataDirectory> {
        let data = match &self.folder {
            Some(folder) => folder.again()?,
            None => {
                let made = DataDirectory::make(&self.options.target)?;
                self._lock = Some(made.lock()?);
                self.folder = Some(made.again()?);
                made
            }
        };
        let refused = |why: &str| {
            let shown = engine::shown::path(&self.options.target);
            Err(Error::Refused(format!("{shown} {why}; nothing was changed")))
        };
        if !self.is_over() && !data.is_empty()? {
            return refused("is not empty any more");
        }
        if self.is_over()
            && let Some(why) = in_use(&data)?
        {
            return refused(&why);
        }
        data.replace(MARK, format!("system {}\n", self.backup.system).as_bytes())?;
        data.rename("global", CONTROL_NAME, KEPT_NAME)?;
        // A server says that it is there before it reads that file.
        if self.is_over()
            && let Some(why) = in_use(&data)?
        {
            data.rename("global", KEPT_NAME, CONTROL_NAME)?;
            data.remove(MARK)?;
            return refused(&why);
        }
        data.take()?;
        data.sync()?;
        // What came since the plan was shown is no part of the backup either.
        self.look_over()?;
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
        let (mut spaces, mut above) = (vec![], None);
        for tar in tars {
            let Some(space) = &tar.space else {
                self.unpack(tar, Task::Write, &mut data, &self.filled, control, monitor)?;
                continue;
            };
            let above = match &mut above {
                Some(above) => above,
                none => none.insert(DataDirectory::make(&spaces_folder(data.path()))?),
            };
            let mut own = above.make_in(space)?;
            self.unpack(tar, Task::Write, &mut own, &self.filled, control, monitor)?;
            own.give()?;
            own.sync()?;
            spaces.push((space.clone(), tar.folder.clone()));
        }
        if let Some(path) = base.manifest() {
            let mut bytes = vec![];
            dump(self.repo, &self.snapshot.snapshot, path.as_bytes(), &mut bytes, monitor)?;
            data.replace("backup_manifest", &bytes)?;
        }
        data.link(&spaces)?;
        if let Some(mut above) = above {
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
            root: data.handle()?,
            folder: &tar.folder,
            is_over,
            task,
            threads: self.options.threads,
            filled,
            found: &self.found,
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
                let is_of_cluster = tar.space.is_none();
                // It is about this restore, and not the one that the cluster came from.
                if is_of_cluster && member.path == MARK.as_bytes() {
                    return Ok(());
                }
                let is_control = is_of_cluster && member.path == CONTROL.as_bytes();
                if is_control && len > MOST_CONTROL {
                    let why = format!("its {CONTROL} is none of a server");
                    return Err(Error::Malformed { what: "a base backup".into(), why });
                }
                if padded(len) >= SMALL && !is_control {
                    return each(Large { member, content: &tar.content });
                }
                monitor.count(Counter::BytesDone, padded(len));
                let mut read = || {
                    let mut bytes = vec![];
                    content.take(len).read_to_end(&mut bytes).map_err(data.at(&member))?;
                    if bytes.len() as u64 == len { Ok(bytes) } else { Err(cut_short(&member)) }
                };
                if is_control && task == Task::Write {
                    return match control {
                        Some(_) => Err(twice(&member)),
                        None => {
                            *control = Some((member.clone(), read()?));
                            Ok(())
                        }
                    };
                }
                filling.small(data, &member, read)
            })
        })
    }
}

/// Files and folders that a plan names.
const SHOWN: usize = 10;

#[cfg(test)]
mod tests;
