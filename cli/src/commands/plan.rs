//! `esker plan`

use super::{FilterArgs, parse_keep, parse_size};
use crate::config::{hostname, username};
use crate::context::{Context, cores};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::units::counted;
use crate::units::duration;
use basis::Planned;
use chunkstore::chunker::ChunkerParams;
use chunkstore::ingest::{PackerOptions, Sealing};
use connector_kit::format::Expect;
use connector_kit::stream::{StreamOptions, StreamSource};
use engine::backup::BackupOptions;
use engine::entry::Time;
use engine::plan::{Fixed, Measured, Night, Point, Schedule, forecast};
use engine::policy::{GroupBy, Keep, Period, Policy};
use engine::snapshot::Listed;
use engine::source::Source;
use engine::source::files::{FilesOptions, FilesSource};
use engine::trial::Trial;
use prices::Tier;
use serde_json::json;
use std::path::{Path, PathBuf};

mod basis;
mod prices;
mod report;

/// Forecast repository size, objects, times and money from a few versions of a source
///
/// Backs the versions up into a scratch repository with the settings given, reads the last one back, and plays
/// the schedule through. Without --nights, the snapshots of the repository say what was measured.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Two or more versions of a source, oldest first: dumps, or folders
    #[arg(long, num_args = 2.., value_name = "VERSION")]
    nights: Vec<PathBuf>,
    /// What will be kept: hourly=N,daily=N,weekly=N,monthly=N,yearly=N,last=N; everything if not given
    #[arg(long, value_parser = parse_keep, value_delimiter = ',', value_name = "RULES")]
    keep: Vec<(Period, Keep)>,
    /// Hours between backups: 24 for --nights, else what lies between the snapshots that are planned from
    #[arg(long, value_name = "HOURS")]
    every: Option<f64>,
    /// Days to look ahead
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Price this tier: a name of S3's classes (see the report), or NAME=DOLLARS for a GB and month
    #[arg(long, value_parser = prices::parse_tier, value_name = "TIER")]
    tier: Vec<Tier>,
    /// Average size of chunks
    #[arg(long, value_parser = parse_size, default_value = "512k", value_name = "SIZE")]
    chunk_size: u64,
    /// Plan with changed chunks stored whole
    #[arg(long)]
    no_delta: bool,
    /// Folder for the scratch repository, which takes what the versions take when stored
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Write a report with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    if args.every.is_some_and(|every| !every.is_finite() || every < 0.1) {
        return Err(Failure::usage("--every must be at least 0.1 hours"));
    }
    let planned = match args.nights.is_empty() {
        true => from_snapshots(args, context)?,
        false => from_versions(args, context)?,
    };
    let schedule = Schedule {
        every_hours: planned.every_hours,
        policy: Policy { keep: args.keep.clone(), ..Policy::default() },
        days: args.days,
        max_unused: 0.05,
    };
    let measured = &planned.measured;
    let (model, points) = forecast(measured, &schedule)?;
    let basis = basis::lines(&planned, &model, args, context);
    let tiers = prices::tiers(&args.tier)?;
    if let Some(path) = &args.html {
        let page = report::page(&basis, measured, &points, &tiers)?;
        std::fs::write(path, page)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    if context.global.json {
        let money: Vec<_> = tiers
            .iter()
            .filter_map(|tier| {
                let (month, total) = money(&points, points.last()?, tier);
                Some(json!({"tier": tier, "last_month": month, "total": total}))
            })
            .collect();
        output::json_line(&json!({
            "message_type": "plan", "basis": basis, "measured": measured, "model": model,
            "points": report::spread(&points, MOST_POINTS), "money": money,
        }));
    } else {
        print(&basis, measured, &points, &tiers, context);
    }
    Ok(if context.console.error_count() > 0 { Code::Incomplete } else { Code::Done })
}

/// Most points of a forecast that `--json` prints.
const MOST_POINTS: usize = 1000;

