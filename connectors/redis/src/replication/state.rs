//! What a server says of itself by `INFO`. Source: redis.io/docs, "INFO".

use crate::server::client::Client;
use crate::server::{Server, words};
use engine::Result;
use engine::source::SourceErrorKind;
use redis::RedisResult;

/// The answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct State(String);

impl State {
    pub(crate) fn of(server: &Server, client: &mut Client) -> Result<Self> {
        Ok(Self::ask(client).map_err(|why| server.error(SourceErrorKind::Unavailable, why))?)
    }

    /// The same; an error does not name the server.
    pub(super) fn ask(client: &mut Client) -> std::result::Result<Self, String> {
        let info: RedisResult<String> = redis::cmd("INFO").query(client);
        info.map(Self).map_err(|error| format!("INFO: {}", words(&error)))
    }

    fn says(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// A number of bytes or so; 0 if it does not say.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.says(name).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.says(name) == Some(value)
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.is("role", "slave")
    }

    /// Whether it writes its append-only file anew, or is about to.
    pub(super) fn is_rewriting(&self) -> bool {
        self.is("aof_rewrite_in_progress", "1") || self.is("aof_rewrite_scheduled", "1")
    }

    /// Whether it has an append-only file that it could not write anew.
    pub(super) fn failed_to_rewrite(&self) -> bool {
        self.is("aof_enabled", "1") && self.is("aof_last_bgrewrite_status", "err")
    }

    /// Whether it is a replica that takes no writes.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_replica() && self.is("slave_read_only", "1")
    }

    pub(crate) fn is_master(&self) -> bool {
        self.is("role", "master")
    }

    pub(crate) fn is_cluster_node(&self) -> bool {
        self.is("cluster_enabled", "1") || self.is("redis_mode", "cluster")
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.is("loading", "1")
    }

    /// Whether a replica has all of its master's data, and a connection to it.
    pub(crate) fn is_in_step(&self) -> bool {
        self.is("master_link_status", "up") && !self.is_loading() && !self.is("master_sync_in_progress", "1")
    }

    /// Whether a replica has a connection to its master, or receives its data.
    pub(crate) fn has_master(&self) -> bool {
        self.is("master_link_status", "up") || self.is("master_sync_in_progress", "1")
    }

    /// Where a replica looks for its master.
    pub(crate) fn master(&self) -> Option<(&str, u16)> {
        Some((self.says("master_host")?, self.says("master_port")?.parse().ok()?))
    }

    /// Whether it is a replica of what is there.
    pub(crate) fn is_replica_of(&self, master: (&str, u16)) -> bool {
        self.is_replica() && self.master() == Some(master)
    }

    /// Replicas of its own.
    pub(crate) fn replicas(&self) -> u64 {
        self.number("connected_slaves")
    }

    /// Whether it takes writes only while replicas of its own are in step (`min-replicas-to-write`).
    pub(crate) fn needs_replicas(&self) -> bool {
        self.says("min_slaves_good_slaves").is_some()
    }

    /// The first number of the version of Redis that it is like.
    pub(crate) fn major(&self) -> u32 {
        let version = self.says("redis_version").unwrap_or_default();
        version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
    }

    /// Whether it has more data than it may. Buffers for replicas and append-only files do not count.
    pub(crate) fn is_too_full(&self) -> bool {
        let most = self.number("maxmemory");
        let counted = self.number("used_memory").saturating_sub(self.number("mem_not_counted_for_evict"));
        most > 0 && counted > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says() {
        let text = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\nused_memory:20\r\nmaxmemory:10\r\n\
            # Replication\r\nrole:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:4001\r\nmaster_link_status:down\r\n\
            master_sync_in_progress:1\r\nloading:1\r\ncluster_enabled:0\r\nconnected_slaves:2\r\n";
        let state = State(text.into());
        assert!(state.is_replica() && !state.is_master() && !state.is_cluster_node());
        assert!(state.is_loading() && state.has_master() && !state.is_in_step() && state.is_too_full());
        assert_eq!((state.master(), state.major()), (Some(("10.0.0.7", 4001)), 7));
        assert!(state.is_replica_of(("10.0.0.7", 4001)) && !state.is_replica_of(("10.0.0.7", 4002)));
        assert!(state.replicas() == 2 && !state.needs_replicas());
        let writes = State(
            "min_slaves_good_slaves:1\r\nused_memory:20\r\nmem_not_counted_for_evict:11\r\nmaxmemory:10"
                .into(),
        );
        assert!(writes.needs_replicas() && !writes.is_too_full());
        let up =
            State("role:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\nloading:0\r\n".into());
        assert!(up.is_in_step() && !up.is_too_full());
    }
}
