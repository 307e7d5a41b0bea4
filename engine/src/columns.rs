//! What a root of HEAD says of its snapshot: its place in the order of snapshots, and hashes of what backups compare. So a
//! backup reads the records of a few snapshots rather than those of all. Equal hashes prove nothing: whoever finds some
//! reads the record. Other hashes prove that the records differ. docs/format.md has the bytes.

use crate::group::{GroupBy, GroupKey};
use crate::rank::Stamp;
use crate::snapshot::{Made, Snapshot, SourceRecord};
use chunkstore::format::{Decoder, Encoder, Malformed};
use jiff::Timestamp;

mod summary;
pub use summary::{SnapshotColumns, decode_summary};

/// Columns of this version only are read. It rises with every change of what is hashed, or how.
const VERSION: u8 = 1;

/// Bytes of columns: version, flags, two times of twelve bytes, seven numbers.
const LEN: usize = 2 + 2 * 12 + 7 * 8;

/// Bits of the flags.
mod flag {
    pub(super) const MADE: u8 = 1;
    pub(super) const TIME_GIVEN: u8 = 1 << 1;
    pub(super) const STREAM: u8 = 1 << 2;
    pub(super) const UNKNOWN: u8 = 1 << 3;
    pub(super) const SAFETY: u8 = 1 << 4;
    pub(super) const NAMED: u8 = 1 << 5;
    pub(super) const SEVERAL_NAMES: u8 = 1 << 6;
    pub(super) const ALL: u8 = (1 << 7) - 1;
}

/// The names that esker.toml gives to the sources of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    None,
    /// The hash of the only one.
    One(u64),
    /// As of sources that were combined: the record has them.
    Several,
}

/// The columns of a snapshot's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// What the snapshot is ranked by.
    pub stamp: Stamp,
    /// Whether one of the sources is a stream: a pipe, or the output of a command.
    is_stream: bool,
    /// Whether the sources lack their origins.
    is_unknown: bool,
    /// Whether a restore made the snapshot of what it replaced.
    pub is_safety: bool,
    host: u64,
    paths: u64,
    /// Of [`GroupKey::before_reading`].
    group: u64,
    /// Of [`GroupKey::before_reading_without_names`].
    likeness: u64,
    names: Names,
}

