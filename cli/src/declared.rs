//! Flags that connectors declare, as arguments of a command.

use crate::commands::lists;
use crate::exit::Failure;
use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, Command};
use engine::connector::{Choice, Chosen};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::PathBuf;

/// Whose choices they are.
pub(crate) trait Declares {
    /// All of them, each once.
    fn all() -> Vec<&'static Choice>;
}

/// What was given of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared<D> {
    given: BTreeMap<&'static str, Vec<OsString>>,
    of: PhantomData<D>,
}

impl<D: Declares> Declared<D> {
    /// Whether a flag was given.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.given.contains_key(flag)
    }

    /// Those that were given.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.given.keys().copied()
    }

    /// Gives one that stands elsewhere, if it was not given.
    pub(crate) fn or_give(&mut self, flag: &str, value: Option<&str>) {
        let known = D::all().into_iter().find(|choice| choice.flag == flag);
        if let (Some(choice), Some(value)) = (known, value) {
            self.given.entry(choice.flag).or_insert_with(|| vec![value.into()]);
        }
    }

    /// What connectors are told of them.
    pub(crate) fn tell(&self, chosen: &mut Chosen) -> Result<(), Failure> {
        for choice in D::all() {
            let Some(values) = self.given.get(choice.flag) else { continue };
            let values = match choice.lines {
                false => values.clone(),
                true => lists::verbatim(&values.iter().map(PathBuf::from).collect::<Vec<_>>())?,
            };
            chosen.give(choice.flag, values);
        }
        Ok(())
    }
}

/// A choice as an argument.
fn argument(choice: &'static Choice, all: &[&'static Choice]) -> Arg {
    let arg = Arg::new(choice.flag).long(choice.flag).help(choice.about);
    // The command's own arguments are called as fields are: with underscores.
    let id = |flag: &'static str| match all.iter().any(|known| known.flag == flag) {
        true => flag,
        false => &*flag.replace('-', "_").leak(),
    };
    let arg = arg.conflicts_with_all(choice.conflicts.iter().map(|flag| id(flag)));
    let Some(value) = choice.value else { return arg.action(ArgAction::SetTrue) };
    let check = choice.check;
    let action = if choice.many { ArgAction::Append } else { ArgAction::Set };
    let arg = arg.action(action).value_name(value);
    if choice.text {
        let parser = StringValueParser::new();
        return arg.value_parser(parser.try_map(move |text| {
            let value = OsString::from(text);
            check(&value).map(|()| value)
        }));
    }
    arg.value_parser(OsStringValueParser::new().try_map(move |value| check(&value).map(|()| value)))
}

impl<D: Declares> clap::Args for Declared<D> {
    fn augment_args(command: Command) -> Command {
        let all = D::all();
        all.iter().map(|choice| argument(choice, &all)).fold(command, Command::arg)
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<D: Declares> clap::FromArgMatches for Declared<D> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |choice: &'static Choice| match choice.value {
            None => matches.get_flag(choice.flag).then(|| (choice.flag, vec![])),
            Some(_) => Some((choice.flag, matches.get_many(choice.flag)?.cloned().collect())),
        };
        Ok(Self { given: D::all().into_iter().filter_map(given).collect(), of: PhantomData })
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
