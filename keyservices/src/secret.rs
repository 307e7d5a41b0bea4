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
struct Known {
    binding: Binding,
    sealed: Sealed,
    secret: Key,
    /// The service said it, and it is not kept yet.
    is_fresh: bool,
}

/// What a slot says was wrapped.
fn sealed_of(header: &SlotHeader) -> Option<Sealed> {
    header.wrapped().map(|Wrapped { key, wrapped, .. }| Sealed { key, wrapped })
}

/// A key service as the secret of key slots.
pub struct ServiceSecret {
    service: Box<dyn KeyService>,
    address: Address,
    cache: Option<Cache>,
    env: Arc<dyn Env>,
    /// Whether a new slot is proved to open.
    proves: bool,
    /// A process asks once for each slot.
    known: Mutex<Vec<Known>>,
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

    /// Calls `each` with what is known of a slot, if anything is.
    fn with_known<T>(
        &self,
        sealed: &Sealed,
        binding: &Binding,
        each: impl FnOnce(&mut Known) -> Option<T>,
    ) -> Option<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter_mut().find(|one| (&one.binding, &one.sealed) == (binding, sealed)).and_then(each)
    }

    fn know(&self, sealed: Sealed, binding: Binding, secret: Key, is_fresh: bool) {
        let known = Known { binding, sealed, secret, is_fresh };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).push(known);
    }

    /// Asks the service; what it says goes before what was kept. With whether it said it.
    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> std::result::Result<(Key, bool), Refusal> {
        let unwrapped = self.service.unwrap(sealed, binding).map(|secret| (secret, true));
        let Some(cache) = &self.cache else { return unwrapped };
        match unwrapped {
            Ok(said) => Ok(said),
            Err(refusal) if refusal.is_away() => match cache.get(sealed, binding, &*self.env) {
                Ok(Some(secret)) => {
                    tracing::warn!(
                        target: "key",
                        "{}: {refusal}; what was kept of it is used (--kms-cache)",
                        self.service.describe()
                    );
                    Ok((secret, false))
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
        let sealed = sealed_of(header)
            .ok_or_else(|| Error::corrupt(chunkstore::format::names::key(slot), "no wrapped secret"))?;
        let binding = Binding { repository: header.repository_id, slot: *slot };
        if let Some(secret) = self.with_known(&sealed, &binding, |known| Some(known.secret.clone())) {
            return Ok(secret);
        }
        let (secret, is_fresh) =
            self.unwrap(&sealed, &binding).map_err(|refusal| self.failed(Some(*slot), &refusal))?;
        self.know(sealed, binding, secret.clone(), is_fresh);
        Ok(secret)
    }

    fn opened(&self, slot: &ObjectId, header: &SlotHeader) {
        let (Some(cache), Some(sealed)) = (&self.cache, sealed_of(header)) else { return };
        let binding = Binding { repository: header.repository_id, slot: *slot };
        // What came out of the cache keeps its age.
        let fresh = self.with_known(&sealed, &binding, |known| {
            std::mem::take(&mut known.is_fresh).then(|| known.secret.clone())
        });
        let Some(secret) = fresh else { return };
        if let Err(why) = cache.put(&secret, &sealed, &binding, &*self.env) {
            tracing::warn!(target: "key", "the secret of the key service is not kept: {why}");
        }
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
            self.know(sealed, binding, secret.clone(), false);
        }
        Ok((method, secret))
    }
}
