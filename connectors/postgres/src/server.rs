//! Where a PostgreSQL server is and how to get in. What a URL does not say comes from its service and the environment
//! (`conninfo.rs`), and from libpq's password file, so that no password need stand in a URL.
//! PostgreSQL's programs are told exactly the server that our own session reached, and nothing else tells them of one.
//! Source: PostgreSQL's documentation, "Connection Strings", "Environment Variables", "The Password File".

use super::auth::Auth;
use super::conninfo::Settings;
use super::encryption::{Encryption, Security};
use connector_kit::child::Watch;
use connector_kit::waiting::Waiting;
use engine::connector::Context;
use engine::names::encoded;
use engine::secrets::without_secrets;
use engine::source::{SourceError, SourceErrorKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or number, by TCP.
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

impl Host {
    /// The name, number or socket folder.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(name) => name.clone(),
            Self::Unix(folder) => folder.display().to_string(),
        }
    }
}

/// One of the places where the server may be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) host: Host,
    /// Its number, if the name is not to be looked up.
    pub(super) address: Option<String>,
    /// Its port, which names its socket, too.
    pub(super) port: u16,
    pub(super) password: Option<String>,
}

/// Where a session got in: every later one, and every program, goes there.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) place: Place,
    pub(super) address: Option<SocketAddr>,
    /// Whether the line is encrypted: it is for whoever comes later, too.
    pub(super) is_encrypted: bool,
}

/// A server.
#[derive(Clone)]
pub struct Server {
    /// Who we are.
    pub user: String,
    /// The URL's database, if it names one.
    pub database: Option<String>,
    /// The URL without the password.
    pub shown: String,
    pub(super) places: Vec<Place>,
    pub(super) settings: Settings,
    pub(super) security: Security,
    pub(super) auth: Auth,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) reached: Arc<OnceLock<Reached>>,
    /// What children may see of our environment.
    pub(super) outer: BTreeMap<String, String>,
    /// How long its sessions wait for it.
    pub(super) waiting: Waiting,
    /// Ends programs that wait for it when the user has had enough.
    pub(crate) watch: Watch,
}

