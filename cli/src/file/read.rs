//! From what people write to what is meant, with every mistake on the way.

use super::{File, Hooks, Mistake, RunSpec, SourceSpec, TierPlace, WarmUp};
use crate::commands::parse_size;
use crate::places::{Details, Place};
use chunkstore::storage::HttpOptions;
use chunkstore::storage::limit::Rates;
use engine::price::{Price, PriceTable};
use engine::promise::{Keep, Promise, Select};
use engine::tier::{Role, TierOptions};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The file as people write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    repository: Option<Spanned<String>>,
    password_file: Option<PathBuf>,
    password_command: Option<String>,
    cache_dir: Option<PathBuf>,
    timezone: Option<Spanned<String>>,
    parallel: Option<usize>,
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
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    account: Option<String>,
    connections: Option<usize>,
    retries: Option<usize>,
    timeout: Option<u64>,
    upload_limit: Option<Spanned<String>>,
    download_limit: Option<Spanned<String>>,
    object_lock_days: Option<Spanned<u32>>,
    object_lock_mode: Option<Spanned<String>>,
    warm_up_command: Option<String>,
    warm_up_wait: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    name: Spanned<String>,
    #[serde(default)]
    urls: Vec<String>,
    command: Option<Vec<String>>,
    filename: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    excludes: Vec<String>,
    host: Option<String>,
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
    #[serde(default)]
    select: Select,
    keep: Spanned<String>,
    tiers: Spanned<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRun {
    name: Spanned<String>,
    #[serde(default)]
    sources: Option<Spanned<Vec<String>>>,
    schedule: Option<String>,
    #[serde(default = "yes")]
    forget: bool,
    #[serde(default = "yes")]
    prune: bool,
}

fn yes() -> bool {
    true
}

/// Reads a file and notes what is wrong in it.
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) mistakes: Vec<Mistake>,
    prices: PriceTable,
}

