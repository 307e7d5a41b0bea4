//! Reports as evidence: signed by whoever drilled, kept in the repository as objects of their own, and checked there or
//! outside of it. A signature tells that nobody changed a report since; not that the drill took place.

use super::Report;
use crate::{Error, ItemError, Monitor, Repository, Result};
use chunkstore::head::Root;
use chunkstore::id::{from_hex, to_hex};
use chunkstore::inbox::signature::Signed;
use chunkstore::inbox::{PublicKey, SigningKey};
use chunkstore::{ObjectId, RepositoryId, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What the JSON of a document begins with: the version of its schema (docs/format.md, 5.7).
pub const DOCUMENT: &str = "esker-signed-report-1";

/// A report that somebody signed, as it is stored and exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`DOCUMENT`].
    pub schema: String,
    /// The repository that was drilled.
    pub repository: RepositoryId,
    /// The public key of whoever signed.
    pub signer: ObjectId,
    /// Ed25519 signature over the repository and the report, in hex.
    pub signature: String,
    /// The text of the report, to the byte as it was signed.
    pub report: String,
}

impl Document {
    /// Signs a report.
    ///
    /// # Errors
    ///
    /// The report has no form in JSON.
    pub fn sign(report: &Report, repository: RepositoryId, key: &SigningKey) -> Result<Self> {
        let report = serde_json::to_string(report).map_err(|error| Error::Invalid(error.to_string()))?;
        let signature = to_hex(&key.sign(Signed::Report, &message(&repository, &report)));
        Ok(Self { schema: DOCUMENT.into(), repository, signer: key.public().0, signature, report })
    }

    /// Its one text: of the same content, no other passes.
    ///
    /// # Errors
    ///
    /// It has no form in JSON.
    pub fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))
    }

    /// Reads one, whoever signed it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let found: Self =
            serde_json::from_slice(text).map_err(|error| format!("no signed report: {error}"))?;
        if found.schema != DOCUMENT {
            return Err(format!("its schema is not {DOCUMENT}: it is of another version, or damaged"));
        }
        if found.text().map_err(|error| error.to_string())? != text {
            return Err("somebody wrote it again: it is not the text that was stored".into());
        }
        Ok(found)
    }

    /// The report, as it is; see [`Document::verify`].
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn report(&self) -> std::result::Result<Report, String> {
        serde_json::from_str(&self.report).map_err(|error| format!("no report of a drill: {error}"))
    }

    /// Whether its signer signed it for a repository: `repository` if that is known, otherwise the one that it names.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn verify(&self, repository: Option<&RepositoryId>) -> std::result::Result<(), String> {
        if repository.is_some_and(|meant| *meant != self.repository) {
            return Err(format!("it is of another repository, {}", self.repository));
        }
        let signature = from_hex(&self.signature).and_then(|bytes| bytes.try_into().ok());
        let signature = signature.ok_or("its signature is none of Ed25519")?;
        let message = message(&self.repository, &self.report);
        match PublicKey(self.signer).verifies(Signed::Report, &message, &signature) {
            true => Ok(()),
            false => Err("its signature does not fit: it was changed after it was signed".into()),
        }
    }
}

/// What is signed: so a report of one repository passes for none of another.
fn message(repository: &RepositoryId, report: &str) -> Vec<u8> {
    [repository.as_bytes(), report.as_bytes()].concat()
}

/// A report in a repository.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its id.
    pub id: ObjectId,
    /// As it is stored.
    pub document: Document,
    /// What it says.
    pub report: Report,
    /// What is wrong with its signature, if something is.
    pub doubt: Option<String>,
}

impl Stored {
    fn read(id: ObjectId, text: &[u8], repository: &RepositoryId) -> std::result::Result<Self, String> {
        let document = Document::parse(text)?;
        let report = document.report()?;
        let doubt = document.verify(Some(repository)).err();
        Ok(Self { id, document, report, doubt })
    }
}

impl Repository {
    /// Signs reports and stores them, all or none. Returns their ids.
    ///
    /// # Errors
    ///
    /// The store fails or refuses; this is a tier.
    pub fn store_reports(&self, reports: &[Report], key: &SigningKey) -> Result<Vec<ObjectId>> {
        let repository = *self.store().keys().repository();
        let sign = |report| Document::sign(report, repository, key)?.text();
        let texts = reports.iter().map(sign).collect::<Result<Vec<_>>>()?;
        // It covers the time between the objects and HEAD: a prune takes them for nobody's otherwise.
        let session = self.store().open_session("drill")?;
        let stored = self.commit_reports(&session, &texts);
        if stored.is_err() {
            // What failed matters, not this; a prune removes what is left.
            let _ = self.store().close_session(&session, &[]);
        }
        stored
    }

