//! A line to a server that breaks when it is told to.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

/// Passes everything on, but can hold back what the server says on connections whose client has said a word: a stalled
/// line, on which nothing is lost and nobody hangs up.
pub(crate) struct Dam {
    pub(crate) port: u16,
    is_closed: Arc<AtomicBool>,
}

impl Dam {
    pub(crate) fn before(server: u16, word: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_closed = Arc::new(AtomicBool::new(false));
        let dam = Self { port, is_closed: Arc::clone(&is_closed) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, is_closed) = (client.unwrap(), Arc::clone(&is_closed));
                std::thread::spawn(move || flow(&client, server, word.as_bytes(), &is_closed));
            }
        });
        dam
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }
}

/// One connection of it.
fn flow(client: &TcpStream, server: u16, word: &[u8], is_closed: &AtomicBool) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let (mut up, mut asked) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let is_meant = Arc::new(AtomicBool::new(false));
    let (heard, word) = (Arc::clone(&is_meant), word.to_vec());
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(len @ 1..) = asked.read(&mut buffer) {
            if buffer[..len].windows(word.len()).any(|part| part == word) {
                heard.store(true, Ordering::Relaxed);
            }
            if up.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = up.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 16 << 10];
    while let Ok(len @ 1..) = (&server).read(&mut buffer) {
        while is_meant.load(Ordering::Relaxed) && is_closed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if (&*client).write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

/// How often each source is cut off.
pub(crate) fn cuts() -> u64 {
    std::env::var("ESKER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}
