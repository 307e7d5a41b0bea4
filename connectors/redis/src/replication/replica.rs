//! The server as a replica of ours: its connection, from the greeting to the last byte of the dump.
//! Source: redis.io/docs, "Redis replication", and the handshake of `syncWithMaster` in `replication.c`.

use crate::resp::encode;
use crate::server::link::is_silence;
use chunkstore::env::{Env as _, SystemEnv};
use chunkstore::id::to_hex;
use chunkstore::threads;
use connector_kit::waiting::{Socket, Waiting};
use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a connection has for its greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Greetings at a time: whoever connects and is silent keeps no other out.
const MAX_GREETINGS: usize = 32;
/// How often it is looked whether a server connects, and what it says.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a server that has loaded hears of us; it gives its master up after a minute of silence (`repl-timeout`).
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Words of a command, and bytes of one.
const MAX_WORDS: usize = 32;
const MAX_WORD: usize = 16 << 10;
/// Longest line of the protocol: a length.
const MAX_LINE: u64 = 64;
/// Commands before `PSYNC`; a replica sends six or so.
const MAX_COMMANDS: usize = 64;
/// Length of the mark that ends a dump of unknown length, and of a replication id, in hexadecimal digits.
const MARK: usize = 40;

/// Where the server is to connect.
pub(super) struct Listener {
    listener: TcpListener,
    /// Who may; anybody who knows the secret, if a server is behind another address.
    peer: Option<IpAddr>,
    waiting: Waiting,
}

impl Listener {
    /// Listens; on a free port if `at` has none.
    pub(super) fn bind(at: SocketAddr, peer: Option<IpAddr>, waiting: Waiting) -> Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, peer: peer.map(|peer| peer.to_canonical()), waiting })
    }

    pub(super) fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// The one connection that knows the secret, up to its request for all data. Others are hung up on, at the latest when
    /// their time is over.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) fn accept(
        &self,
        secret: &str,
        within: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> std::result::Result<Replica, String> {
        let deadline = Instant::now() + within;
        let secret = Arc::new(Zeroizing::new(secret.to_owned()));
        let (sender, greeted) = mpsc::channel();
        let mut greetings = 0;
        let mut why = format!("it did not connect to us within {} s", within.as_secs());
        while Instant::now() < deadline && !is_over() {
            while let Ok((from, done)) = greeted.try_recv() {
                greetings -= 1;
                match done {
                    Ok(replica) => return Ok(replica),
                    Err(error) => why = format!("the greeting of {from} failed: {error}"),
                }
            }
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_silence(&error) || error.kind() == ErrorKind::Interrupted => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(format!("nobody can connect to us: {error}")),
            };
            let from = from.ip().to_canonical();
            if self.peer.is_some_and(|peer| peer != from) {
                why = format!("somebody connected to us from {from}, which is not its address");
                continue;
            }
            if greetings >= MAX_GREETINGS {
                why = format!("{greetings} connections at once, all silent");
                continue;
            }
            let (secret, sender, waiting) = (Arc::clone(&secret), sender.clone(), self.waiting.clone());
            let started = threads::start("esker-greeting", move || {
                let done = Socket::accepted(stream, waiting).and_then(|socket| greet(socket, &secret));
                // Nobody waits any more: so it is hung up on.
                let _ = sender.send((from, done));
            });
            match started {
                Ok(_) => greetings += 1,
                Err(error) => why = format!("nobody can be greeted: {error}"),
            }
        }
        Err(why)
    }
}

/// The connection, which waits for the dump.
pub(super) struct Replica {
    stream: BufReader<Socket>,
}

/// What its replies say until it asks for data.
fn greet(mut socket: Socket, secret: &str) -> Result<Replica> {
    socket.stream().set_nodelay(true)?;
    socket.waiting.set_patience(Some(GREETING));
    socket.waiting.set_deadline(Some(GREETING));
    let mut stream = BufReader::new(socket);
    let mut is_known = false;
    for _ in 0..MAX_COMMANDS {
        let words = command(&mut stream)?;
        let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let reply: &[u8] = match (name.as_slice(), is_known) {
            (b"PING", _) => b"+PONG\r\n",
            (b"AUTH", _) => {
                let given = words.last().map(Vec::as_slice).unwrap_or_default();
                if !same(given, secret.as_bytes()) {
                    // Whoever it is learns nothing else.
                    let _ = stream.get_mut().write_all(b"-WRONGPASS invalid password\r\n");
                    return Err(Error::other("it does not know the secret"));
                }
                is_known = true;
                b"+OK\r\n"
            }
            (_, false) => return Err(Error::other("it does not log in")),
            (b"REPLCONF", true) => b"+OK\r\n",
            (b"PSYNC", true) => {
                let id = random_hex()?;
                stream.get_mut().write_all(format!("+FULLRESYNC {id} 0\r\n").as_bytes())?;
                stream.get_mut().waiting.set_deadline(None);
                stream.get_mut().waiting.set_patience(None);
                return Ok(Replica { stream });
            }
            _ => b"-ERR unknown command\r\n",
        };
        stream.get_mut().write_all(reply)?;
    }
    Err(Error::other("it does not ask for data"))
}

