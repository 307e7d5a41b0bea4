//! What a place holds, lost: packs, lists of files, the index, records of snapshots. What each command says then, and that
//! what it names leads to all data back, or says what is lost for good.

use crate::harness::{Repo, expect, noise};
use crate::seaweed::Weed;
use crate::tiered::{DATA, Tiered, places, promise, said};
use chunkstore::storage::{Storage as _, s3};

const NIGHTS: u64 = 3;

/// In the order of the answers. `check` is of the place that lost something.
const COMMANDS: [&[&str]; 6] = [
    &["check"],
    &["heal"],
    &["restore", "latest", "--target", "out"],
    &["run"],
    &["tier", "status"],
    &["tier", "sync"],
];

/// An exit code, and what is said; nothing need be said if that is empty.
type Answer = (i32, &'static str);

#[derive(Clone, Copy, PartialEq)]
enum What {
    Content,
    List,
    Index,
    Record,
}

struct Loss {
    /// What is lost.
    what: What,
    /// Shell, in the place.
    lose: &'static str,
    /// If the primary lost it, and the commands after which all is well.
    primary: ([Answer; 6], &'static [&'static str]),
    /// If the copy did.
    copy: ([Answer; 6], &'static [&'static str]),
}

const FINE: Answer = (0, "");

/// Of a pack in the copy, whatever is in it.
const PACK_OF_COPY: ([Answer; 6], &[&str]) = (
    [(1, "errors were found"), FINE, FINE, (3, "'esker heal usb'"), FINE, (3, "'esker heal usb'")],
    &["heal usb"],
);

/// `tier status` looks at what HEADs and indexes say, and at records, not at packs.
const LOSSES: &[Loss] = &[
    // Content: the newest pack is gone, or cut short.
    Loss {
        what: What::Content,
        lose: "rm $(ls -t $(find packs -type f -size +100k) | head -1)",
        primary: (
            [(1, "'esker heal'"), FINE, FINE, (3, "'esker heal local'"), FINE, (3, "'esker heal local'")],
            &["heal local"],
        ),
        copy: PACK_OF_COPY,
    },
    Loss {
        what: What::Content,
        lose: "truncate -s 50000 $(ls -t $(find packs -type f -size +100k) | head -1)",
        primary: (
            [(1, "'esker heal'"), FINE, FINE, (3, "'esker heal local'"), FINE, (3, "'esker heal local'")],
            &["heal"],
        ),
        copy: PACK_OF_COPY,
    },
    // Lists of files, which the copy has in a pack of its own.
    Loss {
        what: What::List,
        lose: "rm $(ls -t $(find packs -type f -size -100k) | head -1)",
        primary: (
            [
                (1, "'esker heal'"),
                FINE,
                (1, "'esker heal', then restore again"),
                (3, "'esker heal local'"),
                FINE,
                (3, "'esker heal local'"),
            ],
            &["heal"],
        ),
        copy: PACK_OF_COPY,
    },
    Loss {
        what: What::Index,
        lose: "rm index/$(ls -t index | head -1)",
        primary: (
            [
                (1, "'esker repair index'"),
                (1, "'esker repair index'"),
                FINE,
                (3, "'esker repair index'"),
                FINE,
                (3, "'esker repair index'"),
            ],
            &["repair index"],
        ),
        copy: (
            [
                (1, "'esker repair index'"),
                (1, "/usb repair index'"),
                FINE,
                (3, "/usb repair index'"),
                FINE,
                (3, "/usb repair index'"),
            ],
            &["-r usb repair index"],
        ),
    },
    // The newest record: `latest` is the same snapshot all the same.
    Loss {
        what: What::Record,
        lose: "rm snapshots/$(ls -t snapshots | head -1)",
        primary: (
            [(1, "'esker heal'"), FINE, FINE, (0, "all promises are kept"), (3, "'esker run'"), FINE],
            &["run"],
        ),
        copy: ([(1, "1 error "), FINE, FINE, FINE, (3, "'esker run'"), FINE], &["run"]),
    },
    Loss {
        what: What::Record,
        lose: "echo x > snapshots/$(ls -t snapshots | head -1)",
        primary: (
            [(1, "'esker heal'"), FINE, FINE, (0, "put 1 lost record"), (3, "'esker run'"), FINE],
            &["tier sync"],
        ),
        copy: ([(1, "1 error "), FINE, FINE, FINE, (3, "'esker run'"), FINE], &["heal"]),
    },
];

fn world() -> Tiered {
    let world = Tiered::new(places("repo", ["usb"]), &(DATA.to_owned() + &promise("30d", &["local", "usb"])));
    (0..NIGHTS).for_each(|night| drop(world.night(night)));
    world.keep();
    world
}

