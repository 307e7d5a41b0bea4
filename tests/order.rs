//! Which flag, variable and file wins. The tables here are what is tested, and what docs/configuration-order.md is made
//! of: every place is tried against every later one.

use crate::harness::{esker_binary, expect, source_root};
use crate::key_services::Bao;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output};

/// How a value is given. In the texts, `VALUE` is the value itself, `FILE` a file that holds it, `KEY` the key file that is
/// called so, `KMS` the key service, `DIR` the test's folder.
#[derive(Clone, Copy)]
enum Way {
    Flags(&'static [&'static str]),
    Variables(&'static [(&'static str, &'static str)]),
    /// A line of esker.toml, which lies in the working folder.
    Line(&'static str),
    /// A file, by its path in the test's folder, which is `HOME`, and what is in it.
    There(&'static str, &'static str),
}

struct Subject {
    what: &'static str,
    /// What the page says of each way, the winner first.
    ways: &'static [(&'static str, Way)],
    note: &'static str,
}

const PASSWORD: Subject = Subject {
    what: "The password or the key",
    ways: &[
        ("`-p`, `--password-file`", Way::Flags(&["-p", "FILE"])),
        ("`--password-command`", Way::Flags(&["--password-command", "printf '%s\\n' VALUE"])),
        ("`--key-file`", Way::Flags(&["--key-file", "KEY"])),
        ("`--kms`", Way::Flags(&["--kms", "KMS"])),
        ("`ESKER_KEY_FILE`", Way::Variables(&[("ESKER_KEY_FILE", "KEY")])),
        ("`ESKER_KMS`", Way::Variables(&[("ESKER_KMS", "KMS")])),
        ("`ESKER_PASSWORD_FILE`", Way::Variables(&[("ESKER_PASSWORD_FILE", "FILE")])),
        ("`ESKER_PASSWORD_COMMAND`", Way::Variables(&[("ESKER_PASSWORD_COMMAND", "cat FILE")])),
        ("`ESKER_PASSWORD`", Way::Variables(&[("ESKER_PASSWORD", "VALUE")])),
        ("`key_file` of esker.toml", Way::Line("key_file = \"KEY\"")),
        ("`kms` of esker.toml", Way::Line("kms = \"KMS\"")),
        ("`password_file` of esker.toml", Way::Line("password_file = \"FILE\"")),
        ("`password_command` of esker.toml", Way::Line("password_command = \"cat FILE\"")),
    ],
    note: "Then esker asks on the terminal. `--share`, `--recovery` and `--insecure-no-password` override all variables and \
        files; two different flags together are refused. keys.md says what opens what. The first line of a file or of a command's output counts, without its line end; \
        every other character of it is part of the password. An empty password is refused from every source. The \
        settings of esker.toml do not apply to a repository that it does not name. `bundle` of esker.toml (hosts.md) makes \
        this machine a write-only host if nothing of this list is given; `--bundle`, else \
        `ESKER_BUNDLE`, does so in any case: beside a flag of this list it is refused, and of a variable of this list esker \
        warns that it is not used.",
};

const REPOSITORY: Subject = Subject {
    what: "The repository",
    ways: &[
        ("`-r`, `--repo`", Way::Flags(&["-r", "VALUE"])),
        ("`--repository-file`", Way::Flags(&["--repository-file", "FILE"])),
        ("`ESKER_REPOSITORY`", Way::Variables(&[("ESKER_REPOSITORY", "VALUE")])),
        ("`ESKER_REPOSITORY_FILE`", Way::Variables(&[("ESKER_REPOSITORY_FILE", "FILE")])),
        (
            "`repository` of esker.toml, or its tier with the role `primary`",
            Way::Line("repository = \"VALUE\""),
        ),
    ],
    note: "Both flags together are refused. places.md lists the forms of a place.",
};

const CONFIGURATION: Subject = Subject {
    what: "esker.toml",
    ways: &[
        ("`-c`, `--config`", Way::Flags(&["-c", "FILE"])),
        ("`ESKER_CONFIG`", Way::Variables(&[("ESKER_CONFIG", "FILE")])),
        ("`./esker.toml`", Way::There("work/esker.toml", "VALUE")),
        ("`$XDG_CONFIG_HOME/esker/esker.toml`", Way::There("xdg/esker/esker.toml", "VALUE")),
        ("`~/.config/esker/esker.toml`", Way::There(".config/esker/esker.toml", "VALUE")),
    ],
    note: "Then `/etc/esker/esker.toml`. If `XDG_CONFIG_HOME` is set, esker ignores `~/.config`. The file must belong \
        to the user or to root, and no other user may be able to write it. The same holds for the folder of a file that \
        was found rather than named. `-v` shows which one esker uses.",
};

