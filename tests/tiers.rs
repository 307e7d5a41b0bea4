//! Tiers against real servers: copied to, lost, thawed, healed, locked, adopted.

use crate::glacier::{Glacier, python};
use crate::harness::{Repo, expect, noise, wait_for};
use crate::seaweed::{Cluster, Weed};
use serde_json::Value;
use std::path::{Path, PathBuf};

mod azure;

/// A local primary, S3 and Glacier; everything is promised everywhere.
const THREE: &str = r#"
[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "s3"
url = "s3://bk1/PREFIX"
endpoint = "http://127.0.0.1:S3PORT"
retries = 2
timeout = 30

[[tier]]
name = "glacier"
url = "s3://cold/PREFIX"
endpoint = "http://127.0.0.1:COLDPORT"
role = "vault"
class = "GLACIER"
retries = 2

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "30d"
tiers = ["local", "s3", "glacier"]
"#;

const CREDENTIALS: &[(&str, &str)] =
    &[("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST"), ("AWS_REGION", "us-east-1")];

fn three(s3: u16, cold: u16, prefix: &str) -> String {
    let ports = THREE.replace("S3PORT", &s3.to_string()).replace("COLDPORT", &cold.to_string());
    ports.replace("PREFIX", prefix)
}

/// Files that do not compress, so that sizes are known.
fn fill(folder: &Path, seed: u64, files: usize, len: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..files {
        std::fs::write(folder.join(format!("file-{number}")), noise(seed + number as u64, len)).unwrap();
    }
}

fn same(repo: &Repo, restored: &str) {
    let data = repo.path("data");
    let there = repo.path(restored).join(data.strip_prefix("/").unwrap());
    crate::harness::run("diff", &["-r", data.to_str().unwrap(), there.to_str().unwrap()]);
}

fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder.join("packs"))
        .unwrap()
        .flat_map(|session| std::fs::read_dir(session.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

fn tier<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["tiers"].as_array().unwrap().iter().find(|tier| tier["tier"] == name).unwrap()
}

/// The story of a disaster in three parts; what is thawed is what was planned, counted by the store.
#[test]
fn each_tier_alone_brings_everything_back() {
    let (weed, glacier) = (Weed::start(), Glacier::gated());
    let repo = Repo::with_tiers(&three(weed.port(), glacier.port, "three"), CREDENTIALS, true);
    fill(&repo.path("data"), 1, 6, 5_000_000);
    let report = repo.json(["--pack-size", "8", "run"]);
    assert_eq!(report["promises_behind"].as_array().unwrap().len(), 0, "{report}");
    let packed = packs(&repo.path("repo"));
    for name in ["s3", "glacier"] {
        assert_eq!(tier(&report, name)["packs_copied"], packed.len(), "{report}");
    }
    let status = repo.json(["tier", "status"]);
    let cold = tier(&status, "glacier");
    assert_eq!(
        cold["packs_frozen"].as_u64().unwrap() + 1,
        packed.len() as u64,
        "metadata stays hot: {status}"
    );
    // A second run has nothing to copy but what it adds.
    let again = repo.json(["run"]);
    assert_eq!(tier(&again, "s3")["snapshots_copied"], 1);

    std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
    let report = repo.json(["restore", "latest", "--target", "from-s3"]);
    same(&repo, "from-s3");
    assert_eq!(report["tiers"][0]["tier"], "s3", "{report}");

    drop(weed);
    let denied = repo.run(["restore", "latest", "--target", "too-early"]);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(said.contains("esker thaw start"), "{said}");
    expect(&denied, 22);
    let plan = repo.json(["thaw", "plan", "latest"]);
    let (planned, bytes) = (plan["packs"].as_u64().unwrap(), plan["bytes"].as_u64().unwrap());
    assert_eq!(planned + 1, packed.len() as u64, "{plan}");
    assert_eq!(plan["offers"].as_array().unwrap().len(), 3, "{plan}");
    // Of a part of it, a part is needed.
    let one = repo.path("data/file-0").display().to_string();
    let part = repo.json(["thaw", "plan", &format!("latest:{one}")]);
    assert!(part["packs"].as_u64().unwrap() < planned, "{part}");

    glacier.requests();
    let asked = repo.json(["thaw", "start", "latest", "--retrieval", "bulk"]);
    assert_eq!((asked["packs_asked"].as_u64(), asked["bytes"].as_u64()), (Some(planned), Some(bytes)));
    repo.ok(["thaw", "start", "latest"]);
    let restores = |requests: &[[String; 5]]| {
        requests.iter().filter(|request| request[0] == "POST" && request[1].ends_with("?restore=")).count()
            as u64
    };
    assert_eq!(restores(&glacier.requests()), planned, "one request each, and none for the second start");
    repo.fails(22, ["thaw", "status", "latest"]);
    repo.fails(22, ["restore", "latest", "--target", "too-early"]);
    glacier.open_gate();
    repo.ok(["thaw", "status", "latest"]);
    glacier.requests();
    let report = repo.json(["restore", "latest", "--target", "from-glacier"]);
    same(&repo, "from-glacier");
    assert_eq!(report["tiers"].as_array().unwrap().last().unwrap()["tier"], "glacier", "{report}");
    let requests = glacier.requests();
    assert_eq!(restores(&requests), 0);
    let read: u64 = requests
        .iter()
        .filter(|request| {
            request[0] == "GET" && request[1].contains("/packs/") && request[2].starts_with('2')
        })
        .map(|request| request[3].parse::<u64>().unwrap())
        .sum();
    // Whole packs were thawed; of them, only what the snapshot needs is read, and its manifest.
    assert!(read <= bytes + (2 << 20) && read >= 30_000_000, "{read} of {bytes}");
}

/// Bytes are flipped in a part of the packs, and others are gone: what is read is right, and then mended.
#[test]
fn damage_here_heals_from_there() {
    let (weed, glacier) = (Weed::start(), Glacier::start(1.0, 60.0));
    let repo = Repo::with_tiers(&three(weed.port(), glacier.port, "heal"), CREDENTIALS, true);
    fill(&repo.path("data"), 50, 60, 1_000_000);
    repo.ok(["--pack-size", "1", "run"]);
    let packed = packs(&repo.path("repo"));
    assert!(packed.len() >= 40, "{}", packed.len());
    let (flipped, removed) = (packed.len().div_ceil(20), packed.len().div_ceil(50));
    for (number, pack) in packed.iter().skip(4).step_by(7).take(flipped).enumerate() {
        let mut bytes = std::fs::read(pack).unwrap();
        let at = (number * 7919 + 200) % bytes.len();
        bytes[at] ^= 0x40;
        // More than parity makes up for.
        let end = bytes.len() / 2 + bytes.len() / 4;
        bytes[end / 3..end].reverse();
        std::fs::write(pack, bytes).unwrap();
    }
    packed.iter().skip(3).step_by(11).take(removed).for_each(|pack| std::fs::remove_file(pack).unwrap());
    let report = repo.json(["restore", "latest", "--target", "out"]);
    same(&repo, "out");
    let s3 = report["tiers"].as_array().unwrap().iter().find(|tier| tier["tier"] == "s3").unwrap();
    assert!(s3["bytes"].as_u64() > Some(0), "{report}");
    expect(&repo.run(["-r", repo.path("repo").to_str().unwrap(), "check", "--read-data"]), 1);
    let output = repo.command(["--json", "heal"]).output().unwrap();
    let text = expect(&output, 0);
    let local: Value = serde_json::from_str(
        text.lines().find(|line| line.contains("\"summary\"") && line.contains("\"local\"")).unwrap(),
    )
    .unwrap();
    assert_eq!(local["packs_fetched"].as_u64(), Some((flipped + removed) as u64), "{local}");
    assert_eq!(local["num_errors"], 0);
    repo.ok(["check", "--read-data"]);
    repo.ok(["-r", repo.path("repo").to_str().unwrap(), "check", "--read-data"]);
}

/// One of three volume servers goes down while packs are copied, and nothing is lost.
#[test]
fn a_volume_server_dies_during_copy_and_restore() {
    for during_restore in [false, true] {
        let mut cluster = Cluster::start();
        let toml = three(cluster.port(), 1, "cluster");
        // Without the vault.
        let (head, rest) = toml.split_once("[[tier]]\nname = \"glacier\"").unwrap();
        let rest = &rest[rest.find("[[source]]").unwrap()..];
        let toml = format!("{head}{rest}").replace(", \"glacier\"", "");
        let repo = Repo::with_tiers(&toml, CREDENTIALS, true);
        fill(&repo.path("data"), 100, 24, 5_000_000);
        let running = |repo: &Repo, args: &[&str], cluster: &mut Cluster| {
            let mut child = repo.command(args).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(400));
            cluster.lose_one();
            assert!(child.wait().unwrap().success(), "{args:?}");
        };
        if during_restore {
            repo.ok(["--pack-size", "4", "run"]);
            std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
            running(&repo, &["restore", "latest", "--target", "out"], &mut cluster);
        } else {
            running(&repo, &["--pack-size", "4", "run"], &mut cluster);
            std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
            repo.ok(["restore", "latest", "--target", "out"]);
        }
        same(&repo, "out");
    }
}

