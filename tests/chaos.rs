//! Eight hosts back up, two prune, one forgets, and every other second one of the processes is killed. What was
//! acknowledged restores; what nobody needs goes.

use crate::harness::{Repo, expect, noise, text};
use crate::seaweed::Cluster;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stream as the pieces that it is made of, so that thousands of them can be remembered.
#[derive(Clone)]
struct Recipe(Vec<(u64, usize)>);

impl Recipe {
    fn bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|(seed, len)| if seed % 2 == 0 { noise(*seed, *len) } else { text(*seed, *len) })
            .collect()
    }

    /// A quarter of it is what other hosts have, too.
    fn first(host: u64) -> Self {
        let seed = |number| if number < 8 { number } else { 1000 * host + number };
        Self((0..PIECES as u64).map(|number| (seed(number), PIECE)).collect())
    }

    /// A night later: a piece changed, moved, added that other hosts may have, too, or grown.
    fn next(mut self, random: u64) -> Self {
        let (kind, place, seed) =
            (random % 4, (random / 4 % self.0.len() as u64) as usize, random / 4096 % 1_000_000);
        match kind {
            0 => self.0[place].0 = seed,
            1 => {
                let piece = self.0.remove(place);
                self.0.insert(self.0.len() / 2, piece);
            }
            2 => self.0.insert(place, (seed % 64, PIECE)),
            _ => self.0[place].1 += (seed % 5000) as usize,
        }
        self.0.truncate(PIECES);
        self
    }
}

/// Bytes of a piece, at first.
const PIECE: usize = 128 << 10;
/// Pieces of a stream.
const PIECES: usize = 32;

/// An acknowledged backup.
struct Kept {
    /// Counts them.
    number: u64,
    name: String,
    recipe: Recipe,
}

struct Chaos {
    repo: Repo,
    /// Acknowledged and not asked to be forgotten.
    kept: Mutex<BTreeMap<String, Kept>>,
    children: Mutex<Vec<Arc<Mutex<Child>>>>,
    over: AtomicBool,
    backups: AtomicU64,
    failed: AtomicU64,
    prunes: AtomicU64,
    kills: AtomicU64,
    /// Whether commands may fail because the store does.
    store_fails: AtomicBool,
}

impl Chaos {
    fn new(repo: Repo) -> Self {
        Self {
            repo,
            kept: Mutex::default(),
            children: Mutex::default(),
            over: AtomicBool::new(false),
            backups: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            prunes: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            store_fails: AtomicBool::new(false),
        }
    }

