//! Azure Blob Storage: Azurite, Microsoft's emulator.

use crate::harness::{Process, Repo, expect, free_port, noise, server, wait_for};
use bytes::Bytes;
use chunkstore::storage::azure::{self, AzureOptions};
use chunkstore::storage::shelf::{Placing, Retrieval, Warmth};
use chunkstore::storage::{ErrorKind, HttpOptions, Storage as _};
use std::process::Command;

/// The emulator's account and key, which are published with it.
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The emulator, with an empty container `backup`.
pub(crate) struct Azurite {
    _process: Process,
    _dir: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Azurite {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(server("azurite/node_modules/.bin/azurite-blob"));
        command
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"])
            .args(["--blobPort", &port.to_string(), "--location"])
            .arg(dir.path());
        let azurite = Self { _process: Process::start(&mut command), _dir: dir, port };
        wait_for("azurite", 60, || azurite.python("service.create_container('backup')").is_some());
        azurite
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// Runs a line with the official client; its output, unless it fails.
    pub(crate) fn python(&self, line: &str) -> Option<String> {
        let program = format!(
            "from azure.storage.blob import BlobServiceClient\nservice = BlobServiceClient({:?}, credential={KEY:?}, \
             retry_total=0)\n{line}\n",
            self.endpoint()
        );
        let output = Command::new(server("stores/bin/python")).args(["-c", &program]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn options(&self, prefix: &str) -> AzureOptions {
        AzureOptions {
            endpoint: self.endpoint(),
            account: ACCOUNT.into(),
            container: "backup".into(),
            prefix: prefix.into(),
            access_key: KEY.into(),
            http: HttpOptions { retries: 1, timeout_s: 20, ..HttpOptions::default() },
            ..AzureOptions::default()
        }
    }

    /// What `esker` needs to get in.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![
            pair("AZURE_STORAGE_ACCOUNT", ACCOUNT),
            pair("AZURE_STORAGE_KEY", KEY),
            pair("AZURE_STORAGE_ENDPOINT", &self.endpoint()),
        ]
    }
}

#[test]
fn the_emulator_conforms() {
    let azurite = Azurite::start();
    let store = azure::open(&azurite.options("conformance")).unwrap();
    chunkstore::storage::conformance::check(&store);
    let store = azure::open(&azurite.options("shelf")).unwrap();
    let shelf = store.shelf().unwrap();
    let body = Bytes::from_static(b"0123456789");
    shelf
        .put_as("packs/a/b", body.clone(), &Placing { class: Some("Archive".into()), locked_until: None })
        .unwrap();
    assert_eq!(shelf.look("packs/a/b").unwrap().warmth, Warmth::Frozen);
    assert_eq!(store.get("packs/a/b", 10).unwrap_err().kind, ErrorKind::Frozen);
    assert!(shelf.thaw("packs/a/b", 1, Retrieval::Standard).unwrap());
    wait_for("rehydrated", 10, || shelf.look("packs/a/b").unwrap().warmth.is_readable());
    assert!(!shelf.thaw("packs/a/b", 1, Retrieval::Standard).unwrap());
    assert_eq!(store.get("packs/a/b", 10).unwrap(), body);
    shelf.put_as("packs/a/c", body, &Placing { class: Some("Cool".into()), locked_until: None }).unwrap();
    assert_eq!(shelf.look("packs/a/c").unwrap().class.as_deref(), Some("Cool"));
}

#[test]
fn a_repository_lies_in_a_container() {
    let azurite = Azurite::start();
    let repo = Repo::at("azure://backup/main".into(), azurite.environment());
    let data = noise(1, 20_000_000);
    expect(&repo.feed(["backup", "--stdin"], &data), 0);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
    repo.ok(["check", "--read-data"]);
    repo.ok(["forget", "latest", "--prune"]);
    let wrong = repo.command(["snapshots"]).env("AZURE_STORAGE_KEY", "bm8=").output().unwrap();
    expect(&wrong, 1);
    let missing = repo.command(["-r", "azure://nowhere/x", "snapshots"]).output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no such container"), "{missing:?}");
}

/// Not every store, and not every signature, knows the call for many. The body of a batch has "DELETE" in it, too.
#[test]
fn blobs_are_removed_one_by_one() {
    let rogue = crate::rogue::Rogue::start(|session| {
        while !session.hear()?.is_empty() {
            session.say("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")?;
        }
        Ok(())
    });
    let store = azure::open(&AzureOptions {
        endpoint: format!("http://127.0.0.1:{}/{ACCOUNT}", rogue.port),
        account: ACCOUNT.into(),
        container: "c".into(),
        access_key: KEY.into(),
        http: HttpOptions { retries: 0, timeout_s: 5, ..HttpOptions::default() },
        ..AzureOptions::default()
    })
    .unwrap();
    store.delete("packs/x").unwrap();
    assert!(rogue.has_heard("packs/x") && !rogue.has_heard("comp=batch"));
}
