//! A dump that passes byte for byte and is looked into all the same: what passes is handed to a thread that walks
//! through it and checks every value. So a dump in a version without checksum is known to be whole, and corrupt values
//! are named whatever order a dump is stored in.

use super::check::Flaws;
use super::parse::{Order, Step, Walk};
use super::{RdbError, Version};
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Stretches that may wait for the thread.
const WAITING: usize = 16;

/// What a dump turned out to be.
#[derive(Debug)]
pub enum Probed {
    /// It was walked through to its end mark, and nothing follows.
    Whole(Flaws),
    /// Its version is one that this program does not know, or nobody could look: then nobody can say.
    Unseen(String),
    /// It has something that this program does not know.
    Unknown(String),
    /// It is not what the format allows.
    Malformed(String),
}

impl Probed {
    /// What is wrong with a dump of which it is proved, or not, that it was written as it is: one that is not what the
    /// format allows is kept only then.
    ///
    /// # Errors
    /// Why it is not whole.
    pub fn flaws(self, is_proved: bool) -> Result<Flaws, String> {
        let unreadable = match self {
            Self::Whole(flaws) => return Ok(flaws),
            Self::Unseen(_) => return Ok(Flaws::default()),
            Self::Unknown(why) => why,
            Self::Malformed(why) if is_proved => format!("corrupt RDB: {why}"),
            Self::Malformed(why) => return Err(format!("corrupt RDB: {why}")),
        };
        Ok(Flaws { unreadable: Some(unreadable), ..Flaws::default() })
    }
}

/// The bytes that pass, on their way to the thread.
#[derive(Default)]
pub struct Probe {
    head: Vec<u8>,
    state: State,
}

#[derive(Default)]
enum State {
    /// Before the first bytes.
    #[default]
    Head,
    Walking(SyncSender<Vec<u8>>, JoinHandle<Probed>),
    Ended(Probed),
    Taken,
}

impl Probe {
    /// The next bytes.
    pub fn see(&mut self, bytes: &[u8]) {
        if let State::Head = self.state {
            self.head.extend_from_slice(bytes);
            if self.head.len() >= super::MAGIC_LEN {
                self.state = self.begin();
                let head = std::mem::take(&mut self.head);
                self.pass(head);
            }
        } else {
            self.pass(bytes.to_vec());
        }
    }

    fn begin(&self) -> State {
        match self.head.get(..super::MAGIC_LEN).and_then(Version::parse) {
            None => State::Ended(Probed::Malformed("does not begin as an RDB does".into())),
            Some(version) if !version.is_known() => {
                let why = "a version of the format that this program does not know";
                State::Ended(Probed::Unseen(why.into()))
            }
            Some(_) => {
                let (send, receive) = sync_channel(WAITING);
                let spawned = std::thread::Builder::new()
                    .name("esker-rdb".into())
                    .spawn(move || walk(Passed::new(receive)));
                match spawned {
                    Ok(thread) => State::Walking(send, thread),
                    Err(error) => State::Ended(Probed::Unseen(format!("cannot look into it: {error}"))),
                }
            }
        }
    }

    fn pass(&mut self, bytes: Vec<u8>) {
        // A thread that has heard enough does not listen any more, and tells at the end.
        if let State::Walking(send, _) = &self.state
            && !bytes.is_empty()
        {
            let _ = send.send(bytes);
        }
    }

    /// What it was, once all has passed.
    pub fn finish(&mut self) -> Probed {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Head | State::Taken => Probed::Malformed("ends before an RDB can".into()),
            State::Ended(probed) => probed,
            State::Walking(send, thread) => {
                drop(send);
                thread.join().unwrap_or_else(|_| Probed::Unseen("the thread that looks into it died".into()))
            }
        }
    }
}

/// Walks through a dump and checks every value.
fn walk(reader: impl Read) -> Probed {
    let walked = || -> Result<(Flaws, bool), RdbError> {
        let mut walk = Walk::new(reader, Order::AsIs)?;
        let mut flaws = Flaws::default();
        loop {
            match walk.next_step()? {
                Step::End => return Ok((flaws, walk.is_all()?)),
                Step::Global(..) => {}
                Step::Key(key) => flaws.look(&mut walk, &key)?,
            }
        }
    };
    match walked() {
        Ok((flaws, true)) => Probed::Whole(flaws),
        Ok((_, false)) => Probed::Malformed("something stands behind the end mark".into()),
        Err(RdbError::Unknown(bad)) => Probed::Unknown(bad.to_string()),
        Err(error) => Probed::Malformed(error.to_string()),
    }
}

/// What passed, as a reader.
struct Passed {
    receive: Receiver<Vec<u8>>,
    current: std::io::Cursor<Vec<u8>>,
}

impl Passed {
    fn new(receive: Receiver<Vec<u8>>) -> Self {
        Self { receive, current: std::io::Cursor::default() }
    }
}

impl Read for Passed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let len = self.current.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                return Ok(len);
            }
            match self.receive.recv() {
                Ok(bytes) => self.current = std::io::Cursor::new(bytes),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(bytes: &[u8], part: usize) -> Probed {
        let mut probe = Probe::default();
        bytes.chunks(part).for_each(|part| probe.see(part));
        probe.finish()
    }

    #[test]
    fn a_version_without_checksum_is_whole_or_not() {
        let dump = b"REDIS0003\xfe\x00\x00\x01a\x03v\xff\xff\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x02\x01s\x01\x01b\xff";
        for part in [1, 9, dump.len()] {
            assert!(matches!(probe(dump, part), Probed::Whole(_)));
            // Cut where a value has the byte of the end mark.
            assert!(matches!(probe(&dump[..18], part), Probed::Malformed(_)));
            assert!(matches!(probe(&[&dump[..], b"\xff"].concat(), part), Probed::Malformed(_)));
        }
    }
}
