//! Values with a range, the same wherever they are given: on the command line, in a variable, in esker.toml.

use serde::Deserialize;
use std::path::PathBuf;
use std::str::FromStr;

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(crate) struct Within<const LEAST: u64, const MOST: u64>(u64);

/// Connections to a store at a time; sessions with a database.
pub(crate) type Connections = Within<1, 64>;
/// How often a request is tried again.
pub(crate) type Retries = Within<0, 100>;
/// Sources that are read at a time.
pub(crate) type Parallel = Within<1, 64>;
/// Days that an object is locked: up to a hundred years, which is S3's own limit.
pub(crate) type LockDays = Within<1, 36_500>;

impl<const LEAST: u64, const MOST: u64> Within<LEAST, MOST> {
    /// The number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// The number, which fits.
    pub(crate) fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const LEAST: u64, const MOST: u64> TryFrom<i64> for Within<LEAST, MOST> {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u64::try_from(number) {
            Ok(number) if (LEAST..=MOST).contains(&number) => Ok(Self(number)),
            _ => Err(format!("{number} is not from {LEAST} to {MOST}")),
        }
    }
}

impl<const LEAST: u64, const MOST: u64> FromStr for Within<LEAST, MOST> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse::<i64>();
        number.map_err(|_| format!("'{text}' is not a number from {LEAST} to {MOST}"))?.try_into()
    }
}

/// Text that says something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Filled(String);

impl Filled {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub(crate) fn get(self) -> String {
        self.0
    }
}

impl TryFrom<String> for Filled {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.is_empty() {
            true => Err("empty: leave it out, or say what is meant".into()),
            false if text.contains('\0') => {
                Err("it has a NUL in it, which no name, path, URL or command has".into())
            }
            false => Ok(Self(text)),
        }
    }
}

/// The path of a file or folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FilledPath(PathBuf);

impl FilledPath {
    /// The path.
    pub(crate) fn get(self) -> PathBuf {
        self.0
    }
}

impl TryFrom<String> for FilledPath {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Filled::try_from(text).map(|text| Self(text.0.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_same_as_text_and_as_number() {
        for (number, is_there) in
            [(0, false), (1, true), (64, true), (65, false), (-1, false), (i64::MAX, false)]
        {
            assert_eq!(Connections::try_from(number).is_ok(), is_there, "{number}");
            assert_eq!(number.to_string().parse::<Connections>().is_ok(), is_there, "{number}");
        }
        let told = "9999999999".parse::<Retries>().unwrap_err();
        assert_eq!(told, "9999999999 is not from 0 to 100");
        assert!("".parse::<Parallel>().is_err() && "1.5".parse::<Parallel>().is_err());
        assert!(Filled::try_from(String::new()).is_err() && FilledPath::try_from("a\0".to_owned()).is_err());
        assert!(Filled::try_from("a\0b".to_owned()).is_err());
    }
}
