//! What the contract's own types look like in JSON, for the OpenAPI document only: those types know nothing
//! of OpenAPI. A test holds these descriptions against what the types really serialize to.
#![allow(dead_code)] // their fields are read by the derive alone

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Any JSON value.
pub(crate) struct Any;

impl PartialSchema for Any {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("Any JSON value.")).into()
    }
}

impl ToSchema for Any {}

/// What an acknowledgement is worth.
pub(crate) struct Durability;

impl PartialSchema for Durability {
    fn schema() -> RefOr<Schema> {
        let words =
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["memory", "os", "fsync"]));
        let quorum = ObjectBuilder::new()
            .property("quorum", ObjectBuilder::new().schema_type(Type::Integer))
            .required("quorum");
        OneOfBuilder::new()
            .item(words)
            .item(quorum)
            .description(Some("What an acknowledgement is worth: in memory, with the operating system, synced to disk, or stored by so many servers."))
            .into()
    }
}

impl ToSchema for Durability {}

/// Where a subscription begins.
pub(crate) struct StartAt;

impl PartialSchema for StartAt {
    fn schema() -> RefOr<Schema> {
        let words = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["start", "end"]));
        let offset = ObjectBuilder::new()
            .property("offset", ObjectBuilder::new().schema_type(Type::Integer))
            .required("offset");
        let time = ObjectBuilder::new()
            .property("time", ObjectBuilder::new().schema_type(Type::String))
            .required("time");
        OneOfBuilder::new()
            .item(words)
            .item(offset)
            .item(time)
            .description(Some("A place in a topic: its start, its end, an offset, or a moment."))
            .into()
    }
}

impl ToSchema for StartAt {}

/// A topic as it is defined. The name can be left out where the path has it.
#[derive(ToSchema)]
pub(crate) struct Topic {
    /// Its name.
    name: Option<String>,
    /// The least an acknowledgement on this topic is worth; `fsync` unless said.
    durability: Option<Durability>,
    /// How long messages are kept.
    retention: Option<Retention>,
    /// How long an id is remembered for deduplication, such as `10m`.
    dedup_window: Option<String>,
    /// The largest payload it takes, in bytes; 1 MiB unless said.
    max_message_bytes: Option<u64>,
}

/// How long messages are kept. Whichever limit is reached first trims the oldest.
#[derive(ToSchema)]
pub(crate) struct Retention {
    /// Older messages may go, such as `7d`.
    max_age: Option<String>,
    /// Beyond this many bytes the oldest may go.
    max_bytes: Option<u64>,
    /// Beyond this many messages the oldest may go.
    max_messages: Option<u64>,
    /// Whether messages may go that a subscription has not settled yet.
    drop_unread: Option<bool>,
}

/// What is known of a topic.
#[derive(ToSchema)]
pub(crate) struct TopicInfo {
    /// Its definition.
    topic: Topic,
    /// The revision of its definition.
    revision: u64,
    /// The offset of the oldest message kept.
    head: u64,
    /// The offset the next message will get.
    tail: u64,
    /// The bytes kept, before compression.
    bytes: u64,
    /// When the newest message was stored.
    #[schema(format = DateTime)]
    last: Option<String>,
    /// Why retention keeps more than its limits say.
    held_by: Option<String>,
}

/// A subscription as it is defined. The name can be left out where the path has it.
#[derive(ToSchema)]
pub(crate) struct Subscription {
    /// Its name.
    name: Option<String>,
    /// The topics it takes messages from, by name or pattern (`*` is one segment, `**` many).
    topics: Vec<String>,
    /// Where it begins in topics that exist when it is made.
    start: Option<StartAt>,
    /// After this many failures a message goes to the dead letters; 5 unless said.
    max_failures: Option<u32>,
    /// How long a failed message waits.
    backoff: Option<Backoff>,
    /// How long a consumer may hold a message, such as `30s`.
    lease: Option<String>,
    /// How many messages may be with consumers at one time, in each topic.
    max_in_flight: Option<u32>,
}

/// How long to wait before trying again.
#[derive(ToSchema)]
pub(crate) struct Backoff {
    /// The wait after the first failure, such as `1s`.
    first: Option<String>,
    /// By how much each wait is longer than the one before it.
    factor: Option<f64>,
    /// The longest wait, such as `5m`.
    max: Option<String>,
}

/// What is known of a subscription.
#[derive(ToSchema)]
pub(crate) struct SubscriptionInfo {
    /// Its definition.
    subscription: Subscription,
    /// The revision of its definition.
    revision: u64,
    /// How many consumers have joined.
    consumers: u64,
    /// How it stands in each of its topics.
    topics: Vec<TopicProgress>,
}

/// How a subscription stands in one topic.
#[derive(ToSchema)]
pub(crate) struct TopicProgress {
    /// The topic.
    topic: String,
    /// The next offset that has not been looked at yet.
    next: u64,
    /// Messages stored but not looked at yet.
    waiting: u64,
    /// Messages with consumers now.
    in_flight: u64,
    /// Messages set aside for a backoff or a delivery time.
    set_aside: u64,
    /// Messages in the dead letters.
    dead_letters: u64,
}

/// Whether the broker can be relied on.
#[derive(ToSchema)]
pub(crate) struct BrokerHealth {
    /// Whether it takes writes.
    ready: bool,
    /// Why not.
    reason: Option<String>,
    /// The engine and where it keeps its data.
    engine: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn described<T: PartialSchema>() -> BTreeSet<String> {
        match T::schema() {
            RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
            _ => panic!("not an object"),
        }
    }

    fn serialized(value: &impl serde::Serialize) -> BTreeSet<String> {
        match serde_json::to_value(value).unwrap() {
            serde_json::Value::Object(map) => map.keys().cloned().collect(),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn the_descriptions_name_the_fields_that_the_types_have() {
        let topic = crossdock_topics::Topic::new("a".parse().unwrap());
        let retention = crossdock_topics::Retention {
            max_bytes: Some(1),
            max_messages: Some(1),
            ..crossdock_topics::Retention::default()
        };
        assert_eq!(described::<Topic>(), serialized(&topic));
        assert_eq!(described::<Retention>(), serialized(&retention));
        let info = crossdock_topics::TopicInfo {
            topic,
            revision: 1,
            head: 0,
            tail: 0,
            bytes: 0,
            last: Some(crossdock_topics::Timestamp(0)),
            held_by: Some(String::new()),
        };
        assert_eq!(described::<TopicInfo>(), serialized(&info));
        let subscription =
            crossdock_topics::Subscription::new("s".parse().unwrap(), vec!["a".parse().unwrap()]);
        assert_eq!(described::<Subscription>(), serialized(&subscription));
        assert_eq!(described::<Backoff>(), serialized(&subscription.backoff));
        let progress = crossdock_topics::TopicProgress {
            topic: "a".parse().unwrap(),
            next: 0,
            waiting: 0,
            in_flight: 0,
            set_aside: 0,
            dead_letters: 0,
        };
        assert_eq!(described::<TopicProgress>(), serialized(&progress));
        let info = crossdock_topics::SubscriptionInfo {
            subscription,
            revision: 1,
            consumers: 0,
            topics: vec![progress],
        };
        assert_eq!(described::<SubscriptionInfo>(), serialized(&info));
        let health = crossdock_topics::Health { ready: false, reason: Some("x".into()), engine: "x".into() };
        assert_eq!(described::<BrokerHealth>(), serialized(&health));
    }
}
