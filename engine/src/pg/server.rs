//! Where a PostgreSQL server is and how to get in. What a URL does not say comes from the environment that libpq
//! knows, and from its password file, so that no password need stand in a URL.
//! Source: PostgreSQL's documentation, "Connection Strings", "Environment Variables", "The Password File".

use crate::source::tls::{Tls, Trust};
use crate::source::{SourceError, SourceErrorKind, UrlOptions, password, without_password};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or number, by TCP.
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

/// Whether a session is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// It must be.
    Require,
}

/// A server.
#[derive(Clone)]
pub struct Server {
    /// Where it is.
    pub host: Host,
    /// Its port, which names its socket, too.
    pub port: u16,
    /// Who we are.
    pub user: String,
    /// The URL's database, if it names one.
    pub database: Option<String>,
    /// The URL without the password.
    pub shown: String,
    pub(super) password: Option<String>,
    pub(super) encryption: Encryption,
    pub(super) trust: Trust,
    pub(super) tls: Tls,
    /// For the programs.
    environment: Vec<(&'static str, String)>,
}

/// Parameters of a URL, and the variables they stand for.
const PARAMETERS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
];

/// Where servers put their sockets.
const SOCKETS: &[&str] = &["/var/run/postgresql", "/tmp"];

impl Server {
    /// Reads `postgres://[user[:password]@][host[:port]][/database][?sslmode=…]`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let fail = |why: String| SourceError::new(SourceErrorKind::Unavailable, &shown, why);
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut given: BTreeMap<&'static str, String> = BTreeMap::new();
        if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
            given.insert("PGHOST", decoded(host).trim_matches(['[', ']']).to_owned());
        }
        if let Some(port) = url.port() {
            given.insert("PGPORT", port.to_string());
        }
        if !url.username().is_empty() {
            given.insert("PGUSER", decoded(url.username()));
        }
        if let Some(password) = password(url) {
            given.insert("PGPASSWORD", password);
        }
        for (key, value) in url.query_pairs() {
            let (_, variable) = PARAMETERS
                .iter()
                .find(|(name, _)| *name == key)
                .ok_or_else(|| fail(format!("unknown parameter '{key}' in the URL")))?;
            given.insert(variable, value.into_owned());
        }
        let get = |name: &str| given.get(name).or_else(|| options.environment.get(name)).cloned();

        let port = get("PGPORT")
            .map_or(Ok(5432), |text| text.parse().map_err(|_| fail(format!("'{text}' is no port"))))?;
        let host = match get("PGHOST") {
            Some(host) if host.starts_with('/') => Host::Unix(host.into()),
            Some(host) => Host::Tcp(host),
            None => SOCKETS
                .iter()
                .find(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists())
                .map_or_else(|| Host::Tcp("localhost".into()), |folder| Host::Unix(folder.into())),
        };
        let user = get("PGUSER")
            .or_else(|| get("USER"))
            .or_else(|| get("LOGNAME"))
            .unwrap_or_else(|| "postgres".into());
        let database = Some(decoded(url.path().trim_matches('/'))).filter(|name| !name.is_empty());
        let (encryption, tls, trust) = encryption(&get, options, &host).map_err(fail)?;
        let mut server = Self {
            host,
            port,
            user,
            database,
            password: get("PGPASSWORD"),
            encryption,
            trust,
            tls,
            environment: vec![],
            shown: shown.clone(),
        };
        if server.password.is_none() {
            server.password = server.password_from_file(&get).map_err(fail)?;
        }
        // Whatever we take is what the programs take; the password goes to them by their environment, never on
        // a command line.
        server.environment = given.into_iter().collect();
        server.environment.push(("PGHOST", server.host_name()));
        server.environment.push(("PGPORT", port.to_string()));
        server.environment.push(("PGUSER", server.user.clone()));
        server.environment.push(("PGCONNECT_TIMEOUT", "10".into()));
        server.environment.push(("PGAPPNAME", "esker".into()));
        for (variable, file) in ["PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"].iter().zip(&options.tls_files) {
            if let Some(file) = file {
                server.environment.push((variable, file.display().to_string()));
            }
        }
        Ok(server)
    }

    /// The host's name, number or socket folder.
    #[must_use]
    pub fn host_name(&self) -> String {
        match &self.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        }
    }

    /// Its place as a name in a snapshot: `host:port`.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.host {
            Host::Tcp(name) => format!("{name}:{}", self.port),
            Host::Unix(_) => format!("local:{}", self.port),
        }
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }

    /// Variables by which libpq's programs find it and get in.
    #[must_use]
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// The password file's line for us. It is passed over, as libpq does, when others can read it.
    fn password_from_file(&self, get: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
        let path = match (get("PGPASSFILE"), get("HOME")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) => Path::new(&home).join(".pgpass"),
            (None, None) => return Ok(None),
        };
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(format!("{} can be read by others; chmod 600 it", path.display()));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let host = match &self.host {
            Host::Unix(folder) if SOCKETS.contains(&folder.to_str().unwrap_or_default()) => {
                "localhost".into()
            }
            _ => self.host_name(),
        };
        let database = self.database.as_deref().unwrap_or("postgres");
        Ok(text
            .lines()
            .find_map(|line| password_of(line, &[&host, &self.port.to_string(), database, &self.user])))
    }
}