const CREDENTIALS: Subject = Subject {
    what: "Credentials for S3",
    ways: &[
        ("`profile` of the tier", Way::Line("profile = \"named\"")),
        (
            "`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
            Way::Variables(&[("AWS_ACCESS_KEY_ID", "VALUE"), ("AWS_SECRET_ACCESS_KEY", "secret")]),
        ),
        ("`AWS_PROFILE`", Way::Variables(&[("AWS_PROFILE", "chosen")])),
        ("the profile `default`", Way::There(".aws/credentials", "")),
    ],
    note: "Then, if neither variable is set, the role of the container, and that of the machine. A role by \
        `AWS_WEB_IDENTITY_TOKEN_FILE` goes before `AWS_PROFILE`. places.md has all ways, and those of Azure. esker reads profiles from \
        `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE`, otherwise from `~/.aws`.",
};

const CACHE: Subject = Subject {
    what: "The folder of local indexes",
    ways: &[
        ("`--cache-dir`", Way::Flags(&["--cache-dir", "VALUE"])),
        ("`ESKER_CACHE_DIR`", Way::Variables(&[("ESKER_CACHE_DIR", "VALUE")])),
        ("`cache_dir` of esker.toml", Way::Line("cache_dir = \"VALUE\"")),
        ("`XDG_CACHE_HOME`, in it `esker`", Way::Variables(&[("XDG_CACHE_HOME", "VALUE")])),
        ("`HOME`, in it `.cache/esker`", Way::Variables(&[("HOME", "VALUE")])),
    ],
    note: "Then the home in the user database. `--no-cache` overrides all of them. The setting of esker.toml does not \
        apply to a repository that it does not name.",
};

const SCRATCH: Subject = Subject {
    what: "The folder of scratch servers of drills",
    ways: &[
        ("`--scratch-dir`", Way::Flags(&["--scratch-dir", "VALUE"])),
        ("`ESKER_SCRATCH_DIR`", Way::Variables(&[("ESKER_SCRATCH_DIR", "VALUE")])),
    ],
    note: "Then, of root, `/var/tmp/esker-drills`; of other users, `drills` in the folder of local indexes' parent. \
        drills.md says what is in it.",
};

const SIGNING: Subject = Subject {
    what: "The key that signs reports of drills",
    ways: &[
        ("`--signing-key`", Way::Flags(&["--signing-key", "VALUE"])),
        ("`ESKER_SIGNING_KEY`", Way::Variables(&[("ESKER_SIGNING_KEY", "VALUE")])),
        ("`signing_key` of esker.toml", Way::Line("signing_key = \"VALUE\"")),
        ("`XDG_STATE_HOME`, in it `esker/signing.key`", Way::Variables(&[("XDG_STATE_HOME", "VALUE")])),
        ("`HOME`, in it `.local/state/esker/signing.key`", Way::Variables(&[("HOME", "VALUE")])),
    ],
    note: "Then the home in the user database. The setting of esker.toml does not apply to a repository that it does not name.",
};

const SUBJECTS: [&Subject; 7] =
    [&CONFIGURATION, &REPOSITORY, &PASSWORD, &CACHE, &SCRATCH, &SIGNING, &CREDENTIALS];

fn page() -> String {
    let mut text = String::from(
        "# Which flag, variable and file wins\n\n\
        The first setting of each list wins. An empty variable counts as not set. A test writes this page:\n\
        `tests/order.rs` tries every way against every later one.\n",
    );
    for subject in SUBJECTS {
        text += &format!("\n## {}\n\n", subject.what);
        for (number, (way, _)) in subject.ways.iter().enumerate() {
            text += &format!("{}. {way}\n", number + 1);
        }
        text += &format!("\n{}\n", subject.note);
    }
    text
}

#[test]
fn the_page_says_what_is_tested() {
    let path = source_root().join("docs/configuration-order.md");
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    if there != page() && std::env::var_os("ESKER_WRITE_PAGES").is_some() {
        std::fs::write(&path, page()).unwrap();
        return;
    }
    assert_eq!(there, page(), "run this test with ESKER_WRITE_PAGES=1 to write the page anew");
}

/// A key service that is not there.
const NOBODY: &str = "vault+http://127.0.0.1:1/transit/k";

