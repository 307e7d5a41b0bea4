//! Damage of real repositories, found, named, mended and repaired by the real command. `tests/simulation/tests/damage.rs` does
//! it to every byte.

use crate::harness::{Repo, expect, noise, wait_for};
use std::process::Stdio;

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn damage_is_named_and_the_rest_restores() {
    let repo = Repo::new();
    for number in 0..20 {
        let folder = repo.path(&format!("source/{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("data"), noise(number, 1_000_000)).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    let packs = files_under(&repo.folder().join("packs"));
    let large = packs.iter().find(|path| path.metadata().unwrap().len() > 4_000_000).unwrap();
    let mut bytes = std::fs::read(large).unwrap();
    bytes[2_000_000] ^= 1;
    std::fs::write(large, bytes).unwrap();
    repo.ok(["check"]);
    let text = repo.fails(1, ["check", "--read-data"]);
    assert!(text.contains(large.file_name().unwrap().to_str().unwrap()), "{text}");
    assert_eq!(text.matches("/data: parts of its content").count(), 1, "{text}");
    let text = repo.fails(1, ["restore", "latest", "--target", "out"]);
    assert_eq!(text.matches("error: /source/").count(), 1, "{text}");
    let restored = files_under(&repo.path("out"));
    assert_eq!(restored.len(), 19);
    for path in restored {
        let number = path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert!(std::fs::read(&path).unwrap() == noise(number, 1_000_000));
    }
    // The next backup stores what is missing once it is known to be missing.
    std::fs::remove_file(large).unwrap();
    assert!(repo.fails(1, ["check"]).contains("missing") || repo.fails(1, ["check"]).contains("cannot read"));
}

#[test]
fn the_index_comes_back_from_the_packs() {
    let repo = Repo::new();
    let data = noise(3, 5_000_000);
    expect(&repo.feed(["backup", "--stdin"], &data), 0);
    let segments = files_under(&repo.folder().join("index"));
    std::fs::write(&segments[0], b"rubbish").unwrap();
    std::fs::remove_dir_all(repo.path("cache")).unwrap();
    let text = repo.fails(1, ["check"]);
    assert!(text.contains("index/"), "{text}");
    repo.fails(1, ["dump", "latest", "stdin"]);
    let dry = repo.json(["repair", "index", "--dry-run"]);
    assert_eq!(dry["segments_lost"], 1);
    repo.ok(["repair", "index"]);
    repo.ok(["check", "--read-data"]);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
    // From nothing but the packs, and with the cache deleted behind our back.
    repo.ok(["repair", "index", "--read-all-packs"]);
    std::fs::remove_dir_all(repo.path("cache")).unwrap();
    repo.ok(["check", "--read-data"]);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
}

/// Damage beyond parity: what can be read is kept, what is still at hand is stored again, and what is lost is
/// said, and left out, once and for all.
#[test]
fn packs_and_snapshots_are_repaired() {
    let repo = Repo::made(&["--parity", "off"]);
    for number in 0..12 {
        let folder = repo.path(&format!("source/{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("data"), noise(number, 1_000_000)).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    let packs = files_under(&repo.folder().join("packs"));
    let large: Vec<_> = packs.iter().filter(|path| path.metadata().unwrap().len() > 3_000_000).collect();
    let mut bytes = std::fs::read(large[0]).unwrap();
    bytes[2_000_000] ^= 1;
    std::fs::write(large[0], &bytes).unwrap();
    std::fs::remove_file(large[1]).unwrap();
    let plan = repo.run(["--json", "repair", "packs", "--read-data", "--dry-run"]);
    let plan: serde_json::Value = serde_json::from_str(expect(&plan, 1).lines().last().unwrap()).unwrap();
    assert_eq!((&plan["packs_damaged"], &plan["packs_dropped"]), (&2.into(), &2.into()));
    assert!(plan["chunks_saved"].as_u64() > Some(0) && plan["chunks_lost"].as_u64() > Some(0), "{plan}");
    repo.fails(1, ["check", "--read-data"]);
    let before = files_under(&repo.folder().join("packs"));
    repo.fails(1, ["repair", "packs", "--read-data", "-y"]);
    let after = files_under(&repo.folder().join("packs"));
    assert!(before.iter().all(|path| after.contains(path)) && after.len() > before.len(), "it only adds");
    // Half of the sources are still there; their chunks are stored again, as nobody builds on what is lost.
    for number in 0..6 {
        std::fs::remove_dir_all(repo.path(&format!("source/{number}"))).unwrap();
    }
    repo.ok(["backup", "source", "--pack-size", "4"]);
    repo.ok(["restore", "latest", "--target", "half"]);
    let text = repo.fails(1, ["check", "--read-data"]);
    assert!(text.contains("parts of its content are damaged or missing"), "{text}");
    repo.fails(1, ["repair", "snapshots", "--dry-run"]);
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 2);
    let said = repo.run(["repair", "snapshots"]);
    let said = expect(&said, 1);
    assert!(said.contains("holds what is left of") && said.contains("source/"), "{said}");
    assert_eq!(repo.ok(["snapshots", "--json"]).matches("short_id").count(), 3, "the old one stays");
    repo.fails(1, ["repair", "snapshots", "--forget", "--yes"]);
    assert!(repo.ok(["repair", "snapshots"]).contains("are fine, 0 lost something"));
    repo.ok(["prune"]);
    repo.ok(["check", "--read-data"]);
    for snapshot in serde_json::from_str::<Vec<serde_json::Value>>(&repo.ok(["snapshots", "--json"])).unwrap()
    {
        let target = format!("out-{}", snapshot["short_id"].as_str().unwrap());
        repo.ok(["restore", snapshot["id"].as_str().unwrap(), "--target", &target]);
        let restored = files_under(&repo.path(&target));
        assert!(restored.len() >= 6);
        for path in restored {
            let number = path.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
            assert!(std::fs::read(&path).unwrap() == noise(number, 1_000_000));
        }
    }
}

/// A HEAD that is lost, damaged or put back comes back with everything that was acknowledged.
#[test]
fn head_is_made_anew() {
    let repo = Repo::new();
    let head = repo.folder().join("HEAD");
    let mut old = vec![];
    for number in 0..4 {
        expect(&repo.feed(["backup", "--stdin"], &noise(number, 300_000)), 0);
        if number == 1 {
            old = std::fs::read(&head).unwrap();
        }
    }
    repo.ok(["forget", "--keep-last", "3", "--prune"]);
    assert!(repo.ok(["repair", "head"]).contains("HEAD is fine"));
    let mut flipped = std::fs::read(&head).unwrap();
    flipped[300] ^= 1;
    for damage in [None, Some(flipped), Some(old), Some(vec![])] {
        match &damage {
            None => std::fs::remove_file(&head).unwrap(),
            Some(bytes) => std::fs::write(&head, bytes).unwrap(),
        }
        repo.fails(1, ["snapshots"]);
        let said = repo.ok(["repair", "head", "--dry-run"]);
        assert!(said.contains("3 snapshots"), "{said}");
        repo.fails(1, ["snapshots"]);
        repo.ok(["repair", "head", "--yes"]);
        repo.ok(["check", "--read-data"]);
        for (place, snapshot) in
            serde_json::from_str::<Vec<serde_json::Value>>(&repo.ok(["snapshots", "--json"]))
                .unwrap()
                .iter()
                .enumerate()
        {
            let dump = repo.run(["dump", snapshot["id"].as_str().unwrap(), "stdin"]);
            assert!(dump.stdout == noise(place as u64 + 1, 300_000));
        }
        expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "after"], b"goes on"), 0);
        repo.ok(["forget", "latest", "--path", "/after", "--prune"]);
    }
}

/// Where a store cannot swap, HEAD is the last of a chain: backups and prunes at the same time, links lost, and back.
#[test]
fn head_as_a_chain() {
    let repo = Repo::made(&["--head", "chain"]);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let repo = &repo;
            scope.spawn(move || {
                for night in 0..3 {
                    let name = format!("stream-{number}-{night}");
                    let data = noise(number * 10 + night, 200_000);
                    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", &name], &data), 0);
                }
            });
        }
        scope.spawn(|| repo.ok(["prune"]));
    });
    assert!(!repo.folder().join("HEAD").exists());
    let links = files_under(&repo.folder().join("head"));
    assert!(links.len() > 24, "{}", links.len());
    assert_eq!(repo.snapshot_count(), 12);
    repo.ok(["forget", "--keep-last", "2", "--group-by", "host", "--prune"]);
    repo.ok(["check", "--read-data"]);
    // The last link is taken away: whoever saw it says so.
    let last = files_under(&repo.folder().join("head")).pop().unwrap();
    std::fs::remove_file(&last).unwrap();
    assert!(repo.fails(1, ["snapshots"]).contains("rolled back"));
    repo.ok(["repair", "head", "--yes"]);
    assert_eq!(repo.snapshot_count(), 2);
    // And one that is damaged.
    let last = files_under(&repo.folder().join("head")).pop().unwrap();
    std::fs::write(&last, b"rubbish").unwrap();
    repo.fails(1, ["snapshots"]);
    repo.ok(["repair", "head", "--yes"]);
    repo.ok(["check", "--read-data"]);
    expect(&repo.feed(["backup", "--stdin"], b"goes on"), 0);
    assert_eq!(repo.snapshot_count(), 3);
}

