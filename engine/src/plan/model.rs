//! The size of a backup, by the growth of the source and by the age of its base.

use super::{Fixed, Measured, distance};
use crate::{Error, Result};
use serde::Serialize;

/// Deltas that take more than this share of a full chunk are not made.
const MOST_OF_FULL: f64 = 0.9;
/// Changes scattered at random overlap a little: two nights change less than twice as much.
const DEFAULT_EXPONENT: f64 = 0.9;
/// No forecast is better than this, however even the nights were.
const LEAST_ERROR: f64 = 0.08;
/// What is stored in full is known to this.
const FULL_ERROR: f64 = 0.02;
/// The slope of a source is known no better than to this share of itself.
const LEAST_SLOPE_ERROR: f64 = 0.1;
/// From this size on, in bytes, what a source takes follows its size.
const LEAST_SIZE: f64 = 1e6;
/// A source that did not grow while it was measured may grow by this share of what changes in a night.
const GROWTH_OF_CHANGE: f64 = 0.01;

/// The cost of a backup. Sizes are in bytes, times in seconds; a night is one backup.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Model {
    /// Stored by the first night, for a source of `source` bytes.
    pub full: f64,
    /// Cost of a backup without a change.
    pub fixed: Fixed,
    /// Stored by a night because the source grew: `slope` bytes, which compress as the first night did.
    pub grown: f64,
    /// Bytes that a night stores because of changes in the source; proportional to the size of the source.
    pub changed: f64,
    /// A night takes `changed × distance^exponent` against an older base.
    pub exponent: f64,
    /// Size of the source in the first night, by the line through all measured ones.
    pub source: f64,
    /// Growth of the source per night, in bytes; negative if it shrinks. Growth is linear.
    pub slope: f64,
    /// Standard error of `slope`.
    pub slope_error: f64,
    /// Relative error of `changed`: its spread over the measured nights, or a default for two nights.
    pub error: f64,
    /// Seconds that the later nights took, at the size that the source had then.
    pub seconds: f64,
    /// The size that `changed` and `seconds` belong to.
    pub size: f64,
}

impl Model {
    /// Fits the model to the measurements of at least two nights.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for fewer.
    pub fn fit(measured: &Measured) -> Result<Self> {
        let (Some(first), [_, later @ ..]) = (measured.nights.first(), &measured.nights[..]) else {
            return Err(Error::Invalid("at least two versions of the source are needed".into()));
        };
        if later.is_empty() {
            return Err(Error::Invalid("at least two versions of the source are needed".into()));
        }
        let full = first.stored_bytes.max(1) as f64;
        let sizes: Vec<f64> = measured.nights.iter().map(|night| night.source_bytes as f64).collect();
        let (source, slope) = line(&sizes);
        let near: Vec<f64> = later
            .iter()
            .enumerate()
            .filter(|(number, _)| distance(number + 1) == 1)
            .map(|(_, night)| night.stored_bytes as f64)
            .collect();
        let step = mean(&near);
        let fixed = measured.fixed();
        let above = (step - fixed.bytes).max(0.0);
        let grown = (slope.max(0.0) * full / sizes.first().copied().unwrap_or_default().max(1.0)).min(above);
        let changed = above - grown;
        // Against the night before; what lies further back tells the exponent.
        let far = later.iter().enumerate().find(|(number, _)| distance(number + 1) > 1);
        let apart = |bytes: u64| ((bytes as f64 - fixed.bytes).max(1.0) / above.max(1.0)).ln();
        let exponent = match (measured.two_nights_apart, far) {
            (_, Some((number, night))) => apart(night.stored_bytes) / (distance(number + 1) as f64).ln(),
            (Some(two), None) => apart(two) / 2f64.ln(),
            (None, None) => DEFAULT_EXPONENT,
        };
        // A mean of few nights is known less well than a mean of many.
        let error = deviation(&near) / step.max(1.0) + 0.2 / near.len().max(1) as f64;
        let steps: Vec<f64> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let slope_error = (deviation(&steps) / (steps.len() as f64).sqrt())
            .max(LEAST_SLOPE_ERROR * slope.abs())
            .max(GROWTH_OF_CHANGE * changed / full * source.max(0.0));
        let seconds: Vec<f64> = later.iter().map(|night| night.seconds).collect();
        Ok(Self {
            full,
            fixed,
            grown,
            changed,
            exponent: exponent.clamp(0.0, 1.2),
            source: source.max(0.0),
            slope,
            slope_error,
            error: error.max(LEAST_ERROR),
            seconds: mean(&seconds),
            size: mean(&sizes[1..]),
        })
    }

