//! `esker bench`

use super::parse_size;
use crate::config::hostname;
use crate::context::{Context, cores};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::chunker::ChunkerParams;
use chunkstore::env::SystemEnv;
use chunkstore::ingest::Sealing;
use chunkstore::seal::Compression;
use connector_kit::format::Expect;
use connector_kit::stream::{StreamOptions, StreamSource};
use engine::backup::BackupOptions;
use engine::calibrate::{Roofline, Stages, stages};
use engine::entry::Time;
use engine::source::Source;
use engine::source::files::FilesOptions;
use engine::trial::{Trial, sample};
use serde::Serialize;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Measure this machine on your data, and find suitable settings
///
/// Takes a sample of a source and measures each stage on it, then whole backups of it into a scratch repository:
/// chunk sizes, compression levels, deltas, one core and all. Says which settings it would choose, and why.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A path or URL to take the sample from
    #[arg(required_unless_present = "stdin")]
    source: Option<OsString>,
    /// The next version of the source, to measure what a night adds
    #[arg(conflicts_with = "stdin")]
    next: Option<OsString>,
    /// Take the sample from standard input
    #[arg(long, conflicts_with = "source")]
    stdin: bool,
    /// Only the stages, and the speeds that they allow
    #[arg(long)]
    calibrate: bool,
    /// Size of the sample
    #[arg(long, value_parser = parse_size, default_value = "256M", value_name = "SIZE")]
    size: u64,
    /// Folder for scratch repositories (repeat for each place to compare)
    #[arg(long, value_name = "FOLDER")]
    scratch: Vec<PathBuf>,
}

/// One setting, measured.
#[derive(Serialize)]
struct Row {
    setting: String,
    place: String,
    chunk_size: u32,
    level: i32,
    delta: bool,
    cores: usize,
    first_bytes: u64,
    first_seconds: f64,
    again_seconds: f64,
    night_bytes: Option<u64>,
    night_seconds: Option<f64>,
    restore_seconds: f64,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let limit = usize::try_from(args.size).unwrap_or(usize::MAX);
    let first = take(args.source.as_deref(), limit, context)?;
    if first.len() < 1 << 20 {
        return Err(Failure::new("the source has less than a megabyte: too little to measure"));
    }
    let next = args.next.as_deref().map(|next| take(Some(next), limit, context)).transpose()?;
    let folder = args.scratch.first().cloned().unwrap_or_else(std::env::temp_dir);
    let compression = context.global.compression;
    let calibrated = stages(&first, &folder, ChunkerParams::default(), compression, &SystemEnv)?;
    let roofline = calibrated.roofline(cores());
    let rows = if args.calibrate { vec![] } else { sweep(args, &first, next.as_deref(), context)? };
    if context.global.json {
        output::json_line(&json!({
            "message_type": "bench", "sample_bytes": first.len(), "cores": cores(),
            "stages_ns_per_byte": calibrated, "roofline_bytes_per_second": roofline, "rows": rows,
        }));
    } else {
        print(&first, &calibrated, &roofline, &rows);
    }
    Ok(Code::Done)
}

fn take(source: Option<&OsStr>, limit: usize, context: &Context) -> Result<Vec<u8>, Failure> {
    let time = Time::default();
    let mut source: Box<dyn Source> = match source {
        None => {
            let stdin = std::fs::File::from(rustix::io::dup(std::io::stdin()).map_err(std::io::Error::from)?);
            Box::new(StreamSource::reader(
                stdin,
                b"stdin",
                time,
                StreamOptions { allow_empty: true, expect: Expect::Nothing, ..StreamOptions::default() },
            )?)
        }
        Some(word) => {
            let monitor = context.console.monitor();
            crate::sources::open(
                vec![word.to_owned()],
                FilesOptions::default(),
                time,
                false,
                context,
                monitor,
            )?
        }
    };
    Ok(context.console.during("sample", |monitor| sample(&mut *source, limit, monitor))?)
}

/// Whole backups with one setting after the other.
fn sweep(args: &Args, first: &[u8], next: Option<&[u8]>, context: &Context) -> Result<Vec<Row>, Failure> {
    let temporary = std::env::temp_dir();
    let places = if args.scratch.is_empty() { std::slice::from_ref(&temporary) } else { &args.scratch[..] };
    let mut rows = vec![];
    let mut add = |setting: &str, place: &Path, size: u32, level: i32, delta: bool, cores: usize| {
        let sealing = Sealing { compression: Compression::Zstd(level), delta };
        let row = measure(place, size, sealing, cores, first, next, context)?;
        rows.push(Row { setting: setting.into(), level, ..row });
        Ok::<_, Failure>(())
    };
    for place in places {
        for shift in 14..=19 {
            add("chunk size", place, 1 << shift, 3, true, cores())?;
        }
    }
    for level in [-1, 1, 6, 9] {
        add("level", &places[0], 512 << 10, level, true, cores())?;
    }
    if next.is_some() {
        add("no delta", &places[0], 512 << 10, 3, false, cores())?;
    }
    add("one core", &places[0], 512 << 10, 3, true, 1)?;
    Ok(rows)
}

