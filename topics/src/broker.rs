//! The seam everything stands on: what a broker does and promises.
//!
//! One trait for each side, so that whoever uses a broker asks for the part it needs (`Arc<dyn Log>` to
//! publish, `Arc<dyn Requests>` to ask a service); [`Broker`] is all of them, and what an engine implements.
//! The promises are numbered as in the README's table; [`crate::conformance`] checks each.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Batch, ConsumerId, DeadLetter, Delivery, DeliveryId, Expect, Explanation, Health, Message, ParkedKey,
    PublishOptions, Published, Redrive, Reply, Request, Result, Revision, Selection, ServiceName, Settled,
    Settlement, StartAt, Store, Stored, Subscription, SubscriptionInfo, SubscriptionName, Topic, TopicInfo,
    TopicName,
};

/// Topics: durable, ordered logs of messages.
///
/// * **Promise 1, receipts.** A receipt names the durability that was reached, at least the topic's. An
///   acknowledged `fsync` message survives `kill -9` and power loss. No message is visible to any reader
///   before it is as durable as promised.
/// * **Promise 2, order.** A topic's messages have one order, the same for all readers, without holes in the
///   offsets (but those that compaction leaves). Batches are stored in the order in which `publish` was called,
///   each in one piece.
/// * **Promise 5, once.** An id published again within the topic's window is stored once; the second receipt
///   says `duplicate` and names the first one's offset. The same for a batch that names its [`crate::Source`], as a
///   whole: sent again, it gets the receipts of the first time. Restarts do not forget.
/// * **Promise 7, backpressure.** What waits to be stored is bounded; beyond that `publish` refuses with
///   `Overloaded` and stores nothing. Retention drops messages that a subscription has not settled only if the
///   topic says so, and [`TopicInfo::held_by`] says who holds them.
/// * **Promise 8, no carrying on.** After a failed write or sync everything that writes fails with
///   `Unavailable` and the first reason, until a restart; see [`Broker::health`].
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Makes a topic, or changes its definition. Makes nothing of it when it is the same already, and then
    /// gives the old revision.
    ///
    /// # Errors
    /// `InvalidArgument` for what [`Topic::check`] refuses, or a durability this engine cannot give;
    /// `Conflict` when the expectation about `topics/NAME` fails.
    async fn put_topic(&self, topic: Topic, expect: Expect) -> Result<Revision>;

    /// Deletes a topic with all its messages. The name can be used again, for a new and empty log.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while a subscription names it literally.
    async fn delete_topic(&self, name: &TopicName) -> Result<()>;

    /// What is known of one topic.
    ///
    /// # Errors
    /// `NotFound`.
    async fn topic(&self, name: &TopicName) -> Result<TopicInfo>;

    /// What is known of all topics, the system's own included, by name.
    async fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// Drops messages from the oldest on: all that are stored now, or those before an offset; gives the first offset
    /// that is kept. Unlike retention it asks nobody: what subscriptions have not settled, and their dead letters, go too.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an offset beyond the tail.
    async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64>;

    /// Publishes a batch, in one piece. The batch has its place in the order when this returns; the future
    /// resolves when it is as durable as the topic asks, or as the options ask if that is more. Await it
    /// where convenient: many may be under way.
    ///
    /// # Errors
    /// Of the future: `NotFound`, `InvalidArgument` (an empty batch, or a durability that this engine cannot give), `TooLarge` (a payload over the topic's
    /// limit), `Conflict` (what was expected is not so), `Overloaded` (wait for [`Log::room`]), `Unavailable`
    /// (promise 8). Nothing is stored then.
    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Published;

    /// Resolves when there is room to publish again after `Overloaded`; also when the broker is closed.
    async fn room(&self);

    /// Messages of a topic from a place on, without a subscription: at least one if there is one, at most
    /// `max` and about 1 MiB. When there is none yet, waits for one for up to `wait`; beyond the tail that means
    /// until the log has come that far.
    ///
    /// # Errors
    /// `NotFound`.
    async fn read(&self, topic: &TopicName, from: StartAt, max: usize, wait: Duration) -> Result<Page>;
}

/// A run of messages.
#[derive(Clone, Debug)]
pub struct Page {
    /// The messages, in order.
    pub messages: Vec<Stored>,
    /// Where to go on reading.
    pub next: u64,
}

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Who asks. A consumer that has joined gives its messages back by leaving; without one only the lease
    /// does.
    pub consumer: Option<ConsumerId>,
    /// At most so many messages (1 or more).
    pub max: usize,
    /// No further message once this many bytes are together.
    pub max_bytes: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
    /// How long they may be held, if not as the subscription says.
    pub lease: Option<Duration>,
}

impl Fetch {
    /// At most `max` messages for a consumer, waiting for the first one for up to `wait`.
    #[must_use]
    pub fn new(consumer: Option<ConsumerId>, max: usize, wait: Duration) -> Self {
        Self { consumer, max, max_bytes: 4 * 1024 * 1024, wait, lease: None }
    }
}

