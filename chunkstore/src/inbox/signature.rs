//! Signatures of hosts and of drill reports: Ed25519 (RFC 8032), over a label and what is meant, so that none of one kind passes for another.

use crate::env::{Env, random_array};
use crate::format::{Encoder, SIGNATURE_LEN};
use crate::id::{ObjectId, RepositoryId};
use crate::{Result, keys::derive};
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

/// What a signature is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// All of a commit.
    Commit,
    /// What a snapshot is of.
    Snapshot,
    /// A drill's report: the repository's id and the report's text.
    Report,
}

impl Signed {
    fn message(self, bytes: &[u8]) -> Vec<u8> {
        let label: &[u8] = match self {
            Self::Commit => b"esker commit 1",
            Self::Snapshot => b"esker snapshot 1",
            Self::Report => b"esker drill report 1",
        };
        [label, bytes].concat()
    }
}

/// The private key of a host, or of whoever signs reports.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(of {})", self.public().0.short())
    }
}

impl SigningKey {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn generate(env: &dyn Env) -> Result<Self> {
        let seed = Zeroizing::new(random_array(env)?);
        Ok(Self::from_bytes(&seed))
    }

    /// The key of a seed: the private key of RFC 8032.
    #[must_use]
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Its seed, which is the secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The key that checks its signatures.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(ObjectId(self.0.verifying_key().to_bytes()))
    }

    /// Signs.
    #[must_use]
    pub fn sign(&self, what: Signed, bytes: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&what.message(bytes)).to_bytes()
    }

    /// Opens the host's own book, which nobody else reads.
    pub(crate) fn book(&self) -> crate::keys::RawKey {
        crate::keys::RawKey::of(*derive(&self.to_bytes(), "book", &[]))
    }

    /// Hashes blocks of what the host stores.
    pub(crate) fn blocks(&self) -> Zeroizing<[u8; 32]> {
        derive(&self.to_bytes(), "block-lists", &[])
    }
}

/// The public key of a host, or of whoever signs reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub ObjectId);

impl PublicKey {
    /// Whether its host signed this. Keys and signatures that fit several messages are refused.
    #[must_use]
    pub fn verifies(&self, what: Signed, bytes: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(self.0.as_bytes()) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        key.verify_strict(&what.message(bytes), &signature).is_ok()
    }
}

/// What a signature of a snapshot says: whose, of which run, and all that decides what is restored from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The host.
    pub host: ObjectId,
    /// Its run.
    pub run: u64,
    /// When the backup began, in nanoseconds since the Unix epoch.
    pub time_ns: i128,
    /// The host's name.
    pub hostname: &'a str,
    /// The paths.
    pub paths: &'a [String],
    /// Level of the manifest's chunks.
    pub level: u8,
    /// Its chunks: ids and lengths.
    pub chunks: &'a [(crate::ChunkId, u32)],
}

impl Statement<'_> {
    /// The bytes that are signed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut out = Encoder::default();
        out.raw(self.repository.as_bytes()).raw(self.host.as_bytes()).u64(self.run);
        out.raw(&self.time_ns.to_le_bytes()).var(self.hostname.as_bytes()).u32(count(self.paths.len()));
        for path in self.paths {
            out.var(path.as_bytes());
        }
        out.u8(self.level).u32(count(self.chunks.len()));
        for (id, len) in self.chunks {
            out.raw(id.as_bytes()).u32(*len);
        }
        out.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::{from_hex, to_hex};

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        from_hex(text).unwrap().try_into().unwrap()
    }

    /// RFC 8032, 7.1, test 3: the crate beneath is the one that is meant.
    #[test]
    fn the_vector_of_the_rfc() {
        let seed = hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
        let key = SigningKey::from_bytes(&seed);
        assert_eq!(
            key.public().0.to_string(),
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
        );
        assert_eq!(
            to_hex(&key.0.sign(&[0xaf, 0x82]).to_bytes()),
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        );
    }

    /// The vector of docs/format.md, section 5.3, as an independent program computed it.
    #[test]
    fn the_vector_of_the_format() {
        let key = SigningKey::from_bytes(&[4; 32]);
        let statement = Statement {
            repository: RepositoryId([3; 16]),
            host: ObjectId([9; 32]),
            run: 7,
            time_ns: 1_700_000_000_000_000_000,
            hostname: "web1",
            paths: &["/etc".to_owned()],
            level: 0,
            chunks: &[(crate::ChunkId([2; 32]), 100)],
        };
        assert_eq!(
            to_hex(&key.sign(Signed::Snapshot, &statement.bytes())),
            "1712476c76442d29b82b78f30d2322cc01b478bc97020732c70649d112800a59c555cf04e3be9211ce94cd6bbe8f1c2e47ac19e766f3921c0d022b691914be06"
        );
    }

    /// The vector of docs/format.md, section 5.7, as an independent program computed it.
    #[test]
    fn the_vector_of_reports() {
        let key = SigningKey::from_bytes(&[4; 32]);
        let message = [&[3; 16][..], br#"{"schema":"esker-drill-1"}"#].concat();
        let signature = key.sign(Signed::Report, &message);
        assert_eq!(
            to_hex(&signature),
            "08005252a6f97f4651afb75fe30a43885010c85d425739a488f2845666bcdf508e75e9bc4e251185d55d52a098497bc8901b1edcd906ac13efdab369b833d006"
        );
        assert!(key.public().verifies(Signed::Report, &message, &signature));
        assert!(!key.public().verifies(Signed::Snapshot, &message, &signature));
    }

    #[test]
    fn a_signature_is_of_one_host_one_kind_and_every_byte() {
        let env = SeededEnv::new(1);
        let (key, other) = (SigningKey::generate(&env).unwrap(), SigningKey::generate(&env).unwrap());
        let mut signature = key.sign(Signed::Commit, b"what is meant");
        assert!(key.public().verifies(Signed::Commit, b"what is meant", &signature));
        assert!(!key.public().verifies(Signed::Snapshot, b"what is meant", &signature));
        assert!(!key.public().verifies(Signed::Commit, b"what is mean", &signature));
        assert!(!other.public().verifies(Signed::Commit, b"what is meant", &signature));
        for at in 0..signature.len() {
            signature[at] ^= 1;
            assert!(!key.public().verifies(Signed::Commit, b"what is meant", &signature), "byte {at}");
            signature[at] ^= 1;
        }
        // A key of small order fits many messages.
        assert!(!PublicKey(ObjectId([0; 32])).verifies(Signed::Commit, b"what is meant", &signature));
        assert!(!format!("{key:?}").contains(&to_hex(&*key.to_bytes())[..8]));
    }
}
