//! esker.toml: repository, tiers, sources, promises, runs. Everything that can be wrong in it is found before
//! anything is done, and named by its line.

use crate::exit::Failure;
use crate::places::Place;
use crate::schedule::Schedule;
use crate::values::Filled;
use chunkstore::storage::limit::Rates;
use engine::clock::DAILY;
use engine::price::PriceTable;
use engine::promise::Promise;
use engine::tier::{Role, TierOptions};
use jiff::{SignedDuration, Timestamp};
use read::Reader;
use sections::Sections;
use serde::Deserialize;
use std::path::{Path, PathBuf};

mod read;
mod sections;

/// Commands around the backup of a source, for `/bin/sh`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hooks {
    /// Before; if it fails, the source is not backed up.
    pub(crate) before: Option<Filled>,
    /// After it succeeded.
    pub(crate) after: Option<Filled>,
    /// After it failed.
    pub(crate) failed: Option<Filled>,
}

/// A tier, ready to be opened.
#[derive(Clone, Debug)]
pub(crate) struct TierPlace {
    pub(crate) options: TierOptions,
    pub(crate) place: Place,
    pub(crate) rates: Rates,
    /// Its class must be thawed before it is read.
    pub(crate) frozen: bool,
    /// Asks for packs to be thawed where the store has no way of its own.
    pub(crate) warm_up: Option<WarmUp>,
}

/// A command that asks for one pack each, as rustic's `warm-up-command`: `%id` and `%path` are the pack's.
#[derive(Clone, Debug)]
pub(crate) struct WarmUp {
    pub(crate) command: String,
    /// How long it takes.
    pub(crate) wait: std::time::Duration,
}

/// A source.
#[derive(Clone, Debug)]
pub(crate) struct SourceSpec {
    pub(crate) name: String,
    pub(crate) urls: Vec<String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) filename: String,
    pub(crate) tags: Vec<String>,
    pub(crate) excludes: Vec<String>,
    pub(crate) host: Option<String>,
    pub(crate) one_file_system: bool,
    /// As `backup --keep-going`.
    pub(crate) keep_going: bool,
    pub(crate) hooks: Hooks,
}

/// What is done under one name.
#[derive(Clone, Debug)]
pub(crate) struct RunSpec {
    pub(crate) name: String,
    pub(crate) sources: Vec<String>,
    pub(crate) schedule: Option<Schedule>,
    pub(crate) forget: bool,
    pub(crate) prune: bool,
}

/// A server that esker stays attached to.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) interval: Option<std::time::Duration>,
    pub(crate) base_every: Option<std::time::Duration>,
    pub(crate) tags: Vec<String>,
    pub(crate) host: Option<String>,
    pub(crate) metrics: Option<PathBuf>,
    pub(crate) slot: Option<String>,
}

/// What is promised of the recovery of a source.
#[derive(Clone, Debug)]
pub(crate) struct ObjectiveSpec {
    pub(crate) source: String,
    pub(crate) objective: engine::drill::Objective,
}

/// What a user expects of what a drill restored.
#[derive(Clone, Debug)]
pub(crate) struct AssertionSpec {
    pub(crate) source: String,
    /// What reports call it.
    pub(crate) name: String,
    pub(crate) what: Asked,
    /// What the answer must be; a command without it must succeed.
    pub(crate) expect: Option<engine::drill::Expectation>,
    /// How long the answer may take.
    pub(crate) limit: std::time::Duration,
}

