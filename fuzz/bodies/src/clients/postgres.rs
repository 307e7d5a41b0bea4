//! A session with PostgreSQL: its login, queries, COPY in either form, the stream of WAL.

use super::peer::say;
use crate::bounds::bounded;
use connector_postgres::connection::{Connection, PgError, PgResult};
use connector_postgres::copy::Copied;
use connector_postgres::physical::Cluster;
use connector_postgres::server::Server;
use connector_postgres::stream::Received;
use engine::connector::Context;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

/// Memory for one input: the buffer, and rows of nothing, which take 32 times what they are on the line.
const MOST: usize = 16 << 20;

/// How a session may log in: any way that a password may go, or one by which both ends prove that they know it.
static SERVERS: LazyLock<[Server; 2]> = LazyLock::new(|| {
    let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
    ["", "&require_auth=scram-sha-256"].map(|more| {
        let url = format!("postgres:///db?host=%2Ftmp&user=alice{more}");
        Server::parse(&url, &context).expect("a URL")
    })
});

/// Messages of the server: kind and body, as far as they are whole.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = vec![];
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some(body) = len.checked_sub(4).and_then(|len| rest.get(..len)) else { break };
        all.push((head[0], body));
        bytes = &rest[body.len()..];
    }
    all
}

/// What comes of a session with whoever says `words`.
fn with<T>(words: &[u8], login: Option<&Server>, run: impl FnOnce(Connection) -> PgResult<T>) -> PgResult<T> {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    std::thread::scope(|scope| {
        scope.spawn(move || say(theirs, words));
        bounded(MOST, || run(Connection::over(ours, login.map(|server| (server, "secret")))?))
    })
}

/// Which server, then what it says of a login.
pub(super) fn login(data: &[u8]) {
    let Some((which, words)) = data.split_first() else { return };
    let is_strict = which % 2 == 1;
    let version = with(words, Some(&SERVERS[usize::from(is_strict)]), |session| Ok(session.version()));
    let Ok(version) = version else { return };
    // Without the password nobody proves that he knows it.
    assert!(!is_strict, "a login without a proof");
    assert!(version < 1_000_000, "version {version}");
    let all = messages(words);
    let is_in = all.iter().position(|message| *message == (b'R', &[0, 0, 0, 0]));
    let is_in = is_in.expect("a login that the server let in");
    assert!(all[is_in..].iter().any(|(kind, _)| *kind == b'Z'), "a login that has ended");
}

/// What is asked, then what the server says.
pub(super) fn session(data: &[u8]) {
    let Some((what, words)) = data.split_first() else { return };
    let all = messages(words);
    let until = |kind: u8| all.iter().position(|(own, _)| *own == kind).unwrap_or(all.len());
    match what % 6 {
        0 => {
            let rows = with(words, None, |mut session| session.query_bytes(b"SELECT 1"));
            if let Ok(rows) = rows {
                let before = &all[..until(b'Z')];
                assert!(before.len() < all.len() && before.iter().all(|(kind, _)| *kind != b'E'));
                assert_eq!(rows.len(), before.iter().filter(|(kind, _)| *kind == b'D').count());
            }
        }
        1 => {
            let copied = with(words, None, |mut session| {
                session.begin_copy("COPY t TO STDOUT")?;
                let mut out = vec![];
                while let Copied::Data(data) = session.copied()? {
                    out.extend_from_slice(data);
                }
                Ok(out)
            });
            if let Ok(copied) = copied {
                let began = all.iter().position(|(kind, _)| b"GHW".contains(kind)).expect("a beginning");
                let ended = all[began..].iter().position(|(kind, _)| *kind == b'c').expect("an end") + began;
                let data = all[began..ended].iter().filter(|(kind, _)| *kind == b'd');
                assert_eq!(copied, data.map(|(_, body)| *body).collect::<Vec<_>>().concat());
            }
        }
        2 => {
            let ended = with(words, None, |mut session| {
                session.begin_copy("START_REPLICATION")?;
                while session.replication_data()?.is_some() {}
                Ok(())
            });
            assert!(ended.is_err(), "a line that is over is no silence");
        }
        3 => drop(with(words, None, |mut session| Cluster::identify(&mut session))),
        4 => {
            let some = with(words, None, |mut session| {
                session.begin_copy("COPY t TO STDOUT")?;
                let mut out = vec![];
                let goes_on = session.copy_some(&mut out, 64)?;
                Ok((goes_on, out.len()))
            });
            if let Ok((goes_on, len)) = some {
                assert!(len >= 64 || !goes_on);
            }
        }
        _ => {
            let ended = with(words, None, |mut session| {
                session.send_data(b"rows")?;
                session.finish_data()
            });
            if let Err(PgError::Refused { message, .. }) = ended {
                assert!(until(b'E') < all.len(), "{message}");
            }
        }
    }
}

/// Where the WAL begins and how long segments are, then messages of a stream, each behind its length.
pub(super) fn wal(data: &[u8]) {
    let Some((head, mut rest)) = data.split_first_chunk::<9>() else { return };
    let (first, bits) = head.split_at(8);
    let start = u64::from_le_bytes(first.try_into().expect("eight bytes"));
    let cluster = Cluster { segment_len: 1 << (20 + bits[0] % 11), ..Cluster::default() };
    let len = cluster.segment_len;
    bounded(MOST, || {
        let mut received = Received::new(cluster, start);
        while let Some((&[low, high], more)) = rest.split_first_chunk::<2>() {
            let (message, more) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([low, high]))));
            rest = more;
            let before = received.position();
            match received.take(message) {
                Ok(bytes) => assert_eq!(received.position(), before + bytes as u64),
                Err(_) => assert_eq!(received.position(), before),
            }
        }
        // One segment behind the other, each within its borders.
        let mut next = start;
        for (begins, bytes) in received.came() {
            assert_eq!(begins, next);
            assert!(bytes > 0 && begins % len + bytes <= len);
            next = begins + bytes;
        }
        assert_eq!(next, received.position());
    });
}
