//! What `--no-owner` leaves of a dump's privileges: what was taken from everybody stays taken, since no role is needed for
//! that, and what a database's users had closed must not open by coming back.

use super::roles::takes_from_everybody;
use crate::sql::{Piece, split};
use crate::toc::Toc;
use std::collections::BTreeSet;

/// Leaves all privileges out but REVOKE … FROM PUBLIC. Returns whether default privileges are among them, which belong to
/// roles.
pub(super) fn leave_out(toc: &mut Toc) -> bool {
    let mut kept = vec![];
    for entry in toc.entries.iter().filter(|entry| entry.kind == "ACL") {
        let definition = match entry.bytes.definition.is_empty() {
            true => entry.definition.as_bytes(),
            false => &entry.bytes.definition,
        };
        let mut text = vec![];
        for piece in split(definition) {
            match piece {
                Piece::Statement(bytes) if takes_from_everybody(&String::from_utf8_lossy(&bytes)) => {
                    text.extend_from_slice(&bytes);
                    text.extend_from_slice(b";\n");
                }
                _ => {}
            }
        }
        kept.push((entry.id, text));
    }
    for (id, text) in &kept {
        toc.set_definition(*id, text);
    }
    let empty = kept.iter().filter(|(_, text)| text.is_empty());
    let left: BTreeSet<i64> = empty.map(|(id, _)| *id).collect();
    let with_defaults = toc.entries.iter().any(|entry| entry.kind == "DEFAULT ACL");
    toc.retain(|entry| entry.kind != "DEFAULT ACL" && !left.contains(&entry.id));
    with_defaults
}
