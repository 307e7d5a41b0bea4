//! Keys and shares, from whichever form of text they have.

use super::raw::RawKey;
use super::shares::Share;
use super::text::{KeyBytes, KeyTextError, SHARE_LABEL};
use zeroize::Zeroizing;

/// A text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyText {
    /// A key.
    Key(RawKey),
    /// A share of one.
    Share(Share),
}

impl KeyText {
    /// Reads either form.
    ///
    /// # Errors
    ///
    /// It is damaged or something else, and where.
    pub fn parse(text: &[u8]) -> Result<Self, KeyTextError> {
        let read = KeyBytes::parse(text)?;
        let (label, payload) = read.parts();
        if label == SHARE_LABEL {
            return Share::read(payload).map(Self::Share).ok_or(KeyTextError::Numbers);
        }
        let key = <[u8; 32]>::try_from(payload).map(Zeroizing::new).map_err(|_| KeyTextError::Other)?;
        Ok(Self::Key(RawKey::of(*key)))
    }
}
