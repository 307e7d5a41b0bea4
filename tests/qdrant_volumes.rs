//! Storage folders of Qdrant (`qdrant+file://`), with shards that its own engine writes, holds and reads
//! (`tests/servers/qdrant_volume.py`).

use crate::harness::{Process, Repo, server, source_root, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const SCRIPT: &str = "tests/servers/qdrant_volume.py";

/// A storage folder.
struct Volume(PathBuf);

impl Volume {
    fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(server("vectors/bin/python"));
        command.arg(source_root().join(SCRIPT)).arg(&self.0).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What Qdrant's engine finds in a collection.
    fn points(&self, collection: &str) -> Value {
        serde_json::from_str(&self.run(&["points", collection])).unwrap()
    }

    /// Something that runs on it.
    fn serve(&self) -> Process {
        let ready = self.0.with_extension("ready");
        let process = Process::start(&mut self.command(&["serve", ready.to_str().unwrap()]));
        wait_for("the engine", 60, || ready.exists());
        std::fs::remove_file(ready).unwrap();
        process
    }

    fn url(&self) -> String {
        format!("qdrant+file://{}", self.0.display())
    }
}

/// Everything about the files of a folder but their inodes: mode, owner, size, time, room on disk, content.
type Tree = BTreeMap<String, (u32, u32, u32, i64, i64, u64, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let (mut found, mut pending) = (Tree::new(), vec![root.to_owned()]);
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let of = path.symlink_metadata().unwrap();
            let (content, room) = match of.is_dir() {
                true => {
                    pending.push(path.clone());
                    (vec![], 0)
                }
                // Zeros may be holes afterwards, never the other way round.
                false => (std::fs::read(&path).unwrap(), of.blocks()),
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.insert(name, (of.mode(), of.uid(), of.gid(), of.mtime(), of.mtime_nsec(), room, content));
        }
    }
    found
}

fn assert_same(left: &Tree, right: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (name, ours) in left {
        let theirs = &right[name];
        let head = |(mode, uid, gid, seconds, nanoseconds, _, _): &(_, _, _, _, _, _, _)| {
            (*mode, *uid, *gid, *seconds, *nanoseconds)
        };
        assert_eq!(head(ours), head(theirs), "{name}");
        assert!(ours.6 == theirs.6, "{name}: other bytes");
        assert!(theirs.5 <= ours.5 + 64, "{name}: {} blocks became {}", ours.5, theirs.5);
    }
}

fn details(repo: &Repo) -> Value {
    repo.json(["snapshots"]).as_array().unwrap().last().unwrap()["sources"][0].clone()
}

#[test]
fn a_volume_comes_back_and_a_second_night_costs_what_changed() {
    let repo = Repo::new();
    let volume = Volume::new(repo.path("storage"));
    volume.run(&["make", "things", "10000", "2", "current"]);
    volume.run(&["make", "žluť & co", "300"]);
    let owned = volume.0.join("collections/things/0/shard_config.json");
    std::fs::set_permissions(&owned, std::fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&owned, Some(1234), Some(4321)).unwrap();
    }
    let before = tree(&volume.0);
    let first = repo.json(["backup", &volume.url()]);
    let record = details(&repo);
    assert_eq!(record["kind"], "qdrant+file");
    assert_eq!(record["point_in_time"], true);
    let said = &record["details"];
    assert_eq!(
        (&said["collections"], &said["shards:things"], &said["aliases:things"], &said["shards:žluť & co"]),
        (&"2".into(), &"0,1".into(), &"[\"current\"]".into(), &"0".into()),
        "{record}"
    );
    let stored = volume.0.display().to_string();
    assert!(repo.ok(["ls", "latest"]).contains(&format!("{stored}/collections/things/1/segments/")));

    let points = (volume.points("things"), volume.points("žluť & co"));
    assert_eq!(points.0.as_array().unwrap().len(), 10_000);
    repo.ok(["restore", "latest", "--target", "out", "--verify"]);
    let out = Volume::new(repo.path(&format!("out{stored}")));
    assert_same(&before, &tree(&out.0));
    assert_eq!((out.points("things"), out.points("žluť & co")), points);

    // Reading by the engine was a change, too.
    repo.ok(["backup", &volume.url()]);
    volume.run(&["upsert", "things", "100"]);
    let second = repo.json(["backup", &volume.url()]);
    let stored_bytes = |summary: &Value| summary["data_added_packed"].as_u64().unwrap();
    println!(
        "{} bytes of {}, 1 % upserted: {} bytes ({:.2} %)",
        stored_bytes(&first),
        first["total_bytes_processed"],
        stored_bytes(&second),
        stored_bytes(&second) as f64 * 100.0 / stored_bytes(&first) as f64
    );
    assert!(stored_bytes(&second) * 20 <= stored_bytes(&first));
    let changed = volume.points("things");
    assert_ne!(changed, points.0);
    repo.ok(["restore", &format!("latest:{stored}"), "--target", "plain"]);
    let plain = Volume::new(repo.path("plain"));
    assert_eq!((plain.points("things"), plain.points("žluť & co")), (changed, points.1));
    repo.ok(["check", "--read-data"]);
}

