//! Keys of write-only hosts. A host has the keys that chunks are named and cut by, a channel key, and the public key of the
//! inbox; nothing that opens anything. Each of its runs seals packs under a key of its own, which is sealed to the inbox and
//! then forgotten. docs/decisions/0018 has the reasons.

use super::hybrid::{self, Context, PrivateKey};
use super::{Key, KeyRing, Naming, derive};
use crate::env::{Env, random_array};
use crate::format::{ENCAPSULATED_LEN, GRANTED_LEN, names};
use crate::id::{ObjectId, RepositoryId};
use crate::{Error, Result};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Names the pre-shared key of HPKE.
const PSK_ID: &[u8] = b"esker inbox";

/// The epoch that replies say they are sealed under: none, but the channel key.
pub(crate) const CHANNEL: u32 = 0;

/// The key of a run, sealed to the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedRunKey {
    /// The encapsulated key.
    pub encapsulated: [u8; ENCAPSULATED_LEN],
    /// The key of the run, with its tag.
    pub sealed: [u8; GRANTED_LEN],
}

/// What a host has of a repository's keys.
#[derive(Clone)]
pub struct HostKeys {
    /// The repository.
    pub repository: RepositoryId,
    /// The host.
    pub host: ObjectId,
    /// Names chunks.
    pub(crate) id_key: Key,
    /// Draws the gear table.
    pub(crate) gear_key: Key,
    /// Opens replies, and is the pre-shared key of what is sealed to the inbox.
    pub(crate) channel: Key,
    /// The epoch of the inbox's public key.
    pub epoch: u32,
    /// The public key of the inbox.
    pub inbox: [u8; 32],
}

impl std::fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostKeys({} in {}, epoch {})", self.host.short(), self.repository.short(), self.epoch)
    }
}

/// What the key of a run is bound to.
fn info(repository: &RepositoryId, host: &ObjectId, run: u64, epoch: u32) -> Vec<u8> {
    [PSK_ID, repository.as_bytes(), host.as_bytes(), &run.to_le_bytes(), &epoch.to_le_bytes()].concat()
}

impl HostKeys {
    /// Makes the key of a run: the ring that seals what the run brings, and the key for whoever may open it.
    ///
    /// # Errors
    ///
    /// There is no randomness, or the inbox's public key is none.
    pub fn begin(&self, run: u64, env: &dyn Env) -> Result<(KeyRing, SealedRunKey)> {
        let key: Key = Zeroizing::new(random_array(env)?);
        let psk = derive(&self.channel, "inbox", &[]);
        let info = info(&self.repository, &self.host, run, self.epoch);
        let context = Context { psk: &psk, psk_id: PSK_ID, info: &info, aad: &[] };
        let sealed = hybrid::seal(&self.inbox, &key, &context, env)?;
        let (encapsulated, sealed) =
            sealed.ok_or_else(|| Error::Invalid("the inbox's public key is no key".into()))?;
        let ring = KeyRing::of_one(self.repository, self.epoch, key);
        Ok((ring, SealedRunKey { encapsulated, sealed }))
    }

    /// The ring that replies are opened with.
    #[must_use]
    pub fn channel(&self) -> KeyRing {
        KeyRing::of_one(self.repository, CHANNEL, self.channel.clone())
    }

    /// A key for what the host keeps of its own, derived from `secret`, which nobody else has.
    pub(crate) fn naming(&self) -> Naming {
        Naming { id_key: self.id_key.clone(), gear_key: self.gear_key.clone() }
    }
}

impl KeyRing {
    /// A ring with the key of one epoch, and a master key that is good for nothing.
    fn of_one(repository: RepositoryId, epoch: u32, key: Key) -> Self {
        let master = derive(&key, "no master key", &[]);
        Self::assemble(repository, master, BTreeMap::from([(epoch, key)]))
    }

    /// Names and cuts chunks as another repository does, from now on.
    pub(crate) fn lend(&self, naming: Naming) {
        // Opened once for one host: a second time there is the same.
        let _ = self.lent.set(naming);
    }

    /// The key that is shared with a host.
    fn channel_key(&self, host: &ObjectId) -> Key {
        derive(&self.master, "host", &[host.as_bytes()])
    }

    /// The ring that answers to a host are sealed with.
    #[must_use]
    pub fn channel(&self, host: &ObjectId) -> Self {
        Self::of_one(self.repository, CHANNEL, self.channel_key(host))
    }

    /// What a new host is given, of the inbox of an epoch.
    ///
    /// # Errors
    ///
    /// The data key of the epoch cannot be had.
    pub fn for_host(&self, host: ObjectId, epoch: u32) -> Result<HostKeys> {
        Ok(HostKeys {
            repository: self.repository,
            host,
            id_key: self.id_key.clone(),
            gear_key: self.gear_key(),
            channel: self.channel_key(&host),
            epoch,
            inbox: self.inbox_public(epoch)?,
        })
    }

