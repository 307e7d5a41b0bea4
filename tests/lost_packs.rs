//! Packs that are lost between two backups, syncs or prunes: nothing is built on what is not there.

use crate::harness::{Repo, expect, noise};
use crate::tiered::{DATA, Tiered, places, promise, said};
use std::path::{Path, PathBuf};

/// The packs of a repository, the smallest first.
fn packs(repo: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(repo.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut found: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    found.sort_by_key(|path| path.metadata().unwrap().len());
    found
}

/// How a pack is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Gone,
    CutShort,
    Empty,
    Longer,
}

const LOSSES: [Loss; 4] = [Loss::Gone, Loss::CutShort, Loss::Empty, Loss::Longer];

impl Loss {
    fn strike(self, pack: &Path) {
        let bytes = std::fs::read(pack).unwrap();
        match self {
            Self::Gone => std::fs::remove_file(pack).unwrap(),
            Self::CutShort => std::fs::write(pack, &bytes[..bytes.len() / 2]).unwrap(),
            Self::Empty => std::fs::write(pack, b"").unwrap(),
            Self::Longer => std::fs::write(pack, [&bytes[..], b"more"].concat()).unwrap(),
        }
    }
}

/// Restores a snapshot and compares it.
fn restores(repo: &Repo, snapshot: &str, files: &[(&str, Vec<u8>)], case: &str) {
    let _ = std::fs::remove_dir_all(repo.path("out"));
    let output = repo.run(["restore", snapshot, "--target", "out"]);
    assert_eq!(output.status.code(), Some(0), "{case}: {output:?}");
    for (name, content) in files {
        assert!(std::fs::read(repo.path("out").join(name)).unwrap() == *content, "{case}: {name}");
    }
}

/// Content, deltas upon it, lists of files: each pack is lost in each way, and the next backup is whole.
#[test]
fn a_backup_stores_again_what_was_in_a_lost_pack() {
    let repo = Repo::made(&["--parity", "off", "--chunk-size", "64k"]);
    std::fs::create_dir(repo.path("s")).unwrap();
    let mut large = noise(1, 400_000);
    std::fs::write(repo.path("s/large"), &large).unwrap();
    std::fs::write(repo.path("s/small"), noise(2, 3000)).unwrap();
    repo.ok(["backup", "s"]);
    // Stands on the first night.
    large[200_000] ^= 1;
    std::fs::write(repo.path("s/large"), &large).unwrap();
    repo.ok(["backup", "s"]);
    let whole = repo.path("whole");
    std::fs::rename(repo.folder(), &whole).unwrap();
    let count = packs(&whole).len();
    let mut met = 0;
    // Each pack, and each way.
    for (number, loss) in (0..count.max(LOSSES.len())).map(|turn| (turn % count, LOSSES[turn % LOSSES.len()]))
    {
        let case = format!("pack {number} of {count}, {loss:?}");
        let _ = std::fs::remove_dir_all(repo.folder());
        let _ = std::fs::remove_dir_all(repo.path("cache"));
        crate::harness::run("cp", &["-r", whole.to_str().unwrap(), repo.folder().to_str().unwrap()]);
        let pack = packs(repo.folder()).remove(number);
        loss.strike(&pack);
        // Changed anew: no delta stands on what is lost.
        large[300_000] ^= 1;
        std::fs::write(repo.path("s/large"), &large).unwrap();
        let rehearsal = repo.run(["backup", "-n", "s"]);
        let name = pack.file_name().unwrap().to_str().unwrap();
        expect(&rehearsal, 0);
        let output = repo.run(["backup", "s"]);
        let text = said(&output);
        assert!(output.status.code() == Some(0), "{case}: {text}");
        // A backup asks for the packs that it would build on. What only older snapshots need, 'check' finds.
        assert_eq!(text.contains(name), said(&rehearsal).contains(name), "{case}: {text}");
        assert_eq!(text.contains(name), text.contains("'esker check'"), "{case}: {text}");
        met += usize::from(text.contains(name));
        let looked = repo.run(["check"]);
        assert!(looked.status.code() != Some(0) && said(&looked).contains(name), "{case}: {looked:?}");
        let files = [("s/large", large.clone()), ("s/small", noise(2, 3000))];
        restores(&repo, "latest", &files, &case);
        // Nothing is stored a third time.
        let again = repo.json(["backup", "s"]);
        assert_eq!(again["data_added"], 0, "{case}: {again}");
        restores(&repo, "latest", &files, &case);
        // What is lost and needed by nobody goes with a prune, which reads none of it.
        repo.ok(["forget", "--keep-last", "1", "--prune"]);
        repo.ok(["check", "--read-data"]);
        restores(&repo, "latest", &files, &case);
    }
    assert!(met >= 2, "{met} of {count}: the packs with content are built on");
}