impl Columns {
    /// Those of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let group = GroupKey::before_reading(snapshot);
        let stream = |record: &SourceRecord| matches!(record.kind.as_str(), "stdin" | "command");
        let names = snapshot.sources.iter().filter_map(|record| record.identity.as_ref()?.name.as_deref());
        let names = names.map(|name| hash("name", name.as_bytes()));
        let names = names.fold(Names::None, |known, name| match known {
            Names::None => Names::One(name),
            Names::One(known) if known == name => Names::One(name),
            _ => Names::Several,
        });
        Self {
            stamp: Stamp::of(snapshot),
            is_stream: snapshot.sources.iter().any(stream),
            is_unknown: group.unknown,
            is_safety: snapshot.is_safety(),
            host: hash("host", snapshot.hostname.as_bytes()),
            paths: hash("paths", &list(&group.paths)),
            likeness: hash_group(&GroupKey::before_reading_without_names(snapshot)),
            group: hash_group(&group),
            names,
        }
    }

    /// The columns of a root whose snapshot has this record; empty if it cannot be parsed.
    #[must_use]
    pub fn of_record(record: &[u8]) -> Vec<u8> {
        serde_json::from_slice(record).map(|snapshot| Self::of(&snapshot).encode()).unwrap_or_default()
    }

    /// Whether [`GroupKey::before_reading`] may be the same of both.
    #[must_use]
    pub fn may_be_of_group(&self, other: &Self) -> bool {
        self.group == other.group
    }

    /// The same for groups that are formed by `by`, whether or not a snapshot says where it came from.
    #[must_use]
    pub fn may_be_of_group_by(&self, by: GroupBy, other: &Self) -> bool {
        (!by.host || self.host == other.host)
            && (!by.paths || self.paths == other.paths)
            && self.is_safety == other.is_safety
    }

    /// Whether a snapshot with these columns may be like `ours`: of the same group but for names, or of the same host and
    /// paths and without an origin.
    #[must_use]
    pub fn may_be_like(&self, ours: &Self) -> bool {
        let same_place = (self.host, self.paths) == (ours.host, ours.paths);
        self.likeness == ours.likeness || (self.is_unknown && same_place)
    }

    /// Whether [`crate::group::is_namesake`] may be true of both.
    #[must_use]
    pub fn may_be_namesake(&self, other: &Self) -> bool {
        let same_name = match (self.names, other.names) {
            (Names::None, _) | (_, Names::None) => false,
            (Names::One(own), Names::One(other)) => own == other,
            _ => true,
        };
        let same_stream = self.is_stream && other.is_stream && self.paths == other.paths;
        self.host == other.host && (same_name || same_stream)
    }

    /// Whether [`Columns::may_be_namesake`] may be true of any other.
    #[must_use]
    pub fn may_have_namesakes(&self) -> bool {
        self.is_stream || self.names != Names::None
    }

    /// Whether it may be of one of these hosts; of any if there are none.
    #[must_use]
    pub fn may_be_of_hosts(&self, hosts: &[String]) -> bool {
        hosts.is_empty() || hosts.iter().any(|host| hash("host", host.as_bytes()) == self.host)
    }

    /// Their bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let made = self.stamp.made;
        let (has_name, name) = match self.names {
            Names::None => (0, 0),
            Names::One(name) => (flag::NAMED, name),
            Names::Several => (flag::SEVERAL_NAMES, 0),
        };
        let bits = [
            (flag::MADE, made.is_some()),
            (flag::TIME_GIVEN, made.is_some_and(|made| made.time_given)),
            (flag::STREAM, self.is_stream),
            (flag::UNKNOWN, self.is_unknown),
            (flag::SAFETY, self.is_safety),
        ];
        let flags = bits.iter().filter(|(_, is_set)| *is_set).fold(has_name, |flags, (bit, _)| flags | bit);
        let mut out = Encoder::default();
        out.u8(VERSION).u8(flags);
        put_time(&mut out, self.stamp.time);
        out.u64(made.map_or(0, |made| made.incarnation)).u64(made.map_or(0, |made| made.generation));
        put_time(&mut out, made.map_or(Timestamp::UNIX_EPOCH, |made| made.clock));
        out.u64(self.host).u64(self.paths).u64(self.group).u64(self.likeness).u64(name);
        out.bytes
    }

    /// Reads the columns of a root. `None` if nobody wrote any, if they are of another version, or if they are malformed:
    /// the record says the same.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.first() != Some(&VERSION) {
            return None;
        }
        Self::read(bytes).ok()
    }

    /// What they rank by, without the rest.
    #[must_use]
    pub fn decode_stamp(bytes: &[u8]) -> Option<Stamp> {
        if bytes.first() != Some(&VERSION) || bytes.len() != LEN {
            return None;
        }
        Self::read_stamp(&mut Decoder::new(bytes, "columns of a root")).ok().map(|(_, stamp)| stamp)
    }

    /// The flags, and what they rank by.
    fn read_stamp(decoder: &mut Decoder<'_>) -> Result<(u8, Stamp), Malformed> {
        decoder.u8()?;
        let flags = decoder.u8()?;
        if flags & !flag::ALL != 0 {
            return Err(decoder.malformed("unknown flag"));
        }
        let time = take_time(decoder)?;
        let (incarnation, generation) = (decoder.u64()?, decoder.u64()?);
        let clock = take_time(decoder)?;
        let made = Made { incarnation, generation, clock, time_given: flags & flag::TIME_GIVEN != 0 };
        Ok((flags, Stamp { time, made: (flags & flag::MADE != 0).then_some(made) }))
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "columns of a root");
        let (flags, stamp) = Self::read_stamp(&mut decoder)?;
        let is_set = |bit: u8| flags & bit != 0;
        let (host, paths, group, likeness) = (decoder.u64()?, decoder.u64()?, decoder.u64()?, decoder.u64()?);
        let names = match (is_set(flag::NAMED), is_set(flag::SEVERAL_NAMES), decoder.u64()?) {
            (false, false, _) => Names::None,
            (true, false, name) => Names::One(name),
            (_, true, _) => Names::Several,
        };
        decoder.finish()?;
        Ok(Self {
            stamp,
            is_stream: is_set(flag::STREAM),
            is_unknown: is_set(flag::UNKNOWN),
            is_safety: is_set(flag::SAFETY),
            host,
            paths,
            group,
            likeness,
            names,
        })
    }
}

