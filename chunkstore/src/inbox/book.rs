//! A host's book: what it remembers of what it stored. It is a small repository in the host's cache folder, whose packs of
//! content are only noted: they went to the inbox, and nobody here can read them. Packs of manifests are kept, sealed under
//! the book's own key, so that the next run sees which files are unchanged.
//!
//! Beside it lies how far the host has come: the last run, the hash of its last commit, and which runs wait for an answer.
//! A lost book costs one upload of everything.

use super::arrival::{Arrival, bring};
use super::bundle::Bundle;
use super::commit::{Commit, Earlier, Header};
use super::lists::BlockLists;
use super::noted::BookStorage;
use super::outbox::Outbox;
use super::reply::{Reply, Verdict};
use crate::env::random_array;
use crate::format::{MAX_COMMIT_RUNS, names};
use crate::head::NO_COMMIT;
use crate::id::{ObjectId, PackId, to_hex};
use crate::keys::{KdfParams, SealedRunKey, SlotOwner};
use crate::storage::local::LocalStorage;
use crate::storage::{ErrorKind, Storage};
use crate::store::{Access, ChunkStore, Found, look};
use crate::{Error, Result, config::Layout, patience, private};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// So many numbers are tried for a run: others of this host took them, which a lost book did not know.
const MOST_TAKEN: u64 = 10_000;

/// Why a run is refused whose number another commit has that was answered.
const SETTLED: &str = "another machine has the file of this host, or this one was set back to an earlier state: a run of \
     this number is settled. If it is not this machine's, 'esker host revoke' ends the file";

/// Why a run is refused where another object is in the inbox in place of its commit.
const DISPLACED: &str = "another object is where its commit goes: another machine has the file of this host, or somebody \
     else writes to the inbox. If it is not this machine's, 'esker host revoke' ends the file";

/// How far a host has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// The last run that was begun.
    run: u64,
    /// BLAKE3 of the last commit; `None` if there was none, or if the book before was lost.
    previous: Option<ObjectId>,
    /// A later key of the inbox than the bundle's.
    inbox: Option<(u32, ObjectId)>,
    /// Runs that were interrupted, and whose packs the next commit brings.
    earlier: Vec<Interrupted>,
    /// Runs that wait for an answer.
    pending: Vec<Pending>,
    /// A commit that is on its way to the inbox; its bytes lie beside.
    writing: Option<Pending>,
    /// Those of the runs that wait whose commit is not in the inbox: another object is in its place.
    #[serde(default)]
    displaced: Vec<u64>,
    /// Runs that were refused, and of which no run that was committed since has told.
    #[serde(default)]
    refused: Vec<Refused>,
}

/// A run that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The run.
    pub run: u64,
    /// Why, for people.
    pub why: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Interrupted {
    run: u64,
    epoch: u32,
    encapsulated: String,
    sealed: String,
}

/// A run that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The run.
    pub run: u64,
    /// BLAKE3 of its commit.
    pub commit: ObjectId,
    /// The snapshot in the book.
    pub snapshot: ObjectId,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// The packs that it brought.
    pub packs: Vec<PackId>,
}

/// What became of a run that waited for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The run.
    pub run: Pending,
    /// The answer.
    pub reply: Reply,
    /// Whether another commit of this number is answered, or in the inbox: this host is not the only one that has its bundle, or it was set
    /// back to an earlier state.
    pub is_to_another: bool,
}

/// A host at work: its book, and the way to the inbox.
pub struct Book {
    folder: PathBuf,
    bundle: Bundle,
    remote: Arc<dyn Storage>,
    store: Arc<BookStorage>,
    access: Access,
    state: State,
    /// Held while it is open: one process at a time has the host's number.
    _lock: std::fs::File,
}

