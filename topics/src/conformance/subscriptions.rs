//! Making, changing and deleting subscriptions; where they begin, and what they take.

use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    ack, close, eventually, name, nothing, publish, read_all, refused, reject, say, soon, standing,
    subscription, subscription_with, take, texts, topic,
};
use super::{Harness, PATIENCE};
use crate::{
    Backoff, ErrorCode, Expect, Fetch, Filter, Order, Settlement, Sharing, StartAt, Subscription, Timestamp,
};

pub(super) async fn a_definition_is_kept_as_it_was_given(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    let given = Subscription {
        name: name("billing"),
        topics: vec![name("orders"), name("orders.**")],
        start: StartAt::End,
        max_failures: 7,
        backoff: Backoff { first: Duration::from_secs(2), factor: 1.5, max: Duration::from_secs(60) },
        lease: Duration::from_secs(5),
        max_in_flight: 9,
        order: Order::None,
        priorities: true,
        sharing: Sharing::Failover,
        filter: Some(Filter {
            headers: [("kind".into(), "new".into())].into(),
            jq: Some(".total > 100".into()),
        }),
    };
    let revision = broker.put_subscription(given.clone(), Expect::Absent).await.unwrap();
    let known = broker.subscription(&given.name).await.unwrap();
    assert_eq!((&known.subscription, known.revision, known.consumers), (&given, revision, 0));
    assert_eq!(known.topics.iter().map(|t| t.topic.as_str()).collect::<Vec<_>>(), ["orders"]);
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(broker.subscription(&given.name).await.unwrap(), known);
    let listed = broker.subscriptions().await.unwrap();
    assert_eq!(listed, [known]);
}

pub(super) async fn what_cannot_be_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let missing = Subscription::new(name("s"), vec![name("nowhere")]);
    let error = refused(broker.put_subscription(missing, Expect::Any).await, ErrorCode::NotFound);
    assert!(error.to_string().contains("nowhere"), "{error}");
    let nothing = Subscription::new(name("s"), vec![]);
    refused(broker.put_subscription(nothing, Expect::Any).await, ErrorCode::InvalidArgument);
    let unknown = name("s");
    refused(broker.subscription(&unknown).await, ErrorCode::NotFound);
    refused(broker.delete_subscription(&unknown).await, ErrorCode::NotFound);
    refused(broker.fetch(&unknown, Fetch::new(None, 1, PATIENCE)).await, ErrorCode::NotFound);
    refused(broker.settle(&unknown, Settlement::default()).await, ErrorCode::NotFound);
    refused(broker.join(&unknown).await, ErrorCode::NotFound);
    assert!(broker.subscriptions().await.unwrap().is_empty());
}

pub(super) async fn the_same_again_keeps_its_revision_and_a_change_keeps_the_place(
    harness: Arc<dyn Harness>,
) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let mut definition = Subscription::new(name("sub"), vec![name("orders")]);
    let first = broker.put_subscription(definition.clone(), Expect::Absent).await.unwrap();
    assert_eq!(broker.put_subscription(definition.clone(), Expect::Any).await.unwrap(), first);
    publish(&broker, &orders, ["a", "b", "c"]).await;
    let sub = definition.name.clone();
    ack(&broker, &sub, &take(&broker, &sub, 1).await).await;
    definition.max_failures = 9;
    definition.start = StartAt::End;
    refused(broker.put_subscription(definition.clone(), Expect::Absent).await, ErrorCode::Conflict);
    refused(broker.put_subscription(definition.clone(), Expect::At(first + 1)).await, ErrorCode::Conflict);
    let second = broker.put_subscription(definition.clone(), Expect::At(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(broker.subscription(&sub).await.unwrap().subscription.max_failures, 9);
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["b", "c"]);
}

