//! Flags about the way to stores, and flags of restic's that have nothing to do here.

use crate::durations::{self, Wait};
use crate::exit::Failure;
use crate::small;
use chunkstore::storage::HttpOptions;
use chunkstore::storage::limit::Rates;
use std::path::PathBuf;

/// How stores are reached.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Network {
    /// Write to the repository no faster than this many KiB a second
    #[arg(long, env = "ESKER_LIMIT_UPLOAD", global = true, value_name = "KIB")]
    limit_upload: Option<u64>,
    /// Read from the repository no faster than this many KiB a second
    #[arg(long, env = "ESKER_LIMIT_DOWNLOAD", global = true, value_name = "KIB")]
    limit_download: Option<u64>,
    /// Of stores over HTTPS: also trust these authorities (PEM)
    #[arg(long, env = "ESKER_CACERT", global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Of stores over HTTPS: accept any certificate. An attacker on the network can then see names and sizes
    /// and discard data, but not read it
    #[arg(long, global = true)]
    insecure_tls: bool,
    /// User agent of requests to stores
    #[arg(long, global = true, value_name = "TEXT")]
    http_user_agent: Option<String>,
    /// Longest time without any data to or from a store, such as 5m; the same as -o s3.timeout=TIME
    #[arg(long, global = true, value_name = "TIME")]
    stuck_request_timeout: Option<Wait>,
}

/// What restic needs and esker does not: taken, so that scripts need not change.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Unneeded {
    /// Nothing to do: esker uses no locks
    #[arg(long, global = true)]
    no_lock: bool,
    /// Nothing to do: esker uses no locks
    #[arg(long, global = true, value_parser = durations::seconds, value_name = "TIME")]
    retry_lock: Option<u64>,
    /// Nothing to do: esker tries all key slots
    #[arg(long, global = true, value_name = "KEY")]
    key_hint: Option<String>,
    /// Nothing to do: esker does not open packs again before it uploads them
    #[arg(long, global = true)]
    no_extra_verify: bool,
    /// Nothing to do: the cache is one index per repository; its folder can be deleted at any time
    #[arg(long, global = true)]
    cleanup_cache: bool,
}

impl Network {
    /// The limits of the flags, where they are given; else those of the configuration.
    pub(crate) fn rates(&self, rates: Rates) -> Rates {
        let bytes = |kib: u64| kib.saturating_mul(1024);
        // 0 is restic's word for no limit.
        Rates {
            up: self.limit_upload.map(bytes).or(rates.up).filter(|rate| *rate > 0),
            down: self.limit_download.map(bytes).or(rates.down).filter(|rate| *rate > 0),
        }
    }

    /// Adds what the flags say.
    pub(crate) fn apply(&self, http: &mut HttpOptions) -> Result<(), Failure> {
        if let Some(file) = &self.cacert {
            http.authorities = small::read(file, small::DOCUMENT)?;
            if !http.authorities.windows(10).any(|window| window == b"-----BEGIN") {
                return Err(Failure::new(format!("{} holds no certificate in PEM", file.display())));
            }
        }
        http.any_certificate |= self.insecure_tls;
        if let Some(agent) = &self.http_user_agent {
            http.user_agent.clone_from(agent);
        }
        if let Some(wait) = self.stuck_request_timeout {
            http.timeout_s = wait.get();
        }
        Ok(())
    }
}