impl Book {
    /// Opens the book in `folder`, or begins one. `access` is how the repository's place is reached. Nothing is written, here or
    /// there, before the place's greeting was read.
    ///
    /// # Errors
    ///
    /// The place does not know the host; another process has the book; the folder cannot be written; or the inbox cannot be reached.
    pub fn open(bundle: Bundle, access: Access, folder: &Path, patience: Duration) -> Result<Self> {
        find_greeting(&bundle, &*access.storage)?;
        let failed = |error: std::io::Error| Error::Cache { why: format!("{}: {error}", folder.display()) };
        private::folder(folder).map_err(failed)?;
        let path = folder.join("lock");
        let lock = private::open(&path).map_err(failed)?;
        patience::lock(&lock, &path, false, patience).map_err(|error| Error::Fenced {
            why: format!(
                "another backup of host '{}' is at work here ({error}); run it again after that",
                bundle.name
            ),
        })?;
        let store = Arc::new(BookStorage::new(LocalStorage::create(&folder.join("store"), false)?));
        let state = read_state(&folder.join("state"));
        let remote = Arc::clone(&access.storage);
        let own: Arc<dyn Storage> = Arc::<BookStorage>::clone(&store);
        let cache = access.cache.as_ref().map(|_| folder.join("index"));
        let access = Access { storage: own, cache, ..access };
        let is_new = state.is_none();
        let state = state.unwrap_or_default();
        let mut book = Self { folder: folder.to_owned(), bundle, remote, store, access, state, _lock: lock };
        if let Some((epoch, inbox)) = book.state.inbox.filter(|(epoch, _)| *epoch > book.bundle.keys.epoch) {
            (book.bundle.keys.epoch, book.bundle.keys.inbox) = (epoch, inbox.0);
        }
        if is_new {
            book.state.run = book.last_answered()?;
            book.save()?;
        }
        book.finish_writing()?;
        Ok(book)
    }

    /// The host's bundle, with the newest key of the inbox.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Runs that wait for an answer, the oldest first.
    #[must_use]
    pub fn pending(&self) -> &[Pending] {
        &self.state.pending
    }

