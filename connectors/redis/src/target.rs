//! `esker restore --to redis://…`: keys into a running server, or all of one.

use crate::choices::{DB, KEYS_FROM, MAP_PREFIX, NO_SAFETY_SNAPSHOT, SKIP_EXISTING, UNPROVEN, WHOLE};
use crate::keys::keyspace::count_keys;
use crate::keys::load::{Existing, LoadOptions, LoadReport, load_counted};
use crate::keys::proof::prove;
use crate::keys::{Dump, Place, Selection, find, has_keys, one};
use crate::loaded::{loaded, now_ms};
use crate::rdb::parse::Global;
use crate::replication::Left;
use crate::server::Server;
use crate::server::address::Scheme;
use crate::stream::replay;
use crate::whole::{Into, Whole};
use engine::connector::choice::common::{BASE_ONLY, DRY_RUN, INCLUDE, REPLACE, TIME, WAIT_THAW, YES};
use engine::connector::{
    Choice, Chosen, Context, Extent, Origin, RestorePlan, Restored, Span, Steps, Target, Way, fields, url_of,
};
use engine::shown::{counted, counted_are};
use engine::snapshot::Snapshot;
use engine::{Error, Monitor, Repository, Result};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// Keys into a server, or all of it.
pub(crate) struct Keys;

impl Target for Keys {
    fn title(&self) -> &'static str {
        "Redis"
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[
            &TIME,
            &INCLUDE,
            &DRY_RUN,
            &WAIT_THAW,
            &DB,
            &KEYS_FROM,
            &MAP_PREFIX,
            &REPLACE,
            &SKIP_EXISTING,
            &WHOLE,
            &BASE_ONLY,
            &NO_SAFETY_SNAPSHOT,
            &UNPROVEN,
            &YES,
        ]
    }
    fn fits(&self, snapshot: &Snapshot) -> bool {
        has_keys(snapshot)
    }
    fn check(&self, _to: &OsStr, chosen: &Chosen) -> Result<()> {
        prefixes(chosen.all(&MAP_PREFIX))?;
        if chosen.has(&WHOLE) && SELECTING.iter().any(|choice| chosen.has(choice)) {
            return Err(Error::Invalid(NO_SELECTION.into()));
        }
        Ok(())
    }
    /// Keys are named by their database, with or without the server.
    fn names_inside(&self, below: &str) -> bool {
        below.trim_start_matches('/').starts_with("redis/")
    }
    fn span(&self, snapshot: &Snapshot) -> Option<Span> {
        replay::span(snapshot).map(|span| (span.from_ms, span.until_ms))
    }
    fn reads(&self, snapshot: &Snapshot, below: &str) -> Vec<u8> {
        let path = below.trim_start_matches('/');
        let is_ours = snapshot.paths.iter().any(|own| own.starts_with("/redis/"));
        let folder = match Place::parse(path) {
            Some(Place { server: Some(server), .. }) => format!("redis/{server}"),
            Some(_) => "redis".into(),
            None if path.is_empty() && is_ours => "redis".into(),
            None => path.trim_end_matches('/').to_owned(),
        };
        engine::names::path_bytes(&folder)
    }
    fn plan<'a>(
        &self,
        from: Origin<'a>,
        to: &OsStr,
        chosen: &Chosen,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn RestorePlan + 'a>> {
        let url = url_of(to)?;
        let Some(scheme) = Scheme::of(url.scheme()) else {
            return Err(Error::Invalid(format!("--to: {}:// is not a running server", url.scheme())));
        };
        let server = Server::new(&url, context)?;
        from.repo.sync_index(monitor)?;
        let path = from.below.trim_start_matches('/');
        let place = Place::parse(path);
        let snapshot = &from.snapshot.snapshot;
        let dump = match &place {
            Some(place) => place.dump(from.repo, snapshot)?,
            None => one(find(from.repo, snapshot, path.trim_end_matches('/').as_bytes())?)?,
        };
        let left = Left::find(&server, from.repo.store().keys(), monitor)?;
        // As a replica of nobody it may refuse a greeting.
        let server = if left.is_some() { server.met_busy() } else { server };
        let streams = replay::span(snapshot).is_some();
        let asked = Asked { chosen: chosen.clone(), place, streams };
        asked.check(&dump, &server)?;
        if asked.makes_all(&dump) {
            let url = to.to_str().unwrap_or_default().to_owned();
            let into = Into { url, scan: scheme.scan, server, left };
            return Ok(Box::new(Whole::plan(from, into, chosen, dump, context)?));
        }
        let options = asked.options(from.repo, &dump, &server, context)?;
        let (unproven, done) = (chosen.has(&UNPROVEN), LoadReport::default());
        let libraries = libraries(from.repo, &dump)?;
        Ok(Box::new(SomeKeys { from, server, dump, options, unproven, libraries, left, done }))
    }
}