/// Whether two texts are the same, in a time that does not say where they differ.
fn same(one: &[u8], two: &[u8]) -> bool {
    blake3::hash(one) == blake3::hash(two)
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; MARK / 2];
    SystemEnv.random(&mut bytes).map_err(Error::other)?;
    Ok(to_hex(&bytes))
}

/// The next command: words, each with its length.
fn command(stream: &mut BufReader<Socket>) -> Result<Vec<Vec<u8>>> {
    let count = number(stream, b'*', MAX_WORDS)?;
    let mut words = vec![];
    for _ in 0..count {
        let len = number(stream, b'$', MAX_WORD)?;
        let mut word = vec![0; len + 2];
        stream.read_exact(&mut word)?;
        word.truncate(len);
        words.push(word);
    }
    Ok(words)
}

fn number(stream: &mut BufReader<Socket>, mark: u8, most: usize) -> Result<usize> {
    let mut line = vec![];
    stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let digits = line.strip_prefix(&[mark]).and_then(|rest| std::str::from_utf8(rest.trim_ascii_end()).ok());
    let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| *number <= most);
    number.ok_or_else(|| Error::new(ErrorKind::InvalidData, "this is no command of a replica"))
}

impl Replica {
    /// One that has been greeted, and the other end of its connection.
    #[cfg(test)]
    pub(super) fn pair() -> (Self, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        (Self { stream: BufReader::new(Socket::accepted(ours, Waiting::default()).unwrap()) }, theirs)
    }

    /// Something that ends every wait of it, from another thread.
    pub(super) fn hang_up(&self) -> Result<HangUp> {
        self.stream.get_ref().stream().try_clone().map(HangUp)
    }

    /// Sends a dump of unknown length, as `write` writes it.
    pub(super) fn send<T, E: From<Error>>(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mark = random_hex().map_err(E::from)?;
        let socket = self.stream.get_mut();
        socket.write_all(format!("$EOF:{mark}\r\n").as_bytes()).map_err(E::from)?;
        let written = write(socket)?;
        socket.write_all(mark.as_bytes()).map_err(E::from)?;
        Ok(written)
    }

    /// Stays connected until it `is_over`. A replica says how far it is once it has loaded; before that it gets nothing, because
    /// what follows the mark is of the dump for some. The lines of life go to it in the form of a master's `PING`.
    ///
    /// # Errors
    /// That the server hung up.
    pub(super) fn stay(&mut self, is_over: &AtomicBool) -> Result<()> {
        let (mut has_spoken, mut last) = (false, Instant::now());
        let mut buffer = [0; 4096];
        self.stream.get_mut().waiting.set_patience(Some(PAUSE));
        while !is_over.load(Ordering::Relaxed) {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                // Line feeds are what it sends while it loads.
                Ok(len) => has_spoken |= buffer[..len].iter().any(|byte| *byte != b'\n'),
                Err(error) if is_silence(&error) || error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if has_spoken && last.elapsed() >= SIGN_OF_LIFE {
                last = Instant::now();
                self.stream.get_mut().write_all(&encode(&[b"PING"]))?;
            }
        }
        Ok(())
    }
}

/// Ends the waits of a [`Replica`].
pub(super) struct HangUp(TcpStream);

