//! What a source's record says of the paths of its entries, as text.

/// Detail of a source's record: where its entries begin in the snapshot, see [`stored_text`].
pub const STORED: &str = "stored";

/// Detail of a source's record: paths that the backup could not read, or not into, each as [`stored_text`] has it after
/// a slash, one per line. Their content is unknown, so it never counts as missing from the snapshot.
pub const UNSEEN: &str = "unseen";

/// Detail of a source's record: how many entries could not be read where the snapshot was copied from, and are left out, or
/// their content.
pub const LOST: &str = "damaged_entries";

/// A stored path as a record has it: any bytes, `%XX` (RFC 3986, section 2.1) for `%` and everything but printable
/// ASCII.
#[must_use]
pub fn stored_text(path: &[u8]) -> String {
    const SET: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    percent_encoding::percent_encode(path, SET).to_string()
}

/// The path of a text of [`stored_text`].
#[must_use]
pub fn stored_path(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}
