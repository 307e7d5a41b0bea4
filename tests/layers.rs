//! Who may know whom: the engine and the command line know no system by name, the simulation drags in none of their
//! libraries, and the files of a crate do not import each other in circles.

use crate::harness::source_root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of systems, as words or as beginnings of words.
const SYSTEMS: &[&str] = &["redis", "valkey", "pg_", "postgres", "mysql", "mariadb", "qdrant"];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

/// A file without its tests: what stands before the first of them.
fn without_tests(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let text = std::fs::read_to_string(path).unwrap();
    let is_test = name == "tests.rs" || name == "histories.rs" || name == "random.rs";
    (!is_test).then(|| text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned())
}

#[test]
fn engine_and_command_line_name_no_system() {
    let root = source_root();
    let mut files = vec![];
    ["engine/src", "cli/src"].iter().for_each(|folder| rust_files(&root.join(folder), &mut files));
    assert!(files.len() > 100);
    for file in files {
        let Some(text) = without_tests(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_ascii_lowercase();
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words {
                let known = SYSTEMS.iter().find(|system| word.starts_with(**system));
                assert!(known.is_none(), "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
}

/// What the simulation is built of: it runs the engine on a store in memory, and needs no client of anything.
#[test]
fn the_simulation_needs_no_client() {
    let names = crates(&["--package", "simulation"]);
    assert!(names.contains("engine"), "{names:?}");
    for client in ["redis", "reqwest", "rustls", "postgres-protocol", "tar", "object_store"] {
        assert!(!names.contains(client), "the simulation is built with {client}");
    }
}

/// Crates of a package's dependencies, built with these features.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(arguments)
        .current_dir(source_root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// A binary for one system is built with that connector and no other; `make slim` builds each.
#[test]
fn a_slim_binary_has_one_connector() {
    let all = ["mysql", "postgres", "qdrant", "redis"];
    let whole = crates(&["--package", "cli"]);
    for one in all {
        let slim = crates(&["--package", "cli", "--no-default-features", "--features", one]);
        for other in all {
            let name = format!("connector-{other}");
            assert_eq!(slim.contains(&name), other == one, "{one}: {name}");
            assert!(whole.contains(&name), "{name}");
        }
        assert!(!slim.contains("connector-example") && !whole.contains("connector-example"));
    }
    // What only one of them needs comes with that one.
    let redis = crates(&["--package", "cli", "--no-default-features", "--features", "redis"]);
    assert!(!redis.contains("postgres-protocol") && whole.contains("postgres-protocol"));
}

/// The modules that a file's `use` lines name, as paths below the crate.
fn imports(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = vec![];
    let mut statement = String::new();
    for line in text.lines().map(str::trim) {
        let begins = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        if statement.is_empty() && !begins.iter().any(|begin| line.starts_with(begin)) {
            continue;
        }
        statement += line;
        if !line.ends_with(';') {
            continue;
        }
        let path = statement.split_once("use ").map_or("", |(_, path)| path).trim_end_matches(';').to_owned();
        statement.clear();
        let head: Vec<&str> = path.split('{').next().unwrap_or_default().split("::").collect();
        let rest: Vec<&str> = match path.split_once('{') {
            // The first names of a group: enough to tell modules.
            Some((_, group)) => group.trim_end_matches('}').split(',').map(str::trim).collect(),
            None => vec![""],
        };
        for one in rest {
            let all = head.iter().copied().chain(one.split("::"));
            let mut parts: Vec<&str> = all.filter(|part| !part.is_empty()).collect();
            let mut base = match parts.first() {
                Some(&"crate") => vec![],
                Some(&"super") => module[..module.len().saturating_sub(1)].to_vec(),
                Some(&"self") => module.to_vec(),
                _ => continue,
            };
            parts.remove(0);
            while parts.first() == Some(&"super") {
                base.pop();
                parts.remove(0);
            }
            base.extend(parts.iter().map(|part| (*part).to_owned()));
            found.push(base);
        }
    }
    found
}

/// Files that can be reached from each other by imports, outside a module and its own children.
fn circles(folder: &Path) -> Vec<BTreeSet<String>> {
    let mut files = vec![];
    rust_files(folder, &mut files);
    let module_of = |file: &Path| -> Vec<String> {
        let path = file.strip_prefix(folder).unwrap().with_extension("");
        let parts = path.iter().map(|part| part.to_string_lossy().into_owned());
        parts.filter(|part| !matches!(part.as_str(), "lib" | "main")).collect()
    };
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| module_of(file)).collect();
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in &files {
        let Some(text) = without_tests(file) else { continue };
        let module = module_of(file);
        for mut path in imports(&text, &module) {
            while !modules.contains(&path) && !path.is_empty() {
                path.pop();
            }
            let is_family = path.starts_with(&module) || module.starts_with(&path);
            if !path.is_empty() && !is_family {
                edges.entry(module.clone()).or_default().insert(path);
            }
        }
    }
    // A module can be reached from itself: it is in a circle with all that it reaches and that reach it.
    let reach = |from: &Vec<String>| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for to in edges.get(&module).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<_, _> = edges.keys().map(|module| (module.clone(), reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, reached) in all.iter().filter(|(module, reached)| reached.contains(*module)) {
        let circle = reached.iter().filter(|other| all.get(*other).is_some_and(|back| back.contains(module)));
        found.insert(circle.map(|module| module.join("::")).collect::<BTreeSet<_>>());
    }
    found.into_iter().collect()
}

#[test]
fn no_files_import_each_other_in_circles() {
    let root = source_root();
    let mut crates: Vec<String> =
        ["chunkstore", "keyservices", "engine", "cli", "connectors", "tests/simulation", "fuzz/bodies"]
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
    for entry in std::fs::read_dir(root.join("connectors")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if root.join("connectors").join(&name).join("Cargo.toml").is_file() {
            crates.push(format!("connectors/{name}"));
        }
    }
    let mut told = vec![];
    for name in crates {
        let found = circles(&root.join(&name).join("src"));
        told.extend(found.iter().map(|circle| format!("{name}: {circle:?}")));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}
