//! A secret of a URL or of the environment is nowhere: not in what is printed or logged, not in the command line of a child,
//! not in any object of the repository once it is decrypted, not in a file that stays.

use super::fixtures::System;
use super::{backup_words, repo, restore_words, start};
use crate::harness::{Repo, esker_binary, expect};
use chunkstore::ingest::ChunkRef;
use chunkstore::storage::local::LocalStorage;
use engine::Repository;
use engine::monitor::Tally;
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Descendants of a process, whichever of its threads started them: their command lines.
fn command_lines(pid: u32, found: &mut Vec<String>) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let line = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            // Between its fork and its program a child has our own command line, with the URL that the test gave.
            if line.split('\0').next() != esker_binary().to_str() {
                found.push(line);
            }
            if let Ok(child) = child.parse() {
                command_lines(child, found);
            }
        }
    }
}

/// Runs a command and looks at the command lines of its children meanwhile.
fn watched(repo: &Repo, words: &[String]) -> (Output, Vec<String>) {
    let child = repo.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let waiter = std::thread::spawn(move || child.wait_with_output().unwrap());
    let mut lines = vec![];
    while !waiter.is_finished() {
        command_lines(pid, &mut lines);
        std::thread::sleep(Duration::from_millis(5));
    }
    (waiter.join().unwrap(), lines)
}

/// Everything that a repository holds, decrypted: HEAD, records of snapshots, each chunk of each pack.
fn plaintexts(repo: &Repo) -> Vec<(String, Vec<u8>)> {
    let access = crate::harness::access(Arc::new(LocalStorage::open(repo.folder()).unwrap()));
    let opened = Repository::open(access, b"correct horse").unwrap();
    opened.sync_index(&Tally::default()).unwrap();
    let (store, head) = (opened.store(), opened.store().head());
    let mut all = vec![("HEAD".to_owned(), serde_json::to_vec(&*head).unwrap())];
    for root in head.roots.iter().unwrap() {
        all.push((format!("snapshot {}", root.id), store.read_snapshot(root).unwrap()));
    }
    for segment in head.segments.iter().unwrap() {
        for pack in store.load_segment(segment).unwrap().packs {
            for record in pack.records {
                let chunk = ChunkRef { id: record.id, len: record.plain_len };
                let bytes = chunkstore::reader::read_all(store, &[chunk]).unwrap();
                all.push((format!("chunk {} of {:?}", record.id, pack.name), bytes));
            }
        }
    }
    all
}

/// What is in files beneath a folder, without those that servers and tests wrote.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&path, found),
            kind if kind.is_file() => found.push((path.display().to_string(), std::fs::read(&path).unwrap())),
            _ => {}
        }
    }
}

pub(super) fn no_secret_is_seen(system: &System) {
    let Some(secret) = system.secret else { panic!("{} has no secret", system.name) };
    let repo = repo();
    let scratch = repo.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let repo = repo.with("TMPDIR", scratch.to_str().unwrap());
    let one = start(system, &repo, "one", 1);
    let two = (system.start)(&repo, "two");
    // As it is, in JSON, and as the URL has it.
    let quoted = Value::from(secret).to_string();
    let login = |url: &String| Some(url.split_once("://")?.1.split_once('@')?.0.to_owned());
    let logins: Vec<String> = one.backup().iter().filter_map(login).collect();
    let forms = [secret, quoted.trim_matches('"')].into_iter().chain(logins.iter().map(String::as_str));
    let finders: Vec<_> = forms.map(|form| (form, memchr::memmem::Finder::new(form))).collect();
    let look = |place: &str, bytes: &[u8]| {
        for (form, finder) in &finders {
            assert!(finder.find(bytes).is_none(), "{}: {form} in {place}", system.name);
        }
    };
    let over = two.over().unwrap_or_default();
    for (number, words) in
        [backup_words(&*one), restore_words(&*two, &[]), restore_words(&*two, over)].iter().enumerate()
    {
        let log = repo.path(&format!("log-{number}")).display().to_string();
        let quiet = ["--log", "trace", "--log-file", &log];
        let words: Vec<String> = quiet.into_iter().map(str::to_owned).chain(words.iter().cloned()).collect();
        let (output, lines) = watched(&repo, &words);
        // Whatever came of the third: what is there may be in the way.
        let code = output.status.code().filter(|_| number == 2).unwrap_or_default();
        expect(&output, code);
        look("standard output", &output.stdout);
        look("standard error", &output.stderr);
        look("command lines", lines.join("\n").as_bytes());
        let log = std::fs::read(&log).unwrap();
        assert!(!log.is_empty());
        look("the log", &log);
    }
    look("records", repo.ok(["--json", "snapshots"]).as_bytes());
    look("a record", repo.ok(["cat", "snapshot", "latest"]).as_bytes());
    let mut left = plaintexts(&repo);
    assert!(left.iter().any(|(name, _)| name.starts_with("chunk ")), "{}", left.len());
    files(&repo.path("repo"), &mut left);
    files(&repo.path("cache"), &mut left);
    files(&scratch, &mut left);
    for (name, bytes) in left {
        look(&name, &bytes);
    }
}
