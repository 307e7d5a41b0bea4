//! WAL as a server sends it, cut into segments. Nothing that a server says of positions and times is computed with unchecked.
//! Source: PostgreSQL's documentation, "Streaming Replication Protocol", `XLogData`, "Primary keepalive message".

use crate::physical::Cluster;
use crate::wal::{self, EPOCH_2000, Transactions};
use engine::entry::Time;
use engine::growing::{Tail, time_of};

/// A segment of WAL in the snapshot.
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) time: Time,
    /// Until all of it is in the last snapshot.
    pub(super) bytes: Option<Tail>,
}

/// What came, and how far it goes.
pub struct Received {
    pub(super) cluster: Cluster,
    pub(super) segments: Vec<Segment>,
    /// Up to here it was received.
    pub(super) position: u64,
    /// Up to here the server has sent it in this session: what came in an earlier one is sent again, and compared.
    pub(super) sent: u64,
    /// Whether what was sent again is something else.
    pub(super) differs: bool,
    /// The server's clock when it sent the last message, in milliseconds since 1970.
    pub(super) server_ms: u64,
}

impl Received {
    /// Nothing yet: the next to come stands at `position`. The cluster's segments have a length that there is
    /// ([`wal::is_segment_len`]).
    #[must_use]
    pub fn new(cluster: Cluster, position: u64) -> Self {
        Self { cluster, segments: vec![], position, sent: position, differs: false, server_ms: 0 }
    }

    /// Where a session has to begin: at the beginning of the last segment, whose bytes are here.
    pub(super) fn begin(&mut self) -> u64 {
        let last = self.segments.last().filter(|last| last.bytes.is_some());
        self.sent = last.map_or(self.position, |last| last.start);
        self.sent
    }

    /// Up to where it was received.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The bytes that came since the last snapshot, one segment after the other: where each begins, and how long it is.
    pub fn came(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments
            .iter()
            .filter_map(|segment| Some((segment.start, segment.bytes.as_ref()?.as_ref().len() as u64)))
    }

    /// Takes a message of the server; returns how many bytes of WAL it held.
    ///
    /// # Errors
    /// A message that does not go on where the last one ended, or is none.
    pub fn take(&mut self, message: &[u8]) -> Result<usize, String> {
        match message.first() {
            Some(b'w') => self.append(message),
            Some(b'k') => self.alive(message),
            _ => Ok(0),
        }
    }

    /// WAL: where it begins, how far the server is, and when it sent it.
    fn append(&mut self, message: &[u8]) -> Result<usize, String> {
        let (Some(start), Some(time), Some(data)) =
            (number(message, 1), number(message, 17), message.get(25..))
        else {
            return Err("a message of WAL that is too short".into());
        };
        if start != self.sent {
            return Err(format!("a gap in the WAL: {} after {}", wal::shown(start), wal::shown(self.sent)));
        }
        let len = self.cluster.segment_len;
        // No segment ends behind the last position that there is.
        if start.checked_add(data.len() as u64).and_then(|end| end.checked_next_multiple_of(len)).is_none() {
            return Err(format!("WAL at {}, where there is no more room for any", wal::shown(start)));
        }
        let sent_ms = milliseconds(time);
        self.server_ms = self.server_ms.max(sent_ms);
        let again = self.position.saturating_sub(self.sent).min(data.len() as u64);
        let (again, mut rest) = data.split_at(again as usize);
        self.compare(again)?;
        while !rest.is_empty() {
            let within = self.position % len;
            let (now, later) = rest.split_at(((len - within) as usize).min(rest.len()));
            let grows = |last: &&mut Segment| within > 0 && last.start / len == self.position / len;
            match self.segments.last_mut().filter(grows) {
                Some(last) => last.bytes.get_or_insert_default().bytes_mut().extend_from_slice(now),
                None => {
                    let mut bytes = Tail::default();
                    bytes.bytes_mut().extend_from_slice(now);
                    let time = time_of(sent_ms);
                    self.segments.push(Segment { start: self.position, time, bytes: Some(bytes) });
                }
            }
            self.position += now.len() as u64;
            self.sent = self.position;
            rest = later;
        }
        Ok(data.len())
    }

