//! A live Redis or Valkey: asks for a full resynchronisation as a replica would, takes the RDB and leaves.
//! Source: "Redis replication" (redis.io/docs), and the handshake in `replication.c`.

use super::rdb::{Origin, RdbSource};
use super::tls::Tls;
use super::{SourceError, SourceErrorKind, UrlOptions, password, without_password};
use crate::entry::Time;

pub mod link;
pub mod transfer;

use redis::IntoConnectionInfo as _;
use std::time::Duration;
use transfer::Transfer;

/// For a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where a server is and how to get in.
#[derive(Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// ACL user; empty for the default one.
    pub user: String,
    /// Password, if any.
    pub password: Option<String>,
    /// Certificates, for `rediss://`.
    pub tls: Option<Tls>,
    /// The URL without the password.
    pub shown: String,
}

impl Server {
    /// Reads `redis://[user[:password]@]host[:port]`; what the URL does not say comes from `options`.
    pub fn new(url: &url::Url, options: &UrlOptions) -> Result<Self, SourceError> {
        let shown = without_password(url.as_str());
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| SourceError::new(SourceErrorKind::Unavailable, &shown, "no host in the URL"))?;
        let mut user = percent_encoding::percent_decode_str(url.username()).decode_utf8_lossy().into_owned();
        if user.is_empty() {
            user = options.redis_user.clone().unwrap_or_default();
        }
        let password = password(url).or_else(|| options.redis_password.clone());
        let is_tls =
            url.scheme().split('+').next().is_some_and(|scheme| scheme.ends_with('s') && scheme != "redis");
        let tls = is_tls.then(|| options.tls.clone());
        Ok(Self { address: format!("{host}:{}", url.port().unwrap_or(6379)), user, password, tls, shown })
    }

    /// Its name or number, as certificates have it.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Folder of this server's streams in a snapshot.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("redis/{}", self.address)
    }

    /// An error about it.
    pub fn error(&self, kind: SourceErrorKind, why: impl ToString) -> SourceError {
        SourceError::new(kind, &self.shown, why)
    }

    /// A client's connection to it.
    pub fn connect(&self) -> Result<redis::Connection, SourceError> {
        let down = |error: redis::RedisError| self.error(SourceErrorKind::Unavailable, error);
        let mut settings = redis::RedisConnectionInfo::default();
        if !self.user.is_empty() {
            settings = settings.set_username(&self.user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let port = self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(6379);
        let host = self.host().to_owned();
        let client = match &self.tls {
            None => {
                let address = redis::ConnectionAddr::Tcp(host, port);
                let info = address.into_connection_info().map_err(down)?.set_redis_settings(settings);
                redis::Client::open(info)
            }
            Some(tls) => {
                let address = redis::ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
                let info = address.into_connection_info().map_err(down)?.set_redis_settings(settings);
                let client_tls = tls.certificate.clone().zip(tls.key.clone());
                let client_tls = client_tls
                    .map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
                let certificates = redis::TlsCertificates { client_tls, root_cert: tls.authorities.clone() };
                redis::Client::build_with_tls(info, certificates)
            }
        };
        let client = client.map_err(down)?;
        let connection = client.get_connection_with_timeout(TIMEOUT).map_err(down)?;
        connection.set_read_timeout(Some(TIMEOUT)).map_err(down)?;
        Ok(connection)
    }
}

/// The source of `redis://`.
pub fn source(url: &url::Url, time: Time, options: &UrlOptions) -> Result<RdbSource, SourceError> {
    let server = Server::new(url, options)?;
    let path = format!("{}/dump.rdb", server.folder());
    RdbSource::new(origin(server), &path, time, options)
}

/// A full resynchronisation with `server`.
#[must_use]
pub fn origin(server: Server) -> Origin {
    let (shown, kind) = (server.shown.clone(), "redis");
    let open = Box::new(move |stop: &link::Stop| {
        let transfer = Transfer::start(&server, stop)?;
        Ok(Box::new(transfer) as Box<dyn std::io::Read + Send>)
    });
    Origin { kind, shown, point_in_time: true, open }
}
