//! Buffers whose length an object or an option decides. Where there is no memory for one, as under `ulimit -v`, that is
//! an error of the operation; an allocation that is not asked for in this way ends the process.

use crate::{Error, Result};

/// An empty buffer with room for `len` bytes.
///
/// # Errors
/// [`Error::Memory`] if there is none.
pub fn room(len: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![];
    reserve(&mut buffer, len)?;
    Ok(buffer)
}

/// Makes room for `more` bytes.
///
/// # Errors
/// [`Error::Memory`] if there is none.
pub fn reserve(buffer: &mut Vec<u8>, more: usize) -> Result<()> {
    buffer.try_reserve_exact(more).map_err(|_| Error::Memory { bytes: more })
}

/// A copy of some bytes.
///
/// # Errors
/// [`Error::Memory`] if there is no memory for it.
pub fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut buffer = room(bytes.len())?;
    buffer.extend_from_slice(bytes);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert_eq!(copy(b"abc").unwrap(), b"abc");
        let error = room(usize::MAX / 2).unwrap_err();
        assert!(matches!(error, Error::Memory { .. }) && !error.is_damage(), "{error}");
    }
}
