//! Services: their versions, where they run, their logs.

use std::time::Duration;

use crossdock_config::{Manifest, ServiceSettings, ServiceStatus, ServiceVersion};
use crossdock_topics::time::human;
use crossdock_topics::{ServiceName, SubscriptionName, Timestamp};
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
    #[schema(value_type = Vec<schema::ServiceVersion>)]
    pub versions: Vec<ServiceVersion>,
    /// How it is run.
    #[schema(value_type = schema::ServiceSettings)]
    pub settings: ServiceSettings,
    /// How it stands on each server that is alive.
    #[schema(value_type = Vec<schema::ServiceStatus>)]
    pub servers: Vec<ServiceStatus>,
}

/// A new version of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The Python source. At most 8 MiB.
    pub source: String,
    /// How it is to be run; as before, or by default, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ServiceSettings>)]
    pub settings: Option<ServiceSettings>,
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
    #[schema(value_type = schema::Manifest)]
    pub manifest: Manifest,
    /// Whether it runs on every server that is alive.
    pub ready: bool,
    /// How it stood on each server when the wait ended. A server that has not reported yet is `starting`.
    #[schema(value_type = Vec<schema::ServiceStatus>)]
    pub servers: Vec<ServiceStatus>,
    /// Subscriptions that a version before consumed and nobody does now. They stay, and keep what they have not read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub left_behind: Vec<SubscriptionName>,
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
