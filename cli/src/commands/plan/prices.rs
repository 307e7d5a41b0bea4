//! What a gigabyte costs a month, by class of storage.

use crate::exit::Failure;
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

/// List prices of AWS S3 in us-east-1, as published in 2025; `NAME=PRICE` overrides them.
const KNOWN: &[(&str, f64, f64)] = &[
    ("local", 0.0, 0.0),
    ("s3-standard", 0.023, 0.005),
    ("s3-standard-ia", 0.0125, 0.01),
    ("s3-glacier-ir", 0.004, 0.02),
    ("s3-glacier", 0.0036, 0.03),
    ("s3-deep-archive", 0.00099, 0.05),
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
    let known = KNOWN.iter().find(|(known, _, _)| *known == name);
    match (known, price) {
        (Some((_, gb_month, put_1000)), price) => {
            Ok(Tier { name: name.into(), gb_month: price.unwrap_or(*gb_month), put_1000: *put_1000 })
        }
        (None, Some(gb_month)) => Ok(Tier { name: name.into(), gb_month, put_1000: 0.0 }),
        (None, None) => {
            let names: Vec<_> = KNOWN.iter().map(|(name, _, _)| *name).collect();
            Err(format!("no price for it: give NAME=DOLLARS, or one of {}", names.join(", ")))
        }
    }
}

/// The tiers to price: those asked for, or all that are known.
pub(crate) fn tiers(asked: &[Tier]) -> Result<Vec<Tier>, Failure> {
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    KNOWN.iter().map(|(name, _, _)| parse_tier(name).map_err(Failure::new)).collect()
}
