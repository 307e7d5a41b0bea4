//! The answer to a run: what became of it, and the newest key of the inbox. Only the host and the repository's full clients
//! can make or read one.

use crate::env::Env;
use crate::format::{MAX_SMALL_LEN, ObjectKind, names};
use crate::head::NO_COMMIT;
use crate::id::{ChunkId, ObjectId};
use crate::keys::KeyRing;
use crate::{Error, Result, envelope};
use serde::{Deserialize, Serialize};

/// So many missing chunks are named. If there are more, the answer says that it is not complete.
pub const MOST_MISSING: usize = 100_000;

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is in the repository, as this snapshot.
    Admitted(ObjectId),
    /// It is not, and why, for people.
    Refused(String),
    /// It answers no run: the host was added. Only the greeting says so.
    Added,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// BLAKE3 of the commit that it answers.
    pub commit: ObjectId,
    /// What became of it.
    pub verdict: Verdict,
    /// Chunks that the snapshot needs, that it did not bring, and that the repository does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ChunkId>,
    /// Others may be missing, too: what would name them is missing itself, or they are too many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// The last run that was settled.
    pub settled: u64,
    /// The newest epoch.
    pub epoch: u32,
    /// The public key of its inbox.
    pub inbox: ObjectId,
}

impl Reply {
    /// The number under which the greeting lies: no run has it.
    pub const GREETING: u64 = 0;

    /// What a host finds as long as this place knows it. `epoch` and `inbox` are those of its bundle.
    #[must_use]
    pub fn greeting(epoch: u32, inbox: ObjectId) -> Self {
        let (verdict, missing) = (Verdict::Added, vec![]);
        Self { commit: NO_COMMIT, verdict, missing, incomplete: false, settled: 0, epoch, inbox }
    }

    /// Seals it for a host, with the ring of their channel.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn seal(&self, channel: &KeyRing, host: &ObjectId, run: u64, env: &dyn Env) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))?;
        let epoch = crate::keys::CHANNEL;
        envelope::seal(channel, epoch, ObjectKind::Reply, &names::reply(host, run), &plain, env)
    }

    /// Opens one.
    ///
    /// # Errors
    ///
    /// It is not from a full client, or answers another run.
    pub fn open(channel: &KeyRing, host: &ObjectId, run: u64, sealed: &[u8]) -> Result<Self> {
        let name = names::reply(host, run);
        let plain = envelope::open(channel, ObjectKind::Reply, &name, sealed)?;
        serde_json::from_slice(&plain).map_err(|error| Error::corrupt(name, error))
    }

    /// Most bytes of one.
    pub const MAX_LEN: u64 = MAX_SMALL_LEN;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::RepositoryId;

    #[test]
    fn a_reply_is_to_one_run_of_one_host_and_every_byte_of_it_is_checked() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (host, id) = (ObjectId([9; 32]), ObjectId([1; 32]));
        let reply = Reply {
            commit: id,
            verdict: Verdict::Refused("a pack is missing".into()),
            missing: vec![keys.chunk_id(b"x")],
            incomplete: true,
            settled: 4,
            epoch: 1,
            inbox: ObjectId(keys.inbox_public(1).unwrap()),
        };
        let sealed = reply.seal(&keys.channel(&host), &host, 4, &env).unwrap();
        let channel = keys.for_host(host, 1).unwrap().channel();
        assert_eq!(Reply::open(&channel, &host, 4, &sealed).unwrap(), reply);
        assert!(Reply::open(&channel, &host, 5, &sealed).is_err());
        assert!(Reply::open(&keys.channel(&id), &host, 4, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(Reply::open(&channel, &host, 4, &bad).is_err(), "byte {at}");
        }
    }
}
