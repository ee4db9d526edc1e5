//! Where in the store each kind lies. Values are JSON of this crate's structs, but for a service's code,
//! which is the bytes of its source.

use crossdock_topics::{ServiceName, SubscriptionName, TopicName};

use crate::Name;

/// The broker's own topics, [`crossdock_topics::Topic`]: written through the broker only.
pub const TOPICS: &str = "topics/";
/// The broker's own subscriptions, [`crossdock_topics::Subscription`]: written through the broker only.
pub const SUBSCRIPTIONS: &str = "subscriptions/";
/// [`crate::RestChannel`] by name.
pub const REST_CHANNELS: &str = "rest_channels/";
/// [`crate::UserRecord`] by name.
pub const USERS: &str = "users/";
/// [`crate::Permission`] by name.
pub const PERMISSIONS: &str = "permissions/";
/// [`crate::ServiceRecord`] by name.
pub const SERVICES: &str = "services/";
/// The source of services by version.
pub const CODE: &str = "code/";
/// [`crate::Member`] by server; leased.
pub const MEMBERS: &str = "members/";
/// [`crate::ServiceStatus`] by server and service; leased with the member.
pub const STATUS: &str = "status/";

/// The key of a topic's definition.
#[must_use]
pub fn topic(name: &TopicName) -> String {
    format!("{TOPICS}{name}")
}

/// The key of a subscription's definition.
#[must_use]
pub fn subscription(name: &SubscriptionName) -> String {
    format!("{SUBSCRIPTIONS}{name}")
}

/// The key of a REST channel.
#[must_use]
pub fn rest_channel(name: &Name) -> String {
    format!("{REST_CHANNELS}{name}")
}

/// The key of a user.
#[must_use]
pub fn user(name: &Name) -> String {
    format!("{USERS}{name}")
}

/// The key of a permission.
#[must_use]
pub fn permission(name: &Name) -> String {
    format!("{PERMISSIONS}{name}")
}

/// The key of a service.
#[must_use]
pub fn service(name: &ServiceName) -> String {
    format!("{SERVICES}{name}")
}

/// The key of a version's source.
#[must_use]
pub fn code(version: &str) -> String {
    format!("{CODE}{version}")
}

/// The key of a server of the cluster.
#[must_use]
pub fn member(server: &str) -> String {
    format!("{MEMBERS}{server}")
}

/// What comes before the names of services in the keys of one server's statuses.
#[must_use]
pub fn statuses(server: &str) -> String {
    format!("{STATUS}{server}/services/")
}

/// The key of how a service stands on one server.
#[must_use]
pub fn status(server: &str, service: &ServiceName) -> String {
    format!("{STATUS}{server}/services/{service}")
}

/// The name at the end of a key that begins with `prefix`.
#[must_use]
pub fn name<'a>(prefix: &str, key: &'a str) -> Option<&'a str> {
    key.strip_prefix(prefix).filter(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_back_to_its_name() {
        let user: Name = "alice".parse().unwrap();
        assert_eq!(super::user(&user), "users/alice");
        assert_eq!(name(USERS, "users/alice"), Some("alice"));
        assert_eq!(name(USERS, "users/"), None);
        assert_eq!(name(USERS, "services/alice"), None);
        assert_eq!(status("a", &"b.c".parse().unwrap()), "status/a/services/b.c");
        assert_eq!(name(&statuses("a"), "status/a/services/b.c"), Some("b.c"));
    }
}
