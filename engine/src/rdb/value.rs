//! One value, decoded: what `esker dump` prints of a key, and what comparisons compare, whatever encoding a
//! server chose. Sources: `ziplist.c`, `listpack.c`, `intset.c`, `zipmap.c`, `t_stream.c`.

use super::input::{Input, integer};
use super::{RdbError, kind, push_len};

/// A value as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    String(Vec<u8>),
    /// A list, from its head.
    List(Vec<Vec<u8>>),
    /// A set, ordered by member.
    Set(Vec<Vec<u8>>),
    /// A hash, ordered by field.
    Hash(Vec<Field>),
    /// A sorted set, ordered by member.
    Zset(Vec<(Vec<u8>, f64)>),
    /// The entries of a stream; its groups are not decoded.
    Stream(Vec<StreamEntry>),
    /// What a module wrote: its id.
    Module(u64),
}

/// A field of a hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Milliseconds and sequence number.
    pub id: (u64, u64),
    /// Names and values.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Decodes the bytes of a value; `valkey` decides what type 22 is.
pub fn decode(kind: u8, bytes: &[u8]) -> Result<Value, RdbError> {
    let mut input = Input::new(bytes, 0);
    let value = Decoding { input: &mut input, raw: vec![] }.value(kind)?;
    if input.is_at_end()? { Ok(value) } else { Err(input.malformed("something behind the value")) }
}

