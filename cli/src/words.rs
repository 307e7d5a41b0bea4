//! Words of the command line and of variables, in whatever bytes. What names a file, a folder or a place is bytes; what
//! a snapshot keeps as text, such as a host or a tag, is kept in the reversible form of [`engine::names::path_text`] if
//! it is not UTF-8. Only what is text by its nature (ids, numbers, words that esker knows, names in a database server) is
//! refused, and then the argument is named.

use crate::values::Filled;
use clap::Command;
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::error::ErrorKind;
use engine::names::{escaped_url, path_text};
use engine::shown;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// A path within a snapshot, or `SNAPSHOT:path`: as [`path_text`] of the word, which [`engine::inside::Inside`] reads.
pub(crate) fn path() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().map(|word| path_text(word.as_bytes())))
}

/// What a snapshot keeps as text: a host, a tag, a description.
pub(crate) fn kept() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().map(as_kept))
}

/// The same where it cannot be empty, as in esker.toml.
pub(crate) fn filled() -> ValueParser {
    let filled = |word| Filled::try_from(as_kept(word)).map(Filled::get);
    ValueParser::new(OsStringValueParser::new().try_map(filled))
}

/// A URL: bytes that are not UTF-8 as the URL Standard encodes them.
pub(crate) fn url() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().map(|word| escaped_url(word.as_bytes())))
}

/// The same of a word that is there already.
pub(crate) fn as_kept(word: OsString) -> String {
    word.into_string().unwrap_or_else(|word| path_text(word.as_bytes()))
}

/// The text of a word that is text by its nature; `what` it is goes into the message.
///
/// # Errors
/// If it is not UTF-8.
pub(crate) fn text(word: &OsStr, what: &str) -> Result<String, crate::exit::Failure> {
    word.to_str().map(str::to_owned).ok_or_else(|| {
        crate::exit::Failure::usage(format!("{what} is not UTF-8: {}", shown::name(word.as_bytes())))
    })
}

/// A word in two at the first `=`.
pub(crate) fn split_once(word: &OsStr) -> Option<(OsString, OsString)> {
    let mut parts = word.as_bytes().splitn(2, |byte| *byte == b'=');
    let mut part = || parts.next().map(|bytes| OsString::from_vec(bytes.to_vec()));
    Some((part()?, part()?))
}

/// The parser's refusal of a word that is not UTF-8, with the argument and the word; other refusals as they are.
pub(crate) fn explained(refusal: clap::Error, command: &Command, words: &[OsString]) -> clap::Error {
    if refusal.kind() != ErrorKind::InvalidUtf8 {
        return refusal;
    }
    let message = blamed(command, words).unwrap_or_else(|| {
        let word = words.iter().find(|word| word.to_str().is_none()).cloned().unwrap_or_default();
        format!("{} is not UTF-8", shown::name(word.as_bytes()))
    });
    clap::Error::raw(ErrorKind::InvalidUtf8, format!("{message}\n")).with_cmd(command)
}

/// Which argument takes which word: the one that refuses when all others take everything.
fn blamed(command: &Command, words: &[OsString]) -> Option<String> {
    // An argument can be printed once the whole command is built.
    let mut built = command.clone();
    built.build();
    let printed = |path: &[String], id: &str| {
        let arg = part(&built, path)?.get_arguments().find(|arg| arg.get_id() == id)?;
        Some(arg.to_string())
    };
    let mut meant = vec![vec![]];
    commands_in(command, words, &mut vec![], &mut meant);
    for path in meant.iter().rev() {
        for arg in part(command, path)?.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            let mut strict = taking_bytes(command.clone(), Some((path.as_slice(), arg.get_id().as_str())));
            let name =
                arg.get_env().filter(|name| std::env::var_os(name).is_some_and(|v| v.to_str().is_none()));
            if let Some(name) = name
                && is_refused(
                    &mut strict,
                    words.iter().map(|word| word.to_string_lossy().into_owned().into()),
                )
            {
                let value = std::env::var_os(name).unwrap_or_default();
                let name = name.to_string_lossy();
                return Some(format!("the variable {name} is not UTF-8: {}", shown::name(value.as_bytes())));
            }
            for word in words.iter().filter(|word| word.to_str().is_none()) {
                let others = words.iter().map(|other| match other == word {
                    true => other.clone(),
                    false => other.to_string_lossy().into_owned().into(),
                });
                if is_refused(&mut strict, others) {
                    let value = match split_once(word) {
                        Some((flag, value)) if flag.as_bytes().starts_with(b"--") => value,
                        _ => word.clone(),
                    };
                    let value = shown::name(value.as_bytes());
                    let name = printed(path, arg.get_id().as_str())?;
                    return Some(format!("invalid value {value} for '{name}': it is not UTF-8"));
                }
            }
        }
    }
    None
}

fn is_refused(command: &mut Command, words: impl Iterator<Item = OsString>) -> bool {
    command.try_get_matches_from_mut(words).is_err_and(|error| error.kind() == ErrorKind::InvalidUtf8)
}

/// The commands whose names stand among the words in their order.
fn commands_in(command: &Command, words: &[OsString], above: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    for (at, word) in words.iter().enumerate() {
        let Some(below) = word.to_str().and_then(|word| command.find_subcommand(word)) else { continue };
        above.push(below.get_name().to_owned());
        found.push(above.clone());
        commands_in(below, words.get(at + 1..).unwrap_or_default(), above, found);
        above.pop();
    }
}

fn part<'a>(command: &'a Command, path: &[String]) -> Option<&'a Command> {
    path.iter().try_fold(command, |command, name| command.find_subcommand(name))
}

