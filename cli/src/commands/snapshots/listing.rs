//! The list that `esker snapshots` prints. Of each snapshot it keeps what is shown of it, and in JSON nothing unless there are
//! groups.

use super::authors::Signatures;
use super::view::{Form, Viewed};
use crate::output::{self, JsonArray, Rows};
use engine::group::GroupKey;
use serde_json::json;
use std::collections::BTreeMap;

/// The list, to which snapshots are added oldest first.
pub(super) enum Listing {
    Array(JsonArray),
    Table(Box<Remarked>),
    /// In groups, in order of their keys.
    Groups(Form, BTreeMap<GroupKey, Vec<String>>),
}

/// A table, and what is said below it.
pub(super) struct Remarked {
    rows: Rows,
    count: usize,
    moved: Vec<String>,
    signatures: Signatures,
}

impl Listing {
    pub(super) fn new(form: Form, is_grouped: bool) -> Self {
        match form {
            _ if is_grouped => Self::Groups(form, BTreeMap::new()),
            Form::Json => Self::Array(JsonArray::default()),
            Form::Table | Form::Compact => Self::Table(Box::new(Remarked {
                rows: Rows::new(form.headings()),
                count: 0,
                moved: vec![],
                signatures: Signatures::default(),
            })),
        }
    }

    /// Adds the next snapshot.
    pub(super) fn add(&mut self, viewed: Viewed) {
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

    /// Prints what was not printed yet.
    pub(super) fn finish(self) {
        match self {
            Self::Array(array) => array.finish(),
            Self::Table(table) => table.print(),
            Self::Groups(Form::Json, groups) => print_json(&groups),
            Self::Groups(form, groups) => print_tables(form, &groups),
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
