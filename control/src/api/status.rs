//! How a server and its cluster are.

use std::collections::BTreeMap;

use crossdock_config::Member;
use crossdock_topics::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// Whether this server can be relied on; all that is said to those who have not said who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Whether it takes requests and its broker takes writes.
    pub ready: bool,
}

/// How this server and its cluster are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The server that answers.
    pub server: String,
    /// Its version.
    pub version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// For how many seconds it has been running.
    pub uptime_seconds: u64,
    /// Where its broker is reached over the wire, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker_url: Option<String>,
    /// How its broker is.
    #[schema(value_type = schema::BrokerHealth)]
    pub health: crossdock_topics::Health,
    /// The servers of the cluster that are alive, by name.
    #[schema(value_type = Vec<schema::Member>)]
    pub members: Vec<Member>,
    /// How many there are of each kind.
    pub counts: Counts,
    /// How many services are in each state: where a service runs on several servers, the worst of them counts.
    /// One that no server has taken up yet is `starting`.
    #[serde(default)]
    pub services_by_state: BTreeMap<String, usize>,
    /// What waits in all subscriptions together.
    pub backlog: Backlog,
    /// What the process that answers takes.
    pub memory: Memory,
}

/// How many there are of each kind; the system's own topics are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Topics.
    pub topics: usize,
    /// Messages kept in them.
    pub messages: u64,
    /// Bytes of them, as packed, before compression.
    pub bytes: u64,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Services.
    pub services: usize,
    /// REST channels.
    pub rest_channels: usize,
    /// Users.
    pub users: usize,
    /// Permissions.
    pub permissions: usize,
}

/// What waits in subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backlog {
    /// Messages stored but not looked at yet.
    pub waiting: u64,
    /// Messages with consumers now.
    pub in_flight: u64,
    /// Messages set aside for a backoff or a delivery time.
    pub set_aside: u64,
    /// Messages in the dead letters.
    pub dead_letters: u64,
}

/// What a process takes. Absent where the operating system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Memory {
    /// The bytes in memory now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// The most there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_resident_bytes: Option<u64>,
}
