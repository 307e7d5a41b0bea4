//! A physical backup of PostgreSQL as a data directory that a server starts from: its tars unpacked, the WAL after it put
//! beside them, and the moment to recover to written down. The server recovers when it is started.

use super::dump::dump;
use crate::entry::Kind;
use crate::manifest::for_all_entries;
use crate::pg::programs::{Programs, installed_programs};
use crate::pg::wal::{self, Transactions};
use crate::snapshot::{Snapshot, SourceRecord};
use crate::source::postgres_physical::{Earlier, KIND};
use crate::{Error, ItemError, Monitor, Repository, Result};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Choices for it.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// The data directory, which is made, or is empty.
    pub target: PathBuf,
    /// The moment to recover to; the last one if not given.
    pub time: Option<jiff::Timestamp>,
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
    /// Whether a transaction of the WAL ends after the moment: then the server stops there, else at the WAL's end.
    pub stops: bool,
}

/// What the moments of a snapshot's stream are, in milliseconds since 1970: from the base's to the last.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<(u64, u64)> {
    let record = snapshot.sources.iter().find(|source| source.kind == crate::pg::follow::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some((number("base-ms")?, number("until-ms")?))
}

/// Whether a snapshot has a physical backup.
#[must_use]
pub fn is_physical(snapshot: &Snapshot) -> bool {
    snapshot.sources.iter().any(|source| source.kind == KIND || source.kind == crate::pg::follow::KIND)
}

/// What an incremental backup of a server can build on: the last physical backup of `snapshots` that has `path`.
pub fn earlier(
    repo: &Repository,
    path: &str,
    monitor: &dyn Monitor,
) -> Result<Option<(chunkstore::ObjectId, Earlier)>> {
    repo.sync_index(monitor)?;
    let found = repo.snapshots(monitor)?.into_iter().rev().find(|listed| {
        listed.snapshot.paths.iter().any(|own| own == path)
            && listed.snapshot.sources.iter().any(|source| source.kind == KIND)
    });
    let Some(found) = found else { return Ok(None) };
    let mut earlier = Earlier::default();
    let record = found.snapshot.sources.iter().find(|source| source.kind == KIND);
    earlier.system = record.and_then(|record| record.details.get("system")).cloned().unwrap_or_default();
    for_all_entries(repo.store(), &found.snapshot.manifest, &mut |listed| {
        if listed.entry.kind == Kind::File {
            let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
            earlier.count += usize::from(path.ends_with("-backup_manifest"));
            earlier.files.push((path, listed.entry.mtime));
        }
        Ok(())
    })?;
    let Some((last, _)) = earlier.files.last().filter(|(path, _)| path.ends_with("-backup_manifest")) else {
        return Ok(None);
    };
    let mut manifest = vec![];
    dump(repo, &found.snapshot, last.as_bytes(), &mut manifest, monitor)?;
    earlier.manifest = manifest;
    Ok(Some((found.id, earlier)))
}

fn target_error(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Target { op, path: path.clone(), source }
}

/// Makes the data directory.
pub fn prepare(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &PrepareOptions,
    monitor: &dyn Monitor,
) -> Result<PrepareReport> {
    repo.sync_index(monitor)?;
    let record =
        snapshot.sources.iter().find(|source| source.kind == KIND || source.kind == crate::pg::follow::KIND);
    let record =
        record.ok_or_else(|| Error::Invalid("there is no physical backup in this snapshot".into()))?;
    let target = &options.target;
    if !is_empty(target)? {
        return Err(Error::Refused(format!(
            "{} is not empty; a data directory goes into an empty one",
            target.display()
        )));
    }
    fill(repo, snapshot, record, options, monitor).inspect_err(|_| {
        if is_empty(target).is_ok_and(|is_empty| !is_empty) {
            let message = "is not whole: no server must start on it; remove it before the next try".into();
            monitor.error(ItemError { during: "restore", item: target.display().to_string(), message });
        }
    })
}

/// Whether nothing is there.
fn is_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(target_error("read", folder)(error)),
    }
}

/// Makes the data directory.
fn fill(
    repo: &Repository,
    snapshot: &Snapshot,
    record: &SourceRecord,
    options: &PrepareOptions,
    monitor: &dyn Monitor,
) -> Result<PrepareReport> {
    let target = &options.target;
    let (mut bases, mut segments) = (vec![], vec![]);
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["postgres", _, "physical", base, _] if base.starts_with("base.") => match bases.last_mut() {
                Some((name, files)) if *name == *base => Vec::push(files, path.clone()),
                _ => bases.push(((*base).to_owned(), vec![path.clone()])),
            },
            ["postgres", _, "physical", "wal", name] => segments.push(((*name).to_owned(), path.clone())),
            _ => {}
        }
        Ok(())
    })?;
    let mut work = Work { repo, snapshot, monitor, bytes: 0, owner: None };
    let count = bases.len();
    match bases.as_slice() {
        [] => return Err(Error::Invalid("there is no physical backup in this snapshot".into())),
        [(_, files)] => work.unpack(files, target)?,
        several => {
            let major = record.details.get("server").and_then(|text| text.parse().ok()).unwrap_or(0);
            work.combine(several, target, major, options.path.as_deref())?;
        }
    }
    let segment_len =
        record.details.get("segment-bytes").and_then(|text| text.parse().ok()).unwrap_or(16 << 20);
    let stops = work.wal(&segments, target, segment_len, options.time)?;
    work.recovery(target, options.time.filter(|_| stops), !segments.is_empty())?;
    Ok(PrepareReport { backups: count, segments: segments.len(), bytes: work.bytes, stops })
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    monitor: &'a dyn Monitor,
    bytes: u64,
    /// Whose the files are, if we can give them away.
    owner: Option<(u32, u32)>,
}

