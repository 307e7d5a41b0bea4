//! From a source's entries to chunks and a manifest: each entry is read, cut and sealed, or taken over from the parent.

use super::BackupOptions;
use super::parent::{ParentCursor, is_unchanged};
use crate::entry::{Entry, Kind, display_path};
use crate::manifest::{Ending, ManifestRoot, ManifestWriter, Record};
use crate::snapshot::Listed;
use crate::source::{Content, Item, Piece, Proof, Source, SourceError, SourceErrorKind};
use crate::{Counter, Error, ItemError, Monitor, Result};
use chunkstore::format::PackKind;
use chunkstore::ingest::{Dedupe, Lane, Output, Packer};
use chunkstore::log::ms;
use std::sync::Arc;
use std::time::Instant;

/// What stands between chunks on their way to the manifest.
enum Token {
    Start(Box<Entry>),
    Reused(Vec<chunkstore::ingest::ChunkRef>),
    Hole(u64),
    End(Ending, u64),
}

/// Reads the source to its end, through the pipeline, into a manifest.
pub(super) fn write_entries(
    dedupe: &Arc<Dedupe>,
    packer: &mut Packer,
    source: &mut dyn Source,
    parent: Option<&Listed>,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<ManifestRoot> {
    #[expect(clippy::disallowed_methods, reason = "durations in the log, on which nothing depends")]
    let began = Instant::now();
    source.start(seed(dedupe))?;
    tell("source started", source, began);
    let mut writer = EntryWriter {
        lane: Lane::new(dedupe, PackKind::Data)?,
        manifest: ManifestWriter::new(dedupe)?,
        dedupe,
        packer,
        monitor,
        is_empty: true,
    };
    if let Err(error) = writer.write_all(source, parent, options) {
        // What is on its way into packs is kept for the next run; the first error is the one to tell.
        let _ = writer.lane.drain(writer.packer, &mut |_, _| Ok(()));
        return Err(error);
    }
    tell("source read", source, began);
    writer.finish()
}

/// Logs what the parts of a source say about themselves: version, position, sizes.
fn tell(what: &'static str, source: &dyn Source, began: Instant) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    for record in source.records() {
        let details: Vec<String> =
            record.details.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let details = (!details.is_empty()).then(|| details.join(", "));
        let (kind, origin) = (record.kind, record.origin);
        tracing::info!(kind, origin, details, ms = ms(began), "{what}");
    }
}

/// A secret of the repository for sources that cut at their records.
fn seed(dedupe: &Dedupe) -> [u64; 2] {
    let secret = dedupe.store().keys().chunk_id(b"esker: cuts at records");
    let half = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&secret.as_bytes()[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    [half(0), half(8)]
}

struct EntryWriter<'a> {
    lane: Lane<Token>,
    manifest: ManifestWriter,
    dedupe: &'a Arc<Dedupe>,
    packer: &'a mut Packer,
    monitor: &'a dyn Monitor,
    /// Whether nothing was written but folders above what was to be backed up.
    is_empty: bool,
}

/// How often an entry is looked at that is replaced each time.
const LOOKS: usize = 5;