/// Storage in the last month, and storage and writes over all of it, in dollars.
fn money(points: &[Point], last: &Point, tier: &Tier) -> (f64, f64) {
    let month = last.bytes as f64 / 1e9 * tier.gb_month;
    let mut total = last.objects as f64 / 1000.0 * tier.put_1000;
    for pair in points.windows(2) {
        if let [from, to] = pair {
            total += from.bytes as f64 / 1e9 * tier.gb_month * (to.day - from.day) / 30.4375;
        }
    }
    (month, total)
}

fn open_version(path: &Path, context: &Context) -> Result<Box<dyn Source>, Failure> {
    if path.is_dir() {
        let options = FilesOptions::default();
        return Ok(Box::new(FilesSource::new(&[path.to_owned()], options, context.console.monitor())?));
    }
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    let options = StreamOptions { allow_empty: true, expect: Expect::Nothing, ..StreamOptions::default() };
    Ok(Box::new(StreamSource::reader(file, b"version", Time::default(), options)?))
}

fn from_versions(args: &Args, context: &Context) -> Result<Planned, Failure> {
    let average = u32::try_from(args.chunk_size).unwrap_or(u32::MAX);
    if !average.is_power_of_two() || !(1 << 10..=512 << 10).contains(&average) {
        return Err(Failure::usage("--chunk-size must be a power of two from 1k to 512k"));
    }
    let options = BackupOptions {
        hostname: hostname(),
        username: username(),
        sealing: Sealing { compression: context.global.compression, delta: !args.no_delta },
        packer: PackerOptions {
            pack_len: context.global.pack_size.saturating_mul(1 << 20),
            ..PackerOptions::default()
        },
        ..BackupOptions::default()
    };
    options.packer.validate()?;
    let trial = |versions: &[&PathBuf]| -> Result<(Vec<Night>, f64, Fixed), Failure> {
        let folder = match &args.scratch {
            Some(place) => tempfile::Builder::new().prefix("esker-plan-").tempdir_in(place),
            None => tempfile::Builder::new().prefix("esker-plan-").tempdir(),
        };
        let folder = folder.map_err(|error| Failure::new(format!("no scratch folder: {error}")))?;
        let mut trial = Trial::new(context.scratch(folder.path(), cores())?, ChunkerParams::around(average))?;
        let mut nights = vec![];
        for (number, version) in versions.iter().enumerate() {
            let mut source = open_version(version, context)?;
            let time = jiff::Timestamp::from_second(number as i64).unwrap_or_default();
            let options = BackupOptions { time, ..options.clone() };
            let night =
                context.console.during("backup", |monitor| trial.backup(&mut *source, &options, monitor))?;
            nights.push(night);
        }
        let seconds = context.console.during("read back", |monitor| trial.read_back(monitor))?;
        let last = versions.last().ok_or_else(|| Failure::new("no version to plan from"))?;
        let mut same = open_version(last, context)?;
        let mut nothing = open_version(Path::new("/dev/null"), context)?;
        let time = jiff::Timestamp::from_second(versions.len() as i64).unwrap_or_default();
        let options = BackupOptions { time, ..options.clone() };
        let fixed = context
            .console
            .during("fixed costs", |monitor| trial.fixed(&mut *same, &mut *nothing, &options, monitor))?;
        Ok((nights, seconds, fixed))
    };
    let all: Vec<&PathBuf> = args.nights.iter().collect();
    let (nights, restore_seconds, unchanged) = trial(&all)?;
    // How much two nights change, against twice what one does.
    let two_nights_apart = match &all[..] {
        [first, _, third] => trial(&[first, third])?.0.last().map(|night| night.stored_bytes),
        _ => None,
    };
    let unchanged = Some(unchanged);
    let measured =
        Measured { nights, two_nights_apart, unchanged, restore_seconds, peak_memory: peak_memory() };
    let names: Vec<_> = args.nights.iter().map(|path| path.display().to_string()).collect();
    let from = format!("{}: {}", counted(names.len(), "version"), names.join(", "));
    Ok(Planned { measured, from, every_hours: args.every.unwrap_or(24.0) })
}