/// What a backup stored again is not lost, though the pack is given up that had it first.
#[test]
fn chunks_that_were_stored_again_are_not_called_lost() {
    let repo = Repo::made(&["--parity", "off"]);
    let files = [("small", noise(2, 3000))];
    std::fs::write(repo.path("small"), &files[0].1).unwrap();
    repo.ok(["backup", "small"]);
    packs(repo.folder()).iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    repo.ok(["backup", "--force", "small"]);
    let plan = repo.json(["repair", "packs", "--dry-run"]);
    let count = |what: &str| plan[what].as_u64().unwrap();
    assert!(count("chunks_elsewhere") > 0 && count("chunks_lost") == 0, "{plan}");
    let said = repo.ok(["repair", "packs", "-y"]);
    assert!(said.contains("are in other packs, too, 0 lost"), "{said}");
    repo.ok(["check", "--read-data"]);
    restores(&repo, "latest", &files, "stored again");
    restores(&repo, "latest~1", &files, "stored again");
}

/// Other commands that build on packs.
#[test]
fn rewrites_and_repairs_do_not_build_on_a_lost_pack() {
    let repo = Repo::made(&["--parity", "off", "--chunk-size", "64k"]);
    std::fs::create_dir(repo.path("s")).unwrap();
    std::fs::write(repo.path("s/large"), noise(1, 400_000)).unwrap();
    std::fs::write(repo.path("s/small"), noise(2, 3000)).unwrap();
    repo.ok(["backup", "s"]);
    std::fs::remove_file(packs(repo.folder()).pop().unwrap()).unwrap();
    let text = repo.fails(1, ["rewrite", "latest", "--new-host", "other"]);
    assert!(!text.is_empty());
    let text = repo.fails(1, ["repair", "snapshots", "-y"]);
    assert!(text.contains("'esker repair packs'"), "{text}");
    assert_eq!(repo.snapshot_count(), 1);
    // The same files are what the last snapshot had: its list is the same, and what it needs is stored again.
    repo.ok(["backup", "s", "--skip-if-unchanged"]);
    restores(&repo, "latest", &[("s/large", noise(1, 400_000))], "unchanged");
    // A prune that rewrites reads where a chunk is sound.
    repo.ok(["prune", "--max-unused", "0"]);
    repo.ok(["check", "--read-data"]);
    // A copy builds on nothing of the other repository either.
    let other = Repo::made(&["--parity", "off", "--chunk-size", "64k"]);
    std::fs::write(other.path("pw"), "correct horse").unwrap();
    let place = repo.folder().display().to_string();
    let from = ["--from-repo", &place, "--from-password-file", "pw"];
    let copy = |words: &[&str]| other.run([&["copy"], &from[..], words].concat());
    expect(&copy(&[]), 0);
    std::fs::remove_file(packs(other.folder()).pop().unwrap()).unwrap();
    repo.ok(["backup", "s", "--tag", "second"]);
    let output = copy(&[]);
    assert!(said(&output).contains("is missing of those in the index"), "{output:?}");
    restores(&other, "latest", &[("s/large", noise(1, 400_000))], "copy");
}

/// Three nights on three tiers, with these promises besides that of a week on all.
fn nights(promises: &str) -> Tiered {
    let world = Tiered::new(places("repo", ["usb", "nas"]), &(DATA.to_owned() + promises));
    for night in 0..3 {
        night_of(&world, night);
        world.repo.ok(["run"]);
    }
    world
}

fn a_week() -> String {
    promise("7d", &["local", "usb", "nas"])
}

fn night_of(world: &Tiered, night: u64) {
    world.change(night);
    std::fs::write(world.repo.path("data/always"), noise(99, 300_000)).unwrap();
}

