//! One topic, as this engine has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossdock_topics::{Durability, Revision, Source, Timestamp, Topic, TopicName};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::follower::Following;
use super::group::Waiting;
use super::publisher::Sending;

/// One topic, as this engine has it.
pub(in crate::jetstream) struct TopicLog {
    /// Names its stream. Another topic of the same name has another one.
    pub(in crate::jetstream) number: u32,
    pub(in crate::jetstream) name: TopicName,
    /// What of it was moved here.
    pub(super) moved: Option<Moved>,
    /// How many servers have each message.
    pub(super) replicas: usize,
    /// What a receipt is worth.
    pub(super) durability: Durability,
    definition: RwLock<(Arc<Topic>, Revision)>,
    /// The log goes on at least here: this engine has been told of all before it.
    tail: AtomicU64,
    pub(super) queue: Mutex<Queue>,
    /// Told when something has come into the queue that somebody works on.
    pub(super) queued: Notify,
    /// What the one who publishes knows, while nobody does.
    pub(super) sending: Mutex<Option<Box<Sending>>>,
    pub(in crate::jetstream) following: Arc<Following>,
    /// Set when the topic is deleted.
    pub(super) deleted: CancellationToken,
}

/// What of a topic was moved here: each such message says when it was stored, NATS does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::jetstream) struct Moved {
    /// All before this offset.
    pub(in crate::jetstream) end: u64,
    /// When the newest of them was stored.
    pub(in crate::jetstream) last: Timestamp,
}

/// What waits to be published, in order.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Queued>,
    /// Whether somebody publishes them.
    pub(super) running: bool,
}

/// What waits for its turn.
pub(super) enum Queued {
    /// A batch.
    Batch(Waiting),
    /// A batch of a publisher that was refused: those behind it go on.
    Refused(Source),
}

impl TopicLog {
    pub(super) fn new(
        number: u32,
        moved: Option<Moved>,
        replicas: usize,
        durability: Durability,
        topic: Topic,
        revision: Revision,
    ) -> Self {
        let topic_name = topic.name.clone();
        Self {
            number,
            name: topic.name.clone(),
            moved,
            replicas,
            durability,
            definition: RwLock::new((Arc::new(topic), revision)),
            tail: AtomicU64::new(0),
            queue: Mutex::default(),
            queued: Notify::new(),
            sending: Mutex::new(None),
            following: Arc::new(Following::new(number, topic_name)),
            deleted: CancellationToken::new(),
        }
    }

    pub(in crate::jetstream) fn definition(&self) -> (Arc<Topic>, Revision) {
        self.definition.read().clone()
    }

    pub(super) fn redefine(&self, topic: Topic, revision: Revision) {
        let mut definition = self.definition.write();
        if revision > definition.1 {
            *definition = (Arc::new(topic), revision);
        }
    }

    /// Up to where this engine knows the log to go.
    pub(in crate::jetstream) fn known_tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    pub(super) fn knows_tail(&self, tail: u64) {
        self.tail.fetch_max(tail, Ordering::AcqRel);
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.is_cancelled()
    }

    /// From now on nothing is published, and whoever waits for more is told.
    pub(super) fn mark_deleted(&self) {
        self.deleted.cancel();
        self.following.feed.mark_deleted();
    }
}
