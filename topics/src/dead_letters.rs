//! Choices among a subscription's dead letters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Timestamp, TopicName};

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

impl From<Selection> for Redrive {
    /// All at once, now.
    fn from(selection: Selection) -> Self {
        Self { selection, rate: None, dry_run: false }
    }
}