    /// Runs a command that may be killed; its standard output if it ended well.
    fn attempt(&self, args: &[&str], input: Option<Vec<u8>>) -> Option<String> {
        let mut command = self.repo.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() }).spawn().unwrap();
        let (stdin, mut stdout, mut stderr) =
            (child.stdin.take(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let child = Arc::new(Mutex::new(child));
        self.children.lock().unwrap().push(Arc::clone(&child));
        let writer = std::thread::spawn(move || {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                let _ = std::io::Write::write_all(&mut stdin, &input);
            }
        });
        let (mut text, mut errors) = (String::new(), String::new());
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut errors).unwrap();
        let status = child.lock().unwrap().wait().unwrap();
        writer.join().unwrap();
        self.children.lock().unwrap().retain(|known| !Arc::ptr_eq(known, &child));
        assert!(!errors.contains("panicked"), "{args:?}: {errors}");
        // Killed, or told that HEAD allows it no more: anything else would be a fault of ours.
        let code = status.code();
        let store_failed = code == Some(1) && self.store_fails.load(Ordering::Relaxed);
        assert!(store_failed || matches!(code, None | Some(0 | 11)), "{args:?}: {code:?} {errors}");
        (code == Some(0)).then_some(text)
    }

    fn back_up(&self, host: u64, recipe: &Recipe) {
        let name = format!("host-{host}");
        let args =
            ["--json", "backup", "--stdin", "--stdin-filename", &name, "--host", &name, "--pack-size", "1"];
        match self.attempt(&args, Some(recipe.bytes())) {
            Some(text) => {
                let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
                let id = last["snapshot_id"].as_str().unwrap().to_owned();
                let number = self.backups.fetch_add(1, Ordering::Relaxed);
                self.kept.lock().unwrap().insert(id, Kept { number, name, recipe: recipe.clone() });
            }
            None => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn keep_backing_up(&self, host: u64, mut recipe: Recipe) {
        let mut round = 0;
        while !self.over.load(Ordering::Relaxed) {
            round += 1;
            let bytes = noise(host * 100_000 + round, 8);
            recipe = recipe.next(u64::from_le_bytes(std::array::from_fn(|at| bytes[at])));
            self.back_up(host, &recipe);
        }
    }

    fn prune(&self) {
        while !self.over.load(Ordering::Relaxed) {
            if self.attempt(&["prune", "--max-unused", "0"], None).is_some() {
                self.prunes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Keeps the last twenty or so.
    fn forget(&self) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(300));
            let chosen: Vec<String> = {
                let mut kept = self.kept.lock().unwrap();
                let surplus = kept.len().saturating_sub(20);
                let mut by_age: Vec<(u64, String)> =
                    kept.iter().map(|(id, kept)| (kept.number, id.clone())).collect();
                by_age.sort();
                let chosen = by_age.into_iter().take(surplus).map(|(_, id)| id);
                chosen.inspect(|id| drop(kept.remove(id))).collect()
            };
            if !chosen.is_empty() {
                let args: Vec<&str> =
                    ["forget"].into_iter().chain(chosen.iter().map(String::as_str)).collect();
                self.attempt(&args, None);
            }
        }
    }

    fn kill(&self, seconds: u64, half_way: impl FnOnce()) {
        let start = Instant::now();
        let (mut number, mut half_way) = (0, Some(half_way));
        while start.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(1900 + number * 37 % 200));
            number += 1;
            if let Some(half_way) = half_way.take_if(|_| start.elapsed() > Duration::from_secs(seconds / 2)) {
                half_way();
            }
            let victim = {
                let children = self.children.lock().unwrap();
                children.get((number * 7 % children.len().max(1) as u64) as usize).cloned()
            };
            // Its lock is held by whoever waits for it to end: by then its output has ended.
            if let Some(mut child) = victim.as_ref().and_then(|child| child.try_lock().ok()) {
                child.kill().unwrap();
                self.kills.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.over.store(true, Ordering::Relaxed);
    }
}

/// `ESKER_CHAOS_SECONDS` for longer runs (`make chaos`).
fn seconds(least: u64) -> u64 {
    std::env::var("ESKER_CHAOS_SECONDS").map_or(least, |text| text.parse().unwrap())
}

#[test]
fn whatever_is_killed_what_was_acknowledged_restores() {
    let (chaos, [fresh, whole]) = (Chaos::new(Repo::new()), [(); 2].map(|()| Repo::new()));
    let places = [&chaos.repo, &fresh, &whole].map(|repo| repo.folder().to_owned());
    let chaos = chaos.rage(seconds(60), |_| ());
    chaos.judge([&fresh, &whole], seconds(60), &mut || places.each_ref().map(|place| size(place)));
}

/// Of the repositories on S3.
const PREFIXES: [&str; 3] = ["chaos", "fresh", "whole"];

/// Likewise on S3, of which a third goes half way.
#[test]
fn whatever_is_killed_on_s3_too() {
    let cluster = Mutex::new(Cluster::start());
    let [repo, fresh, whole] = {
        let cluster = cluster.lock().unwrap();
        PREFIXES.map(|prefix| cluster.repo(prefix))
    };
    let chaos = Chaos::new(repo).rage(seconds(20), |chaos| {
        chaos.store_fails.store(true, Ordering::Relaxed);
        cluster.lock().unwrap().lose_one();
    });
    let cluster = cluster.into_inner().unwrap();
    chaos.judge([&fresh, &whole], seconds(20), &mut || PREFIXES.map(|prefix| cluster.size(prefix)));
}

impl Chaos {
    /// Lets them loose.
    fn rage(self, seconds: u64, half_way: impl FnOnce(&Self)) -> Self {
        let chaos = &self;
        // The first backups one after the other: at the same time none would find what the others have in common
        // with it, and that would be half of what is compared in the end.
        let recipes: Vec<Recipe> = (0..8).map(Recipe::first).collect();
        for (host, recipe) in (0..).zip(&recipes) {
            chaos.back_up(host, recipe);
        }
        std::thread::scope(|scope| {
            for (host, recipe) in (0..).zip(recipes) {
                scope.spawn(move || chaos.keep_backing_up(host, recipe));
            }
            for _ in 0..2 {
                scope.spawn(|| chaos.prune());
            }
            scope.spawn(|| chaos.forget());
            chaos.kill(seconds, || half_way(chaos));
        });
        self
    }

    /// Looks at what is left; `fresh` and `whole` are empty repositories to compare with, `sizes` those of all three.
    fn judge(&self, [fresh, whole]: [&Repo; 2], seconds: u64, sizes: &mut dyn FnMut() -> [u64; 3]) {
        let Self { repo, kept, backups, failed, prunes, kills, .. } = self;
        let kept = kept.lock().unwrap();
        let counts = [backups, failed, prunes, kills].map(|count| count.load(Ordering::Relaxed));
        let [backups, failed, prunes, kills] = counts;
        let restore_all = || {
            for (id, Kept { name, recipe, .. }) in kept.iter() {
                let output = repo.run(["dump", id, name]);
                expect(&output, 0);
                assert!(output.stdout == recipe.bytes(), "snapshot {id} of {name}");
            }
        };
        restore_all();
        repo.ok(["check", "--read-data"]);
        // What was committed by a process that was killed before it could say so goes, too.
        let listed = repo.json(["snapshots"]);
        let word = |found: &serde_json::Value, name: &str| found[name].as_str().unwrap().to_owned();
        let mut present: Vec<(String, String)> =
            listed.as_array().unwrap().iter().map(|found| (word(found, "time"), word(found, "id"))).collect();
        present.sort();
        let present: Vec<String> = present.into_iter().map(|(_, id)| id).collect();
        let unsaid: Vec<String> = present.iter().filter(|id| !kept.contains_key(*id)).cloned().collect();
        if !unsaid.is_empty() {
            repo.ok([&["forget".to_owned()][..], &unsaid].concat());
        }
        repo.ok(["prune", "--max-unused", "0"]);
        repo.ok(["prune", "--max-unused", "0"]);
        repo.ok(["check", "--read-data"]);
        restore_all();
        // Nothing is left that neither a snapshot nor a delta needs.
        let left = repo.json(["prune", "--max-unused", "0", "--dry-run"]);
        for what in ["chunks_unused", "packs_unused", "orphans"] {
            assert_eq!(left[what], 0, "{what}: {left}");
        }
        for Kept { name, recipe, .. } in present.iter().filter_map(|id| kept.get(id)) {
            let backup = ["backup", "--stdin", "--stdin-filename", name, "--host", name];
            for (repo, choice) in [(fresh, None), (whole, Some("--no-delta"))] {
                expect(&repo.feed(backup.into_iter().chain(choice), &recipe.bytes()), 0);
            }
        }
        let [size, least, most] = sizes();
        println!(
            "{seconds} s: {backups} backups acknowledged, {failed} not, {prunes} prunes, {kills} kills; {} snapshots kept, \
         {} committed but not said; {size} bytes, fresh {least}, without deltas {most}",
            kept.len(),
            unsaid.len()
        );
        assert!(backups > seconds / 4 && prunes > 0 && kills > seconds / 4, "{counts:?}");
        // What stands on chunks that only serve as bases is stored anew where that is smaller. So all of it is no larger
        // than it would be without deltas, but for where chunks are cut, which a repository's key says: of so few
        // chunks, the sizes of two repositories differ by up to an eighth. How much larger than a fresh repository with
        // deltas it is, is a matter of chance.
        assert!(size < most + most / 4, "{size} bytes, fresh {least}, without deltas {most}");
    }
}

fn size(place: &Path) -> u64 {
    let mut folders = vec![place.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    bytes
}
