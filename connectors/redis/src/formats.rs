//! The formats of files that a server writes, as streams.

use crate::rdb::end_mark::ProbedEndMark;
use crate::rdb::{MAGIC_LEN, Version};
use crate::resp::Resp;
use engine::connector::Format;
use engine::source::end_mark::EndMark;

/// All of them.
pub static ALL: &[&Format] = &[&RDB, &AOF];

/// A dump.
pub static RDB: Format = Format {
    name: "rdb",
    rank: 1,
    detect: |head| Version::parse(head.get(..MAGIC_LEN).unwrap_or_default()).is_some(),
    end_mark: |_| Box::new(ProbedEndMark::default()),
    decoder: None,
};

/// An append-only file without a dump at its head.
pub static AOF: Format = Format {
    name: "aof",
    rank: 1,
    detect: |head| {
        head.starts_with(b"*") && Resp::default().feed(head, &mut |_, _| {}).is_ok() && head.contains(&b'$')
    },
    end_mark: |_| Box::new(AofEndMark::default()),
    decoder: None,
};

/// Commands up to the last byte, and no transaction open.
#[derive(Default)]
struct AofEndMark {
    resp: Resp,
    error: Option<String>,
}

impl EndMark for AofEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.resp.feed(bytes, &mut |_, _| {}).err();
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.error.take() {
            Some(error) => Err(error),
            None if self.resp.is_whole() => Ok(()),
            None if self.resp.in_transaction() => Err("it ends within a transaction".into()),
            None => Err("it ends within a command".into()),
        }
    }
}
