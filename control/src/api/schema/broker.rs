//! What the contract's types look like in JSON.
#![allow(dead_code)] // the fields are read by the derive alone

use std::collections::BTreeMap;

use serde::Serialize;
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
    /// Keeps only the newest message of each key, beside what the limits say; `false` unless said.
    compact: Option<bool>,
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
    /// In which order messages are delivered; `none` unless said.
    order: Option<Order>,
    /// Whether messages of higher priority overtake others that wait; not together with `order: key`.
    priorities: Option<bool>,
    /// Who of those who have joined gets messages; `shared` unless said.
    sharing: Option<Sharing>,
    /// Which messages it is about; others count as settled.
    filter: Option<Filter>,
}

/// In which order a subscription delivers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// As fast as consumers take.
    None,
    /// Messages of one key one after another.
    Key,
}

/// Who of the consumers that have joined gets messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sharing {
    /// All of them.
    Shared,
    /// The one that joined first; when it leaves, the next.
    Failover,
    /// The only one.
    Exclusive,
}

/// A choice among messages. All that is given must be true; what cannot be evaluated is delivered.
#[derive(ToSchema)]
pub(crate) struct Filter {
    /// The message has these headers with exactly these values.
    headers: Option<BTreeMap<String, String>>,
    /// A jq program over the payload as JSON, such as `.total > 100`.
    jq: Option<String>,
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
    /// Whether an operator has paused it: nothing is delivered until it is resumed.
    paused: bool,
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
    /// Messages that wait for an earlier one of their key (of `set_aside`).
    behind_key: u64,
    /// Keys that are parked.
    parked_keys: u64,
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
    /// What it stands on, and what becomes of an acknowledged message there, in words.
    detail: Option<String>,
    /// What works, and is less safe than whoever runs it may think: what it is, and what to do.
    warning: Option<String>,
}

/// A key that waits alone, because its message failed too often.
#[derive(ToSchema)]
pub(crate) struct ParkedKey {
    /// The topic.
    topic: String,
    /// The key.
    key: String,
    /// The message that failed.
    offset: u64,
    /// Why it failed last.
    reason: String,
    /// How often it failed.
    failures: u32,
    /// Who failed.
    by: Option<String>,
    /// Since when the key is parked.
    #[schema(format = DateTime)]
    since: String,
    /// How many messages of the key wait behind it, as far as the subscription has looked.
    waiting: u64,
}

/// What is asked of dead letters. What is absent is not asked.
#[derive(ToSchema)]
pub(crate) struct DeadLetterFilter {
    /// They lie in this topic.
    topic: Option<String>,
    /// Their reason contains this text.
    reason: Option<String>,
    /// Who failed begins with this.
    by: Option<String>,
    /// They were given up at or after this moment.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// They were given up before this moment.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Their message has this key.
    key: Option<String>,
    /// Their message has all these headers with these values.
    headers: Option<BTreeMap<String, String>>,
}
