//! What belongs to a server rather than to one of its databases.

use super::{DUMP, MysqlSource, accounts};
use connector_kit::command::CommandContent;
use engine::source::at_hand::AtHand;
use engine::source::{Content, Item, Opener, SourceError, SourceErrorKind};
use std::collections::VecDeque;
use std::process::Command;

/// What the definitions of other servers may take in bytes.
const MAX_SERVERS: u64 = 64 << 20;

impl MysqlSource {
    /// Accounts, their rights, and other servers that the server knows; and what it has loaded of libraries.
    pub(super) fn globals(&self) -> Result<VecDeque<Item>, SourceError> {
        let version = self.details.get("server").map_or("", String::as_str);
        if !version.contains("MariaDB") || self.server.database.is_some() {
            return Ok(VecDeque::new());
        }
        if self.server.query("SELECT 1 FROM mysql.global_priv LIMIT 1").is_err() {
            return Ok(VecDeque::new());
        }
        let dump = |what: &str| -> Result<Command, SourceError> {
            let mut command = self.server.command(DUMP)?;
            command.args([&format!("--system={what}"), "--insert-ignore", "--skip-dump-date"]);
            Ok(command)
        };
        let path = |file: &str| format!("{}/{file}", self.server.folder());
        let mut bytes = accounts::read(&self.server)?.into_bytes();
        let failed = |why: &dyn std::fmt::Display| {
            self.server.error(SourceErrorKind::Command, format!("mariadb-dump (servers): {why}"))
        };
        let servers = self.server.watch.output(dump("servers")?, MAX_SERVERS);
        let (status, servers, why) = servers.map_err(|error| failed(&error))?;
        if !status.success() {
            return Err(failed(&why.trim()));
        }
        bytes.extend_from_slice(&servers);
        let mut items = VecDeque::from([AtHand::item(&path("globals.sql"), self.time, bytes)]);
        let libraries = "SELECT 1 FROM mysql.func UNION ALL SELECT 1 FROM mysql.plugin LIMIT 1";
        if !self.server.query(libraries)?.is_empty() {
            let (command, name) = (dump("plugins,udfs")?, format!("{} (plugins,udfs)", self.server.shown));
            let open: Opener = Box::new(move || {
                let mark = (crate::formats::SQL.end_mark)(true);
                Ok(Box::new(CommandContent::start(command, name, mark, false)?) as Box<dyn Content>)
            });
            items.push_back(Item::stream(path("libraries.sql"), self.time, open));
        }
        Ok(items)
    }
}
