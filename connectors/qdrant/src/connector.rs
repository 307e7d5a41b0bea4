//! Qdrant as a connector.

use crate::contents::Collections;
use crate::dump::QdrantSource;
use crate::files::VolumeSource;
use crate::into_folder;
use crate::settings::API_KEY;
use crate::target;
use engine::connector::{Connector, Contents, Context, Scheme, Setting, Target};
use engine::entry::Time;
use engine::restore::RestoreOptions;
use engine::snapshot::Snapshot;
use engine::source::{Source, SourceError, SourceErrorKind, without_password};
use engine::{Monitor, Repository};

/// Qdrant.
pub struct Qdrant;

const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "qdrant+http",
        form: "qdrant+http[s]://host[:port][/collection]",
        about: "Qdrant, all collections or one, shard by shard",
    },
    Scheme { name: "qdrant+https", form: "", about: "" },
    Scheme {
        name: "qdrant+file",
        form: "qdrant+file:///PATH/storage",
        about: "its complete storage folder, while no server runs on it",
    },
];

impl Connector for Qdrant {
    fn name(&self) -> &'static str {
        "qdrant"
    }
    fn title(&self) -> &'static str {
        "Qdrant"
    }
    fn schemes(&self) -> &'static [Scheme] {
        SCHEMES
    }
    fn settings(&self) -> &'static [Setting] {
        &[API_KEY]
    }
    fn logins(&self) -> &'static str {
        "ESKER_QDRANT_API_KEY or ESKER_QDRANT_API_KEY_FILE"
    }
    fn target(&self) -> Option<&dyn Target> {
        Some(&target::Collections)
    }
    fn target_schemes(&self) -> &'static [&'static str] {
        &["qdrant+http", "qdrant+https"]
    }
    fn contents(&self) -> Option<&dyn Contents> {
        Some(&Collections)
    }
    fn open(&self, url: &str, time: Time, context: &Context) -> Result<Box<dyn Source>, SourceError> {
        let parsed = engine::source::parsed_url(url)
            .map_err(|error| SourceError::new(SourceErrorKind::Unavailable, without_password(url), error))?;
        Ok(match parsed.scheme() {
            "qdrant+file" => Box::new(VolumeSource::open(&parsed, context)?),
            _ => Box::new(QdrantSource::new(&parsed, time, context)?),
        })
    }
    fn check_folder(
        &self,
        repo: &Repository,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        monitor: &dyn Monitor,
    ) -> engine::Result<Vec<String>> {
        into_folder::check(repo, snapshot, options, monitor)
    }
}