/// What is asked.
#[derive(Clone)]
pub(crate) enum Asked {
    /// A server, by the key of its connector.
    Query(&'static str, engine::connector::scratch::Query),
    /// A command, which gets the place in its environment.
    Command(Vec<String>),
}

/// Nothing of either: they may hold secrets.
impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

/// esker.toml, without mistakes.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// The id of the repository that is meant, or its beginning.
    pub(crate) repository_id: Option<String>,
    /// The file of a write-only host: the sources are backed up as that host.
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) password_command: Option<String>,
    pub(crate) key_file: Option<PathBuf>,
    /// The URL of a key service.
    pub(crate) kms: Option<String>,
    /// For how many seconds what it unwraps is kept.
    pub(crate) kms_cache: Option<u64>,
    /// Variables that commands and hooks get although they hold secrets.
    pub(crate) pass_environment: Vec<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    /// The file with the key that signs reports of drills.
    pub(crate) signing_key: Option<PathBuf>,
    /// Whether backups store changed chunks against their last version; if not given, where that is near.
    pub(crate) delta: Option<bool>,
    pub(crate) zone: jiff::tz::TimeZone,
    pub(crate) parallel: usize,
    pub(crate) memory: Option<u64>,
    /// The primary first, if there is one.
    pub(crate) tiers: Vec<TierPlace>,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) promises: Vec<Promise>,
    pub(crate) runs: Vec<RunSpec>,
    pub(crate) streams: Vec<StreamSpec>,
    pub(crate) objectives: Vec<ObjectiveSpec>,
    pub(crate) assertions: Vec<AssertionSpec>,
    pub(crate) prices: PriceTable,
}

