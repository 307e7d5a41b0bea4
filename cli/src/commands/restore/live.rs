//! `esker restore --to URL`: keys into a running Redis, or all of it with a plan first.

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::journal::replay;
use engine::keyspace::compare::compare;
use engine::keyspace::load::{
    Existing, LoadOptions, LoadReport, count_keys, flush_all, flush_functions, load, load_functions,
};
use engine::keyspace::{Dump, Live, Place, Selection, find, one};
use engine::snapshot::Listed;
use engine::source::redis::Server;
use engine::source::redis::address::Scheme;
use engine::source::redis::link::Stop;
use engine::source::{UrlOptions, redis, redis_scan};
use engine::{ItemError, Repository};
use serde_json::json;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

/// Options of a restore into a live server.
#[derive(clap::Args, Debug)]
pub(crate) struct LiveArgs {
    /// Write into a live server: keys into redis://user:password@host:port/database, databases and tables into
    /// postgres://user@host:port/database or mysql://user@host:port/database, collections into qdrant+http://host:port/collection
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// Only keys of this database
    #[arg(long, value_name = "N", requires = "to")]
    pub(super) db: Option<u32>,
    /// Read names of keys from a file, one a line
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(super) keys_from: Option<PathBuf>,
    /// Names that begin with A shall begin with B
    #[arg(long, value_name = "A=B", requires = "to")]
    pub(super) map_prefix: Vec<String>,
    /// Overwrite keys that are there; replace collections, databases or tables that are there
    #[arg(long, requires = "to")]
    pub(super) replace: bool,
    /// Of a database server: only this database
    #[arg(long, value_name = "NAME", requires = "to")]
    pub(super) database: Vec<String>,
    /// Of a database server: only this table, with what belongs to it, as schema.table
    #[arg(long, value_name = "TABLE", requires = "to")]
    pub(super) table: Vec<String>,
    /// Of PostgreSQL: put what was in the tablespace OLD into the server's NEW
    #[arg(long, value_name = "OLD=NEW", requires = "to", conflicts_with = "no_tablespaces")]
    pub(super) tablespace_map: Vec<String>,
    /// Of PostgreSQL: make no tablespaces, and put everything where the server puts it
    #[arg(long, requires = "to")]
    pub(super) no_tablespaces: bool,
    /// Of Qdrant: the collection OLD shall be called NEW
    #[arg(long, value_name = "OLD=NEW", requires = "to")]
    pub(super) rename: Vec<String>,
    /// Of Qdrant: whose points count where there are several replicas
    #[arg(long, value_parser = ["snapshot", "replica", "no_sync"], requires = "to")]
    pub(super) priority: Option<String>,
    /// Of Qdrant: restore a collection although the snapshot lacks some of its shards
    #[arg(long, requires = "to")]
    pub(super) allow_missing_shards: bool,
    /// Leave keys that are there, without a word
    #[arg(long, requires = "to", conflicts_with = "replace")]
    pub(super) skip_existing: bool,
    /// The whole server: a snapshot of what is there for safety, then FLUSHALL, all keys and functions, and a
    /// comparison of every key; shown as a plan first
    #[arg(long, requires = "to", conflicts_with_all = ["db", "keys_from", "map_prefix", "replace", "skip_existing"])]
    pub(super) whole: bool,
    /// Of an append-only file: its base without the commands after it, which is what single keys can be had from
    #[arg(long, requires = "to")]
    pub(super) base_only: bool,
    /// With --whole: no snapshot of what is there before it is removed
    #[arg(long, requires = "whole")]
    no_safety_snapshot: bool,
    /// Do not ask
    #[arg(short, long, requires = "whole")]
    yes: bool,
}

/// A moment: RFC 3339, or local time to the fraction of a second.
pub(super) fn parse_moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().or_else(|_| super::super::parse_time(text))
}

/// The server, and how it is read.
struct Target {
    url: String,
    server: Server,
    scan: bool,
    options: UrlOptions,
}

impl Target {
    fn parse(text: &str, context: &Context) -> Result<Self, Failure> {
        let url = url::Url::parse(text).map_err(|error| Failure::new(format!("--to: {error}")))?;
        let scheme = Scheme::of(url.scheme()).ok_or_else(|| {
            Failure::new(format!(
                "--to takes redis://, redis+unix://, redis+scan://, postgres://, mysql:// and qdrant+http://, not {}://",
                url.scheme()
            ))
        })?;
        let options = sources::url_options(context)?;
        let server = Server::new(&url, &options)?;
        Ok(Self { url: text.to_owned(), server, scan: scheme.scan, options })
    }
}

