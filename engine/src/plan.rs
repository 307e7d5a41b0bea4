//! Capacity planning: what a repository will take, night after night, from a few measured ones. Pure: the
//! measuring is in `trial.rs`.
//!
//! Nights are played through as a whole, by the rules by which chunks are stored: which older night one is
//! stored against, what stays alive because others stand on it, and when a prune stores it anew.

use crate::policy::{GroupBy, Policy, plan as judge};
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, Result};
use chunkstore::ObjectId;
use chunkstore::bases::base_generation;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What one backup of a source took.
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

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Backups in a row, the first into an empty repository.
    pub nights: Vec<Night>,
    /// Bytes that the third night takes against the first, without the second.
    pub two_nights_apart: Option<u64>,
    /// How long it took to read the last one back.
    pub restore_seconds: f64,
    /// Most memory that backup and restore took, in bytes.
    pub peak_memory: u64,
}

/// What is asked.
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
    /// How long the backup takes.
    pub backup_seconds: f64,
    /// How long it takes to read the snapshot back.
    pub restore_seconds: f64,
}

/// How much a night takes, by what it is stored against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Model {
    /// The first night's bytes.
    pub full: f64,
    /// Bytes of a night against the one before.
    pub step: f64,
    /// A night takes `step × distance^exponent` against one that lies further back.
    pub exponent: f64,
    /// Growth of the source from night to night, as a factor.
    pub growth: f64,
    /// Relative error of `step`: its spread over the measured nights, or what two nights cannot tell.
    pub error: f64,
}

/// Deltas that take more than this share of a full chunk are not made.
const MOST_OF_FULL: f64 = 0.9;
/// What a prune must gain before it stores chunks anew; as `standing.rs` has it.
const REBASE_GAIN: f64 = 1.2;
/// Changes scattered at random overlap a little: two nights change less than twice as much.
const DEFAULT_EXPONENT: f64 = 0.9;
/// No forecast is better than this, however even the nights were.
const LEAST_ERROR: f64 = 0.08;

impl Model {
    /// Fits the model to what was measured: at least two nights.
    pub fn fit(measured: &Measured) -> Result<Self> {
        let [first, later @ ..] = &measured.nights[..] else {
            return Err(Error::Invalid("at least two versions of the source are needed".into()));
        };
        if later.is_empty() {
            return Err(Error::Invalid("at least two versions of the source are needed".into()));
        }
        let full = first.stored_bytes.max(1) as f64;
        // Against the night before; further back is told apart below.
        let near: Vec<f64> = later
            .iter()
            .enumerate()
            .filter(|(number, _)| distance(number + 1) == 1)
            .map(|(_, night)| night.stored_bytes as f64)
            .collect();
        let step = near.iter().sum::<f64>() / near.len().max(1) as f64;
        let spread = near.iter().map(|bytes| (bytes - step).powi(2)).sum::<f64>() / near.len().max(1) as f64;
        let far = later.iter().enumerate().find(|(number, _)| distance(number + 1) > 1);
        let exponent = match (measured.two_nights_apart, far) {
            (_, Some((number, night))) => {
                (night.stored_bytes as f64 / step).ln() / (distance(number + 1) as f64).ln()
            }
            (Some(two), None) => (two as f64 / step).log2(),
            (None, None) => DEFAULT_EXPONENT,
        };
        let last = measured.nights.last().unwrap_or(first);
        let ratio = last.source_bytes as f64 / first.source_bytes.max(1) as f64;
        let spread = spread.sqrt() / step.max(1.0);
        // A mean of few nights is known less well than a mean of many.
        let error = (spread + 0.2 / near.len().max(1) as f64).max(LEAST_ERROR);
        Ok(Self {
            full,
            step,
            exponent: exponent.clamp(0.0, 1.2),
            growth: ratio.powf(1.0 / later.len() as f64).clamp(0.9, 1.1),
            error,
        })
    }

    fn full_at(&self, night: usize) -> f64 {
        self.full * self.growth.powf(night as f64)
    }

    fn step_at(&self, night: usize, distance: usize) -> f64 {
        let step = self.step * self.growth.powf(night as f64) * (distance as f64).powf(self.exponent);
        step.min(MOST_OF_FULL * self.full_at(night))
    }
}

/// How many nights back the base of a night lies; 0 for one that stands on its own.
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

