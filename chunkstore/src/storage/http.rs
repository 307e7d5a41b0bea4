//! What all stores behind HTTP share.

/// How to reach a store over HTTP.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Transfers at the same time.
    pub connections: usize,
    /// Attempts after the first that failed with 5xx, a timeout or a broken connection.
    pub retries: usize,
    /// Longest time without an answer, in seconds.
    pub timeout_s: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        // Five connections, as restic: enough to hide latency, few enough to bound memory.
        Self { connections: 5, retries: 8, timeout_s: 120 }
    }
}
