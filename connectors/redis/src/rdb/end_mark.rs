//! The end mark of a Redis or Valkey RDB file: opcode 255 and, since version 5, the CRC-64 of everything before it.
//! Source: the RDB file format as documented in Redis's `rdb.h` (`RDB_opcode::EOF`) and `crc64.c`
//! (Jones polynomial, catalogued as CRC-64/REDIS).

use super::check::Flaws;
use super::probe::Probe;
use super::{MAGIC_LEN, Version, crc64, opcode};
use crc_fast::Digest;
use engine::source::end_mark::EndMark;
use std::rc::Rc;

/// Shortest possible file: magic and version, end, checksum.
const MIN_LEN: u64 = 9 + 1 + 8;
/// And one of a version without checksum.
const MIN_OLD_LEN: u64 = 9 + 1;

/// Checks magic, end opcode and checksum of a passing RDB.
pub struct RdbEndMark {
    digest: Digest,
    head: Vec<u8>,
    /// The last bytes, at most nine, which may be end opcode and checksum.
    tail: Vec<u8>,
    len: u64,
}

impl Default for RdbEndMark {
    fn default() -> Self {
        Self { digest: crc64(), head: vec![], tail: vec![], len: 0 }
    }
}

/// Length of the end: opcode and checksum.
const TAIL: usize = 9;

impl RdbEndMark {
    /// Why no checksum proves what passed, once all of it has: its version has none, or its server wrote none.
    #[must_use]
    pub fn unproved(&self) -> Option<String> {
        let version = Version::parse(&self.head)?;
        if !version.has_checksum() {
            return Some(format!("none: version {} of the format has none", version.number));
        }
        let zeros = self.tail.get(1..).is_some_and(|checksum| checksum == [0; 8]);
        zeros.then(|| "none: the server wrote none (rdbchecksum no)".to_owned())
    }
}

impl EndMark for RdbEndMark {
    fn see(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if self.head.len() < MAGIC_LEN {
            let more = (MAGIC_LEN - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..more]);
        }
        // Everything but the last eight bytes is under the checksum; hold the last nine back.
        if bytes.len() >= TAIL {
            self.digest.update(&self.tail);
            let (done, tail) = bytes.split_at(bytes.len() - TAIL);
            self.digest.update(done);
            self.tail = tail.to_vec();
        } else {
            self.tail.extend_from_slice(bytes);
            let surplus = self.tail.len().saturating_sub(TAIL);
            let done: Vec<u8> = self.tail.drain(..surplus).collect();
            self.digest.update(&done);
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        if !self.head.starts_with(b"REDIS") && !self.head.starts_with(b"VALKEY") {
            return Err("does not begin as an RDB does".into());
        }
        if Version::parse(&self.head).is_some_and(|version| !version.has_checksum()) {
            let ends = self.len >= MIN_OLD_LEN && self.tail.last() == Some(&opcode::EOF);
            return if ends { Ok(()) } else { Err("the RDB's end mark is missing".into()) };
        }
        let (Some((opcode, checksum)), true) = (self.tail.split_first(), self.len >= MIN_LEN) else {
            return Err("ends before an RDB can".into());
        };
        if *opcode != opcode::EOF {
            return Err("the RDB's end mark is missing".into());
        }
        let mut digest = self.digest;
        digest.update(&[*opcode]);
        let found = u64::from_le_bytes(checksum.try_into().map_err(|_| "checksum cut off")?);
        // A server with `rdbchecksum no` writes zeros.
        if found != 0 && found != digest.finalize() {
            return Err("the RDB's checksum does not match".into());
        }
        Ok(())
    }
}

/// The end mark of a dump that is looked into while it passes.
#[derive(Default)]
pub struct ProbedEndMark {
    mark: RdbEndMark,
    probe: Probe,
    flaws: Flaws,
}

impl EndMark for ProbedEndMark {
    fn see(&mut self, bytes: &[u8]) {
        self.mark.see(bytes);
        self.probe.see(bytes);
    }

    fn finish(&mut self) -> Result<(), String> {
        let probed = self.probe.finish();
        self.mark.finish()?;
        let unproved = self.mark.unproved();
        self.flaws = Flaws { unproved: unproved.clone(), ..probed.flaws(unproved.is_none())? };
        Ok(())
    }

    fn flaws(&mut self) -> Option<Rc<dyn engine::source::end_mark::Flaws>> {
        Some(Rc::new(std::mem::take(&mut self.flaws)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_rdb() -> Vec<u8> {
        let mut rdb = b"REDIS0010".to_vec();
        rdb.push(opcode::EOF);
        let mut digest = crc64();
        digest.update(&rdb);
        rdb.extend_from_slice(&digest.finalize().to_le_bytes());
        rdb
    }

    #[test]
    fn whole_in_any_split_and_never_when_cut_or_changed() {
        let rdb = empty_rdb();
        for split in 1..rdb.len() {
            let mut mark = RdbEndMark::default();
            rdb.chunks(split).for_each(|part| mark.see(part));
            mark.finish().unwrap();
            let mut mark = RdbEndMark::default();
            mark.see(&rdb[..split]);
            assert!(mark.finish().is_err(), "cut at {split}");
        }
        for at in 0..rdb.len() {
            let mut bad = rdb.clone();
            bad[at] ^= 4;
            let mut mark = RdbEndMark::default();
            mark.see(&bad);
            assert!(mark.finish().is_err(), "byte {at}");
        }
    }

    #[test]
    fn checksum_is_redis_s() {
        // From the test at the end of Redis's crc64.c.
        let mut digest = crc64();
        digest.update(b"123456789");
        assert_eq!(digest.finalize(), 0xe9c6_d914_c4b8_d9ca);
    }
}
