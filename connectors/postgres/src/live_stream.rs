//! `esker stream postgres://…`: the write-ahead log of a server, by a replication slot.

use crate::Server;
use crate::stream::{drop_slot, follow};
use engine::connector::{Choice, Chosen, Context, Following, LiveStream};
use engine::growing::{FollowOptions, Report};
use engine::{Error, Monitor, Repository, Result};

/// The changes of a server.
pub(crate) struct Changes;

/// The slot.
const SLOT: Choice = Choice::one(
    "slot",
    "NAME",
    "Of PostgreSQL: the replication slot, which esker creates if it does not exist [default: one for this \
        host and repository]",
)
.text()
.checked(|value| {
    // "Querying and Manipulating Replication Slots" in PostgreSQL's documentation.
    let bytes = value.as_encoded_bytes();
    let is_name = (1..64).contains(&bytes.len())
        && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    is_name.then_some(()).ok_or_else(|| "a slot's name has 1 to 63 of a to z, 0 to 9 and _".into())
});
/// The end of a slot.
const DROP_SLOT: Choice = Choice::switch(
    "drop-slot",
    "Of PostgreSQL: drop the slot of a stream that will not continue, so that the server keeps no WAL for it",
);

impl LiveStream for Changes {
    fn schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql", "postgres+physical"]
    }
    fn choices(&self) -> &'static [&'static Choice] {
        &[&SLOT, &DROP_SLOT]
    }
    fn open(&self, url: &str, label: &str, chosen: &Chosen, context: &Context) -> Result<Box<dyn Following>> {
        let server = Server::parse(url, context)?;
        if server.database.is_some() {
            let why = "the WAL is that of all databases of the server; name none in the URL";
            return Err(Error::Invalid(why.into()));
        }
        let slot = chosen.text(&SLOT)?.unwrap_or_else(|| label.to_owned());
        Ok(Box::new(Followed { server, slot, drops: chosen.has(&DROP_SLOT) }))
    }
}

struct Followed {
    server: Server,
    slot: String,
    drops: bool,
}

impl Following for Followed {
    fn place(&self) -> String {
        self.server.place()
    }
    fn let_go(&mut self) -> Result<Option<String>> {
        if !self.drops {
            return Ok(None);
        }
        drop_slot(&self.server, &self.slot)?;
        Ok(Some(self.slot.clone()))
    }
    fn follow(
        &mut self,
        repo: &Repository,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut Report<'_>,
    ) -> Result<()> {
        follow(repo, &self.server, &self.slot, options, monitor, report)
    }
}
