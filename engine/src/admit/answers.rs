//! Answers to the runs of hosts, each written once; and what is removed once a run has its answer.

use super::Outcome;
use super::found::{Found, commit};
use super::needs::Missing;
use crate::Result;
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::head::Host;
use chunkstore::inbox::runs::Objects;
use chunkstore::inbox::{Reply, Verdict};
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;

/// So many names of a run are in memory while it is removed.
const BATCH: usize = 10_000;

/// Removes what is left of a run whose number is over, after the host has its answer, but at most `left` objects. Says so if
/// it is another one than was settled, unless it is known what its commit is.
pub(super) fn clear(
    store: &ChunkStore,
    host: &Host,
    number: u64,
    is_known: bool,
    left: &mut usize,
) -> Result<Option<Outcome>> {
    let delete = |name: &str| store.storage().delete(name).map_err(chunkstore::Error::from);
    let (mut outcome, mut is_answered) = (None, false);
    while *left > 0 {
        let found = Objects::of_run(&**store.storage(), &host.id, number, BATCH.min(*left))?;
        if found.is_committed && !is_answered {
            is_answered = true;
            answer_late(store, host, number)?;
            outcome = if is_known { None } else { another(store, host, number)? };
        }
        *left -= found.names.len();
        for name in &found.names {
            delete(name)?;
        }
        if found.is_all && found.is_committed {
            // The last one: as long as it is there, the host's answer is looked after.
            delete(&names::commit(&host.id, number))?;
        }
        if found.is_all || found.names.is_empty() {
            break;
        }
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
