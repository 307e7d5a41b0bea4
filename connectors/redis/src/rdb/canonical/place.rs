//! Places of keys in the order: bytes that compare as databases and names do.

#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
pub(super) fn sequence_bytes(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The bytes that order a key: its database, its name with zeros escaped, an end that is smaller than any name that
/// goes on. What belongs to the key and follows its record has more bytes behind that.
#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
pub(super) fn place_of(database: u32, name: &[u8], place: &mut Vec<u8>) {
    place.clear();
    match u8::try_from(database) {
        Ok(small) if small < 255 => place.push(small),
        _ => {
            place.push(255);
            place.extend_from_slice(&database.to_be_bytes());
        }
    }
    for part in name.split_inclusive(|byte| *byte == 0) {
        place.extend_from_slice(part);
        if part.last() == Some(&0) {
            place.push(255);
        }
    }
    place.extend_from_slice(&[0, 0]);
}

/// The reverse.
#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
pub(super) fn key_at(place: &[u8]) -> (u32, Vec<u8>) {
    let (database, rest) = match place {
        [255, a, b, c, d, rest @ ..] => (u32::from_be_bytes([*a, *b, *c, *d]), rest),
        [small, rest @ ..] => (u32::from(*small), rest),
        [] => (0, place),
    };
    let mut name = vec![];
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        if *byte == 0 && bytes.next() != Some(&255) {
            break;
        }
        name.push(*byte);
    }
    (database, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_as_bytes_do() {
        let names: [&[u8]; 7] = [b"", b"\0", b"\0a", b"a", b"a\0", b"a\0\xff", b"a\x01"];
        let mut places = vec![];
        for database in [0, 1, 254, 255, 70_000] {
            for name in names {
                let mut place = vec![];
                place_of(database, name, &mut place);
                assert_eq!(key_at(&place), (database, name.to_vec()));
                places.push(place);
            }
        }
        assert!(places.is_sorted());
    }
}
