//! Typed identifiers: fixed arrays of bytes that print as lower-case hex and cannot be mixed up.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Reads an id from exactly `2 * LEN` lower-case hex digits.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let digits = text.as_bytes();
                if digits.len() != 2 * $len {
                    return None;
                }
                let mut bytes = [0u8; $len];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = hex_digit(*pair.first()?)? << 4 | hex_digit(*pair.get(1)?)?;
                }
                Some(Self(bytes))
            }

            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits, for messages to people.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 2 * $len];
                write_hex(&self.0, &mut digits);
                f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| {
                    serde::de::Error::custom(concat!("not a ", stringify!($name), " in hex"))
                })
            }
        }
    };
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Two digits for each byte. HEAD is made of little else, so that this is worth a table.
fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes bytes as lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    write_hex(bytes, &mut digits);
    digits.into_iter().map(char::from).collect()
}

/// Reads lower-case hex of any even length.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some(hex_digit(*pair.first()?)? << 4 | hex_digit(*pair.get(1)?)?))
        .collect()
}

id!(
    /// Keyed BLAKE3 of a chunk's plaintext.
    ChunkId,
    32
);
id!(
    /// Random name of a pack; never derived from content, never used twice (docs/concurrency.md).
    PackId,
    32
);
id!(
    /// Random name of a small sealed object: an index segment, a snapshot, a key slot.
    ObjectId,
    32
);
id!(
    /// One writer's entry in HEAD; part of the names of its packs.
    SessionId,
    16
);
id!(
    /// Random name of a repository, bound into everything that is sealed.
    RepositoryId,
    16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects() {
        let id = SessionId([0xa5; 16]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for bad in ["", "a5", &"A5".repeat(16), &"g5".repeat(16), &"a5".repeat(17)] {
            assert_eq!(SessionId::parse(bad), None, "{bad}");
        }
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
        assert_eq!(from_hex("00f"), None);
    }
}
