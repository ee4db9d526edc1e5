//! Topics on JetStream: each is a stream, each of its messages one of the stream's; an offset is one less than the
//! message's number there.
//!
//! Definitions lie in the store (`topics/NAME`), the number that names a topic's stream beside them in a key of the
//! engine's own. A topic that is deleted and made again has another number, and so another stream.

mod ahead;
mod chain;
mod compaction;
mod definitions;
mod follower;
mod group;
mod keeper;
mod leftovers;
mod message;
mod moving;
mod naming;
mod places;
mod publisher;
mod pulled;
mod reading;
mod recent;
mod run;
mod sending;
mod settling;
mod shorter;
mod stored;
mod streams;
mod topic;
mod unknown;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{
    Batch, Clock, Durability, Error, ErrorCode, Expect, Log, Page, PublishOptions, Published, ReceiptSender,
    Record, Result, Revision, Shutdown, StartAt, SystemClock, Timestamp, Topic, TopicInfo, TopicName,
};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::JetStream;
use super::connection::Connection;
use super::instance::{Held, Instance};
use super::store::KeyStore;
use crate::delivery::Feed;
use crate::embedded::queue::Budget;
use crate::embedded::sources;
pub(in crate::jetstream) use follower::Need;
use group::Waiting;
pub(in crate::jetstream) use moving::Moving;
pub(in crate::jetstream) use places::{counted, number_in, placed};
use recent::Recent;
use shorter::Shorter;
use streams::Streams;
pub(in crate::jetstream) use topic::Moved;
use topic::Queued;
pub(in crate::jetstream) use topic::TopicLog;
use unknown::Unknown;

/// How long a message that NATS cannot take is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// The topics of a cluster, as one engine has them.
pub(in crate::jetstream) struct Logs {
    streams: Streams,
    store: KeyStore,
    shutdown: Shutdown,
    /// The lease of this engine, and until when it is surely held.
    held: watch::Receiver<Held>,
    topics: RwLock<HashMap<TopicName, Arc<TopicLog>>>,
    /// All topics that the store had at this revision are among them.
    taken_in: AtomicU64,
    budget: Budget,
    ahead: ahead::Ahead,
    unknown: Unknown,
    /// This engine, among all that ever were.
    engine: u64,
    publishers: AtomicU64,
    changed: watch::Sender<u64>,
    readers: OnceLock<Arc<dyn Readers>>,
    recent: Arc<Recent>,
    shorter: Shorter,
}

/// Those who read topics on and on, on any server, as retention must know them.
pub(in crate::jetstream) trait Readers: Send + Sync + 'static {
    /// What lies before `head` was dropped.
    fn trimmed(&self, feed: &Arc<Feed>, head: u64);

    /// What lies before `head` is there no more, because of compaction: what is held of it may be settled.
    fn compacted_to(&self, feed: &Arc<Feed>, head: u64);

    /// These messages are there no more.
    fn compacted(&self, feed: &Arc<Feed>, removed: &[u64]);

    /// What subscriptions that are owned here keep as dead letters, in order.
    fn dead(&self, feed: &Arc<Feed>) -> Vec<u64>;

    /// It ends before what was read of it: by whoever was further, it is to be read again from this offset on.
    fn begin_again(&self, feed: &Arc<Feed>, from: u64);

    /// What may not go, of all subscriptions that take from the topic, whatever server they are on.
    fn needs(&self, feed: &Arc<Feed>) -> Needs;
}

/// A batch as somebody publishes it.
struct Call {
    batch: Batch,
    options: PublishOptions,
    answer: ReceiptSender,
}

/// What of a topic may not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::jetstream) enum Needs {
    /// All may go.
    Nothing,
    /// Nothing from this offset on, and in words for whom and why.
    From(u64, String),
    /// It is not known at the moment.
    Unknown,
}

impl Logs {
    /// Finds the topics that are there, and keeps up with those that come and go.
    pub(in crate::jetstream) fn open(
        connection: &Connection,
        store: &KeyStore,
        instance: &Instance,
        shutdown: &Shutdown,
    ) -> Arc<Self> {
        let logs = Arc::new(Self {
            streams: Streams { connection: connection.clone() },
            store: store.clone(),
            shutdown: shutdown.clone(),
            held: instance.held(),
            topics: RwLock::default(),
            taken_in: AtomicU64::new(0),
            budget: Budget::new(connection.options.waiting_bytes),
            ahead: ahead::Ahead::default(),
            unknown: Unknown::default(),
            engine: rand::random(),
            publishers: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            readers: OnceLock::new(),
            recent: Arc::new(Recent::new(connection.options.recent_bytes)),
            shorter: Shorter::default(),
        });
        shutdown.tasks().spawn(definitions::watch(logs.clone()));
        shutdown.tasks().spawn(keeper::run(logs.clone()));
        shutdown.tasks().spawn(shorter::run(logs.clone()));
        shutdown.tasks().spawn(leftovers::run(logs.clone()));
        logs
    }