/// Names go into file names and object names.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, raw: &Raw) -> Self {
        Self { text, mistakes: vec![], prices: PriceTable::default().with(raw.prices.clone()) }
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

    fn size(&mut self, value: &Option<Spanned<String>>) -> Option<u64> {
        let value = value.as_ref()?;
        self.parsed(value, parse_size(value.get_ref().trim_end_matches("/s")))
    }

    pub(super) fn file(&mut self, path: &Path, raw: Raw) -> Option<File> {
        let mut names = BTreeSet::new();
        let mut tiers: Vec<TierPlace> = vec![];
        for tier in &raw.tier {
            tiers.extend(self.tier(tier, &mut names));
        }
        let primaries = raw.tier.iter().filter(|tier| tier.role == Role::Primary).count();
        match (&raw.repository, primaries) {
            (Some(repository), 0) => {
                let place = Place::parse(repository.get_ref(), &Details::default());
                if let Some(place) = self.parsed(repository, place.map_err(|failure| failure.message)) {
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
            (None, 0) => {
                if let Some(first) = raw.tier.first() {
                    self.wrong(
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
        let promises = raw.promise.iter().filter_map(|promise| self.promise(promise, &names)).collect();
        let mut seen = BTreeSet::new();
        let sources: Vec<SourceSpec> =
            raw.source.into_iter().map(|source| self.source(source, &mut seen)).collect();
        let all: Vec<String> = sources.iter().map(|source| source.name.clone()).collect();
        let runs = raw.run.into_iter().map(|run| self.run(run, &all, &mut seen)).collect();
        let zone = match &raw.timezone {
            None => Some(jiff::tz::TimeZone::system()),
            Some(name) => {
                let zone = jiff::tz::TimeZone::get(name.get_ref());
                self.parsed(name, zone.map_err(|_| format!("there is no time zone '{}'", name.get_ref())))
            }
        };
        let memory = self.size(&raw.memory);
        Some(File {
            path: path.to_owned(),
            password_file: raw.password_file,
            password_command: raw.password_command,
            cache_dir: raw.cache_dir,
            zone: zone?,
            parallel: raw.parallel.unwrap_or(2).max(1),
            memory,
            tiers,
            sources,
            promises,
            runs,
            prices: self.prices.clone(),
        })
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
        let rates = Rates { up: self.size(&raw.upload_limit), down: self.size(&raw.download_limit) };
        let details = Details {
            http: HttpOptions {
                // Between a local disk and a distant store: more at once than one backup writes.
                connections: raw.connections.unwrap_or(2 * defaults.connections).clamp(1, 64),
                retries: raw.retries.unwrap_or(defaults.retries),
                timeout_s: raw.timeout.unwrap_or(defaults.timeout_s).max(1),
            },
            endpoint: raw.endpoint.clone(),
            region: raw.region.clone(),
            profile: raw.profile.clone(),
            account: raw.account.clone(),
            lock_governance: governance,
        };
        let place = Place::parse(raw.url.get_ref(), &details);
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
            Some(wait) => {
                let parsed = wait.get_ref().parse::<jiff::SignedDuration>().ok();
                let parsed = parsed.and_then(|wait| std::time::Duration::try_from(wait).ok());
                self.parsed(wait, parsed.ok_or_else(|| "expected a time such as 5h or 30m".into()))?
            }
        };
        let options = TierOptions {
            name,
            role: raw.role,
            class: raw.class.as_ref().map(|class| class.get_ref().clone()),
            lock_days: raw.object_lock_days.as_ref().map(|days| *days.get_ref()),
            fence_after_ms: FENCE_AFTER_MS,
        };
        let warm_up = raw.warm_up_command.clone().map(|command| WarmUp { command, wait });
        frozen |= warm_up.is_some();
        Some(TierPlace { options, place, rates, frozen, warm_up })
    }

    fn promise(&mut self, raw: &RawPromise, names: &BTreeSet<String>) -> Option<Promise> {
        for tier in raw.tiers.get_ref().iter().filter(|tier| !names.contains(*tier)) {
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            self.wrong(&raw.tiers, format!("there is no tier '{tier}'; there are {}", known.join(", ")));
        }
        if raw.tiers.get_ref().is_empty() {
            self.wrong(&raw.tiers, "a promise names at least one tier");
        }
        let keep: Keep = self.parsed(&raw.keep, raw.keep.get_ref().parse())?;
        Some(Promise { select: raw.select.clone(), keep, tiers: raw.tiers.get_ref().clone() })
    }

    fn source(&mut self, raw: RawSource, seen: &mut BTreeSet<String>) -> SourceSpec {
        let name = self.name(&raw.name, "source", seen);
        let is_url = |url: &String| engine::source::is_url(url);
        match (&raw.command, raw.urls.is_empty()) {
            (None, true) => self.wrong(&raw.name, "what is to be backed up? Give urls, or a command"),
            (Some(_), false) => self.wrong(&raw.name, "a source has urls or a command, not both"),
            (Some(command), true) if command.is_empty() => {
                self.wrong(&raw.name, "the command is empty; it is a list: [\"pg_dump\", \"shop\"]");
            }
            _ => {}
        }
        if raw.urls.iter().any(is_url) && !raw.urls.iter().all(is_url) {
            self.wrong(&raw.name, "folders and servers cannot share a snapshot; make them two sources");
        }
        SourceSpec {
            filename: raw.filename.unwrap_or_else(|| name.clone()),
            name,
            urls: raw.urls,
            command: raw.command,
            tags: raw.tags,
            excludes: raw.excludes,
            host: raw.host,
            one_file_system: raw.one_file_system,
            keep_going: raw.keep_going,
            hooks: raw.hooks,
        }
    }

    fn run(&mut self, raw: RawRun, all: &[String], seen: &mut BTreeSet<String>) -> RunSpec {
        let name = self.name(&raw.name, "source or run", seen);
        if let Some(sources) = &raw.sources {
            for source in sources.get_ref().iter().filter(|source| !all.contains(source)) {
                self.wrong(sources, format!("there is no source '{source}'; there are {}", all.join(", ")));
            }
        }
        let sources = raw.sources.map_or_else(|| all.to_vec(), Spanned::into_inner);
        RunSpec { name, sources, schedule: raw.schedule, forget: raw.forget, prune: raw.prune }
    }
}

/// A sync says that it lives every 2 GiB. One of another machine that was silent for a day is given up: it keeps
/// others from the tier, and if it lives after all, its commit fails and it is run again.
const FENCE_AFTER_MS: u64 = 24 * 3_600_000;