/// A mistake and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl File {
    /// Reads a file; every mistake in it is told.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = crate::small::read_toml(path)?;
        Self::parse(path, &text).map_err(|mistakes| {
            let lines: Vec<String> = mistakes
                .iter()
                .map(|Mistake { line, message }| format!("{}:{line}: {message}", path.display()))
                .collect();
            Failure::new(lines.join("\n"))
        })
    }

    /// Reads a file's text.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Vec<Mistake>> {
        let line_of = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let Sections { raw, mistakes, is_whole } = sections::read(text);
        let mut mistakes: Vec<Mistake> = mistakes
            .into_iter()
            .map(|(span, message)| Mistake { line: line_of(span.start), message })
            .collect();
        let file = raw.and_then(|raw| {
            let mut reader = Reader::new(text, &raw, is_whole);
            let file = reader.file(path, raw);
            mistakes.append(&mut reader.mistakes);
            file
        });
        match file {
            Some(file) if mistakes.is_empty() => Ok(file),
            _ => {
                mistakes.sort_by_key(|mistake| mistake.line);
                Err(mistakes)
            }
        }
    }

    /// The tier that backups are written to.
    pub(crate) fn primary(&self) -> Option<&TierPlace> {
        self.tiers.iter().find(|tier| tier.options.role == Role::Primary)
    }

    /// The other tiers.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &TierPlace> {
        self.tiers.iter().filter(|tier| tier.options.role != Role::Primary)
    }

    /// The longest pause between two runs: of that one of the schedules which has the shortest, since any run counts.
    pub(crate) fn pause(&self, now: Timestamp) -> SignedDuration {
        let schedules = self.runs.iter().filter_map(|run| run.schedule.as_ref());
        schedules.map(|schedule| schedule.longest_pause(now, &self.zone)).min().unwrap_or(DAILY)
    }

    /// A tier by its name.
    pub(crate) fn tier(&self, name: &str) -> Result<&TierPlace, Failure> {
        self.tiers.iter().find(|tier| tier.options.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.tiers.iter().map(|tier| tier.options.name.as_str()).collect();
            Failure::new(format!(
                "there is no tier '{name}' in {}: {}",
                self.path.display(),
                names.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let found = File::parse(Path::new("esker.toml"), text).err().unwrap_or_default();
        found.into_iter().map(|mistake| (mistake.line, mistake.message)).collect()
    }

    const SOUND: &str = r#"
[[tier]]
name = "local"
url = "file:/srv/esker"
role = "primary"

[[tier]]
name = "glacier"
url = "s3://bucket/esker"
role = "vault"
class = "DEEP_ARCHIVE"

[[source]]
name = "etc"
urls = ["/etc"]

[[promise]]
select = { class = "monthly" }
keep = "1y"
tiers = ["glacier"]

[[run]]
name = "nightly"
"#;

    #[test]
    fn a_sound_file_is_read() {
        let file = File::parse(Path::new("esker.toml"), SOUND).unwrap();
        assert_eq!(file.primary().unwrap().options.name, "local");
        assert!(file.tier("glacier").unwrap().frozen);
        assert_eq!(file.runs[0].sources, ["etc"]);
    }

    /// Values that are of the right kind and mean nothing.
    #[test]
    fn values_out_of_range_are_mistakes() {
        let all = [
            ("urls = [\"/etc\"]", "urls = [\"\"]"),
            ("urls = [\"/etc\"]", "command = [\"\"]"),
            ("urls = [\"/etc\"]", "command = []"),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\nhost = \"\""),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\ntags = [\"\"]"),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\nfilename = \"\""),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\nhooks = { before = \"\" }"),
            ("urls = [\"/etc\"]", "urls = [\"/x\\u0000y\"]"),
            ("urls = [\"/etc\"]", "command = [\"true\", \"\\u0000\"]"),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\nexcludes = [\"a\\u0000\"]"),
            ("urls = [\"/etc\"]", "urls = [\"/etc\"]\nhooks = { after = \"a\\u0000\" }"),
            ("url = \"s3://bucket/esker\"", "url = \"s3://bucket/\\u0000\""),
            ("name = \"local\"", "name = \"GLACIER\""),
            ("role = \"vault\"", "role = \"vault\"\nretries = 9999999999"),
            ("role = \"vault\"", "role = \"vault\"\nretries = -1"),
            ("role = \"vault\"", "role = \"vault\"\nconnections = 0"),
            ("role = \"vault\"", "role = \"vault\"\nconnections = 65"),
            ("role = \"vault\"", "role = \"vault\"\ntimeout = 0"),
            ("role = \"vault\"", "role = \"vault\"\ntimeout = 86401"),
            ("role = \"vault\"", "role = \"vault\"\nobject_lock_days = 36501"),
            ("role = \"vault\"", "role = \"vault\"\nwarm_up_wait = \"-5h\""),
            ("role = \"vault\"", "role = \"vault\"\nwarm_up_wait = \"soon\""),
            ("role = \"vault\"", "role = \"vault\"\nupload_limit = \"0\""),
            ("role = \"vault\"", "role = \"vault\"\ndownload_limit = \"0k/s\""),
            ("role = \"vault\"", "role = \"vault\"\nupload_limit = \"-1\""),
            ("role = \"vault\"", "role = \"vault\"\nobject_lock_days = 0"),
            ("role = \"vault\"", "role = \"vault\"\nendpoint = \"\""),
            ("role = \"vault\"", "role = \"vault\"\nregion = \"\""),
            ("role = \"vault\"", "role = \"vault\"\nprofile = \"\""),
            ("role = \"vault\"", "role = \"vault\"\nwarm_up_command = \"\""),
            ("class = \"monthly\"", "tag = \"\""),
            ("keep = \"1y\"", "keep = \"0d\""),
            ("keep = \"1y\"", "keep = \"0y0h\""),
            ("tiers = [\"glacier\"]", "tiers = [\"glacier\", \"local\", \"glacier\"]"),
            ("tiers = [\"glacier\"]", "tiers = []"),
            ("urls = [\"/etc\"]", "urls = [\"/etc\", \"/srv\", \"/etc\"]"),
            ("name = \"nightly\"", "name = \"nightly\"\nsources = []"),
            ("name = \"nightly\"", "name = \"nightly\"\nsources = [\"etc\", \"etc\"]"),
        ];
        for (from, to) in all {
            assert_eq!(mistakes(&SOUND.replace(from, to)).len(), 1, "{to}");
        }
        // The last that can be.
        for line in [
            "timeout = 86400",
            "object_lock_days = 36500",
            "warm_up_wait = \"0s\"",
            "upload_limit = \"1\"",
            "retries = 100",
            "connections = 64",
        ] {
            let text = SOUND.replace("role = \"vault\"", &format!("role = \"vault\"\n{line}"));
            assert!(mistakes(&text).is_empty(), "{line}");
        }
        for top in [
            "parallel = 0",
            "parallel = -3",
            "cache_dir = \"\"",
            "signing_key = \"\"",
            "password_file = \"\"",
            "password_command = \"\"",
            "key_file = \"\"",
            "kms = \"\"",
            "kms = \"https://example.org/k\"",
            "kms_cache = \"soon\"",
            "kms_cache = \"31d\"",
            "kms_cache = 2592001",
            "kms_cache = true",
            "delta = \"no\"",
            "memory = \"0\"",
            "timezone = \"\"",
            "prices.DEEP_ARCHIVE.gb_month = nan",
            "prices.DEEP_ARCHIVE.gb_month = 1e308",
            "prices.DEEP_ARCHIVE.get_gb = -1.0",
            "prices.DEEP_ARCHIVE.put_1000 = inf",
            "prices.DEEP_ARCHIVE.bulk = { gb = 0.0, requests_1000 = 0.0, hours = nan }",
        ] {
            assert_eq!(mistakes(&format!("{top}\n{SOUND}")).len(), 1, "{top}");
        }
        let stream = "[[stream]]\nname = \"s\"\nurl = \"redis://h\"\n";
        for (line, count) in [
            ("", 0),
            ("host = \"\"", 1),
            ("metrics = \"\"", 1),
            ("slot = \"\"", 1),
            ("interval = \"0s\"", 1),
            ("interval = \"-1s\"", 1),
            ("interval = \"200ms\"", 0),
            ("base_every = \"1ms\"", 1),
            ("base_every = \"200ms\"", 0),
        ] {
            assert_eq!(mistakes(&format!("{SOUND}\n{stream}{line}")).len(), count, "{line}");
        }
    }

    /// A list may have a line for each of its values.
    #[test]
    fn a_value_of_a_list_is_named_by_its_own_line() {
        let text =
            SOUND.replace("tiers = [\"glacier\"]", "tiers = [\n\"glacier\",\n\"moon\",\n\"glacier\",\n]");
        let first = text.lines().position(|line| line.starts_with("tiers")).unwrap() + 1;
        let told = mistakes(&text);
        let expected = [(first + 2, "there is no tier 'moon'"), (first + 3, "'glacier' is named twice")];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((line, message), (expected_line, words)) in told.iter().zip(expected) {
            assert!(*line == expected_line && message.contains(words), "{told:?}");
        }
        // A URL in a message has no password.
        let url = "redis://u:hunter2@h";
        let told = mistakes(&SOUND.replace("urls = [\"/etc\"]", &format!("urls = [\"{url}\", \"{url}\"]")));
        assert!(told.len() == 1 && !told[0].1.contains("hunter2"), "{told:?}");
    }

    #[test]
    fn two_tiers_at_one_place_are_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display().to_string();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
        let text = |first: &str, second: &str| {
            format!(
                "[[tier]]\nname = \"a\"\nurl = \"{first}\"\nrole = \"primary\"\n\
                 [[tier]]\nname = \"b\"\nurl = \"{second}\"\n"
            )
        };
        for (first, second, is_wrong) in [
            ("DIR/real", "DIR/real", true),
            ("DIR/real", "file:DIR/real/", true),
            ("DIR/real", "DIR/link", true),
            ("DIR/real/new", "DIR/link/new", true),
            ("DIR/real", "DIR/link/within", true),
            ("DIR/link/within/x", "DIR/real", true),
            ("DIR/real/../new", "DIR/new", true),
            ("DIR/new/../other", "DIR/other", true),
            ("DIR/real", "DIR/really", false),
            ("s3://bucket/x", "s3:https://s3.amazonaws.com/bucket/x/", true),
            ("s3://bucket/x", "s3:https://s3.eu-central-1.amazonaws.com/bucket//x", true),
            ("s3:https://Host/b/x", "s3:https://host:443/b/x/y", true),
            ("s3:http://localhost:9000/b", "s3:http://127.0.0.1:9000/b/x", true),
            ("s3:https://host/b/x", "s3:https://host/b/xy", false),
            ("s3:https://host/b", "s3:https://host:9000/b", false),
            ("s3:https://host/b", "s3:https://host/c", false),
        ] {
            let found = mistakes(&text(first, second).replace("DIR", &dir));
            let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
            assert_eq!(lines, if is_wrong { vec![7] } else { vec![] }, "{first} {second}: {found:?}");
        }
        let both = format!("repository = \"{dir}\"\n[[tier]]\nname = \"b\"\nurl = \"{dir}/within\"\n");
        assert_eq!(mistakes(&both).first().map(|(line, _)| *line), Some(1));
    }

    #[test]
    fn mistakes_are_named_by_their_line() {
        let with = |from: &str, to: &str| mistakes(&SOUND.replace(from, to));
        let line = |text: &str| SOUND.lines().position(|line| line.contains(text)).unwrap() + 1;
        let cases = [
            ("tiers = [\"glacier\"]", "tiers = [\"moon\"]", "there is no tier 'moon'"),
            ("\"DEEP_ARCHIVE\"", "\"ARCTIC\"", "unknown storage class 'ARCTIC'"),
            ("keep = \"1y\"", "keep = \"1 year\"", "expected a span"),
            ("url = \"s3://bucket/esker\"", "url = \"s3:///esker\"", "no bucket"),
            (
                "url = \"s3://bucket/esker\"",
                "url = \"ftp://host/x\"",
                "there are no repositories on 'ftp://'",
            ),
            ("class = \"monthly\"", "class = \"fortnightly\"", "unknown variant"),
            ("name = \"nightly\"", "name = \"etc\"", "two"),
            ("role = \"vault\"", "role = \"vaul\"", "unknown variant"),
            ("keep = \"1y\"", "kep = \"1y\"", "unknown field"),
        ];
        for (from, to, expected) in cases {
            let found = with(from, to);
            assert_eq!(found.first().map(|(line, _)| *line), Some(line(from)), "{to}: {found:?}");
            assert!(found[0].1.contains(expected), "{to}: {found:?}");
        }
        let many = SOUND
            .replace("role = \"vault\"", "rolle = \"vault\"")
            .replace("urls = [\"/etc\"]", "urls = 5\ntags = [\"a\", 7, \"\"]")
            .replace("keep = \"1y\"", "keep = \"1 year\"")
            .replace("name = \"nightly\"", "schedule = 7");
        let found: Vec<(usize, String)> = File::parse(Path::new("esker.toml"), &many)
            .unwrap_err()
            .into_iter()
            .map(|mistake| (mistake.line, mistake.message))
            .collect();
        let at = |text: &str| many.lines().position(|line| line.contains(text)).unwrap() + 1;
        let expected = [
            (at("rolle"), "unknown field `rolle`"),
            (at("urls = 5"), "invalid type: integer `5`"),
            (at("tags"), "invalid type: integer `7`"),
            (at("tags"), "empty"),
            (at("1 year"), "expected a span"),
            (at("[[run]]"), "missing field `name`"),
            (at("schedule"), "invalid type"),
        ];
        for (line, message) in expected {
            assert!(
                found.iter().any(|(own, told)| *own == line && told.contains(message)),
                "{line} {message}: {found:?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{found:?}");
        // Of syntax, too.
        let broken = File::parse(Path::new("esker.toml"), "a = \nparallel = 2\nb = [1,\n").unwrap_err();
        assert!(broken.len() > 1, "{broken:?}");
        assert!(with("role = \"primary\"", "").iter().any(|(_, why)| why.contains("no tier has the role")));
        assert!(with("urls = [\"/etc\"]", "").iter().any(|(_, why)| why.contains("what is to be backed up")));
        let two = with("role = \"vault\"\nclass = \"DEEP_ARCHIVE\"", "role = \"primary\"");
        assert!(two[0].1.contains("only one primary"), "{two:?}");
    }
}
