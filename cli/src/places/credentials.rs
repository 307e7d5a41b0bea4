//! Whether there are credentials for a store, before anything is asked of it: without them every request would fail for
//! itself, and after many attempts, with a message about a machine that nobody knows.

use crate::exit::Failure;
use chunkstore::storage::azure::AzureOptions;
use chunkstore::storage::s3::S3Options;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

/// Where clouds tell the machines in them who they are (EC2 and Azure: Instance Metadata Service).
const METADATA: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);
/// It is as near as the host of the machine: a second is long.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// Whose metadata service it would be.
#[derive(Clone, Copy)]
enum Cloud {
    Amazon,
    Azure,
}

/// Of a service of AWS.
pub(super) fn of_amazon(options: &S3Options, what: &str) -> Result<(), Failure> {
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    let missing = |why: String| {
        Err(Failure::new(format!(
            "no credentials for {what}: set {id} and {secret}, or a profile in ~/.aws/credentials ({why})"
        )))
    };
    match (options.access_key_id.is_empty(), options.secret_access_key.is_empty()) {
        (false, false) => return Ok(()),
        (false, true) => return missing(format!("there is a key, but no secret: {secret} is not set")),
        (true, false) => return missing(format!("there is a secret, but no key: {id} is not set")),
        (true, true) => {}
    }
    // Whoever sets a variable means it, even if what was to fill it gave nothing.
    let empty: Vec<&str> = [id, secret].into_iter().filter(|name| is_empty(name)).collect();
    if !empty.is_empty() {
        return missing(format!("set, but empty: {}", empty.join(", ")));
    }
    match metadata(Cloud::Amazon) {
        Ok(()) => Ok(()),
        Err(why) => {
            missing(format!("tried: the environment, the profile, this machine's metadata service: {why}"))
        }
    }
}

pub(super) fn of_azure(options: &AzureOptions) -> Result<(), Failure> {
    if !options.access_key.is_empty() || !options.sas.is_empty() {
        return Ok(());
    }
    let (key, signature) = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN");
    let missing = |why: String| {
        Err(Failure::new(format!("no credentials for Azure: set {key} or {signature} ({why})")))
    };
    let names = [key, "AZURE_STORAGE_ACCOUNT_KEY", signature, "AZURE_STORAGE_SAS_KEY"];
    let empty: Vec<&str> = names.into_iter().filter(|name| is_empty(name)).collect();
    if !empty.is_empty() {
        return missing(format!("set, but empty: {}", empty.join(", ")));
    }
    match metadata(Cloud::Azure) {
        Ok(()) => Ok(()),
        Err(why) => missing(format!("tried: the environment, this machine's metadata service: {why}")),
    }
}

fn is_empty(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// Whether this machine's metadata service gives credentials of a cloud; asked once for each.
fn metadata(cloud: Cloud) -> Result<(), String> {
    static AMAZON: OnceLock<Result<(), String>> = OnceLock::new();
    static AZURE: OnceLock<Result<(), String>> = OnceLock::new();
    match cloud {
        Cloud::Amazon => AMAZON.get_or_init(amazon_role).clone(),
        Cloud::Azure => AZURE.get_or_init(azure_identity).clone(),
    }
}

/// "Use IMDSv2" and "Retrieve security credentials from instance metadata", Amazon EC2 user guide.
fn amazon_role() -> Result<(), String> {
    let token = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")?;
    let header = format!("X-aws-ec2-metadata-token: {}", token.trim());
    let role = ask("GET", "/latest/meta-data/iam/security-credentials/", &header)?;
    if role.trim().is_empty() { Err("it has no role".into()) } else { Ok(()) }
}

/// "Azure Instance Metadata Service for virtual machines", learn.microsoft.com.
fn azure_identity() -> Result<(), String> {
    let path =
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
    ask("GET", path, "Metadata: true").map(drop)
}

/// One request, without whatever proxy the environment names; returns the body of an answer with status 200.
fn ask(method: &str, path: &str, header: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&METADATA, METADATA_WAIT).map_err(failed)?;
    stream.set_read_timeout(Some(METADATA_WAIT)).map_err(failed)?;
    let lines = [
        format!("{method} {path} HTTP/1.0").as_str(),
        format!("Host: {}", METADATA.ip()).as_str(),
        "Content-Length: 0",
        header,
        "",
        "",
    ]
    .join("\r\n");
    stream.write_all(lines.as_bytes()).map_err(failed)?;
    let mut answer = vec![];
    stream.take(64 << 10).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split_ascii_whitespace().nth(1).unwrap_or("nothing");
    if status != "200" {
        return Err(format!("it answers {status}"));
    }
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
