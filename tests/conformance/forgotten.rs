//! A snapshot that another process forgets and prunes while it is restored: after the proof, before what was there is changed.

use super::fixtures::System;
use super::{backup_words, repo, restore_words, start};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

/// What was proved stays readable to the end of the restore.
pub(super) fn what_is_forgotten_meanwhile(system: &System) {
    let repo = repo();
    let one = start(system, &repo, "one", 1);
    repo.ok(backup_words(&*one));
    let saved = one.state();
    let two = start(system, &repo, "two", 3);
    let id = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    let over = match two.over().unwrap_or_default() {
        over if over.contains(&"--whole") => &[over, &["--no-safety-snapshot"]].concat(),
        over => over,
    };
    let mut command = repo.command(restore_words(&*two, over));
    command.env("ESKER_LOG", "info").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut restore = command.spawn().unwrap();
    let mut log = BufReader::new(restore.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut told = vec![];
    let is_proved = log.by_ref().any(|line| {
        told.push(line);
        told.last().is_some_and(|line| line.contains("proof ended"))
    });
    assert!(is_proved, "{}: {told:#?}", system.name);
    let process = Pid::from_child(&restore);
    kill_process(process, Signal::STOP).unwrap();
    repo.ok(["forget", &id]);
    for _ in 0..3 {
        repo.ok(["prune", "--max-unused", "0"]);
    }
    assert_eq!(repo.snapshot_count(), 0);
    kill_process(process, Signal::CONT).unwrap();
    told.extend(log);
    assert!(restore.wait().unwrap().success(), "{}: {told:#?}", system.name);
    assert!(two.state() == saved, "{}: not equal", system.name);
    // It is held no longer than that.
    repo.fails(1, restore_words(&*two, over));
}
