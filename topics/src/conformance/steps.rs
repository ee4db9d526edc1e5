//! What cases do again and again, with a bound on every wait.

use std::fmt::Debug;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::PATIENCE;
use crate::{
    Backoff, Batch, Delivery, Error, ErrorCode, Expect, Fetch, Message, Outcome, Receipts, Settlement,
    SharedBroker, StartAt, Stored, Subscription, SubscriptionInfo, SubscriptionName, Topic, TopicInfo,
    TopicName,
};

/// Long enough that what must not happen would have happened.
pub(super) const A_WHILE: Duration = Duration::from_millis(150);

/// The clock of the broker counts whole milliseconds, and may be another one than the case's.
pub(super) const CLOCK_SLACK: Duration = Duration::from_millis(15);

pub(super) fn name<T: FromStr<Err = Error>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Makes a topic as it is by default.
pub(super) async fn topic(broker: &SharedBroker, text: &str) -> TopicName {
    topic_with(broker, text, |_| {}).await
}

/// Makes a topic.
pub(super) async fn topic_with(broker: &SharedBroker, text: &str, change: impl Fn(&mut Topic)) -> TopicName {
    let mut topic = Topic::new(name(text));
    change(&mut topic);
    broker.put_topic(topic, Expect::Absent).await.unwrap();
    name(text)
}

/// Makes a subscription whose messages come back soon after a failure.
pub(super) async fn subscription(broker: &SharedBroker, text: &str, topics: &[&str]) -> SubscriptionName {
    subscription_with(broker, text, topics, |_| {}).await
}

/// Makes a subscription whose messages come back soon after a failure, changed in some way.
pub(super) async fn subscription_with(
    broker: &SharedBroker,
    text: &str,
    topics: &[&str],
    change: impl Fn(&mut Subscription),
) -> SubscriptionName {
    let mut subscription = Subscription::new(name(text), topics.iter().map(|t| name(t)).collect());
    let wait = Duration::from_millis(10);
    subscription.backoff = Backoff { first: wait, factor: 1.0, max: wait };
    change(&mut subscription);
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    name(text)
}

/// Packs messages.
pub(super) fn batch(messages: impl IntoIterator<Item = Message>) -> Batch {
    let mut batch = Batch::default();
    for message in messages {
        batch.push(&message).unwrap();
    }
    batch
}

/// Packs one message.
pub(super) fn one(message: impl Into<Bytes>) -> Batch {
    batch([Message::new(message)])
}

/// Publishes a message for each text, as one batch, and waits for the receipts.
pub(super) async fn publish<T: AsRef<str>>(
    broker: &SharedBroker,
    topic: &TopicName,
    texts: impl IntoIterator<Item = T>,
) -> Receipts {
    let messages = texts.into_iter().map(|text| Message::new(text.as_ref().to_owned()));
    publish_batch(broker, topic, batch(messages)).await.unwrap()
}

/// Publishes a batch and waits for the receipts.
pub(super) async fn publish_batch(
    broker: &SharedBroker,
    topic: &TopicName,
    batch: Batch,
) -> Result<Receipts, Error> {
    soon("a receipt", broker.publish(topic, batch, Default::default())).await
}

/// Publishes many messages, in batches that every engine takes.
pub(super) async fn publish_many(
    broker: &SharedBroker,
    topic: &TopicName,
    messages: impl IntoIterator<Item = Message>,
) {
    let mut messages = messages.into_iter().peekable();
    while messages.peek().is_some() {
        publish_batch(broker, topic, batch(messages.by_ref().take(1000))).await.unwrap();
    }
}

/// Takes what comes first, at most `max`.
pub(super) async fn fetch(broker: &SharedBroker, name: &SubscriptionName, max: usize) -> Vec<Delivery> {
    let found = broker.fetch(name, Fetch::new(None, max, PATIENCE)).await.unwrap();
    assert!(!found.is_empty(), "{name}: no message came within {PATIENCE:?}");
    assert!(found.len() <= max, "{name}: {} messages came, asked for at most {max}", found.len());
    found
}

