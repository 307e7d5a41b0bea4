//! The table of promises that disaster-recovery plans start from, over 400 days: hourly kept 7 days here, daily 30
//! days here and on S3, weekly 90 days on S3, monthly a year in Glacier. What each tier holds is asserted for every
//! day, against rules that are written down anew here. The suite makes a snapshot an hour in the first and the last
//! weeks and four a day between them; `make retention` makes all 9,600.

use bytes::Bytes;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::Env;
use chunkstore::executor::Inline;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::shelf::{Hidden, Lying, Placing, Retrieval, Shelf, Warmth};
use chunkstore::storage::{Storage, StorageResult};
use chunkstore::store::{Access, Identity};
use connector_kit::stream::StreamSource;
use engine::Repository;
use engine::backup::{BackupOptions, backup};
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use engine::price::PriceTable;
use engine::promise::{Class, Promise, Select};
use engine::prune::{PruneOptions, prune};
use engine::snapshot::{MadeBy, SourceRecord};
use engine::source::{Content, Opener, Piece, SourceError};
use engine::tier::keep::Standing;
use engine::tier::status::holding;
use engine::tier::sync::{SyncOptions, sync};
use engine::tier::{Role, Tier, TierOptions};
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A clock that is set, and random numbers.
struct Clock {
    now_ms: AtomicU64,
    random: chunkstore::env::SystemEnv,
}

impl Env for Clock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::Relaxed))
    }
    fn random(&self, bytes: &mut [u8]) -> chunkstore::Result<()> {
        self.random.random(bytes)
    }
    fn sleep(&self, _: Duration) {}
}

/// A store with classes that notes what is removed before its time.
struct Cold {
    objects: MemoryStorage,
    clock: Arc<Clock>,
    /// When each frozen object was put there.
    since_ms: Mutex<BTreeMap<String, u64>>,
    removed_early: AtomicU64,
    reads: AtomicU64,
}

/// Days of GLACIER.
const MIN_DAYS: u64 = 90;

impl Storage for Cold {
    fn place(&self) -> String {
        "cold".into()
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.reads.fetch_add(u64::from(self.since_ms.lock().unwrap().contains_key(name)), Ordering::Relaxed);
        self.objects.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.reads.fetch_add(u64::from(self.since_ms.lock().unwrap().contains_key(name)), Ordering::Relaxed);
        self.objects.get_range(name, offset, len)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        if let Some(since) = self.since_ms.lock().unwrap().remove(name)
            && self.clock.now_ms.load(Ordering::Relaxed) < since + MIN_DAYS * 86_400_000
        {
            self.removed_early.fetch_add(1, Ordering::Relaxed);
        }
        self.objects.delete(name)
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        Some(self)
    }
    chunkstore::forward!(self => self.objects; put replace len list leftovers read_versioned swap connections is_near
        keeps_copies written_ms copies);
    chunkstore::plain_store!(stream_range);
}

impl Shelf for Cold {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        assert_eq!(placing.class.as_deref(), Some("GLACIER"));
        self.since_ms.lock().unwrap().insert(name.into(), self.clock.now_ms.load(Ordering::Relaxed));
        self.objects.put(name, body)
    }
    fn look(&self, name: &str) -> StorageResult<Lying> {
        let len = self.objects.len(name)?;
        Ok(Lying { len, class: None, warmth: Warmth::Frozen, locked_until: None })
    }
    fn thaw(&self, _: &str, _: u32, _: Retrieval) -> StorageResult<bool> {
        Ok(true)
    }
    fn lock(&self, _: &str, _: u64) -> StorageResult<()> {
        Ok(())
    }
    fn hazards(&self) -> StorageResult<Vec<String>> {
        Ok(vec![])
    }
    fn is_versioned(&self) -> StorageResult<bool> {
        Ok(false)
    }
    fn hidden(&self) -> StorageResult<Hidden> {
        Ok(Hidden::default())
    }
    fn remove_hidden(&self, _: &str) -> StorageResult<()> {
        Ok(())
    }
    fn bring_back(&self) -> StorageResult<u64> {
        Ok(0)
    }
}

