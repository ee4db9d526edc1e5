//! Order by key, while the disk takes its time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crossdock_topics::{
    Broker, Clock, ConsumerId, Durability, Fetch, MessageState, Order, Outcome, Redrive, Selection,
    Settlement, StartAt, Subscription, SubscriptionName, Subscriptions, Timestamp,
};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::delivery::block::Builder;
use crate::delivery::{Feed, SubscriptionState};
use crate::group::{Group, Place, Rules};

/// A clock that is set by hand, and keeps the syncer waiting when it is told to: what that has made durable it has not
/// said yet.
struct Hand {
    now: AtomicI64,
    stops_syncer: Mutex<bool>,
    goes_on: Condvar,
}

impl Hand {
    fn new() -> Arc<Self> {
        let now = AtomicI64::new(1_000_000);
        Arc::new(Self { now, stops_syncer: Mutex::new(false), goes_on: Condvar::new() })
    }

    fn stop_syncer(&self, stops: bool) {
        *self.stops_syncer.lock() = stops;
        self.goes_on.notify_all();
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        if std::thread::current().name() == Some("broker-syncer") {
            self.goes_on.wait_while(&mut self.stops_syncer.lock(), |stops| *stops);
        }
        Timestamp(self.now.load(Ordering::SeqCst))
    }
}

/// A broker with a topic and a subscription to it by key, and the clock it goes by.
async fn by_key(folder: &tempfile::TempDir) -> (Arc<Embedded>, Arc<Hand>, TopicName, SubscriptionName) {
    let clock = Hand::new();
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::new(folder.path()) };
    let broker = Embedded::open(options).unwrap();
    let (t, s): (_, SubscriptionName) = (topic(&broker, "t").await, name("s"));
    let definition = Subscription::new(s.clone(), vec![name("t")]);
    subscribe(&broker, Subscription { order: Order::Key, ..definition }).await;
    (broker, clock, t, s)
}

fn fetch(consumer: Option<ConsumerId>, wait: Duration) -> Fetch {
    Fetch::new(consumer, 10, wait)
}

fn of_one_key(messages: impl IntoIterator<Item = Message>) -> Batch {
    let mut batch = Batch::default();
    for message in messages {
        batch.push(&message.with_key("k")).unwrap();
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_a_key_comes_when_the_disk_has_what_became_of_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, clock, t, s) = by_key(&folder).await;
    let batch = of_one_key([Message::new("one"), Message::new("two")]);
    broker.publish(&t, batch, Default::default()).await.unwrap();
    let first = broker.fetch(&s, fetch(None, Duration::from_secs(5))).await.unwrap();
    assert_eq!(first.len(), 1);

    clock.stop_syncer(true);
    let settled = tokio::spawn({
        let (broker, s, settlement) = (broker.clone(), s.clone(), Settlement::ack([first[0].id]));
        async move { broker.settle(&s, settlement).await }
    });
    let waits_for_the_disk = async {
        loop {
            let explained = broker.explain(&t, 1).await.unwrap();
            let situation = &explained.subscriptions[0];
            assert_eq!(situation.state, MessageState::BehindKey);
            if situation.why.contains("is on the disk") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(waits_for_the_disk).await;
    let early = broker.fetch(&s, fetch(None, Duration::from_millis(50))).await.unwrap();
    assert!(early.is_empty(), "{early:?}");
    clock.stop_syncer(false);
    assert_eq!(soon(settled).await.unwrap().unwrap().settled, 1);
    let next = broker.fetch(&s, fetch(None, Duration::ZERO)).await.unwrap();
    assert_eq!(next[0].offset, 1);
}

#[tokio::test]
async fn a_key_goes_on_also_when_nobody_has_asked_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, clock, t, s) = by_key(&folder).await;
    let expires = Message { expires_at: Some(Timestamp(2_000_000)), ..Message::new("one") };
    let options = Durability::Memory.into();
    broker.publish(&t, of_one_key([expires, Message::new("two")]), options).await.unwrap();
    let consumer = broker.join(&s).await.unwrap();
    let held = broker.fetch(&s, fetch(Some(consumer), Duration::from_secs(5))).await.unwrap();
    assert_eq!((held.len(), held[0].offset), (1, 0));
    broker.leave(&s, consumer);
    // It is to be delivered again, and turns out to have expired.
    clock.now.store(2_000_000, Ordering::SeqCst);
    let next = soon(broker.fetch(&s, fetch(None, Duration::from_secs(15)))).await.unwrap();
    assert_eq!((next.len(), next[0].offset), (1, 1));
}