/// A copy becomes the primary; the old one comes back, is refused, and joins again as a copy.
#[test]
fn an_adopted_tier_takes_over_for_good() {
    let (weed, glacier) = (Weed::start(), Glacier::start(1.0, 60.0));
    let repo = Repo::with_tiers(&three(weed.port(), glacier.port, "adopt"), CREDENTIALS, true);
    fill(&repo.path("data"), 200, 4, 1_000_000);
    repo.ok(["run"]);
    let copy =
        repo.fails(1, ["-r", &format!("s3:http://127.0.0.1:{}/bk1/adopt", weed.port()), "backup", "data"]);
    assert!(copy.contains("a copy of a repository"), "{copy}");
    std::fs::rename(repo.path("repo"), repo.path("old")).unwrap();
    repo.ok(["tier", "adopt", "s3"]);
    let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
    let toml = toml
        .replace("\nrole = \"primary\"", "")
        .replace("name = \"s3\"", "name = \"s3\"\nrole = \"primary\"");
    std::fs::write(repo.path("esker.toml"), toml).unwrap();
    fill(&repo.path("data"), 300, 1, 1_000_000);
    repo.ok(["tier", "init", "local"]);
    let report = repo.json(["run"]);
    assert_eq!(tier(&report, "local")["snapshots_copied"], 2, "the others are built anew: {report}");
    assert_eq!(tier(&report, "glacier")["snapshots_copied"], 1, "{report}");
    repo.ok(["check", "--read-data"]);
    // The old primary comes back where it was.
    std::fs::rename(repo.path("repo"), repo.path("new-copy")).unwrap();
    std::fs::rename(repo.path("old"), repo.path("repo")).unwrap();
    let old = repo.path("repo").display().to_string();
    let refused = repo.fails(1, ["-r", &old, "backup", "data"]);
    assert!(refused.contains("rolled back"), "{refused}");
    // On a machine that knows nothing of it, it is refused by the tiers.
    let toml = std::fs::read_to_string(repo.path("esker.toml")).unwrap();
    let before = toml
        .replace("\nrole = \"primary\"", "")
        .replace("name = \"local\"", "name = \"local\"\nrole = \"primary\"");
    std::fs::write(repo.path("before.toml"), before).unwrap();
    let other = ["--cache-dir", "other-cache", "-c", "before.toml", "run"];
    let said = repo.fails(28, other);
    assert!(said.contains("was made the primary since"), "{said}");
    let behind = repo.run(["tier", "sync"]);
    assert!(String::from_utf8_lossy(&behind.stdout).contains("--rejoin local"), "{behind:?}");
    repo.ok(["tier", "sync", "--rejoin", "local"]);
    repo.ok(["tier", "sync"]);
    repo.ok(["restore", "latest", "--target", "out"]);
    same(&repo, "out");
    repo.ok(["-r", &old, "check", "--read-data"]);
}

