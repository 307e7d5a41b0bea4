//! What HEAD says of the snapshots in a leaf, in bytes: the ends of their run, if they are one. docs/format.md has the
//! bytes.

use super::{Columns, put_time, take_time};
use crate::rank::{Commit, Key, Run};
use chunkstore::format::{Decoder, Encoder, Malformed};
use chunkstore::head::RootColumns;
use jiff::Timestamp;

/// Summaries of this version only are read.
const VERSION: u8 = 1;

/// Makes what HEAD says of snapshots.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotColumns;

impl RootColumns for SnapshotColumns {
    fn of_record(&self, record: &[u8]) -> Vec<u8> {
        Columns::of_record(record)
    }

    fn summary(&self, columns: &mut dyn Iterator<Item = &[u8]>) -> Vec<u8> {
        let stamps: Option<Vec<_>> = columns.map(Columns::decode_stamp).collect();
        stamps.and_then(|stamps| Run::of(stamps.iter())).map_or_else(Vec::new, |run| encode(&run))
    }
}

fn encode(run: &Run) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u8(VERSION).u8(u8::from(run.keys.is_some()) | u8::from(run.commits.is_some()) << 1);
    for (time, place) in run.keys.iter().flat_map(|(first, last)| [first, last]) {
        put_time(&mut out, *time);
        out.u8(u8::from(place.is_some()));
        let (incarnation, generation) = place.unwrap_or_default();
        out.u64(incarnation).u64(generation);
    }
    for ((incarnation, generation), clock) in run.commits.iter().flat_map(|(first, last)| [first, last]) {
        out.u64(*incarnation).u64(*generation);
        put_time(&mut out, *clock);
    }
    out.bytes
}

/// Reads a summary. `None` if it is of another version, or malformed: the leaf says the same.
#[must_use]
pub fn decode_summary(bytes: &[u8]) -> Option<Run> {
    if bytes.first() != Some(&VERSION) {
        return None;
    }
    read(Decoder::new(bytes, "summary of a leaf")).ok()
}

fn read(mut decoder: Decoder<'_>) -> Result<Run, Malformed> {
    decoder.u8()?;
    let flags = decoder.u8()?;
    if flags > 3 {
        return Err(decoder.malformed("unknown flag"));
    }
    let mut run = Run::default();
    if flags & 1 != 0 {
        run.keys = Some((take_key(&mut decoder)?, take_key(&mut decoder)?));
    }
    if flags & 2 != 0 {
        run.commits = Some((take_commit(&mut decoder)?, take_commit(&mut decoder)?));
    }
    decoder.finish()?;
    Ok(run)
}

fn take_key(decoder: &mut Decoder<'_>) -> Result<Key, Malformed> {
    let time = take_time(decoder)?;
    let (has_place, place) = (decoder.u8()?, (decoder.u64()?, decoder.u64()?));
    match has_place {
        0 => Ok((time, None)),
        1 => Ok((time, Some(place))),
        _ => Err(decoder.malformed("neither with nor without a place")),
    }
}

fn take_commit(decoder: &mut Decoder<'_>) -> Result<Commit, Malformed> {
    let place = (decoder.u64()?, decoder.u64()?);
    let clock: Timestamp = take_time(decoder)?;
    Ok((place, clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Made, Snapshot};

    fn columns(second: i64, made: bool) -> Vec<u8> {
        let time = Timestamp::new(1_800_000_000 + second, 999_999_999).unwrap();
        let generation = u64::MAX - 9 + second.unsigned_abs();
        let commit = Made { incarnation: 3, generation, clock: time, time_given: false };
        Columns::of(&Snapshot { time, made: made.then_some(commit), ..Snapshot::default() }).encode()
    }

    fn summary(columns: &[Vec<u8>]) -> Vec<u8> {
        SnapshotColumns.summary(&mut columns.iter().map(Vec::as_slice))
    }

    #[test]
    fn what_is_written_is_read() {
        for all in [
            vec![],
            vec![columns(0, true)],
            vec![columns(0, true), columns(4, true), columns(5, true)],
            vec![columns(0, false), columns(1, true), columns(2, false)],
            vec![columns(0, false), columns(1, false)],
        ] {
            let stamps: Vec<_> = all.iter().map(|bytes| Columns::decode_stamp(bytes).unwrap()).collect();
            let bytes = summary(&all);
            assert_eq!(decode_summary(&bytes), Run::of(stamps.iter()), "{all:?}");
            assert!(bytes.len() <= 2 + 2 * 29 + 2 * 28);
            // Whatever is cut, added, or of a later version.
            for len in 0..bytes.len() {
                assert_eq!(decode_summary(&bytes[..len]), None, "{len} bytes");
            }
            assert_eq!(decode_summary(&[&bytes[..], &[0]].concat()), None);
            for (at, value) in [(0, 0), (0, VERSION + 1), (1, 4), (14, 2), (9, 0x7f)] {
                let mut other = bytes.clone();
                if let Some(byte) = other.get_mut(at) {
                    *byte = value;
                    assert_eq!(decode_summary(&other), None, "byte {at} is {value}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_run_has_no_summary() {
        assert_eq!(summary(&[columns(1, true), columns(0, true)]), b"");
        assert_eq!(summary(&[columns(0, true), vec![]]), b"");
        assert_eq!(decode_summary(b""), None);
    }
}
