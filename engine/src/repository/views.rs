//! All snapshots of a HEAD, one after the other: each record is parsed on one of all cores, something is made of it there, and
//! the record is dropped. Records take kilobytes, and there may be a hundred thousand of them.

use super::{Past, parse};
use crate::rank::Ranked;
use crate::snapshot::Listed;
use crate::{Error, Result};
use bytes::Bytes;
use chunkstore::ObjectId;
use chunkstore::executor::{Pending, submit};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// Records that one job parses.
const PARSED_AT_ONCE: usize = 128;

/// What a job has of a snapshot.
enum Record {
    /// It was read before.
    Parsed(Box<Listed>),
    /// Its bytes.
    Plain(ObjectId, Result<Bytes>),
}

impl Record {
    fn parsed(self) -> Result<Listed> {
        match self {
            Self::Parsed(listed) => Ok(*listed),
            Self::Plain(id, plain) => Ok(Listed { id, snapshot: parse(&id, &plain?)? }),
        }
    }
}

/// What was made of records, by place.
type Batch<T> = Vec<(usize, Result<T>)>;

impl Past<'_> {
    /// Makes something of each snapshot that can be read, oldest first: `view` on all cores, `take` in order.
    pub(super) fn each<T: Send + 'static>(
        &mut self,
        view: impl Fn(Ranked) -> T + Send + Sync + 'static,
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        self.read_all()?;
        let (repo, view) = (self.repo, Arc::new(view));
        let mut records = repo.store.records();
        // From here on nobody can remove what HEAD has of them. The others have their own objects.
        for number in 0..self.order.len() {
            let place = self.order[number];
            if !records.fetch(self.roots[place])? {
                self.at(place)?;
            }
        }
        if self.is_old && !self.is_last {
            return Ok(());
        }
        // Those that cannot be read were reported.
        let is_reported = |place: &usize| matches!(self.records.get(place), Some(None));
        let places: Vec<usize> = self.order.iter().copied().filter(|place| !is_reported(place)).collect();
        let cpu = &*repo.store.access.cpu;
        let mut batches = VecDeque::new();
        for places in places.chunks(PARSED_AT_ONCE) {
            // Few wait, so that the memory of those that were taken is used again.
            if batches.len() > 2 * cpu.parallelism() {
                self.take(&mut batches, take)?;
            }
            let mut of_batch: Vec<(usize, Timestamp, Record)> = Vec::with_capacity(places.len());
            for place in places {
                let record = match self.records.remove(place).flatten() {
                    Some(listed) => Record::Parsed(Box::new(listed)),
                    None => {
                        let root = self.roots[*place];
                        Record::Plain(root.id, records.read(root).map_err(Error::from))
                    }
                };
                of_batch.push((*place, self.ranked_time(*place), record));
            }
            let view = Arc::clone(&view);
            batches.push_back(submit(cpu, move || {
                let viewed = of_batch.into_iter().map(|(place, time, record)| {
                    (place, record.parsed().map(|listed| view(Ranked { listed, time })))
                });
                viewed.collect::<Batch<T>>()
            }));
        }
        while !batches.is_empty() {
            self.take(&mut batches, take)?;
        }
        Ok(())
    }

    /// Takes what was made by the first job.
    fn take<T>(
        &mut self,
        batches: &mut VecDeque<Pending<Batch<T>>>,
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let Some(batch) = batches.pop_front() else { return Ok(()) };
        for (place, read) in batch.wait()? {
            if let Some(viewed) = self.note(self.roots[place], read)? {
                take(viewed)?;
            }
        }
        Ok(())
    }

    /// All that can be read, oldest first.
    pub(super) fn all(&mut self) -> Result<Vec<Listed>> {
        let mut all = Vec::with_capacity(self.order.len());
        self.each(|ranked| ranked.listed, &mut |listed| {
            all.push(listed);
            Ok(())
        })?;
        Ok(all)
    }
}
