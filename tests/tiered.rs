//! A machine with a primary, copies of it, a source and promises, as the tests of tiers have it.

use crate::begun;
use crate::harness::{Repo, noise};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The source of all nights.
pub(crate) const DATA: &str = "\n[[source]]\nname = \"data\"\nurls = [\"DIR/data\"]\n";

/// A place of esker.toml.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    /// Beneath the scratch folder.
    pub(crate) folder: &'static str,
    pub(crate) role: &'static str,
}

/// A primary `local`, in its folder, and copies of the names of their folders.
pub(crate) fn places<const N: usize>(local: &'static str, copies: [&'static str; N]) -> Vec<Place> {
    let primary = Place { name: "local", folder: local, role: "primary" };
    let copies = copies.map(|name| Place { name, folder: name, role: "copy" });
    [primary].into_iter().chain(copies).collect()
}

/// A promise of all snapshots for so long.
pub(crate) fn promise(keep: &str, tiers: &[&str]) -> String {
    format!("\n[[promise]]\nkeep = \"{keep}\"\ntiers = {tiers:?}\n")
}

pub(crate) struct Tiered {
    pub(crate) repo: Repo,
    places: Vec<Place>,
}

impl Tiered {
    /// Not made yet: whoever wants it calls `esker init`.
    pub(crate) fn unmade(places: Vec<Place>, rest: &str) -> Self {
        let tiers = places.iter().map(|Place { name, folder, role }| {
            format!("[[tier]]\nname = \"{name}\"\nurl = \"file:DIR/{folder}\"\nrole = \"{role}\"\n\n")
        });
        let toml = tiers.collect::<String>() + rest;
        let repo = Repo::with_tiers(&toml, &[], false);
        std::fs::create_dir(repo.path("data")).unwrap();
        for Place { folder, .. } in &places {
            let above = repo.path(folder).parent().unwrap().to_owned();
            std::fs::create_dir_all(above).unwrap();
        }
        Self { repo, places }
    }

    pub(crate) fn new(places: Vec<Place>, rest: &str) -> Self {
        let world = Self::unmade(places, rest);
        let primary = world.places.iter().find(|place| place.role == "primary").unwrap();
        begun::in_folder(&world.repo.path(primary.folder), &[]);
        world.repo.ok(["init"]);
        world
    }

    /// Runs a script in the scratch folder.
    pub(crate) fn shell(&self, script: &str) {
        let mut shell = Command::new("sh");
        let status = shell.args(["-ec", script]).current_dir(self.repo.dir.path()).status();
        assert!(status.unwrap().success(), "{script}");
    }

    /// What is to be restored.
    pub(crate) fn change(&self, seed: u64) {
        std::fs::write(self.repo.path("data/file"), noise(seed, 200_000)).unwrap();
    }

    /// A run that is as it should be; returns what it said.
    pub(crate) fn night(&self, seed: u64) -> String {
        self.change(seed);
        self.repo.ok(["run"])
    }

    /// Runs a command; returns its code and all that it said.
    pub(crate) fn say(&self, args: &[&str]) -> (i32, String) {
        let output = self.repo.run(args);
        (output.status.code().unwrap(), said(&output))
    }

    /// Runs commands, each of which is to end with 0.
    pub(crate) fn walk_out(&self, commands: &[&str]) {
        for command in commands {
            let words: Vec<&str> = command.split(' ').collect();
            let (code, said) = self.say(&words);
            assert_eq!(code, 0, "{command}: {said}");
        }
    }

    pub(crate) fn place(&self, folder: &str) -> String {
        self.repo.path(folder).display().to_string()
    }

    /// A command about one place alone, without what this machine remembers.
    pub(crate) fn at(&self, folder: &str, words: &[&str]) -> Output {
        let place = self.place(folder);
        self.repo.run([&["-r", &place, "--no-cache"], words].concat())
    }

    /// How many snapshots a place names, asked of it alone.
    pub(crate) fn snapshots(&self, folder: &str) -> usize {
        self.repo.json(["-r", &self.place(folder), "--no-cache", "snapshots"]).as_array().unwrap().len()
    }

    /// Packs and snapshots of a place.
    pub(crate) fn objects(&self, folder: &str) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for below in ["packs", "snapshots"] {
            walk(&self.repo.path(folder).join(below), &mut found);
        }
        found
    }

    /// Everything that a place ever had restores from it alone.
    pub(crate) fn is_whole(&self, folder: &str, snapshots: usize) {
        assert_eq!(self.snapshots(folder), snapshots);
        crate::harness::expect(&self.at(folder, &["check", "--read-data"]), 0);
    }

    /// The file of a snapshot, by its id or `latest`, from one place alone.
    pub(crate) fn file_of(&self, folder: &str, snapshot: &[&str]) -> Vec<u8> {
        self.shell("rm -rf out");
        let restored = self.at(folder, &[&["restore"], snapshot, &["--target", "out"]].concat());
        crate::harness::expect(&restored, 0);
        let mut find = Command::new("find");
        let found = find.args(["out", "-name", "file"]).current_dir(self.repo.dir.path()).output().unwrap();
        std::fs::read(self.repo.path(String::from_utf8(found.stdout).unwrap().trim())).unwrap()
    }

    /// The role of the primary goes to another one.
    pub(crate) fn be_primary(&self, name: &str) {
        let path = self.repo.path("esker.toml");
        let toml = std::fs::read_to_string(&path).unwrap().replace("role = \"primary\"", "role = \"copy\"");
        let (before, tier) = toml.split_once(&format!("name = \"{name}\"")).unwrap();
        let (_, rest) = tier.split_once("role = ").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let url = tier.split("role = ").next().unwrap();
        let tier = format!("{url}role = \"primary\"\n{rest}");
        std::fs::write(path, format!("{before}name = \"{name}\"{tier}")).unwrap();
    }

    /// Keeps all places, and what this machine remembers, as they are now.
    pub(crate) fn keep(&self) {
        self.shell("rm -rf sound; mkdir sound");
        for folder in self.tops() {
            self.shell(&format!("cp -a {folder} sound/{folder}"));
        }
    }

    /// Puts back what was kept.
    pub(crate) fn again(&self) {
        for folder in self.tops() {
            self.shell(&format!("rm -rf {folder}; cp -a sound/{folder} {folder}"));
        }
    }

    fn tops(&self) -> BTreeSet<&str> {
        let folders = self.places.iter().filter_map(|place| place.folder.split('/').next());
        folders.chain(["cache"]).collect()
    }
}

/// All that a command said.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), found),
            false => drop(found.insert(entry.path())),
        }
    }
}
