//! Topics whose streams are put back from an older copy under running engines: what is stored afterwards has offsets that
//! others had, and none of it may be passed over or taken for something else.

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::JetStream;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Delivery, Expect, Fetch, Log, Message, Order, Outcome, PublishOptions, Settlement,
    StartAt, Subscription, Subscriptions, Topic,
};

use super::{PATIENCE, open, orders, publish};

const STREAM: &str = "crossdock-t-1";

/// Takes and acknowledges until what is wanted has come; gives all with their offsets, and the attempts they were.
async fn take(broker: &JetStream, wanted: &[String]) -> Vec<(u64, String, u32)> {
    let (name, mut taken): (_, Vec<(u64, String, u32)>) = ("s".parse().unwrap(), Vec::new());
    let taking = async {
        while !wanted.iter().all(|wanted| taken.iter().any(|(_, text, _)| text == wanted)) {
            let fetched = broker.fetch(&name, Fetch::new(None, 100, Duration::from_millis(200))).await;
            let fetched = fetched.unwrap_or_default();
            let outcomes: Vec<_> = fetched.iter().map(|delivery| (delivery.id, Outcome::Ack)).collect();
            if !outcomes.is_empty() {
                // What is not settled comes again.
                let _ = broker.settle(&name, Settlement { outcomes, ..Settlement::default() }).await;
            }
            for delivery in fetched {
                let text = String::from_utf8(delivery.record.payload().to_vec()).unwrap();
                taken.push((delivery.id.offset, text, delivery.attempt));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = tokio::time::timeout(PATIENCE, taking).await;
    assert!(all.is_ok(), "{wanted:?} should have come, and {taken:?} did");
    taken
}

fn came(taken: &[(u64, String, u32)], offset: u64, text: &str) -> bool {
    taken.iter().any(|(at, other, _)| (*at, other.as_str()) == (offset, text))
}

/// Takes the first so many of a topic, and acknowledges them but for one, which is to come again when it is due, and some
/// that are given back.
async fn take_first(broker: &JetStream, count: u64, retry: u64, released: &[u64]) {
    let (name, mut fetched): (_, Vec<Delivery>) = ("s".parse().unwrap(), Vec::new());
    while fetched.len() < count as usize {
        let more = eventually("them to come", PATIENCE, || async {
            let fetch = Fetch::new(None, count as usize - fetched.len(), Duration::from_secs(1));
            broker.fetch(&name, fetch).await.ok()
        })
        .await;
        fetched.extend(more);
    }
    assert!(fetched.iter().map(|delivery| delivery.offset).eq(0..count));
    let outcome = |offset: u64| match offset {
        _ if offset == retry => {
            Outcome::Retry { after: Some(Duration::from_secs(1)), reason: "not yet".into() }
        }
        _ if released.contains(&offset) => Outcome::Release,
        _ => Outcome::Ack,
    };
    let outcomes = fetched.iter().map(|delivery| (delivery.id, outcome(delivery.offset))).collect();
    let settlement = Settlement { outcomes, ..Settlement::default() };
    let settled = broker.settle(&name, settlement).await.unwrap();
    assert!(settled.stale.is_empty());
}

fn texts(what: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| format!("{what} {n}")).collect()
}

/// An engine with a subscription to a topic of twenty messages, of the first ten of which there is a copy.
async fn twenty(order: Order) -> (Nats, Arc<JetStream>) {
    let mut nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    broker.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    let mut subscription = Subscription::new("s".parse().unwrap(), vec!["orders".parse().unwrap()]);
    (subscription.start, subscription.order) = (StartAt::Start, order);
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    for text in texts("old", 0..10) {
        publish(&broker, &text).await;
    }
    nats.keep(0, STREAM).await;
    // Longer than clocks may differ.
    tokio::time::sleep(Duration::from_secs(6)).await;
    for text in texts("old", 10..20) {
        publish(&broker, &text).await;
    }
    (nats, broker)
}

/// An engine that has handed out twenty messages of a topic, which has only the first ten of them again.
async fn put_back() -> (Nats, Arc<JetStream>) {
    let (mut nats, broker) = twenty(Order::None).await;
    take(&broker, &texts("old", 0..20)).await;
    // Longer ago than clocks may differ.
    tokio::time::sleep(Duration::from_secs(6)).await;
    nats.put_back(0, STREAM).await;
    (nats, broker)
}

async fn is_said(broker: &JetStream, was: u64) {
    let words = format!("topic orders ended at offset {was} ");
    let warning = eventually("it to be said", PATIENCE, || async {
        broker.health().warning.filter(|warning| warning.contains(&words))
    });
    assert!(warning.await.contains("publish again what is missing"));
}

/// Another engine, which has never known it longer and stores five messages where others were.
async fn another_with_news(nats: &Nats) -> Arc<JetStream> {
    let two = eventually("NATS to be back", PATIENCE, || async {
        let options = crossdock_broker::JetStreamOptions::new(&(nats.url() + "?sync=always")).unwrap();
        JetStream::open(options).await.ok()
    })
    .await;
    for (offset, text) in (10..).zip(texts("new", 0..5)) {
        assert_eq!(publish(&two, &text).await, offset);
    }
    two
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_store_then_is_delivered_by_an_engine_that_knew_it_longer() {
    let (nats, one) = put_back().await;
    let two = another_with_news(&nats).await;
    let taken = take(&one, &texts("new", 0..5)).await;
    for (offset, text) in (10..).zip(texts("new", 0..5)) {
        assert!(came(&taken, offset, &text), "{taken:?}");
    }
    is_said(&one, 20).await;
    // It goes on as if nothing had been.
    assert_eq!(publish(&one, "last").await, 15);
    assert!(came(&take(&one, &["last".into()]).await, 15, "last"));
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_stores_itself_then_has_its_receipt_where_it_lies_and_is_delivered() {
    let (_nats, broker) = put_back().await;
    for text in texts("own", 0..30) {
        let offset = publish(&broker, &text).await;
        let page = broker.read(&orders(), StartAt::Offset(offset), 1, PATIENCE).await.unwrap();
        let found = page.messages.first().filter(|message| message.offset == offset);
        assert_eq!(found.map(|found| found.record.payload()), Some(text.into()), "at offset {offset}");
    }
    take(&broker, &texts("own", 0..30)).await;
    is_said(&broker, 20).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_before_its_end_stays_with_a_subscription_that_lags_behind() {
    let (mut nats, broker) = twenty(Order::None).await;
    take_first(&broker, 6, 5, &[]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    nats.put_back(0, STREAM).await;
    let two = another_with_news(&nats).await;
    is_said(&broker, 20).await;
    let mut taken = take(&broker, &[texts("old", 5..10), texts("new", 0..5)].concat()).await;
    taken.sort_unstable();
    let old = (5..).zip(texts("old", 5..10)).map(|(offset, text)| (offset, text, 1 + u32::from(offset == 5)));
    let new = (10..).zip(texts("new", 0..5)).map(|(offset, text)| (offset, text, 1));
    assert_eq!(taken, old.chain(new).collect::<Vec<_>>());
    broker.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stays_with_whoever_takes_the_subscription_over() {
    for order in [Order::None, Order::Key] {
        let (mut nats, broker) = twenty(order).await;
        take_first(&broker, 20, 5, &[6, 12]).await;
        broker.close().await;
        nats.put_back(0, STREAM).await;
        let broker = eventually("NATS to be back", PATIENCE, || async {
            let options = crossdock_broker::JetStreamOptions::new(&(nats.url() + "?sync=always")).unwrap();
            JetStream::open(options).await.ok()
        })
        .await;
        let mut taken = take(&broker, &texts("old", 5..7)).await;
        for (offset, text) in (10..).zip(texts("new", 0..5)) {
            assert_eq!(publish(&broker, &text).await, offset);
        }
        taken.extend(take(&broker, &texts("new", 0..5)).await);
        taken.sort_unstable();
        let old =
            (5..).zip(texts("old", 5..7)).map(|(offset, text)| (offset, text, 1 + u32::from(offset == 5)));
        let new = (10..).zip(texts("new", 0..5)).map(|(offset, text)| (offset, text, 1));
        assert_eq!(taken, old.chain(new).collect::<Vec<_>>());
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_each_key_stay_where_others_had_their_offsets() {
    let mut nats = Nats::single().await;
    let url = nats.url() + "?sync=always";
    let broker = open(&url).await;
    let mut topic = Topic::new(orders());
    (topic.retention.compact, topic.retention.drop_unread) = (true, true);
    broker.put_topic(topic, Expect::Absent).await.unwrap();
    let store = async |broker: &JetStream, key: &str| {
        eventually("it to be stored", PATIENCE, || async {
            let message = Message::new("something").with_key(key.to_owned());
            let batch = Batch::of(&message).unwrap();
            broker.publish(&orders(), batch, PublishOptions::default()).await.ok()
        })
        .await
        .first
    };
    let is_gone = async |offset: u64| {
        eventually("an older one to be dropped", PATIENCE, || async {
            let page = broker.read(&orders(), StartAt::Offset(offset), 1, Duration::ZERO).await.ok()?;
            page.messages.first().filter(|message| message.offset > offset).map(drop)
        })
        .await;
    };
    store(&broker, "kept").await;
    nats.keep(0, STREAM).await;
    for _ in 0..9 {
        store(&broker, "old").await;
    }
    // It has seen the last of them.
    is_gone(8).await;
    nats.put_back(0, STREAM).await;
    let two = eventually("NATS to be back", PATIENCE, || async {
        JetStream::open(crossdock_broker::JetStreamOptions::new(&url).unwrap()).await.ok()
    })
    .await;
    for offset in 1..9 {
        assert_eq!(store(&two, &format!("new {offset}")).await, offset);
    }
    is_said(&broker, 10).await;
    for offset in 9..12 {
        assert_eq!(store(&broker, "old").await, offset);
    }
    is_gone(9).await;
    is_gone(10).await;
    let page = broker.read(&orders(), StartAt::Start, 100, Duration::ZERO).await.unwrap();
    let offsets: Vec<u64> = page.messages.iter().map(|message| message.offset).collect();
    assert_eq!(offsets, (0..9).chain([11]).collect::<Vec<_>>());
    broker.close().await;
    two.close().await;
}