/// Seconds since 1970 and nanoseconds; before 1970 neither is positive.
fn put_time(out: &mut Encoder, time: Timestamp) {
    out.i64(time.as_second()).raw(&time.subsec_nanosecond().to_le_bytes());
}

fn take_time(decoder: &mut Decoder<'_>) -> Result<Timestamp, Malformed> {
    let (second, nanosecond) = (decoder.i64()?, i32::from_le_bytes(decoder.array()?));
    Timestamp::new(second, nanosecond).map_err(|_| decoder.malformed("time"))
}

/// The first 64 bits of a hash; `what` tells hashes of different things apart.
fn hash(what: &str, bytes: &[u8]) -> u64 {
    let mut out = Encoder::default();
    out.var(what.as_bytes()).raw(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&out.bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

fn hash_group(key: &GroupKey) -> u64 {
    let mut out = Encoder::default();
    out.var(key.hostname.as_bytes()).raw(&list(&key.paths)).raw(&list(&key.tags)).raw(&list(&key.origins));
    out.u8(u8::from(key.unknown)).u8(u8::from(key.safety));
    hash("group", &out.bytes)
}

/// How many there are, then each.
fn list(texts: &[String]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u64(texts.len() as u64);
    for text in texts {
        out.var(text.as_bytes());
    }
    out.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::is_namesake;
    use crate::identity::Identity;
    use crate::snapshot::MadeBy;
    use proptest::prelude::*;

    fn made(time_given: bool) -> Made {
        let clock = Timestamp::new(-62_000_000_000, -7).unwrap();
        Made { incarnation: 3, generation: u64::MAX, clock, time_given }
    }

    #[test]
    fn what_is_written_is_read() {
        let named = |name: &str| {
            let identity = Identity { name: Some(name.into()), ..Identity::default() };
            SourceRecord::new("stdin", "-", false).identified(identity)
        };
        let time = Timestamp::new(1_800_000_000, 999_999_999).unwrap();
        for snapshot in [
            Snapshot::default(),
            Snapshot { time, made: Some(made(false)), hostname: "a".into(), ..Snapshot::default() },
            Snapshot { made: Some(made(true)), made_by: MadeBy::Safety, ..Snapshot::default() },
            Snapshot { sources: vec![named("a")], ..Snapshot::default() },
            Snapshot { sources: vec![named("a"), named("a"), named("b")], ..Snapshot::default() },
        ] {
            let columns = Columns::of(&snapshot);
            let bytes = columns.encode();
            assert_eq!(bytes.len(), 82);
            assert_eq!(Columns::decode(&bytes).as_ref(), Some(&columns));
            assert_eq!(Columns::decode_stamp(&bytes), Some(columns.stamp));
            assert_eq!(columns.stamp, Stamp::of(&snapshot));
            assert_eq!(Columns::of_record(&serde_json::to_vec(&snapshot).unwrap()), bytes);
            // Whatever is cut, added, or of a later version.
            for len in 0..bytes.len() {
                assert_eq!(Columns::decode(&bytes[..len]), None, "{len} bytes");
                assert_eq!(Columns::decode_stamp(&bytes[..len]), None, "{len} bytes");
            }
            assert_eq!(Columns::decode(&[&bytes[..], &[0]].concat()), None);
            assert_eq!(Columns::decode_stamp(&[&bytes[..], &[0]].concat()), None);
            for (at, value) in [(0, 0), (0, VERSION + 1), (1, 0x80), (9, 0x7f), (13, 0x7f), (37, 0x7f)] {
                let mut other = bytes.clone();
                other[at] = value;
                assert_eq!(Columns::decode(&other), None, "byte {at} is {value}");
                assert_eq!(Columns::decode_stamp(&other), None, "byte {at} is {value}");
            }
        }
        assert_eq!(Columns::of_record(b"{"), b"");
    }

    /// The same bytes mean the same in every version: docs/format.md says which.
    #[test]
    fn hashes_stay_what_they_are() {
        let bytes = |parts: &[&[u8]]| {
            let first: [u8; 8] = blake3::hash(&parts.concat()).as_bytes()[..8].try_into().unwrap();
            u64::from_le_bytes(first)
        };
        let sources = vec![SourceRecord::new("files", "", false)];
        let snapshot = Snapshot {
            hostname: "h".into(),
            paths: vec!["/b//".into(), "a".into()],
            sources,
            ..Snapshot::default()
        };
        let columns = Columns::of(&snapshot);
        assert_eq!(columns.host, bytes(&[b"\x04\0\0\0hosth"]));
        let paths: &[u8] = b"\x02\0\0\0\0\0\0\0\x02\0\0\0/a\x02\0\0\0/b";
        assert_eq!(columns.paths, bytes(&[b"\x05\0\0\0paths", paths]));
        let none = [0; 8];
        let origins = b"\x01\0\0\0\0\0\0\0\x05\0\0\0files";
        let group = bytes(&[b"\x05\0\0\0group\x01\0\0\0h", paths, &none, origins, b"\0\0"]);
        assert_eq!((columns.group, columns.likeness), (group, group));
    }

    fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        let name = proptest::option::of(proptest::sample::select(vec!["a", "b"]));
        let kind = proptest::sample::select(vec!["files", "stdin", "command"]);
        let source = (name, kind, any::<bool>()).prop_map(|(name, kind, is_known)| {
            let identity = Identity { name: name.map(str::to_owned), ..Identity::default() };
            SourceRecord { identity: is_known.then_some(identity), ..SourceRecord::new(kind, "-", false) }
        });
        let paths = proptest::collection::vec(proptest::sample::select(vec!["/x", "x/", "/y"]), 0..3);
        let tags = proptest::collection::vec(proptest::sample::select(vec!["t", "u"]), 0..2);
        let host = proptest::sample::select(vec!["h", "g"]);
        let made_by = proptest::sample::select(vec![MadeBy::Hand, MadeBy::Safety]);
        let fields = (host, paths, tags, proptest::collection::vec(source, 0..3), made_by);
        fields.prop_map(|(host, paths, tags, sources, made_by)| Snapshot {
            hostname: host.into(),
            paths: paths.into_iter().map(str::to_owned).collect(),
            tags: tags.into_iter().map(str::to_owned).collect(),
            sources,
            made_by,
            ..Snapshot::default()
        })
    }

    proptest! {
        /// What columns rule out is not so.
        #[test]
        fn columns_rule_out_nothing_that_is_so(ours in any_snapshot(), theirs in any_snapshot(), by in 0u8..8) {
            let (our_columns, columns) = (Columns::of(&ours), Columns::of(&theirs));
            let group = |snapshot| GroupKey::before_reading(snapshot);
            prop_assert_eq!(columns.may_be_of_group(&our_columns), group(&ours) == group(&theirs));
            prop_assert!(our_columns.may_have_namesakes() || !is_namesake(&ours, &theirs));
            let by = GroupBy { host: by & 1 > 0, paths: by & 2 > 0, tags: by & 4 > 0 };
            let key = |snapshot| GroupKey { unknown: false, ..GroupKey::before_reading_by(by, snapshot) };
            prop_assert!(columns.may_be_of_group_by(by, &our_columns) || key(&ours) != key(&theirs));
            let bare = (GroupKey::before_reading_without_names(&ours), GroupKey::before_reading_without_names(&theirs));
            let same_place = (&bare.0.hostname, &bare.0.paths) == (&bare.1.hostname, &bare.1.paths);
            prop_assert_eq!(columns.may_be_like(&our_columns), bare.0 == bare.1 || (bare.1.unknown && same_place));
            prop_assert!(columns.may_be_namesake(&our_columns) || !is_namesake(&ours, &theirs));
            prop_assert!(columns.may_be_of_hosts(std::slice::from_ref(&theirs.hostname)));
        }
    }
}
