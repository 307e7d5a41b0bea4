//! What a gigabyte costs a month, by class of storage.

use crate::exit::Failure;
use engine::price::PriceTable;
use serde::Serialize;

/// A place that the repository may lie in.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tier {
    pub(crate) name: String,
    /// US dollars for a GB (10⁹ bytes) and month.
    pub(crate) gb_month: f64,
    /// US dollars for a thousand objects written.
    pub(crate) put_1000: f64,
}

/// Names for people, and the classes that they mean; prices are those of [`PriceTable`]. `NAME=PRICE` overrides them.
const KNOWN: &[(&str, &str)] = &[
    ("local", "LOCAL"),
    ("s3-standard", "STANDARD"),
    ("s3-standard-ia", "STANDARD_IA"),
    ("s3-glacier-ir", "GLACIER_IR"),
    ("s3-glacier", "GLACIER"),
    ("s3-deep-archive", "DEEP_ARCHIVE"),
];

/// Reads `NAME` or `NAME=PRICE`, the price in dollars for a GB and month.
pub(crate) fn parse_tier(text: &str) -> Result<Tier, String> {
    let (name, price) = match text.split_once('=') {
        Some((name, price)) => {
            let price: f64 = price.parse().map_err(|_| "expected NAME=DOLLARS, for a GB and month")?;
            (name, Some(price).filter(|price| *price >= 0.0 && price.is_finite()))
        }
        None => (text, None),
    };
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    let known = known.and_then(|(_, class)| PriceTable::default().of(class).ok());
    match (known, price) {
        (Some(known), price) => {
            let gb_month = price.unwrap_or(known.gb_month);
            Ok(Tier { name: name.into(), gb_month, put_1000: known.put_1000 })
        }
        (None, Some(gb_month)) => Ok(Tier { name: name.into(), gb_month, put_1000: 0.0 }),
        (None, None) => {
            let names: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
            Err(format!("no price for it: give NAME=DOLLARS, or one of {}", names.join(", ")))
        }
    }
}

/// The tiers to price: those asked for, or all that are known.
pub(crate) fn tiers(asked: &[Tier]) -> Result<Vec<Tier>, Failure> {
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    KNOWN.iter().map(|(name, _)| parse_tier(name).map_err(Failure::new)).collect()
}