#[test]
fn one_collection_goes_into_the_folder_of_another_server_and_touches_nothing_else() {
    let repo = Repo::new();
    let (volume, other) = (Volume::new(repo.path("storage")), Volume::new(repo.path("other")));
    volume.run(&["make", "things", "500", "2", "current"]);
    volume.run(&["make", "rest", "100"]);
    other.run(&["make", "rest", "200", "1", "mine"]);
    repo.ok(["backup", &volume.url()]);
    let wanted = volume.points("things");
    let neighbour = tree(&other.0);
    let from = format!("latest:{}", volume.0.display());
    let restore = |more: &[&str]| {
        let words = ["restore", &from, "--include", "collections/things", "--target", "other"];
        repo.run(words.iter().chain(more).copied())
    };
    let text =
        |output: std::process::Output| String::from_utf8([output.stdout, output.stderr].concat()).unwrap();

    let said = restore(&[]);
    assert_eq!(said.status.code(), Some(0));
    assert!(text(said).contains("had the aliases [\"current\"]"));
    // Interrupted, it goes on where it stopped.
    std::fs::remove_file(other.0.join("collections/things/0/newest_clocks.json")).unwrap();
    std::fs::write(other.0.join("collections/things/0/.1-1.esker-partial"), "half").unwrap();
    assert_eq!(restore(&[]).status.code(), Some(0));
    let mut after = tree(&other.0);
    assert!(after.contains_key("collections/things/0/newest_clocks.json"));
    after.retain(|path, _| !path.starts_with("collections/things") && path != "collections");
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        neighbour.keys().filter(|path| *path != "collections").collect::<Vec<_>>()
    );
    assert!(after.iter().all(|(path, of)| *of == neighbour[path]));
    assert!(!other.0.join("collections/things/0/.1-1.esker-partial").exists(), "nobody holds it");
    assert_eq!(other.points("things"), wanted);

    // What has lived on is neither overwritten nor mixed, by no choice but one that says so.
    other.run(&["upsert", "things", "2"]);
    std::fs::create_dir(other.0.join("collections/things/0/segments/more")).unwrap();
    std::fs::write(other.0.join("collections/things/0/segments/more/segment.json"), "{}").unwrap();
    let live = tree(&other.0);
    for more in [&[][..], &["--dry-run"], &["--overwrite", "never"], &["--overwrite", "if-newer", "--delete"]]
    {
        let refused = restore(more);
        assert_eq!(refused.status.code(), Some(1));
        let refused = text(refused);
        assert!(refused.contains("mixture of both") && refused.contains("--delete"), "{refused}");
    }
    // A whole volume over another one would take its aliases.
    let whole = repo.fails(1, ["restore", &from, "--target", "other"]);
    assert!(whole.contains("is there already"), "{whole}");
    assert!(tree(&other.0) == live, "nothing was touched");
    std::fs::remove_dir_all(other.0.join("collections/things/0/segments/more")).unwrap();
    let server = other.serve();
    let own = format!("{from}/collections/things");
    let words = ["restore", &own, "--target", "other/collections/things", "--delete"];
    let running = repo.fails(1, words);
    assert!(running.contains("a Qdrant runs on") && running.contains("stop it"), "{running}");
    drop(server);
    // The engine opened the neighbours as well.
    let neighbour = tree(&other.0);
    // Made the snapshot's by its name, or by its folder: the neighbours stay either way.
    assert_eq!(restore(&["--delete"]).status.code(), Some(0));
    assert_eq!(other.points("things"), wanted);
    other.run(&["upsert", "things", "2"]);
    repo.ok(words);
    assert_eq!(other.points("things"), wanted);
    let mut after = tree(&other.0);
    after.retain(|path, _| !path.starts_with("collections/things") && path != "collections");
    assert!(after.iter().all(|(path, of)| *of == neighbour[path]), "the neighbours are as they were");
    let others =
        neighbour.keys().filter(|path| !path.starts_with("collections/things") && *path != "collections");
    assert!(after.keys().eq(others));
    assert_eq!(other.points("rest").as_array().unwrap().len(), 200);
}

