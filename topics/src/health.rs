//! Whether a broker can be relied on.

use serde::{Deserialize, Serialize};

/// What a broker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether it takes writes. Once false after a failed write or sync, it stays false until a restart.
    pub ready: bool,
    /// Why not: the first reason, kept as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The engine and where it keeps its data, such as `rocksdb:/var/lib/crossdock`.
    pub engine: String,
    /// What it stands on, and what becomes of an acknowledged message there, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What works, and is less safe than whoever runs it may think: what it is, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}
