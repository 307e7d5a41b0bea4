//! Key services: how they are named, and who we are for each of them. What proves that comes from where the services' own tools look
//! for it.

use crate::durations;
use crate::exit::Failure;
use crate::secrets::Secret;
use crate::variables::{environment, environment_path};
use crate::{passwords, places, small, user};
use chunkstore::env::SystemEnv;
use chunkstore::storage::HttpOptions;
use keyservices::{
    Address, Aws, AzureVault, Cache, CacheFolder, KeyService, Reach, Refusal, ServiceSecret, Transit,
    TransitLogin,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The options that name what else opens a repository.
const OTHERS: [&str; 6] =
    ["password_file", "password_command", "insecure_no_password", "key_file", "shares", "recovery"];

/// Seconds to wait for a key service, unless `-o kms.timeout` says otherwise.
const TIMEOUT_S: u64 = 10;
/// Flags about key services.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Flags {
    /// Open the repository with a key service that unwraps the secret of a key slot: aws-kms://REGION/KEY,
    /// vault://HOST:PORT/MOUNT/KEY or azure-kv://VAULT.vault.azure.net/KEY; docs/keys.md [env: ESKER_KMS]
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = OTHERS)]
    pub(crate) kms: Option<String>,
    /// Keep what the key service unwraps for so long, such as 1h or 7d, and use it while the service is
    /// down; 0 removes all that is kept, whatever opens the repository
    #[arg(long, env = "ESKER_KMS_CACHE", global = true, value_name = "TIME", value_parser = durations::keep)]
    kms_cache: Option<u64>,
}

impl Flags {
    /// For how many seconds what a service unwraps is kept, if that was said.
    pub(crate) fn keep(&self) -> Option<u64> {
        self.kms_cache
    }
}

/// Whether a new slot must be proved to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Must,
    /// This machine may wrap, and not unwrap.
    Without,
}

/// How key services are reached, and what is kept of them.
pub(crate) struct Way {
    pub(crate) http: HttpOptions,
    pub(crate) timeout_s: Option<u64>,
    /// Seconds; 0 to keep nothing.
    pub(crate) keep: Option<u64>,
}

/// The key service at a URL that the user named, as the secret of key slots. It is not asked for anything yet.
pub(crate) fn named(url: &str, way: Way, proof: Proof) -> Result<Secret, Failure> {
    let http = HttpOptions {
        stop: small::stop(),
        // That is of stores only: who could pretend to be a key service would have what proves who we are.
        any_certificate: false,
        ..way.http
    };
    let timeout = Duration::from_secs(way.timeout_s.unwrap_or(TIMEOUT_S));
    let reach = Reach { authorities: http.authorities.clone(), timeout, stop: small::stop() };
    let mut address = Address::parse(url).map_err(Failure::usage)?;
    let service = service(&mut address, http, reach)?;
    let secret = ServiceSecret::new(service, address, cache(way.keep)?, Arc::new(SystemEnv));
    Ok(Secret::Kms(Arc::new(match proof {
        Proof::Must => secret,
        Proof::Without => secret.unproved(),
    })))
}

fn service(
    address: &mut Address,
    http: HttpOptions,
    mut reach: Reach,
) -> Result<Box<dyn KeyService>, Failure> {
    let shown = address.to_string();
    let failed = move |refusal: Refusal| Failure::new(format!("{shown}: {refusal}"));
    Ok(match address {
        Address::Aws { region, key, endpoint } => {
            let login = places::amazon(region, http, "AWS KMS")?;
            Box::new(Aws::new(region, key, endpoint.as_deref(), &login, &reach).map_err(failed)?)
        }
        Address::Transit { origin, mount, key, namespace } => {
            if namespace.is_empty() {
                let named = either(["BAO_NAMESPACE", "VAULT_NAMESPACE"]).unwrap_or_default();
                named.trim_matches('/').clone_into(namespace);
            }
            if let Some(file) = ["BAO_CACERT", "VAULT_CACERT"].into_iter().find_map(environment_path) {
                reach.authorities.extend_from_slice(b"\n");
                reach.authorities.extend(small::read(&file, small::DOCUMENT)?);
            }
            let login = TransitLogin { token: transit_token()? };
            Box::new(Transit::new([origin, mount, key, namespace], login, &reach).map_err(failed)?)
        }
        Address::Azure { host, key, version } => {
            Box::new(AzureVault::new([host, key, version], places::azure_login()?, &reach).map_err(failed)?)
        }
    })
}

fn either(names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(environment)
}

/// The token for OpenBao and Vault: of a file that is named, of a variable, or of the last login of their own tools.
fn transit_token() -> Result<Zeroizing<String>, Failure> {
    let text = |line: Zeroizing<Vec<u8>>| {
        let line = std::str::from_utf8(&line).map(|line| Zeroizing::new(line.trim().to_owned()));
        line.map_err(|_| Failure::new("the token for the key service is not UTF-8"))
    };
    if let Some(file) = environment_path("ESKER_KMS_TOKEN_FILE") {
        return text(passwords::first_line(small::secret(&file)?));
    }
    if let Some(token) = either(["BAO_TOKEN", "VAULT_TOKEN"]) {
        return Ok(Zeroizing::new(token));
    }
    let kept = user::home_folder().map(|home| home.join(".vault-token")).filter(|file| file.is_file());
    kept.map_or(Ok(Zeroizing::default()), |file| text(passwords::first_line(small::secret(&file)?)))
}

/// Where secrets are kept: a folder of the user's that the system empties. None, if there is none such.
fn kept_folder() -> Option<PathBuf> {
    let uid = rustix::process::getuid();
    // Of several, the first one; a service manager names them for one service.
    let of_service =
        environment("RUNTIME_DIRECTORY").and_then(|all| all.split(':').next().map(PathBuf::from));
    let of_user = || environment_path("XDG_RUNTIME_DIR");
    let by_number =
        || Some(PathBuf::from(format!("/run/user/{}", uid.as_raw()))).filter(|folder| folder.is_dir());
    let of_root = || uid.is_root().then(|| PathBuf::from("/run"));
    let folder = of_service.or_else(of_user).or_else(by_number).or_else(of_root)?;
    folder.is_absolute().then(|| folder.join("esker-kms"))
}

fn cache(keep: Option<u64>) -> Result<Option<Cache>, Failure> {
    let Some(seconds) = keep.filter(|seconds| *seconds > 0) else { return Ok(None) };
    let Some(folder) = kept_folder() else {
        tracing::warn!(
            target: "key",
            "the secret of the key service is not kept: there is no runtime folder of this user (XDG_RUNTIME_DIR; a service \
             takes RuntimeDirectory=)"
        );
        return Ok(None);
    };
    Ok(Some(Cache::new(CacheFolder::new(folder), Duration::from_secs(seconds))))
}

/// Removes what is kept of all key services, if that is what `keep` says; whatever opens the repository.
pub(crate) fn clear(keep: Option<u64>) -> Result<(), Failure> {
    match (keep, kept_folder()) {
        (Some(0), Some(folder)) => CacheFolder::new(folder).clear().map_err(Failure::new),
        _ => Ok(()),
    }
}
