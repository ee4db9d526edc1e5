//! What the configuration's types look like in JSON.
#![allow(dead_code)] // the fields are read by the derive alone

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::broker::{Filter, Order, Sharing};
use super::{Backoff, StartAt};

/// A server of the cluster.
#[derive(ToSchema)]
pub(crate) struct Member {
    /// Its name.
    name: String,
    /// When it started.
    #[schema(format = DateTime)]
    started: String,
    /// The version of its program.
    version: String,
    /// Where its gateway is reached.
    gateway_url: String,
}

/// How a service is run on each server.
#[derive(ToSchema)]
pub(crate) struct ServiceSettings {
    /// How many processes; 1 unless said.
    processes: Option<u32>,
    /// How long one call of a handler may take, such as `30s`.
    timeout: Option<String>,
    /// How much memory one process may have, such as `512MiB`.
    memory: Option<String>,
    /// What its processes find in their environment: values, or `env:NAME` and `file:/PATH` for secrets.
    env: Option<BTreeMap<String, String>>,
}

/// One version of a service's code.
#[derive(ToSchema)]
pub(crate) struct ServiceVersion {
    /// The first 16 hexadecimal digits of the SHA-256 of its source.
    version: String,
    /// When it was deployed.
    #[schema(format = DateTime)]
    deployed_at: String,
    /// Who deployed it.
    by: String,
    /// What it consumes and answers to.
    manifest: Manifest,
}

/// What a service consumes and answers to, as read from its code.
#[derive(ToSchema)]
pub(crate) struct Manifest {
    /// Its handlers, in the order in which the code declares them.
    handlers: Vec<Handler>,
}

/// A function of a service.
#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Handler {
    /// It is called for each message of a subscription.
    Consume {
        /// The function's name.
        function: String,
        /// The topics it consumes, by name or pattern.
        topics: Vec<String>,
        /// The subscription that keeps its place.
        subscription: String,
        /// Where it begins in topics that exist when it is first deployed.
        #[schema(value_type = StartAt)]
        start: String,
        /// After this many failures a message goes to the dead letters.
        max_failures: Option<u32>,
        /// How long a failed message waits.
        #[schema(value_type = Option<Backoff>)]
        backoff: Option<String>,
        /// In which order messages are delivered; what is not said here stays as the subscription has it.
        order: Option<Order>,
        /// Whether messages of higher priority overtake others.
        priorities: Option<bool>,
        /// Who of the consumers gets messages.
        sharing: Option<Sharing>,
        /// Which messages it is about.
        #[schema(value_type = Option<Filter>)]
        filter: Option<String>,
        /// How long one call may take.
        timeout: Option<String>,
        /// How many calls one process may have under way at once.
        concurrency: u32,
    },
    /// It is called for each request to a name.
    Serve {
        /// The function's name.
        function: String,
        /// The name it answers to, if not the service's own.
        name: Option<String>,
        /// How long one call may take.
        timeout: Option<String>,
        /// How many calls one process may have under way at once.
        concurrency: u32,
    },
}

/// How a service stands on one server.
#[derive(ToSchema)]
pub(crate) struct ServiceStatus {
    /// The service.
    service: String,
    /// The server.
    server: String,
    /// The version it runs, or tries to.
    version: String,
    /// How it stands.
    state: ServiceState,
    /// Why, when it does not run.
    reason: Option<String>,
    /// How many processes run.
    processes: u32,
    /// How often a process had to be started again since the version was deployed.
    restarts: u32,
    /// Since when it is in this state.
    #[schema(format = DateTime)]
    since: String,
}

/// How a service stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceState {
    /// Its processes are being started.
    Starting,
    /// It takes messages and requests.
    Running,
    /// Someone paused it.
    Paused,
    /// It was given up; the reason says why.
    Failed,
    /// It has ended.
    Stopped,
}
