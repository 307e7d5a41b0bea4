//! Values that are wrong by themselves are wrong arguments, wherever they are given; and durations have the same forms everywhere.

use crate::harness::{Repo, expect};
use std::fs;

/// Neither a service nor a repository is asked for what is wrong by itself.
#[test]
fn values_that_are_wrong_by_themselves_are_usage_and_durations_have_one_form() {
    let repo = Repo::new();
    fs::write(repo.path("file"), "what counts").unwrap();
    for (args, words) in [
        (&["--kms", "foo", "snapshots"][..], "KEY, vault://HOST:8200/MOUNT/KEY or azure-kv://"),
        (&["--kms", "vault://h/k", "snapshots"], "mount is missing"),
        (&["key", "add", "--new-kms", "foo"], "a key service is "),
        (&["key", "passwd", "--new-kms", "foo"], "a key service is "),
        (&["copy", "--from-repo", "repo", "--from-kms", "foo"], "a key service is "),
        (&["--kms-cache", "soon", "snapshots"], "'soon'"),
        (&["--kms-cache", "31d", "snapshots"], "longer than 30 days"),
        (&["--kms-cache", "-1h", "snapshots"], "-1"),
        (&["-o", "kms.timeout=x", "snapshots"], "kms.timeout: 'x'"),
        (&["-o", "kms.timeout=0", "snapshots"], "from 1 s to a day"),
        (&["-o", "s3.timeout=2d", "snapshots"], "from 1 s to a day"),
        (&["-o", "s3.connections=65", "snapshots"], "from 1 to 64"),
        (&["-o", "s3.retries=few", "snapshots"], "s3.retries"),
        (&["-o", "s3.region=", "snapshots"], "s3.region"),
        (&["-o", "foo=1", "snapshots"], "unknown option 'foo'"),
        (&["-o", "foo", "snapshots"], "KEY=VALUE"),
        (&["-o", "redis.order=sideways", "snapshots"], "redis.order"),
        (&["-r", "sftp:h:/x", "snapshots"], "there are"),
        (&["import", "restic:sftp:h:/x"], "there are"),
        (&["--stuck-request-timeout", "2d", "snapshots"], "from 1 s to a day"),
        (&["prune", "--fence-after", "soon"], "'soon'"),
        (&["--pack-size", "0", "snapshots"], "1..=256"),
        (&["--pack-size", "257", "backup", "file"], "1..=256"),
    ] {
        let told = repo.fails(2, args);
        assert!(told.contains(words), "{args:?}: {told}");
    }
    for (name, value) in [("ESKER_KMS", "foo"), ("ESKER_KMS_CACHE", "31d"), ("ESKER_PROGRESS_FPS", "x")] {
        let mut command = repo.command(["backup", "file"]);
        expect(&command.env_remove("ESKER_PASSWORD").env(name, value).output().unwrap(), 2);
    }
    // What may be right and is not there is no wrong argument.
    repo.fails(1, ["-o", "tls.ca=nowhere", "snapshots"]);
    for args in [
        &["--kms-cache", "30d", "snapshots"][..],
        &["--kms-cache", "1w", "snapshots"],
        &["--kms-cache", "90", "snapshots"],
        &["-o", "kms.timeout=5m", "-o", "s3.timeout=1d", "snapshots"],
        &["-o", "kms.timeout=5", "-o", "s3.timeout=60", "snapshots"],
        &["--stuck-request-timeout", "1d", "--retry-lock", "1d", "snapshots"],
        &["prune", "--fence-after", "8d"],
        &["check", "--not-verified-within", "1d12h"],
    ] {
        repo.ok(args);
    }
    let toml = |text: &str| {
        let tiers = format!(
            "kms_cache = \"7d\"\n[[tier]]\nname = \"a\"\nurl = \"{}\"\nrole = \"primary\"\n{text}\n",
            repo.folder().display()
        );
        fs::write(repo.path("esker.toml"), tiers).unwrap();
        let mut command = repo.command(["config", "check"]);
        command.env_remove("ESKER_REPOSITORY").output().unwrap()
    };
    for text in [
        "timeout = 300",
        "timeout = \"5m\"",
        "timeout = \"1d\"",
        "warm_up_command = \"true\"\nwarm_up_wait = \"1d\"",
        "[[stream]]\nname = \"s\"\nurl = \"redis://127.0.0.1:1\"\ninterval = \"1m\"\nbase_every = \"7d\"",
    ] {
        let output = toml(text);
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stdout));
    }
    for text in ["timeout = \"2d\"", "timeout = 0", "timeout = true", "warm_up_wait = \"soon\""] {
        let output = toml(text);
        assert!(output.status.code() == Some(1), "{text}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// What is read whole is bounded, and no other identity takes the place of the one that a profile names.
#[test]
fn files_without_end_and_profiles_that_are_not_read_are_refused() {
    let repo = Repo::empty();
    let told = repo.fails(1, ["backup", "--bundle", "/dev/zero", "."]);
    assert!(told.contains("bytes are not taken from there"), "{told}");
    let lines = "[role]\nrole_arn = arn:x\n[half]\naws_access_key_id = AK\n";
    fs::write(repo.path("credentials"), lines).unwrap();
    for (profile, key) in [("role", "role_arn"), ("half", "aws_access_key_id")] {
        let mut command = repo.command(["-r", "s3:http://127.0.0.1:1/bucket/x", "snapshots"]);
        command.env("AWS_SHARED_CREDENTIALS_FILE", repo.path("credentials")).env("AWS_PROFILE", profile);
        command.env("AWS_CONFIG_FILE", repo.path("config"));
        let output = command.output().unwrap();
        expect(&output, 1);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(profile) && told.contains(key), "{told}");
    }
    // Both keys in one of the two files are enough, whatever the other one has.
    fs::write(repo.path("config"), "[profile both]\nrole_arn = arn:x\n").unwrap();
    fs::write(repo.path("credentials"), "[both]\naws_access_key_id = AK\naws_secret_access_key = s\n")
        .unwrap();
    let mut command = repo.command(["-r", "s3:http://127.0.0.1:1/bucket/x", "snapshots"]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", repo.path("credentials")).env("AWS_PROFILE", "both");
    let output = command.env("AWS_CONFIG_FILE", repo.path("config")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("role_arn") && told.contains("Connection refused"), "{told}");
}
