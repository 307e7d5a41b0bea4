//! The service manager that waits for our word, if there is one. Source: sd_notify(3), "Notes".

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A line to it.
pub(crate) struct Manager(Option<(UnixDatagram, SocketAddr)>);

impl Manager {
    /// The one that `NOTIFY_SOCKET` names; none, and nothing is told to anybody.
    pub(crate) fn from_environment() -> Self {
        let place = std::env::var_os("NOTIFY_SOCKET");
        Self(place.and_then(|place| Some((UnixDatagram::unbound().ok()?, address(&place)?))))
    }

    /// Tells it something; a manager that does not listen is no reason to stop.
    pub(crate) fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}

/// A path, or a name in the abstract namespace after `@`.
fn address(place: &OsStr) -> Option<SocketAddr> {
    match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(place).ok(),
        _ => None,
    }
}