pub(super) fn run(args: &super::Args, context: &Context) -> CommandResult {
    let live = &args.live;
    let to = live.to.as_deref().unwrap_or_default();
    let is_postgres = to.starts_with("postgres://") || to.starts_with("postgresql://");
    if !is_postgres && (live.no_tablespaces || !live.tablespace_map.is_empty()) {
        return Err(Failure::new("--no-tablespaces and --tablespace-map are for postgres://"));
    }
    if to.starts_with("qdrant+http") {
        return super::vectors::run(args, context);
    }
    if !live.rename.is_empty() || live.priority.is_some() || live.allow_missing_shards {
        return Err(Failure::new("--rename, --priority and --allow-missing-shards are for qdrant+http://"));
    }
    if is_postgres {
        return super::databases::postgres(args, context);
    }
    if to.starts_with("mysql://") || to.starts_with("mariadb://") {
        return super::databases::mysql(args, context);
    }
    if !live.database.is_empty() || !live.table.is_empty() {
        return Err(Failure::new("--database and --table are for postgres:// and mysql://"));
    }
    let target = Target::parse(live.to.as_deref().unwrap_or_default(), context)?;
    let (wanted, path) = args.snapshot.split_once(':').unwrap_or((&args.snapshot, ""));
    let path = path.trim_start_matches('/');
    let (opened, mut found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let repo = &opened.repo;
    if let Some(time) = args.time {
        let all = match wanted {
            "latest" => repo.snapshots(context.console.monitor())?,
            _ => vec![found],
        };
        let filter = args.filter.filter();
        let server = path.trim_end_matches('/');
        let all: Vec<Listed> = all
            .into_iter()
            .filter(|listed| filter.fits(&listed.snapshot))
            .filter(|listed| {
                server.is_empty() || listed.snapshot.paths.contains(&format!("/{server}/stream"))
            })
            .collect();
        found = replay::holding(&all, milliseconds(time))?.clone();
    }
    repo.sync_index(context.console.monitor())?;
    let place = Place::parse(path);
    let dump = match &place {
        Some(place) => place.dump(repo, &found.snapshot)?,
        None => one(find(repo, &found.snapshot, path.trim_end_matches('/').as_bytes())?)?,
    };
    // Commands cannot be taken apart by key: they make all of a server, or nothing.
    let replays = !dump.commands.is_empty() && !live.base_only;
    if live.base_only && dump.is_empty() {
        return Err(Failure::new(format!("/{} has no base: commands are all there is", dump.path)));
    }
    if (args.time.is_some() || replays) && !live.whole && !args.dry_run {
        let keys: u64 = count_keys(&target.server)?.values().sum();
        if keys > 0 {
            let what = if replays { "an append-only file" } else { "a moment" };
            return Err(Failure::new(format!(
                "{} has {keys} keys; {what} is restored into an empty server, or with --whole over what is there",
                target.server.shown
            )));
        }
    }
    if live.whole || args.time.is_some() || replays {
        let selects = place.is_some() || !args.include.is_empty() || target.server.database.is_some();
        let selects_more = live.db.is_some() || live.keys_from.is_some() || !live.map_prefix.is_empty();
        if selects || selects_more {
            let hint = match (live.whole, replays, dump.is_empty()) {
                (false, true, false) => {
                    "single keys of an append-only file are known only once its commands are replayed; restore all of it \
                     into an empty server, or take keys of its base by --base-only"
                }
                (false, true, true) => {
                    "single keys of an append-only file are known only once its commands are replayed; restore all of it \
                     into an empty server"
                }
                _ => "--whole takes no selection of keys or databases",
            };
            return Err(Failure::new(hint));
        }
        return whole(args, &target, repo, &found, &dump, context);
    }
    let mut patterns: Vec<Vec<u8>> = args.include.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
    let mut database = live.db;
    if let Some(Place { database: own, key, .. }) = place {
        database = own;
        patterns.extend(key);
    }
    let mut selection = Selection::new(database, &patterns);
    if let Some(file) = &live.keys_from {
        let names = crate::config::read_file(file)?;
        selection.names.extend(names.lines().map(|line| line.as_bytes().to_vec()));
        if selection.names.is_empty() && selection.patterns.is_empty() {
            return Err(Failure::new(format!("{} names no keys", file.display())));
        }
    }
    let options = LoadOptions {
        selection,
        map_prefixes: prefixes(&live.map_prefix)?,
        into_database: target.server.database,
        existing: match (live.replace, live.skip_existing) {
            (true, _) => Existing::Replace,
            (_, true) => Existing::Skip,
            _ => Existing::Refuse,
        },
        dry_run: args.dry_run,
        now_ms: now_ms(context),
    };
    let report = context.console.during(|monitor| load(repo, &dump, &target.server, &options, monitor))?;
    print(&report, &found, args.dry_run, context);
    if report.missing > 0 && report.found() == 0 {
        return Ok(Code::Failed);
    }
    let incomplete =
        report.refused + report.missing > 0 || (report.existing > 0 && options.existing == Existing::Refuse);
    Ok(if incomplete { Code::Incomplete } else { Code::Done })
}

/// The database of a dump of a single one.
fn only_database(path: &str) -> Option<u32> {
    let (folder, name) = path.rsplit_once('/')?;
    let number = name.strip_prefix("database-")?.strip_suffix(".rdb")?;
    number.parse().ok().filter(|_| folder != "redis/files")
}

fn now_ms(context: &Context) -> u64 {
    milliseconds(context.now())
}

fn milliseconds(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

fn prefixes(list: &[String]) -> Result<Prefixes, Failure> {
    list.iter()
        .map(|pair| {
            let (from, to) = pair
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("--map-prefix '{pair}' is not A=B")))?;
            Ok((from.as_bytes().to_vec(), to.as_bytes().to_vec()))
        })
        .collect()
}

