//! The names that collections get on the server.

use super::QdrantOptions;
use crate::server::Qdrant;
use crate::stored::Collection;
use engine::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// The names that collections get, all of them looked at before anything is done.
pub(super) fn new_names(
    chosen: &BTreeMap<String, Collection>,
    server: &Qdrant,
    options: &QdrantOptions,
) -> Result<BTreeMap<String, String>> {
    let invalid = |why: String| Err(Error::Invalid(why));
    let mut names: BTreeMap<String, String> =
        chosen.keys().map(|name| (name.clone(), name.clone())).collect();
    let mut renamed = BTreeSet::new();
    for (old, new) in &options.renames {
        if !renamed.insert(old) {
            return invalid(format!("--rename gives '{old}' two names"));
        }
        match names.get_mut(old) {
            Some(name) => name.clone_from(new),
            None => return invalid(format!("--rename: '{old}' is none of the collections to restore")),
        }
    }
    if let Some(wanted) = &server.collection {
        let [only] = chosen.keys().collect::<Vec<_>>()[..] else {
            return invalid(format!(
                "the URL names one collection, '{wanted}', and {} are to be restored; choose one with --include",
                chosen.len()
            ));
        };
        if !renamed.is_empty() {
            return invalid("the URL names the collection already; --rename has nothing to say".into());
        }
        names.insert(only.clone(), wanted.clone());
    }
    let mut targets: BTreeMap<&String, &String> = BTreeMap::new();
    for (old, new) in &names {
        if let Some(why) = unusable(new) {
            return invalid(format!("'{new}' is no name for a collection: {why}"));
        }
        if let Some(other) = targets.insert(new, old) {
            return invalid(format!("collections '{other}' and '{old}' would both be called '{new}'"));
        }
    }
    Ok(names)
}

/// Why the server would not take a name. Source: `validate_collection_name` in its repository.
fn unusable(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it means a folder"),
        name if name.len() > 255 => Some("it has more than 255 bytes"),
        name if name.chars().any(|letter| letter.is_control() || "<>:\"/\\|?*".contains(letter)) => {
            Some("it has one of < > : \" / \\ | ? * in it")
        }
        _ => None,
    }
}

/// What stands in the way on the server.
pub(super) fn refuse_conflicts(
    names: &BTreeMap<String, String>,
    there: &BTreeSet<String>,
    aliases: &BTreeMap<String, String>,
    options: &QdrantOptions,
) -> Result<()> {
    if let Some((target, of)) = names.values().find_map(|target| aliases.get_key_value(target)) {
        return Err(Error::Refused(format!(
            "'{target}' is an alias of collection '{of}' on the server; --rename OLD=NEW gives another name"
        )));
    }
    let existing: Vec<&str> =
        names.values().filter(|name| there.contains(*name)).map(String::as_str).collect();
    if !existing.is_empty() && !options.replace {
        return Err(Error::Refused(format!(
            "there already: {}; --replace restores them beside and then replaces them, --rename OLD=NEW gives other names",
            existing.join(", ")
        )));
    }
    Ok(())
}

/// A name for a collection beside another one.
pub(super) fn beside(target: &str, taken: &BTreeSet<String>) -> String {
    let head = target.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= 200);
    let head = &target[..head.last().unwrap_or_default()];
    let mut names = (1..u64::MAX).map(|number| format!("{head}.esker-{number}"));
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_server_refuses() {
        for name in ["", ".", "..", "a/b", "a\\b", "a:b", "a\nb", &"x".repeat(256)] {
            assert!(unusable(name).is_some(), "{name}");
        }
        for name in ["a b", "žluť 日本", ".hidden", "100%", "plus+and&"] {
            assert!(unusable(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_name_beside_is_new_and_fits() {
        let taken = BTreeSet::from(["x.esker-1".to_owned()]);
        assert_eq!(beside("x", &taken), "x.esker-2");
        let long = beside(&"ž".repeat(127), &taken);
        assert!(long.len() <= 255 && long.ends_with("ž.esker-1"), "{long}");
    }
}
