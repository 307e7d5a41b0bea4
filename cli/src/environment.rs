//! Variables that stand for flags: an empty one is unset, whatever it stands for, and those of switches take the words
//! that people write. The parser alone takes an empty value for a value, and only `true` and `false`.

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use std::ffi::OsStr;

/// What a switch takes for yes and no, in any case.
const WORDS: [(&str, bool); 8] = [
    ("1", true),
    ("yes", true),
    ("true", true),
    ("on", true),
    ("0", false),
    ("no", false),
    ("false", false),
    ("off", false),
];

/// Reads what a variable says of a switch.
///
/// # Errors
/// What is wrong with it, with its name.
pub(crate) fn switch(name: &str, value: &OsStr) -> Result<bool, String> {
    let word = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    let found = WORDS.iter().find(|(known, _)| *known == word);
    found.map(|(_, is_on)| *is_on).ok_or_else(|| {
        let shown = value.to_string_lossy();
        format!("{name} is '{shown}': it takes 1, yes, true or on, or 0, no, false or off")
    })
}

/// The command and its subcommands, with their variables as `value_of` has them.
///
/// # Errors
/// Of the parser's kind, for the first variable that says nothing sensible.
pub(crate) fn applied(
    command: Command,
    value_of: &dyn Fn(&OsStr) -> Option<std::ffi::OsString>,
) -> Result<Command, clap::Error> {
    let mut wrong = None;
    let applied = walk(command, value_of, &mut wrong);
    match wrong {
        None => Ok(applied),
        Some(why) => Err(clap::Error::raw(ErrorKind::InvalidValue, format!("{why}\n")).with_cmd(&applied)),
    }
}

fn walk(
    command: Command,
    value_of: &dyn Fn(&OsStr) -> Option<std::ffi::OsString>,
    wrong: &mut Option<String>,
) -> Command {
    let command = command.mut_args(|arg| {
        let Some(name) = arg.get_env().map(OsStr::to_owned) else { return arg };
        let value = value_of(&name).filter(|value| !value.is_empty());
        let Some(value) = value else { return without(arg) };
        if arg.get_action().takes_values() {
            return arg;
        }
        match switch(&name.to_string_lossy(), &value) {
            Ok(true) => arg.value_parser(BoolishValueParser::new()),
            // As if it were not there: it contradicts no flag.
            Ok(false) => without(arg),
            Err(why) => {
                wrong.get_or_insert(why);
                without(arg)
            }
        }
    });
    command.mut_subcommands(|part| walk(part, value_of, wrong))
}

fn without(arg: Arg) -> Arg {
    arg.env(Resettable::<clap::builder::OsStr>::Reset)
}

/// Which variable a refused value came from, if it is that of one.
pub(crate) fn blamed(refusal: &clap::Error, command: &Command) -> Option<String> {
    let Some(ContextValue::String(value)) = refusal.get(ContextKind::InvalidValue) else { return None };
    let fits = |name: &&OsStr| std::env::var_os(name).is_some_and(|found| found == OsStr::new(value));
    let mut names = command.get_arguments().chain(command.get_subcommands().flat_map(Command::get_arguments));
    let name = names.find_map(|arg| arg.get_env().filter(fits))?;
    let was_typed = std::env::args_os().any(|word| word.to_string_lossy().contains(value.as_str()));
    (!was_typed).then(|| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parsed(
        name: &'static str,
        value: &'static str,
        words: &[&str],
    ) -> Result<(bool, Option<String>), String> {
        let command = Command::new("x").subcommand(
            Command::new("y")
                .arg(Arg::new("flag").long("delta").env("ESKER_TEST_FLAG").action(clap::ArgAction::SetTrue))
                .arg(Arg::new("size").long("size").env("ESKER_TEST_SIZE")),
        );
        let given = |asked: &OsStr| (asked == name).then(|| OsString::from(value));
        let command = applied(command, &given).map_err(|error| error.to_string())?;
        let words = ["x", "y"].iter().chain(words);
        let found = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        let part = found.subcommand().unwrap().1;
        Ok((part.get_flag("flag"), part.get_one::<String>("size").cloned()))
    }

    #[test]
    fn empty_is_unset() {
        assert_eq!(parsed("ESKER_TEST_SIZE", "", &[]), Ok((false, None)));
        assert_eq!(parsed("ESKER_TEST_FLAG", "", &[]), Ok((false, None)));
        assert_eq!(parsed("ESKER_TEST_FLAG", "", &["--delta"]), Ok((true, None)));
    }

    #[test]
    fn words_of_switches() {
        for (word, is_on) in WORDS {
            assert_eq!(switch("X", word.to_ascii_uppercase().as_ref()), Ok(is_on));
        }
        for word in ["maybe", "2", "-1", "ja", "tru"] {
            assert!(switch("ESKER_X", word.as_ref()).unwrap_err().contains("ESKER_X"));
        }
        assert_eq!(parsed("ESKER_TEST_FLAG", "no", &["--delta"]), Ok((true, None)));
        let told = parsed("ESKER_TEST_FLAG", "maybe", &[]).unwrap_err();
        assert!(told.contains("ESKER_TEST_FLAG is 'maybe'"), "{told}");
    }
}
