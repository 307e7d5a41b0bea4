//! Reports of drills: small objects that HEAD names by roots of a kind of their own. What is in one is the engine's affair.

use super::ChunkStore;
use crate::format::{ObjectKind, names};
use crate::head::{Body, Root};
use crate::id::ObjectId;
use crate::{Result, env::random_array, envelope};
use bytes::Bytes;

/// The longest report that HEAD has a copy of, in bytes: a list of many then reads no object of each. One of a system with
/// fewer than some hundred tables is shorter.
const IN_HEAD_LEN: usize = 32 << 10;

impl ChunkStore {
    /// Writes the object of a report. It counts for nothing until HEAD lists it: a session is to be open meanwhile.
    ///
    /// # Errors
    ///
    /// The store fails; there is no randomness.
    pub fn write_report(&self, plain: &[u8]) -> Result<Root> {
        let id = ObjectId(random_array(&*self.access.env)?);
        let (name, epoch) = (names::report(&id), self.epoch());
        let sealed = envelope::seal(&self.keys, epoch, ObjectKind::Report, &name, plain, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        self.access.storage.put(&name, sealed.into())?;
        let record = Self::record_of_report(plain);
        Ok(Root { record, ..Root::new(Root::REPORT, id, hash, epoch) })
    }

    /// What HEAD has of a report.
    pub(super) fn record_of_report(plain: &[u8]) -> Body {
        match plain.len() <= IN_HEAD_LEN {
            true => Body::Here(Bytes::copy_from_slice(plain)),
            false => Body::None,
        }
    }

    /// The text of a report: from HEAD's leaves, or else from its object.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn report(&self, root: &Root) -> Result<Bytes> {
        match root.record.read() {
            Ok(Some(record)) => Ok(record),
            Err(error) if !error.is_damage() => Err(error),
            // Too long for HEAD, or what HEAD has of it is lost.
            _ => self.read_report(root).map(Bytes::from),
        }
    }

    /// The same from its object, checked against HEAD.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read_report(&self, root: &Root) -> Result<Vec<u8>> {
        self.read_root(root, ObjectKind::Report)
    }
}
