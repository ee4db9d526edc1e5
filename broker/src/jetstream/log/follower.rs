//! What comes into a topic, for all who wait for it here: one consumer in NATS a topic, and a window of the newest
//! messages in memory, as blocks ([`Feed`]). It runs while somebody reads or subscribes, and a while longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossdock_topics::{Backoff, Record, Result, Timestamp, TopicName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::follow::{Arrived, Follow};
use super::Logs;
use super::definitions::no_topic;
use super::message::{self, decode};
use super::streams::unavailable;
use super::topic::TopicLog;
use crate::delivery::block::{Block, Cursor, Found, SparseBuilder};
use crate::delivery::{Feed, READ_BYTES, Recent};

/// So much is read where one message is wanted, because those that are delivered again often lie close together.
const NEARBY: usize = 64 << 10;
/// A block is closed at so many messages, so that those in it do not wait for each other.
const BLOCK_MESSAGES: u32 = 1000;
/// How long it goes on when nobody needs it any more.
const LINGER: Duration = Duration::from_secs(10);
/// How long to wait before following anew what broke off.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_secs(1) };

/// A topic that is followed, or has been.
pub(in crate::jetstream) struct Following {
    pub(in crate::jetstream) feed: Arc<Feed>,
    /// How many need it now.
    needed: AtomicUsize,
    running: AtomicBool,
    /// It is to be followed from another place on.
    again: Notify,
}

impl Following {
    pub(super) fn new(number: u32, name: TopicName) -> Self {
        Self {
            feed: Arc::new(Feed::new(number, name, 0, 0, Timestamp(0))),
            needed: AtomicUsize::new(0),
            running: AtomicBool::new(false),
            again: Notify::new(),
        }
    }

    /// What lies before an offset is there no more; gives whether that is news.
    pub(super) fn dropped(&self, before: u64) -> bool {
        let feed = &self.feed;
        let is_news = before > feed.head();
        if is_news {
            feed.set_head(before);
            feed.evict(before.min(feed.tail()));
            feed.moved.notify_waiters();
        }
        is_news
    }

    /// The topic ends before what was read of it: what is in memory is none of it any more.
    pub(super) fn begin_again(&self, head: u64, tail: u64, last: Timestamp) {
        self.feed.begin_again(head, tail, last);
        self.again.notify_one();
    }

    /// Whether anybody here reads it as it grows.
    pub(super) fn is_needed(&self) -> bool {
        self.needed.load(Ordering::Acquire) > 0 || !self.feed.subscribers().is_empty()
    }
}

/// Somebody who needs a topic to be followed, until it is dropped.
pub(in crate::jetstream) struct Need(Arc<Following>);