#[test]
fn an_older_head_is_noticed() {
    let repo = Repo::new();
    expect(&repo.feed(["backup", "--stdin"], b"one"), 0);
    let head = repo.folder().join("HEAD");
    let old = std::fs::read(&head).unwrap();
    expect(&repo.feed(["backup", "--stdin"], b"two"), 0);
    std::fs::write(&head, old).unwrap();
    assert!(repo.fails(1, ["snapshots"]).contains("rolled back"));
}

/// The notes of the highest HEAD that was seen.
fn notes(repo: &Repo) -> Vec<std::path::PathBuf> {
    let all = files_under(&repo.path("cache"));
    all.into_iter().filter(|path| path.extension().is_some_and(|end| end == "head")).collect()
}

/// Without the note a rollback is not noticed: garbage in it is told of, once, and a sound one takes its place.
#[test]
fn garbage_in_the_note_of_the_highest_head_is_told() {
    let repo = Repo::new();
    expect(&repo.feed(["backup", "--stdin"], b"one"), 0);
    let head = repo.folder().join("HEAD");
    let old = std::fs::read(&head).unwrap();
    expect(&repo.feed(["backup", "--stdin"], b"two"), 0);
    let [note]: [std::path::PathBuf; 1] = notes(&repo).try_into().unwrap();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for garbage in [&b""[..], b"\0\0\0\0", b"{\"incarnation\":1", b"{\"incarnation\":-1,\"generation\":2}"] {
        std::fs::write(&note, garbage).unwrap();
        let output = repo.run(["snapshots"]);
        expect(&output, 0);
        let told = said(&output);
        assert_eq!(
            told.matches("the note of the highest HEAD that was seen cannot be read").count(),
            1,
            "{told}"
        );
        assert!(told.contains(note.to_str().unwrap()), "{told}");
        // It was made anew.
        let output = repo.run(["snapshots"]);
        expect(&output, 0);
        assert!(!said(&output).contains("the note of"), "{}", said(&output));
    }
    std::fs::write(&head, old).unwrap();
    assert!(repo.fails(1, ["snapshots"]).contains("rolled back"));
}

