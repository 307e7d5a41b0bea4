//! Every command and flag that restic 0.14 and 0.19 document, and what it is here: tests/restic-forms.tsv says it. The help of
//! the real programs is the source of what there is, ours of what is the same; docs/restic.md has the table.

use crate::harness::{Repo, server_if_there, source_root};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// A form of restic's: its command, or its flag with that.
struct Form {
    command: String,
    flag: String,
    fate: String,
    note: String,
}

fn forms() -> Vec<Form> {
    let text = std::fs::read_to_string(source_root().join("tests/restic-forms.tsv")).unwrap();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [command, flag, fate, note] = fields[..] else { panic!("{line}") };
            let own = str::to_owned;
            Form { command: own(command), flag: own(flag), fate: own(fate), note: own(note) }
        })
        .collect()
}

/// The flags of a help text, by their long names; with their letters, if they have one.
fn flags(help: &str) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    for line in help.lines() {
        let rest = line.trim_start();
        // What is indented further is a description.
        if line.len() - rest.len() > 6 || !rest.starts_with('-') {
            continue;
        }
        let mut words = rest.split([' ', ',', '=', '[']).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let (short, long) = match first.starts_with("--") {
            true => (None, first),
            false => (Some(first.to_owned()), words.next().unwrap_or_default()),
        };
        if let Some(long) = long.strip_prefix("--") {
            found.insert(long.trim_end_matches('.').to_owned(), short);
        }
    }
    found
}

/// The commands of a help text.
fn commands(help: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = vec![];
    for line in help.lines() {
        if line.ends_with("Commands:") || line == "Advanced Options:" {
            inside = true;
        } else if !line.starts_with("  ") && !line.is_empty() {
            inside = false;
        }
        if inside && line.starts_with("  ") && !line.starts_with("   ") {
            found.extend(line.split_whitespace().next().map(str::to_owned));
        }
    }
    found
}

/// Every form that a restic documents.
fn documented(restic: &Path) -> BTreeSet<(String, String)> {
    let help = |words: &[&str]| {
        let output = Command::new(restic).arg("help").args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("Global Flags:").next().unwrap().to_owned()
    };
    let mut all = BTreeSet::new();
    let mut add = |command: &str, text: &str| {
        all.insert((command.to_owned(), String::new()));
        all.extend(flags(text).into_keys().map(|flag| (command.to_owned(), flag)));
    };
    let top = help(&[]);
    add("", &top);
    for command in commands(&top) {
        let text = help(&[&command]);
        add(&command, &text);
        for sub in commands(&text) {
            add(&format!("{command} {sub}"), &help(&[&command, &sub]));
        }
    }
    all
}

fn long(flag: &str) -> &str {
    flag.rsplit("--").next().unwrap()
}

/// A row of the table in docs/restic.md.
fn row(form: &Form) -> String {
    let name = match (form.command.as_str(), form.flag.as_str()) {
        ("", flag) => format!("`{flag}`, of all commands"),
        (command, "") => format!("**`{command}`**"),
        (command, flag) => format!("`{command} {flag}`"),
    };
    let here = match (form.fate.as_str(), form.note.as_str()) {
        ("same", "") => "same".to_owned(),
        ("same", note) => format!("same; {note}"),
        ("idle", note) => format!("taken; nothing to do: {note}"),
        ("other", note) => format!("other: {note}"),
        ("with", _) => "refused with its command".to_owned(),
        ("refused", note) => format!("refused: {note}"),
        (fate, _) => panic!("{fate}"),
    };
    format!("| {name} | {here} |")
}

