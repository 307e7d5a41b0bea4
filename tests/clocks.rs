//! A clock that is wrong for one run, end to end: `faketime` gives that run a time of its own.

use crate::harness::{Repo, esker_binary, expect};
use serde_json::Value;
use std::process::{Command, Output};

const TOML: &str = r#"
repository = "DIR/repo"

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
select = { class = "daily" }
keep = "30d"
tiers = ["primary"]

[[run]]
name = "nightly"
"#;

/// Runs esker at a time that is not now (faketime(1)).
fn at(repo: &Repo, when: &str, args: &[&str], code: i32) -> Output {
    let like = repo.command(args);
    let mut command = Command::new("faketime");
    command.arg(when).arg(esker_binary()).args(like.get_args());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output =
        command.current_dir(repo.dir.path()).output().expect("faketime: run scripts/install-servers.sh");
    expect(&output, code);
    output
}

/// The snapshots that there are, in their order.
fn ids(repo: &Repo, filter: &[&str]) -> Vec<String> {
    let all = repo.json([&["snapshots"][..], filter].concat());
    all.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn write(repo: &Repo, text: &str) {
    std::fs::create_dir_all(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/file"), text).unwrap();
}

/// The snapshot that appeared.
fn newest(repo: &Repo, before: &[String]) -> String {
    let new: Vec<String> = ids(repo, &[]).into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    new[0].clone()
}

fn snapshot<'a>(all: &'a Value, id: &str) -> &'a Value {
    all.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap()
}

#[test]
fn one_run_with_a_clock_in_2031_costs_nothing() {
    let repo = Repo::with_tiers(TOML, &[], true);
    for days in [20, 10, 5, 2] {
        write(&repo, &format!("{days} days ago"));
        at(&repo, &format!("{days} days ago"), &["run", "nightly"], 0);
    }
    let nights = ids(&repo, &[]);
    assert_eq!(nights.len(), 4);
    write(&repo, "in 2031");
    at(&repo, "2031-05-01 10:00:00", &["run", "nightly"], 3);
    let wrong = newest(&repo, &nights);
    assert!(nights.iter().all(|id| ids(&repo, &[]).contains(id)), "what a wrong clock calls old stays");
    let plan =
        at(&repo, "2031-05-01 10:05:00", &["--json", "forget", "-n", "--keep-within", "30d"], 0).stdout;
    let plan: Value = serde_json::from_slice(&plan).unwrap();
    assert_eq!(plan[0]["keep"].as_array().unwrap().len(), 5, "{plan}");
    let seen = ids(&repo, &[]);
    write(&repo, "today");
    repo.ok(["run", "nightly"]);
    let today = newest(&repo, &seen);
    assert_eq!(ids(&repo, &["latest"]), [today.as_str()]);
    let all = repo.json(["snapshots"]);
    assert_eq!(snapshot(&all, &today)["parent"], wrong.as_str(), "{all}");
    // It is ranked between what was made before and after it.
    assert_eq!(ids(&repo, &[]), [&nights[..], &[wrong.clone(), today.clone()]].concat());
    assert!(snapshot(&all, &wrong)["ranked_time"].as_str().unwrap().starts_with("20"), "{all}");
    // That one counts for no rule, and stays until it is named: only its own time says that it is wrong.
    for (rules, kept) in [
        (&["--keep-last", "1"][..], 2),
        (&["--keep-within", "3d"], 3),
        (&["--keep-within", "30d"], 6),
        (&["--keep-monthly", "1", "--keep-last", "2"], 3),
    ] {
        let plan = repo.json([&["forget", "-n"][..], rules].concat());
        let keep = plan[0]["keep"].as_array().unwrap();
        assert!(
            [&today, &wrong].iter().all(|id| keep.iter().any(|one| one["id"] == id.as_str())),
            "{rules:?}: {plan}"
        );
        assert_eq!(keep.len(), kept, "{rules:?}: {plan}");
    }
    assert_eq!(repo.ok(["dump", "latest", repo.path("data/file").to_str().unwrap()]), "today");
    repo.ok(["check", "--read-data"]);
}

/// A machine that was off for a year ends what is over when a person says that the clock is right.
#[test]
fn what_is_over_goes_when_a_leap_is_accepted() {
    let repo = Repo::with_tiers(TOML, &[], true);
    for days in ["402 days ago", "401 days ago", "400 days ago"] {
        write(&repo, days);
        at(&repo, days, &["run", "nightly"], 0);
    }
    write(&repo, "back");
    let said = at(&repo, "2 days ago", &["run", "nightly"], 3).stdout;
    assert!(String::from_utf8(said).unwrap().contains("esker run --accept-clock"));
    assert_eq!(ids(&repo, &[]).len(), 4);
    write(&repo, "the next day");
    at(&repo, "1 day ago", &["run", "nightly", "--accept-clock"], 0);
    assert_eq!(ids(&repo, &[]).len(), 2);
}
