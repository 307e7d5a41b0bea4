//! Every command line of README.md and `docs/*.md`, as it is written and from top to bottom, in one empty environment: a
//! network and a file system of its own, in which the documents' hosts and folders are test servers and test folders.
//!
//! What the documents leave to the reader (data in the servers, a disk that fails) is in `world.rs`.

use crate::harness::{esker_binary, source_root};
use std::path::{Path, PathBuf};
use std::process::Command;
use world::World;

mod world;

/// Lines that cannot run here, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("make quickstart", "it installs and builds; it is a command of its own"),
    ("make test", "this test is a part of it"),
];

/// Makes the environment and starts this program again in it. The whole root is an overlay, so that nothing of what the
/// documents do stays.
const ENTER: &str = r#"
set -e
base=$(mktemp -d)
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$base/upper",workdir="$base/work" "$base/root"
for folder in proc dev sys; do mount --rbind /$folder "$base/root/$folder"; done
for folder in tmp run home; do mount -t tmpfs tmpfs "$base/root/$folder"; done
chmod 1777 "$base/root/tmp"
for folder in "${@:2}"; do mkdir -p "$base/root$folder"; mount --rbind "$folder" "$base/root$folder"; done
ip link set lo up
exec chroot "$base/root" "$1" --exact documents::inside --ignored --nocapture
"#;

#[test]
fn every_command_line_of_the_documents_works() {
    let probe = Command::new("unshare").args(["--mount", "--net", "ip", "link", "set", "lo", "up"]).output();
    if !rustix::process::geteuid().is_root() || !probe.is_ok_and(|output| output.status.success()) {
        println!("left out: namespaces of mounts and networks need root");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let folder = |path: &Path| path.parent().unwrap().to_owned();
    let bound = [source_root(), folder(&program), folder(&esker_binary()), crate::harness::server("venv")];
    let output = Command::new("unshare")
        .args(["--mount", "--net", "bash", "-c", ENTER, "enter"])
        .arg(&program)
        .args(bound)
        .env("ESKER_TESTS_INSIDE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "runs in an environment of its own; the test above starts it"]
fn inside() {
    assert!(std::env::var_os("ESKER_TESTS_INSIDE").is_some(), "this writes to the whole file system");
    let mut world = World::new();
    let mut count = 0;
    for page in pages() {
        let name = page.strip_prefix(source_root()).unwrap().display().to_string();
        let lines = lines(&std::fs::read_to_string(&page).unwrap());
        if lines.iter().all(|line| line.config.is_some()) {
            continue;
        }
        world.open(&name);
        for Line { number, text, config } in lines {
            match config {
                Some(config) => world.write(&text, &config),
                None if LEFT_OUT.iter().any(|(line, _)| text.starts_with(line)) => {}
                None => {
                    println!("{name}:{number}: {text}");
                    world.run(&format!("{name}:{number}"), &text);
                    count += 1;
                }
            }
        }
    }
    println!("{count} command lines of the documents ran");
    assert!(count > 40, "{count}");
}

/// README.md, then the others by name.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(source_root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut docs: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    docs.sort();
    docs.insert(0, source_root().join("README.md"));
    docs
}

/// A command line; or a file, with its content, where the document shows one under its name.
struct Line {
    number: usize,
    text: String,
    config: Option<String>,
}

/// The lines of the blocks that show commands, in order. A block of TOML that begins with `# NAME` is that file.
fn lines(document: &str) -> Vec<Line> {
    let mut found: Vec<Line> = vec![];
    let mut block: Option<&str> = None;
    for (number, line) in document.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language) };
            continue;
        }
        let file = line.strip_prefix("# ").filter(|name| name.ends_with(".toml") && block == Some("toml"));
        match (block, found.last_mut()) {
            (Some("toml"), _) if file.is_some() => {
                let text = file.unwrap_or_default().to_owned();
                found.push(Line { number: number + 1, text, config: Some(String::new()) });
            }
            (Some("toml"), Some(Line { config: Some(config), .. })) => {
                config.push_str(line);
                config.push('\n');
            }
            (Some("" | "sh"), _) if !line.trim().is_empty() => {
                found.push(Line { number: number + 1, text: line.to_owned(), config: None });
            }
            _ => {}
        }
    }
    found
}

#[test]
fn commands_and_files_are_found_in_a_document() {
    let document = "x\n```\none  # two\n\nthree\n```\ny\n```toml\nnot = 1\n```\n```toml\n# a.toml\nb = 1\nc = 2\n```\n```rust\nz\n```\n";
    let found: Vec<_> =
        lines(document).into_iter().map(|line| (line.number, line.text, line.config)).collect();
    let expected = [
        (3, "one  # two".to_owned(), None),
        (5, "three".into(), None),
        (12, "a.toml".into(), Some("b = 1\nc = 2\n".to_owned())),
    ];
    assert_eq!(found, expected);
}
