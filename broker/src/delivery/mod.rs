//! How subscriptions deliver, whatever engine keeps them.
//!
//! [`SubscriptionState`] is one subscription at work: the [`crate::group`] of each of its topics, its consumers, and
//! what is to be persisted. It reads topics through their [`Feed`]s. What only an engine can do (read what is not in
//! memory, keep what must not be lost) is behind [`Engine`] and [`Keep`]; both are called for many messages at a time.

pub(crate) mod block;
pub(crate) mod dead;
pub(crate) mod explain;
mod feed;
mod fetch;
pub(crate) mod keys;
pub(crate) mod members;
mod parked;
mod reader;
mod restore;
mod sieve;
mod sift;
mod subscription;
pub(crate) mod take;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Result, StartAt, Timestamp, TopicName};

use crate::group::Waiting;
use block::Block;
pub(crate) use feed::{Feed, READ_BYTES, Recent};
pub(crate) use restore::{Restoring, facts};
pub(crate) use sieve::Sieve;
pub(crate) use subscription::SubscriptionState;

/// No wait is longer than this, whatever was asked for: a moment that far away can still be represented.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// Where messages that are not in memory are to be had.
pub(crate) trait Blocks: Send + Sync + 'static {
    /// The visible blocks of a topic from `offset` on, the first of which holds it (or follows it, where retention has
    /// dropped it): at most `limit` bytes of them, and one at least; empty at the end of the log.
    fn blocks(
        &self,
        feed: &Arc<Feed>,
        offset: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Arc<Block>>>> + Send;
}

/// What subscriptions need of the engine that keeps them.
pub(crate) trait Engine: Blocks {
    /// The time.
    fn now(&self) -> Timestamp;

    /// Why the broker cannot be used, if it cannot.
    fn check_open(&self) -> Result<()>;

    /// What is kept of a subscription by one of [`keys`].
    fn kept(&self, subscription: &SubscriptionState, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Has what has changed in a subscription persisted soon, whoever waits for it. Asked once until
    /// [`SubscriptionState::persist`] follows.
    fn persist_soon(&self, subscription: &Arc<SubscriptionState>) -> Result<()>;

    /// Carries out an operation and persists it; gives how much there was to do it to.
    fn operate(
        &self,
        subscription: &Arc<SubscriptionState>,
        operation: Operation,
    ) -> impl Future<Output = Result<usize>> + Send;
}

/// Where an engine puts what is to be kept, by [`keys`].
pub(crate) trait Keep {
    /// Keeps a value in the place of another one, if there is one.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Keeps it no longer.
    fn delete(&mut self, key: &[u8]);
}

/// What an operator does to a subscription: pause and resume, move its place, let parked keys go on, and deal with
/// its dead letters.
pub(crate) enum Operation {
    /// Nothing is delivered until it is taken back.
    Pause(bool),
    /// Everything from there on is delivered, in one topic or in all.
    Seek { topic: Option<TopicName>, to: StartAt },
    /// Keys that are parked go on, by the topic and the offset of the message that keeps each so.
    ReleaseKeys { parked: Vec<(u32, u64, Waiting)>, give_up: bool },
    /// Dead letters, by topic and offset, are delivered again, each not before its moment.
    Redrive(Vec<(u32, u64, Timestamp)>),
    /// Dead letters, by topic and offset, are forgotten.
    Discard(Vec<(u32, u64)>),
    /// A dead letter is delivered again as this record.
    Mend { log: u32, offset: u64, record: Bytes },
}