impl Need {
    /// The topic's newest messages.
    pub(in crate::jetstream) fn feed(&self) -> &Arc<Feed> {
        &self.0.feed
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.0.needed.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Logs {
    /// Follows a topic for as long as what this gives is held: its feed moves with what is published, from any server.
    pub(in crate::jetstream) fn follow(self: &Arc<Self>, log: &Arc<TopicLog>) -> Need {
        let following = log.following.clone();
        following.needed.fetch_add(1, Ordering::AcqRel);
        if !following.running.swap(true, Ordering::AcqRel) {
            self.shutdown.tasks().spawn(run(self.clone(), log.clone(), following.clone()));
        }
        Need(following)
    }
}

async fn run(logs: Arc<Logs>, log: Arc<TopicLog>, following: Arc<Following>) {
    let mut failures = 0;
    let mut has_begun = false;
    loop {
        let ended = tokio::select! {
            ended = follow(&logs, &log, &following, &mut has_begun) => ended,
            () = following.again.notified() => {
                has_begun = false;
                continue;
            }
            () = log.deleted.cancelled() => return logs.recent.forget(&following.feed),
            () = logs.shutdown.started() => return,
        };
        match ended {
            Ok(()) => {
                logs.recent.forget(&following.feed);
                following.running.store(false, Ordering::Release);
                if !following.is_needed() || following.running.swap(true, Ordering::AcqRel) {
                    return;
                }
                has_begun = false;
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(topic = %log.name, %error, "a topic is followed anew");
                tokio::select! {
                    () = tokio::time::sleep(AGAIN.wait(failures.min(16), u64::from(failures))) => {}
                    () = log.deleted.cancelled() => return logs.recent.forget(&following.feed),
                    () = logs.shutdown.started() => return,
                }
            }
        }
    }
}

/// Follows until nobody needs it, or it breaks off.
async fn follow(logs: &Logs, log: &TopicLog, following: &Following, has_begun: &mut bool) -> Result<()> {
    let feed = &following.feed;
    let stream = logs.streams.name(log.number);
    if !*has_begun {
        let info = logs.info(log).await?;
        let state = info.ok_or_else(|| no_topic(&log.name))?.state;
        logs.recent.forget(feed);
        feed.begin_at(state.head(), state.tail(), state.last().unwrap_or(Timestamp(0)));
        *has_begun = true;
    }
    let mut follow = Follow::begin(&logs.streams.connection, &stream, feed.tail() + 1).await?;
    let mut block = Building::new(feed.tail());
    let (mut idle_since, mut breaks): (Option<Instant>, u64) = (None, 0);
    loop {
        let arrived = follow.next().await?;
        if std::mem::replace(&mut breaks, follow.breaks) != follow.breaks {
            // It may not go on where it was.
            logs.suspect(log, log.end(), false);
        }
        match arrived {
            Arrived::Message { sequence, pending, time, message } => {
                let time = message::time_of(message.headers.as_ref()).unwrap_or(time);
                let message = decode(message.headers.as_ref(), message.payload);
                block.push(logs, feed, sequence - 1, time.max(feed.last()), &message)?;
                if pending == 0 || block.count >= BLOCK_MESSAGES {
                    block.close(logs, feed)?;
                }
            }
            Arrived::Idle => block.close(logs, feed)?,
        }
        if following.is_needed() {
            idle_since = None;
        } else if idle_since.get_or_insert_with(Instant::now).elapsed() > LINGER {
            return block.close(logs, feed);
        }
    }
}

/// A block that is being filled.
struct Building {
    builder: SparseBuilder,
    next: u64,
    count: u32,
    time: Timestamp,
}

impl Building {
    fn new(first: u64) -> Self {
        Self { builder: SparseBuilder::new(first), next: first, count: 0, time: Timestamp(0) }
    }

    fn push(
        &mut self,
        logs: &Logs,
        feed: &Arc<Feed>,
        offset: u64,
        time: Timestamp,
        message: &crossdock_topics::Message,
    ) -> Result<()> {
        let found = found(offset, time.max(self.time), message)?;
        if !self.builder.has_room(&found) {
            self.close(logs, feed)?;
        }
        self.builder.push(&found);
        (self.next, self.time) = (offset + 1, found.time);
        self.count += 1;
        Ok(())
    }

    /// Makes visible what is in it.
    fn close(&mut self, logs: &Logs, feed: &Arc<Feed>) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let (end, time) = (self.next, self.time);
        let built = std::mem::replace(self, Self { time, ..Self::new(end) });
        let (_, block) = built.builder.finish(end, time)?;
        logs.recent.add(feed, block);
        Ok(())
    }
}

pub(super) fn found(offset: u64, time: Timestamp, message: &crossdock_topics::Message) -> Result<Found> {
    Ok(Found { offset, time, record: Record::of(message)?, after: Cursor::default() })
}

impl Logs {
    /// The blocks of a followed topic from an offset on, from memory or from NATS: at most about `limit` bytes and one at
    /// least; empty at the end of the topic.
    ///
    /// # Errors
    /// `Unavailable`; also where it is not known yet what lies there.
    pub(in crate::jetstream) async fn blocks(
        self: &Arc<Self>,
        feed: &Arc<Feed>,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Block>>> {
        match feed.recent(offset, limit) {
            Recent::Blocks(blocks) => Ok(blocks),
            // What has not come into view is not gone.
            Recent::End => match self.streams.info(feed.id).await? {
                Some(info) if info.state.tail() > offset => {
                    Err(unavailable(&format!("offset {offset} of topic {} cannot be read yet", feed.name)))
                }
                _ => Ok(Vec::new()),
            },
            Recent::Older => {
                let reads_on = limit >= READ_BYTES;
                Ok(vec![self.older(feed, offset, limit.max(NEARBY), reads_on).await?])
            }
        }
    }
}
