//! Services: their versions, where they run, their logs.

use std::time::Duration;

use crossdock_topics::time::human;
use crossdock_topics::{ServiceName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// All services, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    /// The services.
    pub services: Vec<ServiceInfo>,
}

/// What is known of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ServiceName,
    /// The version that is to run.
    pub current: String,
    /// Whether it is paused: deployed, but not running until resumed.
    pub paused: bool,
    /// The versions there are to go back to, newest first.
    pub versions: Vec<ServiceVersion>,
    /// How it is run.
    #[schema(value_type = schema::Any)]
    pub settings: serde_json::Value,
    /// How it is on each server that is alive.
    pub servers: Vec<ServerState>,
}

/// One version of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceVersion {
    /// The version: the first 16 hex digits of the SHA-256 of its source.
    pub version: String,
    /// When it was deployed.
    #[schema(value_type = String, format = DateTime)]
    pub deployed_at: Timestamp,
    /// Who deployed it.
    pub by: String,
    /// What its code says of itself: what it consumes, the names it answers to.
    #[schema(value_type = schema::Any)]
    pub manifest: serde_json::Value,
}

/// How a service is on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerState {
    /// The server.
    pub server: String,
    /// The version it runs, or last tried to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How it is there.
    pub state: ServiceState,
    /// Why it is not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many processes it has.
    pub processes: u32,
    /// How often a process was started again after it ended on its own.
    pub restarts: u64,
    /// Since when it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

/// How a service is on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// The server has not said anything about it yet.
    Unknown,
    /// Its processes are being started.
    Starting,
    /// It works.
    Running,
    /// It was paused.
    Paused,
    /// It failed too often, or does not start; it is not tried again until it is deployed or resumed.
    Failed,
    /// It does not run here.
    Stopped,
}

/// A new version of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The Python source. At most 8 MiB.
    pub source: String,
    /// How it is to be run; as before, or by default, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Any>)]
    pub settings: Option<serde_json::Value>,
    /// How long to wait until it runs on every server. At most 5 minutes, 30 s unless said; `0s` does not
    /// wait.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub wait: Option<Duration>,
}

/// Back to an earlier version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Which; the one before the current one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How long to wait until it runs on every server, as when deploying.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub wait: Option<Duration>,
}

/// What came of a deployment or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// The service.
    #[schema(value_type = String)]
    pub name: ServiceName,
    /// The version that is to run now.
    pub version: String,
    /// Whether anything changed.
    pub changed: bool,
    /// What its code says of itself.
    #[schema(value_type = schema::Any)]
    pub manifest: serde_json::Value,
    /// Whether it runs on every server that is alive.
    pub ready: bool,
    /// How it was on each server when the wait ended.
    pub servers: Vec<ServerState>,
}

/// Lines a service has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// The lines, in order.
    pub lines: Vec<LogLine>,
    /// The offset to go on reading from.
    pub next: u64,
}

/// A line a service has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Its place in the log.
    pub offset: u64,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// `stdout`, `stderr`, or `system` for what the server says about the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The server it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The version that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The line. Bytes that are not UTF-8 are shown as U+FFFD.
    pub line: String,
}