/// A value in the oldest encoding there is for it, which every server takes; `None` if it has none: fields that
/// expire, streams, modules.
#[must_use]
pub fn encode_plain(value: &Value) -> Option<(u8, Vec<u8>)> {
    let mut out = vec![];
    let string = |out: &mut Vec<u8>, bytes: &[u8]| {
        push_len(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    };
    let kind = match value {
        Value::String(bytes) => {
            string(&mut out, bytes);
            kind::STRING
        }
        Value::List(items) | Value::Set(items) => {
            push_len(&mut out, items.len() as u64);
            items.iter().for_each(|item| string(&mut out, item));
            if matches!(value, Value::List(_)) { kind::LIST } else { kind::SET }
        }
        Value::Hash(fields) => {
            push_len(&mut out, fields.len() as u64);
            for field in fields {
                if field.expires_ms.is_some() {
                    return None;
                }
                string(&mut out, &field.name);
                string(&mut out, &field.value);
            }
            kind::HASH
        }
        Value::Zset(members) => {
            push_len(&mut out, members.len() as u64);
            for (member, score) in members {
                string(&mut out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
            kind::ZSET_2
        }
        Value::Stream(_) | Value::Module(_) => return None,
    };
    Some((kind, out))
}

struct Decoding<'a, 'b> {
    input: &'a mut Input<&'b [u8]>,
    /// Bytes as they are written, which nobody wants here.
    raw: Vec<u8>,
}

impl Decoding<'_, '_> {
    fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        self.raw.clear();
        self.input.string(&mut self.raw)
    }

    fn len(&mut self) -> Result<u64, RdbError> {
        self.raw.clear();
        self.input.len(&mut self.raw)
    }

    fn many<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, RdbError>,
    ) -> Result<Vec<T>, RdbError> {
        let count = self.len()?;
        let mut all = vec![];
        for _ in 0..count {
            all.push(each(self)?);
        }
        Ok(all)
    }

    /// A string that holds a structure of its own.
    fn packed(&mut self, decode: fn(&[u8]) -> Option<Vec<Vec<u8>>>) -> Result<Vec<Vec<u8>>, RdbError> {
        let bytes = self.string()?;
        decode(&bytes).ok_or_else(|| self.input.malformed("a packed value that does not hold together"))
    }

    fn value(&mut self, kind: u8) -> Result<Value, RdbError> {
        Ok(match kind {
            kind::STRING => Value::String(self.string()?),
            kind::LIST => Value::List(self.many(Self::string)?),
            kind::LIST_ZIPLIST => Value::List(self.packed(ziplist)?),
            kind::LIST_QUICKLIST => Value::List(self.many(|all| all.packed(ziplist))?.concat()),
            kind::LIST_QUICKLIST_2 => {
                let nodes = self.many(|all| match all.len()? {
                    1 => Ok(vec![all.string()?]),
                    2 => all.packed(listpack),
                    _ => Err(all.input.malformed("an unknown node of a list")),
                })?;
                Value::List(nodes.concat())
            }
            kind::SET => set(self.many(Self::string)?),
            kind::SET_INTSET => set(self.packed(intset)?),
            kind::SET_LISTPACK => set(self.packed(listpack)?),
            kind::ZSET => zset(self.many(|all| Ok((all.string()?, all.text_score()?)))?),
            kind::ZSET_2 => {
                zset(self.many(|all| Ok((all.string()?, f64::from_le_bytes(all.input.array()?))))?)
            }
            kind::ZSET_ZIPLIST => self.scores(ziplist)?,
            kind::ZSET_LISTPACK => self.scores(listpack)?,
            kind::HASH => hash(
                self.many(|all| Ok(Field { name: all.string()?, value: all.string()?, expires_ms: None }))?,
            ),
            kind::HASH_ZIPMAP => self.fields(zipmap)?,
            kind::HASH_ZIPLIST => self.fields(ziplist)?,
            kind::HASH_LISTPACK => self.fields(listpack)?,
            kind::VALKEY_HASH_2 => hash(self.many(|all| {
                let (name, value) = (all.string()?, all.string()?);
                let expires = i64::from_le_bytes(all.input.array()?);
                Ok(Field { name, value, expires_ms: u64::try_from(expires).ok() })
            })?),
            kind::HASH_METADATA => {
                let first = u64::from_le_bytes(self.input.array()?);
                hash(self.many(|all| {
                    let ttl = all.len()?;
                    let expires_ms = (ttl > 0).then(|| first.saturating_add(ttl - 1));
                    Ok(Field { name: all.string()?, value: all.string()?, expires_ms })
                })?)
            }
            kind::HASH_LISTPACK_EX => {
                self.input.take(8)?;
                let all = self.packed(listpack)?;
                let (threes, []) = all.as_chunks::<3>() else {
                    return Err(self.input.malformed("a field without value or time"));
                };
                hash(
                    threes
                        .iter()
                        .map(|[name, value, expires]| Field {
                            name: name.clone(),
                            value: value.clone(),
                            expires_ms: number(expires)
                                .and_then(|ms| u64::try_from(ms).ok())
                                .filter(|ms| *ms > 0),
                        })
                        .collect(),
                )
            }
            kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
                let nodes = self.many(|all| {
                    let (key, pack) = (all.string()?, all.packed(listpack)?);
                    let entries = stream_node(&key, &pack);
                    entries
                        .ok_or_else(|| all.input.malformed("a node of a stream that does not hold together"))
                })?;
                self.rest()?;
                Value::Stream(nodes.concat())
            }
            kind::MODULE_2 => {
                let id = self.len()?;
                self.rest()?;
                Value::Module(id)
            }
            other => return Err(self.input.malformed(format!("a value of type {other}"))),
        })
    }

    /// All that is left, unread.
    fn rest(&mut self) -> Result<(), RdbError> {
        while !self.input.is_at_end()? {
            self.input.take_some(u64::MAX)?;
        }
        Ok(())
    }

    /// A score as sorted sets before Redis 4 had it.
    fn text_score(&mut self) -> Result<f64, RdbError> {
        let text = match self.input.byte()? {
            253 => return Ok(f64::NAN),
            254 => return Ok(f64::INFINITY),
            255 => return Ok(f64::NEG_INFINITY),
            len => self.input.take(usize::from(len))?.to_vec(),
        };
        score(&text).ok_or_else(|| self.input.malformed("a score that is no number"))
    }

    fn scores(&mut self, decode: fn(&[u8]) -> Option<Vec<Vec<u8>>>) -> Result<Value, RdbError> {
        let all = self.packed(decode)?;
        let pairs: Option<Vec<_>> = match all.as_chunks::<2>() {
            (pairs, []) => pairs.iter().map(|[member, text]| Some((member.clone(), score(text)?))).collect(),
            _ => None,
        };
        pairs.map(zset).ok_or_else(|| self.input.malformed("a sorted set without scores"))
    }

    fn fields(&mut self, decode: fn(&[u8]) -> Option<Vec<Vec<u8>>>) -> Result<Value, RdbError> {
        let all = self.packed(decode)?;
        let (pairs, []) = all.as_chunks::<2>() else {
            return Err(self.input.malformed("a field without a value"));
        };
        let field = |[name, value]: &[Vec<u8>; 2]| Field {
            name: name.clone(),
            value: value.clone(),
            expires_ms: None,
        };
        Ok(hash(pairs.iter().map(field).collect()))
    }
}

