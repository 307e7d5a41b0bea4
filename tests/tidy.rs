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

#[test]
fn documents_name_files_that_exist() {
    let root = source_root();
    for document in
        ["README.md", "ARCHITECTURE.md", "docs/format.md", "docs/threat-model.md", "docs/concurrency.md"]
    {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "()[]`,;:".contains(c)) {
            let word = word.trim_end_matches('.');
            let is_path = word.starts_with("docs/")
                || word.starts_with("chunkstore/")
                || word.starts_with("engine/")
                || word.starts_with("cli/");
            if is_path && !word.contains('*') && !word.contains('{') {
                assert!(root.join(word).exists(), "{document} names {word}");
            }
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