    /// Says who reads topics on and on. Once, before they do.
    pub(in crate::jetstream) fn set_readers(&self, readers: Arc<dyn Readers>) {
        let _ = self.readers.set(readers);
    }

    /// What lies before an offset of a topic was dropped, because its limits or somebody said so.
    fn dropped(&self, log: &TopicLog, head: u64) {
        log.following.dropped(head);
        if let Some(readers) = self.readers.get() {
            readers.trimmed(&log.following.feed, head);
        }
    }

    /// What lies before an offset of a topic is there no more, says NATS. Of a topic that is compacted it cannot be told
    /// by what: there it is taken for compaction, which leaves consumers what they hold.
    fn head_moved(&self, log: &TopicLog, head: u64) {
        let feed = &log.following.feed;
        let Some(readers) = self.readers.get().filter(|_| log.following.dropped(head)) else { return };
        if log.definition().0.retention.compact {
            feed.evict_through(head);
            readers.compacted_to(feed, head);
        } else {
            readers.trimmed(feed, head);
        }
    }

    /// These messages of a topic are there no more.
    fn compacted(&self, log: &TopicLog, removed: &[u64]) {
        // What a subscription may still come to must not be found in memory.
        if let Some(last) = removed.last().filter(|_| log.definition().0.retention.drop_unread) {
            log.following.feed.evict_through(last + 1);
        }
        if let Some(readers) = self.readers.get() {
            readers.compacted(&log.following.feed, removed);
        }
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// How long a message that NATS cannot take is tried again.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// A name for this engine as a publisher of a topic, that nobody else has or had.
    fn new_publisher(&self) -> String {
        format!("{:016x}{:x}", self.engine, self.publishers.fetch_add(1, Ordering::Relaxed))
    }

    /// What an acknowledgement of a stream with so many replicas is worth.
    fn durability(&self, replicas: usize) -> Durability {
        durability(self.streams.connection.options.sync_always, replicas)
    }

    /// Publishes to a topic. One that this engine does not know is looked for in the store before it is said not to be
    /// there.
    pub(in crate::jetstream) fn publish(
        self: &Arc<Self>,
        topic: &TopicName,
        batch: Batch,
        options: PublishOptions,
    ) -> Published {
        if let Some(Err(error)) = options.source.as_ref().map(sources::check) {
            return Published::refused(error);
        }
        let (answer, published) = Published::pending();
        let call = Call { batch, options, answer };
        // While something waits for its topic, this may have to wait behind it.
        let known = self.unknown.is_empty().then(|| self.topic(topic));
        match known {
            Some(Ok(log)) => self.append(&log, call, false),
            Some(Err(error)) if error.code != ErrorCode::NotFound => call.answer.send(Err(error)),
            Some(Err(_)) | None => self.publish_when_known(topic, call),
        }
        published
    }

    /// Puts a batch in line, if it may be published and there is room for it, which may have been taken already.
    fn append(self: &Arc<Self>, log: &Arc<TopicLog>, call: Call, has_room: bool) {
        let Call { batch, options: PublishOptions { durability, expected, source }, answer } = call;
        let size = batch.as_bytes().len();
        let mut accepted = self.accept(log, &batch, durability, expected.as_ref());
        if accepted.is_ok() && !has_room && !self.budget.take(size) {
            accepted = Err(self.overloaded());
        } else if accepted.is_err() && has_room {
            self.budget.give(size);
        }
        match accepted {
            Ok(()) => self.enqueue(log, Queued::Batch(Waiting::new(batch, expected, source, answer))),
            Err(error) => {
                if let Some(source) = source {
                    self.enqueue(log, Queued::Refused(source));
                }
                answer.send(Err(error));
            }
        }
    }

    fn enqueue(self: &Arc<Self>, log: &Arc<TopicLog>, queued: Queued) {
        let mut queue = log.queue.lock();
        queue.push(queued);
        if std::mem::replace(&mut queue.running, true) {
            drop(queue);
            log.queued.notify_one();
        } else {
            self.shutdown.tasks().spawn(publisher::run(self.clone(), log.clone()));
        }
    }

    /// Checks all that can be checked before it is a batch's turn.
    fn accept(
        &self,
        log: &TopicLog,
        batch: &Batch,
        durability: Option<Durability>,
        expected: Option<&crossdock_topics::Expected>,
    ) -> Result<()> {
        self.admit(log, batch)?;
        // The topic's stream may have fewer replicas by now than when the topic was made.
        let (given, least) = (log.durability(), log.definition().0.durability);
        if let Some(asked) = durability.into_iter().chain([least]).find(|asked| *asked > given) {
            return Err(self.not_as_durable(asked, given));
        }
        if let Some(crossdock_topics::Expected::LastOfKey(..)) = expected
            && !log.definition().0.retention.compact
        {
            return Err(Error::invalid(format!(
                "topic {} does not know the newest message of each key",
                log.name
            ))
            .hint("give it retention.compact, or expect the newest message of all"));
        }
        Ok(())
    }

    fn overloaded(&self) -> Error {
        let waiting = self.streams.connection.options.waiting_bytes;
        Error::new(ErrorCode::Overloaded, format!("{waiting} bytes of messages wait to be stored already"))
            .hint("publish more slowly; nothing of this was stored")
            .retry_after(Duration::from_millis(100))
    }

    /// Checks that all of these batches could be published now.
    ///
    /// # Errors
    /// As [`Logs::publish`].
    pub(in crate::jetstream) async fn check_all(&self, batches: &[(TopicName, Batch)]) -> Result<()> {
        let mut bytes = 0;
        for (topic, batch) in batches {
            let log = self.find(topic).await?;
            self.admit(&log, batch)?;
            bytes += batch.as_bytes().len();
        }
        if self.budget.has_room(bytes) { Ok(()) } else { Err(self.overloaded()) }
    }

    /// Checks that a batch may be appended to a topic.
    fn admit(&self, log: &TopicLog, batch: &Batch) -> Result<()> {
        log.definition().0.admit(batch)?;
        let most = self.streams.connection.client.max_payload();
        if let Some(size) = largest(batch, most) {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("a message takes {size} bytes with its headers, NATS takes at most {most}"),
            )
            .hint("make it smaller, or raise max_payload of nats-server (at most 64MB)"));
        }
        if batch.len() > publisher::MOST_MESSAGES {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!(
                    "a batch of {} messages, NATS takes at most {} in one piece",
                    batch.len(),
                    publisher::MOST_MESSAGES
                ),
            )
            .hint("send it as several batches"));
        }
        Ok(())
    }

    fn not_as_durable(&self, asked: Durability, given: Durability) -> Error {
        let hint = match asked {
            Durability::Quorum(_) => {
                "NATS must be a cluster of that many servers, and the topic made with that many replicas"
            }
            _ => {
                "give nats-server sync_interval: always and say so with ?sync=always in the URL, use a cluster of \
                 three, or ask for os"
            }
        };
        Error::invalid(format!("{asked} cannot be given: an acknowledgement is worth {given} here"))
            .hint(hint)
    }
}

