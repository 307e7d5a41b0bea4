//! Objects of tiers that are lost: what a run says then, what stays, and whether each way out that is named leads out.

use crate::harness::expect;
use crate::tiered::{DATA, Place, Tiered, places, promise};

/// Snapshots in the vault.
pub(crate) const NIGHTS: u64 = 3;

/// Three nights, of which only the vault has all, for ever; the primary keeps the last.
pub(crate) fn three_nights() -> Tiered {
    let vault = Place { name: "vault", folder: "disk/vault", role: "vault" };
    let all = places("repo", []).into_iter().chain([vault]).collect();
    let world = Tiered::new(all, &(DATA.to_owned() + &promise("forever", &["vault"])));
    (0..NIGHTS).for_each(|night| assert!(world.night(night).contains("all promises are kept")));
    assert_eq!((world.snapshots("repo"), world.snapshots("disk/vault")), (1, 3));
    world.keep();
    world
}

/// What is lost, what a run says then, and what brings it back.
struct Loss {
    /// Shell, from the folder that holds `repo` and `disk/vault`.
    lose: &'static str,
    /// Exit code of the run after it.
    code: i32,
    /// What it says; empty if nothing need be said.
    said: &'static str,
    /// The commands that it names, after which a run ends with 0.
    out: &'static [&'static str],
}

