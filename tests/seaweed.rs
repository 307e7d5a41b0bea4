//! SeaweedFS, as one process and as a cluster that loses a part.

use crate::harness::{Process, Repo, free_port, server, wait_for};
use bytes::Bytes;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::{HttpOptions, Storage as _};
use std::process::Command;

const IDENTITY: &str = r#"{"identities":[{"name":"test","credentials":[{"accessKey":"AKTEST","secretKey":"SKTEST"}],"actions":["Admin","Read","Write","List","Tagging"]}]}"#;

/// One process that is all of it.
pub(crate) struct Weed {
    process: Option<Process>,
    dir: tempfile::TempDir,
    port: u16,
}

impl Weed {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let (process, port) = Self::run(dir.path(), IDENTITY);
        let weed = Self { process: Some(process), dir, port };
        wait_until_ready(&weed.options("ready"));
        weed
    }

    /// Starts it again with the same objects, and with one more identity, which may do these actions.
    pub(crate) fn restart_with(&mut self, (key, secret): (&str, &str), actions: &[String]) {
        drop(self.process.take());
        let mut identities: serde_json::Value = serde_json::from_str(IDENTITY).unwrap();
        identities["identities"].as_array_mut().unwrap().push(serde_json::json!({
            "name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions,
        }));
        let (process, port) = Self::run(self.dir.path(), &identities.to_string());
        (self.process, self.port) = (Some(process), port);
        wait_until_ready(&self.options("ready"));
    }

    fn run(dir: &std::path::Path, identities: &str) -> (Process, u16) {
        let config = dir.join("s3.json");
        std::fs::write(&config, identities).unwrap();
        let port = free_port();
        let mut command = Command::new(server("weed"));
        command
            .arg("mini")
            .arg(format!("-dir={}", dir.join("data").display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-s3.port={port}")).arg(format!("-s3.config={}", config.display()));
        // Each of its parts listens on a port of its own and on that plus 10,000.
        for part in ["master", "volume", "filer", "admin"] {
            command.arg(format!("-{part}.port={}", free_port()));
        }
        command.arg(format!("-s3.port.grpc={}", free_port()));
        command.args([
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-bucket=bk1",
        ]);
        (Process::start(command.current_dir(dir)), port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A prefix of its bucket.
    pub(crate) fn options(&self, prefix: &str) -> S3Options {
        options(self.port, prefix)
    }

    /// A fresh repository.
    pub(crate) fn repo(&self, prefix: &str) -> Repo {
        repo_at(self.port, prefix)
    }
}

/// Access to a prefix of the bucket, by way of a port.
pub(crate) fn options(port: u16, prefix: &str) -> S3Options {
    S3Options {
        endpoint: format!("http://127.0.0.1:{port}"),
        bucket: "bk1".into(),
        prefix: prefix.into(),
        access_key_id: "AKTEST".into(),
        secret_access_key: "SKTEST".into(),
        http: HttpOptions { retries: 1, timeout_s: 20, ..Default::default() },
        ..S3Options::default()
    }
}

/// A fresh repository, by way of a port.
pub(crate) fn repo_at(port: u16, prefix: &str) -> Repo {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let environment = vec![pair("AWS_ACCESS_KEY_ID", "AKTEST"), pair("AWS_SECRET_ACCESS_KEY", "SKTEST")];
    Repo::at(format!("s3:http://127.0.0.1:{port}/bk1/{prefix}"), environment)
}

fn wait_until_ready(options: &S3Options) {
    let ready = s3::open(options).unwrap();
    wait_for("seaweedfs", 60, || {
        ready.put("probe", Bytes::from_static(b"x")).is_ok() && ready.get("probe", 1).is_ok()
    });
}

/// A master, three volume servers with two copies of everything among them, a filer and an S3 gateway.
pub(crate) struct Cluster {
    volumes: Vec<Process>,
    _others: Vec<Process>,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder.display().to_string()
        };
        let weed = |part: &str, args: &[String]| {
            let mut command = Command::new(server("weed"));
            command.arg(part).arg("-ip=127.0.0.1").arg("-ip.bind=127.0.0.1");
            Process::start(command.args(args).current_dir(dir.path()))
        };
        let (master, filer, port) = (free_port(), free_port(), free_port());
        let mut others = vec![weed(
            "master",
            &[
                format!("-port={master}"),
                format!("-mdir={}", folder("master")),
                "-defaultReplication=001".into(),
                "-volumeSizeLimitMB=256".into(),
                "-telemetry=false".into(),
            ],
        )];
        let volumes = (0..3)
            .map(|number| {
                weed(
                    "volume",
                    &[
                        format!("-port={}", free_port()),
                        format!("-master=127.0.0.1:{master}"),
                        format!("-dir={}", folder(&format!("volume-{number}"))),
                        "-max=64".into(),
                    ],
                )
            })
            .collect();
        others.push(weed(
            "filer",
            &[
                format!("-port={filer}"),
                format!("-master=127.0.0.1:{master}"),
                format!("-defaultStoreDir={}", folder("filer")),
            ],
        ));
        let config = dir.path().join("s3.json");
        std::fs::write(&config, IDENTITY).unwrap();
        others.push(weed(
            "s3",
            &[
                format!("-port={port}"),
                format!("-filer=127.0.0.1:{filer}"),
                format!("-config={}", config.display()),
            ],
        ));
        let cluster = Self { volumes, _others: others, _dir: dir, port };
        // The bucket is made by the first write.
        wait_until_ready(&options(port, "ready"));
        cluster
    }

    /// A fresh repository.
    pub(crate) fn repo(&self, prefix: &str) -> Repo {
        repo_at(self.port, prefix)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes and objects under a prefix.
    pub(crate) fn size(&self, prefix: &str) -> u64 {
        let storage = s3::open(&options(self.port, prefix)).unwrap();
        let mut bytes = 0;
        for folder in ["packs", "index", "snapshots"] {
            storage.list(folder, &mut |_, len| bytes += len).unwrap();
        }
        bytes
    }

    /// Kills a volume server.
    pub(crate) fn lose_one(&mut self) {
        let Process(child) = &mut self.volumes[1];
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
