//! How this server and its cluster are.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use crossdock_config::{Member, ServiceRecord, ServiceState, ServiceStatus, keys};
use crossdock_http::{Json, Result};
use crossdock_topics::{Clock, Error, ErrorCode, Store, SubscriptionInfo, SystemClock, TopicInfo};
use http::StatusCode;

use crate::api::{Backlog, Counts, Health, Memory, Status};
use crate::records;
use crate::server::Server;

/// How long the broker may take to say how things are.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says whether this server can be relied on
///
/// The one thing that is told without credentials, for load balancers and supervisors.
#[utoipa::path(get, path = "/health", tag = "status", operation_id = "health", security(()),
    responses(
        (status = 200, description = "It takes requests.", body = Health),
        (status = 503, description = "It is draining, or its broker takes no writes.", body = Health)))]
pub(super) async fn health(State(server): State<Server>) -> Response {
    let ready = server.broker.health().ready && !server.shutdown.has_started();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { ready })).into_response()
}

/// Shows how this server and its cluster are
#[utoipa::path(get, path = "/status", tag = "status", operation_id = "status",
    responses((status = 200, body = Status)))]
pub(super) async fn status(State(server): State<Server>) -> Result<Json<Status>> {
    // A broker elsewhere that is away is waited for, longer than somebody who asks how things are wants to wait.
    match tokio::time::timeout(PATIENCE, gather(&server)).await {
        Ok(status) => Ok(Json(status?)),
        Err(_) => {
            let reason = server.broker.health().reason;
            let reason = reason.unwrap_or_else(|| format!("it did not answer in {PATIENCE:?}"));
            Err(Error::new(ErrorCode::Unavailable, format!("the broker cannot be asked: {reason}")).into())
        }
    }
}

async fn gather(server: &Server) -> crossdock_topics::Result<Status> {
    let topics = server.broker.topics().await?;
    let subscriptions = server.broker.subscriptions().await?;
    let members = records::list::<Member>(server.store(), keys::MEMBERS).await?.0;
    let started = server.member.started;
    Ok(Status {
        server: server.member.name.clone(),
        version: server.member.version.clone(),
        started,
        uptime_seconds: SystemClock.now().since(started).as_secs(),
        broker_url: server.broker_url.as_deref().map(str::to_owned),
        health: server.broker.health(),
        members: members.into_iter().map(|(member, _)| member).collect(),
        counts: count(server.store(), &topics, subscriptions.len()).await?,
        services_by_state: by_state(server.store()).await?,
        backlog: backlog(&subscriptions),
        memory: memory(),
    })
}

async fn count(
    store: &dyn Store,
    topics: &[TopicInfo],
    subscriptions: usize,
) -> crossdock_topics::Result<Counts> {
    let ours = || topics.iter().filter(|info| !info.topic.name.is_system());
    Ok(Counts {
        topics: ours().count(),
        messages: ours().map(|info| info.tail - info.head).sum(),
        bytes: ours().map(|info| info.bytes).sum(),
        subscriptions,
        services: store.list(keys::SERVICES).await?.0.len(),
        rest_channels: store.list(keys::REST_CHANNELS).await?.0.len(),
        users: store.list(keys::USERS).await?.0.len(),
        permissions: store.list(keys::PERMISSIONS).await?.0.len(),
    })
}

/// How many services are in each state.
async fn by_state(store: &dyn Store) -> crossdock_topics::Result<BTreeMap<String, usize>> {
    let services = records::list::<ServiceRecord>(store, keys::SERVICES).await?.0;
    let statuses = records::list::<ServiceStatus>(store, keys::STATUS).await?.0;
    let mut counts = BTreeMap::new();
    for (service, _) in services {
        let own = statuses.iter().map(|(status, _)| status).filter(|status| status.service == service.name);
        let state = state(service.paused, own.map(|status| status.state));
        *counts.entry(state.to_string()).or_default() += 1;
    }
    Ok(counts)
}

/// The one state of a service that is in these on its servers.
fn state(paused: bool, on: impl Iterator<Item = ServiceState>) -> ServiceState {
    use ServiceState::{Failed, Paused, Running, Starting, Stopped};
    let weight = |state: &ServiceState| match state {
        Running => 0,
        Stopped => 1,
        Paused => 2,
        Starting => 3,
        Failed => 4,
    };
    if paused { Paused } else { on.max_by_key(weight).unwrap_or(Starting) }
}

fn backlog(subscriptions: &[SubscriptionInfo]) -> Backlog {
    let mut backlog = Backlog::default();
    for progress in subscriptions.iter().flat_map(|info| &info.topics) {
        backlog.waiting += progress.waiting;
        backlog.in_flight += progress.in_flight;
        backlog.set_aside += progress.set_aside;
        backlog.dead_letters += progress.dead_letters;
    }
    backlog
}

/// What Linux says about this process; nothing elsewhere.
fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Memory { resident_bytes: kilobytes(&status, "VmRSS:"), peak_resident_bytes: kilobytes(&status, "VmHWM:") }
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_as_bad_as_on_its_worst_server() {
        use ServiceState::{Failed, Paused, Running, Starting};
        assert_eq!(state(false, [Running, Failed, Starting].into_iter()), Failed);
        assert_eq!(state(false, [Running, Running].into_iter()), Running);
        assert_eq!(state(false, [].into_iter()), Starting);
        assert_eq!(state(true, [Running].into_iter()), Paused);
    }

    #[test]
    fn memory_is_read_from_what_linux_says() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t     17 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(17 * 1024));
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(kilobytes("VmRSS: x", "VmRSS:"), None);
    }
}
