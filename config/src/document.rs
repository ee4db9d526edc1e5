//! What a user writes about a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_topics::time::human;
use crossdock_topics::{ServiceName, Subscription, Topic};
use serde::{Deserialize, Serialize};

use crate::{EnvValue, Name, Permission, RestChannel, SecretRef, ServiceSettings, Size};

/// Everything that one YAML document says, grouped by kind. What it does not name stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    /// Topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<Topic>,
    /// Subscriptions.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "crate::export::subscriptions")]
    pub subscriptions: Vec<Subscription>,
    /// Services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceSpec>,
    /// Users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserSpec>,
    /// What users may do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    /// Paths of the gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest_channels: Vec<RestChannel>,
}

/// A service as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// The file with its code, relative to the document. Read by the CLI, which sends what it holds as `code`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::export::literally_if"
    )]
    pub source: Option<String>,
    /// Its code.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::export::literally_if"
    )]
    pub code: Option<String>,
    /// See [`ServiceSettings::processes`].
    #[serde(default = "ServiceSpec::default_processes")]
    pub processes: u32,
    /// See [`ServiceSettings::timeout`].
    #[serde(default = "ServiceSpec::default_timeout", with = "human")]
    pub timeout: Duration,
    /// See [`ServiceSettings::memory`].
    #[serde(default = "ServiceSpec::default_memory")]
    pub memory: Size,
    /// See [`ServiceSettings::env`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, EnvValue>,
}

impl ServiceSpec {
    /// A service with these settings.
    #[must_use]
    pub fn new(name: ServiceName, code: Option<String>, settings: ServiceSettings) -> Self {
        let ServiceSettings { processes, timeout, memory, env } = settings;
        Self { name, source: None, code, processes, timeout, memory, env }
    }

    /// How it is run.
    #[must_use]
    pub fn settings(&self) -> ServiceSettings {
        ServiceSettings {
            processes: self.processes,
            timeout: self.timeout,
            memory: self.memory,
            env: self.env.clone(),
        }
    }

    fn default_processes() -> u32 {
        ServiceSettings::default().processes
    }

    fn default_timeout() -> Duration {
        ServiceSettings::default().timeout
    }

    fn default_memory() -> Size {
        ServiceSettings::default().memory
    }
}

/// A user as a user writes it. A password or key that is not mentioned stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// The user's name.
    pub name: Name,
    /// Where the password is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Where the API key is: `<user>.<secret>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
}
