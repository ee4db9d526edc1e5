//! What the types of other crates look like in JSON, for the OpenAPI document only: those types know nothing of
//! OpenAPI. Tests hold these descriptions against what the types really serialize to.

mod access;
mod apply;
mod broker;
mod explain;
mod service;

pub(crate) use access::{Permission, RestChannel};
pub(crate) use apply::{Fault, Step};
pub(crate) use broker::{
    Any, Backoff, BrokerHealth, DeadLetterFilter, Durability, ParkedKey, StartAt, Subscription,
    SubscriptionInfo, Topic, TopicInfo,
};
pub(crate) use explain::Explanation;
pub(crate) use service::{Manifest, Member, ServiceSettings, ServiceStatus, ServiceVersion};

#[cfg(test)]
mod tests;
