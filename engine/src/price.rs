//! What storage classes cost, and how they behave: months of storage, requests, retrievals, least time.

use crate::{Error, Result};
use chunkstore::storage::shelf::Retrieval;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// No class costs, and no thawing takes, more than this, in dollars or hours: sums of it stay finite.
const MOST: f64 = 1e6;

/// What costs something or takes a while: a number from 0 to [`MOST`].
fn amount<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if (0.0..=MOST).contains(&number) {
        return Ok(number);
    }
    Err(serde::de::Error::custom(format!("{number} is no price and no time: it is from 0 to {MOST}")))
}

/// A way to thaw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thawing {
    /// Dollars for a GB (10⁹ bytes).
    #[serde(deserialize_with = "amount")]
    pub gb: f64,
    /// Dollars for a thousand requests.
    #[serde(deserialize_with = "amount")]
    pub requests_1000: f64,
    /// Hours that it takes at most.
    #[serde(deserialize_with = "amount")]
    pub hours: f64,
}

/// Prices and rules of a storage class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Dollars for a GB (10⁹ bytes) and month.
    #[serde(deserialize_with = "amount")]
    pub gb_month: f64,
    /// Dollars for a thousand objects written.
    #[serde(deserialize_with = "amount")]
    pub put_1000: f64,
    /// Dollars for a thousand reads.
    #[serde(deserialize_with = "amount")]
    pub get_1000: f64,
    /// Dollars per GB read, besides the transfer.
    #[serde(deserialize_with = "amount")]
    pub get_gb: f64,
    /// Dollars for a GB that leaves the provider.
    #[serde(deserialize_with = "amount")]
    pub egress_gb: f64,
    /// Minimum storage time in days: an object that is removed earlier is paid for until then.
    pub min_days: u32,
    /// Minimum billed size of an object, in bytes.
    pub min_object: u64,
    /// Additional bytes per object.
    pub overhead: u64,
    /// Bytes of each object that are kept in the standard class.
    pub overhead_standard: u64,
    /// Must be thawed before it is read.
    pub frozen: bool,
    /// Fastest way to thaw.
    pub expedited: Option<Thawing>,
    /// Ordinary way.
    pub standard: Option<Thawing>,
    /// Cheapest way.
    pub bulk: Option<Thawing>,
}

/// Average days of a month.
pub const DAYS_OF_MONTH: f64 = 365.25 / 12.0;
const GB: f64 = 1e9;

impl Price {
    /// Dollars per month for so many objects of so many bytes together.
    #[must_use]
    pub fn month(&self, objects: u64, bytes: u64, standard: &Self) -> f64 {
        let each = bytes.checked_div(objects).unwrap_or_default();
        let billed = if each < self.min_object { objects * self.min_object } else { bytes };
        let own = (billed + objects * self.overhead) as f64 / GB * self.gb_month;
        own + (objects * self.overhead_standard) as f64 / GB * standard.gb_month
    }

    /// Dollars to write objects.
    #[must_use]
    pub fn puts(&self, objects: u64) -> f64 {
        objects as f64 / 1000.0 * self.put_1000
    }

    /// A way to thaw, if this class has it.
    #[must_use]
    pub fn thawing(&self, retrieval: Retrieval) -> Option<Thawing> {
        match retrieval {
            Retrieval::Expedited => self.expedited,
            Retrieval::Standard => self.standard,
            Retrieval::Bulk => self.bulk,
        }
    }

    /// Dollars and hours to thaw objects, and to keep the thawed copies for some days.
    #[must_use]
    pub fn thaw(
        &self,
        retrieval: Retrieval,
        objects: u64,
        bytes: u64,
        days: u32,
        standard: &Self,
    ) -> Option<(f64, f64)> {
        let way = self.thawing(retrieval)?;
        let asked = objects as f64 / 1000.0 * way.requests_1000 + bytes as f64 / GB * way.gb;
        let kept = bytes as f64 / GB * standard.gb_month * f64::from(days) / DAYS_OF_MONTH;
        Some((asked + kept, way.hours))
    }

    /// Dollars to read objects and carry them out.
    #[must_use]
    pub fn fetch(&self, requests: u64, bytes: u64) -> f64 {
        requests as f64 / 1000.0 * self.get_1000 + bytes as f64 / GB * (self.get_gb + self.egress_gb)
    }
}

/// Prices by class.
#[derive(Clone, Debug)]
pub struct PriceTable(BTreeMap<String, Price>);

impl Default for PriceTable {
    /// List prices of 2025.
    fn default() -> Self {
        Self(toml::from_str(include_str!("prices.toml")).expect("the table that is built in is sound"))
    }
}

impl PriceTable {
    /// Replaces or adds classes.
    #[must_use]
    pub fn with(mut self, own: BTreeMap<String, Price>) -> Self {
        self.0.extend(own);
        self
    }

    /// The names of all classes.
    #[must_use]
    pub fn classes(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The price of a class, by its store's own name.
    pub fn of(&self, class: &str) -> Result<Price> {
        self.0.get(class).copied().ok_or_else(|| {
            Error::Invalid(format!(
                "unknown storage class '{class}'; known are {}",
                self.classes().join(", ")
            ))
        })
    }

    /// The price of the class without thawing, in which thawed copies and metadata are stored.
    #[must_use]
    pub fn hot(&self, class: &str) -> Price {
        let hot = if class.starts_with(|letter: char| letter.is_ascii_uppercase())
            && class.chars().any(|letter| letter.is_ascii_lowercase())
        {
            "Hot"
        } else if class == "LOCAL" {
            "LOCAL"
        } else {
            "STANDARD"
        };
        self.of(hot).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's own example: 15 million objects, 100 TB, retrieved at once.
    #[test]
    fn retrieval_of_100_tb_costs_what_the_provider_says() {
        let glacier = PriceTable::default().of("GLACIER").unwrap();
        let free = Price::default();
        let (standard, hours) =
            glacier.thaw(Retrieval::Standard, 15_000_000, 102_400_000_000_000, 0, &free).unwrap();
        assert!((standard - (750.0 + 1024.0)).abs() < 1.0, "{standard}");
        assert!((hours - 5.0).abs() < 1e-9);
        let (expedited, _) = glacier.thaw(Retrieval::Expedited, 15_000_000, 0, 0, &free).unwrap();
        assert!((expedited - 150_000.0).abs() < 1.0);
        let small = PriceTable::default().of("STANDARD_IA").unwrap();
        assert!((small.month(1000, 1000, &free) - small.month(1000, 131_072_000, &free)).abs() < 1e-9);
    }
}