/// The command, with arguments that take words of any bytes, but one of a part of it.
fn taking_bytes(command: Command, strict: Option<(&[String], &str)>) -> Command {
    let command = command.mut_args(|arg| {
        let is_strict = strict.is_some_and(|(path, id)| path.is_empty() && arg.get_id() == id);
        if is_strict || !arg.get_action().takes_values() {
            return arg;
        }
        arg.value_parser(OsStringValueParser::new())
    });
    command.mut_subcommands(|part| {
        let below = strict.and_then(|(path, id)| {
            let (first, rest) = path.split_first()?;
            (part.get_name() == first).then_some((rest, id))
        });
        taking_bytes(part, below)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// Arguments that are text by their nature: ids and names that esker gives or knows, numbers, times, formats, and names
    /// in servers of databases. All others take any bytes.
    const TEXT: &[(&str, &str)] = &[
        (
            "",
            "--compression --http-user-agent --key-hint --kms --kms-cache --limit-download --limit-upload --log --pack-size --retry-lock --stuck-request-timeout",
        ),
        (
            "backup",
            "--exclude-larger-than --expect --group-by --keep-until --parent --read-concurrency --time",
        ),
        ("bench", "--size"),
        ("cat blob", "id"),
        ("cat chunk", "id"),
        ("cat index", "id"),
        ("cat snapshot", "snapshot"),
        ("check", "--not-verified-within --read-data-subset snapshots"),
        ("copy", "--from-key-hint --from-kms snapshots"),
        ("drill", "--snapshot names"),
        ("drill list", "--within"),
        ("drill show", "report"),
        ("drill verify", "--signer reports"),
        ("find", "--newest --oldest"),
        (
            "forget",
            "--fence-after --group-by --keep-daily --keep-hourly --keep-last --keep-monthly --keep-weekly --keep-within --keep-within-daily --keep-within-hourly --keep-within-monthly --keep-within-weekly --keep-within-yearly --keep-yearly --max-repack-size --max-unused snapshots",
        ),
        ("generate systemd", "--on-failure --user"),
        ("heal", "tiers"),
        ("import", "--from-key-hint snapshots"),
        ("init", "--chunk-size --repository-version"),
        ("key add", "--new-kms"),
        ("key passwd", "--new-kms"),
        ("key remove", "id"),
        ("key re-encrypt", "--fence-after --max-repack-size"),
        ("key retire", "--fence-after --lost-tier epoch"),
        ("key split", "of"),
        ("plan", "--chunk-size --days --every --keep --tier"),
        ("prune", "--fence-after --max-repack-size --max-unused"),
        ("repair head", "--tier"),
        ("repair packs", "packs"),
        ("repair snapshots", "snapshots"),
        ("restore", "--database --db --jobs --priority --rename --standby --table --tablespace-map --time"),
        ("rewrite", "--new-time snapshots"),
        ("run", "names"),
        ("snapshots", "--group-by --latest snapshots"),
        ("stats", "snapshots"),
        ("stream", "--base-every --interval --slot"),
        ("tag", "snapshots"),
        ("thaw plan", "--days --tier"),
        ("thaw start", "--days --retrieval --tier"),
        ("thaw status", "--days --tier"),
        ("tier adopt", "name"),
        ("tier init", "name"),
        ("tier prune", "tiers"),
        ("tier sync", "--rejoin tiers"),
    ];

    fn every(command: &Command, above: &[String], each: &mut dyn FnMut(&[String], &clap::Arg)) {
        command.get_arguments().for_each(|arg| each(above, arg));
        for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
            every(part, &[above, &[part.get_name().to_owned()]].concat(), each);
        }
    }

    /// Walks all commands: a new argument takes any bytes, or is known here as one that is text.
    #[test]
    fn every_argument_takes_any_bytes_or_names_itself() {
        let bad = OsString::from_vec(b"M\xfcll".to_vec());
        let command = crate::commands::Cli::command();
        let mut built = command.clone();
        built.build();
        let (mut refused, mut count) = (std::collections::BTreeSet::new(), 0);
        every(&built, &[], &mut |path, arg| {
            if !arg.get_action().takes_values() || (arg.is_global_set() && !path.is_empty()) {
                return;
            }
            count += 1;
            let mut words: Vec<OsString> = vec!["esker".into()];
            words.extend(path.iter().map(OsString::from));
            words.extend(arg.get_long().map(|long| format!("--{long}").into()));
            // What stands before it among the positional ones.
            let before = arg.get_index().unwrap_or(1) - 1;
            words.extend(std::iter::repeat_n(OsString::from("x"), before));
            words.push(bad.clone());
            let Err(error) = command.clone().try_get_matches_from(&words) else { return };
            if error.kind() != ErrorKind::InvalidUtf8 {
                return;
            }
            let told = explained(error, &command, &words).to_string();
            let name = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"));
            let line = format!("{} {name}", path.join(" "));
            assert!(told.contains("M\\xfcll") && told.contains(&arg.to_string()), "{line}: {told}");
            refused.insert(line.trim().to_owned());
        });
        assert!(count > 100, "{count}");
        for flag in [&["backup", "--host"][..], &["stream", "--host"], &["rewrite", "--new-host"]] {
            let words = [&["esker"], flag, &["", "x"]].concat();
            assert!(command.clone().try_get_matches_from(words).is_err(), "{flag:?}");
        }
        let known: std::collections::BTreeSet<String> = TEXT
            .iter()
            .flat_map(|(path, names)| {
                names.split(' ').map(move |name| format!("{path} {name}").trim().to_owned())
            })
            .collect();
        assert_eq!(refused, known);
    }
}
