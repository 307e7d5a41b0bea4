//! All keys and functions of a dump in a server: by replication, and where that is not possible one by one.

use super::Whole;
use crate::keys::functions::{dump_functions, load_functions, restore_functions};
use crate::keys::keyspace::{count_keys, flush_all};
use crate::keys::load::{LoadOptions, LoadReport};
use crate::keys::rewritten::twice;
use crate::keys::side_by_side::load_side_by_side;
use crate::loaded::now_ms;
use crate::replication::{Offer, Outcome};
use engine::{Monitor, Result};

/// The keys and functions that the server has now.
pub(super) struct Held {
    pub(super) report: LoadReport,
    pub(super) functions: u64,
    /// Why they did not come by replication, if they did not.
    pub(super) one_by_one: Option<String>,
}

impl Held {
    /// Loads them into a server without keys.
    ///
    /// # Errors
    /// What cannot be read, and what the server does not take.
    pub(super) fn load(whole: &Whole<'_>, monitor: &dyn Monitor) -> Result<Self> {
        let (repo, server, dump) = (whole.from.repo, &whole.server, &whole.dump);
        let now_ms = now_ms(&whole.context);
        let why = match &whole.offer {
            _ if dump.is_empty() => None,
            Err(why) => Some(why.clone()),
            Ok(offer) => {
                monitor.phase("load by replication");
                // A dump without functions leaves those of the server; a replica has those of its master.
                let keeps = whole.there.functions > 0 && dump.commands.is_empty();
                let own = if keeps { dump_functions(server)? } else { vec![] };
                match by_replication(whole, offer, &own, monitor)? {
                    Outcome::Loaded(written) => {
                        let report = LoadReport {
                            restored: written.keys,
                            expired: written.expired,
                            empty: written.empty,
                            bytes: written.bytes,
                            ..LoadReport::default()
                        };
                        return Ok(Self { report, functions: written.functions, one_by_one: None });
                    }
                    Outcome::Refused(why) => {
                        monitor.note(&format!("not loaded by replication: {why}"));
                        // Others may have written meanwhile, as they may at any time before it is restored.
                        if !count_keys(server)?.is_empty() {
                            flush_all(server)?;
                        }
                        if !own.is_empty() {
                            restore_functions(server, own)?;
                        }
                        Some(why)
                    }
                }
            }
        };
        monitor.phase("restore keys");
        let options = LoadOptions { now_ms, ..LoadOptions::default() };
        let report = load_side_by_side(repo, dump, server, &options, monitor)?;
        let functions = load_functions(repo, dump, server)?;
        Ok(Self { report, functions, one_by_one: why })
    }
}

fn by_replication(whole: &Whole<'_>, offer: &Offer, own: &[u8], monitor: &dyn Monitor) -> Result<Outcome> {
    let (repo, server, dump) = (whole.from.repo, &whole.server, &whole.dump);
    // One that does not compile there ends the load of an RDB, and a server that loads it from a file with it.
    if let Err(why) = load_functions(repo, dump, server) {
        return Ok(Outcome::Refused(why.in_one_line().to_string()));
    }
    if let Some(why) = twice(repo, dump, monitor)? {
        return Ok(Outcome::Refused(why));
    }
    offer.load(server, repo, dump, own, now_ms(&whole.context), monitor)
}
