//! The XML that S3 answers with.

use serde::Deserialize;

/// Reads an answer.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    quick_xml::de::from_str(text).map_err(|error| format!("the store's answer: {error}"))
}

/// GetBucketVersioning.
#[derive(Deserialize)]
pub(super) struct Versioning {
    /// `Enabled`, `Suspended`, or nothing if it never was.
    #[serde(rename = "Status", default)]
    pub(super) status: String,
}

/// ListObjectVersions.
#[derive(Deserialize)]
pub(super) struct Versions {
    #[serde(rename = "Version", default)]
    pub(super) versions: Vec<Found>,
    #[serde(rename = "DeleteMarker", default)]
    pub(super) marks: Vec<Found>,
    #[serde(rename = "IsTruncated", default)]
    pub(super) truncated: bool,
    #[serde(rename = "NextKeyMarker", default)]
    pub(super) next_key: String,
    #[serde(rename = "NextVersionIdMarker", default)]
    pub(super) next_id: String,
}

/// One object or version.
#[derive(Deserialize)]
pub(super) struct Found {
    #[serde(rename = "Key")]
    pub(super) key: String,
    #[serde(rename = "VersionId", default)]
    pub(super) id: String,
    #[serde(rename = "IsLatest", default)]
    pub(super) latest: bool,
    #[serde(rename = "LastModified", default)]
    pub(super) modified: Option<String>,
    #[serde(rename = "Size", default)]
    pub(super) size: Option<u64>,
}

/// ListObjectsV2.
#[derive(Deserialize)]
pub(super) struct Objects {
    #[serde(rename = "Contents", default)]
    pub(super) objects: Vec<Found>,
    #[serde(rename = "EncodingType", default)]
    pub(super) encoding: Option<String>,
    #[serde(rename = "IsTruncated", default)]
    pub(super) truncated: bool,
    #[serde(rename = "NextContinuationToken", default)]
    pub(super) next: Option<String>,
}

/// GetBucketLifecycleConfiguration.
#[derive(Deserialize)]
pub(super) struct Lifecycle {
    #[serde(rename = "Rule", default)]
    pub(super) rules: Vec<Rule>,
}

/// One rule; of what it does, only whether it does it matters.
#[derive(Deserialize)]
pub(super) struct Rule {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Status", default)]
    status: String,
    #[serde(rename = "Prefix", default)]
    prefix: String,
    #[serde(rename = "Filter", default)]
    filter: Filter,
    #[serde(rename = "Expiration", default)]
    expiration: Option<Expiration>,
    #[serde(rename = "Transition", default)]
    transitions: Vec<Transition>,
}

#[derive(Deserialize, Default)]
struct Filter {
    #[serde(rename = "Prefix", default)]
    prefix: String,
    #[serde(rename = "And", default)]
    and: And,
}

/// No filter again: answers are not nested as deep as a store likes.
#[derive(Deserialize, Default)]
struct And {
    #[serde(rename = "Prefix", default)]
    prefix: String,
}

#[derive(Deserialize)]
struct Expiration {
    #[serde(rename = "Days", default)]
    days: Option<u64>,
    #[serde(rename = "Date", default)]
    date: Option<String>,
}

#[derive(Deserialize)]
struct Transition {
    #[serde(rename = "StorageClass", default)]
    class: String,
}

impl Rule {
    /// What the rule would do to objects beneath `folder`, if anything. Marks of deletion, old versions and
    /// broken uploads may well be tidied by rules.
    pub(super) fn hazard(&self, folder: &str) -> Option<String> {
        if self.status != "Enabled" {
            return None;
        }
        let all = [&self.prefix, &self.filter.prefix, &self.filter.and.prefix];
        let prefix = all.into_iter().find(|prefix| !prefix.is_empty()).map_or("", String::as_str);
        if !folder.starts_with(prefix) && !prefix.starts_with(folder) {
            return None;
        }
        let expires = self.expiration.as_ref().is_some_and(|rule| rule.days.is_some() || rule.date.is_some());
        let what = match (expires, self.transitions.first()) {
            (true, _) => "removes objects".to_owned(),
            (false, Some(to)) => format!("moves objects to {}", to.class),
            (false, None) => return None,
        };
        Some(format!("rule '{}' {what} beneath '{prefix}'", self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_touch_a_repository_are_named_and_others_are_not() {
        let rule = |inside: &str| {
            let text = format!(
                "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status>{inside}</Rule></LifecycleConfiguration>"
            );
            let rules: Lifecycle = parse(&text).unwrap();
            rules.rules[0].hazard("backup/")
        };
        let expire = "<Expiration><Days>30</Days></Expiration>";
        assert!(rule(&format!("<Filter><Prefix></Prefix></Filter>{expire}")).unwrap().contains("removes"));
        assert!(rule(&format!("<Prefix>backup/packs</Prefix>{expire}")).is_some());
        assert!(rule(&format!("<Prefix>logs/</Prefix>{expire}")).is_none());
        let and = "<Filter><And><Prefix>back</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter>";
        let to = "<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>";
        assert!(rule(&format!("{and}{to}")).unwrap().contains("GLACIER"));
        assert!(
            rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>")
                .is_none()
        );
        let old =
            "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>";
        assert!(rule(old).is_none());
    }
}
