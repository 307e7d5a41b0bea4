//! `esker dump`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use engine::Repository;
use engine::connector::Origin;
use engine::inside::Inside;
use engine::restore::archive::{Format, archive};
use engine::restore::dump;
use engine::snapshot::{Listed, split_path};
use serde_json::json;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;

/// Write one file, stream, key, table or collection of a snapshot to standard output, or a folder as an archive
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, or SNAPSHOT:path
    #[arg(value_parser = crate::words::path())]
    snapshot: String,
    /// Path of the file or folder in the snapshot, or in the folder of SNAPSHOT:folder; a folder is written as an archive
    #[arg(value_name = "PATH", value_parser = crate::words::path())]
    file: Option<String>,
    /// Write to this file instead
    #[arg(short, long, value_name = "FILE")]
    target: Option<std::path::PathBuf>,
    /// Format for a folder; '/' is the whole snapshot
    #[arg(short, long, value_enum, default_value = "tar", value_name = "FORMAT")]
    archive: Archive,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Archive {
    /// With owners, times and attributes
    Tar,
    /// Without owners and attributes
    Zip,
}

/// Whether a path of a snapshot is a folder.
fn is_folder(repo: &Repository, found: &Listed, path: &[u8]) -> Result<bool, Failure> {
    let mut folder = path.is_empty();
    engine::manifest::for_each_entry(repo.store(), &found.snapshot.manifest, &mut |_| {}, &mut |listed| {
        folder |= listed.entry.path == path && listed.entry.kind == engine::entry::Kind::Dir;
        Ok(())
    })?;
    Ok(folder)
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let (wanted, inner) = split_path(&args.snapshot);
    let file = Inside::new(inner).join(args.file.as_deref().unwrap_or_default());
    if file.is_all() && args.file.is_none() {
        return Err(Failure::usage("which file? Give a path: esker dump latest /path/in/snapshot"));
    }
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let repo = &opened.repo;
    repo.sync_index(context.console.monitor())?;
    let below = match &args.file {
        Some(path) if inner.is_empty() => path.clone(),
        Some(path) => format!("{inner}/{}", path.trim_start_matches('/')),
        None => inner.to_owned(),
    };
    let origin = Origin { repo, snapshot: &found, below: &below };
    if let Some(contents) = super::holder(origin)
        && !file.is_entry(repo, &found.snapshot)?
    {
        super::thaw::need_thawed(&opened, &found, &contents.reads(origin), None, context)?;
        let mut open = || output(args).map_err(|failure| std::io::Error::other(failure.message));
        contents.read(origin, &mut open).map_err(|error| Failure::in_snapshot(error, &found))?;
        tell(args, &found, &below, context);
        return Ok(Code::Done);
    }
    let file = file.resolve(repo, &found.snapshot)?;
    super::thaw::need_thawed(&opened, &found, file.path(), None, context)?;
    let folder = is_folder(repo, &found, file.path())?;
    let mut out = output(args)?;
    if folder {
        let format = match args.archive {
            Archive::Tar => Format::Tar,
            Archive::Zip => Format::Zip,
        };
        let top = Inside::new(inner).resolve(repo, &found.snapshot)?;
        let place = (file.path(), top.path());
        archive(repo, &found.snapshot, place, format, &mut *out, context.console.monitor())
            .map_err(|error| Failure::in_snapshot(error, &found))?;
    } else {
        // Progress would only disturb whoever reads the stream on a terminal.
        dump(repo, &found.snapshot, file.path(), &mut *out, context.console.monitor())
            .map_err(|error| Failure::in_snapshot(error, &found))?;
    }
    tell(args, &found, &below, context);
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// Reports a dump into a file. Without one, standard output has the bytes themselves.
fn tell(args: &Args, found: &Listed, below: &str, context: &Context) {
    let Some(file) = &args.target else { return };
    let mut summary =
        Summary::new(json!({"snapshot_id": found.id})).with_name("file", file.as_os_str().as_bytes());
    summary.line(format!("wrote {below} of snapshot {} to {}", found.id.short(), file.display()));
    context.console.summary(&summary);
}

fn output(args: &Args) -> Result<Box<dyn Write>, Failure> {
    Ok(match &args.target {
        Some(file) => {
            let made = std::fs::File::create_new(file);
            Box::new(made.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?)
        }
        // Unbuffered: chunks are large.
        None => Box::new(crate::stdout::Unbuffered::open()?),
    })
}
