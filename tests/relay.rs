//! A line to a server that breaks when it is told to.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Passes bytes on from a server until so many have come, over all connections, then hangs up and refuses.
pub(crate) struct Relay {
    pub(crate) port: u16,
    left: Arc<AtomicU64>,
}

impl Relay {
    pub(crate) fn to(server: u16, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU64::new(bytes));
        let relay = Self { port, left: Arc::clone(&left) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, left) = (client.unwrap(), Arc::clone(&left));
                std::thread::spawn(move || pass_on(&client, server, &left));
            }
        });
        relay
    }

    /// So many from now on.
    pub(crate) fn allow(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }
}

/// One that breaks once.
pub(crate) fn cut_after(server: u16, bytes: u64) -> u16 {
    Relay::to(server, bytes).port
}

/// One connection of it.
fn pass_on(client: &TcpStream, server: u16, left: &AtomicU64) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let (mut up, mut asked) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut asked, &mut up));
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = (&server).read(&mut buffer) {
        let before = left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(len as u64)));
        let allowed = (before.unwrap() as usize).min(len);
        if (&*client).write_all(&buffer[..allowed]).is_err() || allowed < len {
            break;
        }
    }
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

/// How often each source is cut off.
pub(crate) fn cuts() -> u64 {
    std::env::var("ESKER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}
