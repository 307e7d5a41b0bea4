//! What can be told beside a URL.

use engine::connector::Setting;

/// In what order dumps are laid down.
pub(crate) const ORDER: Setting = Setting::option(
    "redis.order",
    "canonical|raw",
    "the order of keys in a dump: one that is the same every night, or the server's own",
    |value| match value {
        "canonical" | "raw" => Ok(()),
        _ => Err("it is canonical or raw".into()),
    },
);
/// Where a server finds us that loads a whole dump by replication.
pub(crate) const REPLICATE_FROM: Setting = Setting::option(
    "redis.replicate-from",
    "never|HOST:PORT",
    "for --whole: the address at which the server reaches this machine, if that is another than its connections come \
        from; esker listens on PORT; never: RESTORE instead of replication",
    |value| match value {
        "never" => Ok(()),
        _ => host_and_port(value).map(drop).ok_or_else(|| "it is HOST:PORT or never".into()),
    },
);
/// User for URLs that have none.
pub(crate) const USER: Setting =
    Setting::secret("redis.user", "user, if the URL names none", None, Some("ESKER_REDIS_USER"));
/// Password for URLs that have none; redis-cli takes the same variable.
pub(crate) const PASSWORD: Setting = Setting::secret(
    "redis.password",
    "password, if the URL has none",
    Some("ESKER_REDIS_PASSWORD_FILE"),
    Some("REDISCLI_AUTH"),
);

/// The two parts of `HOST:PORT`; an IPv6 address has brackets.
pub(crate) fn host_and_port(value: &str) -> Option<(&str, u16)> {
    let (host, port) = value.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let is_name = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control());
    is_name.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_replicate_from() {
        assert_eq!(host_and_port("backup.lan:7000"), Some(("backup.lan", 7000)));
        assert_eq!(host_and_port("[2001:db8::1]:7000"), Some(("2001:db8::1", 7000)));
        for bad in ["", "host", ":1", "host:0", "host:65536", "::1:7", "[::1:7", "a b:7"] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
        assert!((REPLICATE_FROM.check)("never").is_ok());
        assert!((REPLICATE_FROM.check)("always").is_err());
    }
}