    /// Runs that were refused, the oldest first: kept until [`Book::told`].
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.state.refused
    }

    /// Drops the runs that were refused: a run was committed since, and its report named them.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn told(&mut self) -> Result<()> {
        if self.state.refused.is_empty() {
            return Ok(());
        }
        self.state.refused.clear();
        self.save()
    }

    /// The last run that was answered, as a listing of the answers shows it.
    fn last_answered(&self) -> Result<u64> {
        let (host, mut last) = (self.bundle.keys.host, 0);
        let folder = format!("{}/{host}", names::REPLIES);
        let listed = self.remote.list(&folder, &mut |name, _| {
            let run = name.rsplit('/').next().and_then(|run| run.parse().ok());
            last = last.max(run.unwrap_or_default());
        });
        listed.map_err(Error::from)?;
        Ok(last)
    }

    /// The book's store, through which packs go to the inbox under a run that begins now.
    ///
    /// # Errors
    ///
    /// The inbox cannot be reached, or the book is damaged.
    pub fn begin(&mut self) -> Result<(ChunkStore, Arc<Outbox>)> {
        let run = self.claim()?;
        let (ring, key) = self.bundle.keys.begin(run, &*self.access.env)?;
        let epoch = self.bundle.keys.epoch;
        let interrupted =
            Interrupted { run, epoch, encapsulated: to_hex(&key.encapsulated), sealed: to_hex(&key.sealed) };
        // Noted first: what is in the inbox under a key that nobody noted is lost.
        self.state.earlier.push(interrupted);
        self.save()?;
        let (remote, book) = (Arc::clone(&self.remote), Arc::clone(&self.store));
        let whose = (self.bundle.keys.host, run, epoch);
        let lists = Arc::new(self.lists()?);
        let outbox = Outbox::begin(remote, book, ring, whose, self.sent(), Arc::clone(&lists))?;
        let outbox = Arc::new(outbox);
        // Of those that brought nothing, nobody needs the key.
        let brought: HashSet<u64> = outbox.sent()?.iter().map(|pack| pack.run).collect();
        self.state.earlier.retain(|known| known.run == run || brought.contains(&known.run));
        if self.state.earlier.len() > MAX_COMMIT_RUNS {
            return Err(Error::Invalid(format!(
                "{} runs were interrupted one after the other: remove {}, and the next one begins anew",
                self.state.earlier.len(),
                self.folder.display()
            )));
        }
        self.save()?;
        Ok((self.open_store()?.with_outbox(Arc::clone(&outbox)).with_lists(lists), outbox))
    }

    /// The book's store, for a run that only finds out what it would bring.
    ///
    /// # Errors
    ///
    /// The book is damaged.
    pub fn try_out(&self) -> Result<ChunkStore> {
        Ok(self.open_store()?.with_lists(Arc::new(self.lists()?)))
    }

    /// Block lists of what this host stored. Nothing is built on what is in the inbox without a commit.
    fn lists(&self) -> Result<BlockLists> {
        let uncommitted = Outbox::noted(&self.sent())?.into_iter().map(|pack| pack.name.id).collect();
        Ok(BlockLists::new(self.folder.join("blocks"), &self.bundle.signing.blocks(), uncommitted))
    }

    /// Removes the block lists of chunks that `store`, the book's, no longer has, and the oldest beyond a bound.
    ///
    /// # Errors
    ///
    /// The folder cannot be read or written.
    pub fn trim_lists(&self, store: &ChunkStore) -> Result<()> {
        self.lists()?.trim(&**store.index())
    }

    /// Removes all block lists: the next run brings changed chunks whole.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn clear_lists(&self) -> Result<()> {
        self.lists()?.clear()
    }

    /// The book's store, for whoever only changes what it remembers.
    ///
    /// # Errors
    ///
    /// It is damaged.
    pub fn open_store(&self) -> Result<ChunkStore> {
        let secret = self.bundle.signing.book();
        let store = match look(&*self.access.storage)? {
            Found::Nothing | Found::Unfinished => {
                let owner = SlotOwner { label: "book".into(), ..SlotOwner::default() };
                let (access, chunker) = (self.access.clone(), self.bundle.chunker);
                ChunkStore::init(access, chunker, &secret, KdfParams::default(), owner, Layout::default())?
            }
            _ => ChunkStore::open(self.access.clone(), &secret)?,
        };
        store.keys().lend(self.bundle.keys.naming());
        Ok(store)
    }

    fn sent(&self) -> PathBuf {
        self.folder.join("sent")
    }

    /// Takes a number that no run of this host has.
    fn claim(&mut self) -> Result<u64> {
        let host = self.bundle.keys.host;
        for _ in 0..MOST_TAKEN {
            self.state.run = self.state.run.checked_add(1).ok_or_else(|| {
                Error::Invalid(format!(
                    "no number is left for a run: remove {}, and the next one begins anew",
                    self.folder.display()
                ))
            })?;
            self.save()?;
            let nonce: [u8; 32] = random_array(&*self.access.env)?;
            match self.remote.put(&names::begun(&host, self.state.run), Bytes::copy_from_slice(&nonce)) {
                Ok(()) => return Ok(self.state.run),
                // Of a run whose end nobody noted here.
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Invalid(format!(
            "{MOST_TAKEN} numbers of runs are taken: let 'esker host admit' run first"
        )))
    }

    /// Ends a run: brings the snapshot, whose record is `record`, to the inbox.
    ///
    /// # Errors
    ///
    /// The inbox cannot be reached. The run then counts as interrupted, or is finished when the book is opened again. Or
    /// another object is where the commit was to go: the run then counts as refused.
    pub fn commit(
        &mut self,
        outbox: &Outbox,
        snapshot: ObjectId,
        record: Bytes,
        sign: impl FnOnce(u64) -> [u8; crate::format::SIGNATURE_LEN],
    ) -> Result<Pending> {
        let run = outbox.run();
        let packs = outbox.sent()?;
        let mut earlier = vec![];
        let mut own = None;
        for known in &self.state.earlier {
            let key = known.key()?;
            let Interrupted { run: of, epoch, .. } = *known;
            if of == run {
                own = Some(key);
            } else if packs.iter().any(|pack| pack.run == of) {
                earlier.push(Earlier { run: of, epoch, key });
            }
        }
        let key = own.ok_or_else(|| Error::Invalid("this run was not begun".into()))?;
        let keys = &self.bundle.keys;
        let header = Header {
            repository: keys.repository,
            host: keys.host,
            run,
            epoch: keys.epoch,
            previous: self.state.previous.unwrap_or(NO_COMMIT),
            key,
        };
        let ids = packs.iter().map(|pack| pack.name.id).collect();
        let commit = Commit { earlier, packs, record, signature: sign(run) };
        commit.check()?;
        let bytes = commit.seal(&header, outbox.ring(), &self.bundle.signing, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&bytes).as_bytes());
        let made_ms = u64::try_from(self.access.env.now().as_millis()).unwrap_or_default();
        // From here on the run is finished by whoever opens the book next.
        self.write("commit", &bytes)?;
        self.state.writing = Some(Pending { run, commit: hash, snapshot, made_ms, packs: ids });
        self.save()?;
        self.finish_writing()?;
        if self.state.displaced.contains(&run) {
            return Err(Error::Fenced {
                why: format!(
                    "run {run} is not in the inbox: {DISPLACED}. Run it again: it stores again what it needs"
                ),
            });
        }
        self.state.pending.last().cloned().ok_or_else(|| Error::Invalid("no run waits".into()))
    }

    /// Puts the commit that is on its way into the inbox, if there is one.
    fn finish_writing(&mut self) -> Result<()> {
        let Some(pending) = self.state.writing.clone() else { return Ok(()) };
        let path = self.folder.join("commit");
        let bytes = std::fs::read(&path).map_err(|error| self.failed(&error))?;
        if *blake3::hash(&bytes).as_bytes() != pending.commit.0 {
            return Err(Error::corrupt(path.display().to_string(), "it is not the commit that was noted"));
        }
        match bring(&*self.remote, &names::commit(&self.bundle.keys.host, pending.run), &bytes.into())? {
            Arrival::There => {}
            // Most likely of an attempt before this one, of which no answer came.
            Arrival::Unknown => tracing::info!(
                run = pending.run,
                "an object is where the run's commit goes, and this host may not read it: the answer says of which commit it is"
            ),
            Arrival::Another => self.state.displaced.push(pending.run),
        }
        self.state.previous = Some(pending.commit);
        self.state.earlier.clear();
        self.state.pending.push(pending);
        self.state.writing = None;
        Outbox::forget(&self.sent()).map_err(|error| self.failed(&error))?;
        self.save()?;
        let _ = std::fs::remove_file(path);
        Ok(())
    }

    /// What a full client would answer to a run of which the inbox has another commit.
    fn of_displaced(&self, run: &Pending) -> Answered {
        let keys = &self.bundle.keys;
        let reply = Reply {
            commit: run.commit,
            verdict: Verdict::Refused(DISPLACED.into()),
            ..Reply::greeting(keys.epoch, ObjectId(keys.inbox))
        };
        Answered { run: run.clone(), reply, is_to_another: true }
    }

    /// Reads the answers that are there. What a refused run brought, and what the repository no longer has, is to be taken
    /// out of the book by the caller, who then confirms with [`Book::taken`].
    ///
    /// # Errors
    ///
    /// The place cannot be reached, or an answer is forged.
    pub fn answers(&mut self) -> Result<Vec<Answered>> {
        let (host, channel) = (self.bundle.keys.host, self.bundle.keys.channel());
        let mut answered = vec![];
        // Runs are answered in their order, perhaps at this moment: whose answer is read after that of a later one and is not
        // there has none.
        for pending in self.state.pending.iter().rev() {
            if self.state.displaced.contains(&pending.run) {
                answered.push(self.of_displaced(pending));
                continue;
            }
            let name = names::reply(&host, pending.run);
            let sealed = match self.remote.get(&name, Reply::MAX_LEN) {
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                sealed => sealed?,
            };
            let reply = Reply::open(&channel, &host, pending.run, &sealed)?;
            let is_to_another = reply.commit != pending.commit;
            let reply = match is_to_another {
                false => reply,
                true => Reply {
                    commit: pending.commit,
                    verdict: Verdict::Refused(SETTLED.into()),
                    missing: vec![],
                    incomplete: false,
                    ..reply
                },
            };
            answered.push(Answered { run: pending.clone(), reply, is_to_another });
        }
        // One that was passed over never reached whoever answers.
        let Some(last) = answered.iter().max_by_key(|answered| answered.reply.settled) else {
            return Ok(answered);
        };
        let why = "the store lost its commit or damaged it, or somebody removed it";
        let verdict = Verdict::Refused(why.into());
        let lost = Reply { verdict, missing: vec![], incomplete: false, ..last.reply.clone() };
        let is_lost = |pending: &&Pending| {
            pending.run <= lost.settled && answered.iter().all(|answered| answered.run.run != pending.run)
        };
        let passed: Vec<Answered> = self
            .state
            .pending
            .iter()
            .filter(is_lost)
            .cloned()
            .map(|run| {
                let reply = Reply { commit: run.commit, ..lost.clone() };
                Answered { run, reply, is_to_another: false }
            })
            .collect();
        answered.extend(passed);
        answered.sort_by_key(|answered| answered.run.run);
        Ok(answered)
    }

    /// Notes that the answer to a run was taken in.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn taken(&mut self, answered: &Answered) -> Result<()> {
        let Answered { run, reply, is_to_another } = answered;
        if *is_to_another {
            // The order of commits went on without this one: the next begins anew, and the full client says so.
            self.state.previous = None;
        }
        self.state.pending.retain(|pending| pending.run != run.run);
        self.state.displaced.retain(|displaced| *displaced != run.run);
        if let Some(why) = answered.refused() {
            // Whatever it was: a difference that a full client cannot make out must not come again.
            self.clear_lists()?;
            // With the answer: a run that ends before its commit has not told of it.
            self.state.refused.retain(|refused| refused.run != run.run);
            self.state.refused.push(Refused { run: run.run, why: why.to_owned() });
        }
        self.state.run = self.state.run.max(reply.settled);
        if reply.epoch > self.bundle.keys.epoch {
            self.state.inbox = Some((reply.epoch, reply.inbox));
            (self.bundle.keys.epoch, self.bundle.keys.inbox) = (reply.epoch, reply.inbox.0);
        }
        self.save()
    }

    /// Removes the notes of packs, so that their chunks are stored again.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn forget_packs(&self, packs: &[crate::pack::PackName]) -> Result<()> {
        packs.iter().try_for_each(|pack| Ok(self.access.storage.delete(&pack.object())?))
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::Cache { why: format!("{}: {error}", self.folder.display()) }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let random: [u8; 8] = random_array(&*self.access.env)?;
        private::replace_durably(&self.folder.join(name), bytes, &to_hex(&random))
            .map_err(|error| self.failed(&error))
    }

    fn save(&self) -> Result<()> {
        let bytes = serde_json::to_vec(&self.state).map_err(|error| Error::Invalid(error.to_string()))?;
        self.write("state", &bytes)
    }
}