/// What a command says of the loss, from the kept state.
fn answer(world: &Tiered, lose: &str, place: &str, command: &[&str]) -> (i32, String) {
    world.again();
    world.shell(&format!("rm -rf out; cd {place}; {lose}"));
    world.change(50);
    match command {
        ["check"] if place != "repo" => {
            let place = world.place(place);
            world.say(&["-r", &place, "check"])
        }
        command => world.say(command),
    }
}

/// Each night is in each place, and restores from it alone.
fn all_is_there(world: &Tiered, case: &str) {
    let list = world.repo.json(["snapshots"]);
    for place in ["repo", "usb"] {
        expect(&world.at(place, &["check", "--read-data"]), 0);
        for night in 0..NIGHTS {
            let id = list[night as usize]["id"].as_str().unwrap();
            assert!(world.file_of(place, &[id]) == noise(night, 200_000), "{case}: {place}, night {night}");
        }
    }
}

fn walk_through(what: What, place: &str) {
    let world = world();
    for loss in LOSSES.iter().filter(|loss| loss.what == what) {
        let (answers, out) = if place == "repo" { loss.primary } else { loss.copy };
        for (command, (code, named)) in COMMANDS.iter().zip(answers) {
            let (found, said) = answer(&world, loss.lose, place, command);
            let case = format!("{} in {place}, {command:?}: {found}: {said}", loss.lose);
            assert!(found == code && said.contains(named), "{case}");
            assert!(
                code == 0 || !said.contains("all promises are kept") || named.contains("lost record"),
                "{case}"
            );
            if command[0] == "restore" && code == 0 {
                let found = world.repo.path("out").join(world.place("data").trim_start_matches('/'));
                let read =
                    std::fs::read(found.join("file")).or_else(|_| std::fs::read(world.repo.path("out/file")));
                let read = read.or_else(|_| std::fs::read(world.repo.path("out/data/file"))).unwrap();
                assert!(read == noise(NIGHTS - 1, 200_000), "{case}: it is not the latest");
            }
        }
        world.again();
        world.shell(&format!("cd {place}; {}", loss.lose));
        world.walk_out(out);
        assert!(world.night(60).contains("all promises are kept"), "{}", loss.lose);
        all_is_there(&world, loss.lose);
    }
}

#[test]
fn content_that_a_primary_lost_comes_back() {
    walk_through(What::Content, "repo");
}

#[test]
fn content_that_a_copy_lost_comes_back() {
    walk_through(What::Content, "usb");
}

#[test]
fn lists_of_files_that_a_primary_lost_come_back() {
    walk_through(What::List, "repo");
}

#[test]
fn lists_of_files_that_a_copy_lost_come_back() {
    walk_through(What::List, "usb");
}

#[test]
fn index_objects_that_a_primary_lost_come_back() {
    walk_through(What::Index, "repo");
}

#[test]
fn index_objects_that_a_copy_lost_come_back() {
    walk_through(What::Index, "usb");
}

#[test]
fn records_that_a_primary_lost_come_back() {
    walk_through(What::Record, "repo");
}

#[test]
fn records_that_a_copy_lost_come_back() {
    walk_through(What::Record, "usb");
}

/// What was lost everywhere is said to be lost, by what is named it is given up, and the rest is as it was.
#[test]
fn what_is_lost_everywhere_is_said_to_be() {
    let world = world();
    let both = "pack=$(ls -t $(find packs -type f -size +100k) | head -1); rm $pack ../usb/$pack";
    for (command, code, named) in [
        (COMMANDS[0], 1, "/data/file: parts of its content are damaged or missing"),
        (COMMANDS[1], 1, "repair packs --read-data'"),
        (COMMANDS[2], 1, "restored 3 of 4 entries"),
        (COMMANDS[3], 3, "'esker heal usb'"),
        (COMMANDS[4], 0, ""),
        (COMMANDS[5], 3, "'esker heal local'"),
    ] {
        let (found, said) = answer(&world, both, "repo", command);
        assert!(found == code && said.contains(named), "{command:?}: {found}: {said}");
        assert!(!said.contains("all promises are kept"), "{command:?}: {said}");
    }
    world.again();
    world.shell(&format!("cd repo; {both}"));
    let (_, told) = world.say(&["heal"]);
    for place in ["repo", "usb"] {
        let place = world.place(place);
        for words in ["repair packs --read-data", "repair snapshots"] {
            assert!(told.contains(&format!("'esker -r {place} {words}'")), "{told}");
        }
        expect(&world.repo.run(["-r", &place, "repair", "packs", "--read-data", "--yes"]), 1);
        let (_, said) = world.say(&["-r", &place, "repair", "snapshots", "--forget", "--yes"]);
        assert!(said.contains("data/file is lost"), "{said}");
    }
    let (code, said) = world.say(&["run"]);
    assert!(code == 0 && said.contains("all promises are kept"), "{code}: {said}");
    let list = world.repo.json(["snapshots"]);
    for place in ["repo", "usb"] {
        expect(&world.at(place, &["check", "--read-data"]), 0);
        for night in 0..NIGHTS - 1 {
            let id = list[night as usize]["id"].as_str().unwrap();
            assert!(world.file_of(place, &[id]) == noise(night, 200_000), "{place}, night {night}");
        }
    }
}

