//! The choice among several hosts: the first that answers and has the properties of `target_session_attrs`. Later
//! connections, those of programs too, use the same server. Source: PostgreSQL's documentation, "Specifying Multiple
//! Hosts", `target_session_attrs`.

use super::Connection;
use super::connection::{PgError, PgResult};
use super::server::{Host, Place, Reached, Server};
use std::net::{SocketAddr, ToSocketAddrs as _};

/// Values of `target_session_attrs`.
pub(super) const ATTRIBUTES: &[&str] =
    &["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];

/// The server is starting up or shutting down: another one may be there.
const CANNOT_CONNECT_NOW: &str = "57P03";

impl Connection {
    /// A session with the server that was reached before, or with the first that fits.
    pub(super) fn start(server: &Server, parameters: &[(&str, &[u8])]) -> PgResult<Self> {
        if let Some(reached) = server.reached.get() {
            return Self::start_at(server, reached, parameters);
        }
        let wanted = server.settings.get("target_session_attrs").unwrap_or("any");
        let rounds: &[&str] = if wanted == "prefer-standby" { &["standby", "any"] } else { &[wanted] };
        let mut reasons = vec![];
        for wanted in rounds {
            reasons.clear();
            for place in &server.places {
                match Self::first_of(server, place, wanted, parameters) {
                    Ok((session, reached)) => {
                        // Two threads may both be first; then one of them went to another address of the same name.
                        let _ = server.reached.set(reached);
                        return Ok(session);
                    }
                    Err(error @ PgError::Refused { .. }) if error.code() != CANNOT_CONNECT_NOW => {
                        return Err(error);
                    }
                    Err(error) => reasons.push((place, error)),
                }
            }
        }
        if let [_] = server.places.as_slice()
            && let Some((_, error)) = reasons.pop()
        {
            return Err(error);
        }
        let told: Vec<String> = reasons
            .iter()
            .map(|(place, error)| format!("{}:{}: {error}", place.host.name(), place.port))
            .collect();
        Err(PgError::Lost(told.join("; ")))
    }

    /// A session with one of a place's addresses.
    fn first_of(
        server: &Server,
        place: &Place,
        wanted: &str,
        parameters: &[(&str, &[u8])],
    ) -> PgResult<(Self, Reached)> {
        let mut failure = PgError::Lost("cannot connect: the host has no address".into());
        for address in addresses(server, place)? {
            let reached = Reached { place: place.clone(), address, is_encrypted: false };
            match Self::start_at(server, &reached, parameters).and_then(|session| session.must_be(wanted)) {
                Ok(session) => {
                    let is_encrypted = session.is_encrypted();
                    return Ok((session, Reached { is_encrypted, ..reached }));
                }
                Err(error @ PgError::Refused { .. }) if error.code() != CANNOT_CONNECT_NOW => {
                    return Err(error);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The session, if its server is what is wanted.
    fn must_be(mut self, wanted: &str) -> PgResult<Self> {
        if wanted == "any" {
            return Ok(self);
        }
        let (is_standby, is_read_only) = match (self.is_standby, self.is_read_only) {
            (Some(is_standby), Some(is_read_only)) => (is_standby, is_standby || is_read_only),
            // Before version 14 the server does not say by itself.
            _ => {
                let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
                let row = self.query(sql)?.into_iter().next().unwrap_or_default();
                let nth = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default().to_owned();
                (nth(0) == "t", nth(1) == "on")
            }
        };
        let (fits, is) = match wanted {
            "read-write" => (!is_read_only, "read-only"),
            "read-only" => (is_read_only, "read-write"),
            "primary" => (!is_standby, "a standby"),
            _ => (is_standby, "a primary"),
        };
        if fits {
            Ok(self)
        } else {
            Err(PgError::Lost(format!("it is {is}, and target_session_attrs asks for {wanted}")))
        }
    }
}

/// What a place's name stands for; nothing to look up for a socket.
fn addresses(server: &Server, place: &Place) -> PgResult<Vec<Option<SocketAddr>>> {
    let Host::Tcp(name) = &place.host else { return Ok(vec![None]) };
    let (name, port) = (place.address.as_ref().unwrap_or(name).clone(), place.port);
    let look = move || Ok((name.as_str(), port).to_socket_addrs()?.collect::<Vec<_>>());
    let found = server.waiting.work(look);
    let found = found.map_err(|error| PgError::Lost(format!("cannot connect: {error}")))?;
    Ok(found.into_iter().map(Some).collect())
}