impl EntryWriter<'_> {
    fn write_all(
        &mut self,
        source: &mut dyn Source,
        parent: Option<&Listed>,
        options: &BackupOptions,
    ) -> Result<()> {
        let mut before = match parent {
            Some(parent) => Some(ParentCursor::new(self.dedupe, parent)?),
            None => None,
        };
        while let Some(item) = source.next_item(self.monitor)? {
            let older = match &mut before {
                Some(cursor) => cursor.find(&item.entry.path)?,
                None => None,
            };
            let leads = item.leads;
            match self.write_current(item, older.as_ref(), before.as_mut(), source, options) {
                Ok(written) => self.is_empty &= leads || !written,
                // A file that is gone since it was listed is no loss.
                Err(Error::Source(SourceError { kind: SourceErrorKind::Vanished, .. })) => {
                    self.monitor.count(Counter::Vanished, 1);
                }
                // One file that cannot be read does not end the backup of a tree.
                Err(Error::Source(SourceError { kind, what, why, .. }))
                    if matches!(kind, SourceErrorKind::Item | SourceErrorKind::Replaced)
                        && source.tolerates_item_errors() =>
                {
                    self.monitor.error(ItemError { during: "archival", item: what, message: why });
                }
                Err(error) => return Err(error),
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        if self.is_empty && !source.may_be_empty() {
            let why = "nothing of it could be saved, or it is empty: no snapshot was made";
            return Err(SourceError::new(SourceErrorKind::Empty, source.paths().join(", "), why).into());
        }
        Ok(())
    }

    /// Writes an item in its present state: if it was replaced since the source looked at it, the source looks again.
    /// False if it is gone.
    fn write_current(
        &mut self,
        item: Item,
        older: Option<&Entry>,
        before: Option<&mut ParentCursor>,
        source: &mut dyn Source,
        options: &BackupOptions,
    ) -> Result<bool> {
        let mut result = self.write_item(item, older, before, options);
        for _ in 1..LOOKS {
            match &result {
                Err(Error::Source(SourceError { kind: SourceErrorKind::Replaced, .. })) => {}
                _ => break,
            }
            result = match source.look_again(self.monitor)? {
                // Without the parent's content: that was read past already.
                Some(item) => self.write_item(item, older, None, options),
                None => return Ok(false),
            };
        }
        result.map(|()| true)
    }

    fn write_item(
        &mut self,
        item: Item,
        older: Option<&Entry>,
        mut before: Option<&mut ParentCursor>,
        options: &BackupOptions,
    ) -> Result<()> {
        let Item { entry, content, proof, leads: _ } = item;
        let path = entry.path.clone();
        let Some(open) = content else {
            self.count_other(&entry, older);
            self.lane.token(Token::Start(Box::new(entry)));
            self.lane.token(Token::End(Ending::Complete, 0));
            return self.collect();
        };
        self.monitor.current(&path);
        if let (Some(older), Some(before)) = (older, before.as_deref_mut())
            && match proof {
                Proof::Nothing => false,
                Proof::Metadata => !options.force && is_unchanged(&entry, older, before.start, options),
                Proof::TakenOver => older.kind == Kind::File && older.mtime == entry.mtime,
            }
            && self.reuse(&entry, before)?
        {
            self.monitor.entry("unchanged", &path, entry.size);
            self.monitor.count(Counter::FilesUnmodified, 1);
            return self.collect();
        }
        let mut content = match open() {
            Ok(content) => content,
            Err(error) => {
                if error.kind == SourceErrorKind::Item {
                    // As one that cannot be read to its end: the snapshot knows that it is there.
                    self.lane.token(Token::Start(Box::new(entry)));
                    self.lane.token(Token::End(Ending::Dropped, 0));
                }
                return Err(error.into());
            }
        };
        self.lane.start();
        self.lane.token(Token::Start(Box::new(entry)));
        match self.read_content(&mut *content, before.filter(|_| older.is_some())) {
            Ok(size) => {
                self.lane.token(Token::End(Ending::Complete, size));
                if let Some(warning) = content.warning() {
                    self.monitor.error(ItemError {
                        during: "archival",
                        item: display_path(&path),
                        message: warning,
                    });
                }
                let (action, counter) = match older {
                    Some(_) => ("modified", Counter::FilesChanged),
                    None => ("new", Counter::FilesNew),
                };
                self.monitor.entry(action, &path, size);
                self.monitor.count(counter, 1);
                self.monitor.count(Counter::FilesDone, 1);
                self.collect()
            }
            Err(error) => {
                self.lane.end_stream();
                self.lane.token(Token::End(Ending::Dropped, 0));
                Err(error)
            }
        }
    }

    /// Feeds one entry's content into the lane, which gets its chunks in the parent as a prediction; returns its size.
    fn read_content(
        &mut self,
        content: &mut dyn Content,
        mut before: Option<&mut ParentCursor>,
    ) -> Result<u64> {
        let mut size = 0;
        loop {
            while self.lane.wants_prediction()
                && let Some(cursor) = &mut before
            {
                match cursor.next_record()? {
                    Some(Record::Chunks(chunks)) => self.lane.predict(&chunks)?,
                    Some(Record::Hole(_)) => {}
                    _ => before = None,
                }
            }
            match content.read(self.lane.space())? {
                Piece::Data(len) => {
                    self.lane.advance(len);
                    size += len as u64;
                    self.monitor.count(Counter::BytesDone, len as u64);
                }
                Piece::Hole(len) => {
                    self.lane.end_stream();
                    self.lane.token(Token::Hole(len));
                    size += len;
                    self.monitor.count(Counter::BytesDone, len);
                }
                Piece::Cut => self.lane.cut_here(),
                Piece::Wait => {}
                Piece::End => {
                    self.lane.end_stream();
                    return Ok(size);
                }
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            self.collect()?;
        }
    }

    /// Takes the content of an unchanged file over from the parent, if all its chunks still exist. A missing chunk ends
    /// the attempt: the entry is dropped, and written again by reading the file.
    fn reuse(&mut self, entry: &Entry, before: &mut ParentCursor) -> Result<bool> {
        self.lane.token(Token::Start(Box::new(entry.clone())));
        loop {
            match before.next_record()? {
                Some(Record::Chunks(chunks)) => {
                    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
                    if !self.dedupe.reuse(&ids)? {
                        break;
                    }
                    self.lane.token(Token::Reused(chunks));
                }
                Some(Record::Hole(len)) => self.lane.token(Token::Hole(len)),
                Some(Record::End(Ending::Complete, size)) => {
                    self.lane.token(Token::End(Ending::Complete, size));
                    self.monitor.count(Counter::BytesDone, size);
                    self.monitor.count(Counter::FilesDone, 1);
                    return Ok(true);
                }
                _ => break,
            }
            self.collect()?;
        }
        self.lane.token(Token::End(Ending::Dropped, 0));
        Ok(false)
    }

    fn count_other(&self, entry: &Entry, older: Option<&Entry>) {
        let (action, counter) = match older {
            None => ("new", Counter::DirsNew),
            Some(older) if entry.same_metadata(older) => ("unchanged", Counter::DirsUnmodified),
            Some(_) => ("modified", Counter::DirsChanged),
        };
        self.monitor.entry(action, &entry.path, 0);
        self.monitor.count(counter, 1);
        self.monitor.count(Counter::FilesDone, 1);
    }

    fn collect(&mut self) -> Result<()> {
        let manifest = &mut self.manifest;
        Ok(self
            .lane
            .collect(self.packer, &mut |packer, output| into_store(record(manifest, packer, output)))?)
    }

    fn finish(mut self) -> Result<ManifestRoot> {
        let manifest = &mut self.manifest;
        self.lane.drain(self.packer, &mut |packer, output| into_store(record(manifest, packer, output)))?;
        self.manifest.finish(self.packer)
    }
}

/// Writes what comes out of the pipeline into the manifest.
fn record(manifest: &mut ManifestWriter, packer: &mut Packer, output: Output<Token>) -> Result<()> {
    match output {
        Output::Chunk(chunk) => manifest.push_chunk(packer, chunk),
        Output::Token(Token::Start(entry)) => manifest.push(packer, Record::Entry(entry)),
        Output::Token(Token::Reused(chunks)) => manifest.push(packer, Record::Chunks(chunks)),
        Output::Token(Token::Hole(len)) => manifest.push(packer, Record::Hole(len)),
        Output::Token(Token::End(ending, size)) => manifest.push(packer, Record::End(ending, size)),
    }
}

/// The lane hands on errors of its own crate; ours in there can only be those.
fn into_store(result: Result<()>) -> chunkstore::Result<()> {
    result.map_err(|error| match error {
        Error::Store(error) => error,
        other => chunkstore::Error::Invalid(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::backup;
    use crate::entry::Time;
    use crate::monitor::Tally;
    use crate::snapshot::SourceRecord;
    use crate::source::at_hand::AtHand;

    struct One(Option<Item>);

    impl Source for One {
        fn records(&self) -> Vec<SourceRecord> {
            vec![SourceRecord::new("stream", "here", true)]
        }
        fn paths(&self) -> Vec<String> {
            vec!["/base".into()]
        }
        fn next_item(&mut self, _monitor: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
            Ok(self.0.take())
        }
    }

    /// The clock of this repository stands at 1970: the time of the base is decades ahead of it, as after a clock was set
    /// back. Nothing else could give the base again.
    #[test]
    fn what_is_taken_over_needs_no_clock() {
        let repo = crate::repository::in_memory();
        let time = Time { seconds: 1_800_000_000, nanoseconds: 1 };
        let bytes = std::io::Cursor::new(vec![5; 10_000]);
        let mut first = One(Some(AtHand::opened("base", time, bytes)));
        let made = backup(&repo, &mut first, &BackupOptions::default(), &Tally::default()).unwrap();
        for force in [false, true] {
            let options = BackupOptions { parent: made.snapshot, force, ..BackupOptions::default() };
            repo.sync_index(&Tally::default()).unwrap();
            let mut again = One(Some(Item::taken_over("base", time)));
            let report = backup(&repo, &mut again, &options, &Tally::default()).unwrap();
            assert_eq!(report.summary.files_unmodified, 1);
        }
        // What the parent does not have cannot be taken over.
        let options = BackupOptions { parent: made.snapshot, ..BackupOptions::default() };
        let mut other = One(Some(Item::taken_over("other", time)));
        let error = backup(&repo, &mut other, &options, &Tally::default()).unwrap_err();
        assert!(error.to_string().contains("has lost it"), "{error}");
    }
}
