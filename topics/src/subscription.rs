//! What a subscription is, and what is known of one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::human;
use crate::{Backoff, Error, Filter, Record, StartAt, SubscriptionName, Timestamp, TopicName, TopicPattern};

/// A subscription as it is defined. Its name is its identity. Everything but where it starts can be changed
/// while it is in use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Its name.
    pub name: SubscriptionName,
    /// The topics it takes messages from, by name or pattern. A topic made later is taken from its start.
    pub topics: Vec<TopicPattern>,
    /// Where it begins in topics that exist when it is made.
    #[serde(default)]
    pub start: StartAt,
    /// After this many failures a message goes to the dead letters. 1 to 1,000,000.
    #[serde(default = "Subscription::default_max_failures")]
    pub max_failures: u32,
    /// How long a failed message waits.
    #[serde(default)]
    pub backoff: Backoff,
    /// How long a consumer may hold a message before it is taken back, which counts as a failure.
    /// 10 ms to 12 h.
    #[serde(default = "Subscription::default_lease", with = "human")]
    pub lease: Duration,
    /// How many messages may be with consumers at one time, in each topic. 1 to 65,536.
    #[serde(default = "Subscription::default_max_in_flight")]
    pub max_in_flight: u32,
    /// In which order messages are delivered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: Order,
    /// Whether messages of higher priority overtake others that wait: within the [`Subscription::LOOK_AHEAD`] messages
    /// that come next. Not together with `order: key`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priorities: bool,
    /// Who of those who have joined gets messages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sharing: Sharing,
    /// Which messages it is about; others count as settled. A changed filter applies to what is looked at from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// In which order a subscription delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As fast as consumers take; a message that failed is overtaken by those behind it.
    #[default]
    None,
    /// Messages of one key (within one topic) one after another: the next is not delivered before it is durable that the
    /// one before it is settled. A key whose message failed too often is parked: it alone waits, with what lies behind it, until it
    /// is released or given up; see [`ParkedKey`]. A consumer's `Reject` sends the message to the dead letters and the
    /// key goes on. Keys are spread over 256 slots, and slots over the consumers that have joined, so that a
    /// consumer sees the same keys for as long as it and the others stay; a slot that changes hands waits until
    /// what its old owner holds is settled or given back. Messages without a key are not ordered. Chosen for a
    /// subscription in use, it counts for all that is not settled, but what is with consumers at that moment stays there; a
    /// dead letter from before that is redriven without regard to its key.
    Key,
}

/// Who of the consumers that have joined gets messages. With `failover` and `exclusive` a fetch needs a consumer that
/// has joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// All of them, whoever asks.
    #[default]
    Shared,
    /// The one that joined first; when it leaves, the next.
    Failover,
    /// The only one: a second one that joins is refused with [`crate::ErrorCode::Conflict`].
    Exclusive,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Subscription {
    /// How far priorities look ahead, in each topic, in messages.
    pub const LOOK_AHEAD: usize = 8192;
    /// The most messages that may be set aside (for a backoff or a delivery time) in each topic. Beyond it
    /// no new messages are delivered until some have gone.
    pub const MAX_SET_ASIDE: usize = 1_000_000;

    /// A subscription with everything else as it is by default.
    #[must_use]
    pub fn new(name: SubscriptionName, topics: Vec<TopicPattern>) -> Self {
        Self {
            name,
            topics,
            start: StartAt::Start,
            max_failures: Self::default_max_failures(),
            backoff: Backoff::default(),
            lease: Self::default_lease(),
            max_in_flight: Self::default_max_in_flight(),
            order: Order::None,
            priorities: false,
            sharing: Sharing::Shared,
            filter: None,
        }
    }

    fn default_max_failures() -> u32 {
        5
    }

    fn default_lease() -> Duration {
        Duration::from_secs(30)
    }

    fn default_max_in_flight() -> u32 {
        4096
    }

    /// Checks that the definition makes sense.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidArgument`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::invalid(format!("subscription {}: {why}", self.name)));
        if self.topics.is_empty() || self.topics.len() > 100 {
            return wrong("topics must name 1 to 100 topics or patterns");
        }
        if !(1..=1_000_000).contains(&self.max_failures) {
            return wrong("max_failures can be 1 to 1000000");
        }
        if !(1..=65_536).contains(&self.max_in_flight) {
            return wrong("max_in_flight can be 1 to 65536");
        }
        if self.priorities && self.order == Order::Key {
            return wrong("priorities and order: key contradict each other; choose one");
        }
        if let Some(filter) = &self.filter {
            filter.check()?;
        }
        if self.lease < Duration::from_millis(10) || self.lease > Duration::from_secs(12 * 3600) {
            return wrong("lease can be 10ms to 12h");
        }
        if !(1.0..=100.0).contains(&self.backoff.factor) {
            return wrong("backoff.factor can be 1 to 100");
        }
        if self.backoff.max > Duration::from_secs(7 * 86_400) || self.backoff.first > self.backoff.max {
            return wrong("backoff.first can be at most backoff.max, and that at most 7d");
        }
        Ok(())
    }
}

/// What is known of a subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionInfo {
    /// Its definition.
    pub subscription: Subscription,
    /// The revision of its definition.
    pub revision: u64,
    /// How many consumers have joined.
    pub consumers: usize,
    /// Whether an operator has paused it: nothing is delivered until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// How it stands in each of its topics, by name.
    pub topics: Vec<TopicProgress>,
}

/// How a subscription stands in one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicProgress {
    /// The topic.
    pub topic: TopicName,
    /// The next offset that has not been looked at yet.
    pub next: u64,
    /// Messages stored but not looked at yet.
    pub waiting: u64,
    /// Messages with consumers now.
    pub in_flight: u64,
    /// Messages set aside for a backoff or a delivery time.
    pub set_aside: u64,
    /// Messages that wait for an earlier one of their key (of `set_aside`).
    #[serde(default)]
    pub behind_key: u64,
    /// Keys that are parked.
    #[serde(default)]
    pub parked_keys: u64,
    /// Messages in the dead letters.
    pub dead_letters: u64,
}

/// A message that was given up on, for one subscription. It lies in the log where it always did.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The topic it lies in.
    pub topic: TopicName,
    /// Its offset.
    pub offset: u64,
    /// Why it was given up.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Who failed, such as a service and its version.
    pub by: Option<String>,
    /// When it was given up.
    pub at: Timestamp,
    /// When it had been stored, and the message; absent when retention is dropping it at this moment. Where
    /// retention may drop what is unread, a dead letter goes with its message.
    pub message: Option<(Timestamp, Record)>,
}

/// A key that waits alone, because its message failed too often, on a subscription with `order: key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedKey {
    /// The topic.
    pub topic: TopicName,
    /// The key.
    pub key: String,
    /// The message that failed.
    pub offset: u64,
    /// Why it failed last.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// Who failed.
    pub by: Option<String>,
    /// Since when the key is parked.
    pub since: Timestamp,
    /// How many messages of the key wait behind it, as far as the subscription has looked.
    pub waiting: u64,
}