/// What most of a pack does not need is sealed anew for the vault; the pack itself stays behind.
#[test]
fn a_vault_gets_what_is_promised_to_it_and_no_more() {
    let (weed, glacier) = (Weed::start(), Glacier::start(0.3, 60.0));
    let toml = three(weed.port(), glacier.port, "sparse").replace(
        "tiers = [\"local\", \"s3\", \"glacier\"]",
        "tiers = [\"local\", \"s3\"]\n\n[[promise]]\nselect = { tag = \"keep\" }\nkeep = \"1y\"\ntiers = [\"glacier\"]",
    );
    let repo = Repo::with_tiers(&toml, CREDENTIALS, true);
    fill(&repo.path("data"), 400, 20, 1_000_000);
    repo.ok(["run"]);
    // Most of it goes; what is left is a tenth of its pack.
    for number in 2..20 {
        std::fs::remove_file(repo.path(&format!("data/file-{number}"))).unwrap();
    }
    repo.ok(["backup", "--no-sync", "--tag", "keep", "data"]);
    let data = repo.path("data").display().to_string();
    repo.ok(["backup", "--no-sync", "--tag", "keep", &data]);
    let report = repo.json(["tier", "sync"]);
    let cold = tier(&report, "glacier");
    assert_eq!(cold["snapshots_copied"], 2, "{report}");
    assert!(cold["bytes_rewritten"].as_u64().unwrap() < 2_500_000, "{report}");
    assert!(cold["bytes_copied"].as_u64().unwrap() < 100_000, "{report}");
    std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
    drop(weed);
    repo.ok(["thaw", "start", "latest"]);
    wait_for("thawed", 20, || repo.run(["thaw", "status", "latest"]).status.success());
    repo.ok(["restore", "latest", "--target", "out"]);
    same(&repo, "out");
    let found =
        python(glacier.port, "print(s3.list_objects_v2(Bucket='cold', Prefix='sparse/packs')['KeyCount'])");
    assert!(found.unwrap().trim().parse::<u32>().unwrap() <= 5);
}

