//! Credentials from each place that a connector declares, and from nowhere else.

use super::fixtures::{EXAMPLE, MYSQL, POSTGRES, QDRANT, REDIS, System};
use super::start;
use crate::harness::{Repo, expect};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

/// What a place is called, and how something is put there: variables.
type Place = (&'static str, fn(&Repo, &str) -> Vec<(&'static str, String)>);

const PLACES: &[(&System, &[Place])] = &[
    (
        &EXAMPLE,
        &[
            ("ESKER_EXAMPLE_TOKEN", |_, secret| vec![("ESKER_EXAMPLE_TOKEN", secret.into())]),
            ("ESKER_EXAMPLE_TOKEN_FILE", |repo, secret| {
                vec![("ESKER_EXAMPLE_TOKEN_FILE", file(repo, &format!("{secret}\nnot this\n")))]
            }),
        ],
    ),
    (
        &REDIS,
        &[
            ("REDISCLI_AUTH", |_, secret| vec![("REDISCLI_AUTH", secret.into())]),
            ("ESKER_REDIS_PASSWORD_FILE", |repo, secret| {
                vec![("ESKER_REDIS_PASSWORD_FILE", file(repo, &format!("{secret}\n")))]
            }),
            // Any other user is unknown.
            ("ESKER_REDIS_USER", |_, secret| {
                let user = if secret == "wrong" { "nobody" } else { "default" };
                vec![("ESKER_REDIS_USER", user.into()), ("REDISCLI_AUTH", "sesame".into())]
            }),
        ],
    ),
    (
        &QDRANT,
        &[
            ("ESKER_QDRANT_API_KEY", |_, secret| vec![("ESKER_QDRANT_API_KEY", secret.into())]),
            ("ESKER_QDRANT_API_KEY_FILE", |repo, secret| {
                vec![("ESKER_QDRANT_API_KEY_FILE", file(repo, &format!("{secret}\n")))]
            }),
        ],
    ),
    (
        &POSTGRES,
        &[
            ("PGPASSWORD", |_, secret| vec![("PGPASSWORD", secret.into())]),
            ("PGPASSFILE", |repo, secret| {
                vec![("PGPASSFILE", file(repo, &format!("127.0.0.1:*:*:postgres:{secret}\n")))]
            }),
        ],
    ),
    (
        &MYSQL,
        &[
            ("MYSQL_PWD", |_, secret| vec![("MYSQL_PWD", secret.into())]),
            ("~/.my.cnf", |repo, secret| {
                let path = repo.path(".my.cnf");
                std::fs::write(&path, format!("[client]\npassword='{secret}'\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                vec![]
            }),
        ],
    ),
];

/// A private file; its path.
fn file(repo: &Repo, text: &str) -> String {
    let path = repo.path("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// A URL with its user and without the password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.split_once('@') {
        Some((login, place)) => match login.split(':').next() {
            Some("") | None => format!("{scheme}://{place}"),
            Some(user) => format!("{scheme}://{user}@{place}"),
        },
        None => url.to_owned(),
    }
}

#[test]
fn come_from_each_declared_place() {
    let all = Repo::new().json(["connectors"]);
    for one in all.as_array().unwrap() {
        let (_, places) = PLACES.iter().find(|(system, _)| one["name"] == system.name).expect("a system");
        let secret = |setting: &&Value| setting["secret"] == true;
        let settings = one["settings"].as_array().unwrap().iter().filter(secret);
        let mut declared: Vec<&str> = settings
            .flat_map(|setting| [&setting["variable"], &setting["file_variable"]])
            .filter_map(Value::as_str)
            .collect();
        let logins = one["logins"].as_str().unwrap();
        let is_place = |word: &&str| {
            word.contains('_') || word.starts_with("PG") || word.starts_with('~') || *word == "REDISCLI_AUTH"
        };
        declared.extend(logins.split([' ', ',', '(', ')']).filter(is_place).filter(|word| *word != "and"));
        for place in declared {
            assert!(places.iter().any(|(name, _)| *name == place), "{}: nothing shows {place}", one["name"]);
        }
    }
    for (system, places) in PLACES {
        let repo = Repo::new();
        let one = start(system, &repo, "one", 1);
        let url = without_password(&one.backup()[0]);
        let backup =
            |variables: Vec<(&str, String)>| repo.command(["backup", &url]).envs(variables).output().unwrap();
        let secret = system.secret.unwrap();
        assert_ne!(backup(vec![]).status.code(), Some(0), "{}: without any", system.name);
        for (place, put) in *places {
            let wrong = backup(put(&repo, "wrong"));
            assert_ne!(wrong.status.code(), Some(0), "{place}: {wrong:?}");
            expect(&backup(put(&repo, secret)), 0);
            let _ = std::fs::remove_file(repo.path(".my.cnf"));
        }
        assert_eq!(repo.snapshot_count(), places.len(), "{}", system.name);
    }
}
