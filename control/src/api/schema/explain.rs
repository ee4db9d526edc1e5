//! What the explanation of a message looks like in JSON.
#![allow(dead_code)] // the fields are read by the derive alone

use serde::Serialize;
use utoipa::ToSchema;

/// What is known of one message.
#[derive(ToSchema)]
pub(crate) struct Explanation {
    /// The topic.
    topic: String,
    /// The offset.
    offset: u64,
    /// What is stored; absent when it is not kept.
    stored: Option<StoredFacts>,
    /// Why it is not there: not stored yet, trimmed by retention, compacted away.
    gone: Option<String>,
    /// How each subscription of the topic stands to it, by name.
    subscriptions: Vec<Situation>,
}

/// What is stored of a message, its payload aside.
#[derive(ToSchema)]
pub(crate) struct StoredFacts {
    /// When.
    #[schema(format = DateTime)]
    time: String,
    /// The payload's size in bytes.
    bytes: u64,
    /// Its id.
    id: Option<String>,
    /// Its key.
    key: Option<String>,
    /// When it expires.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// When it may first be delivered.
    #[schema(format = DateTime)]
    deliver_at: Option<String>,
}

/// How a subscription stands to a message.
#[derive(ToSchema)]
pub(crate) struct Situation {
    /// The subscription.
    subscription: String,
    /// Which of the states it is in.
    state: MessageState,
    /// In words: why it is there, and what it waits for.
    why: String,
    /// How often it has been delivered, as far as it is remembered.
    deliveries: u32,
    /// How often it has failed.
    failures: u32,
    /// Why it failed last.
    reason: Option<String>,
    /// Who failed last.
    by: Option<String>,
    /// Who holds it.
    consumer: Option<u64>,
    /// Until when it is held, or when it is due.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// The states a message can be in for one subscription.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MessageState {
    /// It has not been looked at yet.
    Waiting,
    /// A consumer holds it.
    InFlight,
    /// It waits to be delivered again.
    SetAside,
    /// It waits for an earlier message of its key.
    BehindKey,
    /// It failed too often and its key is parked.
    Parked,
    /// It was given up.
    DeadLetter,
    /// Nothing is left to do about it.
    Done,
}
