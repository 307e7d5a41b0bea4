//! Key slots whose secret a key service wraps: [`ServiceSecret`] is the [`chunkstore::keys::SlotSecret`] of all of them, a
//! [`KeyService`] is what one kind of service can do. There are AWS KMS, the transit engine of OpenBao and Vault, and Azure
//! Key Vault, each in a file of its own.
//!
//! Requests, and whatever proves who we are, go to the service that the user named ([`Address`]), and to no other. What a slot says
//! of its service decides only whether it is tried: whoever can write to the store may have written it.

use chunkstore::id::{ObjectId, RepositoryId};
use zeroize::Zeroizing;

mod address;
pub mod answers;
mod aws;
mod azure;
mod cache;
mod client;
mod refusal;
mod secret;
#[cfg(test)]
mod tests;
mod transit;

pub use address::Address;
pub use aws::Aws;
pub use azure::AzureVault;
pub use cache::{Cache, CacheFolder};
pub use client::{Client, Reach};
pub use refusal::{Kind, Refusal};
pub use secret::ServiceSecret;
pub use transit::{Transit, TransitLogin};

/// Bytes that are secret.
pub type Plain = Zeroizing<Vec<u8>>;

/// What a wrapped secret is bound to: the slot that it opens, and nothing that the slot itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The repository.
    pub repository: RepositoryId,
    /// The slot.
    pub slot: ObjectId,
}

/// What [`Binding::pairs`] says of the use of the secret.
const PURPOSE: &str = "key-slot";

impl Binding {
    /// Names and values, in the order of the names.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, String); 3] {
        [
            ("esker:purpose", PURPOSE.to_owned()),
            ("esker:repository", self.repository.to_string()),
            ("esker:slot", self.slot.to_string()),
        ]
    }

    /// The pairs as JSON without spaces, in the order of the names.
    #[must_use]
    pub fn text(&self) -> String {
        let pairs: Vec<String> =
            self.pairs().iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
        format!("{{{}}}", pairs.join(","))
    }
}

/// A secret as a service wrapped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The key that wrapped it, as the service names it.
    pub key: String,
    /// What the service takes back.
    pub wrapped: String,
}

/// A service that wraps secrets under a key that never leaves it.
pub trait KeyService: Send + Sync {
    /// What people call it, with the key that is named: it goes into messages.
    fn describe(&self) -> String;

    /// Whether a secret that was wrapped under a key of this name may be one of the key that was named.
    fn is_of(&self, slot: &Address, key: &str) -> bool;

    /// Wraps a secret.
    ///
    /// # Errors
    ///
    /// Why the service does not.
    fn wrap(&self, secret: &[u8; 32], binding: &Binding) -> Result<Sealed, Refusal>;

    /// Gives back what was wrapped with the same binding.
    ///
    /// # Errors
    ///
    /// Why the service does not.
    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Zeroizing<[u8; 32]>, Refusal>;
}

/// The secret in the bytes that a service gave.
fn secret_of(plain: &[u8]) -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let array = <[u8; 32]>::try_from(plain).map(Zeroizing::new);
    // The service did not say that the secret is not to be had: what was kept of it stays.
    array.map_err(|_| Refusal::new(Kind::Unfit, "what it unwrapped is no secret of a key slot"))
}
