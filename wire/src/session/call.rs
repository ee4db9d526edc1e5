//! What is asked rarely: the broker's contract as JSON, word for word.

use crossdock_topics::{
    DeadLetter, Expect, Redrive, Revision, Selection, StartAt, Subscription, SubscriptionName, Timestamp,
    Topic, TopicName,
};
use serde::{Deserialize, Serialize};

/// A call: `{"name": {arguments}}`, or `"name"` where there are none. Each says what its answer's JSON is, and what
/// bytes follow the JSON, of the call and of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Makes or changes a topic. Answer: its revision.
    PutTopic {
        /// As it is to be.
        topic: Topic,
        /// What must be true of `topics/NAME`.
        #[serde(default)]
        expect: Expect,
    },
    /// Deletes a topic. Answer: null.
    DeleteTopic {
        /// Which.
        name: TopicName,
    },
    /// What is known of a topic. Answer: that.
    Topic {
        /// Which.
        name: TopicName,
    },
    /// What is known of all topics. Answer: a list.
    Topics,
    /// Drops a topic's messages. Answer: the first offset that is kept.
    Purge {
        /// Which topic.
        name: TopicName,
        /// Those before this offset; all when absent.
        #[serde(default)]
        before: Option<u64>,
    },
    /// Waits until there is room to publish. Answer: null.
    Room,
    /// Makes or changes a subscription. Answer: its revision.
    PutSubscription {
        /// As it is to be.
        subscription: Subscription,
        /// What must be true of `subscriptions/NAME`.
        #[serde(default)]
        expect: Expect,
    },
    /// Deletes a subscription. Answer: null.
    DeleteSubscription {
        /// Which.
        name: SubscriptionName,
    },
    /// What is known of a subscription. Answer: that.
    Subscription {
        /// Which.
        name: SubscriptionName,
    },
    /// What is known of all subscriptions. Answer: a list.
    Subscriptions,
    /// Dead letters after a place. Answer: a list of [`Letter`]s; their records follow, each without its length.
    DeadLetters {
        /// Of which subscription.
        name: SubscriptionName,
        /// After this one.
        #[serde(default)]
        after: Option<(TopicName, u64)>,
        /// At most so many.
        max: u32,
    },
    /// Delivers dead letters again. Answer: how many.
    Redrive {
        /// Of which subscription.
        name: SubscriptionName,
        /// Which, and how.
        redrive: Redrive,
    },
    /// Forgets dead letters. Answer: how many.
    Discard {
        /// Of which subscription.
        name: SubscriptionName,
        /// Which.
        selection: Selection,
        /// Only count them.
        #[serde(default)]
        dry_run: bool,
    },
    /// Replaces a dead letter's message; its record follows. Answer: null.
    EditDeadLetter {
        /// Of which subscription.
        name: SubscriptionName,
        /// Its topic.
        topic: TopicName,
        /// Its offset.
        offset: u64,
    },
    /// Pauses or resumes a subscription. Answer: null.
    SetPaused {
        /// Which.
        name: SubscriptionName,
        /// Whether it is to be paused.
        paused: bool,
    },
    /// Moves a subscription's place. Answer: null.
    Seek {
        /// Which.
        name: SubscriptionName,
        /// In which topic; in all when absent.
        #[serde(default)]
        topic: Option<TopicName>,
        /// Where to.
        to: StartAt,
    },
    /// Keys that are parked. Answer: a list.
    ParkedKeys {
        /// Of which subscription.
        name: SubscriptionName,
        /// At most so many.
        max: u32,
    },
    /// Lets a parked key go on. Answer: how many were parked.
    ReleaseKey {
        /// Of which subscription.
        name: SubscriptionName,
        /// The key.
        key: String,
        /// Whether its message is given up.
        #[serde(default)]
        give_up: bool,
    },
    /// What has become of a message. Answer: that.
    Explain {
        /// The topic.
        topic: TopicName,
        /// The offset.
        offset: u64,
    },
    /// A key's value. Answer: null, or `{"revision"}` and the value follows.
    Get {
        /// The key.
        key: String,
    },
    /// Writes a key; the value follows. Answer: the revision.
    Put {
        /// The key.
        key: String,
        /// What must be true of it.
        #[serde(default)]
        expect: Expect,
        /// With which lease.
        #[serde(default)]
        lease: Option<u64>,
    },
    /// Deletes a key. Answer: the revision.
    Delete {
        /// The key.
        key: String,
        /// What must be true of it.
        #[serde(default)]
        expect: Expect,
    },
    /// All keys that begin so. Answers, until one says that no more follow: `{"revision", "entries"}` with a list of [`Written`], whose values
    /// follow one after another.
    List {
        /// How they begin.
        prefix: String,
    },
    /// Every change to keys that begin so. Answers, until one says that no more follow: a list of
    /// [`Written`], whose values follow one after another. The first one, at once, may be empty.
    Watch {
        /// How they begin.
        prefix: String,
        /// After this revision.
        after: Revision,
    },
    /// Makes a lease. Answer: its number.
    Grant {
        /// How long it lasts, in milliseconds.
        ttl_ms: u64,
    },
    /// Gives a lease its whole time again. Answer: null.
    KeepAlive {
        /// Which.
        lease: u64,
    },
    /// Ends a lease. Answer: null.
    Revoke {
        /// Which.
        lease: u64,
    },
}

/// A dead letter, as [`Call::DeadLetters`] lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
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
    /// Who failed.
    pub by: Option<String>,
    /// When it was given up.
    pub at: Timestamp,
    /// When its message had been stored; absent when that is gone.
    pub time: Option<Timestamp>,
    /// How many of the bytes that follow are its record.
    pub bytes: u32,
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        let record = letter.message.as_ref().map(|(_, record)| record.as_bytes().len());
        Self {
            topic: letter.topic.clone(),
            offset: letter.offset,
            reason: letter.reason.clone(),
            failures: letter.failures,
            deliveries: letter.deliveries,
            by: letter.by.clone(),
            at: letter.at,
            time: letter.message.as_ref().map(|(time, _)| *time),
            bytes: record.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0),
        }
    }
}

/// A key that was written or deleted, as [`Call::List`] and [`Call::Watch`] tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The key.
    pub key: String,
    /// When.
    pub revision: Revision,
    /// How many of the bytes that follow are its value; absent when it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

/// What answers a [`Call::List`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// What the list is as of.
    pub revision: Revision,
    /// The keys, in order, as far as they fit.
    pub entries: Vec<Written>,
}
