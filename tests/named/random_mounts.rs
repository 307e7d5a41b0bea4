//! Random trees with mounts in them, of which random paths are named.

use super::with_mounts;
use crate::harness::{Repo, expect};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Random choices, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }
}

/// The files beneath a path that are to be saved, by the rules as `docs/filters.md` tells them.
fn meant(path: &Path, named: bool, mounts: &[PathBuf], left_out: &OsStr, into: &mut BTreeSet<PathBuf>) {
    if !named && path.file_name() == Some(left_out) {
        return;
    }
    if path.is_file() {
        into.insert(path.to_owned());
    } else if named || !mounts.iter().any(|mount| mount == path) {
        for entry in fs::read_dir(path).unwrap() {
            meant(&entry.unwrap().path(), false, mounts, left_out, into);
        }
    }
}

/// Random trees with mounts in them; random paths of them are named, relative and absolute, in any spelling. With
/// `-x` and without, each is saved whole, and a dry run says the same.
#[test]
fn every_named_path_is_saved_across_random_mounts() {
    const NAMES: [&[u8]; 6] = [b"a", b"b", b"x y", b"M\xfcller", b"-r", b"#c"];
    let repo = Repo::new();
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let top = repo.path(&format!("t{seed}"));
        let (mut folders, mut mounts) = (vec![top.clone()], vec![]);
        fs::create_dir(&top).unwrap();
        let mut all = vec![top.clone()];
        for _ in 0..16 {
            let folder = folders[dice.below(folders.len())].clone();
            let path = folder.join(OsStr::from_bytes(NAMES[dice.below(NAMES.len())]));
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match dice.below(5) {
                0 | 1 => fs::write(&path, path.as_os_str().as_bytes()).unwrap(),
                kind => {
                    fs::create_dir(&path).unwrap();
                    folders.push(path.clone());
                    if kind == 4 {
                        mounts.push(path.clone());
                    }
                }
            }
            all.push(path);
        }
        // A file system of its own over each, with the same content.
        let script: String = mounts
            .iter()
            .map(|mount| {
                let quoted = mount.as_os_str().as_bytes().iter().map(|byte| format!("\\{byte:03o}")).collect::<String>();
                format!("p=$(printf '{quoted}'); mkdir keep; cp -a \"$p/.\" keep; mount -t tmpfs none \"$p\"; cp -a keep/. \"$p\"; rm -r keep\n")
            })
            .collect();
        let stay = dice.below(2) == 0;
        let left_out = OsStr::from_bytes(NAMES[dice.below(NAMES.len())]);
        let exclude = OsString::from_vec([b"--exclude=", left_out.as_bytes()].concat());
        let mut words: Vec<OsString> = vec!["backup".into(), exclude];
        words.extend(stay.then(|| "-x".into()));
        words.push("--".into());
        let mut expected = BTreeSet::new();
        for _ in 0..=dice.below(4) {
            let path = &all[dice.below(all.len())];
            meant(path, true, if stay { &mounts } else { &[] }, left_out, &mut expected);
            let relative = path.strip_prefix(repo.dir.path()).unwrap().as_os_str().as_bytes();
            let absolute = path.as_os_str().as_bytes();
            words.push(OsString::from_vec(match dice.below(4) {
                0 => relative.to_vec(),
                1 => [b"./", relative].concat(),
                2 if path.is_dir() => [absolute, b"//."].concat(),
                _ => absolute.to_vec(),
            }));
        }
        let mut dry = words.clone();
        dry.insert(1, "-n".into());
        let outputs = [dry, words.clone()].map(|words| {
            let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
            with_mounts(&repo, &script, &words)
        });
        outputs.iter().for_each(|output| drop(expect(output, 0)));
        let counts = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines()
                .filter(|line| line.starts_with("Files:") || line.starts_with("Dirs:"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&outputs[0]).len(), 2, "seed {seed}");
        assert_eq!(counts(&outputs[0]), counts(&outputs[1]), "seed {seed}");
        let out = format!("o{seed}");
        repo.ok(["restore", "latest", "--target", &out]);
        let mut restored = BTreeSet::new();
        contents(&repo.path(&out), &mut restored);
        assert_eq!(restored, expected, "seed {seed}: {words:?}");
    }
}

/// The contents of all files, which are paths.
fn contents(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, into);
        } else {
            into.insert(PathBuf::from(OsString::from_vec(fs::read(&path).unwrap())));
        }
    }
}
