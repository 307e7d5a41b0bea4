//! The primary is lost, and the only copy is frozen: nothing is changed before it is thawed.

use super::fixtures::System;
use super::{backup_words, list, restore_words};
use crate::glacier::Glacier;
use crate::harness::{Repo, expect};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const TIERS: &str = "[[tier]]\nname = \"local\"\nurl = \"file:DIR/repo\"\nrole = \"primary\"\n\
    [[tier]]\nname = \"glacier\"\nurl = \"s3://cold/suite\"\nendpoint = \"http://127.0.0.1:PORT\"\n\
    role = \"vault\"\nclass = \"GLACIER\"\nretries = 2\n\
    [[promise]]\nkeep = \"30d\"\ntiers = [\"local\", \"glacier\"]\n";

/// Frozen: 22, and what is there stays. With `--wait-thaw`, once it was asked for, what is there stays until all is thawed,
/// and then it is restored; whoever waits can end it at once.
pub(super) fn what_is_frozen(system: &System) {
    let glacier = Glacier::gated();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKTEST"),
        ("AWS_SECRET_ACCESS_KEY", "SKTEST"),
        ("AWS_REGION", "us-east-1"),
        ("ESKER_EXAMPLE_TOKEN", list::TOKEN),
    ];
    let repo = Repo::with_tiers(&TIERS.replace("PORT", &glacier.port.to_string()), &keys, true);
    let one = super::start(system, &repo, "one", 1);
    repo.ok(backup_words(&*one));
    let two = (system.start)(&repo, "two");
    if two.over().is_some() {
        two.fill(3);
    }
    let before = two.state();
    // There is no primary that could take what is there.
    let over = match two.over().unwrap_or_default() {
        over if over.contains(&"--whole") => &[over, &["--no-safety-snapshot"]].concat(),
        over => over,
    };
    std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
    let text = repo.fails(22, restore_words(&*two, over));
    assert!(text.contains("esker thaw start"), "{}: {text}", system.name);
    assert!(two.state() == before, "{}: {text}", system.name);
    // Nobody has asked for it: there is nothing to wait for.
    let words = restore_words(&*two, &[over, &["--wait-thaw"]].concat());
    repo.fails(22, &words);
    repo.ok(["thaw", "start", "latest"]);
    let text = repo.fails(22, restore_words(&*two, over));
    assert!(text.contains("--wait-thaw"), "{}: {text}", system.name);
    let wait = || repo.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_waiting = |waiting: &mut Child| {
        let mut head = BufReader::new(waiting.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = head.find(|line| line.contains("thaw"));
        assert!(line.is_some() && two.state() == before, "{}", system.name);
        // Whoever says more is not to be held up.
        std::thread::spawn(move || head.for_each(drop));
    };
    let mut waiting = wait();
    is_waiting(&mut waiting);
    let _ = kill_process(Pid::from_child(&waiting), Signal::INT);
    let began = Instant::now();
    expect(&waiting.wait_with_output().unwrap(), 130);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let mut waiting = wait();
    is_waiting(&mut waiting);
    glacier.open_gate();
    let output = waiting.wait_with_output().unwrap();
    expect(&output, 0);
    assert!(two.state() == one.state(), "{}: {output:?}", system.name);
}
