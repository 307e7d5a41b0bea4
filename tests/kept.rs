//! What everything else is read by, and a disk keeps several times: key slots, grants, HEAD. One damaged object is taken from a
//! sound one, by whichever command meets it, and never the other way round.

use crate::harness::{Repo, expect};
use crate::tiered::Tiered;
use std::fs;
use std::path::PathBuf;

/// The place of an object, and those of its copies.
fn places(name: &str) -> [String; 3] {
    [name.to_owned(), format!("copies/1/{name}"), format!("copies/2/{name}")]
}

/// Two backups, with a second password and a rotation between them.
struct World {
    repo: Repo,
}

impl World {
    fn new(init: &[&str]) -> Self {
        let repo = Repo::made(init);
        fs::write(repo.path("second"), "second").unwrap();
        fs::write(repo.path("data"), "one").unwrap();
        repo.ok(["backup", "data"]);
        repo.ok(["key", "add", "--label", "second", "--new-password-file", "second"]);
        repo.ok(["key", "rotate"]);
        fs::write(repo.path("data"), "two").unwrap();
        repo.ok(["backup", "data"]);
        Self { repo }
    }

    /// Runs a command with a password, on a machine that never saw the repository.
    fn with(&self, password: &str, args: &[&str], code: i32) -> String {
        let mut command = self.repo.command([&["--no-cache"], args].concat());
        let output = command.env("ESKER_PASSWORD", password).output().unwrap();
        expect(&output, code) + &String::from_utf8_lossy(&output.stderr)
    }

    fn slot(&self, label: &str) -> String {
        let list = self.repo.json(["key", "list"]);
        let found = list.as_array().unwrap().iter().find(|slot| slot["label"] == label);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.repo.folder().join(name)
    }

    fn flip(&self, name: &str, at: usize) {
        let path = self.path(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Changes a digit so that the object still reads as one.
    fn change_digit(&self, name: &str, at: usize) {
        let path = self.path(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = match bytes[at] {
            digit @ b'a'..=b'f' => ((digit - b'a') ^ 1) + b'a',
            digit => digit ^ 1,
        };
        fs::write(path, bytes).unwrap();
    }

    /// Removes HEAD, and its copies with it if so.
    fn lose_head(&self, copies: bool) {
        for name in places("HEAD").iter().take(if copies { 3 } else { 1 }) {
            fs::remove_file(self.path(name)).unwrap();
        }
    }

    /// All three are what they were, all passwords open both snapshots, and nothing is wrong.
    fn is_whole(&self, name: &str, sound: &[u8]) {
        for place in places(name) {
            assert!(fs::read(self.path(&place)).unwrap() == sound, "{place}");
        }
        for password in ["correct horse", "second"] {
            let said = self.with(password, &["--json", "snapshots"], 0);
            assert_eq!(said.matches("short_id").count(), 2, "{said}");
            self.with(password, &["check", "--read-data"], 0);
        }
    }

    /// A kept object of the second password: its slot, or the grants, with a byte that only that slot needs.
    fn objects(&self) -> [(String, usize); 2] {
        let slot = self.slot("second");
        let grants = fs::read(self.path("grants/2")).unwrap();
        let id: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&slot[2 * at..2 * at + 2], 16).unwrap()).collect();
        let at = grants.windows(32).position(|bytes| bytes == id).unwrap();
        let line = fs::read_to_string(self.path(&format!("keys/{slot}"))).unwrap();
        let public = line.find("\"public\":\"").unwrap() + 12;
        [(format!("keys/{slot}"), public), ("grants/2".into(), at + 40)]
    }
}

#[test]
fn a_check_heals_from_what_is_sound_wherever_it_lies() {
    let world = World::new(&[]);
    for (name, at) in world.objects() {
        let sound = fs::read(world.path(&name)).unwrap();
        for damaged in [&[0][..], &[1], &[0, 2], &[1, 2]] {
            damaged.iter().for_each(|place| world.change_digit(&places(&name)[*place], at));
            // Whoever opens the repository mends what it needs itself: the grants, whosever part is damaged.
            let is_told = |place: &&usize| **place > 0 || name.starts_with("keys/");
            let told: Vec<&usize> = damaged.iter().filter(is_told).collect();
            let said = world.with("correct horse", &["check"], i32::from(!told.is_empty()));
            for place in &told {
                let place = &places(&name)[**place];
                assert!(said.contains(&format!("{place}:")), "{place}: {said}");
            }
            assert!(told.is_empty() || said.contains("--heal"), "{said}");
            world.with("correct horse", &["check", "--heal"], 0);
            world.is_whole(&name, &sound);
        }
        // None is sound: nothing is made of what is not.
        for (number, place) in places(&name).iter().enumerate() {
            world.change_digit(place, at + 2 * number);
        }
        let before: Vec<Vec<u8>> =
            places(&name).iter().map(|place| fs::read(world.path(place)).unwrap()).collect();
        let said = world.with("correct horse", &["check", "--heal"], 1);
        assert!(said.contains("'esker heal'") || said.contains("'esker key"), "{said}");
        for (place, bytes) in places(&name).iter().zip(&before) {
            assert!(fs::read(world.path(place)).unwrap() == *bytes, "{place}");
            fs::write(world.path(place), &sound).unwrap();
        }
        world.is_whole(&name, &sound);
    }
}

#[test]
fn a_head_that_is_made_anew_lists_what_is_sound() {
    for (copies, which) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let world = World::new(&[]);
        // Without any HEAD, the grants are what says who counts.
        let (name, at) = world.objects()[which].clone();
        let sound = fs::read(world.path(&name)).unwrap();
        world.change_digit(&name, at);
        world.lose_head(copies);
        world.with("correct horse", &["repair", "head", "-y"], 0);
        world.is_whole(&name, &sound);
        world.with("correct horse", &["key", "rotate"], 0);
        world.with("second", &["snapshots"], 0);
        world.with("second", &["check", "--read-data"], 0);
    }
}

