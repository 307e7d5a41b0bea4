//! Names of tables in mariadb-binlog's script. It writes them into comments as they are, and one with a line feed would end its
//! line. So such a table has another name of the same length in the log that mariadb-binlog reads; in the events that the
//! script holds in base64, which are what the server gets, its own name is put back.
//! Source: MariaDB's documentation, "TABLE_MAP_EVENT", "BINLOG".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::io::{BufRead, Error, ErrorKind, Result, Write};

const HEADER: usize = 19;
/// An event that says which table rows are of.
pub(super) const TABLE_MAP: u8 = 19;
/// Behind the number of the table, the higher byte of the flags; and one that no server uses.
const FLAGS: usize = 7;
const RENAMED: u8 = 0x10;
/// Where the length of the database's name stands, which the name follows, a zero, and the same of the table.
const DATABASE: usize = 8;
/// Letters in a line of base64, as mariadb-binlog writes it.
const LINE: usize = 76;

/// A database and a table.
pub(super) type Names = [Vec<u8>; 2];

/// Where in the body of such an event the names are.
pub(super) fn places(body: &[u8]) -> Option<[std::ops::Range<usize>; 2]> {
    let range = |at: usize| {
        let range = at + 1..at + 1 + usize::from(*body.get(at)?);
        body.get(range.clone()).map(|_| range)
    };
    let database = range(DATABASE)?;
    let table = range(database.end + 1)?;
    Some([database, table])
}

/// The body with other names, in which `is_wrong` bytes are `_`, and a mark that it has them; and its own names.
pub(super) fn renamed(body: &[u8], is_wrong: impl Fn(&[u8]) -> bool) -> Option<(Vec<u8>, Names)> {
    let places = places(body)?;
    let own = places.clone().map(|place| body[place].to_vec());
    let mut body = body.to_vec();
    *body.get_mut(FLAGS)? |= RENAMED;
    for place in places {
        if is_wrong(&body[place.clone()]) {
            body[place].fill(b'_');
        }
    }
    Some((body, own))
}

/// Copies the script, and puts `names` back into its events, in order; returns how many bytes were read.
pub(super) fn copy(input: &mut dyn BufRead, out: &mut dyn Write, mut names: VecDeque<Names>) -> Result<u64> {
    let (mut line, mut read) = (vec![], 0);
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        input.read_until(b'\n', line)
    };
    loop {
        let len = next(&mut line)?;
        if len == 0 {
            break;
        }
        read += len as u64;
        out.write_all(&line)?;
        if line != b"BINLOG '\n" {
            continue;
        }
        let (mut events, mut text) = (vec![], vec![]);
        while next(&mut line)? > 0 && !line.starts_with(b"'") {
            text.extend_from_slice(&line);
            events.extend(STANDARD.decode(line.trim_ascii_end()).map_err(|_| wrong("is no base64"))?);
        }
        read += (text.len() + line.len()) as u64;
        if put_back(&mut events, &mut names)? {
            for part in STANDARD.encode(&events).as_bytes().chunks(LINE) {
                out.write_all(part)?;
                out.write_all(b"\n")?;
            }
        } else {
            out.write_all(&text)?;
        }
        out.write_all(&line)?;
    }
    match names.is_empty() {
        true => Ok(read),
        false => Err(wrong("lacks tables that the log has")),
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("mariadb-binlog's script {why}"))
}

/// Puts names back into events that are marked; whether there are some.
fn put_back(events: &mut [u8], names: &mut VecDeque<Names>) -> Result<bool> {
    let (mut at, mut found) = (0, false);
    while let Some(header) = events.get(at..at + HEADER) {
        let len = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        let is_table = header[4] == TABLE_MAP;
        let body = events.get_mut(at + HEADER..at + len).ok_or_else(|| wrong("has half an event"))?;
        at += len.max(HEADER);
        if !is_table || body.get(FLAGS).is_none_or(|flags| flags & RENAMED == 0) {
            continue;
        }
        let places = places(body).ok_or_else(|| wrong("has an event of an invalid table"))?;
        let own = names.pop_front().ok_or_else(|| wrong("has tables that the log lacks"))?;
        body[FLAGS] &= !RENAMED;
        for (place, name) in places.into_iter().zip(own) {
            if place.len() != name.len() {
                return Err(wrong("has tables in another order than the log"));
            }
            body[place].copy_from_slice(&name);
        }
        found = true;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &[u8]) -> Vec<u8> {
        let len = (HEADER + body.len()) as u32;
        [&[0; 4][..], &[TABLE_MAP], &[0; 4], &len.to_le_bytes(), &[0; 6], body].concat()
    }

    fn script(events: &[Vec<u8>]) -> String {
        let lines: Vec<String> = events
            .iter()
            .flat_map(|event| {
                STANDARD.encode(event).as_bytes().chunks(LINE).map(<[u8]>::to_vec).collect::<Vec<_>>()
            })
            .map(|line| String::from_utf8(line).unwrap() + "\n")
            .collect();
        format!("# at 4\nBINLOG '\n{}'/*!*/;\nCOMMIT\n", lines.concat())
    }

    #[test]
    fn names_are_put_back() {
        let body = |database: &[u8], table: &[u8]| {
            let len = |name: &[u8]| [name.len() as u8];
            [&[7; 6][..], &[1, 0], &len(database), database, b"\0", &len(table), table, b"\0rest"].concat()
        };
        let plain = event(&body(b"z", b"plain"));
        let own = body(b"z", b"a\nGRANT ALL");
        let (other, names) = renamed(&own, |name| name.contains(&b'\n')).unwrap();
        assert_eq!(places(&other).map(|[_, table]| other[table].to_vec()).unwrap(), b"___________");
        let given = script(&[plain.clone(), event(&other), plain.clone()]);
        let mut out = vec![];
        let read = copy(&mut given.as_bytes(), &mut out, [names.clone()].into()).unwrap();
        assert_eq!(read, given.len() as u64);
        let text = String::from_utf8(out).unwrap();
        let lines = text.split_once("BINLOG '\n").unwrap().1.split_once('\'').unwrap().0.replace('\n', "");
        assert_eq!(STANDARD.decode(lines).unwrap(), [plain.clone(), event(&own), plain.clone()].concat());
        // Without a mark nothing is touched, and no name is left over.
        let given = script(&[plain]);
        let mut out = vec![];
        copy(&mut given.as_bytes(), &mut out, VecDeque::new()).unwrap();
        assert_eq!(out, given.as_bytes());
        assert!(copy(&mut given.as_bytes(), &mut vec![], [names].into()).is_err());
        assert!(copy(&mut script(&[event(&other)]).as_bytes(), &mut vec![], VecDeque::new()).is_err());
    }
}
