//! One value, decoded: what `esker dump` prints of a key, and what comparisons compare, whatever encoding a
//! server chose. Source: `rdb.c` (`rdbLoadObject`), `t_stream.c`.

use super::input::Input;
use super::packed::Form;
use super::written::Written;
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

/// The name of the type of a module's value, of nine letters, which its first 54 bits are (`moduleTypeEncodeId`).
#[must_use]
pub fn module_name(value: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let id = Written::new(value).len().unwrap_or_default();
    (0..9).map(|place| char::from(LETTERS[(id >> (58 - 6 * place)) as usize & 63])).collect()
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
    fn packed(&mut self, form: Form) -> Result<Vec<Vec<u8>>, RdbError> {
        let bytes = self.string()?;
        let elements = form.elements(&bytes);
        let elements = elements.map(|all| all.iter().map(|element| element.text().into_owned()).collect());
        elements.ok_or_else(|| self.input.malformed("a packed value that does not hold together"))
    }

    fn value(&mut self, kind: u8) -> Result<Value, RdbError> {
        Ok(match kind {
            kind::STRING => Value::String(self.string()?),
            kind::LIST => Value::List(self.many(Self::string)?),
            kind::LIST_ZIPLIST => Value::List(self.packed(Form::Ziplist)?),
            kind::LIST_QUICKLIST => Value::List(self.many(|all| all.packed(Form::Ziplist))?.concat()),
            kind::LIST_QUICKLIST_2 => {
                let nodes = self.many(|all| match all.len()? {
                    1 => Ok(vec![all.string()?]),
                    2 => all.packed(Form::Listpack),
                    _ => Err(all.input.malformed("an unknown node of a list")),
                })?;
                Value::List(nodes.concat())
            }
            kind::SET => set(self.many(Self::string)?),
            kind::SET_INTSET => set(self.packed(Form::Intset)?),
            kind::SET_LISTPACK => set(self.packed(Form::Listpack)?),
            kind::ZSET => zset(self.many(|all| Ok((all.string()?, all.text_score()?)))?),
            kind::ZSET_2 => {
                zset(self.many(|all| Ok((all.string()?, f64::from_le_bytes(all.input.array()?))))?)
            }
            kind::ZSET_ZIPLIST => self.scores(Form::Ziplist)?,
            kind::ZSET_LISTPACK => self.scores(Form::Listpack)?,
            kind::HASH => hash(
                self.many(|all| Ok(Field { name: all.string()?, value: all.string()?, expires_ms: None }))?,
            ),
            kind::HASH_ZIPMAP => self.fields(Form::Zipmap)?,
            kind::HASH_ZIPLIST => self.fields(Form::Ziplist)?,
            kind::HASH_LISTPACK => self.fields(Form::Listpack)?,
            kind::VALKEY_HASH_2 => hash(self.many(|all| {
                let (name, value) = (all.string()?, all.string()?);
                let expires = i64::from_le_bytes(all.input.array()?);
                Ok(Field { name, value, expires_ms: u64::try_from(expires).ok() })
            })?),
            kind::HASH_METADATA | kind::HASH_METADATA_RC => {
                // Candidates of 7.4 wrote moments, later versions what is added to the first of them.
                let first =
                    if kind == kind::HASH_METADATA_RC { 1 } else { u64::from_le_bytes(self.input.array()?) };
                hash(self.many(|all| {
                    let ttl = all.len()?;
                    let expires_ms = (ttl > 0).then(|| first.saturating_add(ttl - 1));
                    Ok(Field { name: all.string()?, value: all.string()?, expires_ms })
                })?)
            }
            kind::HASH_LISTPACK_EX | kind::HASH_LISTPACK_EX_RC => {
                if kind == kind::HASH_LISTPACK_EX {
                    self.input.take(8)?;
                }
                let all = self.packed(Form::Listpack)?;
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
                    let (key, pack) = (all.string()?, all.packed(Form::Listpack)?);
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

    fn scores(&mut self, form: Form) -> Result<Value, RdbError> {
        let all = self.packed(form)?;
        let pairs: Option<Vec<_>> = match all.as_chunks::<2>() {
            (pairs, []) => pairs.iter().map(|[member, text]| Some((member.clone(), score(text)?))).collect(),
            _ => None,
        };
        pairs.map(zset).ok_or_else(|| self.input.malformed("a sorted set without scores"))
    }

    fn fields(&mut self, form: Form) -> Result<Value, RdbError> {
        let all = self.packed(form)?;
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
        let pack = packed(b"\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff");
        let expected = text(&["-1", "10000", "5", "ab"]);
        assert_eq!(decode(kind::SET_LISTPACK, &pack).unwrap(), Value::Set(expected));
        // Lengths of the one before, a string, a small number, 24 bits.
        let zip = packed(b"\x15\0\0\0\x0f\0\0\0\x03\0\x00\x01a\x03\xf3\x02\xf0\xff\xff\xff\xff");
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
