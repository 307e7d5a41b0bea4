//! A local user who exchanges what root restores into his folder, or backs up from it, as fast as he can: nothing of
//! root's changes, and nothing of root's is stored.

use crate::harness::{Repo, expect};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, mknodat, renameat_with, statat};
use rustix::process::{Gid, Uid};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// The user: nobody.
const USER: u32 = 65534;
/// Names in his folder that are exchanged.
const NAMES: usize = 40;
/// Rounds after which a test gives up.
const MANY: usize = 5000;

/// Whether the test can be made: it takes root.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can become another user and restore for him");
    }
    is_root
}

/// Work of the user, in a thread that is him for good, until it is stopped.
struct User {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl User {
    /// `work` counts what it did.
    fn at_work(mut work: impl FnMut() -> u64 + Send + 'static) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            while !seen.load(Ordering::Relaxed) {
                count.fetch_add(work(), Ordering::Relaxed);
            }
        });
        Self { stop, done, thread: Some(thread) }
    }

    /// Whether he did enough to have been in the way. A machine with other work gives him little of its time.
    fn was_busy(&self) -> bool {
        self.done.load(Ordering::Relaxed) > 1000
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Exchanges two names; 1 if that went well.
fn exchange(one: &Path, other: &Path) -> u64 {
    u64::from(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok())
}

/// Mode, owner, and content or what is in it.
fn state(path: &Path) -> (u32, u32, u32, Vec<u8>) {
    let metadata = path.metadata().unwrap();
    let content = match metadata.is_dir() {
        true => {
            let mut names: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join("\n").into_bytes()
        }
        false => std::fs::read(path).unwrap(),
    };
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), content)
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
}

