//! What can be told beside a URL.

use engine::connector::Setting;

/// API key for URLs that have none.
pub(crate) const API_KEY: Setting = Setting::secret(
    "qdrant.api-key",
    "API key, if the URL has none",
    Some("ESKER_QDRANT_API_KEY_FILE"),
    Some("ESKER_QDRANT_API_KEY"),
);
