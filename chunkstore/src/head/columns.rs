//! What roots of HEAD say of their snapshots. The store keeps it; whoever writes snapshots knows what it means.

/// Makes what HEAD says of snapshots beside their ids, for whoever reads HEAD and not the records.
pub trait RootColumns: Send + Sync {
    /// The columns of a root, from its snapshot's record; see [`super::Root::columns`].
    fn of_record(&self, record: &[u8]) -> Vec<u8>;

    /// What the columns of the snapshots in one leaf say together, in the order of the list; empty if nothing. HEAD has it
    /// beside the leaf's name, so that not everybody reads the leaf. At most some hundred bytes.
    fn summary(&self, columns: &mut dyn Iterator<Item = &[u8]>) -> Vec<u8>;
}

/// Says nothing of snapshots.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoColumns;

impl RootColumns for NoColumns {
    fn of_record(&self, _: &[u8]) -> Vec<u8> {
        vec![]
    }

    fn summary(&self, _: &mut dyn Iterator<Item = &[u8]>) -> Vec<u8> {
        vec![]
    }
}
