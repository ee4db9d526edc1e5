//! What a topic is, and what is known of one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::size;
use crate::time::human;
use crate::{Batch, Durability, Error, ErrorCode, Timestamp, TopicName};

/// A topic as it is defined. The name is its identity; everything else can be changed while it is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// The least an acknowledgement on this topic is worth.
    #[serde(default)]
    pub durability: Durability,
    /// How long messages are kept.
    #[serde(default)]
    pub retention: Retention,
    /// How long an id is remembered: publishing it again within this time stores nothing. Zero turns
    /// deduplication off. At most [`Topic::MAX_DEDUP_IDS`] of the newest ids are remembered.
    #[serde(default = "Topic::default_dedup_window", with = "human")]
    pub dedup_window: Duration,
    /// The largest payload it takes, in bytes.
    #[serde(default = "Topic::default_max_message_bytes", deserialize_with = "size::bytes")]
    pub max_message_bytes: usize,
}

impl Topic {
    /// The most ids a topic remembers for deduplication.
    pub const MAX_DEDUP_IDS: usize = 500_000;

    /// A topic with everything else as it is by default: `fsync`, kept for 7 days, ids remembered for 10
    /// minutes, payloads of up to 1 MiB.
    #[must_use]
    pub fn new(name: TopicName) -> Self {
        Self {
            name,
            durability: Durability::default(),
            retention: Retention::default(),
            dedup_window: Self::default_dedup_window(),
            max_message_bytes: Self::default_max_message_bytes(),
        }
    }

    fn default_dedup_window() -> Duration {
        Duration::from_secs(600)
    }

    fn default_max_message_bytes() -> usize {
        1024 * 1024
    }

    /// Checks that a batch may be published to it.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] for an empty batch, [`ErrorCode::TooLarge`] for a payload over the limit.
    pub fn admit(&self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Err(Error::invalid("the batch is empty").hint("publish at least one message"));
        }
        let (largest, limit) = (batch.largest_payload(), self.max_message_bytes);
        if largest > limit {
            let message = format!("a payload has {largest} bytes, topic {} takes at most {limit}", self.name);
            return Err(Error::new(ErrorCode::TooLarge, message)
                .hint("make it smaller, or raise the topic's max_message_bytes"));
        }
        Ok(())
    }

    /// Checks that the definition makes sense.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidArgument`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::invalid(format!("topic {}: {why}", self.name)));
        if self.max_message_bytes == 0 || self.max_message_bytes > crate::message::MAX_PAYLOAD {
            return wrong(format!(
                "max_message_bytes is {}, it can be 1 to {}",
                self.max_message_bytes,
                crate::message::MAX_PAYLOAD
            ));
        }
        if self.retention.max_age.is_some_and(|age| age.is_zero()) {
            return wrong("retention.max_age is 0, which would keep nothing".into());
        }
        if self.dedup_window > Duration::from_secs(7 * 86_400) {
            return wrong("dedup_window is longer than 7 days".into());
        }
        Ok(())
    }
}

/// How long messages are kept. Whichever limit is reached first trims the oldest; none keeps them for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Older messages may go. Unlike the others it is written down even when there is none (as `null`), for a
    /// retention that does not mention it has the default.
    #[serde(with = "human::option")]
    pub max_age: Option<Duration>,
    /// Beyond this many bytes of messages (as packed, before compression) the oldest may go.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "size::option")]
    pub max_bytes: Option<u64>,
    /// Beyond this many messages the oldest may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// Whether retention may drop messages that a subscription has not settled yet, or keeps as dead letters.
    /// Unless it may, such messages stay, and [`TopicInfo::held_by`] says for whom.
    pub drop_unread: bool,
    /// Keeps only the newest message of each key, beside what the limits say: older ones with the same key go, one by
    /// one, once every subscription has settled them (or at once with `drop_unread`), and leave gaps in the offsets.
    /// Messages without a key stay. A newest message with an empty payload says that the key is gone: it goes
    /// too, a day after it was stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compact: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age: Some(Duration::from_secs(7 * 86_400)),
            max_bytes: None,
            max_messages: None,
            drop_unread: false,
            compact: false,
        }
    }
}

/// What is known of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Its definition.
    pub topic: Topic,
    /// The revision of its definition.
    pub revision: u64,
    /// The offset of the oldest message kept; equal to `tail` when there is none.
    pub head: u64,
    /// The offset the next message will get; all before it are as durable as promised and can be read.
    pub tail: u64,
    /// The bytes kept, as packed, before compression.
    pub bytes: u64,
    /// When the newest message was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Why retention keeps more than its limits say: which subscription still needs which
    /// offset, as unsettled or as a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_can_be_written_with_their_unit() {
        let topic: Topic = serde_json::from_str(
            r#"{"name": "t", "max_message_bytes": "64KiB", "retention": {"max_bytes": "1GiB"}}"#,
        )
        .unwrap();
        assert_eq!((topic.max_message_bytes, topic.retention.max_bytes), (64 << 10, Some(1 << 30)));
    }

    #[test]
    fn a_definition_survives_its_json() {
        let mut topic = Topic::new("orders".parse().unwrap());
        for max_age in [None, Some(Duration::from_secs(60))] {
            topic.retention.max_age = max_age;
            let json = serde_json::to_string(&topic).unwrap();
            assert_eq!(serde_json::from_str::<Topic>(&json).unwrap(), topic, "{json}");
        }
        let default: Topic = serde_json::from_str(r#"{"name": "orders"}"#).unwrap();
        assert_eq!(default, Topic::new("orders".parse().unwrap()));
    }
}
