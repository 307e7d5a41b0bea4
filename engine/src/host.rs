//! A backup by a host that may only write: the ordinary backup, into the host's book, whose packs go to the inbox. What it
//! brought counts when a full client has admitted it (`admit.rs`).

use crate::author::statement;
use crate::backup::{BackupOptions, BackupReport, backup};
use crate::group::GroupBy;
use crate::monitor::Tally;
use crate::prune::{MaxUnused, PruneOptions, prune};
use crate::repair::{PacksOptions, repair_packs};
use crate::source::Source;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::PackId;
use chunkstore::inbox::Book;
use chunkstore::inbox::book::{Answered, Pending};
use chunkstore::inbox::signature::Signed as What;
use std::collections::HashSet;

/// The result of a host's backup.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// The backup's report. Its snapshot is one of the book: the repository's gets another id.
    pub backup: BackupReport,
    /// The run that now waits for a full client; none if there is nothing to admit.
    pub pending: Option<Pending>,
}

/// Takes in the answers that are there: what was refused is stored again by the next backup.
///
/// # Errors
///
/// The place cannot be reached, or an answer is forged.
pub fn take_answers(book: &mut Book) -> Result<Vec<Answered>> {
    let answers = book.answers()?;
    if answers.iter().any(|answered| answered.refused().is_some()) {
        let repo = Repository::with_store(book.open_store()?);
        repo.sync_index(&Tally::default())?;
        for answered in answers.iter().filter(|answered| answered.refused().is_some()) {
            drop_refused(book, &repo, answered)?;
        }
    }
    answers.iter().try_for_each(|answered| book.taken(answered))?;
    Ok(answers)
}

/// Takes out of the book what a refused run brought, and where it has chunks that the repository lacks: all of it, if the
/// answer could not name each of them.
fn drop_refused(book: &Book, repo: &Repository, answered: &Answered) -> Result<()> {
    let index = repo.store().index();
    let mut gone: HashSet<PackId> = answered.run.packs.iter().copied().collect();
    if answered.reply.incomplete {
        gone.extend(index.packs()?.into_iter().map(|pack| pack.name.id));
        // Their lists of entries go, too: nothing of them counts as unchanged.
        let known: Vec<_> = repo.snapshot_roots()?.into_iter().map(|root| root.id).collect();
        repo.forget(&known)?;
    }
    let lookup = index.lookup(&answered.reply.missing)?;
    gone.extend(lookup.into_iter().flatten().map(|location| location.pack.name.id));
    let packs: Vec<_> = index.packs()?.into_iter().filter(|pack| gone.contains(&pack.name.id)).collect();
    repo.forget(&[answered.run.snapshot])?;
    if packs.is_empty() {
        return Ok(());
    }
    book.forget_packs(&packs.iter().map(|pack| pack.name).collect::<Vec<_>>())?;
    let options =
        PacksOptions { packs: packs.iter().map(|pack| pack.name.id).collect(), ..PacksOptions::default() };
    repair_packs(repo, &options, &Tally::default())?;
    Ok(())
}

/// Backs up `source` as a host, and brings it to the inbox.
///
/// # Errors
///
/// Of the source, of the book and of the inbox.
pub fn backup_as_host(
    book: &mut Book,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<HostReport> {
    if options.hostname != book.bundle().name {
        return Err(Error::Invalid(format!(
            "a write-only host backs up under its own name: this one is '{}'",
            book.bundle().name
        )));
    }
    if options.dry_run {
        let repo = Repository::with_store(book.try_out()?);
        return Ok(HostReport { backup: backup(&repo, source, options, monitor)?, pending: None });
    }
    if !options.sealing.delta {
        // Nothing is kept of what is not used.
        if let Err(error) = book.clear_lists() {
            monitor.warning(&format!("the block lists of earlier backups stay, and are not used: {error}"));
        }
    }
    let (store, outbox) = book.begin()?;
    let repo = Repository::with_store(store);
    let report = backup(&repo, source, options, monitor)?;
    let Some(id) = report.snapshot else { return Ok(HostReport { backup: report, pending: None }) };
    let roots = repo.snapshot_roots()?;
    let root = roots.iter().find(|root| root.id == id);
    let snapshot = repo.read_snapshot(root.ok_or_else(|| Error::NoSnapshot { wanted: id.to_string() })?)?;
    let record = serde_json::to_vec(&snapshot).map_err(|error| Error::Invalid(error.to_string()))?;
    let (keys, signing) = (book.bundle().keys.clone(), book.bundle().signing.clone());
    let sign = |run| {
        let statement = statement(&snapshot, &keys.repository, keys.host, run, snapshot.time);
        signing.sign(What::Snapshot, &statement.bytes())
    };
    let pending = book.commit(&outbox, id, record.into(), sign)?;
    if let Err(error) = trim(&repo, book) {
        // It only takes more space.
        tracing::warn!(%error, "the host's book could not be trimmed");
    }
    Ok(HostReport { backup: report, pending: Some(pending) })
}

/// Keeps of the book the last snapshot of each group: what older ones had, the repository may have lost since.
fn trim(repo: &Repository, book: &Book) -> Result<()> {
    let tally = Tally::default();
    let mut seen = HashSet::new();
    let mut old = vec![];
    for listed in repo.snapshots(&tally)?.iter().rev() {
        if !seen.insert(GroupBy::default().key(&listed.snapshot)) {
            old.push(listed.id);
        }
    }
    if !old.is_empty() {
        repo.forget(&old)?;
        let options =
            PruneOptions { max_unused: MaxUnused::Unlimited, no_rebase: true, ..PruneOptions::default() };
        prune(repo, &options, &tally)?;
    }
    repo.sync_index(&tally)?;
    book.trim_lists(repo.store())?;
    Ok(())
}
