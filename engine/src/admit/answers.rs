//! Answers to the runs of hosts, each written once; and what is removed once a run has its answer.

use super::Outcome;
use super::found::{Found, commit};
use super::needs::Missing;
use crate::Result;
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::head::Host;
use chunkstore::inbox::{Reply, Run, Verdict};
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;

/// Removes what is left of a run whose number is over, after the host has its answer. Says so if it is another one than was
/// settled.
pub(super) fn clear(store: &ChunkStore, host: &Host, number: u64, run: &Run) -> Result<Option<Outcome>> {
    let mut outcome = None;
    if run.is_committed {
        answer_late(store, host, number)?;
        outcome = another(store, host, number)?;
    }
    for name in &run.objects {
        store.storage().delete(name).map_err(chunkstore::Error::from)?;
    }
    Ok(outcome)
}

/// Whether the host signed another commit of a number than the one that was answered: then two machines are this host.
fn another(store: &ChunkStore, host: &Host, number: u64) -> Result<Option<Outcome>> {
    let Found::Commit(signed) = commit(store, host, number)? else { return Ok(None) };
    let reply = match store.storage().get(&names::reply(&host.id, number), Reply::MAX_LEN) {
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        reply => reply.map_err(chunkstore::Error::from)?,
    };
    let reply = Reply::open(&store.keys().channel(&host.id), &host.id, number, &reply)?;
    Ok((reply.commit != signed.hash).then(|| Outcome::Refused {
        why: "a run of this number was settled before: two machines have the file of this host, or it was set back to an \
              earlier state"
            .into(),
        missing: 0,
    }))
}

/// Answers a run that is over, if nobody did: the admitter died between its swap and the answer; or the host lost its book,
/// and took a number again that was over.
pub(super) fn answer_late(store: &ChunkStore, host: &Host, number: u64) -> Result<()> {
    match store.storage().len(&names::reply(&host.id, number)) {
        Err(error) if error.kind == ErrorKind::NotFound => {}
        there => return Ok(there.map(drop).map_err(chunkstore::Error::from)?),
    }
    if number == host.run {
        let verdict = match (host.snapshot, &host.refused) {
            (Some(snapshot), _) => Verdict::Admitted(snapshot),
            (None, why) => Verdict::Refused(why.clone().unwrap_or_default()),
        };
        return answer(store, host, number, host.commit, verdict, Missing::default());
    }
    // Of others, nobody waits for an answer.
    match commit(store, host, number)? {
        Found::Commit(signed) => {
            let why = format!("the number {number} was over: the next run has a later one");
            answer(store, host, number, signed.hash, Verdict::Refused(why), Missing::default())
        }
        Found::Gone | Found::Other(_) => Ok(()),
    }
}

/// Answers a run. An answer that is there stays.
pub(super) fn answer(
    store: &ChunkStore,
    host: &Host,
    run: u64,
    commit: ObjectId,
    verdict: Verdict,
    missing: Missing,
) -> Result<()> {
    let epoch = store.epoch();
    let inbox = ObjectId(store.keys().inbox_public(epoch)?);
    let Missing { ids: missing, is_incomplete: incomplete } = missing;
    let reply = Reply { commit, verdict, missing, incomplete, settled: host.run.max(run), epoch, inbox };
    let sealed = reply.seal(&store.keys().channel(&host.id), &host.id, run, &*store.access.env)?;
    match store.storage().put(&names::reply(&host.id, run), sealed.into()) {
        Err(error) if error.kind == ErrorKind::Conflict => Ok(()),
        done => Ok(done.map_err(chunkstore::Error::from)?),
    }
}