/// Where servers put their sockets.
const SOCKETS: &[&str] = &["/var/run/postgresql", "/tmp"];
/// How long to wait for a connection, and for the first answers on it, unless the user says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Server {
    /// Reads `postgres://[user[:password]@][host[:port][,…]][/database][?name=value…]`.
    pub fn parse(url: &str, options: &Context) -> Result<Self, SourceError> {
        let shown = without_secrets(url);
        Self::read(url, &shown, options)
            .map_err(|why| SourceError::new(SourceErrorKind::Unavailable, &shown, why))
    }

    fn read(url: &str, shown: &str, options: &Context) -> Result<Self, String> {
        let settings = Settings::read(url, &options.environment)?;
        let user = settings
            .get("user")
            .or_else(|| options.environment.get("USER").map(String::as_str))
            .or_else(|| options.environment.get("LOGNAME").map(String::as_str))
            .unwrap_or("postgres");
        let security = Security::read(&settings, options)?;
        let mut server = Self {
            user: user.to_owned(),
            database: settings.get("dbname").map(str::to_owned),
            shown: shown.to_owned(),
            places: places(&settings)?,
            auth: Auth::read(&settings, security.encryption)?,
            security,
            connect_timeout: connect_timeout(&settings)?,
            reached: Arc::default(),
            outer: options.environment.clone(),
            waiting: Waiting::new(&options.stop),
            watch: Watch::new(&options.stop),
            settings,
        };
        let attributes = server.settings.get("target_session_attrs").unwrap_or("any");
        if !super::choose::ATTRIBUTES.contains(&attributes) {
            let all = super::choose::ATTRIBUTES.join(", ");
            return Err(format!("target_session_attrs is one of {all}, not '{attributes}'"));
        }
        super::wire::KeepAlive::read(&server.settings)?;
        for at in 0..server.places.len() {
            if matches!(server.places[at].host, Host::Unix(_)) && server.settings.get("requirepeer").is_some()
            {
                return Err("requirepeer (PGREQUIREPEER) is not supported; leave it out".into());
            }
            server.places[at].password = match server.settings.get("password") {
                Some(password) => Some(password.to_owned()),
                None => server.password_from_file(&server.places[at])?,
            };
        }
        Ok(server)
    }

    /// The same, which may be found elsewhere by now.
    #[must_use]
    pub fn looked_up_again(&self) -> Self {
        Self { reached: Arc::default(), ..self.clone() }
    }

    /// The server that was reached, as another role enters it by a password.
    #[must_use]
    pub fn entered_by(&self, user: &str, password: String) -> Self {
        let mut other = Self { user: user.to_owned(), reached: Arc::default(), ..self.clone() };
        if let Some(mut reached) = self.reached.get().cloned() {
            reached.place.password = Some(password.clone());
            other.reached = Arc::new(OnceLock::from(reached));
        }
        for place in &mut other.places {
            place.password = Some(password.clone());
        }
        other
    }

    /// Its place as a name in a snapshot: `host:port`, all of them if there are several. Of a socket the folder, which
    /// tells servers of one machine apart, by whichever way it was named.
    #[must_use]
    pub fn place(&self) -> String {
        let one = |place: &Place| match &place.host {
            Host::Tcp(name) => format!("{name}:{}", place.port),
            Host::Unix(folder) => {
                let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
                format!("{}:{}", folder.display(), place.port)
            }
        };
        encoded(&self.places.iter().map(one).collect::<Vec<_>>().join(","))
    }

    /// What tells it from other servers and databases: who reads which database where, wherever that was said.
    #[must_use]
    pub fn identity(&self) -> engine::group::Identity {
        engine::group::Identity {
            user: Some(self.user.clone()),
            database: Some(self.database.clone().unwrap_or_default()),
            place: self.settings.get("host").filter(|host| host.starts_with('/')).map(str::to_owned),
            ..engine::group::Identity::default()
        }
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        let error = SourceError::new(kind, &self.shown, why);
        SourceError { why: engine::shown::line(&error.why).into_owned(), ..error }
    }

    /// What a session is called, on the server.
    pub(super) fn application_name(&self) -> &str {
        let own = self.settings.get("application_name");
        own.or_else(|| self.settings.get("fallback_application_name")).unwrap_or("esker")
    }

    /// Variables by which libpq's programs find it and get in: what our session reached, by number, and nothing that is
    /// left for other variables or files to say. The password goes to them this way, never on a command line.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let none = || "/nonexistent".to_owned();
        let mut all = vec![
            ("PGUSER", self.user.clone()),
            ("PGAPPNAME", self.application_name().to_owned()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.map_or(0, |timeout| timeout.as_secs()).to_string()),
            ("PGGSSENCMODE", "disable".into()),
            // Else they look for these below the home folder that the user database names.
            ("PGPASSFILE", none()),
            ("PGSERVICEFILE", none()),
            ("PGSSLCRL", none()),
        ];
        for (name, variable) in [("options", "PGOPTIONS"), ("client_encoding", "PGCLIENTENCODING")] {
            all.extend(self.settings.get(name).map(|value| (variable, value.to_owned())));
        }
        let (place, address, is_encrypted) = match self.reached.get() {
            Some(reached) => (&reached.place, reached.address, reached.is_encrypted),
            None => (&self.places[0], None, self.security.encryption == Encryption::Require),
        };
        all.extend(self.security.environment(is_encrypted));
        let is_open = !is_encrypted && matches!(place.host, Host::Tcp(_));
        all.extend(self.auth.environment(is_open));
        all.push(("PGHOST", place.host.name()));
        all.push(("PGPORT", place.port.to_string()));
        all.extend(place.password.clone().map(|password| ("PGPASSWORD", password)));
        match address {
            Some(SocketAddr::V6(address)) if address.scope_id() != 0 => {}
            Some(address) => all.push(("PGHOSTADDR", address.ip().to_string())),
            None => {}
        }
        all
    }

    /// The lowest version of PostgreSQL's programs that do what the URL asks for.
    pub(super) fn least_programs(&self) -> u32 {
        self.auth.least_version()
    }

    /// What `--dbname` of pg_dump and its like is for a database, whatever its name looks like.
    #[must_use]
    pub fn database_of(&self, name: impl AsRef<[u8]>) -> OsString {
        let mut all = super::programs::database_name(name);
        // These have no variables.
        for name in
            ["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"]
        {
            if let Some(value) = self.settings.get(name) {
                all.push(format!(" {name}={value}"));
            }
        }
        all
    }

    /// The password file's line for us. It is passed over, as libpq does, when others can read it.
    fn password_from_file(&self, place: &Place) -> Result<Option<String>, String> {
        let path = match (self.settings.get("passfile"), self.outer.get("HOME")) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(home)) => Path::new(home).join(".pgpass"),
            (None, None) => return Ok(None),
        };
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(format!("{} can be read by others; chmod 600 it", path.display()));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let host = match &place.host {
            Host::Unix(folder) if SOCKETS.contains(&folder.to_str().unwrap_or_default()) => {
                "localhost".into()
            }
            host => host.name(),
        };
        let database = self.database.as_deref().unwrap_or("postgres");
        Ok(text
            .lines()
            .find_map(|line| password_of(line, &[&host, &place.port.to_string(), database, &self.user])))
    }
}