/// The password of a line `host:port:database:user:password`, if its fields fit; `*` fits everything, and `\`
/// takes `:` and itself out of their meaning.
fn password_of(line: &str, wanted: &[&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => fields.last_mut()?.extend(characters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            other => fields.last_mut()?.push(other),
        }
    }
    let password = fields.pop().filter(|_| fields.len() == 4)?;
    fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted).then_some(password)
}

/// What `sslmode` and the certificates come to.
fn encryption(
    get: &dyn Fn(&str) -> Option<String>,
    options: &UrlOptions,
    host: &Host,
) -> Result<(Encryption, Tls, Trust), String> {
    let mut tls = options.tls.clone();
    let read = |name: &str| {
        get(name).map(|file| std::fs::read(&file).map_err(|error| format!("{file}: {error}"))).transpose()
    };
    if tls.authorities.is_none() {
        tls.authorities = read("PGSSLROOTCERT")?;
    }
    if tls.certificate.is_none() {
        tls.certificate = read("PGSSLCERT")?;
        tls.key = read("PGSSLKEY")?;
    }
    let has_authority = tls.authorities.is_some();
    // As libpq: with an authority at hand, "require" means that its name counts.
    let (encryption, trust) = match get("PGSSLMODE").as_deref() {
        Some("disable") => (Encryption::Disable, Trust::Anyone),
        None | Some("prefer" | "allow") if !has_authority => (Encryption::Prefer, Trust::Anyone),
        None if options.tls.authorities.is_some() => (Encryption::Require, Trust::Host),
        None | Some("prefer" | "allow") => (Encryption::Prefer, Trust::Authority),
        Some("require") if !has_authority => (Encryption::Require, Trust::Anyone),
        Some("require" | "verify-ca") => (Encryption::Require, Trust::Authority),
        Some("verify-full") => (Encryption::Require, Trust::Host),
        Some(other) => return Err(format!("unknown sslmode '{other}'")),
    };
    match host {
        Host::Unix(_) => Ok((Encryption::Disable, tls, trust)),
        Host::Tcp(_) => Ok((encryption, tls, trust)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, environment: &[(&str, &str)]) -> Server {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = UrlOptions { environment, ..UrlOptions::default() };
        Server::new(&url::Url::parse(url).unwrap(), &options).unwrap()
    }

    #[test]
    fn the_url_comes_before_the_environment() {
        let environment =
            [("PGHOST", "elsewhere"), ("PGPORT", "5433"), ("PGUSER", "bob"), ("PGPASSWORD", "x")];
        let all = server("postgres://al%20ice:s%3Aecret@db.example:6000/shop?sslmode=require", &environment);
        assert_eq!((all.place().as_str(), all.user.as_str()), ("db.example:6000", "al ice"));
        assert_eq!((all.database.as_deref(), all.password.as_deref()), (Some("shop"), Some("s:ecret")));
        assert_eq!((all.encryption, all.trust), (Encryption::Require, Trust::Anyone));
        assert!(!all.shown.contains("secret"), "{}", all.shown);
        let little = server("postgres://", &environment);
        assert_eq!((little.place().as_str(), little.user.as_str()), ("elsewhere:5433", "bob"));
        assert_eq!(little.password.as_deref(), Some("x"));
        assert_eq!(server("postgres:///?host=/run/pg", &[]).host, Host::Unix("/run/pg".into()));
    }

    #[test]
    fn password_files() {
        let wanted = ["h", "5432", "shop", "al:ice"];
        assert_eq!(
            password_of("h:5432:shop:al\\:ice:pa\\\\ss:word", &wanted).as_deref(),
            Some("pa\\ss:word")
        );
        assert_eq!(password_of("*:*:*:*:p", &wanted).as_deref(), Some("p"));
        assert_eq!(password_of("*:5433:*:*:p", &wanted), None);
        assert_eq!(password_of("# h:5432:shop:al\\:ice:p", &wanted), None);
        assert_eq!(password_of("h:5432", &wanted), None);
    }
}
