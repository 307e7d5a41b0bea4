//! The set-up of a TLS connection, in a bounded time, and the error if it fails. A port without TLS sends no TLS error:
//! it is silent, closes the connection, or answers in its own protocol.

use super::tls;
use super::tls::Lines as _;
use super::tls::{Tls, Trust};
use super::waiting::Socket;
use rustls::ClientConnection;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest time for a connection to be set up, TCP or TLS.
pub const SET_UP: Duration = chunkstore::storage::reach::SET_UP;
/// How long a port that failed in plain text is asked whether it speaks TLS.
const QUESTION: Duration = Duration::from_secs(2);
/// Types of records that a server's first one has: alert and handshake (RFC 8446, section 5.1).
const FIRST_RECORDS: [u8; 2] = [0x15, 0x16];

/// A socket whose reads end in time.
pub trait Timed: Read + Write {
    /// Longest time that a read waits; for ever if `None`.
    ///
    /// # Errors
    /// The system's.
    fn read_within(&mut self, time: Option<Duration>) -> std::io::Result<()>;
}

impl Timed for TcpStream {
    fn read_within(&mut self, time: Option<Duration>) -> std::io::Result<()> {
        self.set_read_timeout(time)
    }
}

impl Timed for Socket {
    fn read_within(&mut self, time: Option<Duration>) -> std::io::Result<()> {
        self.waiting.set_patience(time);
        Ok(())
    }
}

/// Shakes hands within `limit`, for ever if `None`. The socket's time for a read is another one then.
///
/// # Errors
/// Why there is no connection over TLS, for people.
pub fn shake(
    connection: &mut ClientConnection,
    socket: &mut impl Timed,
    limit: Option<Duration>,
) -> Result<(), String> {
    let began = Instant::now();
    let silent = || {
        let seconds = limit.unwrap_or_default().as_secs();
        format!("no TLS handshake within {seconds} s: does this port speak TLS?")
    };
    let mut has_heard = false;
    let broken = |error: std::io::Error, has_heard: bool| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
        _ if has_heard => format!("the TLS handshake broke off: {error}"),
        _ => format!("no TLS handshake: {error}; does this port speak TLS?"),
    };
    while connection.is_handshaking() || connection.wants_write() {
        while connection.wants_write() {
            connection.write_tls(socket).map_err(|error| broken(error, has_heard))?;
        }
        if !connection.is_handshaking() {
            break;
        }
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(silent());
        }
        socket.read_within(left).map_err(|error| error.to_string())?;
        match connection.read_tls(socket) {
            Ok(0) if has_heard => return Err("the server hung up during the TLS handshake".into()),
            Ok(0) => return Err("the server hung up: does this port speak TLS?".into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(error, has_heard)),
        }
        match connection.process_new_packets() {
            Ok(_) => has_heard = true,
            Err(error @ rustls::Error::InvalidMessage(_)) if !has_heard => {
                return Err(format!("the answer is no TLS: does this port speak TLS? ({error})"));
            }
            Err(error) => {
                // Tells the server why; it may be gone.
                let _ = connection.write_tls(socket);
                return Err(tls::plain(&error.to_string()));
            }
        }
    }
    Ok(())
}

/// Whether what listens there answers a TLS client's first message in TLS, be it with a refusal.
#[must_use]
pub fn speaks_tls(address: &SocketAddr) -> bool {
    let asked = || -> Option<[u8; 2]> {
        let mut stream = TcpStream::connect_timeout(address, QUESTION).ok()?;
        stream.set_read_timeout(Some(QUESTION)).ok()?;
        let mut connection =
            Tls::default().connect_trusting(&address.ip().to_string(), Trust::Anyone).ok()?;
        while connection.wants_write() {
            connection.write_tls(&mut stream).ok()?;
        }
        let mut first = [0; 2];
        stream.read_exact(&mut first).ok()?;
        Some(first)
    };
    // The second byte is the major version, 3 since SSL 3.0.
    asked().is_some_and(|[kind, major]| FIRST_RECORDS.contains(&kind) && major == 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a handshake says of a server that does `act` with its one connection.
    fn told(act: impl FnOnce(TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let theirs = std::thread::spawn(move || act(listener.accept().unwrap().0));
        let mut socket = TcpStream::connect(address).unwrap();
        let mut connection = Tls::default().connect_trusting("127.0.0.1", Trust::Anyone).unwrap();
        let limit = Some(Duration::from_millis(400));
        let began = Instant::now();
        let told = shake(&mut connection, &mut socket, limit).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "{told}");
        drop(socket);
        theirs.join().unwrap();
        told
    }

    #[test]
    fn ports_that_do_not_speak_tls() {
        let silence = |mut stream: TcpStream| {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        };
        let other_protocol = |mut stream: TcpStream| {
            let _ = stream.write_all(b"-ERR unknown command\r\n");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        };
        // A record of a handshake that never ends: each byte comes in time, the whole does not.
        let drip = |mut stream: TcpStream| {
            for byte in [0x16, 3, 3, 1, 0].into_iter().chain(std::iter::repeat_n(0, 40)) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        for told in [told(silence), told(other_protocol), told(drip), told(drop)] {
            assert!(told.contains("does this port speak TLS?"), "{told}");
        }
    }

    #[test]
    fn a_port_in_plain_text_is_none_of_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let theirs = std::thread::spawn(move || {
            let _ = listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        assert!(!speaks_tls(&address));
        theirs.join().unwrap();
    }
}