/// Choices that mean a part of a server.
const SELECTING: &[&Choice] = &[&INCLUDE, &DB, &KEYS_FROM, &MAP_PREFIX];
const NO_SELECTION: &str = "--whole takes no selection of keys or databases";

/// What people want.
struct Asked {
    chosen: Chosen,
    /// What the path behind the snapshot says.
    place: Option<Place>,
    /// Whether the snapshot is of a live stream.
    streams: bool,
}

impl Asked {
    fn whole(&self) -> bool {
        self.chosen.has(&WHOLE)
    }

    fn has_commands(&self, dump: &Dump) -> bool {
        self.streams || !dump.commands.is_empty()
    }

    /// Whether commands are replayed: they cannot be taken apart by key, and make all of a server, or nothing.
    fn replays(&self, dump: &Dump) -> bool {
        self.has_commands(dump) && !self.chosen.has(&BASE_ONLY)
    }

    fn makes_all(&self, dump: &Dump) -> bool {
        self.whole() || self.chosen.time.is_some() || self.replays(dump)
    }

    fn selects(&self, server: &Server) -> bool {
        let chosen = &self.chosen;
        self.place.is_some() || server.database.is_some() || SELECTING.iter().any(|choice| chosen.has(choice))
    }

    fn check(&self, dump: &Dump, server: &Server) -> Result<()> {
        let refuse = |why: String| Err(Error::Invalid(why));
        if self.chosen.has(&BASE_ONLY) && dump.is_empty() {
            return refuse(format!("/{} has no base: commands are all there is", dump.path));
        }
        if self.chosen.has(&BASE_ONLY) && !self.has_commands(dump) {
            return refuse(format!(
                "--base-only is for append-only files and live streams; no commands follow /{}",
                dump.path
            ));
        }
        if !self.makes_all(dump) {
            return Ok(());
        }
        let what = match (self.chosen.time.is_some(), self.streams) {
            (true, _) => "a moment",
            (false, true) => "a live stream",
            (false, false) => "an append-only file",
        };
        if self.selects(server) {
            if self.whole() || !self.replays(dump) {
                return refuse(NO_SELECTION.into());
            }
            let why = format!(
                "single keys of {what} are known only once its commands are replayed; restore all of it into an empty \
                    server"
            );
            return refuse(match dump.is_empty() || self.chosen.time.is_some() {
                true => why,
                false => why + ", or take keys of its base by --base-only",
            });
        }
        if !self.whole() && !self.chosen.has(&DRY_RUN) {
            let keys: u64 = count_keys(server)?.values().sum();
            if keys > 0 {
                let or = match self.streams && self.chosen.time.is_none() {
                    true => "; --base-only restores keys of its base beside others",
                    false => "",
                };
                return refuse(format!(
                    "{} has {}; {what} is restored into an empty server, or with --whole in place of its data{or}",
                    server.shown,
                    counted(keys, "key")
                ));
            }
        }
        Ok(())
    }

