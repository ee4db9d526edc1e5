//! Subscriptions and their dead letters.

use crossdock_topics::{Error, Selection, SubscriptionInfo, Timestamp, TopicName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Message, schema};

/// All subscriptions, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionList {
    /// The subscriptions.
    #[schema(value_type = Vec<schema::SubscriptionInfo>)]
    pub subscriptions: Vec<SubscriptionInfo>,
}

/// A message that a subscription has given up on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The topic it lies in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
    /// Why it was given up.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Who failed, such as a service and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The message; absent when retention has dropped it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}

impl From<crossdock_topics::DeadLetter> for DeadLetter {
    fn from(letter: crossdock_topics::DeadLetter) -> Self {
        let message = letter
            .message
            .map(|(time, record)| Message::new(letter.topic.clone(), letter.offset, time, &record));
        Self {
            topic: letter.topic,
            offset: letter.offset,
            reason: letter.reason,
            failures: letter.failures,
            deliveries: letter.deliveries,
            by: letter.by,
            at: letter.at,
            message,
        }
    }
}

/// Dead letters of a subscription, by topic and offset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    /// The dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// What to pass as `after` for the next page; absent when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which dead letters are meant: `{"all": true}`, or `{"messages": [{"topic", "offset"}]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterSelection {
    /// Every one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// These: at most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageRef>,
}

impl DeadLetterSelection {
    /// The most messages that one request can name.
    pub const MAX_MESSAGES: usize = 10_000;

    /// The selection it stands for.
    ///
    /// # Errors
    /// `InvalidArgument` when it says nothing, or both, or too much.
    pub fn into_selection(self) -> Result<Selection, Error> {
        match (self.all, self.messages.len()) {
            (true, 0) => Ok(Selection::All),
            (false, 1..=Self::MAX_MESSAGES) => {
                Ok(Selection::These(self.messages.into_iter().map(|m| (m.topic, m.offset)).collect()))
            }
            (false, 0) => Err(Error::invalid("no dead letter is named")
                .hint("send {\"all\": true}, or {\"messages\": [{\"topic\": ..., \"offset\": ...}]}")),
            (true, _) => {
                Err(Error::invalid("all is true, and messages are named too").hint("leave out one of them"))
            }
            (false, count) => Err(Error::invalid(format!(
                "messages names {count}, one request can name {}",
                Self::MAX_MESSAGES
            ))),
        }
    }
}

/// Names a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageRef {
    /// The topic it lies in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
}

/// How many were concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// How many.
    pub count: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Selection, Error> {
        serde_json::from_str::<DeadLetterSelection>(text)
            .map_err(|cause| Error::invalid(cause.to_string()))?
            .into_selection()
    }

    #[test]
    fn a_selection_says_one_thing() {
        assert_eq!(read(r#"{"all": true}"#).unwrap(), Selection::All);
        assert_eq!(
            read(r#"{"messages": [{"topic": "a", "offset": 3}]}"#).unwrap(),
            Selection::These(vec![("a".parse().unwrap(), 3)])
        );
        for wrong in [
            "{}",
            r#"{"all": false}"#,
            r#"{"all": true, "messages": [{"topic": "a", "offset": 3}]}"#,
            r#"{"messages": [{"topic": "a b", "offset": 3}]}"#,
            r#"{"every": true}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
