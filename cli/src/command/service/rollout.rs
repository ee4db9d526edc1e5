//! A version on its way to every server.

use std::time::Duration;

use crossdock_config::{ServiceState, ServiceStatus};
use crossdock_control::api::Deployment;
use crossdock_topics::{Error, ErrorCode, ServiceName};
use reqwest::RequestBuilder;

use super::{Caller, does};
use crate::client::Client;
use crate::failure::Result;
use crate::output::{Show, say, spinner};

/// How long a server may take to validate a file, beside the wait until it runs.
const VALIDATION: Duration = Duration::from_secs(60);

/// A deployment or a rollback.
pub(super) struct Rollout {
    /// The service.
    pub(super) name: ServiceName,
    /// How long the server waits until it runs everywhere.
    pub(super) wait: Duration,
    /// What is done, as in "deployed orders to version ...".
    pub(super) verb: &'static str,
}

impl Rollout {
    /// Sends it and says what came of it.
    ///
    /// # Errors
    /// The server's refusal: nothing was changed then. `ServiceFailed` when it was swapped in and fails,
    /// `Timeout` when it does not run everywhere in time.
    pub(super) async fn run(self, caller: &Caller, client: &Client, request: RequestBuilder) -> Result<()> {
        let waiting = spinner("waiting until it runs");
        let request = Client::patient(request, self.wait.saturating_add(VALIDATION));
        let answer = client.json::<Deployment>(request).await;
        waiting.finish_and_clear();
        let deployment = answer.map_err(|error| self.refused(error))?;
        let Deployment { name, version, servers, .. } = &deployment;
        let stands = stands(servers);
        let sentence = if deployment.changed {
            format!("{} {name} to version {version} ({stands})", self.verb)
        } else {
            format!("{name} is at version {version} already ({stands})")
        };
        caller.output.done(&deployment, &sentence)?;
        for name in &deployment.left_behind {
            say(&format!(
                "note: subscription {name} of an earlier version is not consumed any more, and what it has not read is \
                 kept; if nobody else reads from it: crossdock sub rm {name}"
            ));
        }
        failing(&deployment).map_or(Ok(()), |error| Err(error.into()))
    }

    /// A traceback stays as it is; a single line says which service it is about.
    fn refused(&self, mut error: Error) -> Error {
        if error.code == ErrorCode::ServiceFailed {
            if !error.message.trim_end().contains('\n') {
                error.message = format!("{} was not {}: {}", self.name, self.verb, error.message).into();
            }
            error.hint.get_or_insert("nothing was changed: correct it and deploy it again".into());
        }
        error
    }
}

/// What is wrong where it does not run, the worst first.
fn failing(deployment: &Deployment) -> Option<Error> {
    let resting = [ServiceState::Running, ServiceState::Paused];
    let worst = deployment
        .servers
        .iter()
        .filter(|status| !resting.contains(&status.state))
        .max_by_key(|status| weight(status.state))?;
    let code =
        if worst.state == ServiceState::Failed { ErrorCode::ServiceFailed } else { ErrorCode::Timeout };
    let name = &deployment.name;
    let reason = worst.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let error = Error::new(code, format!("{name} is {} on {}{reason}", worst.state, worst.server));
    Some(error.hint(format!(
        "see `crossdock service logs {name}`; `crossdock service rollback {name}` goes back to the version before"
    )))
}

/// How it stands over all servers: `running on 2 of 3`.
pub(super) fn stands(servers: &[ServiceStatus]) -> String {
    let Some(worst) = servers.iter().map(|status| status.state).max_by_key(|state| weight(*state)) else {
        return "on no server".into();
    };
    let running = servers.iter().filter(|status| status.state == ServiceState::Running).count();
    match (worst, running) {
        (ServiceState::Running, _) if servers.len() == 1 => "running".into(),
        (worst, 0) => worst.to_string(),
        (ServiceState::Running, all) => format!("running on {all}"),
        (worst, some) => format!("running on {some} of {}, {worst}", servers.len()),
    }
}

fn weight(state: ServiceState) -> u8 {
    match state {
        ServiceState::Running => 0,
        ServiceState::Stopped => 1,
        ServiceState::Paused => 2,
        ServiceState::Starting => 3,
        ServiceState::Failed => 4,
    }
}

impl Show for Deployment {
    const COLUMNS: &'static [&'static str] = &["name", "version", "changed", "state", "takes"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.version.clone(),
            if self.changed { "yes" } else { "no" }.into(),
            stands(&self.servers),
            does(&self.name, &self.manifest),
        ]
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use crossdock_topics::Timestamp;

    use super::*;

    fn on(states: &[ServiceState]) -> String {
        let status = |state: &ServiceState| ServiceStatus {
            service: "route".parse().unwrap(),
            server: "a".into(),
            version: "1".into(),
            state: *state,
            reason: None,
            processes: 1,
            restarts: 0,
            since: Timestamp(0),
        };
        stands(&states.iter().map(status).collect::<Vec<_>>())
    }

    #[test]
    fn a_refusal_names_the_service_unless_it_is_a_traceback() {
        let rollout = Rollout { name: "route".parse().unwrap(), wait: Duration::ZERO, verb: "deployed" };
        let error = rollout.refused(Error::new(ErrorCode::ServiceFailed, "it was not ready after 30 s"));
        assert_eq!(error.message, "route was not deployed: it was not ready after 30 s");
        let traceback = "Traceback:\n  File\nImportError: x";
        let error = rollout.refused(Error::new(ErrorCode::ServiceFailed, traceback));
        assert_eq!(error.message, traceback);
        assert!(error.hint.unwrap().contains("nothing was changed"));
    }

    #[test]
    fn the_worst_server_is_what_is_said_of_all() {
        use ServiceState::{Failed, Paused, Running, Starting};
        assert_eq!(on(&[]), "on no server");
        assert_eq!(on(&[Running]), "running");
        assert_eq!(on(&[Running, Running]), "running on 2");
        assert_eq!(on(&[Running, Failed, Starting]), "running on 1 of 3, failed");
        assert_eq!(on(&[Paused, Paused]), "paused");
    }
}