/// Takes exactly so many.
pub(super) async fn take(broker: &SharedBroker, name: &SubscriptionName, count: usize) -> Vec<Delivery> {
    let mut found = Vec::new();
    let end = Instant::now() + PATIENCE;
    while found.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        let fetch = Fetch::new(None, count - found.len(), left);
        let more = broker.fetch(name, fetch).await.unwrap();
        assert!(
            !more.is_empty() || !left.is_zero(),
            "{name}: {} of {count} messages came within {PATIENCE:?}: {:?}",
            found.len(),
            texts(&found)
        );
        found.extend(more);
    }
    assert_eq!(found.len(), count, "{name}: more messages came than were asked for");
    found
}

/// Takes exactly one.
pub(super) async fn take_one(broker: &SharedBroker, name: &SubscriptionName) -> Delivery {
    take(broker, name, 1).await.remove(0)
}

/// Nothing can be taken, now and for a while.
pub(super) async fn nothing(broker: &SharedBroker, name: &SubscriptionName) {
    let found = broker.fetch(name, Fetch::new(None, 10, A_WHILE)).await.unwrap();
    assert!(found.is_empty(), "{name}: nothing should come, but there was {found:?}");
}

/// Acknowledges.
pub(super) async fn ack(broker: &SharedBroker, name: &SubscriptionName, deliveries: &[Delivery]) {
    let settled = broker.settle(name, Settlement::ack(deliveries.iter().map(|d| d.id))).await.unwrap();
    assert_eq!((settled.settled, settled.stale.len()), (deliveries.len(), 0), "{name}: {settled:?}");
}

/// Says one thing about one delivery, which is not stale.
pub(super) async fn say(
    broker: &SharedBroker,
    name: &SubscriptionName,
    delivery: &Delivery,
    outcome: Outcome,
) {
    let settled = broker.settle(name, Settlement::one(delivery.id, outcome)).await.unwrap();
    assert_eq!((settled.settled, settled.stale.len()), (1, 0), "{name}: {settled:?}");
}

/// Failed, with the subscription's own backoff.
pub(super) fn retry(reason: &str) -> Outcome {
    Outcome::Retry { after: None, reason: reason.into() }
}

/// Failed, to be tried again after `after`.
pub(super) fn retry_after(after: Duration) -> Outcome {
    Outcome::Retry { after: Some(after), reason: "later".into() }
}

/// Never again.
pub(super) fn reject(reason: &str) -> Outcome {
    Outcome::Reject { reason: reason.into() }
}

/// The payloads as text.
pub(super) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

/// The payload as text.
pub(super) fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.record.payload().to_vec()).unwrap()
}

/// The payloads as text.
pub(super) fn stored_texts(messages: &[Stored]) -> Vec<String> {
    messages.iter().map(|m| String::from_utf8(m.record.payload().to_vec()).unwrap()).collect()
}

/// All that a topic holds.
pub(super) async fn read_all(broker: &SharedBroker, topic: &TopicName) -> Vec<Stored> {
    let mut found: Vec<Stored> = Vec::new();
    let mut from = StartAt::Start;
    loop {
        let page = broker.read(topic, from, 1000, Duration::ZERO).await.unwrap();
        if page.messages.is_empty() {
            return found;
        }
        found.extend(page.messages);
        from = StartAt::Offset(page.next);
    }
}

/// Where a topic stands.
pub(super) async fn info(broker: &SharedBroker, topic: &TopicName) -> TopicInfo {
    broker.topic(topic).await.unwrap()
}

/// How a subscription stands in its topics, added up: waiting, in flight, set aside, dead letters.
pub(super) async fn standing(broker: &SharedBroker, name: &SubscriptionName) -> [u64; 4] {
    let info: SubscriptionInfo = broker.subscription(name).await.unwrap();
    info.topics.iter().fold([0; 4], |[waiting, in_flight, set_aside, dead], topic| {
        [
            waiting + topic.waiting,
            in_flight + topic.in_flight,
            set_aside + topic.set_aside,
            dead + topic.dead_letters,
        ]
    })
}

/// Asks until it is so.
pub(super) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for what must resolve.
pub(super) async fn soon<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Closes a broker and lets go of it.
pub(super) async fn close(broker: SharedBroker) {
    soon("closing", broker.close()).await;
}

/// It was refused, with this code and words that say something.
#[track_caller]
pub(super) fn refused<T: Debug>(result: Result<T, Error>, code: ErrorCode) -> Error {
    match result {
        Ok(value) => panic!("expected {code}, got {value:?}"),
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            assert!(!error.message.is_empty(), "an error without words");
            error
        }
    }
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % end
    }
}