fn print(report: &LoadReport, found: &Listed, dry_run: bool, context: &Context) {
    let seconds = context.console.seconds();
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": seconds,
            "keys_restored": report.restored,
            "keys_existing": report.existing,
            "keys_expired": report.expired,
            "keys_empty": report.empty,
            "keys_refused": report.refused,
            "missing": report.missing,
            "bytes_restored": report.bytes,
            "dry_run": dry_run,
        }));
        return;
    }
    let verb = if dry_run { "would restore" } else { "restored" };
    let mut text =
        format!("{verb} {} keys, {} in {seconds:.1} s", report.restored, output::bytes(report.bytes));
    for (count, what) in [
        (report.existing, "were there already"),
        (report.expired, "have expired"),
        (report.empty, "are collections without elements, which no server keeps"),
        (report.refused, "were refused by the server"),
        (report.missing, "names or patterns fit no key"),
    ] {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    context.console.say(text);
}

/// Beginnings of names, and what shall stand there.
type Prefixes = Vec<(Vec<u8>, Vec<u8>)>;

/// All of a server.
fn whole(
    args: &super::Args,
    target: &Target,
    repo: &Repository,
    found: &Listed,
    dump: &Dump,
    context: &Context,
) -> CommandResult {
    let there = count_keys(&target.server)?;
    if let Some(number) = only_database(&dump.path)
        && there.keys().any(|other| *other != number)
    {
        return Err(Failure::new(format!(
            "this is a backup of database {number} alone, and --whole would empty the others: restore it without"
        )));
    }
    let keys: u64 = there.values().sum();
    let console = &context.console;
    let say = |text: String| console.say(text);
    let mut steps = vec![];
    if keys > 0 && !args.live.no_safety_snapshot {
        steps.push("make a snapshot of what is there, tagged 'safety'".to_owned());
    }
    if keys > 0 {
        steps.push(format!("FLUSHALL: remove {keys} keys of {} databases", there.len()));
    }
    let count = dump.databases().map(|databases| databases.values().map(|counts| counts.keys).sum::<u64>());
    let count = count.map_or_else(|| "all".into(), |count: u64| count.to_string());
    if !dump.is_empty() {
        steps.push(format!(
            "load {count} keys and the functions of snapshot {}, {}",
            found.id.short(),
            found.snapshot.time
        ));
        steps.push("read the server again and compare every key".to_owned());
    }
    if !dump.commands.is_empty() && !args.live.base_only {
        steps.push(format!("replay the commands of snapshot {}, {}", found.id.short(), found.snapshot.time));
    }
    if let Some(time) = args.time {
        steps.push(format!("replay the commands after it up to {time}"));
    }
    say(format!("plan for {}:", target.server.shown));
    for (number, step) in steps.iter().enumerate() {
        say(format!("  {}. {step}", number + 1));
    }
    if args.dry_run {
        return Ok(Code::Done);
    }
    if keys > 0 && !args.live.yes && !confirm("replace everything on this server?")? {
        return Err(Failure::new("nothing was done; --yes to go on without being asked"));
    }
    let mut safety = None;
    if keys > 0 && !args.live.no_safety_snapshot {
        let report = super::super::backup::safety(&target.url, context)?;
        say(format!(
            "safety snapshot {} made; to go back: esker restore {0} --to {} --whole",
            report.short(),
            target.server.shown
        ));
        safety = Some(report);
    }
    if keys > 0 {
        flush_all(&target.server)?;
    }
    if args.live.whole && !dump.commands.is_empty() {
        flush_functions(&target.server)?;
    }
    let options = LoadOptions { now_ms: now_ms(context), ..LoadOptions::default() };
    let report = console.during(|monitor| load(repo, dump, &target.server, &options, monitor))?;
    let functions = load_functions(repo, dump, &target.server)?;
    // Of commands alone, nobody knows beforehand what they make.
    let differences = if dump.is_empty() { 0 } else { verify(target, repo, dump, context)? };
    let replayed = console.during(|monitor| match args.time {
        Some(time) => {
            let until = milliseconds(time);
            replay::replay(repo, &found.snapshot, &target.server, until, monitor).map(Some)
        }
        None if args.live.base_only => Ok(None),
        None => replay::replay_commands(repo, dump, &target.server, monitor),
    })?;
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "safety_snapshot_id": safety,
            "keys_restored": report.restored,
            "keys_expired": report.expired,
            "keys_empty": report.empty,
            "keys_refused": report.refused,
            "functions_restored": functions,
            "keys_different": differences,
            "commands_replayed": replayed.as_ref().map(|replayed| replayed.commands),
            "commands_refused": replayed.as_ref().map(|replayed| replayed.refused),
            "reached": args.time.and(replayed.as_ref()).map(|replayed| replay::shown(replayed.reached_ms)),
        }));
    } else {
        print(&report, found, false, context);
        if functions > 0 {
            say(format!("restored {functions} function libraries"));
        }
        if differences == 0 && !dump.is_empty() {
            say("verified: every key of the snapshot is on the server, and no other".into());
        }
    }
    let mut refused = report.refused;
    if let Some(replayed) = &replayed {
        refused += replayed.refused;
        if !context.global.json {
            let at = match replayed.reached_ms {
                0 => String::new(),
                reached => format!("; the last at {}", replay::shown(reached)),
            };
            say(format!("replayed {} commands{at}", replayed.commands));
        }
    }
    Ok(if differences + refused + report.existing == 0 { Code::Done } else { Code::Incomplete })
}

/// Whether somebody is there who says yes.
fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{question} [y/N] ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::new(format!("cannot ask: {error}; give --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Reads the server again and compares; returns how many keys differ.
fn verify(target: &Target, repo: &Repository, dump: &Dump, context: &Context) -> Result<u64, Failure> {
    let mut origin = match target.scan {
        true => redis_scan::origin(target.server.clone()),
        false => redis::origin(target.server.clone()),
    };
    let reader = (origin.open)(&Stop::default())?;
    let scratch = &target.options.scratch;
    let mut now = Live::gather(reader, &target.server.shown, scratch).map_err(Failure::from)?;
    let all = Selection::default();
    let mut wanted = dump.in_order(repo, &all, scratch)?;
    let (time, mut differences) = (now_ms(context), 0);
    compare(&mut *wanted, &mut now, time, &mut |change, key| {
        // What expires goes on expiring.
        if key.expires_ms.is_none_or(|expires| expires > time) {
            differences += 1;
            if differences <= 10 {
                let item = format!("{}/{}", key.database, String::from_utf8_lossy(&key.name));
                let message = format!("differs from the snapshot after the restore ({})", change.letter());
                context.console.monitor().error(ItemError { during: "verify", item, message });
            }
        }
    })?;
    Ok(differences)
}
