//! From a service's code and settings to what its processes are.

use std::ffi::OsString;
use std::sync::Arc;

use crossdock_config::ServiceSettings;
use crossdock_topics::{Broker, Error, Result, ServiceName, Shutdown};
use crossdock_wire::session::process::Start;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::Options;
use crate::folder::Folder;
use crate::process::Spec;

/// What is taken over from the server's own environment, and nothing else of it: it may hold secrets.
const INHERITED: [&str; 4] = ["PATH", "LANG", "HOME", "TZ"];

/// What every part of the workers needs.
#[derive(Clone)]
pub(crate) struct Workshop {
    pub(crate) options: Arc<Options>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) shutdown: Shutdown,
}

/// The version of a source: the first 16 hexadecimal digits of its SHA-256.
pub(crate) fn version(source: &[u8]) -> String {
    Sha256::digest(source).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl Workshop {
    /// What a process of the service is to be. Writes its code to the run folder.
    ///
    /// # Errors
    /// `InvalidArgument` when a secret of its environment cannot be resolved.
    pub(crate) async fn spec(
        &self,
        service: &ServiceName,
        source: Vec<u8>,
        settings: &ServiceSettings,
        inspect: bool,
    ) -> Result<Spec> {
        let (this, service, settings) = (self.clone(), service.clone(), settings.clone());
        let prepare = move || {
            let version = version(&source);
            let path = this.folder.code(service.as_str(), &version, &source)?;
            Ok(Spec {
                python: this.options.python.clone(),
                ready_within: this.options.ready_within,
                sdk: this.folder.sdk(),
                folder: this.folder.work(service.as_str())?,
                env: environment(&service, &settings)?,
                start: Start {
                    service: service.to_string(),
                    version,
                    path: path.to_string_lossy().into_owned(),
                    timeout_ms: u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX),
                    memory: settings.memory.0,
                    beacon: None,
                    inspect,
                },
            })
        };
        // Files and secrets are read: not on a thread that serves messages.
        tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|cause| Error::internal(format!("preparing a service failed: {cause}")))?
    }
}

fn environment(service: &ServiceName, settings: &ServiceSettings) -> Result<Vec<(OsString, SecretString)>> {
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).into(), SecretString::from(std::env::var(name).ok()?))));
    let mut environment: Vec<(OsString, SecretString)> = inherited.collect();
    for (name, value) in &settings.env {
        let value = value.resolve().map_err(|error| Error {
            message: format!("env {name} of service {service}: {}", error.message).into(),
            ..error
        })?;
        environment.retain(|(known, _)| known != name.as_str());
        environment.push((name.into(), value));
    }
    Ok(environment)
}
