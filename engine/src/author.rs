//! Who made a snapshot, as far as signatures of write-only hosts say.

use crate::snapshot::{Signed, Snapshot};
use chunkstore::head::Host;
use chunkstore::id::{from_hex, to_hex};
use chunkstore::inbox::PublicKey;
use chunkstore::inbox::signature::{Signed as What, Statement};
use chunkstore::{ObjectId, RepositoryId};

/// What is known of who made a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// A full client: there is no signature.
    Client,
    /// A write-only host, whose signature fits.
    Host(Host),
    /// The same, and the host was revoked since.
    Revoked(Host),
    /// The signature does not fit, or is of a host that the repository does not know.
    Doubtful(String),
}

/// What a signature of a snapshot says.
pub(crate) fn statement<'a>(
    snapshot: &'a Snapshot,
    repository: &RepositoryId,
    host: ObjectId,
    run: u64,
    time: jiff::Timestamp,
) -> Statement<'a> {
    Statement {
        repository: *repository,
        host,
        run,
        time_ns: time.as_nanosecond(),
        hostname: &snapshot.hostname,
        paths: &snapshot.paths,
        level: snapshot.manifest.level,
        chunks: &snapshot.manifest.chunks,
    }
}

impl Signed {
    /// Whether the host of this public key signed the snapshot.
    #[must_use]
    pub fn fits(&self, snapshot: &Snapshot, repository: &RepositoryId, public: &PublicKey) -> bool {
        let signature = from_hex(&self.signature).and_then(|bytes| bytes.try_into().ok());
        let statement = statement(snapshot, repository, self.host, self.run, self.time);
        signature.is_some_and(|signature| public.verifies(What::Snapshot, &statement.bytes(), &signature))
    }
}

/// Who made a snapshot, as far as signatures say.
#[must_use]
pub fn author(snapshot: &Snapshot, repository: &RepositoryId, hosts: &[Host]) -> Author {
    let Some(signed) = &snapshot.signed else { return Author::Client };
    let Some(host) = hosts.iter().find(|host| host.id == signed.host) else {
        return Author::Doubtful(format!("host {} is not known here", signed.host.short()));
    };
    if !signed.fits(snapshot, repository, &PublicKey(host.public)) {
        return Author::Doubtful(format!("it is not what host '{}' signed", host.name));
    }
    match host.revoked_ms {
        None => Author::Host(host.clone()),
        Some(_) => Author::Revoked(host.clone()),
    }
}

/// The signature as records have it.
#[must_use]
pub(crate) fn signed(host: ObjectId, run: u64, time: jiff::Timestamp, signature: &[u8]) -> Signed {
    Signed { host, run, time, signature: to_hex(signature) }
}
