//! MariaDB and MySQL: their programs, which know the protocol and every kind of authentication, and how they get in. A
//! password goes to them in a file without a name, in memory, that is gone with the process; never on a command line.
//! Source: MariaDB's documentation, "Configuring MariaDB with Option Files", "mariadb-dump", "mariadb-binlog".

pub mod follow;

use crate::source::{SourceError, SourceErrorKind, UrlOptions, password, without_password};
use percent_encoding::percent_decode_str;
use rustix::fs::{MemfdFlags, Mode};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A server.
#[derive(Clone)]
pub struct Server {
    /// The URL without the password.
    pub shown: String,
    /// The URL's database, if it names one.
    pub database: Option<String>,
    host: Option<String>,
    port: u16,
    path: Option<String>,
    /// What the programs read: who we are, and our certificates.
    login: Arc<File>,
}

impl Server {
    /// Reads `mysql://[user[:password]@][host[:port]][/database][?socket=…]`. What it does not say comes from the option
    /// files that MariaDB's programs read (`~/.my.cnf`), and from `MYSQL_PWD`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let fail = |why: String| SourceError::new(SourceErrorKind::Unavailable, &shown, why);
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut lines = vec!["[client]".to_owned()];
        // Quoted as option files have it.
        let mut set = |name: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            lines.push(format!("{name}=\"{value}\""));
        };
        let host = url.host_str().filter(|host| !host.is_empty()).map(decoded);
        let port = url.port().unwrap_or(3306);
        if let Some(host) = &host {
            set("host", host.trim_matches(['[', ']']));
            set("port", &port.to_string());
            set("protocol", "tcp");
        }
        if !url.username().is_empty() {
            set("user", &decoded(url.username()));
        }
        if let Some(password) = password(url).or_else(|| options.environment.get("MYSQL_PWD").cloned()) {
            set("password", &password);
        }
        for (key, value) in url.query_pairs() {
            match &*key {
                "socket" => set("socket", &value),
                _ => return Err(fail(format!("unknown parameter '{key}' in the URL"))),
            }
        }
        for (name, file) in ["ssl-ca", "ssl-cert", "ssl-key"].iter().zip(&options.tls_files) {
            if let Some(file) = file {
                set(name, &file.display().to_string());
            }
        }
        if options.tls_files[0].is_some() {
            lines.push("ssl-verify-server-cert".into());
        }
        // Children inherit it. The programs pass over what others could write to.
        let login = rustix::fs::memfd_create("esker-login", MemfdFlags::empty())
            .and_then(|file| rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map(|()| File::from(file)))
            .map_err(std::io::Error::from)
            .and_then(|mut file| {
                file.write_all((lines.join("\n") + "\n").as_bytes())?;
                Ok(file)
            });
        let login =
            Arc::new(login.map_err(|error| fail(format!("cannot write a file for the login: {error}")))?);
        let database = Some(decoded(url.path().trim_matches('/'))).filter(|name| !name.is_empty());
        let path = options.environment.get("PATH").cloned();
        Ok(Self { shown, database, host, port, path, login })
    }

    /// Its place as a name in a snapshot: `host:port`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.host.as_deref().unwrap_or("local"), self.port)
    }

    /// Folder of a server's dumps in a snapshot.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("mysql/{}", self.place())
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }

    /// A program by its name at MariaDB (`mariadb-dump`), or else MySQL's (`mysqldump`).
    pub fn command(&self, names: [&str; 2]) -> Result<Command, SourceError> {
        let folders: Vec<PathBuf> =
            std::env::split_paths(self.path.as_deref().unwrap_or("/usr/bin:/usr/local/bin")).collect();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        let found = names.iter().find_map(|name| find(name)).ok_or_else(|| {
            let why = format!(
                "neither {} nor {} is installed; install the package mariadb-client",
                names[0], names[1]
            );
            self.error(SourceErrorKind::Command, why)
        })?;
        let mut command = Command::new(found);
        // After the user's own files, so that it counts.
        command.arg(format!("--defaults-extra-file=/proc/self/fd/{}", self.login.as_raw_fd()));
        command.env_remove("MYSQL_PWD").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs statements; one line of tab-separated values for each row.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<String>>, SourceError> {
        let mut command = self.command(["mariadb", "mysql"])?;
        command.args(["--batch", "--skip-column-names", "--connect-timeout=10", "-e", sql]);
        let output = command.output().map_err(|error| self.error(SourceErrorKind::Command, error))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(self.error(SourceErrorKind::Unavailable, text.trim()));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().map(|line| line.split('\t').map(unescaped).collect()).collect())
    }
}

/// A value as `--batch` prints it.
fn unescaped(value: &str) -> String {
    value.replace("\\t", "\t").replace("\\n", "\n").replace("\\0", "\0").replace("\\\\", "\\")
}

/// A name in SQL.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
