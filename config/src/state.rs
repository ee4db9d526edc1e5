//! What a cluster is made of now.

use std::collections::BTreeMap;

use crossdock_topics::{Entry, Error, Result, ServiceName, Subscription, SubscriptionName, Topic, TopicName};
use serde::de::DeserializeOwned;

use crate::{Name, Permission, RestChannel, ServiceRecord, UserRecord, keys};

/// What a cluster is made of now, as its store has it: what a [`crate::Document`] is compared with and exported
/// from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Topics, the system's own included.
    pub topics: BTreeMap<TopicName, Topic>,
    /// Subscriptions, those of services included.
    pub subscriptions: BTreeMap<SubscriptionName, Subscription>,
    /// Services.
    pub services: BTreeMap<ServiceName, ServiceRecord>,
    /// The source of services by version; needed for an export only.
    pub code: BTreeMap<String, String>,
    /// Users.
    pub users: BTreeMap<Name, UserRecord>,
    /// What users may do.
    pub permissions: BTreeMap<Name, Permission>,
    /// Paths of the gateway.
    pub rest_channels: BTreeMap<Name, RestChannel>,
}

impl State {
    /// The keys whose entries belong to it.
    pub const PREFIXES: [&'static str; 7] = [
        keys::TOPICS,
        keys::SUBSCRIPTIONS,
        keys::SERVICES,
        keys::CODE,
        keys::USERS,
        keys::PERMISSIONS,
        keys::REST_CHANNELS,
    ];

    /// Takes an entry of the store in; those of other kinds are left aside.
    ///
    /// # Errors
    /// `Internal` naming the key, when the value is not what lies there.
    pub fn put(&mut self, entry: &Entry) -> Result<()> {
        let key = entry.key.as_str();
        if let Some(version) = keys::name(keys::CODE, key) {
            let source = std::str::from_utf8(&entry.value).map_err(|_| damaged(key))?;
            self.code.insert(version.into(), source.into());
        } else if key.starts_with(keys::TOPICS) {
            let topic: Topic = read(entry)?;
            self.topics.insert(topic.name.clone(), topic);
        } else if key.starts_with(keys::SUBSCRIPTIONS) {
            let subscription: Subscription = read(entry)?;
            self.subscriptions.insert(subscription.name.clone(), subscription);
        } else if key.starts_with(keys::SERVICES) {
            let service: ServiceRecord = read(entry)?;
            self.services.insert(service.name.clone(), service);
        } else if key.starts_with(keys::USERS) {
            let user: UserRecord = read(entry)?;
            self.users.insert(user.name.clone(), user);
        } else if key.starts_with(keys::PERMISSIONS) {
            let permission: Permission = read(entry)?;
            self.permissions.insert(permission.name.clone(), permission);
        } else if key.starts_with(keys::REST_CHANNELS) {
            let channel: RestChannel = read(entry)?;
            self.rest_channels.insert(channel.name.clone(), channel);
        }
        Ok(())
    }
}

fn damaged(key: &str) -> Error {
    Error::internal(format!("what lies in the store at {key} cannot be read"))
        .hint("a newer server may have written it; else apply its definition again")
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value).map_err(|_| damaged(&entry.key))
}
