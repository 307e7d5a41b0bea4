//! A live Redis or Valkey: asks for a full resynchronisation as a replica would, takes the RDB and leaves.
//! Source: "Redis replication" (redis.io/docs), and the handshake in `replication.c`.

use crate::dump::{Origin, RdbSource};
use crate::settings::{PASSWORD, USER};
use connector_kit::handshake;
use connector_kit::tls::Lines as _;
use connector_kit::tls::Tls;
use connector_kit::waiting::Waiting;
use engine::connector::Context;
use engine::entry::Time;
use engine::names;
use engine::source::{SourceError, SourceErrorKind, Status, without_password};

pub mod address;
pub mod client;
mod database;
pub mod link;
pub mod transfer;

use address::{Address, Parts, Scheme};
use client::Client;
use link::Link;
use std::net::ToSocketAddrs as _;
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
    /// Whether a login is one although the server is busy: it loads its data, or has lost its master.
    is_met_busy: bool,
    /// The waits for it, which a signal ends.
    waiting: Waiting,
}

impl Server {
    /// Reads a URL of [`Scheme`] as [`Parts`] has it; what it does not say comes from `options`.
    pub fn new(url: &url::Url, options: &Context) -> Result<Self, SourceError> {
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
            user: user.or_else(|| options.settings.get(USER.name).map(str::to_owned)).unwrap_or_default(),
            password: password.or_else(|| options.settings.get(PASSWORD.name).map(str::to_owned)),
            tls,
            patience: PATIENCE,
            is_met_busy: false,
            waiting: Waiting::new(&options.stop),
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

    /// An error of the connection at its first words, or the reason for it: the server speaks TLS and we do not.
    pub(crate) fn or_tls(&self, error: SourceError) -> SourceError {
        let Address::Tcp(host, port) = &self.address else { return error };
        if self.tls.is_some() {
            return error;
        }
        let addresses = (host.as_str(), *port).to_socket_addrs();
        if addresses.is_ok_and(|mut all| all.any(|address| handshake::speaks_tls(&address))) {
            let why = "this port speaks TLS, and the URL does not: write rediss:// or rediss+scan://";
            return self.error(SourceErrorKind::Unavailable, why);
        }
        error
    }

    /// A client's connection to it, logged in.
    pub fn connect(&self) -> Result<Client, SourceError> {
        self.connect_for(TIMEOUT)
    }

    /// The same, where each answer may take so long.
    pub(crate) fn connect_for(&self, patience: Duration) -> Result<Client, SourceError> {
        Client::new(Link::open(self, &link::Stop::default())?, patience)
    }

    /// The same, also while it loads its data or has lost its master: few commands are answered then.
    pub(crate) fn connect_busy(&self) -> Result<Client, SourceError> {
        self.clone().met_busy().connect()
    }

    /// The same server, busy or not; a wait for it that a signal ended ends no wait for this one.
    pub(crate) fn anew(&self) -> Self {
        Self { waiting: self.waiting.anew(), ..self.clone().met_busy() }
    }

    /// The same server, to which every connection is one of [`Server::connect_busy`].
    pub(crate) fn met_busy(self) -> Self {
        Self { is_met_busy: true, ..self }
    }
}

/// The code of an error reply: its first word. Source: Redis' documentation, "RESP protocol specification", "Simple errors".
fn code(reply: &str) -> &str {
    reply.trim_start_matches('-').split(' ').next().unwrap_or_default()
}

/// Whether an error reply says that it may help to try again. Source: `shared.*err` in Redis' `src/server.c`; `NOMASTERLINK` in
/// `src/replication.c`.
fn status_of(reply: &str) -> Status {
    match code(reply) {
        "LOADING" | "BUSY" | "MASTERDOWN" | "NOMASTERLINK" => Status::Temporary,
        "WRONGPASS" | "NOAUTH" | "NOPERM" => Status::Permanent,
        _ => Status::Unknown,
    }
}

/// What a server says to a login, for people. Not all of it is about the login: a server that is full says so, too. Servers before
/// 6 have no code for a wrong password.
fn refused_login(reply: &str) -> (Status, String) {
    let is_about_it = match code(reply) {
        "WRONGPASS" => true,
        "ERR" => ["AUTH", "password"].iter().any(|word| reply.contains(word)),
        _ => false,
    };
    match is_about_it {
        true => (Status::Permanent, format!("AUTH failed: {reply}")),
        false => (status_of(reply), format!("the server answered {reply}")),
    }
}

/// An error of the client library, for people: the server's own words, or what became of the connection.
#[must_use]
pub fn words(error: &redis::RedisError) -> String {
    if error.is_timeout() {
        return format!("the server did not answer within {} s", TIMEOUT.as_secs());
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
        _ => connector_kit::tls::plain(&error.to_string()),
    }
}

/// The source of `redis://`.
pub fn source(url: &url::Url, time: Time, options: &Context) -> Result<RdbSource, SourceError> {
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