impl HangUp {
    pub(super) fn now(&self) {
        // Already closed: so much the better.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SECRET: &str = "esker-1-00ff";

    fn listener() -> Listener {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        Listener::bind((here, 0).into(), Some(here), Waiting::default()).unwrap()
    }

    /// What a client hears that says `words`, and what becomes of it here.
    fn met(words: &[&[&[u8]]]) -> (String, std::result::Result<(), String>) {
        let listener = listener();
        let port = listener.port().unwrap();
        let said: Vec<u8> = words.iter().flat_map(|words| encode(words)).collect();
        let theirs = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&said).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            heard
        });
        let accepted = listener.accept(SECRET, Duration::from_secs(1), &|| false).map(drop);
        (theirs.join().unwrap(), accepted)
    }

    #[test]
    fn a_replica_that_knows_the_secret_is_sent_all_data() {
        let (heard, done) = met(&[
            &[b"PING"],
            &[b"AUTH", SECRET.as_bytes()],
            &[b"REPLCONF", b"listening-port", b"6379"],
            &[b"replconf", b"capa", b"eof", b"capa", b"psync2"],
            &[b"PSYNC", b"?", b"-1"],
        ]);
        done.unwrap();
        let lines: Vec<&str> = heard.split("\r\n").collect();
        assert_eq!(lines[..4], ["+PONG", "+OK", "+OK", "+OK"]);
        assert!(lines[4].starts_with("+FULLRESYNC ") && lines[4].ends_with(" 0"), "{heard}");
        assert_eq!(lines[4].len(), "+FULLRESYNC  0".len() + MARK);
    }

    #[test]
    fn others_get_nothing() {
        let (heard, done) = met(&[&[b"AUTH", b"esker-1-00fe"], &[b"PSYNC", b"?", b"-1"]]);
        assert!(heard.starts_with("-WRONGPASS") && !heard.contains("FULLRESYNC"), "{heard}");
        assert!(done.unwrap_err().contains("does not know the secret"));
        let (heard, done) = met(&[&[b"PING"], &[b"PSYNC", b"?", b"-1"]]);
        assert!(!heard.contains("FULLRESYNC"), "{heard}");
        assert!(done.unwrap_err().contains("does not log in"));
        let many = [&b"PING"[..]; MAX_WORDS + 1];
        assert!(met(&[&many]).1.unwrap_err().contains("no command of a replica"));
        let long = vec![b'x'; MAX_WORD + 1];
        assert!(met(&[&[b"AUTH", &long]]).1.is_err());
        assert!(met(&[]).1.is_err());
    }

    #[test]
    fn whoever_is_silent_keeps_nobody_out() {
        let listener = listener();
        let address = ("127.0.0.1", listener.port().unwrap());
        let silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut replica = TcpStream::connect(address).unwrap();
        replica
            .write_all(&[encode(&[b"AUTH", SECRET.as_bytes()]), encode(&[b"PSYNC", b"?", b"-1"])].concat())
            .unwrap();
        let began = Instant::now();
        listener.accept(SECRET, GREETING, &|| false).map(drop).unwrap();
        assert!(began.elapsed() < GREETING / 2);
        drop(silent);
    }

    /// One dump for one request, whatever follows it, and none for who hangs up.
    #[test]
    fn data_are_sent_once() {
        let listener = listener();
        let address = ("127.0.0.1", listener.port().unwrap());
        let mut theirs = TcpStream::connect(address).unwrap();
        let psync = encode(&[b"PSYNC", b"?", b"-1"]);
        theirs
            .write_all(&[encode(&[b"AUTH", SECRET.as_bytes()]), psync.clone(), psync.clone()].concat())
            .unwrap();
        let mut replica = listener.accept(SECRET, GREETING, &|| false).unwrap();
        replica.send(|to| to.write_all(b"the dump")).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stays = scope.spawn(|| replica.stay(&is_over));
            theirs.write_all(&psync).unwrap();
            std::thread::sleep(PAUSE * 5);
            assert!(!stays.is_finished());
            theirs.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stays.join().unwrap().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        });
        drop(replica);
        let mut heard = String::new();
        // What it said and nobody read resets the connection.
        let _ = theirs.read_to_string(&mut heard);
        assert_eq!(
            (heard.matches("FULLRESYNC").count(), heard.matches("the dump").count()),
            (1, 1),
            "{heard}"
        );
        let mut gone = TcpStream::connect(address).unwrap();
        gone.write_all(&[encode(&[b"AUTH", SECRET.as_bytes()]), psync].concat()).unwrap();
        let mut replica = listener.accept(SECRET, GREETING, &|| false).unwrap();
        drop(gone);
        let many = vec![0; 1 << 20];
        assert!((0..64).any(|_| replica.send(|to| to.write_all(&many)).is_err()));
    }

    #[test]
    fn the_peer_is_looked_at() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let elsewhere = "192.0.2.1".parse().unwrap();
        let listener = Listener::bind((here, 0).into(), Some(elsewhere), Waiting::default()).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", listener.port().unwrap())).unwrap();
        let told = listener.accept(SECRET, Duration::from_millis(300), &|| false).err().unwrap();
        assert!(told.contains("from 127.0.0.1, which is not its address"), "{told}");
        drop(stream);
        let told = listener.accept(SECRET, Duration::from_millis(50), &|| false).err().unwrap();
        assert!(told.contains("did not connect"), "{told}");
    }
}