/// What is lost, how, the code of the run after it, what that says, and the commands after which all is well.
type Far<'a> = (&'a str, &'a dyn Fn(), i32, &'a str, &'a [&'a str]);

/// The same of a copy on S3.
#[test]
fn what_a_copy_on_s3_held_comes_back() {
    let weed = Weed::start();
    let place = format!("s3:http://127.0.0.1:{}/bk1/lost", weed.port());
    let toml = format!(
        "[[tier]]\nname = \"local\"\nurl = \"file:DIR/repo\"\nrole = \"primary\"\n\n\
         [[tier]]\nname = \"far\"\nurl = \"{place}\"\n{DATA}{}",
        promise("30d", &["local", "far"])
    );
    let environment = [("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST")];
    let repo = Repo::with_tiers(&toml, &environment, true);
    std::fs::create_dir(repo.path("data")).unwrap();
    let night = |seed: u64| {
        std::fs::write(repo.path("data/file"), noise(seed, 200_000)).unwrap();
        repo.run(["run"])
    };
    (0..NIGHTS).for_each(|seed| drop(expect(&night(seed), 0)));
    let store = s3::open(&weed.options("lost")).unwrap();
    let list = |folder: &str| {
        let mut names: Vec<(u64, String)> = vec![];
        store.list(folder, &mut |name, len| names.push((len, name.to_owned()))).unwrap();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let gone = |names: &[String]| names.iter().for_each(|name| store.delete(name).unwrap());
    let largest = || list("packs").pop().unwrap();
    let repair_index = format!("-r {place} repair index");
    let repair = &["repair head --tier far"][..];
    let named = "'esker repair head --tier far'";
    let head = || store.delete("HEAD").unwrap();
    let losses: [Far<'_>; 12] = [
        ("a pack", &|| gone(&[largest()]), 3, "'esker heal far'", &["heal far"]),
        (
            "a pack that was cut",
            &|| {
                let pack = largest();
                let bytes = store.get(&pack, 1 << 30).unwrap();
                store.replace(&pack, bytes.slice(..bytes.len() / 2)).unwrap();
            },
            3,
            "'esker heal far'",
            &["heal far"],
        ),
        ("a list of files", &|| gone(&list("packs")[..1]), 3, "'esker heal far'", &["heal far"]),
        ("the index", &|| gone(&list("index")), 3, "repair index'", &[&repair_index]),
        ("a record", &|| gone(&list("snapshots")[..1]), 0, "all promises are kept", &[]),
        ("HEAD", &head, 3, named, repair),
        ("config", &|| store.delete("config").unwrap(), 3, named, repair),
        ("the key slots", &|| gone(&list("keys")), 0, "all promises are kept", &[]),
        ("the maps", &|| gone(&list("maps")), 0, "all promises are kept", &[]),
        (
            "the maps and HEAD",
            &|| {
                gone(&list("maps"));
                head();
            },
            3,
            named,
            repair,
        ),
        (
            "the key slots and HEAD",
            &|| {
                gone(&list("keys"));
                head();
            },
            3,
            named,
            repair,
        ),
        (
            "config, the key slots and HEAD",
            &|| {
                gone(&list("keys"));
                store.delete("config").unwrap();
                head();
            },
            3,
            named,
            repair,
        ),
    ];
    for (number, (what, lose, code, named, out)) in losses.into_iter().enumerate() {
        lose();
        let output = night(100 + number as u64);
        let text = said(&output);
        assert!(output.status.code() == Some(code) && text.contains(named), "{what}: {text}");
        assert_eq!(text.contains("all promises are kept"), code == 0, "{what}: {text}");
        for command in out {
            let words: Vec<&str> = command.split(' ').collect();
            let output = repo.run(&words);
            assert_eq!(output.status.code(), Some(0), "{what}, {command}: {}", said(&output));
        }
        expect(&repo.run(["run"]), 0);
        let alone = |words: &[&str]| repo.run([&["-r", &place, "--no-cache"], words].concat());
        expect(&alone(&["check", "--read-data"]), 0);
        let snapshots = expect(&alone(&["--json", "snapshots"]), 0);
        let snapshots: serde_json::Value = serde_json::from_str(snapshots.trim()).unwrap();
        let count = NIGHTS as usize + 2 * (number + 1);
        assert_eq!(snapshots.as_array().unwrap().len(), count, "{what}");
        let first = snapshots[0]["id"].as_str().unwrap();
        let dumped = alone(&["dump", first, &repo.path("data/file").display().to_string()]);
        assert!(dumped.status.success() && dumped.stdout == noise(0, 200_000), "{what}: {dumped:?}");
    }
}
