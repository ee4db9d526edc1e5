//! Services as the store keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_topics::time::human;
use crossdock_topics::{Error, ServiceName, SubscriptionName, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{EnvValue, Handler, Manifest, Size};

/// A service: which version runs, which could, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// Its name.
    pub name: ServiceName,
    /// The version that runs: one of `versions`.
    pub current: String,
    /// The versions that are kept, newest first, at most [`ServiceRecord::MAX_VERSIONS`].
    pub versions: Vec<ServiceVersion>,
    /// How it is run.
    pub settings: ServiceSettings,
    /// Whether it is stopped until someone resumes it.
    #[serde(default)]
    pub paused: bool,
}

impl ServiceRecord {
    /// How many versions are kept to roll back to.
    pub const MAX_VERSIONS: usize = 10;

    /// The version that runs.
    #[must_use]
    pub fn running(&self) -> Option<&ServiceVersion> {
        self.versions.iter().find(|version| version.version == self.current)
    }

    /// The subscriptions that a version before consumed, and that neither the one that runs does nor any of these
    /// other services. They may be gone already.
    #[must_use]
    pub fn left_behind(&self, others: &[ServiceRecord]) -> BTreeSet<SubscriptionName> {
        let mut left: BTreeSet<_> =
            self.versions.iter().flat_map(|version| consumed(&version.manifest)).cloned().collect();
        for running in others.iter().chain([self]).filter_map(ServiceRecord::running) {
            for name in consumed(&running.manifest) {
                left.remove(name);
            }
        }
        left
    }
}

fn consumed(manifest: &Manifest) -> impl Iterator<Item = &SubscriptionName> {
    manifest.handlers.iter().filter_map(|handler| match handler {
        Handler::Consume { subscription, .. } => Some(subscription),
        Handler::Serve { .. } => None,
    })
}

/// One version of a service's code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceVersion {
    /// The name of its source; see [`version`].
    pub version: String,
    /// When it was deployed.
    pub deployed_at: Timestamp,
    /// Who deployed it.
    pub by: String,
    /// What it consumes and answers to.
    pub manifest: Manifest,
}

/// The version of a service's source: the first 16 hexadecimal digits of its SHA-256.
#[must_use]
pub fn version(source: &str) -> String {
    Sha256::digest(source).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// How a service is run on each server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSettings {
    /// How many processes. 1 to 64.
    pub processes: u32,
    /// How long one call of a handler may take, unless the handler says otherwise. 1 ms to 1 h.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// How much memory one process may have. 64 MiB or more.
    pub memory: Size,
    /// What its processes find in their environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self { processes: 1, timeout: Duration::from_secs(30), memory: Size::mib(512), env: BTreeMap::new() }
    }
}

impl ServiceSettings {
    /// The longest that one call may take.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

    /// Checks that the settings make sense.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field, as the first word of the message.
    pub fn check(&self) -> Result<(), Error> {
        if !(1..=64).contains(&self.processes) {
            return Err(Error::invalid("processes can be 1 to 64"));
        }
        if self.timeout < Duration::from_millis(1) || self.timeout > Self::MAX_TIMEOUT {
            return Err(Error::invalid("timeout can be 1ms to 1h"));
        }
        if self.memory < Size::mib(64) {
            return Err(Error::invalid(format!(
                "memory is {}, less than Python needs to start",
                self.memory
            ))
            .hint("give it 64MiB or more"));
        }
        for name in self.env.keys() {
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(fine) || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(Error::invalid(format!("env has {name:?}, which cannot name a variable"))
                    .hint("use letters, digits and '_', not beginning with a digit"));
            }
            if name.starts_with("CROSSDOCK_") {
                return Err(Error::invalid(format!(
                    "env has {name:?}, but CROSSDOCK_ names are the server's own"
                ))
                .hint("choose another name"));
            }
        }
        Ok(())
    }
}
