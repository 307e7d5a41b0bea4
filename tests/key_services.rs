//! Key slots under key services: a real OpenBao, moto as AWS KMS, a double of Azure Key Vault that the official client
//! judges; and services that are down, slow, or answer garbage.

use crate::harness::{Process, Repo, certificates, expect, free_port, run, server, source_root, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A repository that nothing opens but what a test gives.
struct Bare {
    repo: Repo,
    environment: Vec<(String, String)>,
}

impl Bare {
    fn new(environment: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let repo = Repo::empty();
        fs::create_dir(repo.path("run")).unwrap();
        fs::set_permissions(repo.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { repo, environment: environment.iter().map(own).collect() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.repo.command(args);
        command.env_remove("ESKER_PASSWORD").env("XDG_RUNTIME_DIR", self.repo.path("run"));
        command.envs(self.environment.iter().cloned());
        command
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        expect(&output, code);
        said(&output)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.command(&[&["--json"], args].concat()).output().unwrap();
        serde_json::from_str(expect(&output, 0).lines().last().unwrap()).unwrap()
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A real OpenBao over TLS, in memory, with a transit engine.
pub(crate) struct Bao {
    process: Process,
    dir: tempfile::TempDir,
    port: u16,
}

const ROOT: &str = "root-token-sesame";

impl Bao {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = Self::process(dir.path(), port);
        let bao = Self { process, dir, port };
        wait_for("OpenBao", 60, || bao.ca().exists() && bao.ask("GET", "sys/mounts", &Value::Null).is_ok());
        bao.done("POST", "sys/mounts/transit", json!({"type": "transit"}));
        bao.done("POST", "transit/keys/k", json!({}));
        bao
    }

    fn process(dir: &Path, port: u16) -> Process {
        let mut command = Command::new(server("bao-2"));
        command.args(["server", "-dev", "-dev-no-store-token", "-dev-tls"]);
        command.arg(format!("-dev-tls-cert-dir={}", dir.display()));
        command.arg(format!("-dev-listen-address=127.0.0.1:{port}"));
        command.arg(format!("-dev-root-token-id={ROOT}"));
        Process::start(command.env("HOME", dir).current_dir(dir))
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("vault-ca.pem")
    }

    pub(crate) fn url(&self) -> String {
        format!("vault://127.0.0.1:{}/transit/k", self.port)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let mut command = Command::new("curl");
        command.args(["-s", "-f", "-X", method, "--cacert"]).arg(self.ca());
        command.args(["-H", &format!("X-Vault-Token: {ROOT}")]);
        if !body.is_null() {
            command.args(["-d", &body.to_string()]);
        }
        let output = command.arg(format!("https://127.0.0.1:{}/v1/{path}", self.port)).output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_default()),
            false => Err(said(&output)),
        }
    }

    #[track_caller]
    fn done(&self, method: &str, path: &str, body: Value) -> Value {
        self.ask(method, path, &body).unwrap()
    }

    /// A token that may do this with the transit engine.
    fn token(&self, paths: &[&str]) -> String {
        let rules: Vec<String> = paths
            .iter()
            .map(|path| format!("path \"transit/{path}\" {{ capabilities = [\"update\"] }}"))
            .collect();
        self.done("PUT", "sys/policies/acl/some", json!({"policy": rules.join("\n")}));
        let made = self.done("POST", "auth/token/create", json!({"policies": ["some"], "no_parent": true}));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// The variables of one who may do everything.
    pub(crate) fn login(&self) -> [(String, String); 2] {
        [("VAULT_TOKEN".into(), ROOT.into()), ("VAULT_CACERT".into(), self.ca().display().to_string())]
    }

    fn bare(&self) -> Bare {
        let [(token, root), (ca, path)] = self.login();
        Bare::new(&[(&token, &root), (&ca, &path)])
    }
}

/// The ids of slots of a kind.
fn slots(bare: &Bare, args: &[&str], kind: &str) -> Vec<String> {
    let all = bare.json(&[args, &["key", "list"]].concat());
    let of = |row: &&Value| row["kind"] == kind;
    all.as_array().unwrap().iter().filter(of).map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Puts the bytes of a slot of one repository in the place of a slot of another, and makes them say that they are of that one.
fn move_slot(from: &Bare, to: &Bare, url: &str, opened: &[&str]) {
    let theirs = slots(to, opened, "kms").remove(0);
    let mine = fs::read_dir(from.repo.folder().join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let text = mine.map(|path| fs::read_to_string(path).unwrap()).find(|text| text.contains(url)).unwrap();
    let id = |text: &str| {
        let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        header["repository_id"].as_str().unwrap().to_owned()
    };
    let place = to.repo.folder().join("keys").join(&theirs);
    let moved = text.replace(&id(&text), &id(&fs::read_to_string(place).unwrap()));
    overwrite(to, &theirs, &moved);
}

/// Writes other bytes over a slot and its copies.
fn overwrite(bare: &Bare, slot: &str, text: &str) {
    for copy in ["", "copies/1/", "copies/2/"] {
        let path = bare.repo.folder().join(format!("{copy}keys")).join(slot);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn a_repository_is_opened_by_a_transit_engine_alone_and_outlives_its_rotations() {
    let bao = Bao::start();
    let bare = bao.bare();
    let url = bao.url();
    let made = bare.ends(0, &["init", "--kms", &url]);
    assert!(made.contains("Only a key service opens this repository"), "{made}");
    fs::write(bare.repo.path("file"), "what counts").unwrap();
    bare.ends(0, &["--kms", &url, "backup", "file"]);
    // By a variable, and by esker.toml; without either, the service is named and no password asked for.
    let by_variable = bare.command(&["snapshots"]).env("ESKER_KMS", &url).output().unwrap();
    expect(&by_variable, 0);
    let none = bare.ends(1, &["snapshots"]);
    assert!(none.contains(&url) && none.contains("only if it is yours"), "{none}");
    let password = bare.command(&["snapshots"]).env("ESKER_PASSWORD", "x").output().unwrap();
    expect(&password, 12);
    // By every command that would ask.
    for words in [
        &["repair", "head", "--dry-run"][..],
        &["repair", "index", "--dry-run"],
        &["repair", "packs", "--dry-run"],
        &["repair", "snapshots", "--dry-run"],
        &["key", "rotate"],
        &["host", "list"],
        &["restore", "latest", "--target", "out"],
    ] {
        let none = bare.ends(1, words);
        assert!(none.contains(&url) && none.contains("only if it is yours"), "{words:?}: {none}");
    }
    let tiers = format!(
        "[[tier]]\nname = \"a\"\nurl = \"{}\"\nrole = \"primary\"\n[[tier]]\nname = \"b\"\nurl = \"{}\"\n",
        bare.repo.folder().display(),
        bare.repo.path("b").display()
    );
    fs::write(bare.repo.path("esker.toml"), tiers).unwrap();
    for words in [
        &["tier", "adopt", "a"][..],
        &["tier", "status"],
        &["repair", "head", "--tier", "a", "--dry-run"],
        &["run"],
        &["key", "list"],
        &["ls", "latest"],
    ] {
        let output = bare.command(words).env_remove("ESKER_REPOSITORY").output().unwrap();
        expect(&output, 1);
        let none = String::from_utf8_lossy(&output.stderr);
        assert!(none.contains(&url) && none.contains("only if it is yours"), "{words:?}: {none}");
    }
    fs::remove_file(bare.repo.path("esker.toml")).unwrap();
    let toml =
        format!("repository = \"{}\"\nkms = \"{url}\"\nkms_cache = \"1h\"\n", bare.repo.folder().display());
    fs::write(bare.repo.path("esker.toml"), toml).unwrap();
    let by_file = bare.command(&["snapshots"]).env_remove("ESKER_REPOSITORY").output().unwrap();
    expect(&by_file, 0);
    fs::remove_file(bare.repo.path("esker.toml")).unwrap();
    // The list says service and version, in words and as JSON.
    let listed = bare.json(&["--kms", &url, "key", "list"]);
    assert_eq!(
        (&listed[0]["kind"], &listed[0]["service"], &listed[0]["key"]),
        (&json!("kms"), &json!(url), &json!("v1"))
    );
    let told = bare.ends(0, &["--kms", &url, "key", "list"]);
    assert!(told.contains(&format!("{url}, key v1")) && told.contains("Make a second key slot"), "{told}");
    // A rotation of the service's key leaves the slot as it is; a new secret is under the new version.
    bao.done("POST", "transit/keys/k/rotate", json!({}));
    bare.ends(0, &["--kms", &url, "restore", "latest", "--target", "out"]);
    let changed = bare.json(&["--kms", &url, "key", "passwd", "--new-kms", &url]);
    assert_eq!(changed["removed"].as_array().unwrap().len(), 1);
    let listed = bare.json(&["--kms", &url, "key", "list"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["key"]), (1, &json!("v2")));
    // Data keys rotate for it as for any slot.
    bare.ends(0, &["--kms", &url, "key", "rotate"]);
    bare.ends(0, &["--kms", &url, "backup", "file"]);
    bare.ends(0, &["--kms", &url, "check", "--read-data"]);
    // A second slot of another kind, and the service is needed no more.
    bare.ends(0, &["--kms", &url, "key", "add", "--new-key-file", "key"]);
    let kms = slots(&bare, &["--key-file", "key"], "kms");
    bare.ends(0, &["--key-file", "key", "key", "remove", &kms[0]]);
    let refused = bare.ends(12, &["--kms", &url, "snapshots"]);
    assert!(refused.contains("no key slot is for the key service"), "{refused}");
    bare.ends(0, &["--key-file", "key", "key", "add", "--new-kms", &url]);
    let other = bare.ends(12, &["--kms", "vault+http://127.0.0.1:1/transit/k", "snapshots"]);
    assert!(other.contains(&format!("there are key slots for: key, kms {url}")), "{other}");
    // Two slots of one key, and a new version of it: one slot stays, which is the new one and opens.
    bare.ends(0, &["--key-file", "key", "key", "add", "--new-kms", &url]);
    bao.done("POST", "transit/keys/k/rotate", json!({}));
    let before = slots(&bare, &["--key-file", "key"], "kms");
    let changed = bare.json(&["--kms", &url, "key", "passwd", "--new-kms", &url]);
    assert_eq!((before.len(), changed["removed"].as_array().unwrap().len()), (2, 2), "{changed}");
    let after = slots(&bare, &["--kms", &url], "kms");
    assert_eq!((json!(after), before.contains(&after[0])), (changed["added"].clone(), false), "{changed}");
    bare.ends(0, &["--kms", &url, "check"]);
    bare.ends(0, &["--key-file", "key", "check"]);
}

#[test]
fn whatever_a_transit_engine_refuses_is_told() {
    let bao = Bao::start();
    let mut bare = bao.bare();
    let url = bao.url();
    bare.ends(0, &["init", "--kms", &url]);
    bare.ends(0, &["--kms", &url, "key", "add", "--new-key-file", "key"]);
    let tries = |bare: &Bare, code: i32, words: &str| {
        let told = bare.ends(code, &["--kms", &url, "snapshots"]);
        assert!(told.contains(words) && !told.contains(ROOT), "{words}: {told}");
    };
    // A token that may wrap: it adds slots, if nobody asks for the proof, and opens none.
    let wrap_only = bao.token(&["encrypt/k"]);
    bare.set("VAULT_TOKEN", &wrap_only);
    tries(&bare, 12, "permission denied");
    let refused = bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &url]);
    assert!(refused.contains("--wrap-only"), "{refused}");
    assert_eq!(slots(&bare, &["--key-file", "key"], "kms").len(), 1);
    let added = bare.ends(0, &["--key-file", "key", "key", "add", "--new-kms", &url, "--wrap-only"]);
    assert!(added.contains("was not proved"), "{added}");
    bare.set("VAULT_TOKEN", ROOT);
    let kms = slots(&bare, &["--key-file", "key"], "kms");
    assert_eq!(kms.len(), 2);
    // What a machine that only wraps made opens where the service unwraps.
    let current = || {
        let list = bare.json(&["--kms", &url, "key", "list"]);
        list.as_array().unwrap().iter().find(|row| row["current"] == true).unwrap()["id"].clone()
    };
    let first = current();
    bare.ends(0, &["--key-file", "key", "key", "remove", first.as_str().unwrap()]);
    assert_ne!(current(), first);
    // A token that may unwrap alone opens, and adds nothing.
    let unwrap_only = bao.token(&["decrypt/k"]);
    bare.set("VAULT_TOKEN", &unwrap_only);
    bare.ends(0, &["--kms", &url, "snapshots"]);
    bare.ends(12, &["--kms", &url, "key", "add", "--new-kms", &url]);
    bare.set("VAULT_TOKEN", "s.nobody");
    tries(&bare, 12, "permission denied");
    bare.set("VAULT_TOKEN", "");
    let none = bare.ends(1, &["--kms", &url, "snapshots"]);
    assert!(none.contains("no token"), "{none}");
    // From a file, and from the last login.
    fs::write(bare.repo.path("token"), format!("{ROOT}\n")).unwrap();
    bare.set("ESKER_KMS_TOKEN_FILE", "token");
    bare.ends(0, &["--kms", &url, "snapshots"]);
    bare.set("ESKER_KMS_TOKEN_FILE", "");
    fs::rename(bare.repo.path("token"), bare.repo.path(".vault-token")).unwrap();
    bare.ends(0, &["--kms", &url, "snapshots"]);
    // An authority that is not known.
    let ca = bao.ca().display().to_string();
    bare.set("VAULT_CACERT", "");
    tries(&bare, 29, "no authority that is trusted here; --cacert FILE names its authority");
    bare.ends(29, &["--insecure-tls", "--kms", &url, "snapshots"]);
    bare.ends(0, &["--cacert", &ca, "--kms", &url, "snapshots"]);
    bare.set("VAULT_CACERT", &ca);
    // Another key, another mount, no engine.
    let key = |name: &str| format!("vault://127.0.0.1:{}/{name}", bao.port);
    for name in ["transit/other", "nothing/k", "transit/k?namespace=other"] {
        let told = bare.ends(12, &["--kms", &key(name), "snapshots"]);
        assert!(told.contains("no key slot is for the key service"), "{told}");
    }
    for name in ["transit/other", "nothing/k"] {
        let told = bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &key(name)]);
        assert!(told.contains("make it first"), "{told}");
    }
    assert!(bao.ask("GET", "transit/keys/other", &Value::Null).is_err(), "a key was made by a mistake");
    bao.done("POST", "transit/keys/signer", json!({"type": "rsa-2048"}));
    let unfit = bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &key("transit/signer")]);
    assert!(unfit.contains("aes256-gcm96"), "{unfit}");
    // Keys that are derived from the context wrap, too.
    bao.done("POST", "transit/keys/derived", json!({"derived": true}));
    bare.ends(0, &["--key-file", "key", "key", "add", "--new-kms", &key("transit/derived")]);
    bare.ends(0, &["--kms", &key("transit/derived"), "snapshots"]);
    // A slot's bytes in another repository.
    let other = bao.bare();
    other.ends(0, &["init", "--kms", &url]);
    move_slot(&bare, &other, &url, &["--kms", &url]);
    let told = other.ends(12, &["--kms", &url, "snapshots"]);
    assert!(told.contains("another repository or slot"), "{told}");
    // Versions that are too old, and the way out.
    bao.done("POST", "transit/keys/k/rotate", json!({}));
    bao.done("POST", "transit/keys/k/config", json!({"min_decryption_version": 2, "deletion_allowed": true}));
    tries(&bare, 12, "min_decryption_version");
    bao.done("POST", "transit/keys/k/config", json!({"min_decryption_version": 1}));
    bare.ends(0, &["--kms", &url, "key", "passwd", "--new-kms", &url]);
    bao.done("POST", "transit/keys/k/config", json!({"min_decryption_version": 2}));
    bare.ends(0, &["--kms", &url, "snapshots"]);
    // Sealed, deleted, gone.
    bao.done("DELETE", "transit/keys/k", Value::Null);
    tries(&bare, 12, "there is no such key");
    bao.done("PUT", "sys/seal", json!({}));
    tries(&bare, 29, "sealed");
    // The key file opens as before.
    bare.ends(0, &["--key-file", "key", "check"]);
}

#[test]
fn what_is_kept_of_a_service_that_is_down_is_kept_only_if_that_was_asked_for() {
    let mut bao = Bao::start();
    let mut bare = bao.bare();
    let url = bao.url();
    bare.ends(0, &["init", "--kms", &url]);
    bare.ends(0, &["--kms", &url, "key", "add", "--new-key-file", "key"]);
    let opened = ["--kms", &url, "-o", "kms.timeout=2", "snapshots"];
    let kept = [&["--kms-cache", "1h"][..], &opened].concat();
    bare.ends(0, &opened);
    let files = |bare: &Bare| {
        let folder = fs::read_dir(bare.repo.path("run/esker-kms"));
        folder.map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or(vec![])
    };
    assert!(files(&bare).is_empty());
    bare.ends(0, &kept);
    assert_eq!(files(&bare).len(), 1);
    // A token that is refused ends what was kept.
    bare.set("VAULT_TOKEN", "s.nobody");
    bare.ends(12, &kept);
    assert!(files(&bare).is_empty());
    bare.set("VAULT_TOKEN", ROOT);
    bare.ends(0, &kept);
    let _ = bao.process.0.kill();
    let _ = bao.process.0.wait();
    let down = bare.ends(29, &opened);
    assert!(down.contains("cannot connect"), "{down}");
    let warned = bare.ends(0, &kept);
    assert!(warned.contains("what was kept of it is used"), "{warned}");
    // A warning says what it is about, and not where in the program it comes from.
    assert!(
        warned.contains("warning: the transit engine at ") && !warned.contains("keyservices"),
        "{warned}"
    );
    // Read by others; gone with 0.
    let file = files(&bare).remove(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = bare.ends(29, &kept);
    assert!(refused.contains("others can read it"), "{refused}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bare.ends(0, &kept);
    bare.ends(29, &[&["--kms-cache", "0"][..], &opened].concat());
    assert!(files(&bare).is_empty());
    bare.ends(29, &kept);
    // And with whatever opens the repository; by a variable and by esker.toml, too.
    let toml = format!("repository = \"{}\"\nkms_cache = \"0\"\n", bare.repo.folder().display());
    fs::write(bare.repo.path("zero.toml"), toml).unwrap();
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);
    let all: [Case<'_>; 4] = [
        (&["--kms-cache", "0", "--key-file", "key", "snapshots"], &[]),
        (&["--kms-cache", "0", "version"], &[]),
        (&["snapshots"], &[("ESKER_KMS_CACHE", "0"), ("ESKER_KEY_FILE", "key")]),
        (&["-c", "zero.toml", "--key-file", "key", "snapshots"], &[("ESKER_REPOSITORY", "")]),
    ];
    for (args, variables) in all {
        fs::write(&file, "of any slot").unwrap();
        expect(&bare.command(args).envs(variables.iter().copied()).output().unwrap(), 0);
        assert!(files(&bare).is_empty(), "{args:?}");
    }
}

/// moto as AWS KMS.
struct AwsKms {
    _process: Process,
    dir: tempfile::TempDir,
    port: u16,
}

impl AwsKms {
    fn start() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new(server("stores/bin/python"));
        command.arg(source_root().join("tests/servers/kms.py"));
        command.env("PORT", port.to_string()).env("LOG", dir.path().join("requests"));
        command.env("SECRET", "sesame-secret");
        let kms = Self { _process: Process::start(&mut command), dir, port };
        wait_for("moto", 60, || kms.python("kms.list_keys()").is_some());
        kms
    }

    /// Runs lines with the official client.
    fn python(&self, lines: &str) -> Option<String> {
        let program = format!(
            "import boto3, botocore\nkms = boto3.client('kms', endpoint_url='http://127.0.0.1:{}', region_name='us-east-1', \
             aws_access_key_id='AKTEST', aws_secret_access_key='SKTEST', \
             config=botocore.config.Config(retries={{'max_attempts': 1}}))\n{lines}\n",
            self.port
        );
        let output = Command::new(server("stores/bin/python")).args(["-c", &program]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn url(&self, key: &str) -> String {
        format!("aws-kms://us-east-1/{key}?endpoint=http://127.0.0.1:{}", self.port)
    }

    /// What was asked: action, key, context.
    fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("requests")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn aws_kms_opens_with_the_context_of_the_slot_and_the_key_that_was_named() {
    let kms = AwsKms::start();
    let arn = kms.python("print(kms.create_key()['KeyMetadata']['Arn'])").unwrap();
    let id = arn.rsplit('/').next().unwrap().to_owned();
    kms.python(&format!("kms.create_alias(AliasName='alias/esker', TargetKeyId='{id}')")).unwrap();
    let bare = Bare::new(&[("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "sesame-secret")]);
    let url = kms.url("alias/esker");
    bare.ends(0, &["init", "--kms", &url]);
    bare.ends(0, &["--kms", &url, "key", "add", "--new-key-file", "key"]);
    fs::write(bare.repo.path("file"), "what counts").unwrap();
    bare.ends(0, &["--kms", &url, "backup", "file"]);
    // By whichever name of the same key.
    for name in [&id, &arn] {
        bare.ends(0, &["--kms", &kms.url(name), "snapshots"]);
    }
    let list = bare.json(&["--kms", &url, "key", "list"]);
    let slot = list.as_array().unwrap().iter().find(|row| row["kind"] == "kms").unwrap();
    assert_eq!((&slot["service"], &slot["key"]), (&json!(url), &json!(arn)));
    let config = bare.json(&["--kms", &url, "cat", "config"]);
    let context = json!({
        "esker:purpose": "key-slot", "esker:repository": config["id"].as_str().or(config["repository_id"].as_str()),
        "esker:slot": slot["id"],
    });
    let asked = kms.requests();
    assert!(asked.iter().all(|request| request[2] == context), "{asked:?}");
    assert!(asked.iter().any(|request| request[0] == "decrypt" && request[1] == "alias/esker"), "{asked:?}");
    // A slot's bytes in another repository: their context is that of the first one.
    let other = Bare { repo: Repo::empty(), environment: bare.environment.clone() };
    other.ends(0, &["init", "--kms", &url]);
    move_slot(&bare, &other, &url, &["--kms", &url]);
    let told = other.ends(12, &["--kms", &url, "snapshots"]);
    assert!(told.contains("another repository or slot") || told.contains("context"), "{told}");
    // The credentials of a profile.
    fs::create_dir(bare.repo.path(".aws")).unwrap();
    let profile = "[default]\naws_access_key_id = AKTEST\naws_secret_access_key = sesame-secret\n";
    fs::write(bare.repo.path(".aws/credentials"), profile).unwrap();
    let mut command = bare.command(&["--kms", &url, "snapshots"]);
    expect(&command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap(), 0);
    let mut command = bare.command(&["--kms", &url, "snapshots"]);
    let output = command.env("AWS_SECRET_ACCESS_KEY", "wrong").output().unwrap();
    expect(&output, 12);
    assert!(said(&output).contains("does not accept the credentials"), "{}", said(&output));
    // Rotated, moved, disabled, doomed.
    kms.python(&format!("kms.rotate_key_on_demand(KeyId='{id}')"));
    bare.ends(0, &["--kms", &url, "snapshots"]);
    let tries = |words: &str| {
        let told = bare.ends(12, &["--kms", &url, "snapshots"]);
        assert!(told.contains(words) && !told.contains("sesame"), "{words}: {told}");
    };
    let other = kms.python("print(kms.create_key()['KeyMetadata']['KeyId'])").unwrap();
    kms.python(&format!("kms.update_alias(AliasName='alias/esker', TargetKeyId='{other}')")).unwrap();
    tries("access denied");
    bare.ends(0, &["--kms", &kms.url(&arn), "snapshots"]);
    kms.python(&format!("kms.update_alias(AliasName='alias/esker', TargetKeyId='{id}')")).unwrap();
    kms.python(&format!("kms.disable_key(KeyId='{id}')")).unwrap();
    tries("the key is disabled");
    let refused = bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &url]);
    assert!(refused.contains("the key is disabled"), "{refused}");
    kms.python(&format!("kms.enable_key(KeyId='{id}')")).unwrap();
    bare.ends(0, &["--kms", &url, "snapshots"]);
    kms.python(&format!("kms.schedule_key_deletion(KeyId='{id}', PendingWindowInDays=7)")).unwrap();
    tries("pending deletion");
    let absent = kms.url("00000000-0000-0000-0000-000000000000");
    let told = bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &absent]);
    assert!(told.contains("no such key"), "{told}");
    bare.ends(0, &["--key-file", "key", "check"]);
}

/// The double of Azure Key Vault.
struct KeyVault {
    _process: Process,
    port: u16,
    ca: String,
}

impl KeyVault {
    /// Starts it with certificates in a test's folder.
    fn start(repo: &Repo) -> Self {
        certificates(repo);
        let port = free_port();
        let mut command = Command::new(server("stores/bin/python"));
        command.arg(source_root().join("tests/servers/keyvault.py")).current_dir(repo.dir.path());
        command.env("PORT", port.to_string()).env("CERT", "server.pem").env("KEY", "server.key");
        command
            .env("SECRET", "sesame-secret")
            .env("FEDERATED", "sesame-federated")
            .env("HEADER", "sesame-header");
        let ca = repo.path("ca.pem").display().to_string();
        let vault = Self { _process: Process::start(&mut command), port, ca };
        wait_for("the double of Key Vault", 60, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        vault
    }

    /// What the official client does.
    fn client(&self, what: &str) {
        let mut command = Command::new(server("stores/bin/python"));
        command.arg(source_root().join("tests/servers/keyvault_judge.py"));
        command.args([&self.port.to_string(), what]).env("REQUESTS_CA_BUNDLE", &self.ca);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{what}: {}", said(&output));
    }
}

#[test]
fn azure_key_vault_opens_with_every_identity_and_refuses_as_it_does() {
    let mut bare = Bare::new(&[("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "app")]);
    let vault = KeyVault::start(&bare.repo);
    vault.client("judge");
    vault.client("create");
    bare.set("ESKER_CACERT", &vault.ca);
    bare.set("AZURE_AUTHORITY_HOST", &format!("https://127.0.0.1:{}", vault.port));
    bare.set("AZURE_CLIENT_SECRET", "sesame-secret");
    let url = format!("azure-kv://127.0.0.1:{}/k", vault.port);
    bare.ends(0, &["init", "--kms", &url]);
    bare.ends(0, &["--kms", &url, "key", "add", "--new-key-file", "key"]);
    // A federated token, and a machine's identity.
    fs::write(bare.repo.path("federated"), "sesame-federated\n").unwrap();
    let mut federated = bare.command(&["--kms", &url, "snapshots"]);
    federated.env_remove("AZURE_CLIENT_SECRET").env("AZURE_FEDERATED_TOKEN_FILE", "federated");
    expect(&federated.output().unwrap(), 0);
    let mut machine = bare.command(&["--kms", &url, "snapshots"]);
    machine.env_remove("AZURE_CLIENT_SECRET").env_remove("AZURE_TENANT_ID");
    machine.env("IDENTITY_ENDPOINT", format!("https://127.0.0.1:{}/msi/token", vault.port));
    expect(&machine.env("IDENTITY_HEADER", "sesame-header").output().unwrap(), 0);
    let tries = |bare: &Bare, words: &str| {
        let told = bare.ends(12, &["--kms", &url, "snapshots"]);
        assert!(told.contains(words) && !told.contains("sesame"), "{words}: {told}");
    };
    // A secret that is wrong, rights to wrap only.
    bare.set("AZURE_CLIENT_SECRET", "wrong");
    tries(&bare, "Invalid client secret");
    bare.set("AZURE_CLIENT_SECRET", "sesame-secret");
    bare.set("AZURE_CLIENT_ID", "wrapper");
    tries(&bare, "access denied");
    bare.ends(12, &["--key-file", "key", "key", "add", "--new-kms", &url]);
    bare.ends(0, &["--key-file", "key", "key", "add", "--new-kms", &url, "--wrap-only"]);
    bare.set("AZURE_CLIENT_ID", "app");
    // A new version: the slot opens by the one that it has; a version that is named is the only one.
    let list = bare.json(&["--kms", &url, "key", "list"]);
    let row = list.as_array().unwrap().iter().find(|row| row["kind"] == "kms").unwrap();
    let first = row["key"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    vault.client("rotate");
    bare.ends(0, &["--kms", &url, "snapshots"]);
    bare.ends(0, &["--kms", &format!("{url}/{first}"), "snapshots"]);
    let another = bare.ends(12, &["--kms", &format!("{url}/0123456789abcdef"), "snapshots"]);
    assert!(another.contains("no key slot is for the key service"), "{another}");
    bare.ends(0, &["--kms", &url, "key", "passwd", "--new-kms", &url]);
    let list = bare.json(&["--kms", &url, "key", "list"]);
    let has_first = |row: &Value| row["key"].as_str().is_some_and(|key| key.ends_with(&first));
    assert!(!list.as_array().unwrap().iter().any(has_first), "{list}");
    // A slot's bytes in another repository: the vault unwraps them, and what it unwraps is of the first one.
    let other = Bare { repo: Repo::empty(), environment: bare.environment.clone() };
    other.ends(0, &["init", "--kms", &url]);
    move_slot(&bare, &other, &url, &["--kms", &url]);
    let told = other.ends(12, &["--kms", &url, "snapshots"]);
    assert!(told.contains("another repository or slot"), "{told}");
    vault.client("disable");
    tries(&bare, "the key is disabled");
    vault.client("enable");
    bare.ends(0, &["--kms", &url, "snapshots"]);
    vault.client("delete");
    tries(&bare, "there is no such key");
    bare.ends(0, &["--key-file", "key", "check"]);
    // A token is for Azure's vaults, and goes nowhere else.
    let refused = bare.ends(2, &["--kms", "azure-kv://vault.example.org/k", "snapshots"]);
    assert!(refused.contains("no host of Azure's vaults"), "{refused}");
}

/// A service of which `answer` answers each request.
fn service(answer: impl Fn(&mut TcpStream) + Copy + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 64 << 10]);
                answer(&mut stream);
            });
        }
    });
    port
}

/// A service that answers every request with the same bytes, after a while.
fn liar(answer: &'static [u8], wait: Duration) -> u16 {
    service(move |stream| {
        std::thread::sleep(wait);
        let _ = stream.write_all(answer);
    })
}

/// A service whose answer goes on to come, a byte each hundredth of a second.
fn dripping() -> u16 {
    service(|stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n");
        while sent.is_ok() {
            std::thread::sleep(Duration::from_millis(10));
            sent = stream.write_all(b" ");
        }
    })
}