fn set(mut members: Vec<Vec<u8>>) -> Value {
    members.sort_unstable();
    Value::Set(members)
}

fn hash(mut fields: Vec<Field>) -> Value {
    fields.sort_unstable();
    Value::Hash(fields)
}

fn zset(mut members: Vec<(Vec<u8>, f64)>) -> Value {
    members.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Zset(members)
}

fn score(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A little-endian unsigned integer of at most 4 bytes.
fn unsigned(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// Integers of one width, in order.
fn intset(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let width = unsigned(bytes.get(..4)?);
    let count = unsigned(bytes.get(4..8)?);
    let numbers = bytes.get(8..)?;
    if !matches!(width, 2 | 4 | 8) || numbers.len() != count.checked_mul(width)? {
        return None;
    }
    Some(numbers.chunks(width).map(|bytes| integer(bytes).to_string().into_bytes()).collect())
}

/// Entries between a header of ten bytes and 0xff, each after the length of the one before it.
#[expect(clippy::big_endian_bytes, reason = "ziplists write long lengths big-endian")]
fn ziplist(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut at = 10;
    let mut all = vec![];
    loop {
        match *bytes.get(at)? {
            255 => return (at + 1 == bytes.len()).then_some(all),
            254 => at += 5,
            _ => at += 1,
        }
        let head = *bytes.get(at)?;
        let text = |number: i64| number.to_string().into_bytes();
        let body = |skip: usize, len: usize| bytes.get(at + skip..(at + skip).checked_add(len)?);
        let (entry, len) = match head {
            0x00..=0x3f => (body(1, usize::from(head))?.to_vec(), 1 + usize::from(head)),
            0x40..=0x7f => {
                let len = usize::from(head & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                (body(2, len)?.to_vec(), 2 + len)
            }
            0x80 => {
                let len = u32::from_be_bytes(body(1, 4)?.try_into().ok()?) as usize;
                (body(5, len)?.to_vec(), 5 + len)
            }
            0xc0 => (text(integer(body(1, 2)?)), 3),
            0xd0 => (text(integer(body(1, 4)?)), 5),
            0xe0 => (text(integer(body(1, 8)?)), 9),
            0xf0 => (text(integer(body(1, 3)?)), 4),
            0xfe => (text(integer(body(1, 1)?)), 2),
            0xf1..=0xfd => (text(i64::from(head & 0x0f) - 1), 1),
            _ => return None,
        };
        all.push(entry);
        at += len;
    }
}

/// Entries between a header of six bytes and 0xff, each before its own length.
fn listpack(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut at = 6;
    let mut all = vec![];
    loop {
        let head = *bytes.get(at)?;
        let body = |skip: usize, len: usize| bytes.get(at + skip..(at + skip).checked_add(len)?);
        let text = |number: i64| number.to_string().into_bytes();
        let (entry, len) = match head {
            0xff => return (at + 1 == bytes.len()).then_some(all),
            0x00..=0x7f => (text(i64::from(head)), 1),
            0x80..=0xbf => {
                let len = usize::from(head & 0x3f);
                (body(1, len)?.to_vec(), 1 + len)
            }
            0xc0..=0xdf => {
                let high = u16::from(head & 0x1f) << 8 | u16::from(*bytes.get(at + 1)?);
                // 13 bits with a sign.
                (text(i64::from((high << 3) as i16 >> 3)), 2)
            }
            0xe0..=0xef => {
                let len = usize::from(head & 0x0f) << 8 | usize::from(*bytes.get(at + 1)?);
                (body(2, len)?.to_vec(), 2 + len)
            }
            0xf0 => {
                let len = unsigned(body(1, 4)?);
                (body(5, len)?.to_vec(), 5 + len)
            }
            0xf1..=0xf4 => {
                let width = [2, 3, 4, 8][usize::from(head - 0xf1)];
                (text(integer(body(1, width)?)), 1 + width)
            }
            _ => return None,
        };
        all.push(entry);
        // The length again, seven bits a byte.
        let back = match len {
            0..128 => 1,
            128..16_384 => 2,
            16_384..2_097_152 => 3,
            2_097_152..268_435_456 => 4,
            _ => 5,
        };
        at = at.checked_add(len + back)?;
    }
}

/// Names and values of hashes before Redis 2.6.
fn zipmap(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut at = 1;
    let mut all = vec![];
    loop {
        let mut len = usize::from(*bytes.get(at)?);
        at += 1;
        match len {
            255 => return (at == bytes.len()).then_some(all),
            254 => {
                len = unsigned(bytes.get(at..at + 4)?);
                at += 4;
            }
            _ => {}
        }
        // Values, every other one, have a count of unused bytes behind them.
        let is_value = all.len() % 2 == 1;
        let free = if is_value { usize::from(*bytes.get(at)?) } else { 0 };
        at += usize::from(is_value);
        all.push(bytes.get(at..at.checked_add(len)?)?.to_vec());
        at += len + free;
    }
}

/// The entries of one node of a stream (`t_stream.c`, at the head): a master entry that names the fields most
/// have, then each entry as a difference to it.
#[expect(clippy::big_endian_bytes, reason = "streams write ids big-endian")]
fn stream_node(key: &[u8], pack: &[Vec<u8>]) -> Option<Vec<StreamEntry>> {
    let (ms, sequence) = key.split_at_checked(8)?;
    let first = (u64::from_be_bytes(ms.try_into().ok()?), u64::from_be_bytes(sequence.try_into().ok()?));
    let mut items = pack.iter();
    let mut next = || items.next();
    let _count = next()?;
    let _deleted = next()?;
    let mut master = vec![];
    for _ in 0..number(next()?)? {
        master.push(next()?.clone());
    }
    next()?; // the end of the master entry
    let mut entries = vec![];
    while let Some(flags) = next() {
        let flags = number(flags)?;
        let (ms, sequence) = (number(next()?)?, number(next()?)?);
        let id = (first.0.wrapping_add(ms as u64), first.1.wrapping_add(sequence as u64));
        let mut fields = vec![];
        // 2: fields as in the master entry. 1: deleted.
        if flags & 2 != 0 {
            for name in &master {
                fields.push((name.clone(), next()?.clone()));
            }
        } else {
            for _ in 0..number(next()?)? {
                fields.push((next()?.clone(), next()?.clone()));
            }
        }
        next()?; // how many elements the entry had
        if flags & 1 == 0 {
            entries.push(StreamEntry { id, fields });
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        push_len(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
        out
    }

    fn text(list: &[&str]) -> Vec<Vec<u8>> {
        list.iter().map(|item| item.as_bytes().to_vec()).collect()
    }

    #[test]
    fn packed_encodings() {
        // Seven bits, a string, 13 bits below zero, 16 bits, and their lengths again.
        let pack = packed(b"\0\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff");
        let expected = text(&["-1", "10000", "5", "ab"]);
        assert_eq!(decode(kind::SET_LISTPACK, &pack).unwrap(), Value::Set(expected));
        // Lengths of the one before, a string, a small number, 24 bits.
        let zip = packed(b"\0\0\0\0\0\0\0\0\x03\0\x00\x01a\x03\xf3\x02\xf0\xff\xff\xff\xff");
        assert_eq!(decode(kind::LIST_ZIPLIST, &zip).unwrap(), Value::List(text(&["a", "2", "-1"])));
        let ints = packed(b"\x02\0\0\0\x02\0\0\0\xff\xff\x07\x00");
        assert_eq!(decode(kind::SET_INTSET, &ints).unwrap(), Value::Set(text(&["-1", "7"])));
        let map = packed(b"\x01\x01k\x02\x01vv.\xff");
        let field = Field { name: b"k".to_vec(), value: b"vv".to_vec(), expires_ms: None };
        assert_eq!(decode(kind::HASH_ZIPMAP, &map).unwrap(), Value::Hash(vec![field]));
    }

    #[test]
    fn plain_encodings_say_the_same() {
        let field = |name: &str| Field { name: name.into(), value: b"v".to_vec(), expires_ms: None };
        for value in [
            Value::String(b"12".to_vec()),
            Value::List(text(&["b", "a"])),
            Value::Set(text(&["a", "b"])),
            Value::Hash(vec![field("a"), field("b")]),
            Value::Zset(vec![(b"a".to_vec(), 0.5), (b"b".to_vec(), f64::INFINITY)]),
        ] {
            let (kind, bytes) = encode_plain(&value).unwrap();
            assert_eq!(decode(kind, &bytes).unwrap(), value);
            for len in 0..bytes.len() {
                assert!(decode(kind, &bytes[..len]).is_err());
            }
        }
        let expiring = Field { expires_ms: Some(5), ..field("a") };
        assert_eq!(encode_plain(&Value::Hash(vec![expiring])), None);
    }
}
