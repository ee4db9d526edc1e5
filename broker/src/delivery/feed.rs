//! A topic as its subscriptions see it: its two ends, its newest blocks, and who reads it.
//!
//! The engine makes what is durable visible with [`Feed::advance`]. Readers see offsets from `head` to `tail`, get the
//! newest blocks from memory, and ask the engine for others ([`super::Engine::blocks`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crossdock_topics::{Timestamp, TopicName};
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::block::Block;
use super::members::Listed;
use super::subscription::SubscriptionState;

/// At most so many bytes of blocks are handed out at one time, from memory or from the disk (and one block at
/// least), so that a reader who is far behind holds no more than that.
pub(crate) const READ_BYTES: usize = 1024 * 1024;

pub(crate) struct Feed {
    pub(crate) id: u32,
    pub(crate) name: TopicName,
    head: AtomicU64,
    tail: AtomicU64,
    last: AtomicI64,
    deleted: AtomicBool,
    /// The newest blocks. Which go when memory is short is decided for all topics together.
    recent: RwLock<VecDeque<Arc<Block>>>,
    /// Wakes those who read without a subscription.
    pub(crate) moved: Notify,
    subscribers: RwLock<Vec<(Arc<SubscriptionState>, Arc<Listed>)>>,
}

/// Where blocks from an offset on are to be had.
pub(crate) enum Recent {
    /// Here.
    Blocks(Vec<Arc<Block>>),
    /// From the engine only.
    Older,
    /// There are none yet.
    End,
}

impl Feed {
    /// A topic of which offsets from `head` to `tail` are visible, none of them in memory.
    pub(crate) fn new(id: u32, name: TopicName, head: u64, tail: u64, last: Timestamp) -> Self {
        Self {
            id,
            name,
            head: AtomicU64::new(head),
            tail: AtomicU64::new(tail),
            last: AtomicI64::new(last.0),
            deleted: AtomicBool::new(false),
            recent: RwLock::default(),
            moved: Notify::new(),
            subscribers: RwLock::default(),
        }
    }

    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    pub(crate) fn set_head(&self, head: u64) {
        self.head.store(head, Ordering::Release);
    }

    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// When its newest message was stored.
    pub(crate) fn last(&self) -> Timestamp {
        Timestamp(self.last.load(Ordering::Relaxed))
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// From now on nothing is appended, and whoever waits for more is woken.
    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(crate) fn attach(&self, subscription: &Arc<SubscriptionState>, listed: Arc<Listed>) {
        let mut subscribers = self.subscribers.write();
        if !subscribers.iter().any(|(known, _)| Arc::ptr_eq(known, subscription)) {
            subscribers.push((subscription.clone(), listed));
        }
    }

    pub(crate) fn detach(&self, subscription: &Arc<SubscriptionState>) {
        self.subscribers.write().retain(|(known, _)| !Arc::ptr_eq(known, subscription));
    }

    /// Lets go of all its subscriptions, which hold it too. For an engine that ends.
    pub(crate) fn detach_all(&self) {
        self.subscribers.write().clear();
    }

    pub(crate) fn subscribers(&self) -> Vec<Arc<SubscriptionState>> {
        self.subscribers.read().iter().map(|(subscription, _)| subscription.clone()).collect()
    }

    /// Makes blocks visible, in order, and wakes who waits for them.
    pub(crate) fn advance(&self, blocks: &[Arc<Block>]) {
        let Some(last) = blocks.last() else { return };
        self.recent.write().extend(blocks.iter().cloned());
        self.last.store(last.time().0, Ordering::Relaxed);
        self.tail.store(last.range().end, Ordering::Release);
        self.moved.notify_waiters();
        for (subscription, listed) in self.subscribers.read().iter() {
            subscription.moved(listed);
        }
    }

    /// Goes on elsewhere, with nothing in memory: what lies before `tail` is visible, and to be had from the engine.
    pub(crate) fn begin_at(&self, head: u64, tail: u64, last: Timestamp) {
        self.recent.write().clear();
        self.head.fetch_max(head, Ordering::AcqRel);
        self.last.fetch_max(last.0, Ordering::Relaxed);
        self.tail.fetch_max(tail, Ordering::AcqRel);
        self.moved.notify_waiters();
        for (subscription, listed) in self.subscribers.read().iter() {
            subscription.moved(listed);
        }
    }

    /// Goes on at another place, which may lie before the one where it was, with nothing in memory.
    pub(crate) fn begin_again(&self, head: u64, tail: u64, last: Timestamp) {
        self.recent.write().clear();
        self.head.store(head, Ordering::Release);
        self.last.store(last.0, Ordering::Relaxed);
        self.tail.store(tail, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Drops the oldest blocks that are in memory, up to an offset.
    pub(crate) fn evict(&self, end: u64) {
        let mut recent = self.recent.write();
        while recent.pop_front_if(|block| block.range().end <= end).is_some() {}
    }

    /// Drops those blocks from memory that hold something before an offset, as not all of it is there any more.
    pub(crate) fn evict_through(&self, end: u64) {
        let mut recent = self.recent.write();
        while recent.pop_front_if(|block| block.range().start < end).is_some() {}
    }

    /// The blocks from the one that holds `offset` on, as far as they are in memory: at most `limit` bytes of
    /// them, and one at least.
    pub(crate) fn recent(&self, offset: u64, limit: usize) -> Recent {
        if offset >= self.tail() {
            return Recent::End;
        }
        let recent = self.recent.read();
        match recent.front() {
            Some(first) if first.range().start <= offset => {
                let at = recent.partition_point(|block| block.range().end <= offset);
                let mut bytes = 0;
                let enough = |block: &&Arc<Block>| {
                    bytes += block.size();
                    bytes <= limit
                };
                let mut blocks: Vec<_> = recent.range(at..).take_while(enough).cloned().collect();
                if blocks.is_empty() {
                    blocks.extend(recent.get(at).cloned());
                }
                Recent::Blocks(blocks)
            }
            _ => Recent::Older,
        }
    }
}