const GARBAGE: &[&[u8]] = &[
    b"",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":{\"plaintext\":\"AAAA\"}}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"data\":{\"plaintext\":\"***\"}}",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 No\r\nContent-Length: 31\r\n\r\n{\"errors\":[\"\\u001b[2Jand again\"]}",
];

#[test]
fn garbage_and_silence_are_no_secrets() {
    let bao = Bao::start();
    let mut bare = bao.bare();
    bare.ends(0, &["init", "--kms", &bao.url()]);
    let slot = slots(&bare, &["--kms", &bao.url()], "kms").remove(0);
    bare.set("VAULT_TOKEN", "sesame-token");
    // The slot says another service, as whoever can write to the store may make it say.
    let says = |url: &str| {
        let text = fs::read_to_string(bare.repo.folder().join("keys").join(&slot)).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut header: Value = serde_json::from_str(&lines[0]).unwrap();
        header["service"] = json!(url);
        lines[0] = header.to_string();
        overwrite(&bare, &slot, &(lines.join("\n") + "\n"));
    };
    let tries = |port: u16| {
        let url = format!("vault+http://127.0.0.1:{port}/transit/k");
        says(&url);
        let began = Instant::now();
        let told = bare.ends(29, &["-o", "kms.timeout=2", "--kms", &url, "snapshots"]);
        assert!(began.elapsed() < Duration::from_secs(12), "{told}");
        assert!(!told.contains("sesame") && !told.contains('\u{1b}'), "{told}");
        told
    };
    for answer in GARBAGE {
        tries(liar(answer, Duration::ZERO));
    }
    let slow = tries(liar(GARBAGE[2], Duration::from_secs(600)));
    assert!(slow.contains("no answer within 2 s"), "{slow}");
    let slow = tries(dripping());
    assert!(slow.contains("no answer within 2 s"), "{slow}");
    // Silent before there is TLS: the limit is the one that was given.
    let silent = format!("vault://127.0.0.1:{}/transit/k", liar(GARBAGE[2], Duration::from_secs(600)));
    says(&silent);
    let told = bare.ends(29, &["-o", "kms.timeout=2s", "--kms", &silent, "snapshots"]);
    assert!(told.contains("within 2 s") && !told.contains("10 s"), "{told}");
    let refused = tries(free_port());
    assert!(refused.contains("cannot connect"), "{refused}");
    // A token never goes where only the slot points to.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    says(&format!("vault+http://127.0.0.1:{}/transit/k", listener.local_addr().unwrap().port()));
    bare.ends(12, &["--kms", &bao.url(), "snapshots"]);
    let named = bare.ends(1, &["snapshots"]);
    assert!(named.contains("only if it is yours"), "{named}");
    assert!(listener.accept().is_err(), "somebody came");
}

/// Whoever has had enough waits no longer.
#[test]
fn a_signal_ends_the_wait_for_a_service() {
    let bare = Bare::new(&[("VAULT_TOKEN", "sesame-token")]);
    let url = format!("vault+http://127.0.0.1:{}/transit/k", liar(GARBAGE[2], Duration::from_secs(600)));
    let mut command = bare.command(&["-o", "kms.timeout=300", "init", "--kms", &url]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    run("kill", &["-INT", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    expect(&output, 130);
    assert!(began.elapsed() < Duration::from_secs(5), "{}", said(&output));
}

/// At any level, in messages and in the log.
#[test]
fn no_token_and_no_secret_is_told() {
    let bao = Bao::start();
    let bare = bao.bare();
    let url = bao.url();
    let log = ["--log", "trace", "--log-file", "trace"];
    bare.ends(0, &[&log[..], &["init", "--kms", &url]].concat());
    bare.ends(0, &[&log[..], &["--kms", &url, "--kms-cache", "1h", "key", "list"]].concat());
    let text = fs::read_to_string(bare.repo.path("trace")).unwrap();
    assert!(text.contains("DEBUG key: ") && text.contains("/v1/transit/decrypt/k"), "{text}");
    let wrapped = {
        let keys = bare.repo.folder().join("keys");
        let path = fs::read_dir(keys).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(path).unwrap();
        let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(header["wrapped"].as_str().unwrap().starts_with("vault:v1:"), "{header}");
        (header["wrapped"].clone(), header["repository_id"].clone())
    };
    // What the service itself unwraps with the same words is nowhere.
    let keys = fs::read_dir(bare.repo.folder().join("keys")).unwrap().next().unwrap().unwrap();
    let slot = keys.file_name().into_string().unwrap();
    let bound = format!(
        "{{\"esker:purpose\":\"key-slot\",\"esker:repository\":{},\"esker:slot\":\"{slot}\"}}",
        wrapped.1
    );
    let bound = run("sh", &["-c", &format!("printf %s '{bound}' | base64 -w0")]);
    let asked = json!({"ciphertext": wrapped.0, "associated_data": bound.trim(), "context": bound.trim()});
    let plain =
        bao.done("POST", "transit/decrypt/k", asked)["data"]["plaintext"].as_str().unwrap().to_owned();
    let hex = run("sh", &["-c", &format!("printf %s '{plain}' | base64 -d | od -An -tx1 -v | tr -d ' \\n'")]);
    assert_eq!(hex.trim().len(), 64);
    for secret in [ROOT, &plain, hex.trim()] {
        assert!(!text.contains(secret), "{secret}");
    }
    // docs/reader.py reads it with what the service unwrapped.
    fs::write(bare.repo.path("unwrapped"), hex.trim()).unwrap();
    let mut reader = Command::new(server("venv/bin/python"));
    reader.arg(source_root().join("docs/reader.py")).arg(bare.repo.folder());
    reader.arg(format!("kms:{}", bare.repo.path("unwrapped").display())).arg("list");
    let output = reader.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