    fn commit_reports(&self, session: &SessionId, texts: &[Vec<u8>]) -> Result<Vec<ObjectId>> {
        let store = self.store();
        let roots =
            texts.iter().map(|text| store.write_report(text)).collect::<chunkstore::Result<Vec<_>>>()?;
        store.commit(session, &[], &roots, &HashSet::new())?;
        Ok(roots.iter().map(|root| root.id).collect())
    }

    /// All reports, oldest first. One that cannot be read is reported and left out; one whose signature is wrong is not.
    ///
    /// # Errors
    ///
    /// HEAD's list of them cannot be read; the store fails.
    pub fn reports(&self, monitor: &dyn Monitor) -> Result<Vec<Stored>> {
        let (store, mut all) = (self.store(), vec![]);
        let repository = store.keys().repository();
        let head = store.head();
        for root in head.roots.iter()?.filter(|root| root.is_report()) {
            let read = match store.report(root) {
                Ok(text) => Stored::read(root.id, &text, repository),
                Err(error) if error.is_damage() => Err(chunkstore::store::describe(&error)),
                Err(error) => return Err(error.into()),
            };
            match read {
                Ok(stored) => all.push(stored),
                Err(message) => monitor.error(ItemError { during: "reports", item: root.object(), message }),
            }
        }
        all.sort_by_key(|stored| (stored.report.time, stored.id));
        Ok(all)
    }

    /// What is wrong with the object of a report, for whoever answers for the objects.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(crate) fn doubt_report(&self, root: &Root) -> chunkstore::Result<Option<String>> {
        let text = self.store().read_report(root)?;
        if root.record.read().ok().flatten().is_some_and(|record| record[..] != text[..]) {
            return Ok(Some("HEAD's copy of the report is another one".into()));
        }
        let read = Stored::read(root.id, &text, self.store().keys().repository());
        Ok(read.map_or_else(Some, |stored| stored.doubt))
    }
}

/// The report that is meant by an id, its beginning, or `latest`.
///
/// # Errors
///
/// None is, or several are.
pub fn find<'a>(reports: &'a [Stored], wanted: &str) -> Result<&'a Stored> {
    if wanted == "latest" {
        return reports
            .last()
            .ok_or_else(|| Error::Invalid("the repository has no report of a drill".into()));
    }
    let begins = |stored: &&Stored| !wanted.is_empty() && stored.id.to_string().starts_with(wanted);
    let mut fitting = reports.iter().filter(begins);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(Error::Invalid(format!("there is no report '{wanted}'; 'esker drill list' names them")))
        }
        (Some(_), Some(_)) => Err(Error::Invalid(format!("several reports begin with '{wanted}'"))),
    }
}

/// How the drills of one system of a source went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trend {
    /// The source.
    pub source: String,
    /// The system.
    pub system: String,
    /// How many drills there were.
    pub drills: usize,
    /// How many of them passed.
    pub passed: usize,
    /// The recovery time of the last one that measured it, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    /// The median of those before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_median_before: Option<f64>,
}

