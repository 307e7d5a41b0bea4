//! The write-only hosts that HEAD lists: added, revoked, and how far each has come, which is noted in the swap that admits
//! what it brought. So a commit of a host counts once, in the order in which the host made them.

use super::ChunkStore;
use crate::env::random_array;
use crate::format::{MAX_HOSTS, names};
use crate::head::{Head, Host, NO_COMMIT, Root, SegmentRef};
use crate::id::{ObjectId, PackId, SessionId};
use crate::inbox::{Bundle, Reply, SigningKey};
use crate::storage::ErrorKind;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashSet};

/// A run of a host, as it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The host.
    pub host: ObjectId,
    /// The run.
    pub run: u64,
    /// BLAKE3 of its commit.
    pub commit: ObjectId,
    /// BLAKE3 of the commit that was settled before; another one in HEAD fails the swap.
    pub after: ObjectId,
    /// The epoch of the inbox that it was sealed to; none if it says one that is not known here.
    pub epoch: Option<u32>,
}

impl ChunkStore {
    /// The hosts of HEAD, by name.
    ///
    /// # Errors
    ///
    /// HEAD's list of them cannot be read.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let mut hosts = self.head().hosts.to_vec()?;
        hosts.sort_by(|a, b| (&a.name, a.added_ms, a.id).cmp(&(&b.name, b.added_ms, b.id)));
        Ok(hosts)
    }

    /// Adds a host, and returns what it gets. The place is where the host will find the repository. It leaves a greeting there,
    /// after the swap: without it the host refuses the place.
    ///
    /// # Errors
    ///
    /// There is one of this name that was not revoked; the name is none; or this is a tier.
    pub fn add_host(&self, name: &str, place: &str) -> Result<Bundle> {
        self.refuse_on_tier()?;
        if !Host::is_name(name) {
            return Err(Error::Invalid(format!(
                "'{}' is no name of a host: it has up to 255 bytes, and no spaces or control characters",
                name.escape_debug()
            )));
        }
        let env = &*self.access.env;
        let (id, signing) = (ObjectId(random_array(env)?), SigningKey::generate(env)?);
        let (public, added_ms) = (signing.public().0, self.now_ms());
        let epoch = self.update_head(|head| {
            // By a swap whose answer was lost.
            if head.hosts.find(|known| known.id == id)?.is_some() {
                return Ok(head.epoch());
            }
            if head.hosts.find(|known| known.name == name && known.revoked_ms.is_none())?.is_some() {
                return Err(Error::Invalid(format!(
                    "there is a host '{name}': 'esker host revoke {name}' ends its bundle, then it can be added again"
                )));
            }
            if head.hosts.len() >= MAX_HOSTS {
                return Err(Error::Invalid(format!("there are {MAX_HOSTS} hosts, as many as can be")));
            }
            let epoch = head.epoch();
            head.hosts.push(Host {
                id,
                name: name.to_owned(),
                public,
                added_ms,
                revoked_ms: None,
                epoch,
                run: 0,
                commit: NO_COMMIT,
                snapshot: None,
                refused: None,
                last_ms: 0,
                other: BTreeMap::new(),
            });
            Ok(epoch)
        })?;
        let keys = self.keys.for_host(id, epoch)?;
        if let Err(error) = self.greet(&id, epoch) {
            // Nobody has its key.
            self.remove_host(&id)?;
            return Err(error);
        }
        Ok(Bundle {
            place: place.to_owned(),
            name: name.to_owned(),
            keys,
            signing,
            chunker: self.config.chunker.data,
        })
    }

    /// Leaves the greeting of a host. One that is there stays.
    fn greet(&self, id: &ObjectId, epoch: u32) -> Result<()> {
        let reply = Reply::greeting(epoch, ObjectId(self.keys.inbox_public(epoch)?));
        let sealed = reply.seal(&self.keys.channel(id), id, Reply::GREETING, &*self.access.env)?;
        match self.storage().put(&names::reply(id, Reply::GREETING), sealed.into()) {
            Err(error) if error.kind == ErrorKind::Conflict => Ok(()),
            done => Ok(done?),
        }
    }

    /// Leaves the greetings of all hosts that were not revoked, at a place that has become the primary.
    pub(super) fn greet_all(&self) -> Result<()> {
        let hosts = self.hosts()?.into_iter().filter(|host| host.revoked_ms.is_none());
        hosts.map(|host| host.id).try_for_each(|id| self.greet(&id, self.epoch()))
    }

    /// Removes the greeting of a host, which then refuses this place.
    fn dismiss(&self, id: &ObjectId) {
        if let Err(error) = self.storage().delete(&names::reply(id, Reply::GREETING)) {
            // Nothing of the host is admitted all the same, and a prune removes it.
            tracing::warn!(%error, host = %id.short(), "the host does not hear that it was revoked before a prune removes its greeting");
        }
    }

    /// Takes back that a host was added, whose bundle could not be written.
    ///
    /// # Errors
    ///
    /// HEAD cannot be swapped.
    pub fn remove_host(&self, id: &ObjectId) -> Result<()> {
        self.update_head(|head| head.hosts.retain(|host| host.id != *id))?;
        self.dismiss(id);
        Ok(())
    }

    /// Revokes the host of a name, or of the first digits of an id: nothing of it is admitted from then on. Its greeting goes
    /// after the swap, so that it hears of it at its next backup.
    ///
    /// # Errors
    ///
    /// There is none, or there are several.
    pub fn revoke_host(&self, wanted: &str) -> Result<Host> {
        self.refuse_on_tier()?;
        let now_ms = self.now_ms();
        let revoked = self.update_head(|head| {
            let is_meant = |host: &Host| {
                host.revoked_ms.is_none() && host.name == wanted
                    || wanted.len() >= 8 && host.id.to_string().starts_with(wanted)
            };
            let meant: Vec<Host> = head.hosts.iter()?.filter(|host| is_meant(host)).cloned().collect();
            let id = match &*meant {
                [one] => one.id,
                [] => {
                    let was = head.hosts.iter()?.any(|host| host.name == wanted);
                    let what = if was { "was revoked before" } else { "is none of 'esker host list'" };
                    return Err(Error::Invalid(format!("host '{wanted}' {what}")));
                }
                _ => return Err(Error::Invalid(format!("'{wanted}' names several hosts; give more digits"))),
            };
            let host = head.hosts.find_mut(|host| host.id == id)?;
            let host = host.ok_or_else(|| Error::Invalid(format!("no host '{wanted}'")))?;
            host.revoked_ms.get_or_insert(now_ms);
            Ok(host.clone())
        })?;
        self.dismiss(&revoked.id);
        Ok(revoked)
    }

    fn refuse_on_tier(&self) -> Result<()> {
        match self.tier() {
            None => Ok(()),
            Some(tier) => Err(Error::Invalid(format!(
                "this is tier '{tier}', which gets its hosts from the primary: change them there, and 'esker tier sync' \
                 brings it here"
            ))),
        }
    }

    /// The commit of what a host brought: as [`ChunkStore::commit`], and in the same swap the host's run is settled. Returns
    /// `false` if another admitter was faster; then nothing was committed, and the session is open.
    ///
    /// # Errors
    ///
    /// As [`ChunkStore::commit`]; or the host was revoked meanwhile.
    pub fn commit_of_host(
        &self,
        session: &SessionId,
        segments: &[SegmentRef],
        root: &Root,
        relied: &HashSet<PackId>,
        settled: &Settled,
        time_ms: u64,
    ) -> Result<bool> {
        if !self.is_next(settled)? {
            return Ok(false);
        }
        let brought = std::slice::from_ref(root);
        let done = self.commit_with(session, segments, relied, brought, |head| {
            settle(head, settled, Ok((root.id, time_ms)))?;
            head.roots.push(root.clone());
            Ok(())
        });
        match done {
            Err(Error::Gone { .. }) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Settles a run without a snapshot: it was refused. Returns `false` if another admitter was faster.
    ///
    /// # Errors
    ///
    /// HEAD cannot be swapped.
    pub fn settle_refused(&self, settled: &Settled, why: &str) -> Result<bool> {
        match self.update_head(|head| settle(head, settled, Err(why))) {
            Err(Error::Gone { .. }) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Whether a run can be settled, as HEAD was last read.
    fn is_next(&self, settled: &Settled) -> Result<bool> {
        let head = self.head();
        let host = head.hosts.find(|host| host.id == settled.host)?;
        Ok(host.is_some_and(|host| host.run < settled.run && host.commit == settled.after))
    }
}

/// Notes in HEAD that a run is settled.
///
/// # Errors
///
/// [`Error::Gone`] if another one was settled meanwhile.
fn settle(
    head: &mut Head,
    settled: &Settled,
    verdict: std::result::Result<(ObjectId, u64), &str>,
) -> Result<()> {
    let Settled { host: id, run, commit, after, epoch } = *settled;
    let host = head.hosts.find_mut(|host| host.id == id)?.ok_or(Error::Gone { id })?;
    if host.run >= run || host.commit != after {
        return Err(Error::Gone { id });
    }
    if verdict.is_ok() && host.revoked_ms.is_some() {
        return Err(Error::Invalid(format!("host '{}' was revoked meanwhile", host.name)));
    }
    (host.run, host.commit) = (run, commit);
    host.epoch = epoch.map_or(host.epoch, |epoch| host.epoch.max(epoch));
    match verdict {
        Ok((snapshot, time_ms)) => {
            (host.snapshot, host.refused) = (Some(snapshot), None);
            host.last_ms = host.last_ms.max(time_ms);
        }
        Err(why) => (host.snapshot, host.refused) = (None, Some(Host::reason(why))),
    }
    Ok(())
}
