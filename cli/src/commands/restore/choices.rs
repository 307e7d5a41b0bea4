//! Which choices of `esker restore` each kind of target honours: one table, of the command's own flags and of those that
//! connectors declare. What is given and not honoured is refused before anything is opened, so that no flag does nothing
//! without a word.

use super::{Args, When};
use crate::declared::Declares;
use crate::exit::Failure;
use engine::connector::{Choice, Target};

/// What is restored into.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// `--target DIR`
    Folder,
    /// A server, or with `--prepare` or `--time` a folder that one can be started on.
    Target(&'static dyn Target),
}

impl Goal {
    /// All of them, in the order of the table.
    fn all() -> Vec<Self> {
        let folders = connectors::all().iter().filter_map(|connector| connector.folder_target());
        let servers = connectors::all().iter().filter_map(|connector| connector.target());
        std::iter::once(Self::Folder).chain(folders.chain(servers).map(Self::Target)).collect()
    }

    /// The one that the arguments name.
    fn of(args: &Args) -> Result<Self, Failure> {
        let Some(to) = &args.to else {
            let mut prepared = connectors::all().iter().filter_map(|connector| connector.folder_target());
            return match (args.prepare || args.time.is_some(), prepared.next()) {
                (false, _) => Ok(Self::Folder),
                (true, Some(target)) => Ok(Self::Target(target)),
                (true, None) => {
                    Err(Failure::new("this build has no system whose backups can be prepared as a folder"))
                }
            };
        };
        let scheme = to.split_once("://").map_or("", |(scheme, _)| scheme);
        let known = connectors::all().iter().find(|one| one.target_schemes().contains(&scheme));
        known.and_then(|connector| connector.target()).map(Self::Target).ok_or_else(|| {
            let all = connectors::all().iter().flat_map(|connector| connector.target_schemes());
            let all: Vec<String> = all.map(|scheme| format!("{scheme}://")).collect();
            let shown = engine::source::without_password(to);
            Failure::usage(format!("--to takes {}, not {shown}", all.join(", ")))
        })
    }

    /// Its name for people.
    fn title(self) -> &'static str {
        match self {
            Self::Folder => "a folder",
            Self::Target(target) => target.title(),
        }
    }

    /// Whether it honours a flag.
    fn takes(self, flag: &str) -> bool {
        match self {
            Self::Folder => OWN.iter().any(|own| own.flag == flag && own.for_folder),
            Self::Target(target) => target.choices().iter().any(|choice| choice.flag == flag),
        }
    }
}

/// A flag of the command itself.
struct Own {
    flag: &'static str,
    is_given: fn(&Args) -> bool,
    for_folder: bool,
}

const fn own(flag: &'static str, for_folder: bool, is_given: fn(&Args) -> bool) -> Own {
    Own { flag, is_given, for_folder }
}

/// In the order of the help. The filters that choose a snapshot are for all.
const OWN: &[Own] = &[
    own("time", false, |args| args.time.is_some()),
    own("include", true, |args| !args.include.is_empty()),
    own("iinclude", true, |args| !args.iinclude.is_empty()),
    own("include-file", true, |args| !args.include_file.is_empty()),
    own("iinclude-file", true, |args| !args.iinclude_file.is_empty()),
    own("exclude", true, |args| !args.exclude.is_empty()),
    own("iexclude", true, |args| !args.iexclude.is_empty()),
    own("exclude-file", true, |args| !args.exclude_file.is_empty()),
    own("iexclude-file", true, |args| !args.iexclude_file.is_empty()),
    own("overwrite", true, |args| !matches!(args.overwrite, When::Always)),
    own("delete", true, |args| args.delete),
    own("delete-excluded", true, |args| args.delete_excluded),
    own("dry-run", true, |args| args.dry_run),
    own("sparse", true, |args| args.sparse),
    own("verify", true, |args| args.verify),
    own("wait-thaw", true, |args| args.wait_thaw),
    own("no-owner", true, |args| args.no_owner),
    own("yes", true, |args| args.yes),
];

/// The choices that connectors declare, each once, in their order.
pub(super) fn declared() -> Vec<&'static Choice> {
    let mut all: Vec<&'static Choice> = vec![];
    let targets = connectors::all().iter().flat_map(|one| [one.folder_target(), one.target()]);
    for choice in targets.flatten().flat_map(|target| target.choices()) {
        let is_own = OWN.iter().any(|own| own.flag == choice.flag);
        if !is_own && !all.iter().any(|known| known.flag == choice.flag) {
            all.push(choice);
        }
    }
    all
}