    /// The database that is meant: that of the path, or of the choice, which may not differ.
    fn database(&self) -> Result<Option<u32>> {
        let chosen = self.chosen.text(&DB)?.and_then(|number| number.parse().ok());
        match (self.place.as_ref().and_then(|place| place.database), chosen) {
            (Some(own), Some(chosen)) if own != chosen => Err(Error::Invalid(format!(
                "the path is of database {own}, and --db says {chosen}: give one of them"
            ))),
            (own, chosen) => Ok(own.or(chosen)),
        }
    }

    fn options(
        &self,
        repo: &Repository,
        dump: &Dump,
        server: &Server,
        context: &Context,
    ) -> Result<LoadOptions> {
        let chosen = &self.chosen;
        let patterns: Vec<Vec<u8>> =
            chosen.all(&INCLUDE).iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
        let mut selection = Selection::new(self.database()?, &patterns);
        selection.names.extend(chosen.all(&KEYS_FROM).iter().map(|name| name.as_bytes().to_vec()));
        if chosen.has(&KEYS_FROM) && selection.names.is_empty() && selection.patterns.is_empty() {
            return Err(Error::Invalid("the file of --keys-from names no keys".into()));
        }
        if let Some(place) = &self.place
            && let Some(key) = &place.key
        {
            if let Some(choice) = [&INCLUDE, &KEYS_FROM].into_iter().find(|choice| chosen.has(choice)) {
                return Err(Error::Invalid(format!(
                    "the path names the key '{}', and --{} names others: give one of them",
                    engine::shown::name(key),
                    choice.flag
                )));
            }
            // If there is none, what was given is told as missing.
            selection.names = [place.name(repo, dump)?.unwrap_or_else(|| key.clone())].into();
        }
        Ok(LoadOptions {
            selection,
            map_prefixes: prefixes(chosen.all(&MAP_PREFIX))?,
            into_database: server.database,
            existing: match (chosen.has(&REPLACE), chosen.has(&SKIP_EXISTING)) {
                (true, _) => Existing::Replace,
                (_, true) => Existing::Skip,
                _ => Existing::Refuse,
            },
            dry_run: false,
            now_ms: now_ms(context),
        })
    }
}

/// Beginnings of names, and what shall stand there.
fn prefixes(list: &[OsString]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let parse = |pair: &OsString| {
        let bytes = pair.as_bytes();
        let at = bytes.iter().position(|byte| *byte == b'=').ok_or_else(|| {
            Error::Invalid(format!("--map-prefix '{}' is not A=B", engine::shown::name(bytes)))
        })?;
        Ok((bytes[..at].to_vec(), bytes[at + 1..].to_vec()))
    };
    list.iter().map(parse).collect()
}

/// The function libraries of a dump.
fn libraries(repo: &Repository, dump: &Dump) -> Result<usize> {
    if dump.is_empty() {
        return Ok(0);
    }
    let (_, globals) = dump.head(repo)?;
    Ok(globals.iter().filter(|(global, _)| *global == Global::Function).count())
}

/// Keys that are chosen.
struct SomeKeys<'a> {
    from: Origin<'a>,
    server: Server,
    dump: Dump,
    options: LoadOptions,
    unproven: bool,
    /// Function libraries of the dump, which are no keys and stay out.
    libraries: usize,
    /// What a restore of all keys left in the server that was killed half way.
    left: Option<Left>,
    /// What was done, of what ended early, too.
    done: LoadReport,
}