/// Each pack of a tier, and all of them, in each way: the run after it does not build on them and names the way out, which
/// leads out; those that the tier sealed itself have no copy anywhere.
#[test]
fn heal_mends_what_only_a_tier_had() {
    let world = nights(&a_week());
    let repo = &world.repo;
    world.keep();
    let count = packs(&repo.path("usb")).len();
    let all = (0..count).collect();
    let cases = [
        (vec![0], Loss::Gone),
        (vec![0, 1], Loss::Empty),
        (vec![count - 1], Loss::CutShort),
        (all, Loss::Gone),
    ];
    for (numbers, loss) in cases {
        let case = format!("{numbers:?} of {count}, {loss:?}");
        world.again();
        let all = packs(&repo.path("usb"));
        numbers.iter().for_each(|number| loss.strike(&all[*number]));
        night_of(&world, 50);
        let output = repo.run(["run"]);
        let text = said(&output);
        match output.status.code() {
            // All of it came anew.
            Some(0) => expect(&world.at("usb", &["check", "--read-data"]), 0),
            Some(3) if text.contains("'esker heal usb'") => String::new(),
            _ => panic!("{case}: {text}"),
        };
        // What the run copied is whole, whatever became of the others.
        let _ = std::fs::remove_dir_all(repo.path("out"));
        expect(&world.at("usb", &["restore", "latest", "--target", "out"]), 0);
        let restored = repo.path("out").join(repo.path("data").strip_prefix("/").unwrap()).join("file");
        let plain = repo.path("out/data/file");
        let read = std::fs::read(restored).or_else(|_| std::fs::read(plain)).unwrap();
        assert!(read == noise(50, 200_000), "{case}");
        let healed = repo.run(["heal"]);
        assert_eq!(healed.status.code(), Some(0), "{case}: {text}\n{}", said(&healed));
        let run = repo.run(["run"]);
        assert_eq!(run.status.code(), Some(0), "{case}: {}", said(&run));
        expect(&world.at("usb", &["check", "--read-data"]), 0);
        assert_eq!(repo.run(["tier", "prune", "usb"]).status.code(), Some(0), "{case}");
        expect(&world.at("usb", &["check", "--read-data"]), 0);
    }
}

/// The primary lost a pack of which the tiers have what is needed, but not the pack.
#[test]
fn heal_mends_the_primary_from_chunks_of_tiers() {
    let world = nights(&(promise("forever", &["nas"]) + &a_week()));
    let repo = &world.repo;
    for number in 0..packs(&repo.path("repo")).len() {
        std::fs::remove_file(&packs(&repo.path("repo"))[number]).unwrap();
        let healed = repo.run(["heal"]);
        assert_eq!(healed.status.code(), Some(0), "{number}: {}", said(&healed));
        repo.ok(["check", "--read-data"]);
        repo.ok(["run"]);
    }
}

