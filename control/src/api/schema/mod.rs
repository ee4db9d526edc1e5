//! What the types of other crates look like in JSON, for the OpenAPI document only: those types know nothing of
//! OpenAPI. Tests hold these descriptions against what the types really serialize to.

mod access;
mod apply;
mod broker;
mod service;

pub(crate) use access::{Permission, RestChannel};
pub(crate) use apply::{Fault, Step};
pub(crate) use broker::{
    Any, Backoff, BrokerHealth, Durability, StartAt, Subscription, SubscriptionInfo, Topic, TopicInfo,
};
pub(crate) use service::{Manifest, Member, ServiceSettings, ServiceStatus, ServiceVersion};

#[cfg(test)]
mod tests;
