//! What is promised of recoveries: `[[objective]]`.

use super::Reader;
use crate::durations;
use crate::file::{ObjectiveSpec, SourceSpec};
use engine::drill::Objective;
use serde::Deserialize;
use std::time::Duration;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObjective {
    source: Spanned<String>,
    rto: Option<Spanned<String>>,
    rpo: Option<Spanned<String>>,
}

impl Reader<'_> {
    /// Objectives of sources that there are, one for each.
    pub(super) fn objectives(
        &mut self,
        all: Vec<RawObjective>,
        sources: &[SourceSpec],
    ) -> Vec<ObjectiveSpec> {
        let mut found: Vec<ObjectiveSpec> = vec![];
        for raw in all {
            let source = raw.source.get_ref();
            if sources.iter().all(|spec| spec.name != *source) {
                self.lacking(&raw.source, format!("there is no source '{source}'"));
            } else if found.iter().any(|spec| spec.source == *source) {
                self.wrong(&raw.source, format!("source '{source}' has two objectives"));
            }
            if raw.rto.is_none() && raw.rpo.is_none() {
                self.lacking(&raw.source, "an objective says rto, rpo or both, such as rto = \"5m\"");
            }
            let objective =
                Objective { rto: self.objective(raw.rto.as_ref()), rpo: self.objective(raw.rpo.as_ref()) };
            found.push(ObjectiveSpec { source: raw.source.into_inner(), objective });
        }
        found
    }

    fn objective(&mut self, value: Option<&Spanned<String>>) -> Option<Duration> {
        let value = value?;
        let parsed = self.parsed(value, durations::parse(value.get_ref()))?;
        if parsed.is_zero() {
            self.wrong(value, "nothing is recovered in no time");
        }
        Some(parsed)
    }
}
