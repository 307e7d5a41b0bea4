//! Capacity planning: the size of a repository, night after night, computed from a few measured nights. Pure:
//! `trial.rs` measures.
//!
//! A source grows linearly, and no night takes less than a measured backup without a change. All nights are simulated
//! by the rules by which chunks are stored: which older night one is stored against, what stays because others depend
//! on it, and when a prune stores it again.

use crate::Result;
use crate::policy::{GroupBy, Policy, plan as judge};
use crate::rank::Ranked;
use crate::snapshot::{Listed, Snapshot};
use chunkstore::ObjectId;
use chunkstore::bases::base_generation;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
pub use model::Model;
use model::{ratio, scaled};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

mod model;

/// Measurements of one backup of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Night {
    /// Bytes that were read.
    pub source_bytes: u64,
    /// Bytes that the repository grew by.
    pub stored_bytes: u64,
    /// Objects that were added.
    pub objects: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The measurements.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Backups in a row, the first into an empty repository.
    pub nights: Vec<Night>,
    /// Bytes that the third night takes against the first, without the second.
    pub two_nights_apart: Option<u64>,
    /// Measurements of a backup without a change; if missing, the smallest of the later nights counts.
    pub unchanged: Option<Fixed>,
    /// How long it took to read the last one back.
    pub restore_seconds: f64,
    /// Most memory that backup and restore took, in bytes.
    pub peak_memory: u64,
}

/// The fixed cost of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Fixed {
    /// Bytes that the repository grows by: the snapshot's record, its manifest, the index.
    pub bytes: f64,
    /// Objects that are added.
    pub objects: f64,
    /// Seconds of a backup that reads nothing.
    pub seconds: f64,
    /// Seconds to restore such a backup.
    pub restore_seconds: f64,
}

impl Measured {
    fn fixed(&self) -> Fixed {
        let later = self.nights.get(1..).unwrap_or_default();
        let least = |of: fn(&Night) -> f64| later.iter().map(of).reduce(f64::min).unwrap_or_default();
        self.unchanged.unwrap_or_else(|| Fixed {
            bytes: least(|night| night.stored_bytes as f64),
            objects: least(|night| night.objects as f64),
            seconds: least(|night| night.seconds),
            restore_seconds: 0.0,
        })
    }
}

/// The schedule to plan for.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Time between backups, in hours.
    pub every_hours: f64,
    /// What `forget` keeps; everything if empty.
    pub policy: Policy,
    /// How far to look, in days.
    pub days: u32,
    /// Most unused data that a prune leaves, as a share.
    pub max_unused: f64,
}

/// The repository after a backup, and the prune behind it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Number of the backup, from 1.
    pub backup: u32,
    /// Days since the first.
    pub day: f64,
    /// Snapshots kept.
    pub snapshots: u32,
    /// Bytes of the repository, as expected, at least and at most.
    pub bytes: u64,
    /// The lower end of the error band.
    pub bytes_low: u64,
    /// The upper end of the error band.
    pub bytes_high: u64,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// How long the backup takes.
    pub backup_seconds: f64,
    /// How long it takes to read the snapshot back.
    pub restore_seconds: f64,
}

/// What a prune must gain before it stores chunks anew; as `standing.rs` has it.
const REBASE_GAIN: f64 = 1.2;

/// By how many nights the base of a night is older; 0 for a full one.
fn distance(night: usize) -> usize {
    match u8::try_from(night % 256) {
        Ok(0) | Err(_) => 0,
        Ok(generation) => usize::from(generation - base_generation(generation)),
    }
}

/// A night in the repository.
#[derive(Clone, Copy)]
struct Stored {
    base: Option<usize>,
    bytes: f64,
}

/// The repository of one model, night after night.
struct Played {
    model: Model,
    nights: BTreeMap<usize, Stored>,
    bytes: f64,
}

impl Played {
    fn new(model: Model) -> Self {
        Self { model, nights: BTreeMap::new(), bytes: 0.0 }
    }