#[test]
fn a_folder_that_is_no_volume_at_rest_is_refused() {
    let repo = Repo::new();
    let volume = Volume::new(repo.path("storage"));
    volume.run(&["make", "things", "100"]);
    let running = volume.serve();
    let told = repo.fails(21, ["backup", &volume.url()]);
    assert!(told.contains("a Qdrant runs on this folder") && told.contains("qdrant+http://"), "{told}");
    drop(running);
    // The consensus log of a node without shards is held as well.
    let log = volume.0.join("collections_meta_wal");
    std::fs::create_dir(&log).unwrap();
    let held = std::fs::File::open(&log).unwrap();
    held.lock().unwrap();
    assert!(repo.fails(21, ["backup", &volume.url()]).contains("collections_meta_wal"));
    drop(held);

    let base = repo.dir.path().display();
    for (url, code, told) in [
        (format!("qdrant+file://{base}"), 1, "no folder 'collections'"),
        (format!("qdrant+file://{base}/nothing"), 1, "No such file"),
        (format!("qdrant+file://host{}", volume.0.display()), 1, "absolute path"),
        (format!("{}?x=1", volume.url()), 1, "%3F"),
        (format!("{}#x", volume.url()), 1, "%23"),
    ] {
        let output = repo.fails(code, ["backup", &url]);
        assert!(output.contains(told), "{url}: {output}");
    }
    let elsewhere = volume.0.join("collections/far");
    symlink(repo.path("far"), &elsewhere).unwrap();
    assert!(repo.fails(21, ["backup", &volume.url()]).contains("symbolic link"));
    std::fs::remove_file(elsewhere).unwrap();
    let aliases = volume.0.join("aliases/data.json");
    let whole = std::fs::read(&aliases).unwrap();
    std::fs::write(&aliases, "{\"a\":").unwrap();
    assert!(repo.fails(21, ["backup", &volume.url()]).contains("no JSON"));
    std::fs::write(&aliases, whole).unwrap();
    assert_eq!(repo.snapshot_count(), 0);

    // A link to the folder is the folder; names are those of a URL.
    symlink(&volume.0, repo.path("a#b c")).unwrap();
    repo.ok(["backup", &format!("qdrant+file://{base}/a%23b%20c")]);
    assert!(repo.ok(["ls", "latest"]).contains(&format!("{}/raft_state.json", volume.0.display())));
    // A server starts while nothing of ours holds its locks.
    drop(volume.serve());
}

