//! What a Redis says: answers to commands, and a full resynchronisation.

use super::peer::Socket;
use crate::bounds::bounded;
use connector_redis::server::Server;
use connector_redis::server::client::parse_answer;
use connector_redis::server::link::{Link, Stop};
use connector_redis::server::transfer::Transfer;
use engine::connector::Context;
use std::io::Read as _;
use std::sync::LazyLock;

/// Memory for one input: what it takes by itself is counted, with a margin; 1 MiB is taken before it comes.
const MOST: usize = 32 << 20;

struct Peer {
    socket: Socket,
    server: Server,
}

static PEER: LazyLock<Peer> = LazyLock::new(|| {
    let socket = Socket::new("redis");
    let url = format!("redis+unix://{}", socket.folder().join("redis").display());
    let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
    let server = Server::new(&url.parse().expect("a URL"), &context).expect("a server");
    Peer { socket, server }
});

/// One answer, by itself and over a line, which says the same.
pub(super) fn answer(data: &[u8]) {
    let alone = bounded(MOST, || parse_answer(data));
    PEER.socket.says([b"+PONG\r\n", data].concat());
    let over = bounded(MOST, || PEER.server.connect().expect("a line").answer());
    match (alone, over) {
        (Ok(alone), Ok(over)) => assert!(alone == over || format!("{alone:?}") == format!("{over:?}")),
        (Err(_), Err(_)) => {}
        (alone, over) => panic!("{alone:?} by itself, {over:?} over a line"),
    }
}

/// The answer to PSYNC, and what follows.
pub(super) fn transfer(data: &[u8]) {
    PEER.socket.says([b"+PONG\r\n", data].concat());
    let came = bounded(MOST, || {
        let mut link = Link::open(&PEER.server, &Stop::default()).ok()?;
        let reply = link.line().ok()?;
        let mut transfer = Transfer::follow(link, &reply).ok()?;
        let mut out = vec![];
        transfer.read_to_end(&mut out).ok()?;
        Some(out)
    });
    // It is the bytes between two marks, or as many as were announced.
    let Some(came) = came else { return };
    let mut rest = data;
    let mut line = || loop {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, more) = rest.split_at(end);
        rest = &more[1..];
        if !line.trim_ascii().is_empty() {
            return line.trim_ascii_end();
        }
    };
    assert!(line().starts_with(b"+FULLRESYNC "));
    let head = line();
    assert!(rest.starts_with(&came));
    let behind = &rest[came.len()..];
    match head.strip_prefix(b"$EOF:") {
        Some(mark) if mark.len() == 40 => assert!(behind.starts_with(mark)),
        _ => assert_eq!(head, format!("${}", came.len()).as_bytes()),
    }
}
