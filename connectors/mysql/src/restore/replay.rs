//! The binary log after a dump, by mariadb-binlog and the client.
//!
//! mariadb-binlog writes what events hold as lines of a script, statements and names as they are. So the logs are first written
//! anew, in `disarmed`: what a user wrote comes to the client as a number, or not at all.
//! Source: MariaDB's documentation, "mariadb-binlog".

use super::Work;
use super::client::Files;
use super::disarm::Disarmed;
use super::outside::Outside;
use super::renamed;
use super::renamed::Names;
use super::stored::Goal;
use crate::dump::{Kind, Object, SYSTEM, defined, executes};
use crate::stream as follow;
use crate::stream::place;
use chunkstore::threads;
use connector_kit::child::{self, Role};
use engine::restore::dump;
use engine::source::SourceErrorKind;
use engine::{Error, Result};
use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;

/// Logs that are ready to be replayed.
pub(super) struct Logs {
    /// They are gone with it.
    _folder: tempfile::TempDir,
    files: Vec<PathBuf>,
    /// Files that the client sends.
    sent: Files,
    /// Where the replay begins in the first.
    start: Option<u64>,
    /// Names of tables that have others in the files.
    renamed: VecDeque<Names>,
    /// Statements that are not replayed, for people.
    pub(super) left_out: Vec<String>,
}

impl Work<'_> {
    /// What the server has that is none of the goals'.
    fn outside(&self, goals: &[Goal]) -> Result<Outside> {
        let all = self.server.query("SELECT schema_name FROM information_schema.schemata")?;
        let ours = self.leftovers()?;
        let mut databases = vec![];
        for name in all.into_iter().flatten() {
            let is_goal = goals.iter().any(|goal| goal.target == name) || ours.contains(&name);
            let is_system = SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(&name));
            if !is_goal && !is_system {
                databases.push(name.into_bytes());
            }
        }
        let sql = "SELECT User FROM mysql.user UNION SELECT Server_name FROM mysql.servers";
        let accounts = self.server.query(sql)?.into_iter().flatten().map(String::into_bytes).collect();
        Ok(Outside { databases, accounts, left_out: vec![] })
    }

    /// That no routine or trigger, which statements of the log may run, changes another database.
    fn stays_inside(&self, outside: &Outside, goals: &[Goal]) -> Result<()> {
        if outside.databases.is_empty() {
            return Ok(());
        }
        for goal in goals {
            let is_code = |object: &&Object| matches!(object.kind, Kind::Routine | Kind::Trigger);
            for object in goal.index.objects.iter().filter(is_code) {
                let text = defined(&self.bytes(&goal.path, (object.from, object.to))?);
                outside.code(&text).map_err(|why| {
                    self.refused(format!(
                        "{} of '{}', which the binary log may run, {why}",
                        object.name, goal.name
                    ))
                })?;
            }
        }
        Ok(())
    }

    /// Reads the binary log from where the dump was made, and writes it so that it can be replayed; refuses what cannot.
    pub(super) fn logs(&self, logs: &[(String, String)], goals: &[Goal]) -> Result<Logs> {
        let record = self.snapshot.sources.iter().find(|source| source.kind == follow::KIND);
        let position = record.and_then(|record| {
            Some((
                record.details.get("binlog")?.clone(),
                record.details.get("position")?.parse::<u64>().ok()?,
            ))
        });
        let Some((first, position)) = position else {
            return Err(Error::Invalid(
                "this snapshot has no binary log after its dump; 'esker stream' keeps it".into(),
            ));
        };
        let failed =
            |op| move |source| Error::Target { op, path: "a folder for the binary log".into(), source };
        let version = self.server.query("SELECT VERSION()")?.into_iter().flatten().next().unwrap_or_default();
        let until = self.options.time.map(|time| u32::try_from(time.as_second()).unwrap_or(u32::MAX));
        let folder = tempfile::tempdir().map_err(failed("make"))?;
        let rows = folder.path().join("load-data");
        std::fs::create_dir(&rows).map_err(failed("make"))?;
        let outside = self.outside(goals)?;
        self.stays_inside(&outside, goals)?;
        let mut disarmed = Disarmed::new(executes(&version), until, rows.clone(), outside);
        let mut files = vec![];
        let mut logs: Vec<&(String, String)> =
            logs.iter().filter(|(name, _)| place(name) >= place(&first)).collect();
        logs.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)));
        for (name, path) in logs {
            let mut log = tempfile::tempfile().map_err(failed("make"))?;
            dump(self.repo, self.snapshot, path.as_bytes(), &mut log, self.monitor)?;
            log.seek(SeekFrom::Start(0)).map_err(failed("read"))?;
            let copy = folder.path().join(name);
            let mut out = BufWriter::new(std::fs::File::create_new(&copy).map_err(failed("write to"))?);
            let from = if *name == first { position } else { 0 };
            disarmed.write(&mut BufReader::new(log), from, &mut out).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => self.refused(format!("{path}: {error}")),
                _ => failed("write to")(error),
            })?;
            files.push(copy);
        }
        let sends =
            disarmed.sends_files().map_err(|error| self.refused(format!("the binary log: {error}")))?;
        let sent = if sends { Files::Of(rows) } else { Files::Stay };
        let left_out = disarmed.outside.left_out;
        Ok(Logs { _folder: folder, files, sent, start: disarmed.start, renamed: disarmed.renamed, left_out })
    }

    /// Replays logs.
    pub(super) fn replay(&self, logs: &Logs) -> Result<u64> {
        let files = &logs.files;
        if files.is_empty() {
            return Ok(0);
        }
        let mut command = self.server.command(["mariadb-binlog", "mysqlbinlog"])?;
        command.env("TZ", "UTC");
        // Said, it also keeps mariadb-binlog from missing what was before.
        if let Some(start) = logs.start {
            command.arg(format!("--start-position={start}"));
        }
        if let Some(time) = self.options.time {
            command.arg(format!("--stop-datetime={}", time.strftime("%Y-%m-%d %H:%M:%S")));
        }
        command.arg("--").args(files).stdout(Stdio::piped()).stderr(Stdio::piped());
        let count = files.len() as u64;
        let fed = self.feed(&logs.sent, &mut |out, _| {
            let broken = |error: std::io::Error| {
                Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb-binlog: {error}")))
            };
            let mut child = child::spawn(&mut command, Role::Tool).map_err(broken)?;
            let (Some(mut output), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
                return Err(broken(std::io::Error::other("no pipe")));
            };
            let listener = threads::start("esker-said", move || child::complaints(complaints));
            let listener = listener.inspect_err(|_| child::kill(&child)).map_err(broken)?;
            let copied = match logs.renamed.is_empty() {
                true => std::io::copy(&mut output, out),
                false => renamed::copy(&mut BufReader::new(&mut output), out, logs.renamed.clone()),
            };
            drop(output);
            let status = child.wait().map_err(broken)?;
            let text = listener.join().unwrap_or_default();
            let copied =
                copied.map_err(|source| Error::Target { op: "write to", path: "mariadb".into(), source })?;
            match status.success() {
                true => Ok(copied),
                false => Err(broken(std::io::Error::other(text.trim().to_owned()))),
            }
        })?;
        match fed.refused {
            None => Ok(count),
            Some(why) => Err(self.server.error(SourceErrorKind::Command, why).into()),
        }
    }
}