/// A folder to work in, which is HOME, and the lines of an esker.toml in `work`.
struct Bench {
    folder: tempfile::TempDir,
    /// Where the key files are.
    keys: std::path::PathBuf,
    /// The key service that opens.
    kms: String,
    lines: Vec<String>,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        let keys = folder.path().to_owned();
        Self { folder, keys, kms: String::new(), lines: vec![], flags: vec![], variables: vec![] }
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Gives a value in one way.
    fn give(&mut self, way: Way, value: &str) {
        let file =
            self.dir().join(format!("file-{}", self.flags.len() + self.variables.len() + self.lines.len()));
        let key = self.keys.join(value);
        let filled = |text: &str| {
            let text = text.replace("FILE", &file.display().to_string());
            let text = text.replace("KMS", if value == "right" { &self.kms } else { NOBODY });
            text.replace("KEY", &key.display().to_string()).replace("VALUE", value)
        };
        std::fs::write(&file, value).unwrap();
        match way {
            Way::Flags(words) => self.flags.extend(words.iter().map(|word| filled(word))),
            Way::Variables(all) => {
                self.variables.extend(all.iter().map(|(name, value)| ((*name).into(), filled(value))));
            }
            Way::Line(line) => self.lines.push(filled(line)),
            Way::There(name, text) => self.write(name, &filled(text)),
        }
    }

    fn run(&self, words: &[&str]) -> Output {
        if !self.lines.is_empty() {
            self.write("work/esker.toml", &self.lines.join("\n"));
        }
        let mut command = Command::new(esker_binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir());
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        command.args(&self.flags).args(words).current_dir(self.dir().join("work")).output().unwrap()
    }
}

/// Every pair of ways that can be given together.
fn pairs(subject: &Subject) -> Vec<(Way, Way, String)> {
    let mut all = vec![];
    for (number, (first, a)) in subject.ways.iter().enumerate() {
        for (second, b) in subject.ways.get(number + 1..).unwrap_or_default() {
            // Two flags are refused.
            if !matches!((a, b), (Way::Flags(_), Way::Flags(_))) {
                all.push((*a, *b, format!("{first} before {second}")));
            }
        }
    }
    all
}

/// A repository with the password `right`.
fn repository(bench: &Bench) -> String {
    let place = bench.dir().join("repo").display().to_string();
    let mut command = Command::new(esker_binary());
    command
        .args(["-q", "-r", &place, "init"])
        .env_clear()
        .env("ESKER_PASSWORD", "right")
        .env("HOME", bench.dir());
    expect(&command.output().unwrap(), 0);
    place
}