/// A folder that anybody can reach, with `secret/` of root's, in which are a folder `d` and a file `key`, and `home/` of
/// the user's.
fn stage(repo: &Repo) -> (PathBuf, PathBuf) {
    std::fs::set_permissions(repo.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (secret, home) = (repo.path("secret"), repo.path("home"));
    std::fs::create_dir_all(secret.join("d")).unwrap();
    std::fs::write(secret.join("key"), "the key of root").unwrap();
    std::fs::write(secret.join("d/key"), "the key of root").unwrap();
    std::fs::set_permissions(secret.join("key"), Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(secret.join("d/key"), Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(secret.join("d"), Permissions::from_mode(0o700)).unwrap();
    std::fs::create_dir(&home).unwrap();
    give(&home);
    (secret, home)
}

#[test]
fn who_exchanges_what_is_restored_for_him_gets_nothing_of_roots() {
    if !is_root() {
        return;
    }
    let repo = Repo::new();
    let (secret, home) = stage(&repo);
    // What is open to the user: pipes, files and folders of his.
    for number in 0..NAMES {
        let (pipe, file, folder) = (
            home.join(format!("p{number}")),
            home.join(format!("f{number}")),
            home.join(format!("d{number}")),
        );
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        std::fs::write(&file, "a file").unwrap();
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("key"), "a key of the user").unwrap();
        std::fs::set_permissions(&pipe, Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        [&pipe, &file, &folder, &folder.join("key")].into_iter().for_each(|path| give(path));
    }
    repo.ok(["backup", "home"]);
    let outside = [secret.clone(), secret.join("d"), secret.join("key"), secret.join("d/key")];
    let before = outside.clone().map(|path| state(&path));
    // His links, each beside what it is exchanged for.
    let links = repo.path("home/.links");
    std::fs::create_dir(&links).unwrap();
    give(&links);
    let mut pairs = vec![];
    for number in 0..NAMES {
        for (letter, target) in [("p", "key"), ("f", "key"), ("d", "d")] {
            let link = links.join(format!("{letter}{number}"));
            symlink(secret.join(target), &link).unwrap();
            give(&link);
            pairs.push((home.join(format!("{letter}{number}")), link));
        }
    }
    let mut next = 0;
    let user = User::at_work(move || {
        // Whatever root is about: a link is in its place as soon as there is something.
        next = (next + 1) % pairs.len();
        let (name, link) = &pairs[next];
        match statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => exchange(name, link),
            Err(_) => 0,
        }
    });
    let mut round = 0;
    while round < 12 || !user.was_busy() {
        // In place, with and without what is there.
        let target = repo.path("");
        let mut args = vec!["restore", "latest", "--target", target.to_str().unwrap(), "--include", "home"];
        if round % 3 == 2 {
            args.extend(["--overwrite", "always"]);
        }
        let output = repo.run(&args);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{output:?}");
        if round % 3 == 1 {
            for number in 0..NAMES {
                let _ = std::fs::remove_file(home.join(format!("p{number}")));
                let _ = std::fs::remove_file(home.join(format!("f{number}")));
            }
        }
        for (path, before) in outside.iter().zip(&before) {
            assert_eq!(&state(path), before, "{} in round {round}", path.display());
        }
        round += 1;
        assert!(round < MANY, "the user did nothing");
    }
    user.end();
}

/// What else of a file of root's could change: how many names it has, and its extended attributes.
fn marks(path: &Path) -> (u64, Vec<u8>) {
    let mut names = vec![0; 4096];
    let len = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    names.truncate(len);
    (path.metadata().unwrap().nlink(), names)
}

/// The same of a restore that removes what the snapshot does not have, sets extended attributes and makes hard links.
#[test]
fn who_exchanges_what_is_removed_linked_and_marked_gets_nothing_of_roots() {
    if !is_root() {
        return;
    }
    let repo = Repo::new();
    let (secret, home) = stage(&repo);
    for number in 0..NAMES {
        let file = home.join(format!("f{number}"));
        std::fs::write(&file, "a file").unwrap();
        rustix::fs::setxattr(&file, "user.note", b"the user's", rustix::fs::XattrFlags::empty()).unwrap();
        std::fs::hard_link(&file, home.join(format!("h{number}"))).unwrap();
        give(&file);
    }
    repo.ok(["backup", "home"]);
    let outside = [secret.clone(), secret.join("d"), secret.join("key"), secret.join("d/key")];
    let look = || outside.clone().map(|path| (state(&path), marks(&path)));
    let before = look();
    // His links, and folders that the snapshot does not have, in which are the names that root's folder has.
    let links = repo.path("links");
    std::fs::create_dir(&links).unwrap();
    give(&links);
    let mut pairs = vec![];
    for number in 0..NAMES {
        for (letter, target) in [("f", "key"), ("h", "key"), ("x", "."), ("y", "d")] {
            let link = links.join(format!("{letter}{number}"));
            symlink(secret.join(target), &link).unwrap();
            give(&link);
            pairs.push((letter, home.join(format!("{letter}{number}")), link));
        }
    }
    let (mut next, made) = (0, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&made);
    let user = User::at_work(move || {
        next = (next + 1) % pairs.len();
        let (letter, name, link) = &pairs[next];
        match (*letter, statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()) {
            // Without one of its names, a file has to be linked again.
            ("h", true) if next % 3 == 0 => {
                let _ = std::fs::remove_file(name);
                0
            }
            ("x" | "y", false) => {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = std::fs::create_dir_all(name.join("d"));
                let _ = std::fs::write(name.join("key"), "a key of the user");
                let _ = std::fs::write(name.join("d/key"), "a key of the user");
                exchange(name, link)
            }
            (_, true) => exchange(name, link),
            (_, false) => 0,
        }
    });
    let target = repo.path("");
    let target = target.to_str().unwrap();
    let words = ["restore", "latest", "--target", target, "--include", "home", "--delete", "--yes"];
    // At least until he had to make again what was removed.
    let mut round = 0;
    while round < 12 || !user.was_busy() || made.load(Ordering::Relaxed) <= 2 * NAMES {
        let output = repo.run(words);
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{output:?}");
        assert_eq!(look(), before, "round {round}: {output:?}");
        round += 1;
        assert!(round < MANY, "nothing was removed and made again");
    }
    user.end();
    // Nobody is at work any more: all is as it was, and what is not in the snapshot is gone.
    repo.ok(words);
    for number in 0..NAMES {
        let (file, link) = (home.join(format!("f{number}")), home.join(format!("h{number}")));
        assert_eq!(file.symlink_metadata().unwrap().ino(), link.symlink_metadata().unwrap().ino());
        // Others of its names may be among the user's links.
        assert_eq!(marks(&file).1, b"user.note\0");
        for letter in ["x", "y"] {
            assert!(home.join(format!("{letter}{number}")).symlink_metadata().is_err());
        }
    }
    assert_eq!(look(), before);
}

#[test]
fn who_exchanges_a_folder_of_his_for_a_link_gives_nothing_of_roots_away() {
    if !is_root() {
        return;
    }
    let repo = Repo::new();
    let (secret, home) = stage(&repo);
    let mut pairs = vec![];
    let links = repo.path("links");
    std::fs::create_dir(&links).unwrap();
    give(&links);
    for number in 0..NAMES {
        // A folder and, deeper, a file, each with the name that root's has.
        let folder = home.join(format!("d{number}"));
        std::fs::create_dir_all(folder.join("d")).unwrap();
        std::fs::write(folder.join("key"), "a key of the user").unwrap();
        std::fs::write(folder.join("d/key"), "a key of the user").unwrap();
        for path in [&folder, &folder.join("d"), &folder.join("key"), &folder.join("d/key")] {
            give(path);
        }
        for (name, target) in [(folder.clone(), "."), (folder.join("key"), "key"), (folder.join("d"), "d")] {
            let link = links.join(format!("{number}-{target}"));
            symlink(secret.join(target), &link).unwrap();
            give(&link);
            pairs.push((name, link));
        }
    }
    let mut next = 0;
    let user = User::at_work(move || {
        next = (next + 1) % pairs.len();
        let (name, link) = &pairs[next];
        exchange(name, link) + exchange(name, link)
    });
    let mut round = 0;
    while round < 10 || !user.was_busy() {
        let output = repo.run(["backup", "--force", "home"]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        round += 1;
        assert!(round < MANY, "the user did nothing");
    }
    user.end();
    let snapshots = repo.json(["snapshots"]);
    assert_eq!(snapshots.as_array().unwrap().len(), round);
    for snapshot in snapshots.as_array().unwrap() {
        let output = repo.run(["dump", snapshot["id"].as_str().unwrap(), "/"]);
        expect(&output, 0);
        let tar = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(tar.contains("home") && tar.contains("a key of the user"));
        assert!(!tar.contains("the key of root"));
    }
}

#[test]
fn what_whoever_starts_a_program_gets_is_given_only_with_its_owner() {
    if !is_root() {
        return;
    }
    let repo = Repo::new();
    let (program, group) = (repo.path("data/program"), repo.path("data/group"));
    std::fs::create_dir_all(&group).unwrap();
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    chown(&program, Some(USER), Some(USER)).unwrap();
    chown(&group, Some(USER), Some(USER)).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(&group, Permissions::from_mode(0o2775)).unwrap();
    // VFS_CAP_REVISION_2 with CAP_NET_RAW, effective (capability.h).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    rustix::fs::setxattr(&program, name, &capability, rustix::fs::XattrFlags::empty()).unwrap();
    repo.ok(["backup", "data"]);
    let found = |target: &str| {
        let mut value = [0; 64];
        let program = repo.path(target).join("data/program");
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        let has = rustix::fs::getxattr(&program, name, &mut value[..]).is_ok();
        (mode(&program), mode(&repo.path(target).join("data/group")), has)
    };
    repo.ok(["restore", "latest", "--target", "whole"]);
    assert_eq!(found("whole"), (0o6755, 0o2775, true));
    repo.ok(["restore", "latest", "--target", "without", "--no-owner"]);
    assert_eq!(found("without"), (0o755, 0o775, false));
    // Over what has them.
    repo.ok(["restore", "latest", "--target", "whole", "--no-owner"]);
    assert_eq!(found("whole"), (0o6755, 0o2775, true), "these have the owner");
    chown(repo.path("whole/data/program"), Some(0), Some(0)).unwrap();
    chown(repo.path("whole/data/group"), Some(0), Some(0)).unwrap();
    repo.ok(["restore", "latest", "--target", "whole", "--no-owner"]);
    assert_eq!(found("whole"), (0o755, 0o775, false));
}