/// The most memory this process had, in bytes (proc(5)).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// What the snapshots of one source in the repository say of themselves.
fn from_snapshots(args: &Args, context: &Context) -> Result<Planned, Failure> {
    let repo = context.open_to_look()?;
    let mut all = args.filter.choose(&repo, &[], context.console.monitor())?;
    let Some(newest) = all.last().map(|listed| listed.snapshot.clone()) else {
        return Err(Failure::new("no snapshots to plan from; give --nights with versions of the source"));
    };
    let by = GroupBy::default();
    all.retain(|listed| by.key(&listed.snapshot) == by.key(&newest));
    let nights: Vec<Night> = all
        .iter()
        .map(|listed| {
            let summary = &listed.snapshot.summary;
            let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap_or_default();
            let seconds = time(&summary.backup_end).duration_since(time(&summary.backup_start));
            Night {
                source_bytes: summary.total_bytes_processed,
                stored_bytes: summary.data_added_packed,
                objects: 3 + summary.data_added_packed / ((context.global.pack_size as u64) << 20).max(1),
                seconds: seconds.as_secs_f64(),
            }
        })
        .collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Err(Failure::new("no snapshots to plan from; give --nights with versions of the source"));
    };
    let at = |listed: &Listed| super::show_time(listed.snapshot.time);
    let from = format!(
        "{} of {} on {}, made from {} to {}",
        counted(all.len(), "snapshot"),
        newest.paths.join(", "),
        newest.hostname,
        at(first),
        at(last)
    );
    let between = usual_gap(&all);
    if let (Some(every), Some(gap)) = (args.every, between)
        && (every / gap - 1.0).abs() > 0.5
    {
        context.console.warn(&format!(
            "the snapshots lie {gap:.1} hours apart, and the plan takes each for what changes in {every} hours"
        ));
    }
    let restore_seconds = engine::trial::read_latest(&repo, &all, context.console.monitor())?;
    let measured = Measured { nights, restore_seconds, peak_memory: peak_memory(), ..Measured::default() };
    Ok(Planned { measured, from, every_hours: args.every.or(between).unwrap_or(24.0) })
}

/// Hours between two snapshots: the median, in quarters of an hour.
fn usual_gap(all: &[Listed]) -> Option<f64> {
    let mut gaps: Vec<i64> = all
        .windows(2)
        .filter_map(|pair| {
            Some(pair.last()?.snapshot.time.as_second() - pair.first()?.snapshot.time.as_second())
        })
        .collect();
    gaps.sort_unstable();
    let median = *gaps.get(gaps.len() / 2)? as f64;
    let hours = (median / 900.0).round() / 4.0;
    (hours > 0.0).then_some(hours)
}

fn print(basis: &[String], measured: &Measured, points: &[Point], tiers: &[Tier], context: &Context) {
    let bytes = output::bytes;
    for line in basis {
        output::line(line);
    }
    let mut table = output::table(&["version", "source", "stored", "backup"]);
    for (number, night) in measured.nights.iter().enumerate() {
        table.add_row([
            (number + 1).to_string(),
            bytes(night.source_bytes),
            bytes(night.stored_bytes),
            duration(night.seconds),
        ]);
    }
    output::block(format!("measured, with at most {} of memory:\n{table}", bytes(measured.peak_memory)));
    let mut table = output::table(&[
        "day",
        "backups",
        "kept",
        "repository",
        "from",
        "to",
        "objects",
        "backup",
        "restore",
    ]);
    for point in report::milestones(points) {
        table.add_row([
            format!("{:.0}", point.day),
            point.backup.to_string(),
            point.snapshots.to_string(),
            bytes(point.bytes),
            bytes(point.bytes_low),
            bytes(point.bytes_high),
            point.objects.to_string(),
            duration(point.backup_seconds),
            duration(point.restore_seconds),
        ]);
    }
    output::block(format!("forecast:\n{table}"));
    let Some(last) = points.last() else { return };
    let mut table = output::table(&["tier", "$/GB month", "last month", "all of it"]);
    for tier in tiers {
        let (month, total) = money(points, last, tier);
        table.add_row([
            tier.name.clone(),
            format!("{:.5}", tier.gb_month),
            format!("${month:.2}"),
            format!("${total:.2}"),
        ]);
    }
    output::block(format!("storage and writes, without retrieval:\n{table}"));
    context.console.say("--html FILE writes this with plots");
}