/// What is wrong with a store is said in words, the other tiers go on, and nothing is lost.
#[test]
fn each_trouble_is_told_and_leaves_the_others_alone() {
    let (weed, glacier) = (Weed::start(), Glacier::start(1.0, 60.0));
    let sound = three(weed.port(), glacier.port, "trouble");
    let repo = Repo::with_tiers(&sound, CREDENTIALS, true);
    fill(&repo.path("data"), 500, 2, 100_000);
    let with = |from: &str, to: &str, code: i32, expected: &str| {
        assert!(sound.contains(from));
        let toml = sound.replace(from, to).replace("DIR", &repo.dir.path().display().to_string());
        std::fs::write(repo.path("esker.toml"), toml).unwrap();
        let output = repo.run(["run"]);
        expect(&output, code);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains(expected), "{to}: {said}");
        said
    };
    let said = with("s3://bk1/", "s3://nowhere/", 3, "no such bucket");
    assert!(said.contains("tier 'glacier': copied 1 snapshot"), "the other one goes on: {said}");
    assert!(said.contains("behind: every snapshot on s3"), "{said}");
    with(&format!(":{}\"", weed.port()), ":1\"", 3, "tier 's3': BEHIND");
    with("class = \"GLACIER\"", "class = \"FREEZER\"", 1, "unknown storage class 'FREEZER'");
    with("\"s3\", \"glacier\"]", "\"s4\", \"glacier\"]", 1, "there is no tier 's4'");
    let wrong = repo.path("credentials");
    std::fs::write(&wrong, "[bad]\naws_access_key_id = AKTEST\naws_secret_access_key = no\n").unwrap();
    let profile = "s3://bk1/trouble\"\nprofile = \"bad\"";
    let toml =
        sound.replace("s3://bk1/trouble\"", profile).replace("DIR", &repo.dir.path().display().to_string());
    std::fs::write(repo.path("esker.toml"), toml).unwrap();
    let output = repo.command(["run"]).env("AWS_SHARED_CREDENTIALS_FILE", &wrong).output().unwrap();
    let said = expect(&output, 3);
    assert!(said.contains("the secret key is not that of the access key"), "{said}");
    // A rule that would remove packs by their age.
    let rule = "s3.put_bucket_lifecycle_configuration(Bucket='cold', LifecycleConfiguration={'Rules': [{'ID': 'tidy', \
                'Status': 'Enabled', 'Filter': {'Prefix': ''}, 'Expiration': {'Days': 30}}]})";
    python(glacier.port, rule).unwrap();
    with("s3://cold/trouble", "s3://cold/other", 3, "'glacier' was made, and is not at");
    let refused = repo.fails(1, ["tier", "init", "--again", "glacier"]);
    assert!(refused.contains("rule 'tidy' removes objects"), "{refused}");
    // What was owed is paid once the trouble is over.
    python(glacier.port, "s3.delete_bucket_lifecycle(Bucket='cold')").unwrap();
    let said = with("DIR", "DIR", 0, "all promises are kept");
    assert!(said.contains("tier 's3': copied 7 snapshots") || said.contains("tier 's3': copied"), "{said}");
    repo.ok(["tier", "status"]);
}

