//! From what people write to what is meant, with every mistake on the way.

use super::{File, Hooks, Mistake, RunSpec, SourceSpec, StreamSpec, TierPlace, WarmUp};
use crate::commands::parse_size;
use crate::durations::{self, Wait};
use crate::places::{Details, Place};
use crate::values::{Connections, Filled, FilledPath, LockDays, Parallel, Retries};
use chunkstore::storage::HttpOptions;
use chunkstore::storage::limit::Rates;
use engine::patterns::{Pattern, Patterns};
use engine::price::{Price, PriceTable};
use engine::promise::{Keep, Promise, Select};
use engine::secrets::without_secrets;
use engine::tier::{Role, TierOptions};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::Spanned;

mod assertions;
mod host;
mod objectives;

use assertions::RawAssertion;
use objectives::RawObjective;

/// The file as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    repository: Option<Spanned<String>>,
    repository_id: Option<Spanned<String>>,
    bundle: Option<FilledPath>,
    password_file: Option<Spanned<FilledPath>>,
    password_command: Option<Spanned<Filled>>,
    key_file: Option<Spanned<FilledPath>>,
    kms: Option<Spanned<String>>,
    kms_cache: Option<Spanned<durations::Keep>>,
    #[serde(default)]
    pass_environment: Vec<Filled>,
    cache_dir: Option<FilledPath>,
    signing_key: Option<FilledPath>,
    delta: Option<bool>,
    timezone: Option<Spanned<String>>,
    parallel: Option<Parallel>,
    memory: Option<Spanned<String>>,
    #[serde(default)]
    tier: Vec<RawTier>,
    #[serde(default)]
    source: Vec<RawSource>,
    #[serde(default)]
    promise: Vec<RawPromise>,
    #[serde(default)]
    run: Vec<RawRun>,
    #[serde(default)]
    stream: Vec<RawStream>,
    #[serde(default)]
    objective: Vec<RawObjective>,
    #[serde(default)]
    assertion: Vec<RawAssertion>,
    #[serde(default)]
    prices: BTreeMap<String, Price>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    name: Spanned<String>,
    url: Spanned<String>,
    #[serde(default)]
    role: Role,
    class: Option<Spanned<String>>,
    endpoint: Option<Filled>,
    region: Option<Filled>,
    profile: Option<Filled>,
    account: Option<Filled>,
    connections: Option<Connections>,
    retries: Option<Retries>,
    timeout: Option<Wait>,
    upload_limit: Option<Spanned<String>>,
    download_limit: Option<Spanned<String>>,
    object_lock_days: Option<Spanned<LockDays>>,
    object_lock_mode: Option<Spanned<String>>,
    warm_up_command: Option<Filled>,
    warm_up_wait: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    name: Spanned<String>,
    #[serde(default)]
    urls: Vec<Spanned<Filled>>,
    command: Option<Spanned<Vec<String>>>,
    filename: Option<Filled>,
    #[serde(default)]
    tags: Vec<Filled>,
    #[serde(default)]
    excludes: Vec<Spanned<String>>,
    host: Option<Spanned<Filled>>,
    #[serde(default)]
    one_file_system: bool,
    #[serde(default)]
    keep_going: bool,
    #[serde(default)]
    hooks: Hooks,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPromise {
    select: Option<Spanned<Select>>,
    keep: Spanned<String>,
    tiers: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    name: Spanned<String>,
    #[serde(default)]
    sources: Option<Spanned<Vec<Spanned<String>>>>,
    schedule: Option<Spanned<String>>,
    forget: Option<Spanned<bool>>,
    prune: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStream {
    name: Spanned<String>,
    url: Spanned<String>,
    interval: Option<Spanned<String>>,
    base_every: Option<Spanned<String>>,
    #[serde(default)]
    tags: Vec<Filled>,
    host: Option<Filled>,
    metrics: Option<FilledPath>,
    slot: Option<Filled>,
}

/// Reads a file and notes what is wrong in it.
pub(super) struct Reader<'a> {
    text: &'a str,
    /// Whether all of the text is there: else what lacks may be what was taken out as a mistake.
    is_whole: bool,
    pub(super) mistakes: Vec<Mistake>,
    prices: PriceTable,
}

fn texts(list: Vec<Filled>) -> Vec<String> {
    list.into_iter().map(Filled::get).collect()
}

