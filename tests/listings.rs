//! What `snapshots` prints, byte by byte: of the golden repositories as they are recorded, and how the forms of one list go
//! together.

use crate::harness::{Repo, expect, source_root};

/// Each block of `listings` is a command line and what it printed.
#[test]
fn golden_repositories_are_listed_as_they_were() {
    let golden = source_root().join("tests/golden/v1");
    let (place, password) = (golden.join("repo"), golden.join("password"));
    let expected = std::fs::read_to_string(golden.join("listings")).unwrap();
    let repo = Repo::empty();
    let mut printed = String::new();
    for line in expected.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let mut command = repo.command(["-r", place.to_str().unwrap()].into_iter().chain(line.split(' ')));
        command.env_remove("ESKER_PASSWORD").env("ESKER_PASSWORD_FILE", &password);
        printed += &format!("$ {line}\n{}", expect(&command.output().unwrap(), 0));
    }
    assert!(printed == expected, "{printed}");
}

/// All forms, filters and groups have the same snapshots in the same order.
#[test]
fn all_forms_of_a_list_agree() {
    let repo = Repo::new();
    let count = 12;
    for number in 0..count {
        let (host, tag) = (format!("host-{}", number % 3), format!("t{}", number % 2));
        let time = format!("2026-01-01T00:00:{number:02}Z");
        let args =
            ["backup", "--stdin", "--stdin-filename", "s", "--host", &host, "--tag", &tag, "--time", &time];
        expect(&repo.feed(args, number.to_string().as_bytes()), 0);
    }
    let all = repo.json(["snapshots"]);
    let all: Vec<(&str, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["short_id"].as_str().unwrap(), one["hostname"].as_str().unwrap()))
        .collect();
    assert_eq!(all.len(), count);
    assert!(all.iter().zip(0..).all(|((_, host), number)| *host == format!("host-{}", number % 3)));
    let ids = |args: &[&str]| -> Vec<String> {
        let text = repo.ok([&["snapshots"][..], args].concat());
        let rows = text.lines().filter(|line| line.contains("2026-01-01 "));
        rows.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let of = |host: &str| -> Vec<&str> {
        all.iter().filter(|(_, own)| *own == host).map(|(id, _)| *id).collect::<Vec<_>>()
    };
    let every: Vec<&str> = all.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids(&[]), every);
    assert_eq!(ids(&["--compact"]), every);
    assert_eq!(ids(&["--host", "host-1"]), of("host-1"));
    assert_eq!(ids(&["--latest", "1"]), every[count - 3..]);
    assert_eq!(ids(&["--latest", "0"]), Vec::<String>::new());
    assert_eq!(ids(&["--latest", "2", "--group-by", ""]), every[count - 2..]);
    assert_eq!(ids(&[every[7], "latest", "latest~1", every[7]]), [every[7], every[11], every[10], every[7]]);
    assert_eq!(ids(&["--host", "host-1", "latest~2"]), [of("host-1")[1]]);
    let grouped = [of("host-0"), of("host-1"), of("host-2")].concat();
    assert_eq!(ids(&["--group-by", "host"]), grouped);
    let groups = repo.json(["snapshots", "--group-by", "host"]);
    let groups = groups.as_array().unwrap().iter().flat_map(|group| group["snapshots"].as_array().unwrap());
    assert_eq!(groups.map(|one| one["short_id"].as_str().unwrap()).collect::<Vec<_>>(), grouped);
    assert!(repo.fails(1, ["snapshots", "--json", "--host", "other"]).contains("none of 12 snapshots"));
}
