//! A broker with all kinds of things in it, and what can be seen of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions, JetStream, JetStreamOptions};
use crossdock_tests::eventually;
use crossdock_topics::{
    Backoff, Batch, Clock, Delivery, Durability, Expect, Fetch, Filter, Message, Order, Outcome,
    PublishOptions, Receipts, Settlement, SharedBroker, Source, StartAt, Subscription, SubscriptionName,
    SystemClock, Topic, TopicName,
};

/// No wait is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How many messages the largest topic has.
pub(super) const MANY: usize = 50_000;
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn folder(path: &std::path::Path) -> SharedBroker {
    Embedded::open(EmbeddedOptions::new(path)).expect("a broker")
}

pub(super) async fn nats(url: &str) -> SharedBroker {
    let options = JetStreamOptions { sync_always: true, ..JetStreamOptions::new(url).expect("a URL") };
    JetStream::open(options).await.expect("a broker")
}

pub(super) fn topic(name: &str) -> TopicName {
    name.parse().expect("a name")
}

pub(super) fn subscription(name: &str) -> SubscriptionName {
    name.parse().expect("a name")
}

pub(super) fn batch(messages: impl IntoIterator<Item = Message>) -> Batch {
    let mut batch = Batch::default();
    messages.into_iter().for_each(|message| batch.push(&message).expect("a message"));
    batch
}

async fn publish(broker: &SharedBroker, name: &str, messages: impl IntoIterator<Item = Message>) -> Receipts {
    broker.publish(&topic(name), batch(messages), PublishOptions::default()).await.expect("stored")
}

/// A batch that its publisher may send again.
pub(super) async fn publish_of_source(broker: &SharedBroker, sequence: u64) -> Receipts {
    let source = Some(Source { publisher: 77, sequence, answered: 0 });
    let options = PublishOptions { source, ..PublishOptions::default() };
    let messages = (0..3).map(|n| Message::new(format!("of source {sequence}.{n}")));
    broker.publish(&topic("orders.new"), batch(messages), options).await.expect("stored")
}

async fn make_topic(broker: &SharedBroker, name: &str, change: impl Fn(&mut Topic)) {
    let mut made = Topic::new(topic(name));
    change(&mut made);
    broker.put_topic(made, Expect::Absent).await.expect("a topic");
}

async fn subscribe(broker: &SharedBroker, name: &str, topics: &[&str], change: impl Fn(&mut Subscription)) {
    let topics = topics.iter().map(|topic| topic.parse().expect("a pattern")).collect();
    let mut made = Subscription::new(subscription(name), topics);
    made.backoff = Backoff { first: HOUR, factor: 1.0, max: HOUR };
    change(&mut made);
    broker.put_subscription(made, Expect::Absent).await.expect("a subscription");
}

/// Takes so many messages.
pub(super) async fn take(broker: &SharedBroker, name: &str, count: usize) -> Vec<Delivery> {
    let mut taken: Vec<Delivery> = Vec::new();
    while taken.len() < count {
        let fetch = Fetch::new(None, count - taken.len(), PATIENCE);
        let more = broker.fetch(&subscription(name), fetch).await.expect("deliveries");
        assert!(!more.is_empty(), "subscription {name} delivers {} of {count}", taken.len());
        taken.extend(more);
    }
    taken
}

pub(super) async fn settle(broker: &SharedBroker, name: &str, delivery: &Delivery, outcome: Outcome) {
    let mut settlement = Settlement::one(delivery.id, outcome);
    settlement.by = Some("route@1".into());
    let settled = broker.settle(&subscription(name), settlement).await.expect("settled");
    assert_eq!(settled.settled, 1);
}

/// Fills a broker.
pub(super) async fn fill(broker: &SharedBroker) {
    topics(broker).await;
    messages(broker).await;
    subscriptions(broker).await;
    for (key, size) in [("services/route", 700), ("bundles/one", 600_000), ("bundles/two", 3 << 20)] {
        let value: Vec<u8> = (0..size).map(|n: usize| (n * 7 % 251) as u8).collect();
        broker.put(key, value.into(), Expect::Absent, None).await.expect("a key");
    }
    let lease = broker.grant(HOUR).await.expect("a lease");
    broker.put("members/gone", "x".into(), Expect::Absent, Some(lease)).await.expect("a key");
}