/// The places that hosts, addresses and ports name, one for each.
fn places(settings: &Settings) -> Result<Vec<Place>, String> {
    let list =
        |name: &str| -> Vec<&str> { settings.get(name).map_or(vec![], |text| text.split(',').collect()) };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(format!("{} hosts and {} values of hostaddr do not fit", hosts.len(), addresses.len()));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("{} ports do not fit {count} hosts", ports.len()));
    }
    let nth =
        |list: &[&str], at: usize| list.get(at).copied().filter(|text| !text.is_empty()).map(str::to_owned);
    let place = |at: usize| {
        let port = if ports.len() == 1 { nth(&ports, 0) } else { nth(&ports, at) };
        let port = port.map_or(Ok(5432), |text| match text.parse() {
            Ok(0) | Err(_) => Err(format!("'{text}' is no port")),
            Ok(port) => Ok(port),
        })?;
        let address = nth(&addresses, at);
        let host = match nth(&hosts, at).or_else(|| address.clone()) {
            Some(host) if host.starts_with('/') => Host::Unix(host.into()),
            Some(host) => Host::Tcp(host),
            None => SOCKETS
                .iter()
                .find(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists())
                .map_or_else(|| Host::Tcp("localhost".into()), |folder| Host::Unix(folder.into())),
        };
        Ok(Place { host, address, port, password: None })
    };
    (0..count).map(place).collect()
}

/// As libpq: seconds; none or fewer is for ever, and one is two.
fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, String> {
    let Some(text) = settings.get("connect_timeout") else { return Ok(Some(CONNECT_TIMEOUT)) };
    match text.trim().parse::<i64>() {
        Ok(seconds) => {
            Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(|s| Duration::from_secs(s.max(2))))
        }
        Err(_) => Err(format!("connect_timeout is a number of seconds, not '{text}'")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, environment: &[(&str, &str)]) -> Server {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Context { environment, ..Context::new(std::env::temp_dir(), jiff::Timestamp::now) };
        Server::parse(url, &options).unwrap()
    }

    #[test]
    fn the_url_comes_before_the_environment() {
        let environment =
            [("PGHOST", "elsewhere"), ("PGPORT", "5433"), ("PGUSER", "bob"), ("PGPASSWORD", "x")];
        let all = server("postgres://al%20ice:s%3Aecret@db.example:6000/shop?sslmode=require", &environment);
        assert_eq!((all.place().as_str(), all.user.as_str()), ("db.example:6000", "al ice"));
        assert_eq!(
            (all.database.as_deref(), all.places[0].password.as_deref()),
            (Some("shop"), Some("s:ecret"))
        );
        assert!(!all.shown.contains("secret"), "{}", all.shown);
        let little = server("postgres://", &environment);
        assert_eq!((little.place().as_str(), little.user.as_str()), ("elsewhere:5433", "bob"));
        assert_eq!(little.places[0].password.as_deref(), Some("x"));
        assert_eq!(server("postgres:///?host=/run/pg", &[]).places[0].host, Host::Unix("/run/pg".into()));
    }

    #[test]
    fn sockets_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&path, path.join("same")).unwrap();
        let place = |url: &str| server(url, &[]).place();
        let url = format!("postgres:///db?host={}", path.display());
        assert_eq!(place(&url), encoded(&format!("{}:5432", path.display())));
        assert_eq!(place(&format!("{url}/same")), place(&url));
        assert_eq!(place("postgres:///?host=/run/nowhere/a&port=6"), "%2Frun%2Fnowhere%2Fa:6");
        assert_ne!(place("postgres:///?host=/run/nowhere/a"), place("postgres:///?host=/run/nowhere/b"));
    }

    #[test]
    fn several_hosts() {
        let all = server("postgres://u@h1:1,[::1],h3:3/db?hostaddr=,,127.0.0.3", &[]);
        assert_eq!(all.place(), "h1:1,::1:5432,h3:3");
        assert_eq!(all.places[2].address.as_deref(), Some("127.0.0.3"));
        assert_eq!(server("postgres://h1,h2/?port=7", &[]).place(), "h1:7,h2:7");
        for bad in [
            "h1:1,h2:2,h3/?hostaddr=1,2",
            "h1,h2/?port=1,2,3",
            "h:0",
            "h:70000",
            "h/?connect_timeout=x",
            "h/?target_session_attrs=x",
            "h/?keepalives_idle=x",
        ] {
            assert!(
                Server::parse(
                    &format!("postgres://{bad}"),
                    &Context::new(std::env::temp_dir(), jiff::Timestamp::now)
                )
                .is_err(),
                "{bad}"
            );
        }
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
