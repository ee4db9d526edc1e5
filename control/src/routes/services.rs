//! Services: shown, paused, resumed, removed.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use axum::extract::State;
use crossdock_config::{Handler, ServiceRecord, ServiceStatus, keys};
use crossdock_http::{Json, Result};
use crossdock_topics::{Error, ErrorCode, Expect, ServiceName, Store, SubscriptionName};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{ServiceInfo, ServiceList};
use crate::extract::{Named, Query};
use crate::records;
use crate::rollout;
use crate::server::Server;

/// How long the servers may take to pause or resume.
const PAUSE: Duration = Duration::from_secs(30);

/// Lists services
#[utoipa::path(get, path = "/services", tag = "services", operation_id = "list_services",
    responses((status = 200, body = ServiceList)))]
pub(super) async fn list(State(server): State<Server>) -> Result<Json<ServiceList>> {
    let records = records::list::<ServiceRecord>(server.store(), keys::SERVICES).await?.0;
    let mut statuses: HashMap<ServiceName, Vec<ServiceStatus>> = HashMap::new();
    for (status, _) in records::list::<ServiceStatus>(server.store(), keys::STATUS).await?.0 {
        statuses.entry(status.service.clone()).or_default().push(status);
    }
    let services = records.into_iter().map(|(record, _)| {
        let servers = statuses.remove(&record.name).unwrap_or_default();
        info(record, servers)
    });
    Ok(Json(ServiceList { services: services.collect() }))
}

/// Shows a service
#[utoipa::path(get, path = "/services/{name}", tag = "services", operation_id = "get_service",
    params(("name" = String, Path, description = "The service.")),
    responses((status = 200, body = ServiceInfo)))]
pub(super) async fn get(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
) -> Result<Json<ServiceInfo>> {
    let (record, _) = find(server.store(), &name).await?;
    Ok(Json(shown(server.store(), record).await?))
}

/// Stops a service until it is resumed
///
/// On every server. Its subscriptions keep their places. Doing it twice is harmless. The answer comes when each
/// server that is alive has done it, or after 30 s.
#[utoipa::path(post, path = "/services/{name}/pause", tag = "services", operation_id = "pause_service",
    params(("name" = String, Path, description = "The service.")),
    responses((status = 200, body = ServiceInfo)))]
pub(super) async fn pause(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
) -> Result<Json<ServiceInfo>> {
    Ok(Json(set_paused(&server, &name, true).await?))
}

/// Lets a paused or failed service run again
///
/// The answer comes when each server that is alive reports it running, or failed, or after 30 s.
#[utoipa::path(post, path = "/services/{name}/resume", tag = "services", operation_id = "resume_service",
    params(("name" = String, Path, description = "The service.")),
    responses((status = 200, body = ServiceInfo)))]
pub(super) async fn resume(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
) -> Result<Json<ServiceInfo>> {
    Ok(Json(set_paused(&server, &name, false).await?))
}

async fn set_paused(
    server: &Server,
    name: &ServiceName,
    paused: bool,
) -> crossdock_topics::Result<ServiceInfo> {
    let mut changed = false;
    let update = |record: Option<&ServiceRecord>| {
        let record = record.ok_or_else(|| unknown(name))?;
        // Resuming writes the record also when it is not paused: that is what a failed service waits for.
        changed = record.paused != paused || !paused;
        Ok(changed.then(|| ServiceRecord { paused, ..record.clone() }))
    };
    let (record, _) = records::update(server.store(), &keys::service(name), update).await?;
    let rollout = rollout::wait(server, name, changed, PAUSE).await?;
    Ok(info(record, rollout.statuses))
}

/// What goes with a service.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// Whether the subscriptions its handlers consume go too, with their places and dead letters. Unless said
    /// they stay, so that the service deployed again goes on where it was.
    #[serde(default)]
    subscriptions: bool,
}

/// Removes a service
///
/// It stops on every server; its versions are forgotten. Its log stays. Its subscriptions stay unless
/// `subscriptions=true`; one that another service consumes too always stays.
#[utoipa::path(delete, path = "/services/{name}", tag = "services", operation_id = "delete_service",
    params(("name" = String, Path, description = "The service."), Removal),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
    Query(removal): Query<Removal>,
) -> Result<StatusCode> {
    let (record, revision) = find(server.store(), &name).await?;
    // At this revision only: whoever deployed it meanwhile meant it to be there.
    server.store().delete(&keys::service(&name), Expect::At(revision)).await?;
    let others: Vec<_> = records::list::<ServiceRecord>(server.store(), keys::SERVICES).await?.0;
    let others: Vec<_> = others.into_iter().map(|(record, _)| record).collect();
    if removal.subscriptions {
        let kept: BTreeSet<_> = others.iter().flat_map(subscriptions).collect();
        for subscription in subscriptions(&record).difference(&kept) {
            match server.broker.delete_subscription(subscription).await {
                Err(error) if error.code != ErrorCode::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    forget_code(server.store(), &record, &others).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes the sources that no service refers to any more.
async fn forget_code(
    store: &dyn Store,
    removed: &ServiceRecord,
    others: &[ServiceRecord],
) -> crossdock_topics::Result<()> {
    let kept: BTreeSet<_> =
        others.iter().flat_map(|record| &record.versions).map(|version| &version.version).collect();
    for version in removed.versions.iter().map(|version| &version.version) {
        if !kept.contains(version) {
            store.delete(&keys::code(version), Expect::Any).await?;
        }
    }
    Ok(())
}

/// The subscriptions that the version which runs consumes.
fn subscriptions(record: &ServiceRecord) -> BTreeSet<SubscriptionName> {
    let handlers = record.running().map(|version| version.manifest.handlers.iter());
    handlers
        .into_iter()
        .flatten()
        .filter_map(|handler| match handler {
            Handler::Consume { subscription, .. } => Some(subscription.clone()),
            Handler::Serve { .. } => None,
        })
        .collect()
}

/// A service's record and its revision.
pub(super) async fn find(
    store: &dyn Store,
    name: &ServiceName,
) -> crossdock_topics::Result<(ServiceRecord, u64)> {
    records::get(store, &keys::service(name)).await?.ok_or_else(|| unknown(name))
}

/// What is said of a service that is not there.
pub(super) fn unknown(name: &ServiceName) -> Error {
    Error::not_found("service", name).hint("`crossdock service ls` shows those that are there")
}

async fn shown(store: &dyn Store, record: ServiceRecord) -> crossdock_topics::Result<ServiceInfo> {
    let statuses = records::list::<ServiceStatus>(store, keys::STATUS).await?.0;
    let servers = statuses.into_iter().map(|(status, _)| status);
    let servers = servers.filter(|status| status.service == record.name).collect();
    Ok(info(record, servers))
}

fn info(record: ServiceRecord, servers: Vec<ServiceStatus>) -> ServiceInfo {
    let ServiceRecord { name, current, versions, settings, paused } = record;
    ServiceInfo { name, current, paused, versions, settings, servers }
}
