//! MariaDB and MySQL: their programs, which know the protocol and every kind of authentication, and how they get in. A
//! login goes to them in a file without a name, in memory, that is gone with the process; never on a command line. It is
//! the only option file that they read, and their environment is not ours: nothing but the URL says which server it is.
//! Source: MariaDB's documentation, "Configuring MariaDB with Option Files", "mariadb-dump", "mariadb-binlog".

mod login;
mod plugins;
mod script;

use connector_kit::child::{self, Watch};
use engine::connector::Context;
use engine::names::encoded;
use engine::secrets;
use engine::source::{SourceError, SourceErrorKind, password, without_password};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

pub(crate) use script::{LOCAL_FILES_OFF, nonce};
pub use script::{Outcome, Script, complaint, error_number, hexadecimal, is_named, literal, quoted};

/// A server.
#[derive(Clone)]
pub struct Server {
    /// The URL without the password.
    pub shown: String,
    /// The URL's database, if it names one.
    pub database: Option<String>,
    host: Option<String>,
    port: u16,
    /// Its socket, if the URL names one.
    socket: Option<String>,
    environment: BTreeMap<String, String>,
    /// What the login file says: who we are, and our certificates.
    lines: Vec<String>,
    /// That file.
    login: Arc<File>,
    /// Where programs find ways to log in, over a line that others can read.
    _plugins: Option<Arc<TempDir>>,
    /// Ends programs that wait for it when the user has had enough.
    pub(crate) watch: Watch,
}