const LOSSES: &[Loss] = &[
    Loss {
        lose: "rm disk/vault/HEAD",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "rm -r disk/vault/HEAD disk/vault/copies",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "printf x > disk/vault/HEAD",
        code: 3,
        said: "HEAD is damaged",
        out: &["repair head --tier vault"],
    },
    // A HEAD of another place, whose name is right: the primary's.
    Loss {
        lose: "cp repo/HEAD disk/vault/HEAD",
        code: 3,
        said: "it is that of the primary",
        out: &["repair head --tier vault"],
    },
    Loss { lose: "rm disk/vault/config", code: 0, said: "", out: &[] },
    Loss { lose: "printf x > disk/vault/config", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r disk/vault/config disk/vault/copies",
        code: 3,
        said: "config is damaged: it is missing",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "rm -r disk/vault/copies && printf x > disk/vault/config",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "rm disk/vault/HEAD && cp disk/vault/config disk/vault/HEAD",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss { lose: "rm -r disk/vault/keys", code: 0, said: "", out: &[] },
    Loss { lose: "rm -r disk/vault/keys disk/vault/copies", code: 0, said: "", out: &[] },
    Loss { lose: "rm -r disk/vault/maps", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r disk/vault/index",
        code: 3,
        said: "repair index",
        out: &["-r disk/vault repair index"],
    },
    // Several at once.
    Loss {
        lose: "rm -r disk/vault/maps disk/vault/HEAD disk/vault/copies",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "rm -r disk/vault/keys disk/vault/HEAD disk/vault/copies",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    Loss {
        lose: "rm -r disk/vault/config disk/vault/keys disk/vault/HEAD disk/vault/copies",
        code: 3,
        said: "esker repair head --tier vault",
        out: &["repair head --tier vault"],
    },
    // One record: that of the newest is in the primary, too; that of the oldest nowhere else.
    Loss { lose: "rm disk/vault/snapshots/$(ls repo/snapshots)", code: 0, said: "", out: &[] },
    Loss { lose: "printf x > disk/vault/snapshots/$(ls repo/snapshots)", code: 0, said: "", out: &[] },
    Loss { lose: "mv disk/vault disk/away", code: 3, said: "Is its disk mounted?", out: &[] },
    Loss { lose: "mv disk/vault away && mkdir disk/vault", code: 3, said: "is its disk mounted", out: &[] },
    Loss { lose: "rm repo/HEAD", code: 1, said: "esker repair head", out: &["repair head", "tier sync"] },
    Loss {
        lose: "rm -r repo/HEAD repo/copies",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "tier sync"],
    },
    Loss {
        lose: "cp disk/vault/HEAD repo/HEAD",
        code: 1,
        said: "it is that of tier 'vault'",
        out: &["repair head", "tier sync"],
    },
    Loss { lose: "rm repo/config", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r repo/config repo/copies",
        code: 1,
        said: "config is damaged: it is missing",
        out: &["repair head", "tier sync"],
    },
    Loss {
        lose: "rm -r repo/copies && printf x > repo/config",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "tier sync"],
    },
    Loss {
        lose: "rm -r repo/copies && for slot in repo/keys/*; do printf x > $slot; done",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "tier sync"],
    },
    Loss { lose: "rm -r repo/index", code: 1, said: "esker repair index", out: &["repair index"] },
    Loss {
        lose: "rm -r repo/index repo/HEAD repo/copies",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "repair index", "tier sync"],
    },
    Loss {
        lose: "rm -r repo/keys repo/HEAD repo/copies",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "tier sync"],
    },
    // The config of both, as long as one has a copy of it.
    Loss { lose: "rm repo/config disk/vault/config", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r repo/config repo/copies disk/vault/config",
        code: 1,
        said: "config is damaged: it is missing",
        out: &["repair head", "tier sync"],
    },
    // Records that the vault has, too, with and without HEAD.
    Loss { lose: "rm repo/snapshots/*", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r repo/snapshots/* repo/HEAD repo/copies",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "tier sync"],
    },
    Loss { lose: "rm -r repo/keys", code: 0, said: "", out: &[] },
    Loss {
        lose: "rm -r repo/keys repo/copies",
        code: 1,
        said: "no key slot is left",
        out: &["repair head", "tier sync"],
    },
    Loss {
        lose: "rm -r repo/HEAD disk/vault/HEAD",
        code: 1,
        said: "esker repair head",
        out: &["repair head --tier vault", "repair head", "tier sync"],
    },
    Loss {
        lose: "rm -r repo/HEAD disk/vault/HEAD repo/copies disk/vault/copies",
        code: 1,
        said: "esker repair head",
        out: &["repair head", "repair head --tier vault", "tier sync"],
    },
];

#[test]
fn a_vault_without_its_head_is_not_taken_for_a_new_one() {
    walk_through("disk/vault/HEAD");
}

#[test]
fn what_a_vault_lost_besides_its_head_comes_back() {
    walk_through("disk");
}

#[test]
fn what_the_primary_lost_comes_back() {
    walk_through("repo");
}

/// Loses what is listed, of the losses whose first path begins so; the vault's HEAD has a test of its own.
fn walk_through(what: &str) {
    let world = three_nights();
    for loss in LOSSES {
        let path = loss.lose.split(' ').find(|word| word.contains('/')).unwrap();
        let is_head = loss.lose.contains("vault/HEAD") && path.starts_with("disk");
        if !path.starts_with(what) || is_head != what.contains("HEAD") {
            continue;
        }
        // What this machine has seen before matters to HEAD, and to what is not there at all.
        let matters = loss.lose.contains("HEAD") || loss.lose.starts_with("mv");
        for known in if matters { &[true, false][..] } else { &[true] } {
            lose(&world, loss, *known);
        }
    }
}

fn lose(world: &Tiered, loss: &Loss, known: bool) {
    let case = format!("{} (machine known: {known})", loss.lose);
    world.again();
    world.shell(loss.lose);
    if !known {
        world.shell("rm -rf cache");
    }
    let before = world.objects("disk/vault");
    let (code, said) = world.say(&["run"]);
    // Of one place alone, nobody who saw none of them before can tell whose it is.
    let expected = match loss.lose.starts_with("mv") && !known {
        true => (1, "repository_id"),
        false => (loss.code, loss.said),
    };
    assert_eq!(code, expected.0, "{case}: {said}");
    assert!(said.contains(expected.1), "{case}: {said}");
    assert_eq!(said.contains("all promises are kept"), code == 0, "{case}: {said}");
    for command in [&["tier", "prune"][..], &["prune"]] {
        let (_, said) = world.say(command);
        let after = world.objects("disk/vault");
        assert!(after.is_superset(&before), "{case}: {command:?} removed something: {said}");
    }
    if loss.lose.starts_with("mv") {
        let made = std::fs::read_dir(world.repo.path("disk/vault")).map_or(0, Iterator::count);
        assert_eq!(made, 0, "{case}: nothing is made in its place");
        world.shell("rm -rf disk && cp -a sound/disk disk");
    }
    world.walk_out(loss.out);
    let after = world.night(7);
    assert!(after.contains("all promises are kept"), "{case}: {after}");
    world.walk_out(&["tier prune", "prune"]);
    let after = world.objects("disk/vault");
    assert!(after.is_superset(&before), "{case}: the way out removed something");
    let sound = world.snapshots("disk/vault");
    world.is_whole("disk/vault", sound);
    assert!(sound > NIGHTS as usize, "{case}: {sound}");
}

/// The config of both, with all copies of it: no command can make one, each says so and touches nothing, and a config
/// that somebody kept leads out.
#[test]
fn a_config_that_is_lost_everywhere_is_said_to_be() {
    let world = three_nights();
    world.shell("rm -r repo/config repo/copies disk/vault/config disk/vault/copies");
    let all = || ["repo", "disk/vault"].map(|place| world.objects(place));
    let before = all();
    for command in [&["run"][..], &["tier", "sync"], &["prune"], &["repair", "head"], &["init"]] {
        let (code, said) = world.say(command);
        let named = if command[0] == "init" { "holds a repository" } else { "config" };
        assert!(code == 1 && said.contains(named), "{command:?}: {code}: {said}");
        assert!(!said.contains("all promises are kept"), "{command:?}: {said}");
    }
    let (code, said) = world.say(&["repair", "head", "--tier", "vault"]);
    assert!(code == 1 && said.contains("no tier can be opened that has them"), "{code}: {said}");
    assert!(all() == before && !world.repo.path("repo/config").exists());
    world.shell("cp sound/disk/vault/config disk/vault/config");
    world.walk_out(&["repair head", "tier sync"]);
    assert!(world.night(7).contains("all promises are kept"));
    world.is_whole("disk/vault", NIGHTS as usize + 1);
    world.is_whole("repo", world.snapshots("repo"));
}

/// The config of another place is named as such, `repair head` does not build on it, and the way out that is named puts
/// the right one back.
#[test]
fn the_config_of_another_place_is_refused() {
    let world = three_nights();
    // Where two copies say what it is, it is mended.
    let own = std::fs::read(world.repo.path("repo/config")).unwrap();
    world.shell("cp disk/vault/config repo/config");
    let (code, told) = world.say(&["run"]);
    assert!(code == 0 && told.contains("it is taken from its copies"), "{told}");
    assert!(std::fs::read(world.repo.path("repo/config")).unwrap() == own);
    for (from, to, without, code, named, repair) in [
        (
            "disk/vault",
            "repo",
            "rm repo/copies/*/config",
            1,
            "config of tier 'vault', and this is the place of the primary",
            "repair head",
        ),
        ("disk/vault", "repo", "rm -r repo/copies", 1, "this is the place of the primary", "repair head"),
        (
            "disk/vault",
            "repo",
            "rm repo/HEAD repo/copies/*/config",
            1,
            "this is the place of the primary",
            "repair head",
        ),
        (
            "repo",
            "disk/vault",
            "rm -r disk/vault/copies",
            3,
            "config of the primary, and this is the place of tier 'vault'",
            "repair head --tier vault",
        ),
    ] {
        world.again();
        let case = format!("{to}, {without}");
        world.shell(&format!("{without}; cp {from}/config {to}/config"));
        let kept = || std::fs::read(world.repo.path(to).join("HEAD")).ok();
        let before = kept();
        let words: Vec<&str> = repair.split(' ').collect();
        let has_head = before.is_some();
        let (found, told) = world.say(&words);
        assert!(found == 1 && told.contains(named) && kept() == before, "{case}: {found}: {told}");
        if has_head {
            let (found, told) = world.say(&["run"]);
            assert!(found == code && told.contains(named), "{case}: {found}: {told}");
            assert!(
                told.contains(&format!("'esker {repair}'")) && !told.contains("all promises are kept"),
                "{case}: {told}"
            );
            expect(&world.at(to, &["check"]), 1);
        }
        // What is named is moved away.
        let (_, list) = told.split_once("Move ").unwrap();
        let list = list.split_once(" out of ").unwrap().0.replace(',', "");
        world.shell(&format!("cd {to}; rm {list}"));
        world.walk_out(&[repair]);
        if !has_head {
            world.walk_out(&["tier sync"]);
        }
        assert!(world.night(7).contains("all promises are kept"), "{case}");
        world.is_whole(to, world.snapshots(to));
        let sound = world.snapshots("disk/vault");
        assert!(sound > NIGHTS as usize, "{case}: {sound}");
        world.is_whole("disk/vault", sound);
    }
}