/// What an acknowledgement of a stream with so many replicas is worth.
pub(in crate::jetstream) fn durability(sync_always: bool, replicas: usize) -> Durability {
    match u8::try_from(replicas) {
        Ok(replicas) if replicas > 1 => Durability::Quorum(replicas),
        _ if sync_always => Durability::Fsync,
        _ => Durability::Os,
    }
}

/// How many bytes a message of a batch takes in NATS, if one takes more than that.
fn largest(batch: &Batch, most: usize) -> Option<usize> {
    // Most are far from it, and not looked at one by one.
    if message::may_be_as_large(batch.as_bytes().len(), batch.largest_payload()) <= most {
        return None;
    }
    batch.records().find_map(|packed| {
        let packed = packed.as_bytes();
        if message::may_be_as_large(packed.len(), 0) <= most {
            return None;
        }
        let (record, _) = Record::slice(&Bytes::copy_from_slice(packed), 0)?;
        message::larger_than(most, &record)
    })
}

#[async_trait]
impl Log for JetStream {
    async fn put_topic(&self, topic: Topic, expect: Expect) -> Result<Revision> {
        self.check_open()?;
        self.logs.put(topic, expect).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        self.check_open()?;
        self.logs.delete(name).await
    }

    async fn topic(&self, name: &TopicName) -> Result<TopicInfo> {
        self.check_open()?;
        self.logs.describe(name).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.check_open()?;
        self.logs.describe_all().await
    }

    async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        self.check_open()?;
        self.logs.purge(name, before).await
    }

    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Published {
        match self.check_open() {
            Ok(()) => self.logs.publish(topic, batch, options),
            Err(error) => Published::refused(error),
        }
    }

    async fn room(&self) {
        if self.check_open().is_ok() {
            self.logs.budget.wait().await;
        }
    }

    async fn read(&self, topic: &TopicName, from: StartAt, max: usize, wait: Duration) -> Result<Page> {
        self.check_open()?;
        self.logs.read(topic, from, max, wait).await
    }
}