impl Server {
    /// Reads `mysql://[user[:password]@][host[:port]][/database][?socket=…]`. Over a line that is not known to be encrypted
    /// the server gets no password in clear text, unless `enable-cleartext-plugin=1` says so. Without a host it is the server of this
    /// machine, by its socket. User and password that the URL lacks come from `[client]` of `~/.my.cnf`, a password from
    /// `MYSQL_PWD`, too; nothing else of those is read.
    pub fn new(url: &url::Url, options: &Context) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let fail = |why: String| SourceError::new(SourceErrorKind::Unavailable, &shown, why);
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        secrets::check_host(url.host_str().unwrap_or_default()).map_err(fail)?;
        let host = url.host_str().filter(|host| !host.is_empty()).map(decoded);
        let port = url.port().unwrap_or(3306);
        let (mut socket, mut tells_all) = (None, false);
        for (key, value) in url.query_pairs() {
            match &*key {
                "socket" => socket = Some(value.into_owned()),
                "enable-cleartext-plugin" => {
                    tells_all = match &*value {
                        "1" => true,
                        "0" => false,
                        _ => return Err(fail("enable-cleartext-plugin in the URL is 0 or 1".into())),
                    }
                }
                _ => return Err(fail(format!("unknown parameter '{key}' in the URL"))),
            }
        }
        if socket.is_some() && host.as_deref().is_some_and(|host| host != "localhost") {
            return Err(fail("a URL names a host or a socket, not both".into()));
        }
        let mut set = login::Lines::new("client");
        match (&host, &socket) {
            (_, Some(socket)) => {
                set.add("host", "localhost");
                set.add("protocol", "socket");
                set.add("socket", socket);
            }
            (Some(host), None) => {
                set.add("host", host.trim_matches(['[', ']']));
                set.add("port", &port.to_string());
                set.add("protocol", "tcp");
            }
            (None, None) => {
                set.add("host", "localhost");
                set.add("protocol", "socket");
            }
        }
        let own = login::user_file(options.environment.get("HOME")).map_err(fail)?;
        let named = Some(decoded(url.username())).filter(|name| !name.is_empty());
        // The password of a file belongs to the user of that file.
        let is_same = named.is_none() || own.user.is_none() || named == own.user;
        let local = options.environment.get("USER").or_else(|| options.environment.get("LOGNAME"));
        if let Some(user) = named.or(own.user).or_else(|| local.cloned()) {
            set.add("user", &user);
        }
        let password = password(url)
            .or_else(|| options.environment.get("MYSQL_PWD").cloned())
            .or_else(|| own.password.filter(|_| is_same));
        if let Some(password) = password {
            set.add("password", &password);
        }
        for (name, file) in ["ssl-ca", "ssl-cert", "ssl-key"].iter().zip(&options.tls_files) {
            if let Some(file) = file {
                set.add(name, &file.display().to_string());
            }
        }
        let mut lines = set.lines;
        let is_verified = options.tls_files[0].is_some();
        if is_verified {
            lines.push("ssl-verify-server-cert".into());
        }
        let is_open = host.is_some() && socket.is_none() && !is_verified;
        let plugins = (is_open && !tells_all).then(plugins::proving).transpose();
        let plugins = plugins.map_err(|error| fail(format!("cannot make a folder of plugins: {error}")))?;
        if let Some(folder) = &plugins {
            let mut more = login::Lines::new("client");
            more.add("plugin-dir", &folder.path().display().to_string());
            lines.extend(more.lines.into_iter().skip(1));
        }
        let login = Arc::new(login::file(&lines).map_err(fail)?);
        let database = Some(decoded(url.path().trim_matches('/'))).filter(|name| !name.is_empty());
        let environment = options.environment.clone();
        let watch = Watch::new(&options.stop);
        let plugins = plugins.map(Arc::new);
        Ok(Self { shown, database, host, port, socket, environment, lines, login, _plugins: plugins, watch })
    }

    /// Its place as a name in a snapshot: `host:port`, or its socket's path, since every socket of a machine is a server of its
    /// own.
    #[must_use]
    pub fn place(&self) -> String {
        if let Some(socket) = &self.socket {
            return encoded(socket);
        }
        format!("{}:{}", self.host.as_deref().unwrap_or("local"), self.port)
    }

    /// Folder of a server's dumps in a snapshot.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("mysql/{}", self.place())
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        let error = SourceError::new(kind, &self.shown, why);
        let why = engine::shown::line(&error.why).into_owned();
        let why = plugins::hint(&why).map_or_else(|| why.clone(), |hint| format!("{hint} ({why})"));
        SourceError { why, ..error }
    }

    /// A program by its name at MariaDB (`mariadb-dump`), or else MySQL's (`mysqldump`).
    pub fn command(&self, names: [&str; 2]) -> Result<Command, SourceError> {
        self.command_by(names, &self.login)
    }

    /// The same, whose login file is `login`; that must be open for as long as the program starts.
    fn command_by(&self, names: [&str; 2], login: &File) -> Result<Command, SourceError> {
        let path = self.environment.get("PATH").map_or("/usr/bin:/usr/local/bin", String::as_str);
        let folders: Vec<PathBuf> = std::env::split_paths(path).collect();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        let found = names.iter().find_map(|name| find(name)).ok_or_else(|| {
            let why = format!(
                "neither {} nor {} is installed; install the package mariadb-client",
                names[0], names[1]
            );
            self.error(SourceErrorKind::Command, why)
        })?;
        let mut command = child::command(found, &self.environment);
        // The first argument, or it is none: no other file is read.
        command.arg(format!("--defaults-file=/proc/self/fd/{}", login.as_raw_fd()));
        Ok(command)
    }

    /// A program that has options of its own besides, each a name and a value that may be anything; and the file that
    /// must live until the program has started.
    pub(crate) fn command_with(
        &self,
        names: [&str; 2],
        group: &[(&str, String)],
    ) -> Result<(Command, File), SourceError> {
        let mut more = login::Lines::new("client");
        for (name, value) in group {
            more.add(name, value);
        }
        // One group: the programs read `[client]` all.
        let lines: Vec<String> = self.lines.iter().chain(&more.lines[1..]).cloned().collect();
        let file = login::file(&lines).map_err(|why| self.error(SourceErrorKind::Command, why))?;
        Ok((self.command_by(names, &file)?, file))
    }

    /// Runs statements; one line of tab-separated values for each row.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<String>>, SourceError> {
        let rows = self.query_bytes(sql)?;
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        Ok(rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    }

    fn query_bytes(&self, sql: &str) -> Result<Vec<Vec<Vec<u8>>>, SourceError> {
        let mut script = Script::default();
        script.add("query", sql.as_bytes());
        let outcome = script.run(self, false)?;
        match outcome.failures.into_iter().next() {
            Some((_, why)) => Err(self.error(SourceErrorKind::Unavailable, why)),
            None => Ok(outcome.rows),
        }
    }
}
