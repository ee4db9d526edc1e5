//! What a service's code says of itself.

use std::time::Duration;

use crossdock_topics::time::human;
use crossdock_topics::{
    Backoff, Filter, Order, ServiceName, Sharing, StartAt, SubscriptionName, TopicPattern,
};
use serde::{Deserialize, Serialize};

/// What a service consumes and answers to, as read from its code when it is deployed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its handlers, in the order in which the code declares them.
    pub handlers: Vec<Handler>,
}

/// A function of a service that is called for messages or for requests. In JSON,
/// `{"kind": "consume", "function": ..., "topics": [...], "subscription": ...}` or
/// `{"kind": "serve", "function": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Handler {
    /// It is called for each message of a subscription.
    Consume {
        /// The function's name.
        function: String,
        /// The topics it consumes, by name or pattern.
        topics: Vec<TopicPattern>,
        /// The subscription that keeps its place.
        subscription: SubscriptionName,
        /// Where it begins in topics that exist when it is first deployed.
        #[serde(default)]
        start: StartAt,
        /// After this many failures a message goes to the dead letters; without one, as a subscription has by
        /// default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_failures: Option<u32>,
        /// How long a failed message waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backoff: Option<Backoff>,
        /// In which order messages are delivered. This and the next three are left as the subscription has them when
        /// the code does not speak of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<Order>,
        /// Whether messages of higher priority overtake others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priorities: Option<bool>,
        /// Who of the consumers gets messages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sharing: Option<Sharing>,
        /// Which messages it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<Filter>,
        /// How long one call may take, if not as the service's settings say.
        #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
        timeout: Option<Duration>,
        /// How many calls one process may have under way at once.
        #[serde(default = "Handler::default_concurrency")]
        concurrency: u32,
    },
    /// It is called for each request to a name.
    Serve {
        /// The function's name.
        function: String,
        /// The name it answers to, if not the service's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<ServiceName>,
        /// How long one call may take, if not as the service's settings say.
        #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
        timeout: Option<Duration>,
        /// How many calls one process may have under way at once.
        #[serde(default = "Handler::default_concurrency")]
        concurrency: u32,
    },
}

impl Handler {
    fn default_concurrency() -> u32 {
        1
    }

    /// The function's name.
    #[must_use]
    pub fn function(&self) -> &str {
        match self {
            Self::Consume { function, .. } | Self::Serve { function, .. } => function,
        }
    }

    /// How many calls one process may have under way at once.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        match self {
            Self::Consume { concurrency, .. } | Self::Serve { concurrency, .. } => *concurrency,
        }
    }

    /// How long one call may take, if not as the service's settings say.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Consume { timeout, .. } | Self::Serve { timeout, .. } => *timeout,
        }
    }
}
