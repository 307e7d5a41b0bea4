//! Names from servers as one component of a path in a snapshot, and back. A name may have every byte that its server
//! allows; a component may not: no `/`, no NUL, not `.` nor `..`, not empty. The encoding is reversible and gives
//! different names different components, so that no name hides another or makes a manifest that cannot be read.

use percent_encoding::{percent_decode_str, percent_encode_byte};

/// A name as a component: control characters, `/`, `%` and bytes that are not UTF-8 as `%XX` (RFC 3986, section 2.1),
/// also the names `.`, `..` and the empty one, which a path cannot contain. Bytes in `also` are encoded, too.
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

/// The name of a component.
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

/// A path as text that represents every byte: bytes that are not UTF-8 as `%80` to `%FF`. A `%` that would otherwise be
/// read as the beginning of such a byte, or as this `%` itself, is `%25`; every other path stays unchanged.
#[must_use]
pub fn path_text(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        let valid = chunk.valid();
        for (at, character) in valid.char_indices() {
            out.push(character);
            if character == '%' && escape(valid.as_bytes(), at).is_some() {
                out.push_str("25");
            }
        }
        for byte in chunk.invalid() {
            out.push_str(percent_encode_byte(*byte));
        }
    }
    out
}

/// A URL in which bytes that are not UTF-8 are encoded (URL Standard, section 1.3); encoded bytes stay unchanged.
#[must_use]
pub fn escaped_url(url: &[u8]) -> String {
    let mut out = String::with_capacity(url.len());
    for chunk in url.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(percent_encode_byte(*byte));
        }
    }
    out
}

/// The bytes of a path that [`path_text`] wrote.
#[must_use]
pub fn path_bytes(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = escape(bytes, at);
        out.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

/// The meaning of `%` at a position: `%25` and `%80` to `%FF`, in capitals, and nothing else.
fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let (percent, high, low) = (bytes.get(at)?, bytes.get(at + 1)?, bytes.get(at + 2)?);
    let value = digit(high)? << 4 | digit(low)?;
    (*percent == b'%' && (value == b'%' || value >= 0x80)).then_some(value)
}

/// The normalized form of an absolute path: no `.`, no empty component, no slash at the end; `..` removes the component
/// before it, without reading the file system.
#[must_use]
pub fn normal_path(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
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

    #[test]
    fn paths_say_every_byte_and_most_stay_as_they_are() {
        for (path, text) in [
            (&b"/srv/100%"[..], "/srv/100%"),
            (b"/a b/%20/%zz", "/a b/%20/%zz"),
            (b"/s/M\xfcller", "/s/M%FCller"),
            (b"/s/M%FCller", "/s/M%25FCller"),
            (b"/s/%25", "/s/%2525"),
            ("/žluť".as_bytes(), "/žluť"),
        ] {
            assert_eq!(path_text(path), text);
            assert_eq!(path_bytes(text), path);
        }
        for (path, normal) in [
            ("/s/", "/s"),
            ("//a/./b//", "/a/b"),
            ("/a/../b", "/b"),
            ("/..", "/"),
            ("/", "/"),
            ("stdin", "/stdin"),
        ] {
            assert_eq!(normal_path(path), normal);
        }
    }

    proptest! {
        #[test]
        fn every_path_comes_back(path in proptest::collection::vec(prop_oneof![
            any::<u8>(), proptest::sample::select(&b"%%%25FC8/"[..])], 0..40)) {
            prop_assert_eq!(path_bytes(&path_text(&path)), path);
        }

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