/// What only the vault had, and lost, is lost: the way that is named leads out, with the rest.
#[test]
fn what_no_tier_has_is_given_up_as_is_said() {
    let world = nights(&promise("forever", &["nas"]));
    let repo = &world.repo;
    // Of the second night, which only the tier has, and of the third.
    let of_a_night = |pack: &PathBuf| (150_000..300_000).contains(&pack.metadata().unwrap().len());
    let lost: Vec<PathBuf> = packs(&repo.path("nas")).into_iter().filter(of_a_night).collect();
    assert_eq!(lost.len(), 2);
    lost.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let output = repo.run(["heal"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("repair packs") && text.contains("repair snapshots"), "{text}");
    expect(&world.at("nas", &["repair", "packs", "--read-data", "-y"]), 1);
    world.at("nas", &["repair", "snapshots", "--forget", "-y"]);
    let run = repo.run(["run"]);
    assert_eq!(run.status.code(), Some(0), "{}", said(&run));
    expect(&world.at("nas", &["check", "--read-data"]), 0);
}

/// Of a file whose first part is there, and whose end is lost, the list has a part that was given up before the whole.
#[test]
fn a_file_that_was_begun_twice_is_dumped_whole() {
    let repo = Repo::made(&["--parity", "off"]);
    let content = noise(7, 75 << 20);
    std::fs::create_dir(repo.path("s")).unwrap();
    std::fs::write(repo.path("s/large"), &content).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    repo.ok(["backup", "s"]);
    let all = packs(repo.folder());
    let [.., end, begin] = &all[..] else { panic!("{all:?}") };
    assert!(end.metadata().unwrap().len() > 1 << 20 && begin.metadata().unwrap().len() > 40 << 20);
    std::fs::remove_file(end).unwrap();
    repo.ok(["backup", "s"]);
    let output = repo.run(["dump", "latest", "s/large"]);
    assert!(
        output.status.success() && output.stdout == content,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    restores(&repo, "latest", &[("s/large", content)], "whole");
}

/// What was a tier has no parity, and is not to have any: not after its HEAD was made anew from nothing either.
#[test]
fn parity_that_was_never_made_is_not_missed() {
    let world = nights(&a_week());
    let repo = &world.repo;
    expect(&repo.run(["tier", "adopt", "--force", "usb"]), 0);
    for lost in ["usb/copies", "cache"] {
        std::fs::remove_dir_all(repo.path(lost)).unwrap();
    }
    expect(&world.at("usb", &["check", "--read-data"]), 0);
    std::fs::remove_file(repo.path("usb/HEAD")).unwrap();
    // The check made the copies of HEAD again.
    std::fs::remove_dir_all(repo.path("usb/copies")).unwrap();
    let repaired = world.at("usb", &["repair", "head", "--primary", "-y"]);
    assert!(expect(&repaired, 0).contains("no pack here has parity"), "{repaired:?}");
    expect(&world.at("usb", &["check", "--read-data"]), 0);
    // Parity that was made is missed as ever.
    for place in ["repo/HEAD", "repo/copies"] {
        let path = repo.path(place);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    let parity = std::fs::read_dir(repo.path("repo/parity")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(parity).unwrap();
    expect(&world.at("repo", &["repair", "head", "--primary", "-y"]), 0);
    let checked = world.at("repo", &["check"]);
    assert!(checked.status.code() == Some(1) && said(&checked).contains("parity is missing"), "{checked:?}");
}

/// Records of snapshots that one tier lost, the primary or another, come back from one that has them. One that is nowhere
/// is given up by the first digits of its id.
#[test]
fn records_come_back_from_another_tier() {
    let world = nights(&a_week());
    let repo = &world.repo;
    for place in ["repo", "usb"] {
        let records = std::fs::read_dir(repo.path(place).join("snapshots")).unwrap();
        let records: Vec<PathBuf> = records.map(|entry| entry.unwrap().path()).collect();
        std::fs::remove_file(&records[0]).unwrap();
        std::fs::write(&records[1], b"rubbish").unwrap();
        let run = repo.run(["run"]);
        assert!(!said(&run).contains("'esker forget"), "{}", said(&run));
        // What is damaged is told of, and put back all the same.
        assert!(matches!(run.status.code(), Some(0 | 3)), "{run:?}");
        expect(&world.at(place, &["check", "--read-data"]), 0);
        let healed = repo.run(["heal"]);
        assert_eq!(healed.status.code(), Some(0), "{place}: {}", said(&healed));
        repo.ok(["run"]);
        expect(&world.at(place, &["check", "--read-data"]), 0);
    }
    let records = std::fs::read_dir(repo.path("repo/snapshots")).unwrap();
    let id = records.map(|entry| entry.unwrap().file_name().into_string().unwrap()).next().unwrap();
    for place in ["repo", "usb", "nas"] {
        std::fs::remove_file(repo.path(place).join("snapshots").join(&id)).unwrap();
    }
    repo.fails(1, ["forget", ""]);
    repo.fails(1, ["forget", &format!("{}x", &id[..6])]);
    assert_eq!(repo.run(["heal"]).status.code(), Some(1));
    let text = repo.ok(["forget", &id[..6]]);
    assert!(text.contains("removed 1 snapshot"), "{text}");
    repo.ok(["run"]);
    // Of a tier alone, the same.
    let id = std::fs::read_dir(repo.path("nas/snapshots")).unwrap().next().unwrap().unwrap().file_name();
    std::fs::remove_file(repo.path("nas/snapshots").join(&id)).unwrap();
    expect(&world.at("nas", &["forget", &id.to_str().unwrap()[..8]]), 0);
}