/// Subscriptions: durable places in topics, from which competing consumers take messages.
///
/// * **Promise 3, at least once.** A message is delivered until it is acknowledged, rejected to the dead
///   letters, or expired. A failed one is set aside for its backoff and never holds up those behind it. Only
///   failures count against the limit: a handler's [`crate::Outcome::Retry`], or a lease that ran out. A
///   consumer that leaves, and a broker that restarts, count nothing.
/// * **Promise 4, all or nothing.** A settlement's outcomes and outputs become durable together.
/// * **Promise 6, dead letters.** They stay where they are in the log, indexed with the reason, the counters
///   and who failed, and can be listed, redriven and discarded.
#[async_trait]
pub trait Subscriptions: Send + Sync + 'static {
    /// Makes a subscription, or changes its definition (all but `start`, which an existing one ignores). Makes
    /// nothing of it when it is the same already.
    ///
    /// # Errors
    /// `InvalidArgument` for what [`Subscription::check`] refuses; `NotFound` when it names a topic literally
    /// that does not exist; `Conflict` when the expectation about `subscriptions/NAME` fails.
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision>;

    /// Deletes a subscription, with its place and its dead letters' index. Messages stay in their topics.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()>;

    /// What is known of one subscription.
    ///
    /// # Errors
    /// `NotFound`.
    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo>;

    /// What is known of all subscriptions, by name.
    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>>;

    /// Joins as a consumer.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is exclusive and another one has joined.
    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId>;

    /// Leaves: what the consumer still holds is given back at once, and no failure is counted. Returns at once
    /// and cannot fail, so that it can be called while dropping.
    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId);

    /// Takes messages, on a lease. Gives an empty list when none came within the wait. Dropped before it resolves,
    /// it has taken none.
    ///
    /// # Errors
    /// `NotFound` (also when the subscription is deleted meanwhile), `Unavailable`.
    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>>;

    /// Says what became of deliveries, and publishes what came out of them. Resolves when all of it is
    /// durable (to `fsync`, or the engine's best). An outcome whose delivery is stale has no effect and is named
    /// in the answer; but a settlement with outputs takes effect as a whole or, when one of its deliveries is
    /// stale, not at all.
    ///
    /// # Errors
    /// `NotFound` (subscription, or an output's topic), `TooLarge`, `Conflict` (outputs with a stale
    /// delivery), `Unavailable`. Nothing was done then.
    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled>;

    /// Lets deliveries be held for `lease` from now on.
    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled>;

    /// The dead letters after a place (topic and offset), by topic and offset, at most `max`.
    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// Delivers dead letters again, with their failures forgotten; gives how many.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` (a rate that is none).
    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize>;

    /// Forgets dead letters; gives how many. With `dry_run` it only counts them.
    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize>;

    /// Replaces what this subscription is given when a dead letter is delivered again. The log stays as it is, and
    /// so does what other subscriptions get; the key, where order is by key, stays too.
    ///
    /// # Errors
    /// `NotFound` when it is no dead letter of this subscription; `TooLarge`; `InvalidArgument`.
    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()>;

    /// Pauses (nothing is delivered; what consumers hold can be settled) or resumes. It survives a restart and a
    /// changed definition.
    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()>;

    /// Moves the subscription's place, in all its topics or in one: everything from there on is delivered (again),
    /// nothing before it. Deliveries that are under way become stale; failures are forgotten; dead letters from
    /// there on are none any more, those before stay.
    ///
    /// # Errors
    /// `NotFound` (subscription, or a topic that it does not read).
    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()>;

    /// The keys that are parked, by topic and offset, at most `max`.
    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>>;

    /// Lets a parked key go on, in every topic of the subscription in which it is parked: with its message delivered
    /// again and its failures forgotten, or with `give_up`, with the message put to the dead letters. Gives how many
    /// were parked.
    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize>;

    /// What has become of a message, and what it waits for, in each subscription.
    ///
    /// # Errors
    /// `NotFound` when there is no such topic.
    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation>;
}

/// Requests to services by name, with a reply. They are not stored: whoever needs that publishes.
#[async_trait]
pub trait Requests: Send + Sync + 'static {
    /// Asks a service and waits for its reply for up to `timeout`. Any one of its servers answers.
    ///
    /// # Errors
    /// `Unavailable` when nobody serves it, or the one who did went away; `Overloaded` when all its servers'
    /// queues are full; `Timeout`; and whatever error the service replies with.
    async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply;

    /// Serves a service: its requests arrive in the receiver, at most `capacity` waiting. Stop by dropping it;
    /// requests that are still in it are handed to another server or refused.
    async fn serve(
        &self,
        service: &ServiceName,
        capacity: usize,
    ) -> Result<tokio::sync::mpsc::Receiver<Request>>;
}

/// A broker: topics, subscriptions, requests, and the store that a cluster shares.
#[async_trait]
pub trait Broker: Log + Subscriptions + Requests + Store {
    /// Whether it can be relied on.
    fn health(&self) -> Health;

    /// Stops: refuses new work, makes durable what was accepted, answers whoever waits, and lets go of its
    /// files. What comes after fails with `Unavailable`.
    async fn close(&self);
}

/// A broker as everybody holds it.
pub type SharedBroker = Arc<dyn Broker>;
