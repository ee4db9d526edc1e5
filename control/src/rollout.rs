//! Waiting until what was deployed is what runs.

use std::time::Duration;

use crossdock_config::{Member, ServiceRecord, ServiceState, ServiceStatus, keys};
use crossdock_topics::{Error, ErrorCode, Result, Revision, ServiceName};
use tokio::time::Instant;

use crate::records;
use crate::server::Server;

/// At least this often the members are looked at again.
const GLANCE: Duration = Duration::from_millis(500);

/// How a version stands on the servers that are alive.
#[derive(Debug, PartialEq)]
pub(crate) struct Rollout {
    /// Each server's status, by server; one that has not reported yet is `starting`.
    pub(crate) statuses: Vec<ServiceStatus>,
    /// Whether nothing more is to be waited for.
    pub(crate) settled: bool,
    /// Whether it runs everywhere, or is paused as it should be.
    pub(crate) ready: bool,
}

/// Waits until every server that is alive reports what the service's record says: running, or not and why.
/// With `changed` only what was reported since the record was written counts.
pub(crate) async fn wait(
    server: &Server,
    name: &ServiceName,
    changed: bool,
    wait: Duration,
) -> Result<Rollout> {
    let deadline = Instant::now() + wait;
    loop {
        let (record, revision) =
            records::get::<ServiceRecord>(server.store(), &keys::service(name))
                .await?
                .ok_or_else(|| Error::not_found("service", name).hint("it was removed meanwhile"))?;
        let (members, _) = records::list::<Member>(server.store(), keys::MEMBERS).await?;
        let (statuses, as_of) = records::list::<ServiceStatus>(server.store(), keys::STATUS).await?;
        let since = if changed { revision } else { 0 };
        let members = members.into_iter().map(|(member, _)| member.name).collect();
        let rollout = judge(&record, since, members, statuses);
        if rollout.settled || Instant::now() >= deadline || server.shutdown.has_started() {
            return Ok(rollout);
        }
        let mut watch = match server.store().watch(keys::STATUS, as_of).await {
            Ok(watch) => watch,
            // So much has happened since that it is forgotten: look again.
            Err(error) if error.code == ErrorCode::Conflict => continue,
            Err(error) => return Err(error),
        };
        tokio::select! {
            _ = watch.next() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + GLANCE)) => {}
            () = server.shutdown.started() => {}
        }
    }
}

fn judge(
    record: &ServiceRecord,
    since: Revision,
    members: Vec<String>,
    statuses: Vec<(ServiceStatus, Revision)>,
) -> Rollout {
    let mut ours: Vec<_> = statuses.into_iter().filter(|(status, _)| status.service == record.name).collect();
    let (mut settled, mut ready) = (true, true);
    let statuses = members.into_iter().map(|member| {
        let reported = ours
            .iter()
            .position(|(status, _)| status.server == member)
            .map(|at| ours.swap_remove(at))
            .filter(|(status, revision)| status.version == record.current && *revision > since);
        let Some((status, _)) = reported else {
            (settled, ready) = (false, false);
            return unheard(record, member);
        };
        let wanted = if record.paused { ServiceState::Paused } else { ServiceState::Running };
        let over = [wanted, ServiceState::Failed, ServiceState::Paused];
        settled &= over.contains(&status.state);
        ready &= status.state == wanted;
        status
    });
    let statuses = statuses.collect();
    Rollout { statuses, settled, ready }
}

/// What is said of a server that has not said anything about this version yet.
fn unheard(record: &ServiceRecord, server: String) -> ServiceStatus {
    ServiceStatus {
        service: record.name.clone(),
        server,
        version: record.current.clone(),
        state: ServiceState::Starting,
        reason: Some("this server has not reported the version yet".into()),
        processes: 0,
        restarts: 0,
        since: record.running().map(|version| version.deployed_at).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ServiceRecord {
        serde_json::from_value(serde_json::json!({
            "name": "s", "current": "v2", "versions": [], "settings": {}
        }))
        .unwrap()
    }

    fn reported(server: &str, version: &str, state: ServiceState) -> ServiceStatus {
        let record = ServiceRecord { current: version.into(), ..record() };
        ServiceStatus { state, reason: None, ..unheard(&record, server.into()) }
    }

    fn judged(statuses: Vec<(ServiceStatus, Revision)>) -> (bool, bool) {
        let rollout = judge(&record(), 10, vec!["a".into(), "b".into()], statuses);
        assert_eq!(rollout.statuses.len(), 2);
        (rollout.settled, rollout.ready)
    }

    #[test]
    fn a_rollout_is_over_when_every_member_has_reported_the_version() {
        use ServiceState::{Failed, Paused, Running, Starting};
        let ready = (reported("a", "v2", Running), 11);
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v2", Running), 12)]), (true, true));
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v2", Failed), 12)]), (true, false));
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v2", Paused), 12)]), (true, false));
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v2", Starting), 12)]), (false, false));
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v1", Running), 12)]), (false, false));
        assert_eq!(judged(vec![ready.clone(), (reported("b", "v2", Running), 9)]), (false, false));
        assert_eq!(judged(vec![ready.clone(), (reported("c", "v2", Running), 12)]), (false, false));
        assert_eq!(judged(vec![ready]), (false, false));
    }

    #[test]
    fn a_paused_service_is_ready_when_it_is_paused() {
        let record = ServiceRecord { paused: true, ..record() };
        let paused = reported("a", "v2", ServiceState::Paused);
        let rollout = judge(&record, 0, vec!["a".into()], vec![(paused, 1)]);
        assert!(rollout.settled && rollout.ready);
    }
}
