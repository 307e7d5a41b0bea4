//! The channel binding of a login to its TLS session: `tls-server-end-point` (RFC 5929, section 4.1), the hash of the
//! server's certificate by the algorithm of its own signature, with MD5 and SHA-1 replaced by SHA-256.

use super::wire::Wire;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

/// Kinds of DER's values (X.690): SEQUENCE, OBJECT IDENTIFIER, and the first that has a tag of its context.
const SEQUENCE: u8 = 0x30;
const IDENTIFIER: u8 = 0x06;
const FIRST: u8 = 0xa0;

/// Identifiers of signatures and of hashes, as DER has them, and the hash in bits (RFC 3279, 4055, 5758).
const HASHES: &[(&[u8], u16)] = &[
    // RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512, SHA-224.
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", 256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", 256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", 256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", 384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", 512),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e", 224),
    // ECDSA with SHA-1, SHA-224, SHA-256, SHA-384, SHA-512.
    (b"\x2a\x86\x48\xce\x3d\x04\x01", 256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x01", 224),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", 256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", 384),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", 512),
    // The hashes themselves, as RSASSA-PSS names them: SHA-256, SHA-384, SHA-512, SHA-224, SHA-1.
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x01", 256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x02", 384),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x03", 512),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x04", 224),
    (b"\x2b\x0e\x03\x02\x1a", 256),
];
/// RSASSA-PSS, whose hash stands in its parameters.
const PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";

/// The hash of the certificate that the server showed; none without TLS, or if the certificate's signature has no
/// hash of its own (Ed25519), for which nothing is defined.
pub(super) fn end_point(wire: &Wire) -> Option<Vec<u8>> {
    let Wire::Tls(stream) = wire else { return None };
    let certificate = stream.conn.peer_certificates()?.first()?;
    hash(certificate)
}

fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match bits(certificate)? {
        224 => Sha224::digest(certificate).to_vec(),
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// The length of the hash in a certificate's signature, which stands after what is signed (RFC 5280, section 4.1).
fn bits(certificate: &[u8]) -> Option<u16> {
    let (whole, _) = value(certificate, SEQUENCE)?;
    let (_, after) = value(whole, SEQUENCE)?;
    let (algorithm, _) = value(after, SEQUENCE)?;
    let (identifier, parameters) = value(algorithm, IDENTIFIER)?;
    if identifier != PSS {
        return known(identifier);
    }
    let (parameters, _) = value(parameters, SEQUENCE)?;
    // Without it, SHA-1 (RFC 4055, section 3.1).
    let Some((hash, _)) = value(parameters, FIRST) else { return Some(256) };
    let (hash, _) = value(hash, SEQUENCE)?;
    known(value(hash, IDENTIFIER)?.0)
}

fn known(identifier: &[u8]) -> Option<u16> {
    HASHES.iter().find(|(known, _)| *known == identifier).map(|(_, bits)| *bits)
}

/// A value of this kind at the beginning of `bytes`, and what comes after it.
fn value(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != kind {
        return None;
    }
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that has nothing but a signature's algorithm.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let part = |kind: u8, bytes: &[u8]| [&[kind, 0x81, bytes.len() as u8], bytes].concat();
        let signed = part(SEQUENCE, &[0x02, 1, 2]);
        part(SEQUENCE, &[signed, part(SEQUENCE, algorithm), vec![0x03, 1, 0]].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let rsa = |last: u8| [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01".as_slice(), &[last, 5, 0]].concat();
        for (last, len) in [(4, 32), (5, 32), (0x0b, 32), (0x0c, 48), (0x0d, 64), (0x0e, 28)] {
            assert_eq!(hash(&certificate(&rsa(last))).unwrap().len(), len, "{last}");
        }
        let pss = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x0f\xa0\x0d\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02";
        assert_eq!(hash(&certificate(pss)).unwrap().len(), 48);
        assert_eq!(hash(&certificate(b"\x06\x03\x2b\x65\x70")), None, "Ed25519");
        let whole = certificate(&rsa(0x0b));
        assert!((0..whole.len() - 3).all(|len| hash(&whole[..len]).is_none()));
    }
}
