//! Whether a session is encrypted, and whom it believes: `sslmode` and the certificates, as libpq finds them. Our own
//! sessions and PostgreSQL's programs are told the same.
//! Source: PostgreSQL's documentation, "SSL Support".

use super::conninfo::Settings;
use connector_kit::tls::{Tls, Trust};
use engine::connector::Context;
use std::path::{Path, PathBuf};

/// Whether a session is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// It must be.
    Require,
}

/// All of it.
#[derive(Clone)]
pub(super) struct Security {
    pub(super) encryption: Encryption,
    pub(super) trust: Trust,
    pub(super) tls: Tls,
    /// Authority, certificate and key, for the programs.
    files: [Option<PathBuf>; 3],
}

/// Authorities of the system, where distributions keep them.
const SYSTEM_AUTHORITIES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

impl Security {
    /// What `settings` and `-o tls.…` come to.
    pub(super) fn read(settings: &Settings, options: &Context) -> Result<Self, String> {
        let mode = settings.get("sslmode");
        if mode == Some("disable") {
            let (tls, files) = (Tls::default(), Default::default());
            return Ok(Self { encryption: Encryption::Disable, trust: Trust::Anyone, tls, files });
        }
        let of_home = |name: &str| {
            let path = Path::new(options.environment.get("HOME")?).join(".postgresql").join(name);
            path.exists().then_some(path)
        };
        let mut tls = options.tls.clone();
        let mut files = options.tls_files.clone();
        let given = |name: &str| settings.get(name).map(PathBuf::from);
        let is_system = settings.get("sslrootcert") == Some("system");
        if tls.authorities.is_none() {
            let named = given("sslrootcert")
                .filter(|_| !is_system)
                .or_else(|| of_home("root.crt").filter(|_| !is_system));
            let needs_one = is_system || matches!(mode, Some("verify-ca" | "verify-full"));
            files[0] = match named {
                None if needs_one => Some(system_authorities()?),
                named => named,
            };
            tls.authorities = read(files[0].as_deref())?;
        }
        if tls.certificate.is_none() {
            files[1] = given("sslcert").or_else(|| of_home("postgresql.crt"));
            if files[1].is_some() {
                files[2] = given("sslkey").or_else(|| of_home("postgresql.key"));
                (tls.certificate, tls.key) = (read(files[1].as_deref())?, read(files[2].as_deref())?);
            }
        }
        let has_authority = tls.authorities.is_some();
        // As libpq: with an authority at hand, "require" means that its name counts; the system's are for names only.
        let (encryption, trust) = match mode {
            _ if is_system => match mode {
                None | Some("verify-full") => (Encryption::Require, Trust::Host),
                Some(other) => {
                    return Err(format!("sslrootcert=system needs sslmode=verify-full, not {other}"));
                }
            },
            None | Some("prefer" | "allow") if !has_authority => (Encryption::Prefer, Trust::Anyone),
            None if options.tls.authorities.is_some() => (Encryption::Require, Trust::Host),
            None | Some("prefer" | "allow") => (Encryption::Prefer, Trust::Authority),
            Some("require") if !has_authority => (Encryption::Require, Trust::Anyone),
            Some("require" | "verify-ca") => (Encryption::Require, Trust::Authority),
            Some("verify-full") => (Encryption::Require, Trust::Host),
            Some(other) => return Err(format!("unknown sslmode '{other}'")),
        };
        Ok(Self { encryption, trust, tls, files })
    }

    /// The same for the programs. Where our own session was encrypted, theirs must be, too.
    pub(super) fn environment(&self, is_encrypted: bool) -> Vec<(&'static str, String)> {
        let mode = match (self.encryption, self.trust) {
            (Encryption::Disable, _) => "disable",
            (Encryption::Prefer, _) if is_encrypted => "require",
            (Encryption::Prefer, _) => "prefer",
            (Encryption::Require, Trust::Anyone) => "require",
            (Encryption::Require, Trust::Authority) => "verify-ca",
            (Encryption::Require, Trust::Host) => "verify-full",
        };
        let mut all = vec![("PGSSLMODE", mode.to_owned())];
        for (variable, file) in ["PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"].into_iter().zip(&self.files) {
            // Named even if there is none: else they look in the home folder.
            let file = file.as_deref().unwrap_or(Path::new("/nonexistent"));
            all.push((variable, file.display().to_string()));
        }
        all
    }
}

fn read(file: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
    file.map(|file| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))).transpose()
}

fn system_authorities() -> Result<PathBuf, String> {
    let found = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        "the system has no file of authorities; name one: sslrootcert=FILE or -o tls.ca=FILE".into()
    })
}
