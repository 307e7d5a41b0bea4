//! Night after night of streams that change a little: what each adds, that each comes back, and what
//! becomes of them when older ones are forgotten.

use crate::harness::{Repo, expect, noise, run, server, source_root};

/// Rows of a table, some of which change each night.
pub(crate) struct Table {
    rows: Vec<Vec<u8>>,
    night: u64,
}

impl Table {
    pub(crate) fn new(rows: u64) -> Self {
        Self { rows: (0..rows).map(|number| row(number, 0)).collect(), night: 0 }
    }

    /// Changes one row in a hundred, adds and removes some, all scattered.
    pub(crate) fn next_night(&mut self) {
        self.night += 1;
        let random = noise(self.night, self.rows.len() / 25);
        for (turn, word) in random.chunks_exact(4).enumerate() {
            let place = u32::from_le_bytes(word.try_into().unwrap()) as usize % self.rows.len();
            match turn % 20 {
                0 => self.rows.insert(place, row(place as u64, 1000 + self.night)),
                1 => {
                    self.rows.remove(place);
                }
                _ => self.rows[place] = row(place as u64, self.night),
            }
        }
    }

    pub(crate) fn dump(&self) -> Vec<u8> {
        self.rows.concat()
    }
}

fn row(number: u64, version: u64) -> Vec<u8> {
    let token = noise(number ^ version << 32, 24);
    let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number}\tcustomer {}\t{hex}\tversion {version}\n", number * 7919 % 10_007).into_bytes()
}

pub(crate) fn stream(repo: &Repo, data: &[u8], options: &[&str]) -> serde_json::Value {
    let args = ["--json", "backup", "--stdin", "--stdin-filename", "table.sql"];
    let output = repo.feed(args.iter().chain(options), data);
    serde_json::from_str(expect(&output, 0).lines().last().unwrap()).unwrap()
}

fn dumped(repo: &Repo, snapshot: &str) -> Vec<u8> {
    let output = repo.run(["dump", snapshot, "table.sql"]);
    expect(&output, 0);
    output.stdout
}

pub(crate) fn stored(repo: &Repo) -> u64 {
    repo.json(["stats"])["stored_size"].as_u64().unwrap()
}

#[test]
fn nights_cost_what_changed_and_outlive_what_they_stand_on() {
    let repo = Repo::made(&["--chunk-size", "64k"]);
    let mut table = Table::new(100_000);
    let mut nights: Vec<(String, Vec<u8>)> = vec![];
    let mut first = 0;
    for night in 0..20 {
        if night > 0 {
            table.next_night();
        }
        let data = table.dump();
        let summary = stream(&repo, &data, &[]);
        let packed = summary["data_added_packed"].as_u64().unwrap();
        if night == 0 {
            first = packed;
            assert_eq!(summary["delta_blobs"], 0);
        } else {
            // Every chunk changed; yet a night takes its 1 % and some more for the older nights that some
            // deltas reach back to.
            assert!(summary["data_blobs"].as_u64().unwrap() > 60, "{summary}");
            assert!(packed < first / 5, "night {night}: {packed} of {first}");
        }
        nights.push((summary["snapshot_id"].as_str().unwrap().to_owned(), data));
    }
    assert!(stored(&repo) < 2 * first, "{} of {first}", stored(&repo));
    for (id, data) in &nights {
        assert!(dumped(&repo, id) == *data, "{id}");
    }
    repo.ok(["check", "--read-data"]);
    // The reader agrees, knowing only the document.
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let (place, password, out) = (repo.folder(), repo.path("pw"), repo.path("read"));
    let script = source_root().join("docs/reader.py");
    let args = [&script, place, &password].map(|path| path.to_str().unwrap());
    let last = &nights[19];
    run(server("venv/bin/python"), &[&args[..], &["restore", &last.0, out.to_str().unwrap()]].concat());
    assert!(std::fs::read(out.join("table.sql")).unwrap() == last.1);

    // The first night's chunks are needed by all the others, until they are stored anew.
    repo.ok(["forget", "--keep-last", "3", "--prune", "--max-unused", "0"]);
    repo.ok(["check", "--read-data"]);
    assert_eq!(repo.snapshot_count(), 3);
    for (id, data) in &nights[17..] {
        assert!(dumped(&repo, id) == *data, "{id}");
    }
    let fresh = Repo::made(&["--chunk-size", "64k"]);
    for (_, data) in &nights[17..] {
        stream(&fresh, data, &[]);
    }
    let (kept, least) = (stored(&repo), stored(&fresh));
    assert!(kept * 10 < least * 13, "{kept} instead of {least}");
    // And it goes on from there.
    table.next_night();
    let summary = stream(&repo, &table.dump(), &[]);
    assert!(summary["data_added_packed"].as_u64().unwrap() < first / 5);
    assert!(dumped(&repo, "latest") == table.dump());
}

