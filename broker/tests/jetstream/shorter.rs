//! Topics whose streams are put back from an older copy under running engines: what is stored afterwards has offsets that
//! others had, and none of it may be passed over or taken for something else.

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::JetStream;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Expect, Fetch, Log, Message, Outcome, PublishOptions, Settlement, StartAt, Subscription,
    Subscriptions, Topic, TopicName,
};

use super::{PATIENCE, open};

const STREAM: &str = "crossdock-t-1";

fn orders() -> TopicName {
    "orders".parse().unwrap()
}

async fn publish(broker: &JetStream, text: &str) -> u64 {
    eventually("it to be stored", PATIENCE, || async {
        let batch = Batch::of(&Message::new(text.to_owned())).unwrap();
        broker.publish(&orders(), batch, PublishOptions::default()).await.ok()
    })
    .await
    .first
}

/// Takes and acknowledges until what is wanted has come; gives all with their offsets.
async fn take(broker: &JetStream, wanted: &[String]) -> Vec<(u64, String)> {
    let (name, mut taken): (_, Vec<(u64, String)>) = ("s".parse().unwrap(), Vec::new());
    let taking = async {
        while !wanted.iter().all(|wanted| taken.iter().any(|(_, text)| text == wanted)) {
            let fetched = broker.fetch(&name, Fetch::new(None, 100, Duration::from_millis(200))).await;
            let fetched = fetched.unwrap_or_default();
            let outcomes: Vec<_> = fetched.iter().map(|delivery| (delivery.id, Outcome::Ack)).collect();
            if !outcomes.is_empty() {
                // What is not settled comes again.
                let _ = broker.settle(&name, Settlement { outcomes, ..Settlement::default() }).await;
            }
            for delivery in fetched {
                let text = String::from_utf8(delivery.record.payload().to_vec()).unwrap();
                taken.push((delivery.id.offset, text));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = tokio::time::timeout(PATIENCE, taking).await;
    assert!(all.is_ok(), "{wanted:?} should have come, and {taken:?} did");
    taken
}

fn texts(what: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| format!("{what} {n}")).collect()
}

/// An engine that has handed out twenty messages of a topic, which has only the first ten of them again.
async fn put_back() -> (Nats, Arc<JetStream>) {
    let mut nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    broker.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    let mut subscription = Subscription::new("s".parse().unwrap(), vec!["orders".parse().unwrap()]);
    subscription.start = StartAt::Start;
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    for text in texts("old", 0..10) {
        publish(&broker, &text).await;
    }
    nats.keep(0, STREAM).await;
    for text in texts("old", 10..20) {
        publish(&broker, &text).await;
    }
    take(&broker, &texts("old", 0..20)).await;
    // Longer ago than clocks may differ.
    tokio::time::sleep(Duration::from_secs(6)).await;
    nats.put_back(0, STREAM).await;
    (nats, broker)
}

async fn is_said(broker: &JetStream) {
    let warning = eventually("it to be said", PATIENCE, || async {
        broker.health().warning.filter(|warning| warning.contains("topic orders ended at offset 20"))
    });
    assert!(warning.await.contains("publish again what is missing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_store_then_is_delivered_by_an_engine_that_knew_it_longer() {
    let (nats, one) = put_back().await;
    let two = eventually("NATS to be back", PATIENCE, || async {
        let options = crossdock_broker::JetStreamOptions::new(&(nats.url() + "?sync=always")).unwrap();
        JetStream::open(options).await.ok()
    })
    .await;
    for (offset, text) in (10..).zip(texts("new", 0..5)) {
        assert_eq!(publish(&two, &text).await, offset);
    }
    let taken = take(&one, &texts("new", 0..5)).await;
    for (offset, text) in (10..).zip(texts("new", 0..5)) {
        assert!(taken.contains(&(offset, text)), "{taken:?}");
    }
    is_said(&one).await;
    // It goes on as if nothing had been.
    assert_eq!(publish(&one, "last").await, 15);
    assert!(take(&one, &["last".into()]).await.contains(&(15, "last".into())));
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
    is_said(&broker).await;
    broker.close().await;
}
