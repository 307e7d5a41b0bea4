//! Rotation of data keys in a repository with tiers: copies open before and after they are brought up to it, and a HEAD or
//! grants that are lost come back.

use crate::harness::expect;
use crate::lost::three_nights;
use crate::tiered::Tiered;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::format::ENVELOPE_MAGIC;
use chunkstore::head::Root;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, ChunkStore, TierCommit};
use std::sync::Arc;

const LOSE_HEAD: &str = "rm -rf repo/HEAD repo/copies/*/HEAD* cache";
const LOSE_GRANTS: &str = "rm -r repo/grants repo/copies/*/grants";

/// Three nights, and a second password.
pub(crate) fn with_a_second_password() -> Tiered {
    let world = three_nights();
    std::fs::write(world.repo.path("second"), "second\n").unwrap();
    world.repo.ok(["key", "add", "--label", "second", "--new-password-file", "second"]);
    world.repo.ok(["tier", "sync"]);
    world
}

/// Runs a command with a password and a place, by itself.
fn at(world: &Tiered, place: &str, password: &str, args: &[&str], code: i32) -> String {
    let place = world.place(place);
    let mut command = world.repo.command(["-r", &place, "--no-cache"].iter().chain(args));
    let output = command.env("ESKER_PASSWORD", password).output().unwrap();
    expect(&output, code) + &String::from_utf8_lossy(&output.stderr)
}

fn epochs(world: &Tiered, place: &str) -> usize {
    let text = at(world, place, "second", &["--json", "key", "epochs"], 0);
    serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap().as_array().unwrap().len()
}

pub(crate) fn everybody_opens(world: &Tiered) {
    for place in ["repo", "disk/vault"] {
        for password in ["correct horse", "second"] {
            at(world, place, password, &["snapshots"], 0);
        }
    }
}

#[test]
fn copies_open_before_and_after_they_are_brought_up_to_a_rotation() {
    let world = with_a_second_password();
    let said = world.repo.ok(["key", "rotate"]);
    assert!(said.contains("'esker tier sync' brings it to the tiers"), "{said}");
    assert_eq!((epochs(&world, "repo"), epochs(&world, "disk/vault")), (2, 1));
    everybody_opens(&world);
    let refused = at(&world, "disk/vault", "second", &["key", "rotate"], 1);
    assert!(refused.contains("tier 'vault'") && refused.contains("rotate there"), "{refused}");
    assert!(world.night(3).contains("all promises are kept"));
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(4).contains("all promises are kept"));
    assert_eq!((epochs(&world, "repo"), epochs(&world, "disk/vault")), (3, 3));
    everybody_opens(&world);
    for place in ["repo", "disk/vault"] {
        at(&world, place, "second", &["check", "--read-data"], 0);
        assert!(
            world.repo.path(place).join("grants/3").exists()
                && !world.repo.path(place).join("grants/2").exists()
        );
    }
    // A removed slot opens a copy no more, once that was brought up.
    let slots = world.repo.json(["key", "list"]);
    let slot = slots.as_array().unwrap().iter().find(|slot| slot["label"] == "second").unwrap();
    world.repo.ok(["key", "remove", slot["id"].as_str().unwrap()]);
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(5).contains("all promises are kept"));
    for place in ["repo", "disk/vault"] {
        at(&world, place, "second", &["snapshots"], 12);
        at(&world, place, "correct horse", &["snapshots"], 0);
    }
}

/// Whatever a sync writes on a tier after a rotation, it seals under the new key.
#[test]
fn a_sync_after_a_rotation_seals_under_the_new_key() {
    let world = with_a_second_password();
    let listed = |folder: &str| -> std::collections::BTreeSet<std::path::PathBuf> {
        let (mut found, mut left) = (std::collections::BTreeSet::new(), vec![world.repo.path(folder)]);
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    found.insert(path);
                }
            }
        }
        found
    };
    let folders = ["packs", "index", "maps", "sets"].map(|folder| format!("disk/vault/{folder}"));
    let before: Vec<_> = folders.iter().map(|folder| listed(folder)).collect();
    let of_primary = listed("repo/packs");
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(3).contains("all promises are kept"));
    let mut new = 0;
    for (folder, before) in folders.iter().zip(&before) {
        for path in listed(folder).into_iter().filter(|path| !before.contains(path)) {
            // A pack that is copied whole stays as it is.
            let name = path.strip_prefix(world.repo.path("disk/vault")).unwrap();
            if of_primary.contains(&world.repo.path("repo").join(name)) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            // A sealed object has it behind magic, kind and version, and so has a pack.
            let at = if bytes.starts_with(ENVELOPE_MAGIC) { 8 } else { 12 };
            let epoch = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(epoch, 2, "{}", path.display());
            new += 1;
        }
    }
    assert!(new > 2, "{new} objects are new");
    everybody_opens(&world);
}