impl SomeKeys<'_> {
    /// What of the dump is no key, for people.
    fn left_out(&self) -> Option<String> {
        let libraries = match self.libraries {
            0 => return None,
            1 => "1 function library".to_owned(),
            count => format!("{count} function libraries"),
        };
        Some(format!(
            "leave out {libraries} of the dump: a restore of keys changes no function; --whole restores them, in place of all that the server has"
        ))
    }

    fn load(&self, dry_run: bool, monitor: &dyn Monitor, report: &mut LoadReport) -> Result<Restored> {
        let options = LoadOptions { dry_run, ..self.options.clone() };
        load_counted(self.from.repo, &self.dump, &self.server, &options, monitor, report)?;
        let mut restored = loaded(report, dry_run);
        restored.fields.extend(fields(json!({"functions_left_out": self.libraries})));
        // The plan says it as well.
        let note = self.left_out().filter(|_| !dry_run);
        restored.notes.extend(note.map(|what| what.replacen("leave", "left", 1)));
        let refuses = report.existing > 0 && options.existing == Existing::Refuse;
        restored.extent = match report.refused + report.missing > 0 || refuses {
            _ if report.missing > 0 && report.found() == 0 => Extent::Nothing,
            true => Extent::Part,
            false => Extent::Whole,
        };
        Ok(restored)
    }
}

impl RestorePlan for SomeKeys<'_> {
    fn shown(&self) -> &str {
        &self.server.shown
    }
    fn steps(&self) -> Vec<String> {
        let LoadOptions { selection, map_prefixes, into_database, existing, .. } = &self.options;
        let (mut steps, proves) = (Steps::default(), *existing == Existing::Replace && !self.unproven);
        let way = match (existing, proves) {
            (Existing::Replace, true) => Way::Proved,
            (Existing::Replace, false) => Way::Unproven,
            (Existing::Skip | Existing::Refuse, _) => Way::Into,
        };
        steps.of(selection, way);
        if self.left.is_some() {
            steps.with("end a restore that was interrupted: REPLICAOF NO ONE, and its own settings for a master again");
        }
        if proves {
            steps.with("read all of these keys, so that none is overwritten for what cannot be had");
        }
        let into =
            into_database.map_or_else(|| "its own database".to_owned(), |into| format!("database {into}"));
        steps.with(format_args!("write each into {into} of {}", self.server.shown));
        for (from, to) in map_prefixes {
            let [from, to] = [from, to].map(|prefix| engine::shown::name(prefix));
            steps.with(format_args!("'{from}' at the beginning of a name becomes '{to}'"));
        }
        if *existing == Existing::Replace {
            steps.with("overwrite keys of these names that are there");
        }
        steps.stays(match existing {
            Existing::Replace => "every other key",
            Existing::Skip => "every other key, and those of these names that are there",
            Existing::Refuse => {
                "every other key, and those of these names that are there, which are reported"
            }
        });
        self.left_out().into_iter().for_each(|what| steps.with(what));
        steps.leaves("the keys that were written before it, if it fails");
        steps.lines()
    }
    fn removes(&self) -> bool {
        self.options.existing == Existing::Replace
    }
    fn preview(&self, monitor: &dyn Monitor) -> Result<Restored> {
        self.load(true, monitor, &mut LoadReport::default())
    }
    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        if let Some(left) = self.left.take() {
            left.end(&self.server, self.from.repo.store().keys(), monitor)?;
        }
        if self.unproven || !self.removes() {
            return Ok(());
        }
        monitor.phase("read what will be loaded");
        prove(self.from.repo, &self.dump, &self.options.selection, monitor).map(drop)
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        monitor.phase("restore keys");
        let mut report = LoadReport::default();
        let done = self.load(false, monitor, &mut report);
        self.done = report;
        done
    }
    fn stands(&self, _: Option<&str>) -> Option<String> {
        let LoadReport { restored, unanswered, .. } = self.done;
        let shown = &self.server.shown;
        let perhaps = match unanswered {
            0 if restored == 0 => return Some(format!("{shown} is as it was")),
            0 => String::new(),
            more => format!(", and up to {more} more may be,"),
        };
        Some(format!(
            "{}{perhaps} written in {shown}; the same with --replace writes all of them",
            counted_are(restored, "key")
        ))
    }
}
