//! Keys one after the other: of a dump in a snapshot, or of one that comes from elsewhere.

use super::{Dump, Record, Selection, Stretch, Want, bytes};
use crate::rdb::RdbError;
use crate::rdb::canonical::{Canonical, USAGE_LEN, gather, read_usage};
use crate::rdb::parse::{Order, Part, Step, Walk};
use engine::Result;
use std::collections::VecDeque;
use std::io::Read;

/// Keys one after the other.
pub trait Records {
    /// The next; `None` at the end.
    fn next_record(&mut self) -> Result<Option<Record>>;
}

/// Keys of a dump in a snapshot.
pub struct Stored<'a> {
    pub(super) dump: &'a Dump,
    pub(super) selection: &'a Selection,
    pub(super) want: Want,
    pub(super) stretches: VecDeque<Stretch>,
    pub(super) plan: bytes::Plan<'a>,
    pub(super) usage: Option<bytes::Plan<'a>>,
    pub(super) current: Option<Current<'a>>,
}

/// The stretch that is being walked through, and its uses.
pub(super) struct Current<'a> {
    walk: Walk<bytes::Stretch<'a>>,
    usage: Option<std::io::BufReader<bytes::Stretch<'a>>>,
}

impl Records for Stored<'_> {
    fn next_record(&mut self) -> Result<Option<Record>> {
        let told = |error: RdbError| self.dump.told(error);
        loop {
            let Some(current) = &mut self.current else {
                let Some(stretch) = self.stretches.pop_front() else { return Ok(None) };
                let reader = self.plan.next_stretch();
                let walk = match &self.dump.index {
                    Some(index) => Walk::resume(reader, index.version, stretch.from, stretch.database),
                    None => Walk::new(reader, Order::AsIs).map_err(told)?,
                };
                let usage = self.usage.as_mut().map(|plan| std::io::BufReader::new(plan.next_stretch()));
                self.current = Some(Current { walk, usage });
                continue;
            };
            let over = self.dump.index.is_some() && current.walk.is_at_end().map_err(told)?;
            let step = if over { Step::End } else { current.walk.next_step().map_err(told)? };
            let key = match step {
                Step::Global(..) => continue,
                Step::Key(key) => key,
                Step::End => {
                    self.current = None;
                    continue;
                }
            };
            let mut usage = key.usage;
            if let Some(uses) = &mut current.usage {
                let mut bytes = [0; USAGE_LEN as usize];
                uses.read_exact(&mut bytes).map_err(|error| told(error.into()))?;
                usage = read_usage(bytes);
            }
            let fits = self.selection.fits(key.database, &key.name);
            let (len, value) =
                read_value(&mut current.walk, key.kind, fits && self.want == Want::Values).map_err(told)?;
            if fits {
                return Ok(Some(Record { key, len, value, usage }));
            }
        }
    }
}

/// Reads past a value; its bytes come along if they are wanted.
fn read_value<R: Read>(walk: &mut Walk<R>, kind: u8, wanted: bool) -> Result<(u64, Vec<u8>), RdbError> {
    let (mut len, mut value) = (0, vec![]);
    walk.value(kind, &mut |part| {
        let (Part::Whole(bytes) | Part::Piece(bytes) | Part::Member(_, bytes)) = part;
        len += bytes.len() as u64;
        if wanted {
            value.extend_from_slice(bytes);
        }
        Ok(())
    })?;
    Ok((len, value))
}

/// All keys of a dump that comes from elsewhere, in order.
pub struct Live<R> {
    walk: Walk<R>,
    shown: String,
}

impl Live<Canonical> {
    /// Gathers a dump; spill files go into `scratch`.
    pub fn gather(reader: impl Read, shown: &str, scratch: &std::path::Path) -> Result<Self> {
        let told = |error| crate::dump::told(error, shown);
        let canonical = Canonical::new(gather(reader, scratch).map_err(told)?, scratch, [0; 2]);
        Ok(Self { walk: Walk::new(canonical, Order::AsIs).map_err(told)?, shown: shown.to_owned() })
    }
}

impl<R: Read> Records for Live<R> {
    fn next_record(&mut self) -> Result<Option<Record>> {
        let told = |error| crate::dump::told(error, &self.shown);
        loop {
            match self.walk.next_step().map_err(told)? {
                Step::End => return Ok(None),
                Step::Global(..) => {}
                Step::Key(key) => {
                    let (len, value) = read_value(&mut self.walk, key.kind, true).map_err(told)?;
                    let usage = key.usage;
                    return Ok(Some(Record { key, len, value, usage }));
                }
            }
        }
    }
}