pub(super) async fn each_begins_where_it_says(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for text in ["a", "b", "c"] {
        publish(&broker, &orders, [text]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let times: Vec<Timestamp> = read_all(&broker, &orders).await.iter().map(|m| m.time).collect();
    let starts = [
        ("start", StartAt::Start, "abcd"),
        ("end", StartAt::End, "d"),
        ("offset", StartAt::Offset(1), "bcd"),
        ("later", StartAt::Offset(3), "d"),
        ("time", StartAt::Time(times[2]), "cd"),
        ("epoch", StartAt::Time(Timestamp(0)), "abcd"),
    ];
    for (text, start, _) in starts {
        subscription_with(&broker, text, &["orders"], |s| s.start = start).await;
    }
    publish(&broker, &orders, ["d"]).await;
    for (text, _, expected) in starts {
        let sub = name(text);
        assert_eq!(texts(&take(&broker, &sub, expected.len()).await).concat(), expected, "{text}");
        nothing(&broker, &sub).await;
    }
}

pub(super) async fn patterns_take_what_matches_and_nothing_else(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let all = subscription(&broker, "all", &["**"]).await;
    let some = subscription(&broker, "some", &["orders.*", "*.us"]).await;
    for text in ["orders.eu", "orders.us", "orders.eu.de", "stock", "_logs.x"] {
        let topic = topic(&broker, text).await;
        publish(&broker, &topic, [text]).await;
    }
    let mut taken = texts(&take(&broker, &all, 4).await);
    taken.sort();
    assert_eq!(taken, ["orders.eu", "orders.eu.de", "orders.us", "stock"]);
    nothing(&broker, &all).await;
    let mut taken = texts(&take(&broker, &some, 2).await);
    taken.sort();
    assert_eq!(taken, ["orders.eu", "orders.us"]);
    nothing(&broker, &some).await;
}

pub(super) async fn a_topic_made_later_is_taken_from_its_start(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let sub = subscription_with(&broker, "sub", &["orders.*"], |s| s.start = StartAt::End).await;
    assert!(broker.subscription(&sub).await.unwrap().topics.is_empty());
    // A consumer that waits already gets what comes to a topic that did not exist when it began to wait.
    let fetching = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(None, 10, PATIENCE * 10)).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let eu = topic(&broker, "orders.eu").await;
    publish(&broker, &eu, ["a"]).await;
    let first = soon("the first message of a new topic", fetching).await.unwrap();
    assert_eq!(texts(&first), ["a"]);
    ack(&broker, &sub, &first).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let us = topic(&broker, "orders.us").await;
    publish(&broker, &us, ["b", "c"]).await;
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["b", "c"]);
}

pub(super) async fn what_is_taken_can_be_changed(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "one").await, topic(&broker, "two").await);
    let sub = subscription(&broker, "sub", &["one"]).await;
    publish(&broker, &one, ["1a"]).await;
    ack(&broker, &sub, &take(&broker, &sub, 1).await).await;
    let mut definition = broker.subscription(&sub).await.unwrap().subscription;
    definition.topics = vec![name("two")];
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    publish(&broker, &one, ["1b"]).await;
    publish(&broker, &two, ["2a"]).await;
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["2a"]);
    nothing(&broker, &sub).await;
}

pub(super) async fn one_made_anew_begins_anew(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b"]).await;
    let taken = take(&broker, &sub, 2).await;
    ack(&broker, &sub, &taken[..1]).await;
    say(&broker, &sub, &taken[1], reject("no")).await;
    broker.delete_subscription(&sub).await.unwrap();
    refused(broker.subscription(&sub).await, ErrorCode::NotFound);
    refused(broker.delete_subscription(&sub).await, ErrorCode::NotFound);
    assert_eq!(read_all(&broker, &orders).await.len(), 2, "messages stay in their topics");
    subscription(&broker, "sub", &["orders"]).await;
    assert_eq!(standing(&broker, &sub).await, [2, 0, 0, 0], "waiting, in flight, set aside, dead letters");
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["a", "b"]);
}

pub(super) async fn who_waits_on_a_deleted_one_is_told(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let fetching = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(None, 1, PATIENCE * 10)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.delete_subscription(&sub).await.unwrap();
    refused(soon("a fetch under way", fetching).await.unwrap(), ErrorCode::NotFound);
}

pub(super) async fn it_says_how_it_stands(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (a, b) = (topic(&broker, "a").await, topic(&broker, "b").await);
    let sub = subscription(&broker, "sub", &["b", "a"]).await;
    publish(&broker, &a, (0..10).map(|n| n.to_string())).await;
    publish(&broker, &b, ["x"]).await;
    assert_eq!(standing(&broker, &sub).await, [11, 0, 0, 0]);
    let topics = broker.subscription(&sub).await.unwrap().topics;
    assert_eq!(topics.iter().map(|t| t.topic.as_str()).collect::<Vec<_>>(), ["a", "b"], "by name");
    let taken = take(&broker, &sub, 11).await;
    eventually("all are in flight", async || standing(&broker, &sub).await == [0, 11, 0, 0]).await;
    ack(&broker, &sub, &taken[..4]).await;
    say(&broker, &sub, &taken[4], reject("no")).await;
    let hour = super::steps::retry_after(Duration::from_secs(3600));
    say(&broker, &sub, &taken[5], hour).await;
    eventually("the counters follow", async || standing(&broker, &sub).await == [0, 5, 1, 1]).await;
}

pub(super) async fn consumers_are_counted(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let one = broker.join(&sub).await.unwrap();
    let two = broker.join(&sub).await.unwrap();
    assert_ne!(one, two);
    let counted = async |count: usize| {
        eventually("consumers are counted", async || {
            broker.subscription(&sub).await.unwrap().consumers == count
        })
        .await;
    };
    counted(2).await;
    broker.leave(&sub, one);
    counted(1).await;
    broker.leave(&sub, one);
    broker.leave(&sub, two);
    counted(0).await;
}