/// A power cut leaves the note as it was or as it is to be: its bytes are synced before it is renamed, its folder after.
#[test]
fn the_note_of_the_highest_head_is_synced() {
    let repo = Repo::new();
    let like = repo.command(["backup", "--stdin-from-command", "--", "echo", "one"]);
    let mut command = std::process::Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "4096", "-o", "trace"]);
    command.args(["-e", "trace=fsync,fdatasync,rename,renameat,renameat2"]);
    command.arg(crate::harness::esker_binary()).args(like.get_args()).env_clear();
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.current_dir(repo.dir.path()).output().expect("strace is needed");
    expect(&output, 0);
    let [note]: [std::path::PathBuf; 1] = notes(&repo).try_into().unwrap();
    let trace = std::fs::read_to_string(repo.path("trace")).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let (folder, note) = (note.parent().unwrap().display().to_string(), note.display().to_string());
    let renames: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("rename") && line.contains(&format!("\"{note}\"")))
        .map(|(number, _)| number)
        .collect();
    assert!(renames.len() > 1, "one for each swap of HEAD: {trace}");
    for number in renames {
        let beside = lines[number].split('"').nth(1).unwrap();
        let is_sync = |line: &&str, path: &str| line.contains("sync(") && line.contains(&format!("<{path}>"));
        assert!(lines[..number].iter().any(|line| is_sync(line, beside)), "{beside} is not synced: {trace}");
        assert!(lines[number..].iter().any(|line| is_sync(line, &folder)), "{folder} is not synced: {trace}");
    }
}

#[test]
fn a_pipe_in_the_place_of_an_object_is_waited_for_by_nobody() {
    let repo = Repo::made(&["--parity", "off"]);
    let data = noise(1, 300_000);
    std::fs::write(repo.path("data"), &data).unwrap();
    repo.ok(["backup", "data"]);
    let mut tried = 0;
    for object in files_under(repo.folder()) {
        let aside = repo.path("aside");
        std::fs::rename(&object, &aside).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &object, mode).unwrap();
        for (number, words) in [
            &["snapshots"][..],
            &["check", "--read-data"],
            &["restore", "latest", "--target", "out"],
            &["backup", "data"],
        ]
        .into_iter()
        .enumerate()
        {
            println!("{}: {words:?}", object.display());
            // On a machine that never saw the repository, so that nothing is had from its index.
            let cache = repo.path(&format!("cache-{tried}-{number}"));
            let mut command = repo.command(words);
            command.env("ESKER_CACHE_DIR", &cache).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            wait_for("an end", 120, || child.try_wait().unwrap().is_some());
            let code = child.wait().unwrap().code();
            assert!(code.is_some(), "{object:?}: {words:?}");
            if words[0] == "restore" {
                let restored = std::fs::read(repo.path("out/data")).is_ok_and(|bytes| bytes == data);
                assert!(code != Some(0) || restored, "{object:?}: {code:?}");
                let _ = std::fs::remove_dir_all(repo.path("out"));
            }
        }
        std::fs::remove_file(&object).unwrap();
        std::fs::rename(&aside, &object).unwrap();
        tried += 1;
    }
    assert!(tried >= 5, "{tried}");
    repo.ok(["check", "--read-data"]);
}