    /// The model at the lower (`-1.0`) or the upper (`1.0`) end of the error band: two standard errors of the slope,
    /// so that the band widens with the time that is looked ahead.
    #[must_use]
    pub fn at_end_of_band(&self, side: f64) -> Self {
        let slope = self.slope + side * 2.0 * self.slope_error;
        let stored = self.full / self.source.max(1.0);
        Self {
            full: self.full * (1.0 + side * FULL_ERROR),
            grown: match self.slope > 0.0 {
                true => self.grown * (slope.max(0.0) / self.slope),
                false => slope.max(0.0) * stored,
            },
            changed: self.changed * (1.0 + side * self.error).max(0.0),
            fixed: Fixed { bytes: self.fixed.bytes * (1.0 + side * LEAST_ERROR), ..self.fixed },
            slope,
            ..*self
        }
    }

    /// Bytes of the source in night `night`, from 0.
    #[must_use]
    pub fn source_at(&self, night: usize) -> f64 {
        (self.source + self.slope * night as f64).max(0.0)
    }

    /// Bytes that a night takes which is stored against nothing.
    #[must_use]
    pub fn full_at(&self, night: usize) -> f64 {
        (self.full * ratio(self.source_at(night), self.source)).max(self.fixed.bytes)
    }

    /// Bytes that a night takes which is stored against the one `distance` nights before.
    #[must_use]
    pub fn step_at(&self, night: usize, distance: usize) -> f64 {
        let changed = self.changed * ratio(self.source_at(night), self.size);
        let step = self.grown * distance as f64 + changed * (distance as f64).powf(self.exponent);
        self.fixed.bytes + step.min(MOST_OF_FULL * self.full_at(night))
    }

    /// Seconds of the backup of night `night`, by the time for a night of its size.
    #[must_use]
    pub fn seconds_at(&self, night: usize) -> f64 {
        scaled(self.seconds, self.fixed.seconds, ratio(self.source_at(night), self.size))
    }
}

/// How many times as large a source is as when it was measured. What a source of less than [`LEAST_SIZE`] takes is no
/// rate a byte: it counts as if that much had taken it.
pub(super) fn ratio(size: f64, measured: f64) -> f64 {
    match measured < LEAST_SIZE {
        true => (1.0 + (size - measured) / LEAST_SIZE).max(0.0),
        false => size / measured,
    }
}

/// A time that follows the size of the source, above a fixed part.
pub(super) fn scaled(seconds: f64, fixed: f64, ratio: f64) -> f64 {
    fixed + (seconds - fixed).max(0.0) * ratio
}

/// Mean of `values`; 0 if there are none.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of `values`.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The line of least squares through `values` at 0, 1, 2…: its value at 0, and its slope.
fn line(values: &[f64]) -> (f64, f64) {
    let (middle, average) = ((values.len() as f64 - 1.0) / 2.0, mean(values));
    let (mut product, mut square) = (0.0, 0.0);
    for (number, value) in values.iter().enumerate() {
        let at = number as f64 - middle;
        product += at * (value - average);
        square += at * at;
    }
    let slope = if square > 0.0 { product / square } else { 0.0 };
    (average - slope * middle, slope)
}