async fn topics(broker: &SharedBroker) {
    make_topic(broker, "orders.new", |_| {}).await;
    make_topic(broker, "orders.old", |t| t.durability = Durability::Memory).await;
    make_topic(broker, "states", |t| {
        t.retention.compact = true;
        t.dedup_window = Duration::ZERO;
    })
    .await;
    // From now on nothing of it is compacted that this has not settled.
    subscribe(broker, "states", &["states"], |_| {}).await;
    make_topic(broker, "short", |t| {
        t.retention.max_messages = Some(100);
        t.retention.drop_unread = true;
    })
    .await;
    make_topic(broker, "emptied", |t| t.durability = Durability::Os).await;
    make_topic(broker, "untouched", |t| t.retention.max_age = None).await;
    make_topic(broker, "keyed", |t| t.dedup_window = HOUR).await;
    make_topic(broker, "later", |_| {}).await;
    make_topic(broker, "large", |t| t.max_message_bytes = 4 << 20).await;
}

async fn messages(broker: &SharedBroker) {
    for chunk in 0..MANY / 500 {
        let one = |n: usize| {
            let number = chunk * 500 + n;
            Message::json(format!("{{\"number\": {number}}}"))
                .with_id(format!("id {number}"))
                .with_header("number", number.to_string())
        };
        publish(broker, "orders.new", (0..500).map(one)).await;
    }
    for n in 0..40 {
        publish(broker, "orders.old", [Message::new(format!("old {n}"))]).await;
    }
    let odd = Message {
        key: Some("k\u{e9}y with\nlines".into()),
        id: Some("an id".into()),
        correlation_id: Some("chain".into()),
        reply_to: Some("answers".into()),
        content_type: Some("text/plain; charset=utf-8".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        priority: 7,
        headers: vec![
            ("a".into(), "1".into()),
            ("a".into(), "\u{1F69A} %=&".into()),
            (String::new().into(), String::new().into()),
        ],
        ..Message::new("odd")
    };
    let now = SystemClock.now();
    let large_headers =
        Message { headers: vec![("h".into(), "\n".repeat(60_000).into())], ..Message::new("x") };
    let expiring = Message { expires_at: Some(now.after(HOUR)), ..Message::new("expires") };
    publish(broker, "orders.old", [odd, large_headers, expiring]).await;
    for round in 0..30 {
        let state =
            |key: usize| Message::new(format!("{key} in round {round}")).with_key(format!("key {key}"));
        publish(broker, "states", (0..40).map(state)).await;
        publish(broker, "states", [Message::new("no key")]).await;
    }
    for n in 0..300 {
        publish(broker, "short", [Message::new(format!("short {n}"))]).await;
    }
    publish(broker, "emptied", (0..25).map(|n| Message::new(format!("{n}")))).await;
    broker.purge(&topic("emptied"), None).await.expect("purged");
    publish(broker, "keyed", (0..60).map(|n| Message::new(format!("{n}")).with_key(format!("k{}", n % 6))))
        .await;
    broker.purge(&topic("keyed"), Some(6)).await.expect("purged");
    let later =
        |n: u64| Message { deliver_at: Some(now.after(HOUR * 2)), ..Message::new(format!("later {n}")) };
    publish(broker, "later", (0..5).map(later)).await;
    publish(broker, "later", [Message::new("now")]).await;
    let sizes = [3 << 20, 1 << 20, 300_000];
    publish(broker, "large", sizes.map(|size| Message::new(vec![b'x'; size]))).await;
    publish_of_source(broker, 0).await;
    publish_of_source(broker, 1).await;
}

async fn subscriptions(broker: &SharedBroker) {
    subscribe(broker, "all", &["orders.*"], |_| {}).await;
    let taken = take(broker, "all", 300).await;
    for (n, delivery) in taken.iter().enumerate() {
        match n % 10 {
            0 => {
                settle(broker, "all", delivery, Outcome::Retry { after: None, reason: "not now".into() })
                    .await
            }
            1 => settle(broker, "all", delivery, Outcome::Reject { reason: "no such customer".into() }).await,
            2 => {}
            _ => settle(broker, "all", delivery, Outcome::Ack).await,
        }
    }
    let dead = &taken[1];
    let mended = Message::new("mended").with_header("by", "hand");
    broker.edit_dead_letter(&subscription("all"), &dead.topic, dead.offset, mended).await.expect("mended");
    subscribe(broker, "by-key", &["keyed"], |s| {
        s.order = Order::Key;
        s.max_failures = 1;
    })
    .await;
    for delivery in take(broker, "by-key", 6).await {
        let outcome = match delivery.record.key() {
            Some("k1") => Outcome::Retry { after: None, reason: "parked".into() },
            _ => Outcome::Ack,
        };
        settle(broker, "by-key", &delivery, outcome).await;
    }
    for delivery in take(broker, "states", 30 * 41).await {
        settle(broker, "states", &delivery, Outcome::Ack).await;
    }
    // Compaction leaves gaps in the offsets.
    eventually("compaction", PATIENCE, || async {
        let read = read_all(broker, "states").await;
        (read.len() < 30 * 41 / 2).then_some(())
    })
    .await;
    subscribe(broker, "waiting", &["later"], |_| {}).await;
    let [now] = &take(broker, "waiting", 1).await[..] else { panic!("one") };
    settle(broker, "waiting", now, Outcome::Ack).await;
    subscribe(broker, "paused", &["**"], |_| {}).await;
    broker.set_paused(&subscription("paused"), true).await.expect("paused");
    subscribe(broker, "from-the-end", &["orders.old", "large"], |s| s.start = StartAt::End).await;
    subscribe(broker, "some", &["orders.new"], |s| {
        s.filter = Some(Filter { jq: Some(".number > 49990".into()), ..Filter::default() });
    })
    .await;
    let filtered = take(broker, "some", 2).await;
    settle(broker, "some", &filtered[1], Outcome::Ack).await;
}

/// All messages of a topic, in words: offset, time, and the message.
pub(super) async fn read_all(broker: &SharedBroker, name: &str) -> Vec<(u64, i64, Message)> {
    let (mut all, mut next) = (Vec::new(), StartAt::Start);
    loop {
        let page = broker.read(&topic(name), next, 1000, Duration::ZERO).await.expect("a page");
        if page.messages.is_empty() {
            return all;
        }
        next = StartAt::Offset(page.next);
        all.extend(page.messages.into_iter().map(|m| (m.offset, m.time.0, m.record.to_message())));
    }
}

/// All that can be seen of a broker, in words.
pub(super) async fn picture(broker: &SharedBroker) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for info in broker.topics().await.expect("topics") {
        let name = info.topic.name.clone();
        seen.insert(format!("topic {name}"), format!("{:?} {} {:?}", info.topic, info.tail, info.last));
        let messages = read_all(broker, name.as_str()).await;
        for part in messages.chunks(100) {
            seen.insert(format!("messages of {name} from {:06}", part[0].0), format!("{part:?}"));
        }
        let middle = messages.get(messages.len() / 2).map(|(_, time, _)| *time);
        if let Some(time) = middle {
            let from = StartAt::Time(crossdock_topics::Timestamp(time));
            let page = broker.read(&name, from, 1, Duration::ZERO).await.expect("a page");
            let offset = page.messages.first().map(|message| message.offset);
            seen.insert(format!("in the middle of {name}"), format!("{offset:?}"));
        }
    }
    for mut info in broker.subscriptions().await.expect("subscriptions") {
        // Counted from the oldest message that is kept, which is not the same after compaction.
        info.topics
            .iter_mut()
            .filter(|progress| progress.topic == topic("states"))
            .for_each(|p| p.waiting = 0);
        let name = &info.subscription.name;
        let topics = format!("{:?} {} {:?}", info.subscription, info.paused, info.topics);
        seen.insert(format!("subscription {name}"), topics);
        let dead = broker.dead_letters(name, None, 10_000).await.expect("dead letters");
        seen.insert(format!("dead letters of {name}"), format!("{dead:?}"));
        let parked = broker.parked_keys(name, 1000).await.expect("parked keys");
        seen.insert(format!("parked keys of {name}"), format!("{parked:?}"));
    }
    for (name, offset) in
        [("orders.new", 0), ("orders.new", 1), ("orders.new", 2), ("keyed", 7), ("later", 0)]
    {
        let explained = broker.explain(&topic(name), offset).await.expect("an explanation");
        seen.insert(format!("what became of {name}/{offset}"), format!("{explained:?}"));
    }
    let (entries, _) = broker.list("").await.expect("keys");
    for entry in entries {
        seen.insert(format!("key {}", entry.key), format!("{:?}", entry.value));
    }
    // What a server that is gone left behind goes with its lease.
    seen.remove("key members/gone");
    seen
}

/// That two pictures are the same, and where they are not.
pub(super) fn same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    for (what, was) in before {
        let is = after.get(what).unwrap_or_else(|| panic!("{what} is not there"));
        let from = was.bytes().zip(is.bytes()).take_while(|(a, b)| a == b).count().saturating_sub(200);
        let part = |text: &str| {
            String::from_utf8_lossy(&text.as_bytes()[from..text.len().min(from + 600)]).into_owned()
        };
        assert!(was == is, "{what} was\n{}\nand is\n{}", part(was), part(is));
    }
    let new: Vec<_> = after.keys().filter(|what| !before.contains_key(*what)).collect();
    assert!(new.is_empty(), "{new:?}");
}

pub(super) async fn close(broker: SharedBroker) {
    broker.close().await;
}
