//! esker.toml: repository, tiers, sources, promises, runs. Everything that can be wrong in it is found before
//! anything is done, and named by its line.

use crate::exit::Failure;
use crate::places::Place;
use chunkstore::storage::limit::Rates;
use engine::price::PriceTable;
use engine::promise::Promise;
use engine::tier::{Role, TierOptions};
use read::{Raw, Reader};
use serde::Deserialize;
use std::path::{Path, PathBuf};

mod read;

/// Commands around the backup of a source, for `/bin/sh`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hooks {
    /// Before; if it fails, the source is not backed up.
    pub(crate) before: Option<String>,
    /// After it succeeded.
    pub(crate) after: Option<String>,
    /// After it failed.
    pub(crate) failed: Option<String>,
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
    pub(crate) schedule: Option<String>,
    pub(crate) forget: bool,
    pub(crate) prune: bool,
}

/// esker.toml, without mistakes.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) password_command: Option<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) zone: jiff::tz::TimeZone,
    pub(crate) parallel: usize,
    pub(crate) memory: Option<u64>,
    /// The primary first, if there is one.
    pub(crate) tiers: Vec<TierPlace>,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) promises: Vec<Promise>,
    pub(crate) runs: Vec<RunSpec>,
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
        let text = crate::config::read_file(path)?;
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
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            vec![Mistake { line, message: error.message().to_owned() }]
        })?;
        let mut reader = Reader::new(text, &raw);
        let file = reader.file(path, raw);
        let mut mistakes = reader.mistakes;
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

    #[test]
    fn mistakes_are_named_by_their_line() {
        let with = |from: &str, to: &str| mistakes(&SOUND.replace(from, to));
        let line = |text: &str| SOUND.lines().position(|line| line.contains(text)).unwrap() + 1;
        let cases = [
            ("tiers = [\"glacier\"]", "tiers = [\"moon\"]", "there is no tier 'moon'"),
            ("\"DEEP_ARCHIVE\"", "\"ARCTIC\"", "unknown storage class 'ARCTIC'"),
            ("keep = \"1y\"", "keep = \"1 year\"", "expected a span"),
            ("url = \"s3://bucket/esker\"", "url = \"s3:///esker\"", "no bucket"),
            ("url = \"s3://bucket/esker\"", "url = \"ftp://host/x\"", "not supported"),
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
        assert!(with("role = \"primary\"", "").iter().any(|(_, why)| why.contains("no tier has the role")));
        assert!(with("urls = [\"/etc\"]", "").iter().any(|(_, why)| why.contains("what is to be backed up")));
        let two = with("role = \"vault\"\nclass = \"DEEP_ARCHIVE\"", "role = \"primary\"");
        assert!(two[0].1.contains("only one primary"), "{two:?}");
    }
}
