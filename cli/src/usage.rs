//! What is said before there is a command: help, version, and what is wrong with the command line.

use crate::commands::Cli;
use crate::exit::Code;
use crate::{environment, output, stdout, words};
use clap::{CommandFactory as _, FromArgMatches as _};
use engine::{secrets, shown};
use std::borrow::Cow;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// Code of a command line that is wrong, as clap's.
const USAGE: u8 = 2;

/// Whether answers are to be JSON; asked of a command line that may be wrong.
pub(crate) fn wants_json(words: impl IntoIterator<Item = OsString>) -> bool {
    words.into_iter().skip(1).take_while(|word| word != "--").any(|word| word == "--json")
}

/// Reads the command line and the variables that stand for flags.
///
/// # Errors
/// The code to end with, once everything is said.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    let command = environment::applied(Cli::command(), &|name| std::env::var_os(name));
    let mut command = command.map_err(|refusal| answer(&refusal, None))?;
    let words: Vec<OsString> = std::env::args_os().collect();
    let known = command.clone();
    let found = command.try_get_matches_from_mut(&words);
    let found = found.map_err(|refusal| words::explained(refusal, &known, &words));
    let cli = found.and_then(|matches| {
        let verb = matches.subcommand_name().unwrap_or_default().to_owned();
        let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        cli.verb = verb;
        Ok(cli)
    });
    cli.map_err(|refusal| answer(&refusal, environment::blamed(&refusal, &command)))
}

/// Prints what the parser has to say instead of a command, and which variable is to blame.
fn answer(refusal: &clap::Error, blamed: Option<String>) -> ExitCode {
    if !refusal.use_stderr() {
        let text = refusal.render();
        let styled = std::io::stdout().is_terminal();
        stdout::write(if styled { text.ansi().to_string() } else { text.to_string() }.as_bytes());
        return match stdout::end(Ok(Code::Done)) {
            Ok(code) => code.into(),
            Err(failure) => {
                output::failure(&failure, false);
                failure.code.into()
            }
        };
    }
    let source = blamed.map(|name| format!("the value is that of the variable {name}"));
    if wants_json(std::env::args_os()) {
        let text = refusal.to_string();
        let source = source.map_or_else(String::new, |source| format!("; {source}"));
        output::exit_error(USAGE, &format!("{}{source}", plain(&text)));
    } else {
        let text = refusal.render().to_string();
        // A word of the command line may be anything. What has to be hidden in it is, and then there are no colours.
        let is_harmless = matches!(secrets::in_message(&text), Cow::Borrowed(_))
            && matches!(shown::text(&text), Cow::Borrowed(_));
        if is_harmless {
            // A standard error that cannot be written to leaves nowhere to say so.
            let _ = refusal.print();
        } else {
            output::note(&text);
        }
        if let Some(source) = source {
            output::note(&source);
        }
    }
    USAGE.into()
}

/// Without the word that says that it is an error.
fn plain(text: &str) -> &str {
    text.trim().trim_start_matches("error: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_by_flag_and_not_by_data() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(words("esker backpu --json")));
        assert!(!wants_json(words("esker backup --stdin-from-command -- jq --json")));
        assert!(!wants_json(words("--json backup x")));
    }
}
