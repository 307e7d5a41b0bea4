//! The list that `esker snapshots` prints. Of each snapshot it keeps what is shown of it, and in JSON nothing unless groups or
//! the newest of each need it.

use super::authors::Signatures;
use super::view::{Form, Viewed};
use crate::output::{self, JsonArray, Rows};
use engine::group::GroupKey;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// The list, oldest snapshot first.
pub(super) struct Listing {
    /// If there is a limit for each group.
    newest: Option<Newest>,
    shape: Shape,
}

enum Shape {
    Array(JsonArray),
    Table(Box<Remarked>),
    /// In groups, in order of their keys.
    Groups(Form, BTreeMap<GroupKey, Vec<String>>),
}

/// A table, and what is said below it.
struct Remarked {
    rows: Rows,
    count: usize,
    moved: Vec<String>,
    signatures: Signatures,
}

impl Listing {
    /// `latest`: only so many of each group.
    pub(super) fn new(form: Form, is_grouped: bool, latest: Option<usize>) -> Self {
        let shape = match form {
            _ if is_grouped => Shape::Groups(form, BTreeMap::new()),
            Form::Json => Shape::Array(JsonArray::default()),
            Form::Table | Form::Compact => Shape::Table(Box::new(Remarked {
                rows: Rows::new(form.headings()),
                count: 0,
                moved: vec![],
                signatures: Signatures::default(),
            })),
        };
        Self { newest: latest.map(Newest::new), shape }
    }

    /// Adds the next snapshot.
    pub(super) fn add(&mut self, viewed: Viewed) {
        match &mut self.newest {
            Some(newest) => newest.add(viewed),
            None => self.shape.add(viewed),
        }
    }

    /// Prints what was not printed yet.
    pub(super) fn finish(mut self) {
        if let Some(newest) = self.newest.take() {
            newest.in_order().for_each(|viewed| self.shape.add(viewed));
        }
        match self.shape {
            Shape::Array(array) => array.finish(),
            Shape::Table(table) => table.print(),
            Shape::Groups(Form::Json, groups) => print_json(&groups),
            Shape::Groups(form, groups) => print_tables(form, &groups),
        }
    }
}

impl Shape {
    fn add(&mut self, viewed: Viewed) {
        match self {
            Self::Array(array) => array.push(&viewed.text),
            Self::Table(table) => {
                table.rows.push(&viewed.text);
                table.count += 1;
                table.moved.extend(viewed.moved);
                viewed.said.into_iter().for_each(|said| table.signatures.add(said));
            }
            Self::Groups(_, groups) => {
                if let Some(key) = viewed.group {
                    groups.entry(key).or_default().push(viewed.text);
                }
            }
        }
    }
}

impl Remarked {
    fn print(&self) {
        self.rows.print();
        self.moved.iter().for_each(output::line);
        self.signatures.print();
        output::line(format!("{} snapshots", self.count));
    }
}

fn print_json(groups: &BTreeMap<GroupKey, Vec<String>>) {
    let mut array = JsonArray::default();
    for (key, snapshots) in groups {
        let key = json!({"hostname": key.hostname, "paths": key.paths, "tags": key.tags});
        array.push(&format!(
            "{{\"group_key\":{},\"snapshots\":[{}]}}",
            output::harmless(key.to_string()),
            snapshots.join(",")
        ));
    }
    array.finish();
}

fn print_tables(form: Form, groups: &BTreeMap<GroupKey, Vec<String>>) {
    for (key, snapshots) in groups {
        let mut parts = vec![];
        for (what, names) in
            [("host", vec![key.hostname.clone()]), ("tags", key.tags.clone()), ("paths", key.paths.clone())]
        {
            if names.iter().any(|name| !name.is_empty()) {
                parts.push(format!("{what} [{}]", names.join(", ")));
            }
        }
        output::line(format!("snapshots for ({}):", parts.join(", ")));
        let mut rows = Rows::new(form.headings());
        snapshots.iter().for_each(|row| rows.push(row));
        rows.print();
        output::line(format!("{} snapshots", snapshots.len()));
    }
}

/// The newest snapshots of each group.
struct Newest {
    most: usize,
    count: usize,
    /// With their numbers among all.
    groups: HashMap<Option<GroupKey>, VecDeque<(usize, Viewed)>>,
}

impl Newest {
    fn new(most: usize) -> Self {
        Self { most, count: 0, groups: HashMap::new() }
    }

    fn add(&mut self, viewed: Viewed) {
        let group = self.groups.entry(viewed.group.clone()).or_default();
        group.push_back((self.count, viewed));
        self.count += 1;
        if group.len() > self.most {
            group.pop_front();
        }
    }

    /// Oldest first.
    fn in_order(self) -> impl Iterator<Item = Viewed> {
        let mut all: Vec<(usize, Viewed)> = self.groups.into_values().flatten().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, viewed)| viewed)
    }
}
