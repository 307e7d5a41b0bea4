//! An S3 server with frozen classes: moto, and what tests/servers/glacier.py makes right in it.

use crate::harness::{Process, free_port, server, source_root, wait_for};
use bytes::Bytes;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::shelf::{Placing, Retrieval, Warmth};
use chunkstore::storage::{ErrorKind, HttpOptions, Storage as _};
use std::process::Command;

/// The server, with an empty bucket `cold`.
pub(crate) struct Glacier {
    _process: Process,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Glacier {
    /// Starts it. Thawing takes `restore_seconds`, and a day `day_seconds`.
    pub(crate) fn start(restore_seconds: f64, day_seconds: f64) -> Self {
        Self::start_with(restore_seconds, day_seconds, false)
    }

    fn start_with(restore_seconds: f64, day_seconds: f64, gated: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(server("stores/bin/python"));
        command
            .arg(source_root().join("tests/servers/glacier.py"))
            .env("PORT", port.to_string())
            .env("LOG", dir.path().join("requests"))
            .env("RESTORE_SECONDS", restore_seconds.to_string())
            .env("DAY_SECONDS", day_seconds.to_string());
        if gated {
            command.env("GATE", dir.path().join("gate"));
        }
        let glacier = Self { _process: Process::start(&mut command), dir, port };
        wait_for("moto", 60, || glacier.bucket("cold"));
        glacier
    }

    /// Starts it so that nothing is thawed before [`Glacier::open_gate`].
    pub(crate) fn gated() -> Self {
        Self::start_with(0.0, 60.0, true)
    }

    /// Lets what was asked for be thawed.
    pub(crate) fn open_gate(&self) {
        std::fs::write(self.dir.path().join("gate"), "").unwrap();
    }

    /// Makes a bucket.
    pub(crate) fn bucket(&self, name: &str) -> bool {
        python(self.port, &format!("s3.create_bucket(Bucket={name:?})")).is_some()
    }

    /// What was asked of it since the last call: method, path with query, status, length, class.
    pub(crate) fn requests(&self) -> Vec<[String; 5]> {
        let path = self.dir.path().join("requests");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").unwrap();
        text.lines()
            .map(|line| {
                let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
                words.try_into().unwrap()
            })
            .collect()
    }

    pub(crate) fn options(&self, prefix: &str) -> S3Options {
        S3Options {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            bucket: "cold".into(),
            prefix: prefix.into(),
            access_key_id: "AKTEST".into(),
            secret_access_key: "SKTEST".into(),
            http: HttpOptions { retries: 1, timeout_s: 20, ..HttpOptions::default() },
            ..S3Options::default()
        }
    }
}

/// Runs a line against an S3 server with the official client; its output, unless it fails.
pub(crate) fn python(port: u16, line: &str) -> Option<String> {
    let program = format!(
        "import boto3, botocore\ns3 = boto3.client('s3', endpoint_url='http://127.0.0.1:{port}', region_name='us-east-1', \
         aws_access_key_id='AKTEST', aws_secret_access_key='SKTEST', \
         config=botocore.config.Config(retries={{'max_attempts': 1}}))\n{line}\n"
    );
    let output = Command::new(server("stores/bin/python")).args(["-c", &program]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn frozen_objects_are_thawed_read_and_freeze_again() {
    let glacier = Glacier::start(0.5, 0.5);
    let store = s3::open(&glacier.options("shelf")).unwrap();
    let body = Bytes::from_static(b"0123456789");
    let frozen = Placing { class: Some("GLACIER".into()), locked_until: None };
    store.shelf().unwrap().put_as("packs/a/b", body.clone(), &frozen).unwrap();
    // Again, as after a lost answer: the same bytes are fine, as far as can be seen.
    store.shelf().unwrap().put_as("packs/a/b", body.clone(), &frozen).unwrap();
    let other = store.shelf().unwrap().put_as("packs/a/b", body.slice(..9), &frozen).unwrap_err();
    assert_eq!(other.kind, ErrorKind::Conflict);
    let look = || store.shelf().unwrap().look("packs/a/b").unwrap();
    assert_eq!((look().warmth, look().class.as_deref(), look().len), (Warmth::Frozen, Some("GLACIER"), 10));
    for error in [store.get("packs/a/b", 10).unwrap_err(), store.get_range("packs/a/b", 0, 4).unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::Frozen, "{error:?}");
    }
    let thaw = || store.shelf().unwrap().thaw("packs/a/b", 2, Retrieval::Bulk).unwrap();
    assert!(thaw() && !thaw(), "asked for once");
    assert_eq!(look().warmth, Warmth::Thawing);
    assert_eq!(store.get("packs/a/b", 10).unwrap_err().kind, ErrorKind::Frozen);
    wait_for("thawed", 5, || look().warmth.is_readable());
    assert!(matches!(look().warmth, Warmth::Thawed(Some(until)) if until > 0));
    assert_eq!(store.get("packs/a/b", 10).unwrap(), body);
    wait_for("frozen again", 10, || look().warmth == Warmth::Frozen);
    let hot = Placing { class: Some("STANDARD_IA".into()), locked_until: None };
    store.shelf().unwrap().put_as("packs/a/c", body.clone(), &hot).unwrap();
    assert_eq!(store.shelf().unwrap().look("packs/a/c").unwrap().warmth, Warmth::Hot);
    assert!(store.shelf().unwrap().hazards().unwrap().is_empty());
}

#[test]
fn the_server_conforms() {
    let glacier = Glacier::start(1.0, 1.0);
    chunkstore::storage::conformance::check(&s3::open(&glacier.options("conformance")).unwrap());
}
