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