/// The values of a list, without where they are.
fn values<T>(list: Vec<Spanned<T>>) -> Vec<T> {
    list.into_iter().map(Spanned::into_inner).collect()
}

/// Why two tiers cannot lie where they do.
fn shared(other: &str) -> String {
    format!("tier '{other}' is at this place, in it or around it: each needs a place of its own")
}

/// Names go into file names and object names.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, raw: &Raw, is_whole: bool) -> Self {
        Self { text, is_whole, mistakes: vec![], prices: PriceTable::default().with(raw.prices.clone()) }
    }

    fn wrong<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        let line = self.text.get(..at.span().start).unwrap_or(self.text).matches('\n').count() + 1;
        self.mistakes.push(Mistake { line, message: message.into() });
    }

    /// The value, or a mistake where it stands.
    fn parsed<T, U>(&mut self, at: &Spanned<T>, result: Result<U, String>) -> Option<U> {
        result.map_err(|why| self.wrong(at, why)).ok()
    }

    fn name(&mut self, name: &Spanned<String>, what: &str, seen: &mut BTreeSet<String>) -> String {
        let text = name.get_ref().clone();
        if !is_name(&text) {
            self.wrong(name, format!("a {what}'s name is 1 to 64 letters, digits, '-' and '_'"));
        } else if !seen.insert(text.clone()) {
            self.wrong(name, format!("there are two {what}s named '{text}'"));
        }
        text
    }

    /// That a list has each of its values once.
    fn each_once<T: PartialEq>(&mut self, list: &[Spanned<T>], shown: impl Fn(&T) -> String) {
        for (number, item) in list.iter().enumerate() {
            if list.iter().take(number).any(|earlier| earlier.get_ref() == item.get_ref()) {
                self.wrong(item, format!("'{}' is named twice in this list", shown(item.get_ref())));
            }
        }
    }

    fn size(&mut self, value: &Option<Spanned<String>>) -> Option<u64> {
        let value = value.as_ref()?;
        self.parsed(value, parse_size(value.get_ref().trim_end_matches("/s")))
    }

    /// A size that is not 0.
    fn some_size(&mut self, value: &Option<Spanned<String>>, why: &str) -> Option<u64> {
        let size = self.size(value);
        if let (Some(0), Some(text)) = (size, value) {
            self.wrong(text, format!("{why}; leave it out for no limit"));
        }
        size
    }

    /// What is missing, unless it was taken out as a mistake.
    fn lacking<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        if self.is_whole {
            self.wrong(at, message);
        }
    }

    pub(super) fn file(&mut self, path: &Path, raw: Raw) -> Option<File> {
        let is_host = raw.bundle.is_some();
        if is_host {
            self.refuse_of_full_clients(&raw);
        }
        let mut names = BTreeSet::new();
        let mut tiers: Vec<TierPlace> = vec![];
        for raw in &raw.tier {
            let Some(tier) = self.tier(raw, &mut names) else { continue };
            self.alone(raw, &tier, &tiers);
            tiers.push(tier);
        }
        let primaries = raw.tier.iter().filter(|tier| tier.role == Role::Primary).count();
        match (&raw.repository, primaries) {
            (Some(repository), 0) => {
                let place = Place::parse(repository.get_ref().as_ref(), &Details::default());
                if let Some(place) = self.parsed(repository, place.map_err(|failure| failure.message)) {
                    if let Some(other) = tiers.iter().find(|tier| tier.place.overlaps(&place)) {
                        self.wrong(repository, shared(&other.options.name));
                    }
                    if names.iter().any(|name| name.eq_ignore_ascii_case("primary")) {
                        self.wrong(
                            repository,
                            "a tier is named 'primary', which is the repository's own name",
                        );
                    }
                    names.insert("primary".into());
                    let options =
                        TierOptions { name: "primary".into(), role: Role::Primary, ..TierOptions::default() };
                    tiers.push(TierPlace {
                        options,
                        place,
                        rates: Rates::default(),
                        frozen: false,
                        warm_up: None,
                    });
                }
            }
            (Some(repository), _) => {
                self.wrong(
                    repository,
                    "the repository is the tier with the role 'primary'; give one or the other",
                );
            }
            // The file of a host says where the repository is.
            (None, 0) if is_host => {}
            (None, 0) => {
                if let Some(first) = raw.tier.first() {
                    self.lacking(
                        &first.name,
                        "no tier has the role 'primary': which one are backups written to?",
                    );
                }
            }
            (None, 1) => {}
            (None, _) => {
                let second = raw.tier.iter().filter(|tier| tier.role == Role::Primary).nth(1)?;
                self.wrong(&second.name, "there can be only one primary; the others are copies or vaults");
            }
        }
        tiers.sort_by_key(|tier| tier.options.role != Role::Primary);
        // Those of a host were refused.
        let promises = raw.promise.iter().filter(|_| !is_host);
        let promises = promises.filter_map(|promise| self.promise(promise, &names)).collect();
        let mut seen = BTreeSet::new();
        let sources: Vec<SourceSpec> =
            raw.source.into_iter().map(|source| self.source(source, &mut seen)).collect();
        let all: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
        let runs = raw.run.into_iter().map(|run| self.run(run, &all, !is_host, &mut seen)).collect();
        let streams = raw.stream.into_iter().map(|stream| self.stream(stream, &mut seen)).collect();
        let objectives = self.objectives(raw.objective, &sources);
        let assertions = self.assertions(raw.assertion, &sources);
        let zone = match &raw.timezone {
            None => Some(jiff::tz::TimeZone::system()),
            Some(name) => {
                let zone = jiff::tz::TimeZone::get(name.get_ref());
                self.parsed(name, zone.map_err(|_| format!("there is no time zone '{}'", name.get_ref())))
            }
        };
        let repository_id = raw.repository_id.as_ref().map(|id| {
            let text = id.get_ref();
            let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            if !is_hex || !(8..=32).contains(&text.len()) {
                self.wrong(id, "a repository's id is 32 hex digits, or the first 8 of them at least");
            }
            text.clone()
        });
        let kms = raw.kms.map(|url| {
            if let Err(why) = keyservices::Address::parse(url.get_ref()) {
                self.wrong(&url, why);
            }
            url.into_inner()
        });
        let memory = self.some_size(&raw.memory, "nothing runs without memory");
        Some(File {
            path: path.to_owned(),
            repository_id,
            bundle: raw.bundle.map(FilledPath::get),
            password_file: raw.password_file.map(|path| path.into_inner().get()),
            password_command: raw.password_command.map(|command| command.into_inner().get()),
            key_file: raw.key_file.map(|path| path.into_inner().get()),
            kms,
            kms_cache: raw.kms_cache.map(|time| time.into_inner().get()),
            pass_environment: texts(raw.pass_environment),
            cache_dir: raw.cache_dir.map(FilledPath::get),
            signing_key: raw.signing_key.map(FilledPath::get),
            delta: raw.delta,
            zone: zone?,
            parallel: raw.parallel.map_or(2, Parallel::size),
            memory,
            tiers,
            sources,
            promises,
            runs,
            streams,
            objectives,
            assertions,
            prices: self.prices.clone(),
        })
    }

    /// That a tier has a name and a place of its own among those before it.
    fn alone(&mut self, raw: &RawTier, tier: &TierPlace, before: &[TierPlace]) {
        let name = &tier.options.name;
        let is_same =
            |other: &&TierPlace| other.options.name != *name && other.options.name.eq_ignore_ascii_case(name);
        if let Some(other) = before.iter().find(is_same) {
            let other = &other.options.name;
            self.wrong(
                &raw.name,
                format!("the names '{other}' and '{name}' differ by case only: who would tell them apart?"),
            );
        }
        if let Some(other) = before.iter().find(|other| other.place.overlaps(&tier.place)) {
            self.wrong(&raw.url, shared(&other.options.name));
        }
    }

    fn tier(&mut self, raw: &RawTier, names: &mut BTreeSet<String>) -> Option<TierPlace> {
        let name = self.name(&raw.name, "tier", names);
        let mode = raw.object_lock_mode.as_ref();
        let governance = match mode.map(|mode| mode.get_ref().to_ascii_lowercase()) {
            None => false,
            Some(mode) if mode == "compliance" => false,
            Some(mode) if mode == "governance" => true,
            Some(_) => {
                self.wrong(mode?, "object_lock_mode is compliance or governance");
                false
            }
        };
        let defaults = HttpOptions::default();
        let why = "nothing is ever transferred at 0 bytes a second";
        let rates = Rates {
            up: self.some_size(&raw.upload_limit, why),
            down: self.some_size(&raw.download_limit, why),
        };
        let details = Details {
            http: HttpOptions {
                // Between a local disk and a distant store: more at once than one backup writes.
                connections: raw.connections.map_or(2 * defaults.connections, Connections::size),
                retries: raw.retries.map_or(defaults.retries, Retries::size),
                timeout_s: raw.timeout.map_or(defaults.timeout_s, Wait::get),
                ..defaults
            },
            endpoint: raw.endpoint.clone().map(Filled::get),
            region: raw.region.clone().map(Filled::get),
            profile: raw.profile.clone().map(Filled::get),
            account: raw.account.clone().map(Filled::get),
            lock_governance: governance,
        };
        let place = Place::parse(raw.url.get_ref().as_ref(), &details);
        let place = self.parsed(&raw.url, place.map_err(|failure| failure.message))?;
        let mut frozen = false;
        if let Some(class) = &raw.class {
            let found = self.prices.of(class.get_ref()).map_err(|error| error.to_string());
            frozen = self.parsed(class, found)?.frozen;
            if matches!(place, Place::Folder(_)) {
                self.wrong(class, "a folder has no storage classes");
            } else if matches!(place, Place::S3(_))
                != class.get_ref().chars().all(|c| !c.is_ascii_lowercase())
            {
                self.wrong(class, format!("'{}' is not a class of this kind of store", class.get_ref()));
            }
            if frozen && raw.role == Role::Primary {
                self.wrong(class, "the primary must be readable: freeze a copy or a vault");
            }
        }
        if let Some(days) = &raw.object_lock_days {
            if !matches!(place, Place::S3(_)) {
                self.wrong(days, "only S3 has object locks that can be set from here");
            } else if raw.role == Role::Primary {
                self.wrong(
                    days,
                    "the primary cannot be locked: it is tidied by prunes; lock a copy or a vault",
                );
            }
        }
        let wait = match &raw.warm_up_wait {
            None => std::time::Duration::ZERO,
            Some(wait) => self.parsed(wait, durations::parse(wait.get_ref()))?,
        };
        let options = TierOptions {
            name,
            role: raw.role,
            class: raw.class.as_ref().map(|class| class.get_ref().clone()),
            lock_days: raw
                .object_lock_days
                .as_ref()
                .and_then(|days| u32::try_from(days.get_ref().get()).ok()),
            fence_after_ms: FENCE_AFTER_MS,
        };
        let warm_up = raw.warm_up_command.clone().map(|command| WarmUp { command: command.get(), wait });
        frozen |= warm_up.is_some();
        Some(TierPlace { options, place, rates, frozen, warm_up })
    }

    fn promise(&mut self, raw: &RawPromise, names: &BTreeSet<String>) -> Option<Promise> {
        let tiers = raw.tiers.get_ref();
        for tier in tiers.iter().filter(|tier| !names.contains(tier.get_ref())) {
            let (name, known) = (tier.get_ref(), names.iter().map(String::as_str).collect::<Vec<_>>());
            self.lacking(tier, format!("there is no tier '{name}'; there are {}", known.join(", ")));
        }
        self.each_once(tiers, String::clone);
        if tiers.is_empty() {
            self.lacking(&raw.tiers, "a promise names at least one tier");
        }
        let select = raw.select.as_ref().map(|select| select.get_ref().clone()).unwrap_or_default();
        let texts = [&select.tag, &select.host, &select.path];
        if let Some(at) = raw.select.as_ref().filter(|_| texts.contains(&&Some(String::new()))) {
            self.wrong(at, "an empty tag, host or path fits nothing: leave it out");
        }
        let keep: Keep = self.parsed(&raw.keep, raw.keep.get_ref().parse())?;
        Some(Promise { select, keep, tiers: values(tiers.clone()) })
    }

    fn source(&mut self, raw: RawSource, seen: &mut BTreeSet<String>) -> SourceSpec {
        let name = self.name(&raw.name, "source", seen);
        let is_url = |url: &String| connectors::is_url(url);
        self.each_once(&raw.urls, |url| without_secrets(url.as_str()));
        let urls = texts(values(raw.urls));
        match (&raw.command, urls.is_empty()) {
            (None, true) => self.lacking(&raw.name, "what is to be backed up? Give urls, or a command"),
            (Some(_), false) => self.wrong(&raw.name, "a source has urls or a command, not both"),
            (Some(command), true) if command.get_ref().first().is_none_or(String::is_empty) => {
                self.wrong(
                    command,
                    "the command is empty; it is a list of a program and its words: [\"tar\", \"-c\", \"folder\"]",
                );
            }
            (Some(command), true) if command.get_ref().iter().any(|word| word.contains('\0')) => {
                self.wrong(command, "a word of the command has a NUL in it, which no program can be given");
            }
            _ => {}
        }
        if urls.iter().any(is_url) && !urls.iter().all(is_url) {
            self.wrong(&raw.name, "folders and servers cannot share a snapshot; make them two sources");
        }
        let mut patterns = vec![];
        for text in &raw.excludes {
            if text.get_ref().contains('\0') {
                self.wrong(text, "a pattern with a NUL in it fits nothing");
                continue;
            }
            match Pattern::parse(text.get_ref().as_bytes(), "excludes", false) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.wrong(text, error.to_string()),
            }
        }
        if let (Err(error), Some(text)) = (Patterns::new(patterns).refuse_everything(), raw.excludes.first())
        {
            self.wrong(text, error.to_string());
        }
        SourceSpec {
            filename: raw.filename.map_or_else(|| name.clone(), Filled::get),
            name,
            urls,
            command: raw.command.map(Spanned::into_inner),
            tags: texts(raw.tags),
            excludes: raw.excludes.into_iter().map(Spanned::into_inner).collect(),
            host: raw.host.map(|host| host.into_inner().get()),
            one_file_system: raw.one_file_system,
            keep_going: raw.keep_going,
            hooks: raw.hooks,
        }
    }

    /// `forgets` says whether a run forgets and prunes if it does not say.
    fn run(&mut self, raw: RawRun, all: &[String], forgets: bool, seen: &mut BTreeSet<String>) -> RunSpec {
        let name = self.name(&raw.name, "source or run", seen);
        if let Some(sources) = &raw.sources {
            for source in sources.get_ref().iter().filter(|source| !all.contains(source.get_ref())) {
                let name = source.get_ref();
                self.lacking(source, format!("there is no source '{name}'; there are {}", all.join(", ")));
            }
            self.each_once(sources.get_ref(), String::clone);
            if sources.get_ref().is_empty() {
                self.lacking(sources, "a run names at least one source; without 'sources' it backs up all");
            }
        }
        let sources = raw.sources.map_or_else(|| all.to_vec(), |sources| values(sources.into_inner()));
        let schedule = raw.schedule.as_ref().and_then(|text| self.parsed(text, text.get_ref().parse()));
        let or_usual = |said: Option<Spanned<bool>>| said.map_or(forgets, Spanned::into_inner);
        RunSpec { name, sources, schedule, forget: or_usual(raw.forget), prune: or_usual(raw.prune) }
    }

    fn stream(&mut self, raw: RawStream, seen: &mut BTreeSet<String>) -> StreamSpec {
        let name = self.name(&raw.name, "source, run or stream", seen);
        if raw.url.get_ref().contains('\0') {
            self.wrong(&raw.url, "a URL has no NUL in it");
        } else if !connectors::is_url(raw.url.get_ref()) {
            self.wrong(&raw.url, "a stream follows a server, by its URL");
        }
        let mut duration = |value: Option<Spanned<String>>| {
            let value = value?;
            self.parsed(&value, durations::interval(value.get_ref()))
        };
        StreamSpec {
            name,
            interval: duration(raw.interval),
            base_every: duration(raw.base_every),
            url: raw.url.into_inner(),
            tags: texts(raw.tags),
            host: raw.host.map(Filled::get),
            metrics: raw.metrics.map(FilledPath::get),
            slot: raw.slot.map(Filled::get),
        }
    }
}

/// A sync says that it lives every 2 GiB. One of another machine that was silent for a day is given up: it keeps
/// others from the tier, and if it lives after all, its commit fails and it is run again.
const FENCE_AFTER_MS: u64 = 24 * 3_600_000;
