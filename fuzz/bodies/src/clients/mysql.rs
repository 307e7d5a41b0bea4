//! What MariaDB's programs print and write: answers to statements, dumps, binary logs.

use crate::bounds::bounded;
use connector_mysql::dump::take_apart;
use connector_mysql::restore::disarmed;
use connector_mysql::server::{Script, complaint};
use connector_mysql::stream::whole_len;
use std::io::Cursor;
use std::sync::LazyLock;

/// Memory for one input. A value of one byte takes 24 and more as one of its own.
const MOST: usize = 16 << 20;
/// The same for a log: 16 KiB unpack to 16 MiB, which are written down in hexadecimal digits.
const MOST_OF_LOG: usize = 128 << 20;
/// What stands around the answers of the input.
pub(super) const MARK: &[u8] = b"m4rk";

/// What the client printed, and what it complained of.
pub(super) fn printed(data: &[u8]) {
    let mut script = Script::default();
    script.add("one", b"SELECT 1");
    script.add_lines("lines", b"SELECT 2;\nDELIMITER ;;\nCREATE TRIGGER x;;\nDELIMITER ;\n");
    script.add("two", b"SELECT 3");
    bounded(MOST, || {
        let (outcome, done) = script.answers(MARK, data);
        let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
        let marks =
            lines.iter().filter(|line| line.split(|byte| *byte == b'\t').next() == Some(MARK)).count();
        // A statement has been answered between two marks, and what is between answers are rows.
        assert!(2 * done <= marks && outcome.rows.len() + 2 * done <= lines.len());
        assert!(outcome.failures.len() <= done);
        for (label, why) in &outcome.failures {
            assert!(!script.label(*label).is_empty(), "{label}");
            assert!(!why.contains(['\n', '\x1b']), "{why:?}");
        }
        let told = complaint(&String::from_utf8_lossy(data));
        assert!(!told.contains(['\n', '\x1b']), "{told:?}");
        // Lines of a script, whatever they hold, are taken apart and none is lost.
        let mut script = Script::default();
        script.add_lines("x", data);
        assert_eq!(script.label(0), "x");
    });
}

/// How many bytes come at a time, then a dump of two databases: the same comes of it whatever comes at a time.
pub(super) fn dump(data: &[u8]) {
    let Some((part, text)) = data.split_first() else { return };
    let taken = |part| bounded(MOST, || take_apart(&["shop", "store"], text, part));
    let (whole, parts) = (taken(64 << 10), taken(16 * usize::from(*part) + 7));
    match (whole, parts) {
        (Ok(whole), Ok(parts)) => {
            assert!(whole == parts, "other texts in parts of {part}");
            assert_eq!(whole.len(), 2);
            for (text, index) in &whole {
                let len = text.len() as u64;
                assert!(
                    index.head <= index.body && index.body <= index.tables_end && index.tables_end <= len
                );
                let mut last = index.body;
                for (name, from, to) in &index.tables {
                    assert!(last <= *from && from <= to && *to <= index.tables_end, "{name}: {index:?}");
                    last = *to;
                }
            }
        }
        (Err(_), Err(_)) => {}
        (whole, parts) => panic!("{:?} as a whole, {:?} in parts", whole.err(), parts.err()),
    }
}

/// The kind of an event, and its body.
type Event<'a> = (u8, &'a [u8]);

/// Events of a log, as far as they are whole, and where they end.
fn events(log: &[u8]) -> Option<(Vec<Event<'_>>, usize)> {
    let rest = log.strip_prefix(b"\xfebin")?;
    let (mut at, mut all) = (0, vec![]);
    while let Some(head) = rest.get(at..at + 19) {
        let len = u32::from_le_bytes([head[9], head[10], head[11], head[12]]) as usize;
        let Some(event) = rest.get(at..at.checked_add(len)?).filter(|event| event.len() >= 19) else { break };
        all.push((event[4], &event[19..]));
        at += len;
    }
    Some((all, at + 4))
}

/// Whether a statement is one that cannot end itself.
fn is_harmless(text: &[u8], folder: &str) -> bool {
    let digits = text.strip_prefix(b"EXECUTE IMMEDIATE 0x");
    let text = String::from_utf8_lossy(text);
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        || (text.starts_with("LOAD DATA") && text.contains(&format!(" LOCAL INFILE '{folder}/rows-")))
        || text.chars().all(|c| c.is_ascii_alphanumeric() || " ,_()=*".contains(c))
}

/// How a log is replayed, then the log.
pub(super) fn log(data: &[u8]) {
    static FOLDER: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("esker-fuzz-rows-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    let Some((how, log)) = data.split_first() else { return };
    let len = whole_len(&mut Cursor::new(log), log.len() as u64).expect("a log in memory");
    assert_eq!(len, events(log).map_or(0, |(_, end)| end) as u64);
    for entry in std::fs::read_dir(&*FOLDER).expect("our folder").flatten() {
        std::fs::remove_file(entry.path()).expect("our file");
    }
    let executes = how % 2 == 0;
    let out = bounded(MOST_OF_LOG, || disarmed(log, executes, u64::from(how / 2), &FOLDER));
    let Ok(out) = out else { return };
    let (all, end) = events(&out).expect("a log");
    assert_eq!(end, out.len(), "a log of whole events");
    // A checksum is none, and is four bytes of zeros.
    let folder = FOLDER.display().to_string();
    for body in all.into_iter().filter(|(kind, _)| *kind == 2).map(|(_, body)| body) {
        let status = usize::from(u16::from_le_bytes([body[11], body[12]]));
        let (database, rest) = body[13 + status..].split_at(usize::from(body[8]));
        assert!(!database.contains(&b'\n') && !database.contains(&b'\r'), "{database:?}");
        let text = &rest[1..];
        let text = text.strip_suffix(&[0; 4]).unwrap_or(text);
        if executes {
            assert!(is_harmless(text, &folder), "{}", String::from_utf8_lossy(text));
        } else {
            assert!(!text.windows(6).any(|some| some == b"/*!*/;"), "{}", String::from_utf8_lossy(text));
        }
    }
}
