//! A physical backup of PostgreSQL as a data directory that a server starts from: its tars unpacked, the WAL after it put
//! beside them, and the moment to recover to written down. The server recovers when it is started.

use super::data_directory::{DataDirectory, Owner, failed, is_empty, is_oid, private_folder};
use crate::physical::{Earlier, KIND};
use crate::programs::{Programs, installed_programs};
use crate::wal;
use crate::wal::Transactions;
use chunkstore::store::describe;
use chunkstore::threads;
use engine::entry::Kind;
use engine::manifest::for_all_entries;
use engine::restore::dump;
use engine::snapshot::{Listed, Snapshot, SourceRecord};
use engine::{Error, ItemError, Monitor, Repository, Result, lost_of};
use std::fs::File;
use std::io::{self, Write};
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
    snapshot.sources.iter().any(|source| source.kind == KIND || source.kind == crate::stream::KIND)
}

/// What an incremental backup of a server can build on.
pub enum Base {
    /// There is no earlier physical backup.
    None,
    /// The last one has lost something, or cannot be read: a backup that built on it could not be restored.
    Lost(chunkstore::ObjectId, String),
    /// The last one.
    There(chunkstore::ObjectId, Earlier),
}

/// Looks for the last physical backup in `repo` that has `path`, and whether all of it is there.
pub fn earlier(repo: &Repository, path: &str, monitor: &dyn Monitor) -> Result<Base> {
    repo.sync_index(monitor)?;
    let found = repo.snapshots(monitor)?.into_iter().rev().find(|listed| {
        listed.snapshot.is_of_full_client()
            && listed.snapshot.paths.iter().any(|own| own == path)
            && listed.snapshot.sources.iter().any(|source| source.kind == KIND)
    });
    let Some(found) = found else { return Ok(Base::None) };
    // What was lost of it cannot be stored again: the server has moved on.
    let looked = lost_of(repo.store(), &found).and_then(|lost| match lost {
        None => read_earlier(repo, &found, monitor),
        Some(why) => Err(Error::Refused(why)),
    });
    match looked {
        Ok(Some(earlier)) => Ok(Base::There(found.id, earlier)),
        Ok(None) => Ok(Base::None),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(Error::Store(error)) if !error.is_damage() => Err(error.into()),
        Err(error) => Ok(Base::Lost(found.id, describe(&error))),
    }
}

/// What the next backup is to know of an earlier one. `None` if it has no list of its files.
fn read_earlier(repo: &Repository, found: &Listed, monitor: &dyn Monitor) -> Result<Option<Earlier>> {
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
    Ok(Some(earlier))
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
        snapshot.sources.iter().find(|source| source.kind == KIND || source.kind == crate::stream::KIND);
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
    let segment_len = record
        .details
        .get("segment-bytes")
        .map_or(Some(wal::SEGMENT_LEN), |text| text.parse().ok().filter(|len| wal::is_segment_len(*len)));
    let segment_len = segment_len.ok_or_else(|| Error::Malformed {
        what: "the record of the backup".into(),
        why: "its length of WAL segments is none that a server has".into(),
    })?;
    let mut data = DataDirectory::open(target)?;
    data.owner = work.owner;
    let (stops, last) = work.wal(&segments, &data, segment_len, options.time)?;
    recovery(&data, options.time.filter(|_| stops), !segments.is_empty())?;
    data.give()?;
    Ok(PrepareReport { backups: count, segments: segments.len(), bytes: work.bytes, stops, last })
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    monitor: &'a dyn Monitor,
    bytes: u64,
    /// Whose the files are, if we can give them away.
    owner: Option<Owner>,
}

/// A segment of WAL in memory, of a length that has a bound.
struct Segment {
    bytes: Vec<u8>,
    most: usize,
    is_longer: bool,
}

impl Write for Segment {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.most - self.bytes.len() {
            self.is_longer = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number of the tablespace that a tar has.
fn space_of(path: &str) -> Option<&str> {
    let name = path.rsplit_once('-')?.1.strip_suffix(".tar")?;
    is_oid(name).then_some(name)
}

/// Where a tablespace goes: beside the data directory.
fn space_folder(target: &Path, oid: &str) -> PathBuf {
    let folder = PathBuf::from(format!("{}-tablespaces", target.display())).join(oid);
    std::path::absolute(&folder).unwrap_or(folder)
}

impl Work<'_> {
    /// A backup's tars and manifest into a folder.
    fn unpack(&mut self, files: &[String], target: &Path) -> Result<()> {
        let mut data = DataDirectory::make(target)?;
        let mut spaces = vec![];
        for path in files {
            let name = path.rsplit_once('-').map_or(path.as_str(), |(_, name)| name);
            match space_of(path) {
                None if name.ends_with(".tar") => self.untar(path, &mut data)?,
                Some(space) => {
                    let folder = space_folder(target, space);
                    let mut data = DataDirectory::make(&folder)?;
                    self.untar(path, &mut data)?;
                    data.give()?;
                    spaces.push((space.to_owned(), folder));
                }
                None => data.put("backup_manifest", |file| {
                    dump(self.repo, self.snapshot, path.as_bytes(), file, self.monitor).map(drop)
                })?,
            }
        }
        data.link(&spaces)?;
        if let Some(parent) = spaces.first().and_then(|(_, folder)| folder.parent()) {
            let mut above = DataDirectory::open(parent)?;
            above.owner = data.owner;
            above.give()?;
        }
        self.owner = data.owner;
        Ok(())
    }