#[tokio::test]
async fn after_each_change_of_place_or_rules_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, _, t, s) = by_key(&folder).await;
    let batch = of_one_key((0..6).map(|n| Message::new(n.to_string())));
    broker.publish(&t, batch, Durability::Memory.into()).await.unwrap();
    let next = async |offset| {
        let taken = soon(broker.fetch(&s, fetch(None, Duration::from_secs(15)))).await.unwrap();
        assert_eq!(taken.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [offset]);
        taken[0].id
    };
    let first = next(0).await;
    broker.settle(&s, Settlement::ack([first])).await.unwrap();
    next(1).await;
    broker.seek(&s, None, StartAt::Offset(2)).await.unwrap();
    next(2).await;
    broker.purge(&t, Some(3)).await.unwrap();
    let third = next(3).await;
    let (definition, _) = broker.shared.subscription(&s).unwrap().definition();
    subscribe(&broker, Subscription { max_failures: 7, ..(*definition).clone() }).await;
    let outcome = Outcome::Reject { reason: "no".into() };
    let settlement = Settlement { outcomes: vec![(third, outcome)], ..Settlement::default() };
    broker.settle(&s, settlement).await.unwrap();
    next(4).await;
    broker.seek(&s, None, StartAt::Offset(5)).await.unwrap();
    let redrive = Redrive { selection: Selection::All, rate: None, dry_run: false };
    assert_eq!(broker.redrive(&s, redrive).await.unwrap(), 1);
    let again = next(3).await;
    broker.settle(&s, Settlement::ack([again])).await.unwrap();
    next(5).await;
}

#[tokio::test]
async fn where_order_begins_it_counts_for_what_was_looked_at_before_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let (t, s): (_, SubscriptionName) = (topic(&broker, "t").await, name("s"));
    let definition = Subscription::new(s.clone(), vec![name("t")]);
    subscribe(&broker, definition.clone()).await;
    let batch = of_one_key((0..4).map(|n| Message::new(n.to_string())));
    broker.publish(&t, batch, Default::default()).await.unwrap();
    let take = async |broker: &Embedded, wait| broker.fetch(&s, fetch(None, wait)).await.unwrap();
    let held = broker.fetch(&s, Fetch::new(None, 3, Duration::from_secs(5))).await.unwrap();
    assert_eq!(held.len(), 3);
    let outcome = Outcome::Retry { after: Some(Duration::ZERO), reason: "x".into() };
    let settlement = Settlement { outcomes: vec![(held[1].id, outcome)], ..Settlement::default() };
    broker.settle(&s, settlement).await.unwrap();

    subscribe(&broker, Subscription { order: Order::Key, ..definition.clone() }).await;
    let early = take(&broker, Duration::from_millis(50)).await;
    assert!(early.is_empty(), "0 and 2 are in flight: {early:?}");
    broker.settle(&s, Settlement::ack([held[2].id])).await.unwrap();
    assert!(take(&broker, Duration::from_millis(50)).await.is_empty(), "0 is in flight");
    broker.close().await;

    let broker = open(&folder);
    for offset in [0, 1, 3] {
        let taken = take(&broker, Duration::from_secs(15)).await;
        assert_eq!(taken.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), [offset]);
        broker.settle(&s, Settlement::ack([taken[0].id])).await.unwrap();
    }
}

#[test]
fn what_compaction_takes_out_is_gone_for_good_before_a_later_one_of_its_key_comes() {
    let log = Arc::new(Feed::new(1, name("t"), 0, 0, Timestamp(1)));
    let mut builder = Builder::new(0, 0);
    builder.push(of_one_key([Message::new("one"), Message::new("two")]).as_bytes(), 2, false);
    log.advance(&[builder.finish(Timestamp(1)).1]);
    for order in [Order::Key, Order::None] {
        let definition = Subscription { order, ..Subscription::new(name("s"), vec![name("t")]) };
        let group = Group::new(Rules::from(&definition), Place::default().into(), 1);
        let state = Arc::new(SubscriptionState::new(1, definition, None, 1));
        state.attach(&log, group);
        state.compacted(&log, &[0], Timestamp(1));
        let taken = state.take(&fetch(None, Duration::ZERO), Timestamp(1));
        assert_eq!(taken.deliveries.len(), if order == Order::Key { 0 } else { 2 });
    }
}
