//! One topic, as this engine has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossdock_topics::{Durability, Revision, Source, Timestamp, Topic, TopicName};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::durability;
use super::follower::Following;
use super::group::Waiting;
use super::publisher::Sending;

/// So many batches that were refused wait among the others, to tell their publishers' next ones; they take no room.
const MOST_REFUSED: usize = 10_000;

/// One topic, as this engine has it.
pub(in crate::jetstream) struct TopicLog {
    /// Names its stream. Another topic of the same name has another one.
    pub(in crate::jetstream) number: u32,
    pub(in crate::jetstream) name: TopicName,
    /// What of it was moved here.
    pub(super) moved: Option<Moved>,
    /// How many servers have each message, as NATS said last.
    replicas: AtomicUsize,
    /// Whether each of them syncs it before that is acknowledged.
    sync_always: bool,
    definition: RwLock<(Arc<Topic>, Revision)>,
    /// The log goes on at least here: this engine has been told of all before it.
    tail: AtomicU64,
    /// Who publishes has not taken in yet that it ends before what was known of it.
    is_shorter: AtomicBool,
    /// How often that was found.
    lives: AtomicU64,
    pub(super) queue: Mutex<Queue>,
    /// Told when something has come into the queue that somebody works on.
    pub(super) queued: Notify,
    /// What the one who publishes knows, while nobody does.
    pub(super) sending: Mutex<Option<Box<Sending>>>,
    pub(in crate::jetstream) following: Arc<Following>,
    /// This engine has heard of another topic of this name before it heard that this one is deleted.
    is_replaced: AtomicBool,
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
    /// How many of them were refused.
    refused: usize,
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

impl Queue {
    /// Adds one at the end. Too many that were refused are not remembered: what their publishers send behind them may be
    /// refused too then, until they have heard of it.
    pub(super) fn push(&mut self, queued: Queued) {
        if let Queued::Refused(_) = queued {
            if self.refused >= MOST_REFUSED {
                return;
            }
            self.refused += 1;
        }
        self.waiting.push_back(queued);
    }

    /// Takes the first one.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        let first = self.waiting.pop_front()?;
        self.refused -= usize::from(matches!(first, Queued::Refused(_)));
        Some(first)
    }

    /// Takes all of them.
    pub(super) fn take_all(&mut self) -> VecDeque<Queued> {
        self.refused = 0;
        std::mem::take(&mut self.waiting)
    }
}

impl TopicLog {
    pub(super) fn new(
        number: u32,
        moved: Option<Moved>,
        replicas: usize,
        sync_always: bool,
        topic: Topic,
        revision: Revision,
    ) -> Self {
        let topic_name = topic.name.clone();
        Self {
            number,
            name: topic.name.clone(),
            moved,
            replicas: AtomicUsize::new(replicas),
            sync_always,
            definition: RwLock::new((Arc::new(topic), revision)),
            tail: AtomicU64::new(0),
            is_shorter: AtomicBool::new(false),
            lives: AtomicU64::new(0),
            queue: Mutex::default(),
            queued: Notify::new(),
            sending: Mutex::new(None),
            following: Arc::new(Following::new(number, topic_name)),
            is_replaced: AtomicBool::new(false),
            deleted: CancellationToken::new(),
        }
    }

    /// How many servers have each message.
    pub(super) fn replicas(&self) -> usize {
        self.replicas.load(Ordering::Relaxed)
    }

    /// Takes in how many servers have each message; gives how many it was thought to be, if others.
    pub(super) fn set_replicas(&self, replicas: usize) -> Option<usize> {
        let before = self.replicas.swap(replicas, Ordering::Relaxed);
        (before != replicas).then_some(before)
    }

    /// What a receipt is worth.
    pub(super) fn durability(&self) -> Durability {
        durability(self.sync_always, self.replicas())
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

    /// The log goes on at least here, as far as this engine knows in any way.
    pub(super) fn end(&self) -> u64 {
        self.known_tail().max(self.following.feed.tail())
    }

    /// It ends here, before what was known of it.
    pub(super) fn begin_again(&self, tail: u64) {
        self.tail.store(tail, Ordering::Release);
        self.lives.fetch_add(1, Ordering::AcqRel);
        self.is_shorter.store(true, Ordering::Release);
    }

    /// How often it was found to end before what was known of it: what is known of offsets is so in one of those lives.
    pub(super) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Acquire)
    }

    /// Whether it ends before what was known of it, once.
    pub(super) fn was_shortened(&self) -> bool {
        self.is_shorter.load(Ordering::Acquire) && self.is_shorter.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.is_cancelled()
    }

    /// There is another one of this name.
    pub(super) fn mark_replaced(&self) {
        self.is_replaced.store(true, Ordering::Release);
        self.mark_deleted();
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }

    /// From now on nothing is published, and whoever waits for more is told.
    pub(super) fn mark_deleted(&self) {
        self.deleted.cancel();
        self.following.feed.mark_deleted();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_go_on_though_they_were_refused_fill_no_memory() {
        let mut queue = Queue::default();
        for sequence in 0..3 * MOST_REFUSED as u64 {
            queue.push(Queued::Refused(Source { publisher: 1, sequence, answered: sequence }));
        }
        assert_eq!(queue.waiting.len(), MOST_REFUSED);
        assert!(queue.pop().is_some());
        queue.push(Queued::Refused(Source { publisher: 1, sequence: 0, answered: 0 }));
        queue.push(Queued::Refused(Source { publisher: 1, sequence: 1, answered: 1 }));
        assert_eq!(queue.take_all().len(), MOST_REFUSED);
        queue.push(Queued::Refused(Source { publisher: 1, sequence: 2, answered: 2 }));
        assert_eq!(queue.waiting.len(), 1);
    }
}
