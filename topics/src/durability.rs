//! What an acknowledgement is worth.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What has happened to a message by the time it is acknowledged and may be seen. Ordered: a later one is
/// worth more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// In the broker's memory. Lost when the process dies.
    Memory,
    /// Handed to the operating system. Survives the process, not the machine.
    Os,
    /// On the disk, synced. Survives `kill -9` and power loss.
    #[default]
    Fsync,
    /// Stored by this many servers of a cluster.
    Quorum(u8),
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Os => f.write_str("os"),
            Self::Fsync => f.write_str("fsync"),
            Self::Quorum(servers) => write!(f, "quorum({servers})"),
        }
    }
}