impl Trend {
    /// Those of each source and system, by name. `reports` are the oldest first.
    #[must_use]
    pub fn of(reports: &[&Report]) -> Vec<Self> {
        let mut names: Vec<(&str, &str)> =
            reports.iter().map(|report| (&*report.source, &*report.system)).collect();
        names.sort_unstable();
        names.dedup();
        let one = |(source, system): (&str, &str)| {
            let own = reports.iter().filter(|report| (&*report.source, &*report.system) == (source, system));
            let own: Vec<&&Report> = own.collect();
            let mut times: Vec<f64> =
                own.iter().filter_map(|report| report.measured("rto")).map(|one| one.seconds).collect();
            let rto_seconds = times.pop();
            times.sort_by(f64::total_cmp);
            Self {
                source: source.to_owned(),
                system: system.to_owned(),
                drills: own.len(),
                passed: own.iter().filter(|report| report.passed()).count(),
                rto_seconds,
                rto_median_before: times.get(times.len() / 2).copied(),
            }
        };
        names.into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::Measured;
    use crate::drill::tests::report;
    use crate::monitor::Tally;
    use crate::prune::{PruneOptions, prune};
    use crate::repository::in_memory;
    use chunkstore::env::SeededEnv;

    fn key(seed: u64) -> SigningKey {
        SigningKey::generate(&SeededEnv::new(seed)).unwrap()
    }

    /// The document of docs/format.md, section 5.7: of the same text, the same signature.
    #[test]
    fn a_changed_byte_another_repository_and_another_key_are_noticed() {
        let repository = RepositoryId([3; 16]);
        let document =
            Document::sign(&report(vec![]), repository, &SigningKey::from_bytes(&[4; 32])).unwrap();
        let text = document.text().unwrap();
        let checked = |text: &[u8]| {
            let document = Document::parse(text)?;
            document.verify(Some(&repository))?;
            document.report()
        };
        assert_eq!(checked(&text).unwrap(), report(vec![]));
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(checked(&changed).is_err(), "{}", String::from_utf8_lossy(&changed));
        }
        assert!(checked(&[&text[..], b"\n"].concat()).is_err());
        assert!(document.verify(Some(&RepositoryId([4; 16]))).unwrap_err().contains("another repository"));
        let moved = Document { repository: RepositoryId([4; 16]), ..document.clone() };
        assert!(moved.verify(None).is_err());
        let other = Document { signer: key(1).public().0, ..document };
        assert!(other.verify(None).unwrap_err().contains("does not fit"));
    }

    #[test]
    fn reports_are_kept_by_prune_and_found_by_their_ids() {
        let repo = in_memory();
        let long = || {
            let mut long = report(vec![]);
            long.failures = vec!["x".repeat(100_000)];
            long
        };
        let ids = repo.store_reports(&[report(vec![]), long()], &key(1)).unwrap();
        let monitor = Tally::default();
        prune(&repo, &PruneOptions::default(), &monitor).unwrap();
        let found = repo.reports(&monitor).unwrap();
        let mut known: Vec<ObjectId> = found.iter().map(|stored| stored.id).collect();
        known.sort_unstable();
        let mut written = ids.clone();
        written.sort_unstable();
        assert_eq!(known, written);
        assert!(found.iter().all(|stored| stored.doubt.is_none()) && monitor.errors().is_empty());
        assert_eq!(find(&found, &ids[1].to_string()[..10]).unwrap().report, long());
        assert!(find(&found, "").is_err() && find(&found, "latest").is_ok() && find(&[], "latest").is_err());
        // Nobody at work, nobody's object.
        let lost = repo.store().write_report(b"{}").unwrap();
        prune(&repo, &PruneOptions::default(), &monitor).unwrap();
        assert!(repo.store().read_report(&lost).is_err());
        assert_eq!(repo.reports(&monitor).unwrap().len(), 2);
    }

    #[test]
    fn a_report_with_a_wrong_signature_is_listed_and_doubted() {
        let repo = in_memory();
        let own = *repo.store().keys().repository();
        let mut forged = Document::sign(&report(vec![]), own, &key(1)).unwrap();
        forged.signer = key(2).public().0;
        let session = repo.store().open_session("drill").unwrap();
        repo.commit_reports(&session, &[forged.text().unwrap(), b"no report".to_vec()]).unwrap();
        let monitor = Tally::default();
        let found = repo.reports(&monitor).unwrap();
        assert_eq!((found.len(), monitor.errors().len()), (1, 1));
        assert!(found[0].doubt.is_some());
        let roots: Vec<Root> = repo.store().head().roots.iter().unwrap().cloned().collect();
        assert!(roots.iter().all(|root| repo.doubt_report(root).unwrap().is_some()));
    }

    #[test]
    fn a_trend_compares_the_last_with_the_median_before() {
        let of = |seconds: f64, met| {
            let mut report = report(vec![]);
            report.objectives = vec![Measured { name: "rto".into(), objective_seconds: None, seconds, met }];
            report.failures = if met { vec![] } else { vec!["late".into()] };
            report
        };
        let all = [of(1.0, true), of(9.0, false), of(3.0, true), of(4.0, true)];
        let trend = Trend::of(&all.iter().collect::<Vec<_>>());
        assert_eq!(trend.len(), 1);
        assert_eq!((trend[0].drills, trend[0].passed), (4, 3));
        assert_eq!((trend[0].rto_seconds, trend[0].rto_median_before), (Some(4.0), Some(3.0)));
    }
}
