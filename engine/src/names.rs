//! Names that servers give, as one component of a path in a snapshot, and back. A name may hold every byte that its
//! server allows; a component may not: no `/`, no NUL, not `.` nor `..`, not empty. The encoding is reversible and gives
//! different names different components, so that no name hides another or makes a manifest that cannot be read.

use percent_encoding::{percent_decode_str, percent_encode_byte};

/// A name as a component: controls, `/`, `%` and bytes that are not UTF-8 as `%XX` (RFC 3986, section 2.1), and the
/// names `.`, `..` and the empty one, which no path can hold. Whatever else stands in `also` is encoded, too.
#[must_use]
pub fn encoded_bytes(name: &[u8], also: &str) -> String {
    if name.is_empty() {
        // No byte encodes to a lone `%`.
        return "%".to_owned();
    }
    let is_dots = matches!(name, b"." | b"..");
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii_control()
                || matches!(character, '/' | '%')
                || (is_dots && character == '.')
                || also.contains(character)
            {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    out.push_str(percent_encode_byte(byte));
                }
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(percent_encode_byte(*byte));
        }
    }
    out
}

/// The same of text.
#[must_use]
pub fn encoded(name: &str) -> String {
    encoded_bytes(name.as_bytes(), "")
}

/// The name that a component stands for.
#[must_use]
pub fn decoded_bytes(component: &str) -> Vec<u8> {
    match component {
        "%" => vec![],
        component => percent_decode_str(component).collect(),
    }
}

/// The same as text; `None` if it is not UTF-8.
#[must_use]
pub fn decoded(component: &str) -> Option<String> {
    String::from_utf8(decoded_bytes(component)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::is_valid_path;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_no_components() {
        for (name, component) in [
            ("shop", "shop"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "..."),
            (".hidden", ".hidden"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            ("%", "%25"),
            ("a\nb\0", "a%0Ab%00"),
            ("žluť 日本", "žluť 日本"),
        ] {
            assert_eq!(encoded(name), component);
            assert_eq!(decoded(component).as_deref(), Some(name));
        }
        assert_eq!(encoded_bytes(b"t\xe9b", ""), "t%E9b");
        assert_eq!(encoded_bytes("a.b".as_bytes(), "."), "a%2Eb");
    }

    proptest! {
        #[test]
        fn every_name_is_one_component_and_comes_back(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            for also in ["", "."] {
                let component = encoded_bytes(&name, also);
                prop_assert!(is_valid_path(component.as_bytes()) && !component.contains('/'));
                prop_assert_eq!(&decoded_bytes(&component), &name);
            }
        }
    }
}