/// Bytes as a stream.
struct Given {
    bytes: Vec<u8>,
    at: usize,
}

impl Content for Given {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let len = buffer.len().min(self.bytes.len() - self.at);
        buffer[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
    }
}

fn seed_table() -> Vec<Promise> {
    let promise = |class, keep: &str, tiers: &[&str]| Promise {
        select: Select { class: Some(class), ..Select::default() },
        keep: keep.parse().unwrap(),
        tiers: tiers.iter().map(|tier| (*tier).into()).collect(),
    };
    vec![
        promise(Class::Hourly, "7d", &["local"]),
        promise(Class::Daily, "30d", &["local", "s3"]),
        promise(Class::Weekly, "90d", &["s3"]),
        promise(Class::Monthly, "1y", &["glacier"]),
    ]
}

/// What the table means, in plain words: which of the hours since `start` in `made` a tier holds the snapshots of at
/// hour `now`.
fn expected(tier: &str, start: Timestamp, now: i64, made: &BTreeSet<i64>) -> BTreeSet<i64> {
    let of = |hour: i64| (start + hour.hours()).to_zoned(TimeZone::UTC);
    let within = |hour: i64, days: i64| now - hour < 24 * days;
    made.iter()
        .copied()
        .filter(|hour| {
            let (hour, time) = (*hour, of(*hour));
            let midnight = hour == 0 || time.hour() == 0;
            let monday = hour == 0 || midnight && time.weekday() == jiff::civil::Weekday::Monday;
            let first = hour == 0 || midnight && time.day() == 1;
            let year = of(now).timestamp() < time.checked_add(1.year()).unwrap().timestamp();
            match tier {
                "local" => within(hour, 7) || midnight && within(hour, 30),
                "s3" => midnight && within(hour, 30) || monday && within(hour, 90),
                _ => first && year,
            }
        })
        .collect()
}