/// Plays the nights through.
pub fn forecast(measured: &Measured, schedule: &Schedule) -> Result<(Model, Vec<Point>)> {
    let model = Model::fit(measured)?;
    let backups = (f64::from(schedule.days) * 24.0 / schedule.every_hours).floor() as u32 + 1;
    let first = measured.nights.first().copied().unwrap_or_default();
    let later = &measured.nights[1..];
    let seconds = later.iter().map(|night| night.seconds).sum::<f64>() / later.len().max(1) as f64;
    let objects = later.iter().map(|night| night.objects).sum::<u64>() as f64 / later.len().max(1) as f64;
    let pack = first.stored_bytes as f64 / first.objects.max(1) as f64;
    let mut nights: BTreeMap<usize, Stored> = BTreeMap::new();
    let mut kept: BTreeSet<usize> = BTreeSet::new();
    let mut points = vec![];
    for number in 0..backups as usize {
        let stored = match distance(number) {
            0 => Stored { base: None, bytes: model.full_at(number) },
            back => Stored { base: Some(number - back), bytes: model.step_at(number, back) },
        };
        nights.insert(number, stored);
        kept.insert(number);
        if !schedule.policy.is_empty() {
            kept = keep(&schedule.policy, &kept, schedule.every_hours)?;
            prune(&mut nights, &kept, &model);
        }
        let bytes: f64 = nights.values().map(|night| night.bytes).sum();
        let certain: f64 =
            nights.values().filter(|night| night.base.is_none()).map(|night| night.bytes).sum();
        let unused = if schedule.policy.is_empty() { 0.0 } else { schedule.max_unused };
        let band = (bytes - certain) * model.error + certain * 0.02;
        let growth = model.growth.powf(number as f64);
        points.push(Point {
            backup: number as u32 + 1,
            day: number as f64 * schedule.every_hours / 24.0,
            snapshots: kept.len() as u32,
            bytes: bytes as u64,
            bytes_low: (bytes - band).max(0.0) as u64,
            bytes_high: ((bytes + band) * (1.0 + unused)) as u64,
            objects: ((bytes / pack.max(1.0)).ceil() + nights.len() as f64 * objects) as u64,
            backup_seconds: growth * if number == 0 { first.seconds } else { seconds },
            restore_seconds: growth * measured.restore_seconds,
        });
    }
    Ok((model, points))
}

/// What the rules keep, by the same code as `forget`.
fn keep(policy: &Policy, kept: &BTreeSet<usize>, every_hours: f64) -> Result<BTreeSet<usize>> {
    let start = Timestamp::UNIX_EPOCH;
    let time = |number: usize| {
        let minutes = (number as f64 * every_hours * 60.0) as i64;
        start.checked_add(minutes.minutes()).unwrap_or(Timestamp::MAX)
    };
    let snapshots: Vec<Listed> = kept
        .iter()
        .map(|number| {
            let mut id = ObjectId([0; 32]);
            id.0[..8].copy_from_slice(&(*number as u64).to_le_bytes());
            Listed { id, snapshot: Snapshot { time: time(*number), ..Snapshot::default() } }
        })
        .collect();
    let now = time(kept.last().copied().unwrap_or_default());
    let groups = judge(policy, GroupBy::default(), &snapshots, now, &TimeZone::UTC, false)?;
    let verdicts = groups.iter().flat_map(|group| &group.verdicts);
    let stay = verdicts.filter(|verdict| !verdict.reasons.is_empty());
    Ok(stay
        .map(|verdict| {
            let bytes: [u8; 8] = std::array::from_fn(|place| verdict.listed.id.0[place]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap_or_default()
        })
        .collect())
}

/// Removes what nothing kept stands on, and stores kept nights anew where that frees more.
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

    fn measured(later: &[u64]) -> Measured {
        let night = |stored_bytes| Night { source_bytes: 1000, stored_bytes, objects: 3, seconds: 1.0 };
        let nights = [&[100_000][..], later].concat().into_iter().map(night).collect();
        Measured { nights, two_nights_apart: Some(1800), restore_seconds: 2.0, peak_memory: 0 }
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

    #[test]
    fn a_year_of_kept_nights_stays_bounded() {
        let policy = Policy {
            keep: vec![
                (Period::Day, Keep::Count(7)),
                (Period::Week, Keep::Count(4)),
                (Period::Month, Keep::Count(12)),
            ],
            ..Policy::default()
        };
        let schedule = Schedule { every_hours: 24.0, policy, days: 365, max_unused: 0.05 };
        let (_, points) = forecast(&measured(&[1000, 1000]), &schedule).unwrap();
        let last = points.last().unwrap();
        // Two of the weeks' and two of the months' newest are among the days.
        assert_eq!((points.len(), last.snapshots), (366, 7 + 4 + 12 - 4));
        // Nineteen nights on their own would take 1,900,000 bytes.
        assert!(last.bytes > 100_000 && last.bytes < 950_000, "{last:?}");
    }
}