#[test]
fn the_table_of_the_document_is_that_of_the_data() {
    let mut table = String::from("| restic | esker |\n|---|---|\n");
    for form in forms().iter().filter(|form| long(&form.flag) != "help") {
        if !(form.command.is_empty() && form.flag.is_empty()) {
            writeln!(table, "{}", row(form)).unwrap();
        }
    }
    let path = source_root().join("docs/restic.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once("<!-- table -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- end of table -->").unwrap();
    if found != table && std::env::var_os("ESKER_WRITE_PAGES").is_some() {
        let written = format!("{before}<!-- table -->\n{table}<!-- end of table -->{after}");
        std::fs::write(&path, written).unwrap();
        return;
    }
    assert!(
        found == table,
        "docs/restic.md is not what tests/restic-forms.tsv says; ESKER_WRITE_PAGES=1 writes it"
    );
}

#[test]
fn at_most_fifteen_are_refused_each_with_a_reason() {
    let forms = forms();
    let refused: Vec<&Form> = forms.iter().filter(|form| form.fate == "refused").collect();
    assert!(refused.len() <= 15, "{}", refused.len());
    for form in &forms {
        let needs_words = matches!(form.fate.as_str(), "refused" | "other" | "idle");
        assert!(!needs_words || form.note.len() >= 10, "{} {}", form.command, form.flag);
        // A flag goes with its command only where that is refused.
        let of_refused = refused.iter().any(|one| one.flag.is_empty() && one.command == form.command);
        assert!(form.fate != "with" || of_refused, "{} {}", form.command, form.flag);
    }
}

#[test]
fn what_is_the_same_is_there() {
    let repo = Repo::empty();
    let mut help: BTreeMap<String, (BTreeMap<String, Option<String>>, String)> = BTreeMap::new();
    let top = repo.ok(["--help"]);
    let ours = commands(&top);
    for form in forms() {
        // Every command of ours has --help; one that is not there has none.
        if !matches!(form.fate.as_str(), "same" | "idle") || long(&form.flag) == "help" {
            continue;
        }
        let words: Vec<&str> = form.command.split_whitespace().collect();
        if form.flag.is_empty() {
            let is_there = words.first().is_none_or(|first| ours.iter().any(|name| name == first));
            assert!(is_there, "{}", form.command);
            continue;
        }
        let (known, text) = help.entry(form.command.clone()).or_insert_with(|| {
            let text = repo.ok(words.iter().chain(&["--help"]));
            (flags(&text), text)
        });
        let name = long(&form.flag);
        let short = known.get(name).unwrap_or_else(|| panic!("{} has no --{name}", form.command));
        if let Some((letter, _)) = form.flag.split_once(", ") {
            assert_eq!(short.as_deref(), Some(letter), "{} --{name}", form.command);
        }
        if form.fate == "idle" {
            let at = text.find(&format!("--{name}")).unwrap();
            let said: String = text[at..].chars().take(400).collect();
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("Nothing to do"), "{} --{name}: {said}", form.command);
        }
    }
}

/// What is refused is an error, rather than taken and ignored.
#[test]
fn what_is_refused_is_an_error() {
    let repo = Repo::empty();
    for form in forms().iter().filter(|form| form.fate == "refused") {
        let words: Vec<&str> = form.command.split_whitespace().chain([long(&form.flag)]).collect();
        let words: Vec<String> = match form.flag.is_empty() {
            true => vec![form.command.clone()],
            false => vec![words[..words.len() - 1].join(" "), format!("--{}", words[words.len() - 1])],
        };
        let words: Vec<&String> = words.iter().filter(|word| !word.is_empty()).collect();
        let output = repo.run(&words);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{words:?}: {output:?}");
    }
}

fn all_of(name: &str) {
    let Some(restic) = server_if_there(name) else { return };
    let documented = documented(&restic);
    assert!(documented.len() > 150, "only {} were found: the look is wrong", documented.len());
    let known: BTreeSet<(String, String)> =
        forms().iter().map(|form| (form.command.clone(), long(&form.flag).to_owned())).collect();
    let missing: Vec<_> = documented
        .iter()
        .filter(|(command, flag)| {
            (!command.is_empty() || !flag.is_empty()) && !known.contains(&(command.clone(), flag.clone()))
        })
        .collect();
    assert!(missing.is_empty(), "tests/restic-forms.tsv does not say what these are: {missing:?}");
}

#[test]
fn all_forms_of_restic_0_14() {
    all_of("restic-0.14");
}

#[test]
fn all_forms_of_restic_0_19() {
    all_of("restic-0.19");
}
