//! A live Redis or Valkey: asks for a full resynchronisation as a replica would, takes the RDB and leaves.
//! Source: "Redis replication" (redis.io/docs), and the handshake in `replication.c`.

use super::rdb::{Origin, RdbSource};
use super::tls::Tls;
use super::{SourceError, SourceErrorKind, UrlOptions, without_password};
use crate::entry::Time;
use crate::names;

pub mod address;
mod database;
pub mod link;
pub mod transfer;

use address::{Address, Parts, Scheme};
use redis::{ConnectionAddr, IntoConnectionInfo as _};
use std::time::Duration;
use transfer::Transfer;

/// For a client's connection, and for each of its answers.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server that sends to replicas may be silent: it may save for a long time before the first byte, but it
/// sends a line feed now and then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a server is and how to get in.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// The only database that is meant, if the URL names one.
    pub database: Option<u32>,
    /// ACL user; empty for the default one.
    pub user: String,
    /// Password, if any.
    pub password: Option<String>,
    /// Certificates, for `rediss://`.
    pub tls: Option<Tls>,
    /// The URL without the password.
    pub shown: String,
    /// How long a replica waits for it.
    patience: Duration,
}

impl Server {
    /// Reads a URL of [`Scheme`] as [`Parts`] has it; what it does not say comes from `options`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let fail = |why: String| SourceError::new(SourceErrorKind::Unavailable, &shown, why);
        let scheme =
            Scheme::of(url.scheme()).ok_or_else(|| fail(format!("{}:// is no Redis", url.scheme())))?;
        let Parts { address, user, password, database } = Parts::of(url, scheme).map_err(fail)?;
        let tls = scheme.tls.then(|| options.tls.clone());
        if let Some(tls) = &tls {
            tls.check().map_err(fail)?;
        }
        Ok(Self {
            address,
            database,
            user: user.or_else(|| options.redis_user.clone()).unwrap_or_default(),
            password: password.or_else(|| options.redis_password.clone()),
            tls,
            patience: PATIENCE,
            shown,
        })
    }

    /// Folder of this server's streams in a snapshot.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("redis/{}", names::encoded(&self.address.to_string()))
    }

    /// Path of its dump in a snapshot. One of a single database has another name: as a version of the dump of all it
    /// would be taken for what became of them.
    pub(super) fn dump_path(&self) -> String {
        match self.database {
            None => format!("{}/dump.rdb", self.folder()),
            Some(number) => format!("{}/database-{number}.rdb", self.folder()),
        }
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }

    /// A client's connection to it, logged in.
    pub fn connect(&self) -> Result<redis::Connection, SourceError> {
        let down = |error: redis::RedisError| self.error(SourceErrorKind::Unavailable, words(&error));
        let (address, certificates) = match (&self.address, &self.tls) {
            (Address::Unix(path), _) => (ConnectionAddr::Unix(path.clone()), None),
            (Address::Tcp(host, port), None) => (ConnectionAddr::Tcp(host.clone(), *port), None),
            (Address::Tcp(host, port), Some(tls)) => {
                let client_tls = tls.certificate.clone().zip(tls.key.clone());
                let client_tls = client_tls
                    .map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
                let certificates = redis::TlsCertificates { client_tls, root_cert: tls.authorities.clone() };
                let (host, port) = (host.clone(), *port);
                (ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }, Some(certificates))
            }
        };
        // We log in ourselves: the library keeps the server's reason for a refusal to itself.
        let settings = redis::RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = address.into_connection_info().map_err(down)?.set_redis_settings(settings);
        let client = match certificates {
            None => redis::Client::open(info),
            Some(certificates) => redis::Client::build_with_tls(info, certificates),
        };
        let client = client.map_err(down)?;
        let mut connection = client.get_connection_with_timeout(TIMEOUT).map_err(down)?;
        connection.set_read_timeout(Some(TIMEOUT)).map_err(down)?;
        if let Some(password) = &self.password {
            let mut login = redis::cmd("AUTH");
            if !self.user.is_empty() {
                login.arg(&self.user);
            }
            let done: redis::RedisResult<()> = login.arg(password).query(&mut connection);
            done.map_err(|error| match error.is_io_error() {
                true => down(error),
                false => self.error(SourceErrorKind::Unavailable, refused_login(&words(&error))),
            })?;
        }
        Ok(connection)
    }
}

/// What a server says to a login, for people. Not all of it is about the login: a server that is full says so, too.
fn refused_login(reply: &str) -> String {
    let is_about_it = ["WRONGPASS", "AUTH", "password"].iter().any(|word| reply.contains(word));
    if is_about_it && !reply.contains("NOAUTH") {
        format!("AUTH failed: {reply}")
    } else {
        format!("the server answered {reply}")
    }
}

/// An error of the client library, for people: the server's own words, or what became of the connection.
#[must_use]
pub fn words(error: &redis::RedisError) -> String {
    if error.is_timeout() {
        return link::silence(TIMEOUT);
    }
    if error.is_connection_refusal() {
        return format!("cannot connect: {error}");
    }
    if let Some(code) = error.code() {
        return format!("{code} {}", error.detail().unwrap_or_default()).trim_end().to_owned();
    }
    match error.kind() {
        _ if error.is_connection_dropped() => "the server hung up".into(),
        redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType => {
            "this is no answer that a Redis gives here".into()
        }
        _ => super::tls::plain(&error.to_string()),
    }
}

/// The source of `redis://`.
pub fn source(url: &url::Url, time: Time, options: &UrlOptions) -> Result<RdbSource, SourceError> {
    let server = Server::new(url, options)?;
    let path = server.dump_path();
    RdbSource::new(origin(server), &path, time, options)
}

/// A full resynchronisation with `server`, of which only the database is kept that its URL names, if it does.
#[must_use]
pub fn origin(server: Server) -> Origin {
    let (shown, kind) = (server.shown.clone(), "redis");
    let open = Box::new(move |stop: &link::Stop| {
        let transfer = Box::new(Transfer::start(&server, stop)?) as Box<dyn std::io::Read + Send>;
        Ok(match server.database {
            None => transfer,
            Some(number) => database::only(transfer, number, &server.shown)?,
        })
    });
    Origin { kind, shown, point_in_time: true, open }
}
