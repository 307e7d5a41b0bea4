//! Settings of connectors besides their URLs, declared as data: help, documents and the refusal of other settings
//! follow from it.

use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `system.what`, as `-o` and esker.toml take it.
    pub name: &'static str,
    /// What it takes, for help.
    pub values: &'static str,
    /// What it means, with its default.
    pub about: &'static str,
    /// A variable with the path of a file whose first line is the value.
    pub file_variable: Option<&'static str>,
    /// A variable that holds the value.
    pub variable: Option<&'static str>,
    /// Whether it is a secret: then `-o` does not take it, because command lines can be read by everybody.
    pub secret: bool,
    /// What is wrong with a value.
    pub check: fn(&str) -> Result<(), String>,
}

impl Setting {
    /// A setting that `-o` takes and no variable sets.
    #[must_use]
    pub const fn option(
        name: &'static str,
        values: &'static str,
        about: &'static str,
        check: fn(&str) -> Result<(), String>,
    ) -> Self {
        Self { name, values, about, file_variable: None, variable: None, secret: false, check }
    }

    /// A setting that variables set, and `-o` does not.
    #[must_use]
    pub const fn secret(
        name: &'static str,
        about: &'static str,
        file_variable: Option<&'static str>,
        variable: Option<&'static str>,
    ) -> Self {
        Self { name, values: "", about, file_variable, variable, secret: true, check: |_| Ok(()) }
    }
}

/// Values by name. They may be secrets: they are wiped when dropped, and not shown.
#[derive(Clone, Default)]
pub struct Settings(BTreeMap<&'static str, Zeroizing<String>>);

impl Settings {
    /// Sets one, checked.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, setting: &Setting, value: String) -> Result<(), String> {
        (setting.check)(&value)?;
        self.0.insert(setting.name, Zeroizing::new(value));
        Ok(())
    }

    /// The value, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// The value as something that can be parsed; values were checked when they were set.
    #[must_use]
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