/// The copies of HEAD count only when it is lost, so nobody but a check would see that they are.
#[test]
fn copies_of_head_are_checked_and_made_again() {
    for init in [&[][..], &["--head", "chain"]] {
        let world = World::new(init);
        let [_, first, second] = places("HEAD");
        world.flip(&first, 200);
        let said = world.with("correct horse", &["check"], 1);
        assert!(
            said.contains(&format!("{first}: the copy of HEAD is damaged")) && said.contains("--heal"),
            "{said}"
        );
        assert!(!said.contains(&second), "{said}");
        world.with("correct horse", &["check", "--heal"], 0);
        world.with("correct horse", &["check"], 0);
        assert!(fs::read(world.path(&first)).unwrap() == fs::read(world.path(&second)).unwrap());
        // What is missing, as after a move from a bucket, is made by whoever opens it.
        [&first, &second].iter().for_each(|name| fs::remove_file(world.path(name)).unwrap());
        world.with("correct horse", &["snapshots"], 0);
        assert!(fs::read(world.path(&first)).unwrap() == fs::read(world.path(&second)).unwrap());
        world.with("correct horse", &["check"], 0);
    }
}

/// Slots that were added or removed since the last rotation: nothing proves either, so each is named.
#[test]
fn slots_that_nothing_proves_are_named() {
    let world = World::new(&[]);
    let removed = world.slot("second");
    let file = fs::read(world.path(&format!("keys/{removed}"))).unwrap();
    world.repo.ok(["key", "remove", &removed]);
    fs::write(world.repo.path("third"), "third").unwrap();
    world.repo.ok(["key", "add", "--label", "newer", "--new-password-file", "third"]);
    let newer = world.slot("newer");
    fs::write(world.path(&format!("keys/{removed}")), file).unwrap();
    world.lose_head(true);
    let said = world.with("correct horse", &["repair", "head", "-y"], 0);
    for word in [&format!("key slot {} ('second'", &removed[..8]), "nothing proves", "key remove"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for word in [&format!("key slot {} ('newer'", &newer[..8]), "stays out", "key add"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    world.with("second", &["snapshots"], 0);
    world.with("third", &["snapshots"], 12);
}

/// Whatever the names are of what somebody puts among the grants.
#[test]
fn planted_names_stop_no_repair_and_no_rotation() {
    for planted in ["4294967295", "4294967294", "3", "4000000000"] {
        let world = World::new(&[]);
        fs::write(world.path(&format!("grants/{planted}")), "junk").unwrap();
        world.lose_head(true);
        world.with("correct horse", &["repair", "head", "-y"], 0);
        world.with("second", &["key", "rotate"], 0);
        world.with("correct horse", &["check", "--read-data"], 0);
    }
}

/// HEAD goes back to an earlier one, for somebody who never saw the later; copies are of the later.
#[test]
fn a_head_that_is_older_than_its_copies_is_refused() {
    for init in [&[][..], &["--head", "chain"]] {
        let world = World::new(init);
        let old = fs::read(world.path("HEAD")).ok();
        fs::write(world.repo.path("data"), "three").unwrap();
        world.repo.ok(["backup", "data"]);
        match old {
            Some(old) => fs::write(world.path("HEAD"), old).unwrap(),
            None => {
                let links = fs::read_dir(world.path("head")).unwrap();
                let mut links: Vec<PathBuf> = links.map(|link| link.unwrap().path()).collect();
                links.sort();
                fs::remove_file(links.pop().unwrap()).unwrap();
            }
        }
        for args in [&["check"][..], &["prune"], &["snapshots"], &["backup", "data"]] {
            let said = world.with("correct horse", args, 1);
            assert!(said.contains("rolled back") && said.contains("repair head"), "{args:?}: {said}");
        }
        world.with("correct horse", &["repair", "head", "-y"], 0);
        let said = world.with("second", &["--json", "snapshots"], 0);
        assert_eq!(said.matches("short_id").count(), 3, "{said}");
        world.with("second", &["check", "--read-data"], 0);
    }
}

/// The slot of the second password.
fn second(world: &Tiered) -> String {
    let list = world.repo.json(["key", "list"]);
    let slot = list.as_array().unwrap().iter().find(|slot| slot["label"] == "second").unwrap();
    slot["id"].as_str().unwrap().to_owned()
}

/// A slot, and grants, of which nothing is left here: another tier has them.
#[test]
fn slots_and_grants_come_back_from_another_tier() {
    let world = crate::rotated_tiers::with_a_second_password();
    world.repo.ok(["key", "rotate"]);
    world.repo.ok(["tier", "sync"]);
    let slot = second(&world);
    let repo = PathBuf::from(world.place("repo"));
    for name in [format!("keys/{slot}"), "grants/2".into()] {
        let sound = fs::read(repo.join(&name)).unwrap();
        for lost in [true, false] {
            for place in places(&name) {
                match lost {
                    true => fs::remove_file(repo.join(place)).unwrap(),
                    false => fs::write(repo.join(place), "x").unwrap(),
                }
            }
            // One of the tier's own is damaged, too.
            fs::write(PathBuf::from(world.place("disk/vault")).join(&name), "y").unwrap();
            let said = world.repo.fails(1, ["check"]);
            // Without grants there is no key to open HEAD with.
            let is_slot = name.starts_with("keys/");
            if is_slot {
                let listed = world.repo.ok(["key", "list"]);
                assert!(listed.contains("is damaged or missing, and opens nothing"), "{listed}");
            }
            assert!(said.contains(if is_slot { "'esker heal'" } else { "'esker repair head'" }), "{said}");
            match is_slot && lost {
                true => world.repo.ok(["heal"]),
                false => world.repo.ok(["repair", "head", "-y"]),
            };
            for place in places(&name) {
                assert!(fs::read(repo.join(&place)).unwrap() == sound, "{place}");
            }
            world.repo.ok(["check"]);
        }
    }
    crate::rotated_tiers::everybody_opens(&world);
}

/// Every slot of the primary is damaged so that it still reads as one: no password opens it, and another tier has them.
#[test]
fn slots_that_all_are_damaged_come_back_from_another_tier() {
    let world = crate::rotated_tiers::with_a_second_password();
    let repo = PathBuf::from(world.place("repo"));
    let mut sound = vec![];
    for entry in fs::read_dir(repo.join("keys")).unwrap() {
        let name = format!("keys/{}", entry.unwrap().file_name().to_str().unwrap());
        let mut bytes = fs::read(repo.join(&name)).unwrap();
        sound.push((name.clone(), bytes.clone()));
        let at = bytes.len() - 9;
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        places(&name).iter().for_each(|place| fs::write(repo.join(place), &bytes).unwrap());
    }
    let said = world.repo.fails(12, ["snapshots"]);
    assert!(said.contains("may be damaged: 'esker repair head' asks the other tiers"), "{said}");
    let said = world.repo.ok(["repair", "head", "-y"]);
    assert!(said.contains("2 key slots are missing or damaged"), "{said}");
    for (name, bytes) in sound {
        places(&name)
            .iter()
            .for_each(|place| assert!(fs::read(repo.join(place)).unwrap() == bytes, "{place}"));
    }
    crate::rotated_tiers::everybody_opens(&world);
    world.repo.ok(["check"]);
    // A tier that does not know of a new password gives nobody the old one back.
    world.repo.ok(["key", "remove", &second(&world)]);
    let keys = || fs::read_dir(repo.join("keys")).unwrap().count();
    let slots = keys();
    let old = |args: &[&str]| world.repo.command(args).env("ESKER_PASSWORD", "second").output().unwrap();
    for args in [&["snapshots"][..], &["repair", "head", "-y"]] {
        expect(&old(args), 12);
    }
    assert_eq!(keys(), slots);
}

/// One flipped bit, wherever it is, of what is read before any key is known, or by the key.
#[test]
fn one_bit_of_a_configuration_or_a_slot_costs_nothing() {
    let world = World::new(&[]);
    for name in ["config".to_owned(), format!("keys/{}", world.slot("second"))] {
        let sound = fs::read(world.path(&name)).unwrap();
        let step = if name == "config" { 7 } else { 61 };
        for at in (0..sound.len()).step_by(step) {
            world.flip(&name, at);
            world.with("second", &["snapshots"], 0);
            assert!(fs::read(world.path(&name)).unwrap() == sound, "byte {at} of {name}");
        }
        world.is_whole(&name, &sound);
    }
}