    /// What is sent again must be what came before.
    fn compare(&mut self, again: &[u8]) -> Result<(), String> {
        if again.is_empty() {
            return Ok(());
        }
        let own = self.segments.last().and_then(|last| {
            let at = usize::try_from(self.sent.checked_sub(last.start)?).ok()?;
            last.bytes.as_ref()?.as_ref().get(at..)?.get(..again.len())
        });
        if own != Some(again) {
            self.differs = true;
            return Err(format!(
                "the server's WAL from {} on is not what the stream has: it is another history of the cluster",
                wal::shown(self.sent)
            ));
        }
        self.sent += again.len() as u64;
        Ok(())
    }

    /// A sign of life: how far the server has sent, which says nothing of how far its WAL goes, and what time it is.
    fn alive(&mut self, message: &[u8]) -> Result<usize, String> {
        if let Some(time) = number(message, 9) {
            self.server_ms = self.server_ms.max(milliseconds(time));
        }
        Ok(0)
    }

    /// The end of the last transaction in what came, in milliseconds since 1970; 0 if there is none. Transactions stand in
    /// the WAL in the order in which they ended, so no earlier one can follow.
    pub(super) fn last_transaction_ms(&self) -> u64 {
        let mut found = Transactions::default();
        self.segments
            .iter()
            .filter_map(|segment| segment.bytes.as_ref())
            .for_each(|bytes| found.read(bytes.as_ref()));
        found.last_us.map_or(0, |us| (us / 1000).max(0) as u64)
    }
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn number(message: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?))
}

/// The server's time, in milliseconds since 1970.
fn milliseconds(time: u64) -> u64 {
    ((time as i64).saturating_add(EPOCH_2000) / 1000).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(start: u64, end: u64, time: u64, data: &[u8]) -> Vec<u8> {
        let mut message = vec![b'w'];
        [start, end, time].iter().for_each(|number| message.extend_from_slice(&number.to_be_bytes()));
        message.extend_from_slice(data);
        message
    }

    fn from(position: u64) -> Received {
        Received::new(Cluster { segment_len: 1 << 20, ..Cluster::default() }, position)
    }

    #[test]
    fn segments_begin_at_their_borders() {
        let mut received = from(3 << 20);
        assert_eq!(received.take(&message(3 << 20, 0, 0, &vec![1; (1 << 20) + 5])), Ok((1 << 20) + 5));
        assert_eq!(received.take(&message((4 << 20) + 5, 0, 0, b"abc")), Ok(3));
        assert_eq!(received.came().collect::<Vec<_>>(), [(3 << 20, 1 << 20), (4 << 20, 8)]);
        assert!(received.take(&message(4 << 20, 0, 0, b"abc")).is_err(), "a gap");
    }

    #[test]
    fn what_is_sent_again_is_compared() {
        let mut received = from(3 << 20);
        received.take(&message(3 << 20, 0, 0, b"abcdef")).unwrap();
        assert_eq!(received.begin(), 3 << 20);
        assert_eq!(received.take(&message(3 << 20, 0, 0, b"abc")), Ok(3));
        assert_eq!(received.position(), (3 << 20) + 6);
        assert_eq!(received.take(&message((3 << 20) + 3, 0, 0, b"defgh")), Ok(5));
        assert_eq!((received.position(), received.differs), ((3 << 20) + 8, false));
        received.begin();
        assert!(received.take(&message(3 << 20, 0, 0, b"abX")).is_err() && received.differs);
        assert_eq!(received.came().collect::<Vec<_>>(), [(3 << 20, 8)]);
    }

    #[test]
    fn positions_and_times_at_their_limits_are_no_panic() {
        let mut received = from(u64::MAX - 10);
        assert!(received.take(&message(u64::MAX - 10, 0, 0, &[0; 100])).is_err());
        let mut received = from(0);
        for time in [0, i64::MAX as u64, i64::MIN as u64, u64::MAX] {
            received.take(&message(received.position, u64::MAX, time, b"x")).unwrap();
        }
    }
}