#[test]
fn what_changes_while_it_is_read_makes_no_snapshot() {
    let repo = Repo::new();
    let volume = Volume::new(repo.path("storage"));
    volume.run(&["make", "things", "2000", "2"]);
    let folder = volume.0.join("collections/things");
    let config = folder.join("config.json");
    let text = [&std::fs::read(&config).unwrap()[..], b"\n"].concat();
    std::fs::write(&config, &text).unwrap();
    let old = std::fs::metadata(&config).unwrap().modified().unwrap();
    let set_time =
        |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    let changes: [(&str, &(dyn Fn(u64) + Sync)); 4] = [
        ("written in place, its time set back", &|number| {
            let file = std::fs::File::options().write(true).open(&config).unwrap();
            let last = if number % 2 == 0 { b" " } else { b"\n" };
            std::os::unix::fs::FileExt::write_all_at(&file, last, text.len() as u64 - 1).unwrap();
            set_time(&config);
        }),
        ("replaced by an equal one", &|_| {
            let beside = folder.join("beside");
            std::fs::write(&beside, &text).unwrap();
            set_time(&beside);
            std::fs::rename(beside, &config).unwrap();
        }),
        ("new segments", &|number| {
            let segment = folder.join(format!("0/segments/{number}"));
            std::fs::create_dir(&segment).unwrap();
            std::fs::write(segment.join("segment.json"), "{}").unwrap();
        }),
        ("files that come and go", &|_| {
            let file = folder.join("0/wal/closed-1");
            std::fs::write(&file, "").unwrap();
            std::fs::remove_file(&file).unwrap();
        }),
    ];
    for (what, change) in changes {
        let stop = AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    change(number);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let output = repo.run(["backup", "--force", &volume.url()]);
            stop.store(true, Ordering::Relaxed);
            output
        });
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(21), "{what}: {told}");
        // A file that goes between two looks is told in its own words.
        assert!(told.contains("changed while") || told.contains("No such file"), "{what}: {told}");
        std::fs::write(&config, &text).unwrap();
    }
    assert_eq!(repo.snapshot_count(), 0);
    repo.ok(["backup", &volume.url()]);
}

#[test]
fn a_volume_in_memory_is_read_again_since_its_times_do_not_tell() {
    let memory = Path::new("/dev/shm");
    if !std::fs::read_to_string("/proc/mounts").unwrap().contains(" /dev/shm tmpfs ") {
        println!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let repo = Repo::new();
    let folder = tempfile::tempdir_in(memory).unwrap();
    let volume = Volume::new(folder.path().join("storage"));
    volume.run(&["make", "things", "400"]);
    repo.ok(["backup", &volume.url()]);
    volume.run(&["upsert", "things", "2"]);
    repo.ok(["backup", &volume.url()]);
    repo.ok(["restore", &format!("latest:{}", volume.0.display()), "--target", "out"]);
    assert_eq!(Volume::new(repo.path("out")).points("things"), volume.points("things"));
}

#[test]
fn hooks_stop_the_server_and_start_it_again_whatever_comes_of_the_backup() {
    let toml = r#"
[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[source]]
name = "vectors"
urls = ["qdrant+file://DIR/storage"]
hooks = { before = "sh DIR/stop", after = "sh DIR/start", failed = "sh DIR/start" }

[[run]]
name = "nightly"
schedule = "*-*-* 02:00"
"#;
    let repo = Repo::with_tiers(toml, &[], true);
    let volume = Volume::new(repo.path("storage"));
    volume.run(&["make", "things", "300"]);
    let python = server("vectors/bin/python");
    let script = source_root().join(SCRIPT);
    let (base, python, script) = (repo.dir.path().display(), python.display(), script.display());
    // A server that stays takes no pipe of the hook's with it.
    let start = format!(
        "setsid {python} {script} {base}/storage serve {base}/pid >/dev/null 2>&1 &\n\
         while [ ! -s {base}/pid ]; do sleep 0.05; done\n"
    );
    let stop = format!(
        "pid=$(cat {base}/pid); rm {base}/pid; kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done\n"
    );
    std::fs::write(repo.path("start"), start).unwrap();
    std::fs::write(repo.path("stop"), stop).unwrap();
    let _stopped = Stopped(repo.path("stop"));
    crate::harness::run("sh", &[repo.path("start").to_str().unwrap()]);
    let started = || std::fs::read_to_string(repo.path("pid")).unwrap();
    let first = started();

    assert!(repo.fails(21, ["backup", &volume.url()]).contains("a Qdrant runs on"));
    repo.ok(["run", "nightly"]);
    let second = started();
    assert_ne!(first, second);
    assert_eq!(repo.snapshot_count(), 1);
    symlink("/", volume.0.join("outside")).unwrap();
    let failed = repo.run(["run", "nightly"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("symbolic link"));
    assert_ne!(started(), second);
    assert!(repo.fails(21, ["backup", &volume.url()]).contains("a Qdrant runs on"), "it runs again");
    assert_eq!(repo.snapshot_count(), 1);
}

/// Runs a script at the end of a test, however it ends.
struct Stopped(PathBuf);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("sh").arg(&self.0).output();
    }
}