impl Interrupted {
    fn key(&self) -> Result<SealedRunKey> {
        let none = || Error::Cache {
            why: "the host's book has a key that is none; remove the book's folder".into(),
        };
        let bytes = |hex: &str| crate::id::from_hex(hex).ok_or_else(none);
        let encapsulated = bytes(&self.encapsulated)?.try_into().map_err(|_| none())?;
        let sealed = bytes(&self.sealed)?.try_into().map_err(|_| none())?;
        Ok(SealedRunKey { encapsulated, sealed })
    }
}

/// Asks the place whether it knows the host. Without that, packs and commits would go to any store that takes them, where
/// nobody ever looks.
fn find_greeting(bundle: &Bundle, storage: &dyn Storage) -> Result<()> {
    let (host, channel) = (bundle.keys.host, bundle.keys.channel());
    let unknown = || Error::UnknownHost { place: storage.place() };
    let sealed = match storage.get(&names::reply(&host, Reply::GREETING), Reply::MAX_LEN) {
        Err(error) if error.kind == ErrorKind::NotFound => return Err(unknown()),
        sealed => sealed?,
    };
    let greeting = Reply::open(&channel, &host, Reply::GREETING, &sealed).map_err(|error| {
        tracing::info!(%error, "the greeting does not open");
        unknown()
    })?;
    if greeting.verdict == Verdict::Added { Ok(()) } else { Err(unknown()) }
}

/// One that cannot be read counts as lost.
fn read_state(path: &Path) -> Option<State> {
    let state = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if state.is_none() && path.exists() {
        tracing::warn!(path = %path.display(), "how far this host has come cannot be read: it begins anew");
    }
    state
}

impl Answered {
    /// Why it was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        match &self.reply.verdict {
            Verdict::Admitted(_) | Verdict::Added => None,
            Verdict::Refused(why) => Some(why),
        }
    }
}