#[test]
fn a_head_that_is_lost_after_rotations_comes_back() {
    let world = with_a_second_password();
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(3).contains("all promises are kept"));
    world.repo.ok(["key", "rotate"]);
    // Nothing but the HEAD that is lost was sealed under the last key.
    world.shell(LOSE_HEAD);
    world.repo.ok(["repair", "head", "-y"]);
    everybody_opens(&world);
    // No other HEAD says that the third epoch came to be, so there is a fourth.
    assert_eq!(epochs(&world, "repo"), 4);
    assert!(world.night(4).contains("all promises are kept"));
    everybody_opens(&world);
    // It may have parted from another line: numbers are times from now on.
    let done = world.repo.json(["key", "rotate"]);
    assert!(done["epoch"].as_u64().unwrap() > 1_000_000_000, "{done}");
    everybody_opens(&world);
    // A copy takes over, and makes epochs of its own.
    assert!(world.night(5).contains("all promises are kept"));
    at(&world, "repo", "second", &["check", "--read-data"], 0);
    at(&world, "disk/vault", "second", &["check", "--read-data"], 0);
}

#[test]
fn grants_that_are_lost_come_back_from_another_tier() {
    let world = with_a_second_password();
    world.repo.ok(["key", "rotate"]);
    assert!(world.night(3).contains("all promises are kept"));
    world.shell(LOSE_GRANTS);
    at(&world, "repo", "second", &["snapshots"], 1);
    // With esker.toml, what reads goes to the vault, and says what is wrong here.
    let (_, refused) = world.say(&["snapshots"]);
    assert!(refused.contains("grants/2") && refused.contains("repair head"), "{refused}");
    let said = world.repo.ok(["repair", "head", "--dry-run"]);
    assert!(said.contains("the grants of epoch 2 are missing") && said.contains("HEAD is fine"), "{said}");
    assert!(!world.repo.path("repo/grants").exists());
    world.repo.ok(["repair", "head", "-y"]);
    everybody_opens(&world);
    world.repo.ok(["check"]);
    // With HEAD, too.
    world.shell(LOSE_GRANTS);
    world.shell(LOSE_HEAD);
    world.repo.ok(["repair", "head", "-y"]);
    everybody_opens(&world);
    world.repo.ok(["check", "--read-data"]);
    // Those of a tier come with the next sync.
    world.shell("rm -r disk/vault/grants disk/vault/copies/*/grants");
    at(&world, "disk/vault", "second", &["snapshots"], 1);
    assert!(world.night(4).contains("all promises are kept"));
    everybody_opens(&world);
}

fn access(storage: &Arc<MemoryStorage>) -> Access {
    crate::harness::access(Arc::clone(storage) as _)
}

/// Brings a tier up to its primary, as a sync does.
fn sync(primary: &ChunkStore, to: &Arc<MemoryStorage>, name: &str, roots: &[Root]) {
    let tier = primary.open_tier(access(to), name, false).unwrap();
    let session = tier.open_session("sync").unwrap();
    primary.take_in_epochs(&tier.head()).unwrap();
    let head = primary.reload().unwrap();
    primary.copy_grants(&head, &**to).unwrap();
    roots.iter().for_each(|root| tier.copy_snapshot(root, primary, None).unwrap());
    primary.copy_slots(&head, &**to).unwrap();
    let commit = TierCommit { roots: roots.to_vec(), ..TierCommit::default() };
    tier.commit_tier(&session, &head, &commit).unwrap();
}

/// The primary rotates, one copy hears of it, the primary is lost, and the other copy takes over, and rotates, too.
#[test]
fn two_lines_that_rotated_apart_have_all_keys_when_they_meet() {
    let [first, behind, ahead] = [(); 3].map(|()| Arc::new(MemoryStorage::default()));
    let (params, layout) = (ChunkerParams::default(), Layout::default());
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let primary =
        ChunkStore::init(access(&first), params, b"x", cheap, SlotOwner::default(), layout).unwrap();
    primary.create_tier(access(&behind), "behind", false).unwrap();
    primary.create_tier(access(&ahead), "ahead", false).unwrap();
    assert_eq!(primary.rotate().unwrap().epoch, 2);
    let root = primary.write_snapshot(b"{}", b"").unwrap();
    sync(&primary, &ahead, "ahead", std::slice::from_ref(&root));
    drop((primary, first));

    let adopted = ChunkStore::open(access(&behind), b"x").unwrap();
    adopted.adopt().unwrap();
    let theirs = adopted.rotate().unwrap().epoch;
    assert!(theirs > 2, "no number has two keys: {theirs}");
    drop(adopted);
    let primary = ChunkStore::open(access(&behind), b"x").unwrap();
    assert_eq!(primary.keys().epochs(), [1, theirs]);
    sync(&primary, &ahead, "ahead", &[]);
    for storage in [&behind, &ahead] {
        let opened = ChunkStore::open(access(storage), b"x").unwrap();
        let epochs: Vec<u32> = opened.head().epochs.keys().copied().collect();
        assert_eq!(opened.keys().epochs(), epochs);
        assert!(epochs.len() == 4 && epochs.starts_with(&[1, 2, theirs]), "{epochs:?}");
    }
    let opened = ChunkStore::open(access(&ahead), b"x").unwrap();
    assert_eq!(opened.read_snapshot(&root).unwrap(), b"{}");
}
