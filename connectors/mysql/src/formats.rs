//! The format of mariadb-dump and mysqldump, as a stream.

use engine::connector::Format;
use engine::source::end_mark::EndMark;

/// All of them.
pub static ALL: &[&Format] = &[&SQL];

/// SQL of mariadb-dump or mysqldump.
pub static SQL: Format = Format {
    name: "mysql-sql",
    rank: 2,
    detect: |head| {
        let text = String::from_utf8_lossy(head.get(..512).unwrap_or(head));
        ["-- MariaDB dump ", "-- MySQL dump "].iter().any(|line| text.contains(line))
    },
    end_mark: |_| Box::new(MysqlEndMark::default()),
    decoder: None,
};

/// The closing comment of mariadb-dump and mysqldump. Without comments (`--compact`, `--skip-comments`) a dump has
/// none, and is not recognised either.
#[derive(Default)]
struct MysqlEndMark {
    tail: Vec<u8>,
}

const MYSQL_TAIL: usize = 256;

impl EndMark for MysqlEndMark {
    fn see(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(MYSQL_TAIL);
        self.tail.extend_from_slice(&bytes[from..]);
        let surplus = self.tail.len().saturating_sub(MYSQL_TAIL);
        self.tail.drain(..surplus);
    }

    fn finish(&mut self) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.tail);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let closed = last == "-- Dump completed" || last.starts_with("-- Dump completed on ");
        if closed && text.ends_with('\n') { Ok(()) } else { Err("its closing comment is missing".into()) }
    }
}
