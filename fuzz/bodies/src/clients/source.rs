//! Whole sources, from the first question to the last byte, over a line to whoever says what the input holds.

use super::peer::Socket;
use super::postgres::messages;
use crate::bounds::bounded;
use engine::connector::Context;
use engine::entry::{Time, is_valid_path};
use engine::monitor::Tally;
use engine::source::{Piece, SourceError};
use std::sync::LazyLock;

/// Memory for one input: buffers of a connection and of what puts a dump in order.
const MOST: usize = 96 << 20;
/// What a source gives of one input, in bytes and in pieces: what comes is a few KiB, and a hole is as short to write down.
const MOST_PIECES: usize = 1 << 20;

/// Reads all of a source.
fn drain(url: &str) -> Result<(), SourceError> {
    let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
    let monitor = Tally::default();
    let mut source = connectors::open(url, Time::default(), &context)?;
    source.start([1, 2])?;
    let (mut buffer, mut pieces) = (vec![0; 64 << 10], 0);
    while let Some(item) = source.next_item(&monitor)? {
        assert!(is_valid_path(&item.entry.path), "{:?}", item.entry.path);
        let Some(open) = item.content else { continue };
        let mut content = open()?;
        while content.read(&mut buffer)? != Piece::End {
            pieces += 1;
            assert!(pieces < MOST_PIECES, "a content without end");
        }
    }
    let _ = (source.records(), source.paths());
    Ok(())
}

/// A base backup of PostgreSQL.
pub(super) fn base_backup(data: &[u8]) {
    static SOCKET: LazyLock<Socket> = LazyLock::new(|| Socket::new(".s.PGSQL.5432"));
    SOCKET.says(data.to_vec());
    let host = SOCKET.folder().display().to_string().replace('/', "%2F");
    let done = bounded(MOST, || drain(&format!("postgres+physical:///?host={host}&user=alice")));
    // One that is cut off is none: behind its archives it says where it ends, and nothing else.
    if done.is_ok() {
        let all = messages(data);
        let end = all.iter().position(|(kind, _)| *kind == b'c').expect("an end of the archives");
        let behind: Vec<u8> = all[end..].iter().map(|(kind, _)| *kind).collect();
        let ready = behind.iter().position(|kind| *kind == b'Z').expect("an end of the answer");
        assert!(behind[..ready].contains(&b'D') && !behind[..ready].contains(&b'E'), "{behind:?}");
    }
}

/// All keys of a Redis, one by one or by its replication.
pub(super) fn redis(data: &[u8]) {
    let Some((how, words)) = data.split_first() else { return };
    let _ = bounded(MOST, || keys(*how, words));
}

fn keys(how: u8, words: &[u8]) -> Result<(), SourceError> {
    static SOCKET: LazyLock<Socket> = LazyLock::new(|| Socket::new("redis-all"));
    SOCKET.says([b"+PONG\r\n", words].concat());
    let scheme = ["redis+unix", "redis+scan+unix"][usize::from(how % 2)];
    drain(&format!("{scheme}://{}", SOCKET.folder().join("redis-all").display()))
}

#[cfg(test)]
mod tests {
    use crate::clients::seeds;

    /// Mutations of what is refused at once would find nothing.
    #[test]
    fn what_honest_servers_say_is_taken() {
        let said = &seeds::of("pgbase")[0];
        let socket = super::Socket::new(".s.PGSQL.5432");
        socket.says(said.clone());
        let host = socket.folder().display().to_string().replace('/', "%2F");
        super::drain(&format!("postgres+physical:///?host={host}&user=alice")).unwrap();
        let said = &seeds::of("redis")[1];
        super::keys(said[0], &said[1..]).unwrap();
    }
}
