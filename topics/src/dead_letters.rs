//! Choices among a subscription's dead letters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DeadLetter, Error, Record, Timestamp, TopicName};

/// Which dead letters of a subscription are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Every one.
    All,
    /// These, by topic and offset.
    These(Vec<(TopicName, u64)>),
    /// Those of which everything that is asked is true.
    Matching(Box<DeadLetterFilter>),
}

/// What is asked of dead letters. What is absent is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// They lie in this topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
    /// Their reason contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who failed begins with this, such as a service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// They were given up at or after this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// They were given up before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Their message has this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Their message has all these headers with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl DeadLetterFilter {
    /// Whether a dead letter is one of those that are asked for. One whose message is gone has neither key nor headers.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let by = letter.by.as_deref().unwrap_or_default();
        let record = letter.message.as_ref().map(|(_, record)| record);
        self.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
            && self.reason.as_ref().is_none_or(|part| letter.reason.contains(part.as_str()))
            && self.by.as_ref().is_none_or(|start| by.starts_with(start.as_str()))
            && self.since.is_none_or(|since| letter.at >= since)
            && self.until.is_none_or(|until| letter.at < until)
            && self.key.as_ref().is_none_or(|key| record.and_then(Record::key) == Some(key.as_str()))
            && self.headers.iter().all(|(name, value)| {
                record.is_some_and(|record| record.headers().any(|(n, v)| n == name && v == value))
            })
    }
}

/// How dead letters are delivered again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// Which.
    pub selection: Selection,
    /// At most so many a second (0.001 or more); all at once when absent. The moments are set now, so that a restart
    /// does not forget them.
    pub rate: Option<f64>,
    /// Only count them.
    pub dry_run: bool,
}

impl Redrive {
    /// Checks that the rate is one.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidArgument`].
    pub fn check(&self) -> Result<(), Error> {
        match self.rate.filter(|rate| !rate.is_finite() || *rate < 0.001) {
            None => Ok(()),
            Some(rate) => Err(Error::invalid(format!("{rate} a second is not a rate"))
                .hint("use 0.001 or more, or none to have all of them at once")),
        }
    }
}

impl From<Selection> for Redrive {
    /// All at once, now.
    fn from(selection: Selection) -> Self {
        Self { selection, rate: None, dry_run: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    fn letter(message: Option<Message>) -> DeadLetter {
        DeadLetter {
            topic: "orders".parse().unwrap(),
            offset: 7,
            reason: "KeyError: customer".into(),
            failures: 5,
            deliveries: 5,
            by: Some("billing@1a2b".into()),
            at: Timestamp(1_000),
            message: message.map(|message| (Timestamp(0), Record::of(&message).unwrap())),
        }
    }

    fn filter(json: &str) -> DeadLetterFilter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn all_that_is_asked_must_be_true() {
        let letter = letter(Some(Message::new("x").with_key("k").with_header("region", "eu")));
        for yes in [
            "{}",
            r#"{"topic": "orders", "reason": "KeyError", "by": "billing", "key": "k", "headers": {"region": "eu"}}"#,
            r#"{"since": "1970-01-01T00:00:01Z", "until": "1970-01-01T00:00:01.001Z"}"#,
        ] {
            assert!(filter(yes).matches(&letter), "{yes}");
        }
        for no in [
            r#"{"topic": "order"}"#,
            r#"{"reason": "ValueError"}"#,
            r#"{"by": "@1a2b"}"#,
            r#"{"since": "1970-01-01T00:00:01.001Z"}"#,
            r#"{"until": "1970-01-01T00:00:01Z"}"#,
            r#"{"key": "K"}"#,
            r#"{"reason": "KeyError", "headers": {"region": "us"}}"#,
        ] {
            assert!(!filter(no).matches(&letter), "{no}");
        }
    }

    #[test]
    fn one_whose_message_is_gone_has_neither_key_nor_headers() {
        assert!(filter(r#"{"by": "billing"}"#).matches(&letter(None)));
        assert!(!filter(r#"{"key": "k"}"#).matches(&letter(None)));
        assert!(!filter(r#"{"headers": {"region": "eu"}}"#).matches(&letter(None)));
    }
}
