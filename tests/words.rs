//! Words that are not UTF-8, such as names from a Latin-1 file system: in every place where a name or a path may stand
//! they mean what they say; and JSON tells them apart, in a form that commands take.

use crate::harness::{Repo, expect, noise};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

const NAME: &[u8] = b"M\xfcll";

fn word(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(|part| OsString::from_vec(join(part.as_bytes()))).collect()
}

/// `NAME` as what it stands for.
fn join(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let parts: Vec<&[u8]> = text.split("NAME").map(str::as_bytes).collect();
    parts.join(NAME)
}

fn at(repo: &Repo, name: &str) -> PathBuf {
    repo.dir.path().join(OsStr::from_bytes(&join(name.as_bytes())))
}

/// A folder `s` with `NAME/f` and a file `plain`, backed up by a host and with a tag of that name.
fn filled() -> Repo {
    let repo = Repo::new();
    fs::create_dir_all(at(&repo, "s/NAME")).unwrap();
    fs::write(at(&repo, "s/NAME/f"), "inner").unwrap();
    fs::write(at(&repo, "s/plain"), "plain").unwrap();
    repo.ok(words("backup s/NAME s --host NAME --tag NAME,b --description NAME"));
    repo
}

#[test]
fn every_place_for_a_name_takes_any_bytes() {
    let repo = filled();
    fs::write(at(&repo, "s/NAME/big"), noise(1, 3 << 20)).unwrap();
    for (line, expected) in [
        ("snapshots --host NAME", "1 snapshots"),
        ("snapshots --tag NAME", "1 snapshots"),
        ("snapshots --path s/NAME", "1 snapshots"),
        ("ls latest:s/NAME", "/f"),
        ("ls latest /s/NAME", "/f"),
        ("ls --host NAME", "/s/plain"),
        ("find NAME", r#"/s/M\xfcll""#),
        ("find -s latest:s/NAME f", "/f"),
        ("dump latest s/NAME/f", "inner"),
        ("dump latest:s/NAME f", "inner"),
        ("diff latest:s/NAME latest:s/NAME", "0 changed"),
        ("restore latest:s/NAME --target out", "restored"),
        ("restore latest --include NAME --target into/NAME", "restored"),
        ("tag --add c/NAME --host NAME", "changed 1"),
        ("tag --remove c/NAME --tag c/NAME", "changed 1"),
        ("key add --new-password-file NAME.pw --label NAME --user NAME --host NAME", "added"),
        ("rewrite --exclude NAME --new-host NAME", "changed 1"),
        ("-r repo snapshots", "2 snapshots"),
        ("forget --keep-tag NAME --host NAME --dry-run", "keep 2"),
        ("bench s/NAME --calibrate", ""),
    ] {
        if line.contains(".pw") {
            fs::write(at(&repo, "NAME.pw"), "battery staple").unwrap();
        }
        let output = repo.run(words(line));
        let told = expect(&output, 0);
        assert!(told.contains(expected), "{line}: {told}");
    }
    assert_eq!(fs::read_to_string(repo.path("out/f")).unwrap(), "inner");
    assert_eq!(fs::read_to_string(at(&repo, "into/NAME/s/NAME/f")).unwrap(), "inner");
    // A stream of that name, from a pipe and from a command.
    expect(&repo.feed(words("backup --stdin --stdin-filename d/NAME"), b"from a pipe"), 0);
    assert_eq!(repo.ok(words("dump latest d/NAME")), "from a pipe");
    repo.ok(words("backup --stdin-from-command --stdin-filename c/NAME -- echo NAME"));
    assert_eq!(repo.run(words("dump latest c/NAME")).stdout, [NAME, b"\n"].concat());
    repo.ok(words("snapshots --path /d/NAME"));
}

#[test]
fn a_repository_and_its_settings_may_lie_in_such_a_folder() {
    let repo = Repo::empty();
    let folder = at(&repo, "NAME");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("password"), b"p\xfcss\nsecond").unwrap();
    fs::write(folder.join("place"), join(b"NAME/repo\n")).unwrap();
    fs::write(folder.join("list"), join(b"NAME/password\n")).unwrap();
    let plain = |line: &str| {
        let mut command = repo.command(words(line));
        command.env_remove("ESKER_REPOSITORY").env_remove("ESKER_PASSWORD");
        command
    };
    let ok = |line: &str| expect(&plain(line).output().unwrap(), 0);
    ok("-r NAME/repo -p NAME/password init");
    ok(
        "-r ./NAME/repo --password-file NAME/password --cache-dir NAME/cache backup NAME --files-from NAME/list",
    );
    ok("-r file:NAME/repo -p NAME/password snapshots");
    ok("--repository-file NAME/place -p NAME/password --json snapshots");
    let by_variables = plain("snapshots")
        .env("ESKER_REPOSITORY", word(&[NAME, b"/repo"]))
        .env("ESKER_PASSWORD_COMMAND", word(&[b"cat ", NAME, b"/password"]))
        .output()
        .unwrap();
    expect(&by_variables, 0);
    ok("-r NAME/second -p NAME/password init");
    ok("-r NAME/second -p NAME/password copy --from-repo NAME/repo --from-password-file NAME/password");
    // What has to be text says so, by its name.
    for (line, expected) in [
        ("-r NAME/repo -o s3.region=NAME snapshots", "the value of -o s3.region is not UTF-8"),
        ("-r NAME/repo -o tls.ca=NAME/none snapshots", r"cannot read"),
        ("-r s3://bucket/NAME snapshots", "the place in the store is not UTF-8"),
        ("-r NAME/repo snapshots NAME", r#"invalid value "M\xfcll" for '[SNAPSHOTS]...': it is not UTF-8"#),
        ("-r NAME/repo --pack-size=NAME snapshots", r#"invalid value "M\xfcll" for '--pack-size <MIB>'"#),
        ("-r NAME/repo restore latest --to redis://h --database NAME", "for '--database <NAME>'"),
    ] {
        let output = plain(line).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(expected), "{line}: {told}");
        assert!(told.contains(r"M\xfcll"), "{line}: {told}");
    }
    let variable = plain("-r NAME/repo snapshots").env("ESKER_COMPRESSION", word(&[NAME])).output().unwrap();
    let told = String::from_utf8_lossy(&variable.stderr).into_owned();
    assert!(told.contains(r#"the variable ESKER_COMPRESSION is not UTF-8: "M\xfcll""#), "{told}");
}

/// A URL may name a file of any bytes.
#[test]
fn a_url_of_a_file_takes_any_bytes() {
    let repo = Repo::new();
    let mut dump = b"REDIS0009\xfe\x00\x00\x01k\x05value\xff\0\0\0\0\0\0\0\0".to_vec();
    fs::write(at(&repo, "NAME.rdb"), &dump).unwrap();
    let url = word(&[b"redis+rdb://", repo.dir.path().as_os_str().as_bytes(), b"/", NAME, b".rdb"]);
    repo.ok([OsStr::new("backup"), OsStr::new("-o"), OsStr::new("redis.order=raw"), &url]);
    dump.clear();
    assert!(repo.ok(["ls", "latest:redis/0/"]).contains('k'));
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The exact form of the one path that has one.
fn exact(values: &[Value]) -> String {
    let found: Vec<&str> = values.iter().filter_map(|value| value["path_exact"].as_str()).collect();
    assert!(!found.is_empty(), "{values:?}");
    (*found.last().unwrap()).to_owned()
}

#[test]
fn json_says_every_byte_and_commands_take_what_it_says() {
    let repo = Repo::new();
    fs::create_dir_all(at(&repo, "s/NAME")).unwrap();
    fs::write(at(&repo, "s/NAME/f"), "inner").unwrap();
    fs::write(at(&repo, "s/plain"), "plain").unwrap();
    repo.ok(["backup", "s"]);
    fs::write(at(&repo, "s/NAME/f"), "changed").unwrap();
    repo.ok(["backup", "s"]);
    let listed = lines(&repo.ok(["--json", "ls", "latest"]));
    let file = listed.iter().find(|value| value["name"] == "f").unwrap();
    assert_eq!(file["path"], "/s/M\u{fffd}ll/f");
    assert_eq!(file["path_exact"], "/s/M%FCll/f");
    let folder = listed.iter().find(|value| value["path"] == "/s/M\u{fffd}ll").unwrap();
    assert_eq!((&folder["name"], &folder["name_exact"]), (&"M\u{fffd}ll".into(), &"M%FCll".into()));
    assert!(listed.iter().find(|value| value["name"] == "plain").unwrap().get("path_exact").is_none());
    let found = repo.json(["find", "f"]);
    let found = exact(found[1]["matches"].as_array().unwrap());
    let changes = exact(&lines(&repo.ok(["--json", "diff", "latest~1", "latest"])));
    for path in [file["path_exact"].as_str().unwrap(), &found, &changes] {
        assert_eq!(repo.ok(["dump", "latest", path]), "changed", "{path}");
    }
    let folder = folder["path_exact"].as_str().unwrap();
    repo.ok(["restore", &format!("latest~1:{folder}"), "--target", "out"]);
    assert_eq!(fs::read_to_string(repo.path("out/f")).unwrap(), "inner");
    assert_eq!(lines(&repo.ok(["--json", "ls", &format!("latest:{folder}")]))[1]["path"], "/f");
    assert_eq!(repo.ok(["dump", &format!("latest:{folder}"), "f"]), "changed");
    repo.ok(["find", "-s", &format!("latest:{folder}"), "f"]);
    repo.ok(["diff", &format!("latest~1:{folder}"), &format!("latest:{folder}")]);
    repo.ok(["snapshots", "--path", repo.path("s").to_str().unwrap()]);
    // A file whose name is that text has a form of its own, and neither is taken for the other.
    fs::create_dir_all(repo.path("s/M%FCll")).unwrap();
    fs::write(repo.path("s/M%FCll/f"), "other").unwrap();
    repo.ok(["backup", "s"]);
    assert!(repo.fails(1, ["dump", "latest", "/s/M%FCll/f"]).contains("reversible form of another"));
    assert_eq!(repo.ok(["dump", "latest", "/s/M%25FCll/f"]), "other");
    assert_eq!(repo.ok(words("dump latest /s/NAME/f")), "changed");
    let other = lines(&repo.ok(["--json", "ls", "latest"]));
    let other = other.iter().find(|value| value["path"] == "/s/M%FCll/f").unwrap();
    assert_eq!(other["path_exact"], "/s/M%25FCll/f");
    // Progress and details.
    let told = repo.ok(["--json", "-v", "backup", "s", "--force"]);
    assert!(told.contains(r#""item_exact":"/s/M%FCll/f""#), "{told}");
}