#[test]
fn the_seed_table_holds_for_400_days() {
    const DAYS: i64 = 400;
    let all = std::env::var_os("ESKER_RETENTION_HOURLY").is_some();
    // Not at midnight of any Monday or first: the first snapshot of all is the first of its week and month, too.
    let start: Timestamp = "2026-01-14T05:00:00Z".parse().unwrap();
    let clock = Arc::new(Clock {
        now_ms: AtomicU64::new(start.as_millisecond().try_into().unwrap()),
        random: chunkstore::env::SystemEnv,
    });
    let cold = Arc::new(Cold {
        objects: MemoryStorage::default(),
        clock: Arc::clone(&clock),
        since_ms: Mutex::default(),
        removed_early: AtomicU64::new(0),
        reads: AtomicU64::new(0),
    });
    let access = |storage: Arc<dyn Storage>| Access {
        storage,
        env: Arc::clone(&clock) as _,
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
    };
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let disk = Arc::new(MemoryStorage::default());
    let primary = Repository::init(
        access(Arc::clone(&disk) as _),
        ChunkerParams::around(4096),
        b"x",
        cheap,
        SlotOwner::default(),
        Layout::default(),
    )
    .unwrap();
    let prices = PriceTable::default();
    let open = |name: &str, role, class: Option<&str>, storage: Arc<dyn Storage>| {
        let options = TierOptions {
            name: name.into(),
            role,
            class: class.map(str::to_owned),
            ..TierOptions::default()
        };
        Tier::make(&primary, access(storage), options, &prices, false).unwrap()
    };
    let tiers = [
        open("s3", Role::Copy, None, Arc::new(MemoryStorage::default())),
        open("glacier", Role::Vault, Some("GLACIER"), Arc::clone(&cold) as _),
    ];
    let promises = seed_table();
    let mut content = crate::harness::noise(1, 40_000);
    let (mut dollars, mut most) = (0.0, 0);
    let mut made = BTreeSet::new();
    for hour in 0..DAYS * 24 {
        let now = start + hour.hours();
        let of_day = now.to_zoned(TimeZone::UTC).hour();
        let is_hourly = all || !(20 * 24..(DAYS - 12) * 24).contains(&hour);
        if !is_hourly && of_day % 6 != 0 {
            continue;
        }
        made.insert(hour);
        clock.now_ms.store(now.as_millisecond().try_into().unwrap(), Ordering::Relaxed);
        // A twentieth changes.
        let at = (hour as usize * 7919) % 38_000;
        content[at..at + 2000].copy_from_slice(&crate::harness::noise(hour as u64 + 2, 2000));
        let stamp = Time { seconds: now.as_second(), nanoseconds: 0 };
        let record = SourceRecord::new("stdin", "test", true);
        let bytes = content.clone();
        let open: Opener = Box::new(move || Ok(Box::new(Given { bytes, at: 0 })));
        let mut source = StreamSource::new(record, "stream", stamp, open).unwrap();
        let made_by = MadeBy::Run("hourly".into());
        let options = BackupOptions { hostname: "h".into(), time: now, made_by, ..BackupOptions::default() };
        backup(&primary, &mut source, &options, &Tally::default()).unwrap();
        let look = || {
            Standing::look("local", &primary, &tiers, &promises, now, &TimeZone::UTC, &Tally::default())
                .unwrap()
        };
        let standing = look();
        for tier in &tiers {
            let name = &tier.options.name;
            let owed = standing.owed(name);
            if !owed.is_empty() {
                sync(&primary, &primary, tier, &owed, &[], &SyncOptions::default(), &Tally::default())
                    .unwrap();
            }
        }
        // Once a day, as a nightly run does.
        if of_day != 12 {
            continue;
        }
        let standing = look();
        let over = |name: &str| -> Vec<_> {
            standing.over(name).iter().map(|verdict| verdict.known.listed.id).collect()
        };
        primary.forget(&over("local")).unwrap();
        prune(&primary, &PruneOptions::default(), &Tally::default()).unwrap();
        for tier in &tiers {
            tier.forget(&over(&tier.options.name)).unwrap();
            tier.prune(false, false, false, &Tally::default()).unwrap();
        }
        let hours = |repo: &Repository| -> BTreeSet<i64> {
            let all = repo.snapshots(&Tally::default()).unwrap();
            all.iter().map(|listed| (listed.snapshot.time.as_second() - start.as_second()) / 3600).collect()
        };
        assert_eq!(hours(&primary), expected("local", start, hour, &made), "local, hour {hour}");
        for tier in &tiers {
            let name = &tier.options.name;
            let mut expected = expected(name, start, hour, &made);
            // What follows the primary has the newest, too.
            if name == "s3" {
                expected.insert(hour);
            }
            assert_eq!(hours(&tier.repo), expected, "{name}, hour {hour}");
            let held = holding(tier, &prices, false).unwrap();
            dollars += held.dollars_month / engine::price::DAYS_OF_MONTH;
            most = most.max(held.packs);
        }
    }
    assert_eq!(cold.reads.load(Ordering::Relaxed), 0, "nothing that is frozen was read");
    for tier in &tiers {
        let report = engine::verify::check(&tier.repo, engine::verify::ReadData::All, &Tally::default());
        assert_eq!(report.unwrap().num_errors, 0, "{}", tier.options.name);
    }
    let (early, reads) = (cold.removed_early.load(Ordering::Relaxed), cold.since_ms.lock().unwrap().len());
    println!(
        "{} snapshots in {DAYS} days: ${dollars:.6} for both tiers, {early} removed before their time, at most {most} packs, {reads} frozen at the end",
        made.len()
    );
    assert_eq!(early, 0);
}
