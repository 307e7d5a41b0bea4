//! What looks like another machine never becomes a folder on this one; a store without credentials is told of once; runs
//! exclude each other wherever they are started from.

use crate::harness::{Repo, esker_binary, expect, wait_for};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const ELSEWHERE: [&str; 10] = [
    "sftp:backup@nas.example.org:/srv/repo",
    "rclone:remote:path",
    "b2:bucket:path",
    "gs:bucket:/",
    "swift:container:/path",
    "nas:/srv/repo",
    "s3.amazonaws.com/bucket",
    "https://minio.example.org/bucket",
    "C:\\backup",
    " ",
];

fn esker(dir: &Path, variables: &[(&str, &str)], words: &[&str]) -> Output {
    let mut command = Command::new(esker_binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", dir);
    command.env("ESKER_PASSWORD", "x").envs(variables.iter().copied());
    command.args(words).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn places_elsewhere_become_no_folders() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(dir.path().join("line"), "sftp:host:/x\n").unwrap();
    for place in ELSEWHERE {
        let toml = dir.path().join("esker.toml");
        for text in [
            format!("repository = '{place}'\n"),
            format!(
                "[[tier]]\nname = 'a'\nurl = '/srv/a'\nrole = 'primary'\n[[tier]]\nname = 'b'\nurl = '{place}'\nrole = 'copy'\n"
            ),
        ] {
            std::fs::write(&toml, text).unwrap();
            let output = esker(&work, &[], &["-c", toml.to_str().unwrap(), "config", "check"]);
            let said = expect(&output, 1);
            assert!(said.contains("there are") || said.contains("s3:https://"), "{place}: {said}");
        }
        std::fs::remove_file(&toml).unwrap();
        for words in [
            &["-r", place, "init"][..],
            &["-r", place, "snapshots"],
            &["-r", "/srv/a", "copy", "--from-repo", place],
        ] {
            let output = esker(&work, &[], words);
            expect(&output, 2);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("there are") || said.contains("s3:https://"), "{words:?}: {said}");
        }
        expect(&esker(&work, &[("ESKER_REPOSITORY", place)], &["init"]), 2);
    }
    expect(&esker(&work, &[], &["--repository-file", "../line", "init"]), 2);
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "something was made");
    // Where a folder is meant, it is one.
    for (place, name) in [("./a:b", "a:b"), ("file:c:d", "c:d")] {
        expect(&esker(&work, &[], &["-r", place, "init"]), 0);
        assert!(work.join(name).join("config").exists());
    }
}

/// How often a text is in another.
fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_store_without_credentials_is_told_of_once_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let empty = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];
    let half = [("AWS_ACCESS_KEY_ID", "id")];
    for (variables, why) in [
        (&empty[..], "set, but empty: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        (&half, "no secret"),
        (&[], "tried: the environment, the profile, this machine's metadata service"),
    ] {
        for words in [&["-r", "s3://bucket/x", "snapshots"][..], &["-r", "s3:bucket/x", "init"]] {
            let start = Instant::now();
            let output = esker(dir, variables, words);
            expect(&output, 1);
            assert!(start.elapsed() < Duration::from_secs(10));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(count(&said, "no credentials for S3: set AWS_ACCESS_KEY_ID"), 1, "{said}");
            assert!(said.contains(why) && !said.contains("169.254"), "{said}");
        }
    }
    let azure = [("AZURE_STORAGE_ACCOUNT", "account"), ("AZURE_STORAGE_KEY", "")];
    let output = esker(dir, &azure, &["-r", "azure://container", "snapshots"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(count(&said, "no credentials for Azure"), 1, "{said}");
}

const TIERS: &str = r#"
[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "store"
url = "s3://bucket/x"
role = "copy"

[[source]]
name = "data"
urls = ["DIR/data"]

[[source]]
name = "slow"
command = ["sh", "-c", "echo begun > DIR/begun; sleep 3; echo x"]

[[promise]]
keep = "1y"
tiers = ["local", "store"]
"#;

#[test]
fn a_run_tells_once_of_a_tier_without_credentials() {
    let repo = Repo::with_tiers(TIERS, &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")], true);
    std::fs::write(repo.path("data"), "x").unwrap();
    let output = repo.run(["run", "data"]);
    let said = expect(&output, 3) + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(count(&said, "no credentials for S3"), 1, "{said}");
}

#[test]
fn a_run_by_hand_and_one_of_a_timer_exclude_each_other() {
    // One place only: of several, of which one alone can be reached, a machine without a cache takes none for its own.
    let store = "[[tier]]\nname = \"store\"\nurl = \"s3://bucket/x\"\nrole = \"copy\"\n";
    let tiers = TIERS.replace(store, "").replace(", \"store\"]", "]");
    let repo = Repo::with_tiers(&tiers, &[], true);
    std::fs::write(repo.path("data"), "x").unwrap();
    let config = repo.path("esker.toml").display().to_string();
    // As a timer starts it: no HOME, no cache.
    let timer = |words: &[&str]| {
        let mut command = Command::new(esker_binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("ESKER_PASSWORD", "correct horse");
        command.args(["-c", &config]).args(words).current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut first = timer(&["run", "slow"]).spawn().unwrap();
    wait_for("the first run", 30, || repo.path("begun").exists());
    repo.fails(11, ["run", "slow"]);
    // Another name of the configuration, and another user's idea of a temporary folder, change nothing.
    let link = repo.path("link.toml");
    std::os::unix::fs::symlink(repo.path("esker.toml"), &link).unwrap();
    let mut again = timer(&["run", "slow"]);
    again.env("TMPDIR", repo.dir.path()).env("XDG_CACHE_HOME", repo.path("elsewhere"));
    assert_eq!(again.status().unwrap().code(), Some(11));
    repo.fails(11, ["-c", link.to_str().unwrap(), "run", "slow"]);
    assert!(first.wait().unwrap().code().is_some());
    std::fs::remove_file(repo.path("begun")).unwrap();
    // And nothing of it stays that the next one would trip over.
    assert_ne!(repo.run(["run", "slow"]).status.code(), Some(11));
}

/// What a tier names and does not get is an error: the keys of the environment may be another identity's.
#[test]
fn a_profile_without_keys_is_not_replaced_by_the_keys_of_the_environment() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path(".aws")).unwrap();
    std::fs::write(repo.path(".aws/config"), "[profile bare]\nregion = eu-central-1\n").unwrap();
    let toml = "[[tier]]\nname = \"near\"\nrole = \"primary\"\nurl = \"s3:http://127.0.0.1:1/bucket/x\"\nprofile = \"bare\"\n";
    std::fs::write(repo.path("profile.toml"), toml).unwrap();
    let mut command = repo.command(["-c", "profile.toml", "snapshots"]);
    command.env_remove("ESKER_REPOSITORY").env("HOME", repo.dir.path());
    command.env("AWS_ACCESS_KEY_ID", "AKOTHER").env("AWS_SECRET_ACCESS_KEY", "SKOTHER");
    let output = command.output().unwrap();
    crate::harness::expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("profile 'bare' has no keys"), "{output:?}");
}
