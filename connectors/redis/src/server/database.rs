//! One database of a dump. A server sends all of them to its replicas; what belongs to others, or to the server as a
//! whole (functions, what modules keep), is left out on the way, and the end mark is written anew.

use crate::dump::{Checked, told};
use crate::rdb::parse::{Global, Order, Part, Step, Usage, Walk};
use crate::rdb::{Malformed, RdbError, crc64, opcode, push_len};
use engine::source::{SourceError, SourceErrorKind};
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes handed on at a time, and how many of these may wait.
const STRETCH: usize = 256 << 10;
const WAITING: usize = 4;

type Stretch = Result<Vec<u8>, SourceError>;

/// A dump of `database`, out of the dump that `reader` gives. A thread of its own takes it apart, since a value is handed
/// out piece by piece; it ends with the reader, or once nobody wants its result.
pub(super) fn only(
    reader: Box<dyn Read + Send>,
    database: u32,
    shown: &str,
) -> Result<Box<dyn Read + Send>, SourceError> {
    let (send, stretches) = sync_channel::<Stretch>(WAITING);
    let shown = shown.to_owned();
    let name = shown.clone();
    let run = move || {
        let mut filter = Filter { database, out: vec![], digest: crc64(), selected: false, send };
        if let Err(error) = filter.run(reader, &shown) {
            // Nobody listens any more: then nobody wants to know.
            let _ = filter.send.send(Err(told(error, &shown)));
        }
    };
    let thread = std::thread::Builder::new().name("esker-redis-db".into()).spawn(run);
    thread.map_err(|error| SourceError::new(SourceErrorKind::Unavailable, name, error))?;
    Ok(Box::new(Only { stretches, current: vec![], sent: 0 }))
}

struct Filter {
    database: u32,
    out: Vec<u8>,
    digest: crc_fast::Digest,
    selected: bool,
    send: SyncSender<Stretch>,
}

impl Filter {
    fn run(&mut self, reader: Box<dyn Read + Send>, shown: &str) -> Result<(), RdbError> {
        let mut checked = Checked::new(reader);
        let mut walk = Walk::new(&mut checked, Order::AsIs)?;
        let version = walk.version();
        if !version.is_known() {
            let why = format!(
                "one database cannot be told from the others in version {} of the format; back up all of them",
                version.magic()
            );
            return Err(Malformed { offset: 0, why }.into());
        }
        self.out.extend_from_slice(version.magic().as_bytes());
        loop {
            match walk.next_step()? {
                Step::Global(Global::Aux(..), raw) => self.out.extend_from_slice(&raw),
                Step::Global(..) => {}
                Step::Key(key) => {
                    let wanted = key.database == self.database;
                    if wanted {
                        self.head(&key);
                    }
                    walk.value(key.kind, &mut |part| {
                        let (Part::Whole(bytes) | Part::Piece(bytes) | Part::Member(_, bytes)) = part;
                        if wanted { self.push(bytes) } else { Ok(()) }
                    })?;
                }
                Step::End => break,
            }
        }
        // What came must be whole before the end of what goes on says that it is.
        checked.finish(shown)?;
        self.out.push(opcode::EOF);
        self.digest.update(&self.out);
        let checksum = self.digest.finalize();
        self.out.extend_from_slice(&checksum.to_le_bytes());
        self.hand_on()
    }

    /// What stands before a value.
    fn head(&mut self, key: &crate::rdb::parse::Key) {
        if !std::mem::replace(&mut self.selected, true) {
            self.out.push(opcode::SELECT_DB);
            push_len(&mut self.out, u64::from(self.database));
        }
        if let Some(expires_ms) = key.expires_ms {
            self.out.push(opcode::EXPIRE_MS);
            self.out.extend_from_slice(&expires_ms.to_le_bytes());
        }
        match key.usage {
            Some(Usage::Idle(seconds)) => {
                self.out.push(opcode::IDLE);
                push_len(&mut self.out, seconds);
            }
            Some(Usage::Frequency(counter)) => self.out.extend_from_slice(&[opcode::FREQ, counter]),
            None => {}
        }
        self.out.push(key.kind);
        self.out.extend_from_slice(&key.raw_name);
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        self.out.extend_from_slice(bytes);
        if self.out.len() < STRETCH {
            return Ok(());
        }
        self.digest.update(&self.out);
        self.hand_on()
    }

    fn hand_on(&mut self) -> Result<(), RdbError> {
        let sent = self.send.send(Ok(std::mem::take(&mut self.out)));
        sent.map_err(|_| RdbError::Read(std::io::ErrorKind::BrokenPipe.into()))
    }
}

struct Only {
    stretches: Receiver<Stretch>,
    current: Vec<u8>,
    sent: usize,
}

impl Read for Only {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.sent == self.current.len() {
            self.current = match self.stretches.recv() {
                Ok(stretch) => stretch.map_err(std::io::Error::other)?,
                // The last one ended with the end mark, which is checked behind this.
                Err(_) => return Ok(0),
            };
            self.sent = 0;
        }
        let len = buffer.len().min(self.current.len() - self.sent);
        buffer[..len].copy_from_slice(&self.current[self.sent..self.sent + len]);
        self.sent += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump of `records`, each a database, a name and a value.
    fn dump(records: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut rdb = b"REDIS0010".to_vec();
        let mut selected = None;
        for (database, name, value) in records {
            if selected.replace(*database) != Some(*database) {
                rdb.push(opcode::SELECT_DB);
                push_len(&mut rdb, u64::from(*database));
            }
            rdb.push(opcode::FREQ);
            rdb.push(7);
            rdb.push(0);
            for text in [name, value] {
                push_len(&mut rdb, text.len() as u64);
                rdb.extend_from_slice(text.as_bytes());
            }
        }
        rdb.push(opcode::EOF);
        let mut digest = crc64();
        digest.update(&rdb);
        rdb.extend_from_slice(&digest.finalize().to_le_bytes());
        rdb
    }

    fn only_of(rdb: Vec<u8>, database: u32) -> std::io::Result<Vec<u8>> {
        let mut out = vec![];
        only(Box::new(std::io::Cursor::new(rdb)), database, "x").unwrap().read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn others_are_left_out() {
        let large = "v".repeat(3 << 20);
        let all = dump(&[(0, "a", "1"), (3, "a", "3"), (3, "b", &large), (9, "a", &large)]);
        let wanted = dump(&[(3, "a", "3"), (3, "b", &large)]);
        assert!(only_of(all.clone(), 3).unwrap() == wanted);
        assert_eq!(only_of(all.clone(), 5).unwrap(), dump(&[]));
        // What is not whole has no end mark.
        let mut flipped = all.clone();
        flipped[30] ^= 1;
        assert!(only_of(flipped, 3).is_err());
        assert!(only_of(all[..all.len() - 9].to_vec(), 3).is_err());
    }
}
