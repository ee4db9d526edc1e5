//! The servers of a cluster and how services stand on them.

use std::fmt;

use crossdock_topics::{ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

/// A server of the cluster, as it says of itself for as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// When it started.
    pub started: Timestamp,
    /// The version of its program.
    pub version: String,
    /// Where its gateway is reached.
    pub gateway_url: String,
}

/// How a service stands on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: ServiceName,
    /// The server.
    pub server: String,
    /// The version it runs, or tries to.
    pub version: String,
    /// How it stands.
    pub state: ServiceState,
    /// Why, when it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many processes run.
    pub processes: u32,
    /// How often a process had to be started again since the version was deployed.
    pub restarts: u32,
    /// Since when it is in this state.
    pub since: Timestamp,
}

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Its processes are being started.
    Starting,
    /// It takes messages and requests.
    Running,
    /// Someone paused it, or it was paused because its processes crash too often; then the reason says so.
    Paused,
    /// The version cannot be started; the reason says why.
    Failed,
    /// It has ended, with its server or because it was removed.
    Stopped,
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}