    /// The public key of the inbox of an epoch.
    ///
    /// # Errors
    ///
    /// The data key of the epoch cannot be had.
    pub fn inbox_public(&self, epoch: u32) -> Result<[u8; 32]> {
        Ok(self.inbox(epoch)?.public())
    }

    fn inbox(&self, epoch: u32) -> Result<PrivateKey> {
        Ok(PrivateKey::derive(&derive(&*self.epoch_key(epoch)?, "inbox", &[])))
    }

    /// Opens the key of a run: the ring that opens what it brought.
    ///
    /// # Errors
    ///
    /// It was sealed to another inbox, or by another host, or for another run; or the data key of the epoch cannot be had.
    pub fn open_run(&self, host: &ObjectId, run: u64, epoch: u32, key: &SealedRunKey) -> Result<Self> {
        let psk = derive(&self.channel_key(host), "inbox", &[]);
        let info = info(&self.repository, host, run, epoch);
        let context = Context { psk: &psk, psk_id: PSK_ID, info: &info, aad: &[] };
        let name = names::commit(host, run);
        let opened = self.inbox(epoch)?.open(&key.encapsulated, &key.sealed, &context);
        let opened = opened.map_err(|error| Error::corrupt(&name, error))?;
        let key = <[u8; 32]>::try_from(opened.as_slice()).map_err(|_| Error::corrupt(&name, "key length"))?;
        Ok(Self::of_one(self.repository, epoch, Zeroizing::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::format::PackKind;
    use crate::id::{PackId, to_hex};

    #[test]
    fn a_run_is_opened_by_the_repository_only_and_as_what_it_is() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let other = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let host = ObjectId([9; 32]);
        let own = keys.for_host(host, 1).unwrap();
        let (ring, sealed) = own.begin(7, &env).unwrap();
        let (again, _) = own.begin(7, &env).unwrap();
        let pack = PackId([2; 32]);
        let of = |ring: &KeyRing| ring.pack_key(PackKind::Data, 1, &pack).unwrap().commitment;
        assert_eq!(of(&keys.open_run(&host, 7, 1, &sealed).unwrap()), of(&ring));
        assert_ne!(of(&again), of(&ring), "each run has a key of its own");
        assert_ne!(of(&keys), of(&ring));
        assert!(keys.open_run(&host, 8, 1, &sealed).is_err());
        assert!(keys.open_run(&ObjectId([8; 32]), 7, 1, &sealed).is_err());
        assert!(keys.open_run(&host, 7, 2, &sealed).is_err());
        assert!(other.open_run(&host, 7, 1, &sealed).is_err());
    }

    /// Every random byte is a seven.
    struct Sevens;

    impl Env for Sevens {
        fn now(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
        fn random(&self, bytes: &mut [u8]) -> Result<()> {
            bytes.fill(7);
            Ok(())
        }
        fn sleep(&self, _: std::time::Duration) {}
    }

    /// The vector of docs/format.md, section 5.6, as an independent program computed it.
    #[test]
    fn the_vector_of_the_format() {
        let epochs = BTreeMap::from([(1, Zeroizing::new([5; 32]))]);
        let keys = KeyRing::assemble(RepositoryId([3; 16]), Zeroizing::new([6; 32]), epochs);
        let own = keys.for_host(ObjectId([9; 32]), 1).unwrap();
        let hex = |bytes: &[u8]| to_hex(bytes);
        assert_eq!(hex(&own.inbox), "18974b68fb3e8135cd156f62dbdcd5001bda870889b2bec74e06d21b94d10124");
        assert_eq!(hex(&*own.channel), "8884f4f9fe104be36bcffe7538a17bda479c8b482d68568e314032dcc42455e3");
        let (_, sealed) = own.begin(7, &Sevens).unwrap();
        let encapsulated = hex(&sealed.encapsulated);
        assert_eq!(encapsulated, "5fd47633b5e43fca7bad1bfbe424feacb175d9d4d4a30f166dbd30636f0b446b");
        assert_eq!(
            hex(&sealed.sealed),
            "49b6b52ed8a0b71305f8fc96fa729b8bb658d52dae9537cc34d0d1da95d2f55611cccf26a1b926a104fcbde858f87a44"
        );
    }

    #[test]
    fn a_host_names_chunks_as_the_repository_does_and_shows_nothing() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let own = keys.for_host(ObjectId([9; 32]), 1).unwrap();
        let book = KeyRing::generate(RepositoryId([4; 16]), &env).unwrap();
        assert_ne!(book.chunk_id(b"x"), keys.chunk_id(b"x"));
        book.lend(own.naming());
        assert_eq!(book.chunk_id(b"x"), keys.chunk_id(b"x"));
        assert_eq!(book.gear_key(), keys.gear_key());
        let shown = format!("{own:?}");
        for secret in [&own.id_key, &own.gear_key, &own.channel] {
            assert!(!shown.contains(&to_hex(&**secret)[..8]), "{shown}");
        }
    }
}