/// What nobody has any more is told of each time, until somebody gives it up.
#[test]
fn a_record_that_is_nowhere_is_not_kept() {
    let world = three_nights();
    let vault = world.repo.path("disk/vault/snapshots");
    let here = world.repo.path("repo/snapshots");
    let names = std::fs::read_dir(&vault).unwrap().map(|entry| entry.unwrap().file_name());
    let only = names.map(|name| name.into_string().unwrap()).find(|name| !here.join(name).exists()).unwrap();
    std::fs::remove_file(vault.join(&only)).unwrap();
    for _ in 0..2 {
        let (code, said) = world.say(&["run"]);
        let way = format!("'esker forget {}'", &only[..8]);
        assert!(code == 3 && said.contains("CANNOT BE READ") && said.contains(&way), "{code}: {said}");
        assert!(!said.contains("all promises are kept") && !said.contains("NOT READ"), "{said}");
    }
    let (code, said) = world.say(&["tier", "status"]);
    assert!(code == 3 && said.contains(&format!("1 snapshot cannot be read ({})", &only[..8])), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "told once: {said}");
    world.repo.fails(1, ["forget", &"ab".repeat(32)]);
    world.walk_out(&[&format!("forget {}", &only[..8]), "run"]);
    world.is_whole("disk/vault", world.snapshots("disk/vault"));
}
