//! Rules that a machine can hold.

use crate::harness::source_root;
use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "golden" {
            rust_files(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let mut files = vec![];
    rust_files(&source_root(), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not say what it is", file.display());
        assert!(text.lines().count() <= 800, "{} is too long", file.display());
    }
}

/// docs/format.md carries the hash of format.rs, so that neither changes without a look at the other.
#[test]
fn the_format_document_knows_the_code() {
    let code = std::fs::read(source_root().join("chunkstore/src/format.rs")).unwrap();
    let text = std::fs::read_to_string(source_root().join("docs/format.md")).unwrap();
    let hash = blake3::hash(&code).to_hex();
    assert!(
        text.contains(&format!("`{hash}`")),
        "format.rs changed: bring docs/format.md up to it, then put `{hash}` there"
    );
}

/// Every document: those at the top, those in docs/, and the fragments of the changelog.
fn documents() -> Vec<PathBuf> {
    let root = source_root();
    let mut found = vec![];
    for folder in ["", "docs", "docs/decisions", "docs/connectors", "changelog/unreleased"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        found.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    assert!(found.len() > 50, "{found:?}");
    found
}

/// Whether a word is the path of a file of ours, rather than a pattern or an example of one.
fn is_path(word: &str) -> bool {
    const FOLDERS: &[&str] = &[
        "docs/",
        "chunkstore/",
        "engine/",
        "connectors/",
        "cli/",
        "tests/",
        "fuzz/",
        "benches/",
        "scripts/",
        "changelog/",
    ];
    FOLDERS.iter().any(|folder| word.starts_with(folder))
        && !word.contains(['*', '{', '<', '…'])
        && !word.contains("NAME")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| c.is_whitespace() || "()[]`,;:|\"'".contains(c));
    words.map(|word| word.trim_end_matches('.'))
}

#[test]
fn documents_name_files_that_exist() {
    let root = source_root();
    let mut count = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for word in words(&text).filter(|word| is_path(word)) {
            assert!(root.join(word).exists(), "{} names {word}", document.display());
            count += 1;
        }
    }
    assert!(count > 200, "{count} paths are named");
}

#[test]
fn code_names_documents_that_exist() {
    let root = source_root();
    let mut files = vec![];
    rust_files(&root, &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let ends = |word: &&str| word.ends_with(".md") || word.ends_with(".py");
        for word in words(&text).filter(|word| word.starts_with("docs/")).filter(ends) {
            let is_example = word.contains(['*', '{', '%']);
            assert!(is_example || root.join(word).exists(), "{} names {word}", file.display());
        }
    }
}

/// What is missing from the binary is not a module that was forgotten.
#[test]
fn no_test_file_is_forgotten() {
    let main = std::fs::read_to_string(source_root().join("tests/main.rs")).unwrap();
    for entry in std::fs::read_dir(source_root().join("tests")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if let Some(module) = name.strip_suffix(".rs").filter(|name| !matches!(*name, "main" | "lib")) {
            assert!(main.contains(&format!("mod {module};")), "tests/{name} is not in main.rs");
        }
    }
}

/// A promise without its test is a wish: every row of the tables of promises names some, and each of them is there.
#[test]
fn every_promise_of_the_threat_model_has_its_test() {
    let root = source_root();
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let rows =
        text.lines().skip_while(|line| !line.starts_with("| promise")).filter(|line| line.starts_with("| "));
    let mut count = 0;
    for row in rows.filter(|row| !row.starts_with("| promise")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let names: Vec<&str> = cells.last().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test holds: {row}");
        for name in names {
            let path: Vec<&str> = name.split("::").collect();
            let (test, module) = path.split_last().unwrap();
            let files = match module {
                [] => vec![],
                [module] => vec![format!("tests/{module}.rs")],
                [package, inner @ ..] => {
                    let inner = inner.join("/");
                    let package = match *package {
                        "simulation" => "tests/simulation".to_owned(),
                        "fuzzing" => "fuzz/bodies".to_owned(),
                        other => other.replace("connector-", "connectors/"),
                    };
                    ["src/{}.rs", "tests/{}.rs", "tests/{}/main.rs", "src/{}/tests.rs"]
                        .map(|form| format!("{package}/{}", form.replace("{}", &inner)))
                        .to_vec()
                }
            };
            let texts: Vec<String> =
                files.iter().filter_map(|file| std::fs::read_to_string(root.join(file)).ok()).collect();
            let head = format!("fn {test}(");
            let is_there = texts.iter().any(|text| {
                let declared = text.match_indices(&head).map(|(at, _)| &text[..at]);
                declared.map(|before| before.trim_end()).any(|before| {
                    let above = before.lines().rev().take(4).collect::<String>();
                    above.contains("#[test]")
                })
            });
            assert!(is_there, "docs/threat-model.md names the test {name}, and there is none");
            count += 1;
        }
    }
    assert!(count > 50, "{count} tests are named");
}
