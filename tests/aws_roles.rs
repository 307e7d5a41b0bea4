//! Roles of AWS: a store over TLS, and plain HTTP for who the machine is. moto's S3, STS and KMS, which take nothing but live
//! credentials of the double beside them (tests/servers/aws.py); the official client judges that one.

use crate::harness::{Process, Repo, certificates, expect, free_port, noise, server, source_root, wait_for};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const ROLE: &str = "arn:aws:iam::123456789012:role/backup";

/// The servers, and where their certificates and tokens are.
struct Cloud {
    _process: Process,
    ground: Repo,
    port: u16,
    metadata: u16,
}

impl Cloud {
    /// Credentials live so many seconds.
    fn start(life: u32) -> Self {
        let ground = Repo::empty();
        certificates(&ground);
        std::fs::write(ground.path("web"), "sesame-web\n").unwrap();
        std::fs::write(ground.path("pod"), "sesame-pod\n").unwrap();
        let (port, metadata) = (free_port(), free_port());
        let mut command = Command::new(server("stores/bin/python"));
        command.arg(source_root().join("tests/servers/aws.py")).current_dir(ground.dir.path());
        command.env("PORT", port.to_string()).env("METADATA_PORT", metadata.to_string());
        command.env("CERT", "server.pem").env("KEY", "server.key").env("LOG", "log");
        command.env("LIFE", life.to_string()).env("WEB_TOKEN", "web").env("POD_TOKEN", "pod");
        let cloud = Self { _process: Process::start(&mut command), ground, port, metadata };
        wait_for("moto", 60, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        cloud
    }

    fn path(&self, name: &str) -> String {
        self.ground.path(name).display().to_string()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.metadata)
    }