    /// One tar, read while it is fetched.
    fn untar(&mut self, path: &str, data: &mut DataDirectory) -> Result<()> {
        let (reader, writer) = rustix::pipe::pipe().map_err(|error| Error::Target {
            op: "make",
            path: "a pipe".into(),
            source: error.into(),
        })?;
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20);
        let (repo, snapshot, monitor) = (self.repo, self.snapshot, self.monitor);
        std::thread::scope(|scope| {
            let dumping = threads::start_in(scope, "esker-dump", move || {
                let mut writer = File::from(writer);
                dump(repo, snapshot, path.as_bytes(), &mut writer, monitor)
            })
            .map_err(|source| Error::Target { op: "read", path: path.to_owned(), source })?;
            let unpacked = data.unpack(File::from(reader));
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
        if parts.symlink_metadata().is_ok() {
            let shown = engine::shown::path(&parts);
            return Err(Error::Refused(format!(
                "{shown} is there, which a restore that was cut off may have left; remove it"
            )));
        }
        private_folder(&parts)?;
        let folders: Vec<PathBuf> = bases.iter().map(|(name, _)| parts.join(name)).collect();
        let combined =
            bases.iter().zip(&folders).try_for_each(|((_, files), folder)| self.unpack(files, folder));
        let combined = combined.and_then(|()| {
            if target.exists() {
                // It makes its own.
                std::fs::remove_dir(target).map_err(failed("remove", target))?;
            }
            let mut command = connector_kit::child::command(
                programs.path("pg_combinebackup"),
                &std::collections::BTreeMap::new(),
            );
            command.arg("--no-sync").arg("-o").arg(target);
            let last = bases.last().map(|(_, files)| files.as_slice()).unwrap_or_default();
            let part = folders.last().map_or(target, |folder| folder);
            for path in last {
                if let Some(oid) = space_of(path) {
                    let (old, new) = (space_folder(part, oid), space_folder(target, oid));
                    command.arg("--tablespace-mapping").arg(format!("{}={}", old.display(), new.display()));
                }
            }
            command.arg("--").args(&folders);
            let output = connector_kit::child::output(&mut command, connector_kit::child::Role::Tool);
            let output = output.map_err(failed("run", Path::new("pg_combinebackup")))?;
            match output.status.success() {
                true => Ok(()),
                false => Err(Error::Malformed {
                    what: "the chain of backups".into(),
                    why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                }),
            }
        });
        std::fs::remove_dir_all(&parts).map_err(failed("remove", &parts))?;
        combined?;
        let mut data = DataDirectory::open(target)?;
        data.owner = self.owner;
        data.give_all()
    }

    /// The WAL after the backup; tells whether a transaction ends after `time`, and when the last one does.
    fn wal(
        &mut self,
        segments: &[(String, String)],
        data: &DataDirectory,
        segment_len: u64,
        time: Option<jiff::Timestamp>,
    ) -> Result<(bool, Option<jiff::Timestamp>)> {
        let mut found = Transactions::default();
        let mut is_after = false;
        let mut next = None;
        for (name, path) in segments {
            let own = name.trim_end_matches(".partial");
            let malformed = |why: &str| {
                let why = format!("{} {why}", engine::shown::name(own.as_bytes()));
                Error::Malformed { what: "the WAL".into(), why }
            };
            let start =
                wal::segment_start(own, segment_len).ok_or_else(|| malformed("is no segment's name"))?;
            if next.is_some_and(|next| start != next) {
                return Err(malformed("does not follow"));
            }
            next = Some(start.saturating_add(segment_len));
            let mut segment = Segment { bytes: vec![], most: segment_len as usize, is_longer: false };
            let dumped = dump(self.repo, self.snapshot, path.as_bytes(), &mut segment, self.monitor);
            if segment.is_longer {
                return Err(malformed("is longer than a segment"));
            }
            dumped?;
            let mut bytes = segment.bytes;
            found.read(&bytes);
            is_after |= time.is_some_and(|time| found.last_us.is_some_and(|us| us > time.as_microsecond()));
            self.bytes += bytes.len() as u64;
            bytes.resize(segment_len as usize, 0);
            // The base backup has the first ones, too.
            data.replace(&format!("pg_wal/{own}"), &bytes)?;
        }
        let last = found.last_us.and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        Ok((is_after, last))
    }
}

/// Tells the server to recover, and how far. It comes up as a server of its own: a standby's backup has the file that makes
/// it one.
fn recovery(data: &DataDirectory, time: Option<jiff::Timestamp>, has_wal: bool) -> Result<()> {
    data.remove("standby.signal")?;
    if !has_wal {
        // What the backup needs is in it, and it starts as after a crash.
        return Ok(());
    }
    let mut text = data.read("postgresql.auto.conf")?;
    text.extend_from_slice(b"\n# Written by esker: all WAL is in pg_wal.\nrestore_command = 'false'\n");
    if let Some(time) = time {
        // Names of time zones are not known yet when this is read.
        let time = time.strftime("%Y-%m-%d %H:%M:%S%.6f+00");
        let _ = write!(text, "recovery_target_time = '{time}'\nrecovery_target_action = 'promote'\n");
    }
    data.replace("postgresql.auto.conf", &text)?;
    data.replace("recovery.signal", b"")
}

#[cfg(test)]
mod tests;