/// A folder for nobody but the server.
fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(target_error("make", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(target_error("protect", path))
}

/// The number of the tablespace that a tar has.
fn space_of(path: &str) -> Option<&str> {
    let name = path.rsplit_once('-')?.1.strip_suffix(".tar")?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// Where a tablespace goes: beside the data directory.
fn space_folder(target: &Path, oid: &str) -> PathBuf {
    let folder = PathBuf::from(format!("{}-tablespaces", target.display())).join(oid);
    std::path::absolute(&folder).unwrap_or(folder)
}

impl Work<'_> {
    /// A backup's tars and manifest into a folder.
    fn unpack(&mut self, files: &[String], target: &Path) -> Result<()> {
        private_folder(target)?;
        let mut spaces = vec![];
        for path in files {
            let name = path.rsplit_once('-').map_or(path.as_str(), |(_, name)| name);
            match space_of(path) {
                None if name.ends_with(".tar") => self.untar(path, target)?,
                Some(space) => {
                    let folder = space_folder(target, space);
                    private_folder(&folder)?;
                    self.untar(path, &folder)?;
                    spaces.push((space.to_owned(), folder));
                }
                None => {
                    let place = target.join("backup_manifest");
                    let mut file = File::create(&place).map_err(target_error("make", &place))?;
                    dump(self.repo, self.snapshot, path.as_bytes(), &mut file, self.monitor)?;
                    self.give(&place)?;
                }
            }
        }
        self.give(target)?;
        for (oid, folder) in &spaces {
            // The link in the tar leads to where the server has it.
            let link = target.join("pg_tblspc").join(oid);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(folder, &link).map_err(target_error("link", &link))?;
            self.give(&link)?;
            self.give(folder)?;
            folder.parent().map_or(Ok(()), |parent| self.give(parent))?;
        }
        Ok(())
    }

    /// One tar, read while it is fetched.
    fn untar(&mut self, path: &str, target: &Path) -> Result<()> {
        let (reader, writer) = rustix::pipe::pipe().map_err(|error| Error::Target {
            op: "make",
            path: "a pipe".into(),
            source: error.into(),
        })?;
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20);
        let (repo, snapshot, monitor) = (self.repo, self.snapshot, self.monitor);
        std::thread::scope(|scope| {
            let dumping = scope.spawn(move || {
                let mut writer = File::from(writer);
                dump(repo, snapshot, path.as_bytes(), &mut writer, monitor)
            });
            let unpacked = self.unpack_tar(File::from(reader), target);
            let dumped =
                dumping.join().unwrap_or_else(|_| Err(Error::Store(chunkstore::Error::WorkerPanicked)));
            match (unpacked, dumped) {
                // A pipe that broke is no reason.
                (Err(error), Err(Error::Target { .. }) | Ok(_)) => Err(error),
                (_, Err(error)) => Err(error),
                (Ok(()), Ok(bytes)) => {
                    self.bytes += bytes;
                    Ok(())
                }
            }
        })
    }

    fn unpack_tar(&mut self, reader: File, target: &Path) -> Result<()> {
        let failed = target_error("unpack into", target);
        let mut archive = tar::Archive::new(reader);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(false);
        let is_root = rustix::process::geteuid().is_root();
        for entry in archive.entries().map_err(&failed)? {
            let mut entry = entry.map_err(&failed)?;
            let name = entry.path().map_err(&failed)?.into_owned();
            // Not where it would lead out of the target.
            if !entry.unpack_in(target).map_err(&failed)? {
                let why = format!("'{}' leads out of the target", name.display());
                return Err(Error::Malformed { what: "a base backup".into(), why });
            }
            if is_root {
                let (uid, gid) =
                    (entry.header().uid().map_err(&failed)?, entry.header().gid().map_err(&failed)?);
                self.owner = Some((uid as u32, gid as u32));
                self.give(&target.join(name))?;
            }
        }
        // What fills the last record.
        let mut rest = archive.into_inner();
        std::io::copy(&mut rest, &mut std::io::sink()).map_err(&failed)?;
        Ok(())
    }

    /// Gives a file to whom the cluster belonged.
    fn give(&self, path: &Path) -> Result<()> {
        match self.owner {
            Some((uid, gid)) => {
                std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(target_error("give away", path))
            }
            None => Ok(()),
        }
    }

    /// A full backup and the incremental ones after it, by pg_combinebackup.
    fn combine(
        &mut self,
        bases: &[(String, Vec<String>)],
        target: &Path,
        major: u32,
        path: Option<&str>,
    ) -> Result<()> {
        let programs: Programs = installed_programs("pg_combinebackup", major, path).ok_or_else(|| {
            Error::Invalid(format!(
                "incremental backups are put together by pg_combinebackup, which is not here; install postgresql-{major}"
            ))
        })?;
        let parts = PathBuf::from(format!("{}.parts", target.display()));
        private_folder(&parts)?;
        let folders: Vec<PathBuf> = bases.iter().map(|(name, _)| parts.join(name)).collect();
        let combined =
            bases.iter().zip(&folders).try_for_each(|((_, files), folder)| self.unpack(files, folder));
        let combined = combined.and_then(|()| {
            if target.exists() {
                // It makes its own.
                std::fs::remove_dir(target).map_err(target_error("remove", target))?;
            }
            let mut command =
                crate::child::command(programs.path("pg_combinebackup"), &std::collections::BTreeMap::new());
            command.arg("--no-sync").arg("-o").arg(target);
            let last = bases.last().map(|(_, files)| files.as_slice()).unwrap_or_default();
            let part = folders.last().map_or(target, |folder| folder);
            for path in last {
                if let Some(oid) = space_of(path) {
                    let (old, new) = (space_folder(part, oid), space_folder(target, oid));
                    command.arg("--tablespace-mapping").arg(format!("{}={}", old.display(), new.display()));
                }
            }
            command.args(&folders);
            let output = command.output().map_err(target_error("run", Path::new("pg_combinebackup")))?;
            match output.status.success() {
                true => Ok(()),
                false => Err(Error::Malformed {
                    what: "the chain of backups".into(),
                    why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                }),
            }
        });
        std::fs::remove_dir_all(&parts).map_err(target_error("remove", &parts))?;
        combined?;
        self.give_all(target)
    }

    fn give_all(&self, folder: &Path) -> Result<()> {
        self.give(folder)?;
        if self.owner.is_none() {
            return Ok(());
        }
        for entry in std::fs::read_dir(folder).map_err(target_error("read", folder))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.give_all(&entry.path())?;
            } else {
                self.give(&entry.path())?;
            }
        }
        Ok(())
    }

    /// The WAL after the backup; tells whether a transaction ends after `time`.
    fn wal(
        &mut self,
        segments: &[(String, String)],
        target: &Path,
        segment_len: u64,
        time: Option<jiff::Timestamp>,
    ) -> Result<bool> {
        let mut found = Transactions::default();
        let mut is_after = false;
        let mut next = None;
        for (name, path) in segments {
            let own = name.trim_end_matches(".partial");
            let start = wal::segment_start(own, segment_len);
            if next.is_some() && start != next {
                return Err(Error::Malformed {
                    what: "the WAL".into(),
                    why: format!("{own} does not follow"),
                });
            }
            next = start.map(|start| start + segment_len);
            let mut bytes = vec![];
            dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
            found.read(&bytes);
            is_after |= time.is_some_and(|time| found.last_us.is_some_and(|us| us > time.as_microsecond()));
            self.bytes += bytes.len() as u64;
            bytes.resize(segment_len as usize, 0);
            let place = target.join("pg_wal").join(own);
            let mut file = OpenOptions::new();
            let mut file = std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&place)
                .map_err(target_error("make", &place))?;
            file.write_all(&bytes).map_err(target_error("write", &place))?;
            self.give(&place)?;
        }
        Ok(is_after)
    }

    /// Tells the server to recover, and how far.
    fn recovery(&self, target: &Path, time: Option<jiff::Timestamp>, has_wal: bool) -> Result<()> {
        if !has_wal {
            // What the backup needs is in it, and it starts as after a crash.
            return Ok(());
        }
        let place = target.join("postgresql.auto.conf");
        let mut text = String::new();
        if let Ok(mut file) = File::open(&place) {
            file.read_to_string(&mut text).map_err(target_error("read", &place))?;
        }
        text += "\n# Written by esker: all WAL is in pg_wal.\nrestore_command = 'false'\n";
        if let Some(time) = time {
            // Names of time zones are not known yet when this is read.
            let time = time.strftime("%Y-%m-%d %H:%M:%S%.6f+00");
            text += &format!("recovery_target_time = '{time}'\nrecovery_target_action = 'promote'\n");
        }
        std::fs::write(&place, text).map_err(target_error("write", &place))?;
        self.give(&place)?;
        let signal = target.join("recovery.signal");
        File::create(&signal).map_err(target_error("make", &signal))?;
        self.give(&signal)
    }
}