    fn backup(&mut self, number: usize) {
        let stored = match distance(number) {
            0 => Stored { base: None, bytes: self.model.full_at(number) },
            back => Stored { base: Some(number - back), bytes: self.model.step_at(number, back) },
        };
        self.bytes += stored.bytes;
        self.nights.insert(number, stored);
    }

    fn prune(&mut self, kept: &BTreeSet<usize>) {
        prune(&mut self.nights, kept, &self.model);
        self.bytes = self.nights.values().map(|night| night.bytes).sum();
    }
}

/// Plays the nights through.
///
/// # Errors
/// Fewer than two nights were measured.
pub fn forecast(measured: &Measured, schedule: &Schedule) -> Result<(Model, Vec<Point>)> {
    let model = Model::fit(measured)?;
    let backups = (f64::from(schedule.days) * 24.0 / schedule.every_hours).floor() as u32 + 1;
    let first = measured.nights.first().copied().unwrap_or_default();
    let last = measured.nights.last().copied().unwrap_or_default();
    let later = measured.nights.get(1..).unwrap_or_default();
    let objects = later.iter().map(|night| night.objects).sum::<u64>() as f64 / later.len().max(1) as f64;
    let pack = first.stored_bytes as f64 / first.objects.max(1) as f64;
    let [mut low, mut expected, mut high] =
        [model.at_end_of_band(-1.0), model, model.at_end_of_band(1.0)].map(Played::new);
    let mut kept: BTreeSet<usize> = BTreeSet::new();
    let mut points = vec![];
    for number in 0..backups as usize {
        for played in [&mut low, &mut expected, &mut high] {
            played.backup(number);
        }
        kept.insert(number);
        if !schedule.policy.is_empty() {
            kept = keep(&schedule.policy, &kept, schedule.every_hours)?;
            for played in [&mut low, &mut expected, &mut high] {
                played.prune(&kept);
            }
        }
        let unused = if schedule.policy.is_empty() { 0.0 } else { schedule.max_unused };
        let size = model.source_at(number);
        let ratio = ratio(size, last.source_bytes as f64);
        points.push(Point {
            backup: number as u32 + 1,
            day: number as f64 * schedule.every_hours / 24.0,
            snapshots: kept.len() as u32,
            bytes: expected.bytes as u64,
            bytes_low: low.bytes.min(expected.bytes) as u64,
            bytes_high: (high.bytes.max(expected.bytes) * (1.0 + unused)) as u64,
            objects: ((expected.bytes / pack.max(1.0)).ceil() + expected.nights.len() as f64 * objects)
                as u64,
            source_bytes: size as u64,
            backup_seconds: if number == 0 { first.seconds } else { model.seconds_at(number) },
            restore_seconds: scaled(measured.restore_seconds, model.fixed.restore_seconds, ratio),
        });
    }
    Ok((model, points))
}