#[test]
fn passwords_are_taken_in_the_order_of_the_page() {
    let template = Bench::new();
    let place = repository(&template);
    // The key `right` opens it, the key `wrong` another one.
    let make = |args: &[&str]| {
        let mut command = Command::new(esker_binary());
        command.args(["-q", "--no-cache"]).args(args).env_clear().env("ESKER_PASSWORD", "right");
        expect(&command.current_dir(template.dir()).output().unwrap(), 0)
    };
    make(&["-r", "repo", "key", "add", "--new-key-file", "right"]);
    make(&["-r", "another", "init", "--new-key-file", "wrong"]);
    let bao = Bao::start();
    let login = bao.login();
    let mut add = Command::new(esker_binary());
    add.args(["-q", "--no-cache", "-r", "repo", "key", "add", "--new-kms", &bao.url()]).env_clear();
    add.env("ESKER_PASSWORD", "right").envs(login.clone()).current_dir(template.dir());
    expect(&add.output().unwrap(), 0);
    for (winner, loser, what) in pairs(&PASSWORD) {
        let mut bench = Bench::new();
        bench.keys = template.dir().to_owned();
        bench.kms = bao.url();
        bench.variables.extend(login.clone());
        bench.lines.push(format!("repository = \"{place}\""));
        bench.give(winner, "right");
        bench.give(loser, "wrong");
        let output = bench.run(&["snapshots"]);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut bench = Bench::new();
    let flags = ["-p", "x", "--password-command", "true", "-r", &place];
    bench.flags = flags.map(str::to_owned).to_vec();
    expect(&bench.run(&["snapshots"]), 2);
}

#[test]
fn repositories_are_taken_in_the_order_of_the_page() {
    let template = Bench::new();
    let place = repository(&template);
    for (winner, loser, what) in pairs(&REPOSITORY) {
        let mut bench = Bench::new();
        bench.variables.push(("ESKER_PASSWORD".into(), "right".into()));
        bench.give(winner, &place);
        bench.give(loser, "/nowhere");
        let output = bench.run(&["snapshots"]);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn configurations_are_taken_in_the_order_of_the_page() {
    for (winner, loser, what) in pairs(&CONFIGURATION) {
        let mut bench = Bench::new();
        // The last but one is looked at only where the variable is set, the last one only where it is not.
        if !what.ends_with("before `~/.config/esker/esker.toml`") {
            bench.variables.push(("XDG_CONFIG_HOME".into(), bench.dir().join("xdg").display().to_string()));
        }
        bench.give(winner, "repository = \"/srv/wins\"");
        bench.give(loser, "repository = 'a sentence that is no place\n'");
        if what.contains("XDG_CONFIG_HOME/esker/esker.toml` before") {
            bench.variables.push(("XDG_CONFIG_HOME".into(), bench.dir().join("xdg").display().to_string()));
        }
        let output = bench.run(&["config", "check"]);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn caches_are_taken_in_the_order_of_the_page() {
    for (winner, loser, what) in pairs(&CACHE) {
        let mut bench = Bench::new();
        let place = bench.dir().join("repo").display().to_string();
        bench.lines.push(format!("repository = \"{place}\""));
        bench.variables.push(("ESKER_PASSWORD".into(), "right".into()));
        let (wins, loses) = (bench.dir().join("wins"), bench.dir().join("loses"));
        bench.give(winner, wins.to_str().unwrap());
        bench.give(loser, loses.to_str().unwrap());
        expect(&bench.run(&["init"]), 0);
        assert!(wins.exists() && !loses.exists(), "{what}");
    }
}

#[test]
fn scratch_folders_are_taken_in_the_order_of_the_page() {
    let template = Bench::new();
    let place = repository(&template);
    for (winner, loser, what) in pairs(&SCRATCH) {
        let mut bench = Bench::new();
        bench.write("work/data", "data");
        let repository = ["-r".to_owned(), place.clone()];
        bench.variables.push(("ESKER_PASSWORD".into(), "right".into()));
        bench.flags.extend(repository);
        expect(&bench.run(&["backup", "data"]), 0);
        let (wins, loses) = (bench.dir().join("wins"), bench.dir().join("loses"));
        bench.flags.extend(["drill", "--snapshot", "latest"].map(str::to_owned));
        bench.give(winner, wins.to_str().unwrap());
        bench.give(loser, loses.to_str().unwrap());
        expect(&bench.run(&[]), 0);
        assert!(wins.exists() && !loses.exists(), "{what}");
    }
}

#[test]
fn signing_keys_are_taken_in_the_order_of_the_page() {
    for (winner, loser, what) in pairs(&SIGNING) {
        let mut bench = Bench::new();
        bench.lines.push(format!("repository = \"{}\"", bench.dir().join("repo").display()));
        let (wins, loses) = (bench.dir().join("wins"), bench.dir().join("loses"));
        bench.flags.extend(["drill", "key"].map(str::to_owned));
        bench.give(winner, wins.to_str().unwrap());
        bench.give(loser, loses.to_str().unwrap());
        expect(&bench.run(&[]), 0);
        assert!(wins.exists() && !loses.exists(), "{what}");
    }
}

/// A store that turns everybody away; returns its port and the access keys that came.
fn stranger() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = vec![0; 16 << 10];
            let len = stream.read(&mut request).unwrap_or_default();
            let text = String::from_utf8_lossy(&request[..len]).into_owned();
            let key = text.split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
            let _ = send.send(key.unwrap_or_default().to_owned());
            let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, receive)
}

#[test]
fn credentials_are_taken_in_the_order_of_the_page() {
    let (port, keys) = stranger();
    for (winner, loser, what) in pairs(&CREDENTIALS) {
        let mut bench = Bench::new();
        bench.lines.push(format!(
            "[[tier]]\nname = \"store\"\nrole = \"primary\"\nretries = 0\nurl = \"s3:http://127.0.0.1:{port}/bucket\""
        ));
        bench.variables.push(("ESKER_PASSWORD".into(), "right".into()));
        bench.give(winner, "VARIABLE");
        bench.give(loser, "VARIABLE");
        let profile = |name: &str| {
            format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = x\n", name.to_uppercase())
        };
        bench.write(".aws/credentials", &["named", "chosen", "default"].map(profile).join("\n"));
        let output = bench.run(&["snapshots"]);
        assert_ne!(output.status.code(), Some(0));
        let key = keys.try_recv().unwrap_or_default();
        while keys.try_recv().is_ok() {}
        let expected = match winner {
            Way::Line(_) => "NAMED",
            Way::Variables(variables) if variables.len() == 2 => "VARIABLE",
            _ => "CHOSEN",
        };
        assert_eq!(key, expected, "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