#[test]
fn the_same_again_costs_nothing_and_no_delta_means_none() {
    let repo = Repo::new();
    let mut table = Table::new(40_000);
    stream(&repo, &table.dump(), &[]);
    let again = stream(&repo, &table.dump(), &[]);
    assert_eq!(again["data_blobs"], 0);
    table.next_night();
    let whole = stream(&repo, &table.dump(), &["--no-delta"]);
    assert!(whole["data_blobs"].as_u64().unwrap() > 0);
    assert_eq!(whole["delta_blobs"], 0);
    let stats = repo.json(["stats"]);
    assert_eq!(stats["delta_blob_count"], 0);
}

/// Renamed, moved to another host and cut in two: found by anchors, without a snapshot to compare with.
#[test]
fn bases_are_found_under_other_names() {
    let repo = Repo::made(&["--chunk-size", "64k"]);
    let mut table = Table::new(100_000);
    let first = stream(&repo, &table.dump(), &[])["data_added_packed"].as_u64().unwrap();
    table.next_night();
    let data = table.dump();
    let (head, tail) = data.split_at(data.len() / 3);
    let swapped = [tail, head].concat();
    let args = ["--json", "backup", "--stdin", "--stdin-filename", "other.sql", "--host", "elsewhere"];
    let output = expect(&repo.feed(args, &swapped), 0);
    let summary: serde_json::Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    let packed = summary["data_added_packed"].as_u64().unwrap();
    assert!(packed < first / 4, "{packed} of {first}: {summary}");
    let output = repo.run(["dump", "latest", "other.sql"]);
    assert!(output.stdout == swapped);
}

#[test]
fn a_lost_base_is_noticed_and_new_backups_do_not_build_on_it() {
    let repo = Repo::made(&["--chunk-size", "64k"]);
    let mut table = Table::new(60_000);
    stream(&repo, &table.dump(), &["--pack-size", "1"]);
    let before: Vec<_> = packs(&repo);
    table.next_night();
    let data = table.dump();
    stream(&repo, &data, &[]);
    // One of the first night's packs is gone; both nights need it.
    let largest = before.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    let text = repo.fails(1, ["check"]);
    assert_eq!(text.matches("/table.sql: parts of its content").count(), 2, "{text}");
    repo.fails(1, ["dump", "latest", "table.sql"]);
    // Once the index no longer has it, the next backup stores what stood on it again.
    repo.fails(1, ["repair", "index", "--read-all-packs"]);
    let mended = stream(&repo, &data, &[])["snapshot_id"].as_str().unwrap().to_owned();
    assert!(dumped(&repo, "latest") == data);
    let text = repo.fails(1, ["check", "--read-data"]);
    assert!(text.contains("/table.sql: parts of its content"), "{text}");
    assert!(!text.contains(&format!("snapshot {}", &mended[..8])), "{text}");
}

fn packs(repo: &Repo) -> Vec<std::path::PathBuf> {
    let sessions = std::fs::read_dir(repo.folder().join("packs")).unwrap();
    let folders = sessions.map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path()).collect()
}
