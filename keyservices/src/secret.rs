//! The secret of key slots that a service wraps and unwraps: which slots it is for, what is kept of it, and what its failures mean.

use crate::{Address, Binding, Cache, KeyService, Kind, Refusal, Sealed};
use chunkstore::env::{Env, random_array};
use chunkstore::id::ObjectId;
use chunkstore::keys::{Method, NewSlot, SlotHeader, SlotSecret, Wrapped};
use chunkstore::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

type Key = Zeroizing<[u8; 32]>;

/// What was unwrapped, of which slot, and from what.
type Known = Vec<(Binding, Sealed, Key)>;

/// A key service as the secret of key slots.
pub struct ServiceSecret {
    service: Box<dyn KeyService>,
    address: Address,
    cache: Option<Cache>,
    env: Arc<dyn Env>,
    /// Whether a new slot is proved to open.
    proves: bool,
    /// A process asks once for each slot.
    known: Mutex<Known>,
}

impl std::fmt::Debug for ServiceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServiceSecret({})", self.address)
    }
}

impl ServiceSecret {
    /// Of a service that the user named by `address`.
    #[must_use]
    pub fn new(
        service: Box<dyn KeyService>,
        address: Address,
        cache: Option<Cache>,
        env: Arc<dyn Env>,
    ) -> Self {
        Self { service, address, cache, env, proves: true, known: Mutex::default() }
    }

    /// The same for a machine that may wrap and not unwrap: new slots are not proved to open.
    #[must_use]
    pub fn unproved(self) -> Self {
        Self { proves: false, ..self }
    }

    /// The URL that the user named.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn known(&self, sealed: &Sealed, binding: &Binding) -> Option<Key> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = known.iter().filter(|(of, from, _)| (of, from) == (binding, sealed));
        same.next().map(|(_, _, secret)| secret.clone())
    }

    fn know(&self, sealed: Sealed, binding: Binding, secret: Key) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).push((binding, sealed, secret));
    }

    /// Asks the service; what it says goes before what was kept.
    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> std::result::Result<Key, Refusal> {
        let unwrapped = self.service.unwrap(sealed, binding);
        let Some(cache) = &self.cache else { return unwrapped };
        match unwrapped {
            Ok(secret) => {
                if let Err(why) = cache.put(&secret, sealed, binding, &*self.env) {
                    tracing::warn!(target: "key", "the secret of the key service is not kept: {why}");
                }
                Ok(secret)
            }
            Err(refusal) if refusal.is_away() => match cache.get(sealed, binding, &*self.env) {
                Ok(Some(secret)) => {
                    tracing::warn!(
                        target: "key",
                        "{}: {refusal}; what was kept of it is used (--kms-cache)",
                        self.service.describe()
                    );
                    Ok(secret)
                }
                Ok(None) => Err(Refusal { why: format!("{refusal}; nothing is kept of it"), ..refusal }),
                Err(why) => {
                    Err(Refusal { why: format!("{refusal}; what is kept cannot be used: {why}"), ..refusal })
                }
            },
            Err(refusal) => {
                if refusal.revokes() {
                    cache.drop(binding);
                }
                Err(refusal)
            }
        }
    }

    fn failed(&self, slot: Option<ObjectId>, refusal: &Refusal) -> Error {
        if refusal.kind == Kind::Interrupted {
            return Error::Interrupted;
        }
        let what = self.service.describe();
        Error::KeyService { slot, why: format!("{what}: {refusal}"), is_away: refusal.is_away() }
    }
}

impl SlotSecret for ServiceSecret {
    fn name(&self) -> &'static str {
        "key service"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        let Some(wrapped) = header.wrapped() else { return false };
        Address::parse(&wrapped.service).is_ok_and(|slot| self.service.is_of(&slot, &wrapped.key))
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        let Some(Wrapped { key, wrapped, .. }) = header.wrapped() else {
            return Err(Error::corrupt(chunkstore::format::names::key(slot), "no wrapped secret"));
        };
        let sealed = Sealed { key, wrapped };
        let binding = Binding { repository: header.repository_id, slot: *slot };
        if let Some(secret) = self.known(&sealed, &binding) {
            return Ok(secret);
        }
        let secret = self.unwrap(&sealed, &binding).map_err(|refusal| self.failed(Some(*slot), &refusal))?;
        self.know(sealed, binding, secret.clone());
        Ok(secret)
    }

    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Key)> {
        let secret: Key = Zeroizing::new(random_array(new.env)?);
        let binding = Binding { repository: *new.repository, slot: *new.slot };
        let sealed = self.service.wrap(&secret, &binding).map_err(|refusal| self.failed(None, &refusal))?;
        let (key, wrapped) = (sealed.key.clone(), sealed.wrapped.clone());
        let method = Method::wrapped(&Wrapped { service: self.address.to_string(), key, wrapped })?;
        if self.proves {
            let proof = self.service.unwrap(&sealed, &binding).map_err(|refusal| {
                let why = format!(
                    "it wrapped a secret, and does not unwrap it, so the slot would open nothing here and was not made: {refusal} \
                     (--wrap-only makes a slot that this machine need not open)"
                );
                self.failed(None, &Refusal { why, ..refusal })
            })?;
            if blake3::Hash::from(*proof) != *secret {
                let why = "it unwrapped something else than it wrapped: no slot was made";
                return Err(self.failed(None, &Refusal::new(Kind::Unfit, why)));
            }
            self.know(sealed, binding, secret.clone());
        }
        Ok((method, secret))
    }
}