fn measure(
    place: &Path,
    chunk_size: u32,
    sealing: Sealing,
    cores: usize,
    first: &[u8],
    next: Option<&[u8]>,
    context: &Context,
) -> Result<Row, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("scratch in {}: {error}", place.display()));
    let folder = tempfile::Builder::new().prefix("esker-bench-").tempdir_in(place).map_err(failed)?;
    let file = |name: &str, bytes: &[u8]| -> Result<PathBuf, Failure> {
        let path = folder.path().join(name);
        std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).map_err(failed)?;
        Ok(path)
    };
    let first = file("first", first)?;
    let next = next.map(|next| file("next", next)).transpose()?;
    let mut trial = Trial::new(context.scratch(folder.path(), cores)?, ChunkerParams::around(chunk_size))?;
    let mut backup = |path: &Path| {
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut source = StreamSource::reader(
            file,
            b"sample",
            Time::default(),
            StreamOptions { allow_empty: true, expect: Expect::Nothing, ..StreamOptions::default() },
        )?;
        let options = BackupOptions { hostname: hostname(), sealing, ..BackupOptions::default() };
        Ok::<_, Failure>(
            context.console.during("backup", |monitor| trial.backup(&mut source, &options, monitor))?,
        )
    };
    let one = backup(&first)?;
    let again = backup(&first)?;
    let night = next.as_deref().map(&mut backup).transpose()?;
    let restore_seconds = context.console.during("read back", |monitor| trial.read_back(monitor))?;
    Ok(Row {
        setting: String::new(),
        place: place.display().to_string(),
        chunk_size,
        level: 3,
        delta: sealing.delta,
        cores,
        first_bytes: one.stored_bytes,
        first_seconds: one.seconds,
        again_seconds: again.seconds,
        night_bytes: night.map(|night| night.stored_bytes),
        night_seconds: night.map(|night| night.seconds),
        restore_seconds,
    })
}

fn print(sample: &[u8], stages: &Stages, roofline: &Roofline, rows: &[Row]) {
    let bytes = output::bytes;
    let speed = |ns: f64| format!("{:.0} MB/s", 1000.0 / ns.max(1e-6));
    let mut table = output::table(&["stage", "one thread"]);
    for (name, cost) in [
        ("read from the page cache", stages.read),
        ("write to it", stages.write),
        ("cut", stages.cut),
        ("hash", stages.hash),
        ("compress", stages.compress),
        ("compress against a base", stages.delta),
        ("encrypt", stages.encrypt),
        ("decompress", stages.decompress),
        ("decompress against a base", stages.decompress_delta),
    ] {
        table.add_row([name.to_owned(), speed(cost)]);
    }
    let (len, cores) = (bytes(sample.len() as u64), cores());
    output::block(format!("sample of {len}, which compresses to {:.1} %:\n{table}", 100.0 * stages.ratio));
    let mut table = output::table(&["case", "at best"]);
    for (name, limit) in [
        ("first night", roofline.first),
        ("a night that changed a little", roofline.changed),
        ("the same again", roofline.duplicate),
        ("restore", roofline.restore),
    ] {
        table.add_row([name.to_owned(), format!("{:.0} MB/s", limit / 1e6)]);
    }
    output::block(format!("what {cores} cores allow:\n{table}"));
    if rows.is_empty() {
        return;
    }
    let mb = |seconds: f64| format!("{:.0} MB/s", sample.len() as f64 / 1e6 / seconds.max(1e-9));
    let mut table = output::table(&[
        "chunks",
        "level",
        "delta",
        "cores",
        "stored",
        "first",
        "again",
        "night adds",
        "night",
        "restore",
        "on",
    ]);
    for row in rows {
        table.add_row([
            bytes(u64::from(row.chunk_size)),
            row.level.to_string(),
            if row.delta { "yes" } else { "no" }.into(),
            row.cores.to_string(),
            bytes(row.first_bytes),
            mb(row.first_seconds),
            mb(row.again_seconds),
            row.night_bytes.map(bytes).unwrap_or_default(),
            row.night_seconds.map(mb).unwrap_or_default(),
            mb(row.restore_seconds),
            row.place.clone(),
        ]);
    }
    output::block(table.to_string());
    output::line(choice(rows));
}

/// What it would choose. A month of nights counts, or the first one where nights were not measured; of
/// settings within 3 % the fastest.
fn choice(rows: &[Row]) -> String {
    let month = |row: &Row| row.first_bytes + 30 * row.night_bytes.unwrap_or_default();
    let all: Vec<&Row> = rows.iter().filter(|row| row.setting == "chunk size").collect();
    let Some(least) = all.iter().map(|row| month(row)).min() else { return String::new() };
    let close = all.iter().filter(|row| month(row) as f64 <= least as f64 * 1.03);
    let Some(best) = close.min_by(|a, b| a.first_seconds.total_cmp(&b.first_seconds)) else {
        return String::new();
    };
    let nights =
        if best.night_bytes.is_some() { "a first night and 30 more take" } else { "a first night takes" };
    format!(
        "choose: init --chunk-size {}k: {nights} {}, and no other size within 3 % of the least ({}) is faster",
        best.chunk_size >> 10,
        output::bytes(month(best)),
        output::bytes(least)
    )
}
