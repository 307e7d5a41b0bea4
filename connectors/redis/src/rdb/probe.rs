//! A dump that passes byte for byte and is looked into all the same: what passes is handed to a thread that walks
//! through it and checks every value. So a dump in a version without checksum is known to be whole, and corrupt values
//! are named whatever order a dump is stored in.

use super::check::{self, Flaws};
use super::parse::{Met, Order, Supply, Walk};
use super::{RdbError, Version};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
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
    Walking(Way, JoinHandle<Probed>),
    Ended(Probed),
    Taken,
}

/// To the thread, and back from it the memory of what it is done with.
struct Way {
    there: SyncSender<Vec<u8>>,
    back: Receiver<Vec<u8>>,
}

impl Probe {
    /// The next bytes.
    pub fn see(&mut self, bytes: &[u8]) {
        if let State::Head = self.state {
            self.head.extend_from_slice(bytes);
            if self.head.len() >= super::MAGIC_LEN {
                self.state = self.begin();
                let head = std::mem::take(&mut self.head);
                self.pass(&head);
            }
        } else {
            self.pass(bytes);
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
                let ((there, receive), (done, back)) = (sync_channel(WAITING), channel());
                let spawned = std::thread::Builder::new()
                    .name("esker-rdb".into())
                    .spawn(move || walk(Passed { receive, done }));
                match spawned {
                    Ok(thread) => State::Walking(Way { there, back }, thread),
                    Err(error) => State::Ended(Probed::Unseen(format!("cannot look into it: {error}"))),
                }
            }
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        // A thread that has heard enough does not listen any more, and tells at the end.
        if let State::Walking(way, _) = &self.state
            && !bytes.is_empty()
        {
            let mut window = way.back.try_recv().unwrap_or_default();
            window.clear();
            window.extend_from_slice(bytes);
            let _ = way.there.send(window);
        }
    }

    /// What it was, once all has passed.
    pub fn finish(&mut self) -> Probed {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Head | State::Taken => Probed::Malformed("ends before an RDB can".into()),
            State::Ended(probed) => probed,
            State::Walking(way, thread) => {
                drop(way);
                thread.join().unwrap_or_else(|_| Probed::Unseen("the thread that looks into it died".into()))
            }
        }
    }
}

/// Walks through a dump and checks every value.
fn walk(passed: Passed) -> Probed {
    let walked = || -> Result<(Flaws, bool), RdbError> {
        let mut walk = Walk::new(passed, Order::AsIs)?;
        let mut flaws = Flaws::default();
        loop {
            match walk.advance()? {
                Met::End => return Ok((flaws, walk.is_all()?)),
                Met::Global(..) => {}
                Met::Key(kind) if check::pass_sound(&mut walk, kind)? => {}
                Met::Key(_) => {
                    let key = walk.key().clone();
                    flaws.look(&mut walk, &key)?;
                }
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

/// What passed, a stretch after the other, none of them copied.
struct Passed {
    receive: Receiver<Vec<u8>>,
    done: Sender<Vec<u8>>,
}

impl Supply for Passed {
    fn supply(&mut self, window: &mut Vec<u8>) -> std::io::Result<()> {
        let done = std::mem::replace(window, self.receive.recv().unwrap_or_default());
        // At the end nobody takes it back.
        let _ = self.done.send(done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::kind;

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

    /// Values that lie in memory as a whole are looked into in another way than those that do not: byte by byte, none does.
    #[test]
    fn the_same_is_found_however_a_dump_comes() {
        let values: [(u8, &[u8]); 11] = [
            (kind::STRING, b"\xc3\x04\x09\x00a\xc0\x00"),
            (kind::LIST, b"\x02\x01a\xc1\x02\x03"),
            (kind::SET, b"\x03\x01a\x01b\xc0\x05"),
            (kind::HASH, b"\x02\x01a\x01v\x01b\xc0\x05"),
            (kind::ZSET, b"\x02\x01a\xfe\x01b\x031.5"),
            (kind::ZSET_2, b"\x01\x01a\0\0\0\0\0\0\xf8\x3f"),
            (kind::SET_INTSET, b"\x0c\x02\0\0\0\x02\0\0\0\xff\xff\x07\x00"),
            (kind::SET_LISTPACK, b"\x14\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff"),
            (kind::HASH_LISTPACK, b"\x14\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff"),
            (kind::LIST_ZIPLIST, b"\x15\x15\0\0\0\x0f\0\0\0\x03\0\x00\x01a\x03\xf3\x02\xf0\xff\xff\xff\xff"),
            (
                kind::LIST_QUICKLIST_2,
                b"\x01\x02\x14\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff",
            ),
        ];
        let told = |dump: &[u8], part| match probe(dump, part) {
            Probed::Whole(Flaws { told, corrupt, empty, unchecked, .. }) => {
                format!("{told:?} {corrupt} {empty} {unchecked}")
            }
            other => format!("{other:?}"),
        };
        let mut dump = b"REDIS0011".to_vec();
        for (at, (kind, value)) in values.iter().enumerate() {
            dump.extend_from_slice(&[*kind, 1, b'a' + at as u8]);
            dump.extend_from_slice(value);
        }
        dump.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0");
        assert_eq!(told(&dump, dump.len()), "[] 0 0 0");
        for at in 9..dump.len() {
            for flip in [1, 2, 3, 0x10, 0x40, 0x80, 0xff] {
                let mut bad = dump.clone();
                bad[at] ^= flip;
                assert_eq!(told(&bad, 1), told(&bad, bad.len()), "byte {at}, {flip:#x}");
            }
        }
    }
}
