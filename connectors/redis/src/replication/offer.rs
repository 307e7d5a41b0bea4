//! Whether a server can load by replication, as far as it says before anything is changed.

use super::kept::{self, Kept};
use super::state::State;
use crate::keys::rewritten::Loads;
use crate::server::address::Address;
use crate::server::client::Client;
use crate::server::{Server, words};
use crate::settings::{REPLICATE_FROM, host_and_port};
use connector_kit::waiting::Waiting;
use engine::Result;
use engine::connector::Context;
use redis::RedisResult;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the version and checksum at the end of a payload.
const FOOTER: usize = 10;

/// What it comes to.
pub(crate) struct Offer {
    pub(super) loads: Loads,
    /// Where we listen.
    pub(super) listens: SocketAddr,
    /// Who may connect; anybody with the secret, if the user says where we are.
    pub(super) peer: Option<IpAddr>,
    /// Where the server finds us; the port is that of the listener if it is 0.
    pub(super) found_at: (String, u16),
    /// The waits for the replica. They are others than those for the server: one that a signal ended would end its setting
    /// in order, too.
    pub(super) waiting: Waiting,
    /// Replicas of the server.
    replicas: u64,
}

impl Offer {
    /// Asks the server, and changes nothing.
    ///
    /// # Errors
    /// Of the connection; within it, why replication is not possible, for people.
    pub(crate) fn ask(server: &Server, context: &Context) -> Result<std::result::Result<Self, String>> {
        let place = context.settings.get(REPLICATE_FROM.name);
        if place == Some("never") {
            return Ok(Err("-o redis.replicate-from=never".into()));
        }
        let mut client = server.connect()?;
        Ok(Self::of(server, &mut client, place.and_then(host_and_port), Waiting::new(&context.stop)))
    }

    fn of(
        server: &Server,
        client: &mut Client,
        place: Option<(&str, u16)>,
        waiting: Waiting,
    ) -> std::result::Result<Self, String> {
        let state = State::of(server, client).map_err(|error| error.in_one_line().to_string())?;
        is_free(&state)?;
        Kept::of(client, (String::new(), 0))?;
        let ends = match &server.address {
            Address::Unix(_) => {
                let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                Some((here, here))
            }
            Address::Tcp(..) => client.ends(),
        };
        let (ours, theirs) = ends.ok_or("our own address is not known")?;
        let clients = Clients::of(client);
        if clients.has_sentinel() {
            return Err("a Sentinel watches it".into());
        }
        let loads = loads(client, &state)?;
        is_plain(server, client, theirs.ip())?;
        let replicas = state.replicas();
        Ok(match place {
            Some((host, port)) => Self {
                loads,
                listens: match ours {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
                },
                peer: None,
                found_at: (host.to_owned(), port),
                waiting,
                replicas,
            },
            None => {
                if ours.port() != 0 && !clients.sees(ours) {
                    // Another machine may have our address where the server is, and would be its master.
                    return Err(
                        "it sees our connection come from elsewhere, by a tunnel or NAT (-o redis.replicate-from tells \
                            where it finds us)"
                            .into(),
                    );
                }
                Self {
                    loads,
                    listens: (ours.ip(), 0).into(),
                    peer: Some(theirs.ip()),
                    found_at: (ours.ip().to_canonical().to_string(), 0),
                    waiting,
                    replicas,
                }
            }
        })
    }

    /// What the server loads.
    pub(crate) fn loads(&self) -> Loads {
        self.loads
    }

    /// How it goes, for people.
    pub(crate) fn shown(&self) -> String {
        let place = match &self.found_at {
            (host, 0) => host.clone(),
            (host, port) => Address::Tcp(host.clone(), *port).to_string(),
        };
        let replicas = match self.replicas {
            0 => String::new(),
            1 => ", and its own replica loads all of it after that".into(),
            count => format!(", and its own {count} replicas load all of it after that"),
        };
        format!("the server is a replica of esker at {place} meanwhile{replicas}")
    }
}

