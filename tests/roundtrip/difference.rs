//! How two dumps in SQL differ, by the objects that are in them.

use std::collections::{BTreeMap, BTreeSet};

/// Names of objects that are in one dump and not, or not the same, in the other, each with the first line that differs. None
/// of them if the texts are equal.
pub(super) fn between(wanted: &str, found: &str) -> Vec<String> {
    beside(&BTreeSet::new(), wanted, found)
}

/// Names of objects that are not the same in two dumps.
pub(super) fn names<'a>(one: &'a str, other: &'a str) -> BTreeSet<&'a str> {
    let (one, other) = (objects(one), objects(other));
    let all = one.keys().chain(other.keys()).copied();
    all.filter(|name| one.get(name) != other.get(name)).collect()
}

/// As [`between`], without objects of these names.
pub(super) fn beside(left_out: &BTreeSet<&str>, wanted: &str, found: &str) -> Vec<String> {
    if wanted == found {
        return vec![];
    }
    let (wanted, found) = (objects(wanted), objects(found));
    let mut different = vec![];
    for (name, text) in wanted.iter().filter(|(name, _)| !left_out.contains(*name)) {
        match found.get(name) {
            None => different.push(format!("{name} is missing")),
            Some(other) if other != text => different.push(format!("{name}: {}", first(text, other))),
            Some(_) => {}
        }
    }
    let new = found.keys().filter(|name| !wanted.contains_key(*name) && !left_out.contains(*name));
    different.extend(new.map(|name| format!("{name} is new")));
    if different.is_empty() && left_out.is_empty() {
        different.push("the same objects in another order".into());
    }
    different
}

/// The stretches of a dump by the comments that begin them; those of the same name are one.
fn objects(text: &str) -> BTreeMap<&str, String> {
    let mut objects: BTreeMap<&str, String> = BTreeMap::new();
    let mut name = "the beginning";
    for line in text.lines() {
        let heads = [
            "-- Name: ",
            "-- Data for Name: ",
            "-- Table structure ",
            "-- Dumping ",
            "-- Final view ",
            "-- Temporary table ",
            "-- Sequence structure ",
        ];
        if heads.iter().any(|head| line.starts_with(head)) {
            name = line;
        }
        let text = objects.entry(name).or_default();
        text.push_str(line);
        text.push('\n');
    }
    objects
}

/// The first lines that are not the same.
fn first(wanted: &str, found: &str) -> String {
    let (mut wanted, mut found) = (wanted.lines(), found.lines());
    loop {
        match (wanted.next(), found.next()) {
            (Some(left), Some(right)) if left == right => {}
            (left, right) => return format!("{} instead of {}", shown(right), shown(left)),
        }
    }
}

fn shown(line: Option<&str>) -> String {
    line.map_or("nothing".into(), |line| format!("'{}'", line.chars().take(300).collect::<String>()))
}
