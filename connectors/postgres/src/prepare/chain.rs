//! A full backup and the incremental ones after it, put together by pg_combinebackup.

use super::backup::BaseBackup;
use super::there::CONTROL;
use super::{Preparing, put_control, space_folder};
use crate::data_directory::{DataDirectory, failed};
use crate::programs::{Programs, installed_programs};
use engine::{Error, Monitor, Result};
use std::path::{Path, PathBuf};

impl Preparing<'_> {
    /// A full backup and the incremental ones after it, by pg_combinebackup.
    pub(super) fn combine(&self, bases: &[BaseBackup], monitor: &dyn Monitor) -> Result<DataDirectory> {
        let (target, major) = (&self.options.target, self.backup.major);
        let programs: Programs = installed_programs("pg_combinebackup", major, self.options.path.as_deref()).ok_or_else(|| {
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
        drop(DataDirectory::make(&parts)?);
        let folders: Vec<PathBuf> = bases.iter().map(|base| parts.join(&base.name)).collect();
        let unpacked = bases
            .iter()
            .zip(&folders)
            .try_fold(None, |_, (base, folder)| self.part(base, folder, monitor).map(|data| data.owner));
        let combined = unpacked.and_then(|owner| {
            if target.symlink_metadata().is_ok() {
                // It makes its own.
                std::fs::remove_dir(target).map_err(failed("remove", target))?;
            }
            let mut command = connector_kit::child::command(
                programs.path("pg_combinebackup"),
                &std::collections::BTreeMap::new(),
            );
            command.arg("--no-sync").arg("-o").arg(target);
            let part = folders.last().map_or(target, |folder| folder);
            for oid in bases.last().into_iter().flat_map(BaseBackup::tars).filter_map(|(_, space)| space) {
                let (old, new) = (space_folder(part, oid), space_folder(target, oid));
                command.arg("--tablespace-mapping").arg(format!("{}={}", old.display(), new.display()));
            }
            command.arg("--").args(&folders);
            let output = connector_kit::child::output(&mut command, connector_kit::child::Role::Tool);
            let output = output.map_err(failed("run", Path::new("pg_combinebackup")))?;
            match output.status.success() {
                true => Ok(owner),
                false => Err(Error::Malformed {
                    what: "the chain of backups".into(),
                    why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                }),
            }
        });
        std::fs::remove_dir_all(&parts).map_err(failed("remove", &parts))?;
        let owner = combined.inspect_err(|_| {
            // No server is to start on what it may have left.
            let _ = std::fs::remove_file(target.join(CONTROL));
        })?;
        let gone = || failed("open", target)(std::io::ErrorKind::NotFound.into());
        let mut data = DataDirectory::open(target)?.ok_or_else(gone)?;
        data.owner = owner;
        data.give_all()?;
        Ok(data)
    }

    /// One backup of the chain.
    fn part(&self, base: &BaseBackup, folder: &Path, monitor: &dyn Monitor) -> Result<DataDirectory> {
        let tars = self.tars_of(base, folder)?;
        let mut control = None;
        let data = self.fill(base, &tars, DataDirectory::make(folder)?, &mut control, monitor)?;
        put_control(&data, control)?;
        Ok(data)
    }
}