/// Whether nothing else depends on whose replica it is.
pub(super) fn is_free(state: &State) -> std::result::Result<(), String> {
    if state.is_cluster_node() {
        return Err("a node of a cluster takes no REPLICAOF".into());
    }
    if !state.is_master() {
        return Err("it is a replica".into());
    }
    if state.needs_replicas() {
        // They would be out of step until each has loaded all, too.
        return Err("it takes writes only while its own replicas are in step (min-replicas-to-write)".into());
    }
    Ok(())
}

/// Who is connected to a server; nobody is known where the list is refused, which is rare where users are.
struct Clients(Option<String>);

impl Clients {
    fn of(client: &mut Client) -> Self {
        Self(redis::cmd("CLIENT").arg("LIST").query(client).ok())
    }

    /// Sentinels would take a master that becomes a replica for a failover.
    fn has_sentinel(&self) -> bool {
        self.0.as_ref().is_some_and(|clients| clients.contains(" name=sentinel-"))
    }

    /// Whether the server sees a connection from this address.
    fn sees(&self, address: SocketAddr) -> bool {
        let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let is_it = |word: &str| {
            let seen = word.strip_prefix("addr=").and_then(|seen| seen.parse().ok());
            seen.is_some_and(|seen| canonical(seen) == canonical(address))
        };
        self.0.as_ref().is_none_or(|clients| clients.split_ascii_whitespace().any(is_it))
    }
}

/// The version of the format that it writes, which is the newest that it loads, and its databases.
fn loads(client: &mut Client, state: &State) -> std::result::Result<Loads, String> {
    const WITH_FUNCTIONS: u32 = 7;
    let number = if state.major() < WITH_FUNCTIONS {
        // `RDB_VERSION` in `rdb.h` of Redis 5 to 6.2; older ones have 8.
        if state.major() >= 5 { 9 } else { 8 }
    } else {
        // Every payload says it; this one needs no key.
        let payload: RedisResult<Vec<u8>> = redis::cmd("FUNCTION").arg("DUMP").query(client);
        let payload = payload.map_err(|error| {
            format!("FUNCTION DUMP, which says its version, is refused: {}", words(&error))
        })?;
        let footer = payload.split_last_chunk::<FOOTER>().map(|(_, footer)| footer);
        footer.map_or(0, |footer| u16::from_le_bytes([footer[0], footer[1]]))
    };
    let databases = kept::get(client, "databases")?.and_then(|count| count.parse().ok());
    let databases = databases.ok_or("it does not say how many databases it has")?;
    Loads::of(number, databases)
        .ok_or_else(|| format!("it writes dumps of version {number}, which is too old"))
}

/// Whether the server would fetch the data in the way that the user reaches it.
fn is_plain(server: &Server, client: &mut Client, theirs: IpAddr) -> std::result::Result<(), String> {
    let tls = kept::get(client, "tls-replication")?.is_some_and(|value| *value == "yes");
    match (tls, server.tls.is_some() && !theirs.to_canonical().is_loopback()) {
        (true, _) => {
            Err("it fetches data over TLS alone (tls-replication yes), and esker has no certificate for that"
                .into())
        }
        (false, true) => Err("it would fetch the data without TLS (tls-replication no)".into()),
        (false, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_connected() {
        let clients = Clients(Some(
            "id=3 addr=127.0.0.1:4001 laddr=127.0.0.1:6379 fd=8 name=\nid=4 addr=[::1]:4002 name=x\n".into(),
        ));
        let sees = |text: &str| clients.sees(text.parse().unwrap());
        assert!(sees("127.0.0.1:4001") && sees("[::ffff:127.0.0.1]:4001") && sees("[::1]:4002"));
        assert!(!sees("127.0.0.1:6379") && !sees("127.0.0.1:4002") && !clients.has_sentinel());
        assert!(Clients(None).sees("127.0.0.1:1".parse().unwrap()));
        assert!(Clients(Some("id=3 addr=10.0.0.1:1 name=sentinel-0a-cmd ".into())).has_sentinel());
    }
}
