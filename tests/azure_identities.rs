//! Identities of Azure: Azurite over TLS, which takes bearer's tokens, and a double of what gives them to machines and applications
//! (tests/servers/azure_identity.py).

use crate::azurite::{ACCOUNT, KEY};
use crate::harness::{Process, Repo, certificates, expect, free_port, noise, server, source_root, wait_for};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

type Variables = Vec<(String, String)>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The servers, and where their certificates and tokens are.
struct Cloud {
    _processes: [Process; 2],
    ground: Repo,
    blobs: u16,
    tenant: u16,
    machine: u16,
}

impl Cloud {
    /// Tokens live so many seconds.
    fn start(life: u32) -> Self {
        let ground = Repo::empty();
        certificates(&ground);
        std::fs::create_dir(ground.path("blobs")).unwrap();
        std::fs::write(ground.path("federated"), "sesame-federated\n").unwrap();
        let (blobs, tenant, machine) = (free_port(), free_port(), free_port());
        let mut azurite = Command::new(server("azurite/node_modules/.bin/azurite-blob"));
        azurite.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
        azurite.args([
            "--oauth",
            "basic",
            "--cert",
            "server.pem",
            "--key",
            "server.key",
            "--location",
            "blobs",
        ]);
        azurite.args(["--blobPort", &blobs.to_string()]).current_dir(ground.dir.path());
        let mut double = Command::new(server("stores/bin/python"));
        double.arg(source_root().join("tests/servers/azure_identity.py")).current_dir(ground.dir.path());
        double.env("PORT", tenant.to_string()).env("METADATA_PORT", machine.to_string());
        double.env("CERT", "server.pem").env("KEY", "server.key").env("LOG", "log");
        double.env("LIFE", life.to_string()).env("SECRET", "sesame-secret").env("HEADER", "sesame-header");
        double.env("FEDERATED", "federated");
        let processes = [Process::start(&mut azurite), Process::start(&mut double)];
        let cloud = Self { _processes: processes, ground, blobs, tenant, machine };
        wait_for("the double", 60, || TcpStream::connect(("127.0.0.1", machine)).is_ok());
        wait_for("azurite", 60, || cloud.makes_container());
        cloud
    }

    /// Makes the container `backup` with the official client and the account's key.
    fn makes_container(&self) -> bool {
        let program = format!(
            "from azure.storage.blob import BlobServiceClient\nBlobServiceClient({:?}, credential={KEY:?}, retry_total=0, \
             connection_verify={:?}).create_container('backup')",
            self.endpoint(),
            self.path("ca.pem")
        );
        Command::new(server("stores/bin/python")).args(["-c", &program]).output().unwrap().status.success()
    }

    fn path(&self, name: &str) -> String {
        self.ground.path(name).display().to_string()
    }

    fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}/{ACCOUNT}", self.blobs)
    }

    fn machine(&self) -> Variables {
        let url = format!("http://127.0.0.1:{}", self.machine);
        // Whoever asked the metadata service by it would get nothing.
        variables(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url), ("HTTP_PROXY", "http://127.0.0.1:1")])
    }

    fn app_service(&self) -> Variables {
        let url = format!("http://127.0.0.1:{}/msi/token", self.machine);
        variables(&[("IDENTITY_ENDPOINT", &url), ("IDENTITY_HEADER", "sesame-header")])
    }

    fn application(&self, name: &str, value: &str) -> Variables {
        variables(&[
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "app"),
            ("AZURE_AUTHORITY_HOST", &format!("https://127.0.0.1:{}", self.tenant)),
            (name, value),
        ])
    }

    fn common(&self) -> Variables {
        variables(&[
            ("AZURE_STORAGE_ACCOUNT", ACCOUNT),
            ("AZURE_STORAGE_ENDPOINT", &self.endpoint()),
            ("ESKER_CACERT", &self.path("ca.pem")),
        ])
    }

    fn repo(&self, with: Variables) -> Repo {
        Repo::at("azure://backup/main".into(), [self.common(), with].concat())
    }

    /// Tries to look into the repository; exit code, and what was said.
    fn looks(&self, with: &[(String, String)], args: &[&str]) -> (Option<i32>, String) {
        let mut command = self.ground.command([&["-r", "azure://backup/main"], args].concat());
        let output = command.envs(self.common()).envs(with.iter().cloned()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What was asked, a line each, since the last call.
    fn asked(&self) -> Vec<String> {
        let log = self.ground.path("log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        std::fs::write(log, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_managed_identity_opens_a_store_over_tls() {
    let cloud = Cloud::start(3600);
    let repo = cloud.repo(cloud.machine());
    let data = noise(3, 3_000_000);
    expect(&repo.feed(["backup", "--stdin"], &data), 0);
    assert!(repo.run(["dump", "latest", "stdin"]).stdout == data);
    repo.ok(["check", "--read-data"]);
    // Once for each command, not for each request.
    let asked = cloud.asked();
    assert!((4..=6).contains(&asked.len()), "{asked:?}");
    assert!(asked.iter().all(|line| line == "machine /metadata/identity/oauth2/token -"), "{asked:?}");
    // One of several identities.
    let named = [cloud.machine(), variables(&[("AZURE_CLIENT_ID", "app")])].concat();
    assert_eq!(cloud.looks(&named, &["snapshots"]).0, Some(0));
    assert_eq!(cloud.asked(), ["machine /metadata/identity/oauth2/token app"]);
    let other = [cloud.machine(), variables(&[("AZURE_CLIENT_ID", "other")])].concat();
    let (code, said) = cloud.looks(&other, &["snapshots"]);
    assert!(code == Some(1) && said.contains("Identity not found"), "{said}");
}

#[test]
fn applications_and_app_service_open_it_in_the_order_of_azure_s_own_tools() {
    let cloud = Cloud::start(3600);
    cloud.repo(cloud.application("AZURE_CLIENT_SECRET", "sesame-secret"));
    let federated = cloud.application("AZURE_FEDERATED_TOKEN_FILE", &cloud.path("federated"));
    for (with, asked) in [
        (cloud.app_service(), "machine /msi/token -"),
        ([cloud.app_service(), federated.clone()].concat(), "tenant /tenant/oauth2/v2.0/token app"),
    ] {
        cloud.asked();
        let (code, said) = cloud.looks(&with, &["snapshots"]);
        assert_eq!((code, &*said), (Some(0), ""));
        assert_eq!(cloud.asked(), [asked]);
    }
    // The secret goes before the token.
    let wrong = variables(&[("AZURE_CLIENT_SECRET", "sesame-wrong")]);
    let header = variables(&[("IDENTITY_HEADER", "sesame-wrong")]);
    let file = variables(&[("AZURE_FEDERATED_TOKEN_FILE", "nowhere")]);
    let alone = variables(&[("AZURE_CLIENT_SECRET", "sesame-secret")]);
    let plain = variables(&[("AZURE_AUTHORITY_HOST", "http://login.example.org")]);
    for (with, words) in [
        ([federated.clone(), wrong].concat(), "AADSTS7000215: Invalid client secret"),
        ([cloud.app_service(), header].concat(), "it answers 401 (it says: unauthorized)"),
        ([federated.clone(), file].concat(), "nowhere: No such file"),
        (alone, "AZURE_CLIENT_SECRET is set, but not AZURE_TENANT_ID"),
        ([federated, plain].concat(), "AZURE_AUTHORITY_HOST is to begin with https://"),
        (variables(&[("IDENTITY_ENDPOINT", "http://localhost:1")]), "neither IDENTITY_HEADER"),
    ] {
        let (code, said) = cloud.looks(&with, &["snapshots"]);
        assert!(code == Some(1) && said.contains(words) && !said.contains("sesame"), "{words}: {said}");
    }
}

/// Longer than its token lives: the store refuses one that has ended.
#[test]
fn a_token_is_renewed_during_a_run() {
    let cloud = Cloud::start(8);
    let repo = cloud.repo(cloud.machine());
    cloud.asked();
    let script = "for n in 1 2 3; do head -c 9000000 /dev/urandom; sleep 6; done";
    repo.ok(["--pack-size", "4", "backup", "--stdin-from-command", "--", "sh", "-c", script]);
    assert!(cloud.asked().len() >= 3);
    repo.ok(["check", "--read-data"]);
}

/// Whoever sees a token can use it.
#[test]
fn a_token_goes_to_a_store_that_proved_itself_and_nowhere_else() {
    let cloud = Cloud::start(3600);
    let machine = cloud.machine();
    let elsewhere = |url: &str| [machine.clone(), variables(&[("AZURE_STORAGE_ENDPOINT", url)])].concat();
    let (code, said) = cloud.looks(&elsewhere("http://blobs.example.org/account"), &["snapshots"]);
    assert!(code == Some(1) && said.contains("a token of Azure goes only over https"), "{said}");
    let (code, said) = cloud.looks(&elsewhere("https://192.0.2.1/account"), &["--insecure-tls", "snapshots"]);
    assert!(code == Some(1) && said.contains("whose certificate is verified"), "{said}");
    let gone = variables(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")]);
    let began = Instant::now();
    let (code, said) = cloud.looks(&gone, &["snapshots"]);
    assert!(code == Some(1) && began.elapsed() < Duration::from_secs(8), "{said}");
    let ways =
        ["AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"];
    let told = "this machine's metadata service: cannot connect";
    assert!(said.contains(told) && ways.iter().all(|way| said.contains(way)), "{said}");
}