    fn instance(&self) -> Vec<(String, String)> {
        variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.url(""))])
    }

    fn pod(&self) -> Vec<(String, String)> {
        variables(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &self.url("/pod")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &self.path("pod")),
        ])
    }

    fn web(&self) -> Vec<(String, String)> {
        variables(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &self.path("web")),
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_ENDPOINT_URL_STS", &format!("https://127.0.0.1:{}", self.port)),
        ])
    }

    fn place(&self) -> String {
        format!("s3:https://127.0.0.1:{}/backup/main", self.port)
    }

    /// A fresh repository that is reached with these variables.
    fn repo(&self, with: Vec<(String, String)>) -> Repo {
        let mut all = with;
        // Whoever asked the metadata service by it would get nothing.
        all.extend(variables(&[
            ("ESKER_CACERT", &self.path("ca.pem")),
            ("HTTP_PROXY", "http://127.0.0.1:1"),
        ]));
        Repo::at(self.place(), all)
    }

    /// Tries to look into the repository with other variables; exit code, and what was said.
    fn looks(&self, with: &[(String, String)]) -> (Option<i32>, String) {
        let mut command = self.ground.command(["-r", &self.place(), "snapshots"]);
        let output =
            command.env("ESKER_CACERT", self.path("ca.pem")).envs(with.iter().cloned()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What was asked, a line each, since the last call.
    fn asked(&self) -> Vec<String> {
        let log = self.ground.path("log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        std::fs::write(log, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Runs lines with the official client.
    fn python(&self, lines: &str, with: &[(String, String)]) -> String {
        let program = format!(
            "import boto3\nto = dict(endpoint_url='https://127.0.0.1:{}', region_name='us-east-1')\n{lines}\n",
            self.port
        );
        let mut command = Command::new(server("stores/bin/python"));
        command.args(["-c", &program]).env_clear().env("HOME", self.ground.dir.path());
        command.env("AWS_CA_BUNDLE", self.path("ca.pem")).env("AWS_REGION", "us-east-1");
        expect(&command.envs(with.iter().cloned()).output().unwrap(), 0).trim().to_owned()
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Backs up, checks and restores.
fn serves(repo: &Repo) {
    let data = noise(7, 3_000_000);
    std::fs::write(repo.path("file"), &data).unwrap();
    repo.ok(["backup", "file"]);
    repo.ok(["check", "--read-data"]);
    repo.ok(["restore", "latest", "--target", "out"]);
    let mut found = vec![repo.path("out")];
    let restored = std::iter::from_fn(|| {
        let path = found.pop()?;
        if path.is_dir() {
            found.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        Some(path)
    })
    .find(|path| path.is_file());
    assert!(std::fs::read(restored.unwrap()).unwrap() == data);
}

fn is_prefixed<'a>(lines: &'a [String], prefix: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(prefix)).collect()
}

#[test]
fn the_official_client_takes_the_double_for_aws() {
    let cloud = Cloud::start(3600);
    let lines = "s3 = boto3.client('s3', **to)\ns3.put_object(Bucket='backup', Key='a b/c', Body=b'x')\n\
                 print(s3.get_object(Bucket='backup', Key='a b/c')['Body'].read().decode())";
    let task = variables(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &cloud.url("/v2/credentials/task"))]);
    for way in [cloud.instance(), cloud.pod(), task, cloud.web()] {
        // It takes no token that ends with a line.
        std::fs::write(cloud.ground.path("pod"), "sesame-pod").unwrap();
        assert_eq!(cloud.python(lines, &way), "x");
    }
}

/// The store's client speaks TLS only, and who we are is told over plain HTTP: each has a client of its own.
#[test]
fn an_instance_role_opens_a_store_over_tls() {
    let cloud = Cloud::start(3600);
    let repo = cloud.repo(cloud.instance());
    serves(&repo);
    let asked = cloud.asked();
    assert!(asked.contains(&"metadata PUT /latest/api/token".to_owned()), "{asked:?}");
    let commands = is_prefixed(&asked, "issued instance ").len();
    // Once for each command, not for each request.
    assert!((4..=8).contains(&commands), "{commands} {asked:?}");
    assert!(is_prefixed(&asked, "s3 ").len() > 3 * commands, "{asked:?}");
}

#[test]
fn a_container_s_role_opens_it_with_and_without_a_token() {
    let cloud = Cloud::start(3600);
    let task = variables(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &cloud.url("/v2/credentials/task"))]);
    serves(&cloud.repo(task));
    let pod = cloud.pod();
    assert_eq!(cloud.looks(&pod).0, Some(0));
    // Kubernetes writes it anew.
    let token = cloud.ground.path("pod");
    std::fs::write(&token, "sesame-of-tomorrow").unwrap();
    assert_eq!(cloud.looks(&pod).0, Some(0));
    let by_hand = |value: &str| {
        variables(&[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &cloud.url("/pod")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", value),
        ])
    };
    assert_eq!(cloud.looks(&by_hand("sesame-of-tomorrow")).0, Some(0));
    let full = |url: &str| variables(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)]);
    let relative = |path: &str| variables(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", path)]);
    let mut gone = pod;
    gone.extend(variables(&[("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &cloud.path("gone"))]));
    for (with, words) in [
        (by_hand("sesame-wrong"), "no such pod"),
        (gone, "gone: No such file"),
        (full(&cloud.url("/elsewhere")), "it answers 302"),
        (full("http://169.254.170.2.example.org/x"), "is to begin with https://"),
        (relative(".example.org/"), "is to begin with '/'"),
    ] {
        let (code, said) = cloud.looks(&with);
        assert!(
            code == Some(1) && said.contains("no credentials for S3: ") && said.contains(words),
            "{said}"
        );
        assert!(!said.contains("sesame"), "{said}");
    }
}

#[test]
fn a_token_of_another_issuer_stands_for_a_role() {
    let cloud = Cloud::start(3600);
    let mut web = cloud.web();
    serves(&cloud.repo(web.clone()));
    let asked = cloud.asked();
    // The token is not in the URL, which servers log.
    let calls = is_prefixed(&asked, "sts ");
    assert!(!calls.is_empty() && calls.iter().all(|call| *call == format!("{ROLE} esker /")), "{calls:?}");
    assert!(is_prefixed(&asked, "metadata ").is_empty(), "{asked:?}");
    web.extend(variables(&[("AWS_ROLE_SESSION_NAME", "nightly")]));
    // It goes before the profile, and after keys.
    std::fs::create_dir(cloud.ground.path(".aws")).unwrap();
    let profile =
        "[default]\naws_access_key_id = AKWRONG\naws_secret_access_key = x\nregion = eu-central-1\n";
    std::fs::write(cloud.ground.path(".aws/credentials"), profile).unwrap();
    assert_eq!(cloud.looks(&web).0, Some(0));
    assert_eq!(is_prefixed(&cloud.asked(), "sts "), [format!("{ROLE} nightly /")]);
    let keys = variables(&[("AWS_ACCESS_KEY_ID", "AKWRONG"), ("AWS_SECRET_ACCESS_KEY", "x")]);
    let (code, said) = cloud.looks(&[web.clone(), keys].concat());
    assert!(code == Some(1) && said.contains("does not know this access key"), "{said}");
    let without = |name: &str| web.iter().filter(|(known, _)| known != name).cloned().collect::<Vec<_>>();
    let plain =
        [without("AWS_ENDPOINT_URL_STS"), variables(&[("AWS_ENDPOINT_URL_STS", "http://sts.example.org")])];
    std::fs::write(cloud.ground.path("false"), "sesame-false").unwrap();
    let file = |name: &str| variables(&[("AWS_WEB_IDENTITY_TOKEN_FILE", &cloud.path(name))]);
    for (with, words) in [
        ([web.clone(), file("false")].concat(), "InvalidIdentityToken: No OpenIDConnect provider"),
        ([web.clone(), file("nowhere")].concat(), "nowhere: No such file"),
        (without("AWS_ROLE_ARN"), "AWS_WEB_IDENTITY_TOKEN_FILE is set, but not AWS_ROLE_ARN"),
        (plain.concat(), "AWS_ENDPOINT_URL_STS is to begin with https://"),
    ] {
        let (code, said) = cloud.looks(&with);
        assert!(code == Some(1) && said.contains(words) && !said.contains("sesame"), "{words}: {said}");
    }
}

/// Longer than its credentials live: the store refuses those that have ended.
#[test]
fn credentials_are_renewed_during_a_run() {
    let cloud = Cloud::start(8);
    let repo = cloud.repo(cloud.instance());
    cloud.asked();
    let script = "for n in 1 2 3; do head -c 9000000 /dev/urandom; sleep 6; done";
    repo.ok(["--pack-size", "4", "backup", "--stdin-from-command", "--", "sh", "-c", script]);
    let asked = cloud.asked();
    let used: BTreeSet<&str> = is_prefixed(&asked, "s3 ").into_iter().collect();
    assert!(used.len() >= 3, "{asked:?}");
    repo.ok(["check", "--read-data"]);
}

#[test]
fn who_has_no_credentials_is_told_what_to_set_and_soon() {
    let cloud = Cloud::start(3600);
    let at = |url: &str| variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().map(|address| (address, silent).0).unwrap());
    let mut disabled = cloud.instance();
    disabled.extend(variables(&[("AWS_EC2_METADATA_DISABLED", "TRUE")]));
    for (with, words, seconds) in [
        (disabled, "AWS_EC2_METADATA_DISABLED is true", 2),
        (at("http://127.0.0.1:1"), "this machine's metadata service: cannot connect", 8),
        (at(&silent), "this machine's metadata service: ", 12),
        (at(&cloud.url("/v2")), "this machine's metadata service: it answers 400", 2),
        (at("ftp://127.0.0.1"), "AWS_EC2_METADATA_SERVICE_ENDPOINT is to be http://HOST", 2),
    ] {
        let began = Instant::now();
        let (code, said) = cloud.looks(&with);
        assert!(
            code == Some(1) && said.contains("no credentials for S3: ") && said.contains(words),
            "{said}"
        );
        assert!(began.elapsed() < Duration::from_secs(seconds), "{:?}: {said}", began.elapsed());
        let ways = [
            "AWS_ACCESS_KEY_ID",
            "~/.aws",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        assert!(words.contains("HOST") || ways.iter().all(|way| said.contains(way)), "{said}");
    }
    assert!(is_prefixed(&cloud.asked(), "s3 ").is_empty());
}

/// The same roles, by the same code.
#[test]
fn roles_open_a_slot_of_a_key_service() {
    let cloud = Cloud::start(3600);
    let id = "print(boto3.client('kms', **to).create_key()['KeyMetadata']['KeyId'])";
    let id = cloud.python(id, &cloud.instance());
    let url = format!("aws-kms://us-east-1/{id}?endpoint=https://127.0.0.1:{}", cloud.port);
    let opens = |with: &[(String, String)], args: &[&str]| {
        let mut command = cloud.ground.command(args);
        command.env_remove("ESKER_PASSWORD").env("ESKER_KMS", &url).env("ESKER_CACERT", cloud.path("ca.pem"));
        command.envs(with.iter().cloned()).output().unwrap()
    };
    expect(&opens(&cloud.instance(), &["init"]), 0);
    for way in [cloud.instance(), cloud.pod(), cloud.web()] {
        cloud.asked();
        expect(&opens(&way, &["snapshots"]), 0);
        assert!(!is_prefixed(&cloud.asked(), "kms ").is_empty());
    }
    std::fs::write(cloud.ground.path("false"), "sesame-false").unwrap();
    let file = variables(&[("AWS_WEB_IDENTITY_TOKEN_FILE", &cloud.path("false"))]);
    let gone = variables(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")]);
    for (with, code, words) in [
        ([cloud.web(), file].concat(), 12, "InvalidIdentityToken"),
        (gone, 29, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ] {
        let output = opens(&with, &["snapshots"]);
        expect(&output, code);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words) && !said.contains("sesame"), "{said}");
    }
}
