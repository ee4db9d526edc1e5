//! Which version of a service runs: deployed, rolled back, and waited for.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use crossdock_access::Principal;
use crossdock_config::{ServiceRecord, ServiceSettings, keys};
use crossdock_http::{Json, Result, read_body};
use crossdock_topics::{Error, ErrorCode, ServiceName};

use super::optional;
use super::services::{find, unknown};
use crate::api::{DeployRequest, Deployment, RollbackRequest};
use crate::deploy::{Done, Order};
use crate::extract::{Named, at_most};
use crate::records;
use crate::rollout;
use crate::server::Server;

/// How long to wait for the servers unless said, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(300));

/// Deploys a service
///
/// The source is imported and checked by a worker first; what does not import, or declares no handler, is
/// refused with its traceback and changes nothing. Then it is swapped in on every server. The answer comes when
/// each server that is alive reports it running, or failed, or when the wait is over.
#[utoipa::path(post, path = "/services/{name}/deploy", tag = "services", operation_id = "deploy_service",
    params(("name" = String, Path, description = "The service.")),
    request_body = DeployRequest,
    responses((status = 200, description = "It is deployed; `ready` says whether it runs everywhere.",
        body = Deployment)))]
pub(super) async fn deploy(
    State(server): State<Server>,
    Extension(principal): Extension<Principal>,
    Named(name): Named<ServiceName>,
    Json(request): Json<DeployRequest>,
) -> Result<Json<Deployment>> {
    let wait = at_most("wait", request.wait.unwrap_or(WAIT.0), WAIT.1)?;
    let settings = match request.settings {
        Some(settings) => settings,
        None => records::get::<ServiceRecord>(server.store(), &keys::service(&name))
            .await?
            .map_or_else(ServiceSettings::default, |(record, _)| record.settings),
    };
    settings.check()?;
    let order =
        Order { name: &name, source: &request.source, settings: &settings, by: principal.user().as_str() };
    let done = order.send(&*server.broker).await?;
    rolled_out(&server, name, done, wait).await
}

/// Rolls a service back
///
/// To the version before the one that runs, or to the one that is named. Its settings stay. The answer comes as
/// with deploying.
#[utoipa::path(post, path = "/services/{name}/rollback", tag = "services", operation_id = "rollback_service",
    params(("name" = String, Path, description = "The service.")),
    request_body = RollbackRequest,
    responses((status = 200, description = "It is rolled back; `ready` says whether it runs everywhere.",
        body = Deployment)))]
pub(super) async fn rollback(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
    body: Body,
) -> Result<Json<Deployment>> {
    let body = read_body(body, server.limits.max_body, server.limits.body).await?;
    let request: RollbackRequest = optional(&body)?;
    let wait = at_most("wait", request.wait.unwrap_or(WAIT.0), WAIT.1)?;
    let (record, _) = find(server.store(), &name).await?;
    let version = target(&record, request.version.as_deref())?.to_owned();
    if server.store().get(&keys::code(&version)).await?.is_none() {
        return Err(Error::new(ErrorCode::Conflict, format!("the code of version {version} is gone"))
            .hint("deploy it again from its source")
            .into());
    }
    let mut changed = false;
    let update = |record: Option<&ServiceRecord>| {
        let record = record.ok_or_else(|| unknown(&name))?;
        let version = target(record, Some(&version))?;
        changed = record.current != version;
        Ok(changed.then(|| ServiceRecord { current: version.to_owned(), ..record.clone() }))
    };
    let (record, _) = records::update(server.store(), &keys::service(&name), update).await?;
    let manifest = record.running().map(|running| running.manifest.clone()).unwrap_or_default();
    rolled_out(&server, name, Done { version, manifest, changed }, wait).await
}

/// Waits until what is to run does, and says what came of it.
async fn rolled_out(
    server: &Server,
    name: ServiceName,
    Done { version, manifest, changed }: Done,
    wait: Duration,
) -> Result<Json<Deployment>> {
    let rollout = rollout::wait(server, &name, changed, wait).await?;
    let mut left_behind = Vec::new();
    let services = records::list::<ServiceRecord>(server.store(), keys::SERVICES).await;
    let services: Vec<_> = match services {
        Ok((services, _)) => services.into_iter().map(|(record, _)| record).collect(),
        // It is deployed all the same.
        Err(error) => {
            tracing::warn!(service = %name, %error, "cannot look for subscriptions that are left behind");
            Vec::new()
        }
    };
    if let Some(record) = services.iter().find(|record| record.name == name) {
        for subscription in record.left_behind(&services) {
            if server.broker.subscription(&subscription).await.is_ok() {
                left_behind.push(subscription);
            }
        }
    }
    let (ready, servers) = (rollout.ready, rollout.statuses);
    Ok(Json(Deployment { name, version, changed, manifest, ready, servers, left_behind }))
}

/// The version to go back to.
fn target<'a>(record: &'a ServiceRecord, wanted: Option<&str>) -> crossdock_topics::Result<&'a str> {
    let versions: Vec<&str> = record.versions.iter().map(|version| version.version.as_str()).collect();
    let known = || format!("it has {}", versions.join(", "));
    match wanted {
        Some(wanted) => versions.iter().copied().find(|version| *version == wanted).ok_or_else(|| {
            Error::not_found("version", format!("{wanted} of service {}", record.name)).hint(known())
        }),
        None => {
            let current = versions.iter().position(|version| *version == record.current);
            current.and_then(|at| versions.get(at + 1)).copied().ok_or_else(|| {
                Error::new(
                    ErrorCode::Conflict,
                    format!("service {} has no version before {}", record.name, record.current),
                )
                .hint(known())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_is_to_the_version_before_or_the_one_named() {
        let version = |version: &str| {
            serde_json::json!({"version": version, "deployed_at": "2026-11-22T17:00:00Z", "by": "a",
                "manifest": {"handlers": []}})
        };
        let mut record: ServiceRecord = serde_json::from_value(serde_json::json!({
            "name": "s", "current": "c", "versions": [version("c"), version("b"), version("a")], "settings": {}
        }))
        .unwrap();
        assert_eq!(target(&record, None).unwrap(), "b");
        assert_eq!(target(&record, Some("a")).unwrap(), "a");
        assert_eq!(target(&record, Some("x")).unwrap_err().code, ErrorCode::NotFound);
        record.current = "a".into();
        assert_eq!(target(&record, None).unwrap_err().code, ErrorCode::Conflict);
    }
}
