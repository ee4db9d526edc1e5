//! The whole life of one message, for whoever asks why it is not where it should be.

use serde::{Deserialize, Serialize};

use crate::{ConsumerId, SubscriptionName, Timestamp, TopicName};

/// What is known of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The topic.
    pub topic: TopicName,
    /// The offset.
    pub offset: u64,
    /// What is stored; absent when it is not kept (any more, or yet), and then `gone` says why.
    pub stored: Option<StoredFacts>,
    /// Why it is not there: not stored yet, trimmed by retention, compacted away.
    pub gone: Option<String>,
    /// How each subscription of the topic stands to it, by name.
    pub subscriptions: Vec<Situation>,
}

/// What is stored of a message, its payload aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFacts {
    /// When.
    pub time: Timestamp,
    /// The payload's size in bytes.
    pub bytes: u64,
    /// Its id.
    pub id: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it may first be delivered.
    pub deliver_at: Option<Timestamp>,
}

/// How a subscription stands to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Which of the states it is in.
    pub state: MessageState,
    /// In words: why it is there, and what it waits for.
    pub why: String,
    /// How often it has been delivered, as far as it is remembered.
    pub deliveries: u32,
    /// How often it has failed.
    pub failures: u32,
    /// Why it failed last.
    pub reason: Option<String>,
    /// Who failed last.
    pub by: Option<String>,
    /// Who holds it.
    pub consumer: Option<ConsumerId>,
    /// Until when it is held, or when it is due.
    pub until: Option<Timestamp>,
}

/// The states a message can be in for one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It has not been looked at yet: others come first, or nothing is delivered now.
    Waiting,
    /// A consumer holds it.
    InFlight,
    /// It waits to be delivered again: for its backoff, its time, or a consumer.
    SetAside,
    /// It waits for an earlier message of its key.
    BehindKey,
    /// It failed too often and its key is parked.
    Parked,
    /// It was given up.
    DeadLetter,
    /// It was acknowledged, discarded, expired, did not pass the filter, or lay before the place where
    /// the subscription began.
    Done,
}