/// Locks last as long as promises do, and are extended when they are.
#[test]
fn what_is_promised_is_locked_and_stays_locked() {
    let weed = Weed::start();
    python(weed.port(), "s3.create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)").unwrap();
    let toml = r#"
[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "safe"
url = "s3://locked/esker"
endpoint = "http://127.0.0.1:PORT"
object_lock_days = 1
retries = 2

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "2d"
tiers = ["local", "safe"]
"#;
    let toml = toml.replace("PORT", &weed.port().to_string());
    let repo = Repo::with_tiers(&toml, CREDENTIALS, true);
    fill(&repo.path("data"), 600, 3, 500_000);
    repo.ok(["run"]);
    let first = python(weed.port(), RETENTION).unwrap();
    let locks: Vec<i64> = first.lines().map(|line| line.parse().unwrap()).collect();
    let (days, now) = (86_400, jiff::Timestamp::now().as_second());
    assert!(
        locks.len() >= 2 && locks.iter().all(|until| (now + days..now + 3 * days).contains(until)),
        "{first}"
    );
    // Another client, with all rights.
    let attack = python(weed.port(), ATTACK).unwrap();
    assert!(!attack.contains("gone") && !attack.contains("replaced"), "{attack}");
    // What it put on top of them is taken away, even if nothing else is left: it could not remove what is beneath.
    let place = format!("s3:http://127.0.0.1:{}/locked/esker", weed.port());
    let attacked = repo.fails(1, ["-r", &place, "check", "--read-data"]);
    assert!(attacked.contains("is damaged"), "{attacked}");
    repo.ok(["-r", &place, "heal"]);
    repo.ok(["-r", &place, "check", "--read-data"]);
    // The promise is made longer, and so are the locks of what is there already.
    let longer = std::fs::read_to_string(repo.path("esker.toml")).unwrap().replace("\"2d\"", "\"90d\"");
    std::fs::write(repo.path("esker.toml"), longer).unwrap();
    let report = repo.json(["tier", "sync"]);
    assert!(tier(&report, "safe")["locks_extended"].as_u64() >= Some(2), "{report}");
    let second = python(weed.port(), RETENTION).unwrap();
    let after: Vec<i64> = second.lines().map(|line| line.parse().unwrap()).collect();
    assert!(after.iter().all(|until| *until > now + 80 * days), "{second}");
    assert_eq!(repo.json(["tier", "sync"])["tiers"][0]["locks_extended"], 0);
    let status = repo.json(["tier", "status"]);
    assert!(tier(&status, "safe")["first_unlock_s"].as_i64() > Some(now + 80 * days), "{status}");
    // Forgotten, but locked: it stays until the lock ends, and the prune says so by leaving it.
    let before = python(weed.port(), RETENTION).unwrap().lines().count();
    fill(&repo.path("data"), 700, 3, 500_000);
    repo.ok(["run"]);
    let snapshots = repo.json(["snapshots"]);
    repo.ok(["forget", snapshots[0]["id"].as_str().unwrap()]);
    repo.ok(["run"]);
    repo.ok(["tier", "prune"]);
    assert!(python(weed.port(), RETENTION).unwrap().lines().count() > before);
}

/// Until when each pack is locked, in seconds since the Unix epoch.
const RETENTION: &str = "
for page in s3.get_paginator('list_objects_v2').paginate(Bucket='locked', Prefix='esker/packs/'):
    for found in page.get('Contents', []):
        retention = s3.get_object_retention(Bucket='locked', Key=found['Key'])['Retention']
        print(int(retention['RetainUntilDate'].timestamp()))
";

/// Tries to remove and to replace every pack, and says what succeeded.
const ATTACK: &str = "
for version in s3.list_object_versions(Bucket='locked', Prefix='esker/packs/')['Versions']:
    key, before = version['Key'], version['Size']
    try:
        s3.delete_object(Bucket='locked', Key=key, VersionId=version['VersionId'])
        print('gone', key)
    except botocore.exceptions.ClientError as error:
        print('kept', error.response['Error']['Code'])
    try:
        s3.put_object(Bucket='locked', Key=key, Body=b'ransom')
        versions = s3.list_object_versions(Bucket='locked', Prefix=key)['Versions']
        print('hidden' if any(found['Size'] == before for found in versions) else 'replaced', key)
    except botocore.exceptions.ClientError as error:
        print('refused', error.response['Error']['Code'])
";

/// Promises end tier by tier, as a dry run says beforehand; what is named goes everywhere.
#[test]
fn promises_end_and_what_is_named_goes() {
    let (weed, glacier) = (Weed::start(), Glacier::start(1.0, 60.0));
    let toml = three(weed.port(), glacier.port, "ends");
    let repo = Repo::with_tiers(&toml, CREDENTIALS, true);
    fill(&repo.path("data"), 900, 2, 200_000);
    let data = repo.path("data").display().to_string();
    repo.ok(["backup", "--no-sync", "--time", "2020-01-01 00:00:00", &data]);
    // Without being asked, a backup is copied, too.
    assert!(repo.ok(["backup", &data]).contains("tier 's3': copied 1 snapshot"));
    let old = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    // What was made by hand stays; what was released does not.
    assert_eq!(tier(&repo.json(["forget", "--dry-run"]), "local")["remove"], serde_json::json!([]));
    repo.ok(["tag", &old, "--release"]);
    let old = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    // Thirty days are over for the one of 2020, wherever it is: nowhere but here.
    let dry = repo.json(["forget", "--dry-run"]);
    assert_eq!(tier(&dry, "local")["remove"], serde_json::json!([old]), "{dry}");
    assert_eq!(tier(&dry, "s3")["remove"], serde_json::json!([]), "{dry}");
    assert!(repo.ok(["forget", "--dry-run"]).contains("local"));
    assert_eq!(repo.snapshot_count(), 2);
    assert_eq!(tier(&repo.json(["forget", "--prune"]), "local")["snapshots_forgotten"], 1);
    assert_eq!(repo.snapshot_count(), 1);
    repo.fails(2, ["forget", "--host", "h"]);
    repo.ok(["backup", "--tag", "wrong", &data]);
    let wrong = repo.json(["snapshots", "--tag", "wrong"])[0]["id"].as_str().unwrap().to_owned();
    repo.ok(["forget", &wrong]);
    let status = repo.json(["tier", "status"]);
    for name in ["local", "s3", "glacier"] {
        assert_eq!(tier(&status, name)["snapshots"], 1, "{status}");
    }
    repo.ok(["tier", "status"]);
}
