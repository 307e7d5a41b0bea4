//! By whom snapshots were made, as `esker snapshots` reports it.

use crate::output;
use chunkstore::RepositoryId;
use chunkstore::head::Host;
use engine::author::{Author, author};
use engine::snapshot::{Listed, Snapshot};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What tells by whom snapshots of write-only hosts were made.
pub(super) struct Authors {
    pub(super) repository: RepositoryId,
    pub(super) hosts: Vec<Host>,
}

/// What is said for people of a snapshot that a write-only host signed.
pub(super) enum Said {
    /// The host, whose signatures are counted.
    Signed(String),
    /// That it does not count, and why.
    Doubtful(String),
}

impl Authors {
    pub(super) fn json(&self, snapshot: &Snapshot) -> Option<Value> {
        let signed = snapshot.signed.as_ref()?;
        let (name, signature) = match author(snapshot, &self.repository, &self.hosts) {
            Author::Client => return None,
            Author::Host(host) => (Some(host.name), "valid"),
            Author::Revoked(host) => (Some(host.name), "revoked"),
            Author::Doubtful(_) => (None, "invalid"),
        };
        Some(json!({"host": name, "host_id": signed.host, "run": signed.run, "signature": signature}))
    }

    /// `None` of what no host signed.
    pub(super) fn said(&self, listed: &Listed) -> Option<Said> {
        Some(match author(&listed.snapshot, &self.repository, &self.hosts) {
            Author::Client => return None,
            Author::Host(host) => Said::Signed(host.name),
            Author::Revoked(host) => Said::Signed(format!("{}, which was revoked since", host.name)),
            Author::Doubtful(why) => {
                Said::Doubtful(format!("{}: its signature does not count: {why}", listed.id.short()))
            }
        })
    }
}

/// What was said of all snapshots.
#[derive(Default)]
pub(super) struct Signatures {
    signed: BTreeMap<String, u64>,
    doubtful: Vec<String>,
}

impl Signatures {
    pub(super) fn add(&mut self, said: Said) {
        match said {
            Said::Signed(host) => *self.signed.entry(host).or_default() += 1,
            Said::Doubtful(why) => self.doubtful.push(why),
        }
    }

    /// Says of each host how many of these it signed, and of which that is in doubt.
    pub(super) fn print(&self) {
        self.doubtful.iter().for_each(output::line);
        for (host, count) in &self.signed {
            output::line(format!("{count} signed by host {host}"));
        }
    }
}
