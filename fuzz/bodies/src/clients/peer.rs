//! The other end of a line: it says what it was given, whatever it hears.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// In what is said, the place of the client's nonce, which has as many bytes (SCRAM, RFC 5802).
pub(crate) const NONCE: &[u8; 24] = b"NONCE-OF-THE-CLIENT-HERE";

/// How long the nonce of a client is waited for.
const PATIENCE: Duration = Duration::from_millis(20);

/// Says `words`, hears what comes, hangs up. What a client says meanwhile fits into the socket.
pub(crate) fn say(mut stream: UnixStream, words: &[u8]) {
    let own = words.windows(NONCE.len()).position(|some| some == NONCE);
    let said = match own {
        // A message's head, and `r=`, stand before it.
        Some(at) => {
            let (before, after) = words.split_at(at.saturating_sub(11));
            stream.write_all(before).and_then(|()| {
                let nonce = nonce(&mut stream)?;
                let own = at - before.len();
                let all = [&after[..own], &nonce, &after[own + NONCE.len()..]].concat();
                stream.write_all(&all)
            })
        }
        None => stream.write_all(words),
    };
    // A client may have had enough.
    let _ = said.and_then(|()| stream.shutdown(Shutdown::Write));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// What stands behind `r=` in what is heard; nothing comes from a client that was asked for something else.
fn nonce(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut heard, mut part) = (vec![], [0; 512]);
    loop {
        let len = stream.read(&mut part).unwrap_or_default();
        heard.extend_from_slice(&part[..len]);
        let at = heard.windows(3).position(|some| some == b",r=");
        match at.and_then(|at| heard.get(at + 3..at + 3 + NONCE.len())) {
            Some(nonce) => {
                stream.set_read_timeout(None)?;
                return Ok(nonce.to_vec());
            }
            None if len == 0 => {
                stream.set_read_timeout(None)?;
                return Ok(NONCE.to_vec());
            }
            None => {}
        }
    }
}

/// What listeners say.
type Said = Arc<Mutex<Vec<u8>>>;

fn words(said: &Said) -> Vec<u8> {
    said.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Says the same to each who calls at a Unix socket.
pub(crate) struct Socket {
    folder: PathBuf,
    said: Said,
}

impl Socket {
    /// Listens at `name` in a folder of its own, which the process leaves behind in the system's folder for such.
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("esker-fuzz-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("a folder for a socket");
        let listener = UnixListener::bind(folder.join(name)).expect("a socket");
        let said = Said::default();
        let theirs = Arc::clone(&said);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = words(&theirs);
                std::thread::spawn(move || say(stream, &all));
            }
        });
        Self { folder, said }
    }

    /// From now on it says this.
    pub(crate) fn says(&self, words: Vec<u8>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Between the answers of an HTTP server.
const NEXT: &[u8] = b"\n\0\n";

/// Answers requests one after the other, each with the next of its answers, and hangs up after each.
pub(crate) struct Web {
    port: u16,
    said: Said,
}

impl Web {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let said = Said::default();
        let theirs = Arc::clone(&said);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let next = {
                    let mut all = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                    let end = all.windows(NEXT.len()).position(|some| some == NEXT);
                    let rest = end.map_or(vec![], |end| all[end + NEXT.len()..].to_vec());
                    let mut next = std::mem::replace(&mut *all, rest);
                    next.truncate(end.unwrap_or(next.len()));
                    next
                };
                // The client may have had enough.
                let _ = answer(stream, &next);
            }
        });
        Self { port, said }
    }

    /// From now on it has these answers.
    pub(crate) fn says(&self, words: Vec<u8>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = words;
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Hears a request, and says `words`: an answer with its head, or the body of one that is well.
fn answer(mut stream: TcpStream, words: &[u8]) -> std::io::Result<()> {
    let (mut heard, mut part) = (vec![], [0; 4096]);
    let end = loop {
        let len = stream.read(&mut part)?;
        heard.extend_from_slice(&part[..len]);
        match heard.windows(4).position(|some| some == b"\r\n\r\n") {
            Some(end) => break end + 4,
            None if len == 0 => return Ok(()),
            None => {}
        }
    };
    let head = String::from_utf8_lossy(&heard[..end]).to_lowercase();
    let len = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    while heard.len() - end < len.unwrap_or(0) {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            len => heard.extend_from_slice(&part[..len]),
        }
    }
    if !words.starts_with(b"HTTP/") {
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            words.len()
        );
        stream.write_all(head.as_bytes())?;
    }
    stream.write_all(words)?;
    stream.shutdown(Shutdown::Write)
}