/// The nights that the rules keep, by the same code as `forget`.
fn keep(policy: &Policy, kept: &BTreeSet<usize>, every_hours: f64) -> Result<BTreeSet<usize>> {
    let start = Timestamp::UNIX_EPOCH;
    let time = |number: usize| {
        let minutes = (number as f64 * every_hours * 60.0) as i64;
        start.checked_add(minutes.minutes()).unwrap_or(Timestamp::MAX)
    };
    let snapshots: Vec<Ranked> = kept
        .iter()
        .map(|number| {
            let mut id = ObjectId([0; 32]);
            id.0[..8].copy_from_slice(&(*number as u64).to_le_bytes());
            let time = time(*number);
            Ranked { listed: Listed { id, snapshot: Snapshot { time, ..Snapshot::default() } }, time }
        })
        .collect();
    let now = time(kept.last().copied().unwrap_or_default());
    // One thing, whatever it is.
    let policy = Policy { unknown_origin: true, ..policy.clone() };
    let groups = judge(&policy, GroupBy::default(), &snapshots, now, &TimeZone::UTC, false)?;
    let verdicts = groups.iter().flat_map(|group| &group.verdicts);
    let stay = verdicts.filter(|verdict| !verdict.reasons.is_empty());
    Ok(stay
        .map(|verdict| {
            let bytes: [u8; 8] = std::array::from_fn(|place| verdict.listed.id.0[place]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap_or_default()
        })
        .collect())
}

/// Removes nights on which no kept one depends, and stores kept nights again where that frees more.
fn prune(nights: &mut BTreeMap<usize, Stored>, kept: &BTreeSet<usize>, model: &Model) {
    let closure = |nights: &BTreeMap<usize, Stored>| {
        let mut alive: BTreeSet<usize> = BTreeSet::new();
        for night in kept {
            let mut at = Some(*night);
            while let Some(number) = at
                && alive.insert(number)
            {
                at = nights.get(&number).and_then(|night| night.base);
            }
        }
        alive
    };
    let alive = closure(nights);
    let held: f64 =
        alive.difference(kept).filter_map(|number| nights.get(number)).map(|night| night.bytes).sum();
    let tops: Vec<usize> = kept
        .iter()
        .copied()
        .filter(|number| {
            nights.get(number).and_then(|night| night.base).is_some_and(|base| !kept.contains(&base))
        })
        .collect();
    let cost: f64 = tops
        .iter()
        .filter_map(|number| nights.get(number).map(|night| model.full_at(*number) - night.bytes))
        .sum();
    if held > REBASE_GAIN * cost {
        for number in tops {
            nights.insert(number, Stored { base: None, bytes: model.full_at(number) });
        }
    }
    let alive = closure(nights);
    nights.retain(|number, _| alive.contains(number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Keep, Period};

    const NOTHING: Fixed = Fixed { bytes: 0.0, objects: 0.0, seconds: 0.0, restore_seconds: 0.0 };

    fn measured(later: &[u64]) -> Measured {
        let night = |stored_bytes| Night { source_bytes: 1000, stored_bytes, objects: 3, seconds: 1.0 };
        let nights = [&[100_000][..], later].concat().into_iter().map(night).collect();
        let unchanged = Some(NOTHING);
        Measured { nights, two_nights_apart: Some(1800), unchanged, restore_seconds: 2.0, peak_memory: 0 }
    }

    /// Four nights of a source of 16 MB that grows by `slope` bytes a night and stores 60 kB of each.
    fn growing(slope: i64, unchanged: Fixed) -> Measured {
        let night = |number: i64| Night {
            source_bytes: (16_000_000 + slope * number) as u64,
            stored_bytes: if number == 0 { 8_000_000 } else { 60_000 },
            objects: 3,
            seconds: if number == 0 { 0.5 } else { 0.3 },
        };
        Measured {
            nights: (0..4).map(night).collect(),
            unchanged: Some(unchanged),
            restore_seconds: 0.2,
            ..Measured::default()
        }
    }

    fn years(every_hours: f64, policy: Policy) -> Schedule {
        Schedule { every_hours, policy, days: 3650, max_unused: 0.05 }
    }

    #[test]
    fn growth_is_a_straight_line_and_the_band_widens() {
        let (model, points) = forecast(&growing(48_000, NOTHING), &years(24.0, daily())).unwrap();
        assert!((model.slope - 48_000.0).abs() < 1e-6);
        let last = points.last().unwrap();
        // 16 MB + 3650 × 48 kB = 191.2 MB: twelve times as much as at first, and so are the times.
        assert_eq!(last.source_bytes / 1_000_000, 191);
        let times = last.restore_seconds / points[0].restore_seconds;
        assert!((times - 191.2 / 16.0).abs() < 0.1, "{times}");
        // No more than if each month kept stood by itself.
        assert!((last.bytes as f64) < 12.0 * model.full_at(3650), "{last:?}");
        let width = |point: &Point| (point.bytes_high - point.bytes_low) as f64 / point.bytes as f64;
        assert!(width(&points[30]) < width(&points[365]) && width(&points[365]) < width(last));
    }

    #[test]
    fn nothing_falls_below_what_is_fixed() {
        let fixed = Fixed { bytes: 17_000.0, objects: 3.0, seconds: 0.02, restore_seconds: 0.01 };
        // Gone after 800 backups; what each of them takes stays.
        let (_, points) = forecast(&growing(-20_000, fixed), &years(1.0, Policy::default())).unwrap();
        let [.., before, last] = &points[..] else { panic!("{} points", points.len()) };
        assert_eq!((last.source_bytes, last.snapshots), (0, 87_601));
        assert!(last.bytes - before.bytes >= 17_000, "{before:?} {last:?}");
        assert!((last.backup_seconds - 0.02).abs() < 1e-9 && (last.restore_seconds - 0.01).abs() < 1e-9);
        assert!(points.windows(2).all(|pair| pair[0].bytes < pair[1].bytes));
        // A measured plan without such a backup takes the smallest night for it.
        let least = Measured { unchanged: None, ..growing(-20_000, fixed) };
        let (model, points) = forecast(&least, &years(24.0, Policy::default())).unwrap();
        assert!((model.fixed.bytes - 60_000.0).abs() < 1e-9);
        assert!(points.last().unwrap().backup_seconds >= 0.3);
    }

    #[test]
    fn a_few_bytes_are_no_rate() {
        let night =
            |source_bytes, stored_bytes| Night { source_bytes, stored_bytes, objects: 3, seconds: 0.3 };
        let nights = vec![night(0, 9000), night(1, 9500)];
        let fixed = Fixed { bytes: 9000.0, objects: 3.0, seconds: 0.02, restore_seconds: 0.1 };
        let tiny = Measured { nights, unchanged: Some(fixed), restore_seconds: 0.16, ..Measured::default() };
        let (_, points) = forecast(&tiny, &years(24.0, Policy::default())).unwrap();
        let last = points.last().unwrap();
        assert!(last.backup_seconds < 0.31 && last.restore_seconds < 0.17, "{last:?}");
        // 9,000 bytes are fixed, and every fourth night is against one four nights back.
        assert!(last.bytes < 3651 * 11_000, "{last:?}");
    }

    #[test]
    fn a_source_that_stays_may_still_grow() {
        let (model, points) = forecast(&growing(0, NOTHING), &years(24.0, Policy::default())).unwrap();
        assert!(model.slope.abs() < 1e-6 && model.slope_error > 0.0);
        let last = points.last().unwrap();
        assert!(last.source_bytes.abs_diff(16_000_000) < 10 && last.bytes_high > last.bytes);
    }

    #[test]
    fn everything_kept_is_the_sum_of_the_nights() {
        let schedule = Schedule { every_hours: 24.0, policy: Policy::default(), days: 13, max_unused: 0.05 };
        let (model, points) = forecast(&measured(&[1000, 1000]), &schedule).unwrap();
        assert!((model.exponent - 1.8f64.log2()).abs() < 1e-9);
        assert_eq!(points.len(), 14);
        // Nights 4, 8 and 12 stand on nights four back.
        let four = 1000.0 * 4f64.powf(model.exponent);
        let expected = 100_000.0 + 10.0 * 1000.0 + 3.0 * four;
        assert!((points[13].bytes as f64 - expected).abs() < 2.0, "{} {expected}", points[13].bytes);
        assert!(points[13].bytes_low < points[13].bytes && points[13].bytes < points[13].bytes_high);
        assert!(forecast(&measured(&[]), &schedule).is_err());
    }

    fn daily() -> Policy {
        let keep =
            [(Period::Day, 7), (Period::Week, 4), (Period::Month, 12)].map(|(of, n)| (of, Keep::Count(n)));
        Policy { keep: keep.to_vec(), ..Policy::default() }
    }

    #[test]
    fn a_year_of_kept_nights_stays_bounded() {
        let schedule = Schedule { every_hours: 24.0, policy: daily(), days: 365, max_unused: 0.05 };
        let (_, points) = forecast(&measured(&[1000, 1000]), &schedule).unwrap();
        let last = points.last().unwrap();
        // Two of the weeks' and two of the months' newest are among the days.
        assert_eq!((points.len(), last.snapshots), (366, 7 + 4 + 12 - 4));
        // Nineteen nights on their own would take 1,900,000 bytes.
        assert!(last.bytes > 100_000 && last.bytes < 950_000, "{last:?}");
    }
}