/// Choices of restores.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfRestore;

impl Declares for OfRestore {
    fn all() -> Vec<&'static Choice> {
        declared()
    }
}

/// What help says of `--to`.
pub(super) fn to_help() -> String {
    let all = connectors::all().iter().filter(|connector| connector.target().is_some());
    let forms: Vec<String> =
        all.map(|one| format!("{} ({}://)", one.title(), one.target_schemes().join("://, "))).collect();
    format!("Write into a running server, which its URL names: {}", forms.join(", "))
}

/// Every flag of the table.
fn flags() -> Vec<&'static str> {
    OWN.iter().map(|own| own.flag).chain(declared().into_iter().map(|choice| choice.flag)).collect()
}

/// Refuses what means nothing for the target, or beside another choice.
pub(super) fn check(args: &Args) -> Result<Goal, Failure> {
    let goal = Goal::of(args)?;
    let own = OWN.iter().filter(|own| (own.is_given)(args)).map(|own| own.flag);
    let mut given = own.chain(args.declared.flags());
    if let Some(flag) = given.find(|flag| !goal.takes(flag)) {
        if let Goal::Target(target) = goal
            && let Some(hint) = target.refusal(flag)
        {
            return Err(Failure::new(hint));
        }
        let taken: Vec<String> =
            flags().into_iter().filter(|flag| goal.takes(flag)).map(|flag| format!("--{flag}")).collect();
        let others: Vec<&str> =
            Goal::all().into_iter().filter(|goal| goal.takes(flag)).map(Goal::title).collect();
        return Err(Failure::new(format!(
            "--{flag} is not for {}, which takes {}; it is for {}",
            goal.title(),
            taken.join(", "),
            others.join(", ")
        )));
    }
    for choice in declared().into_iter().filter(|choice| args.declared.has(choice.flag)) {
        if !choice.needs.is_empty() && !choice.needs.iter().any(|flag| args.declared.has(flag)) {
            let needs: Vec<String> = choice.needs.iter().map(|flag| format!("--{flag}")).collect();
            return Err(Failure::new(format!(
                "--{} is for {}, which change what is there",
                choice.flag,
                needs.join(" and ")
            )));
        }
    }
    let asks = args.delete || matches!(goal, Goal::Target(_)) && args.declared.has("whole");
    let pairs = [
        (args.verify && args.dry_run, "--verify reads what was written, and --dry-run writes nothing"),
        (args.delete_excluded && !args.delete, "--delete-excluded is for --delete"),
        (args.yes && !asks, "--yes is for --delete and --whole"),
    ];
    match pairs.iter().find(|(is_given, _)| *is_given) {
        Some((_, why)) => Err(Failure::new(*why)),
        None => Ok(goal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command};

    /// Every flag of the command is in the table, but those that are for all targets or name one.
    #[test]
    fn no_flag_is_missing() {
        let command = super::super::Args::augment_args(Command::new("restore"));
        let all = command.get_arguments().filter_map(|argument| argument.get_long());
        let known = ["target", "to", "prepare", "host", "tag", "path", "help"];
        let table = flags();
        for flag in all.filter(|flag| !known.contains(flag)) {
            assert!(table.contains(&flag), "--{flag} is not in the table");
        }
    }

    /// What two connectors call alike is the same choice.
    #[test]
    fn what_is_called_alike_is_the_same() {
        let targets = connectors::all().iter().flat_map(|one| [one.folder_target(), one.target()]);
        for choice in targets.flatten().flat_map(|target| target.choices()) {
            if let Some(first) = declared().iter().find(|first| first.flag == choice.flag) {
                let (first, choice) = (format!("{first:?}"), format!("{choice:?}"));
                let words = |text: &str| text.split("check").next().map(str::to_owned);
                assert_eq!(words(&first), words(&choice));
            }
        }
    }

    /// The page for users has the same table, but for the example, which no release has.
    #[test]
    fn the_page_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filters.md");
        let page = std::fs::read_to_string(path).unwrap();
        let mut goals = Goal::all();
        goals.retain(|goal| goal.title() != "the example");
        let mut table = String::from("| choice |");
        goals.iter().for_each(|goal| table += &format!(" {} |", goal.title()));
        table += &format!("\n{}|\n", "|---".repeat(goals.len() + 1));
        for flag in flags() {
            table += &format!("| `--{flag}` |");
            goals.iter().for_each(|goal| table += if goal.takes(flag) { " yes |" } else { " refused |" });
            table += "\n";
        }
        assert!(page.contains(&table), "docs/filters.md should have:\n{table}");
    }
}
