//! How long messages are kept, and that unread ones are kept longer unless the topic says otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::steps::{
    A_WHILE, ack, close, eventually, fetch, info, nothing, one, publish, publish_batch, read_all, reject,
    retry_after, say, standing, stored_texts, subscription, take, take_one, text, texts, topic_with,
};
use super::{Harness, PATIENCE};
use crate::{Outcome, Retention, Selection, SharedBroker, StartAt, TopicName};

fn keep(change: impl Fn(&mut Retention)) -> impl Fn(&mut crate::Topic) {
    move |topic| {
        topic.retention.max_age = None;
        change(&mut topic.retention);
    }
}

/// Waits until the log begins at an offset, or later.
async fn trimmed_to(broker: &SharedBroker, topic: &TopicName, head: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let info = info(broker, topic).await;
        if info.head >= head {
            return;
        }
        assert!(Instant::now() < end, "not trimmed to {head} within {PATIENCE:?}: {info:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn publish_each(broker: &SharedBroker, topic: &TopicName, texts: std::ops::Range<u64>) {
    for n in texts {
        publish(broker, topic, [n.to_string()]).await;
    }
}

pub(super) async fn by_number(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", keep(|r| r.max_messages = Some(10))).await;
    publish_each(&broker, &orders, 0..60).await;
    eventually("the oldest are trimmed", async || {
        let info = info(&broker, &orders).await;
        assert!(info.tail == 60 && info.head <= 50, "more than the oldest were trimmed: {info:?}");
        info.head >= 40
    })
    .await;
    let head = info(&broker, &orders).await.head;
    let left = read_all(&broker, &orders).await;
    assert_eq!(left.first().map(|m| m.offset), Some(head));
    assert_eq!(stored_texts(&left), (head..60).map(|n| n.to_string()).collect::<Vec<_>>());
    // A place that is gone stands for the first one that is kept.
    let page = broker.read(&orders, StartAt::Offset(3), 1, Duration::ZERO).await.unwrap();
    assert_eq!(page.messages[0].offset, head);
    close(broker).await;
    let broker = harness.reopen().await;
    assert!(info(&broker, &orders).await.head >= head, "trimmed messages came back");
    assert_eq!(publish(&broker, &orders, ["next"]).await.first, 60);
}

pub(super) async fn by_size(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", keep(|r| r.max_bytes = Some(100_000))).await;
    for n in 0..50u8 {
        publish_batch(&broker, &orders, one(vec![n; 10_000])).await.unwrap();
    }
    eventually("the oldest are trimmed", async || {
        let info = info(&broker, &orders).await;
        assert!(info.tail - info.head >= 9, "more than the oldest were trimmed: {info:?}");
        info.bytes <= 120_000 && info.head >= 38
    })
    .await;
    let left = read_all(&broker, &orders).await;
    assert_eq!(left.last().map(|m| m.record.payload()[0]), Some(49));
}

pub(super) async fn by_age(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let age = Duration::from_millis(300);
    let orders = topic_with(&broker, "orders", keep(move |r| r.max_age = Some(age))).await;
    publish(&broker, &orders, ["old", "older"]).await;
    trimmed_to(&broker, &orders, 2).await;
    let empty = info(&broker, &orders).await;
    assert_eq!((empty.tail, empty.held_by.clone()), (2, None), "{empty:?}");
    eventually("nothing is read", async || read_all(&broker, &orders).await.is_empty()).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let known = info(&broker, &orders).await;
    assert_eq!((known.head, known.tail), (2, 2), "an empty log goes on where it was");
    assert_eq!(publish(&broker, &orders, ["new"]).await.first, 2);
}

pub(super) async fn unread_messages_stay_and_it_says_for_whom(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", keep(|r| r.max_messages = Some(5))).await;
    let sub = subscription(&broker, "the-slow-one", &["orders"]).await;
    publish_each(&broker, &orders, 0..40).await;
    eventually("it says who holds them", async || {
        info(&broker, &orders).await.held_by.is_some_and(|by| by.contains("the-slow-one"))
    })
    .await;
    assert_eq!(info(&broker, &orders).await.head, 0, "unread messages were dropped");
    let taken = take(&broker, &sub, 40).await;
    assert_eq!(texts(&taken), (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
    // Taken is not settled; neither is set aside.
    ack(&broker, &sub, &taken[1..]).await;
    say(&broker, &sub, &taken[0], retry_after(Duration::from_millis(400))).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(info(&broker, &orders).await.head, 0, "a message that will be tried again was dropped");
    let first = take_one(&broker, &sub).await;
    assert_eq!(text(&first), "0");
    ack(&broker, &sub, &[first]).await;
    trimmed_to(&broker, &orders, 30).await;
    eventually("nobody holds them", async || info(&broker, &orders).await.held_by.is_none()).await;
}

pub(super) async fn a_deleted_subscription_holds_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", keep(|r| r.max_messages = Some(5))).await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish_each(&broker, &orders, 0..30).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(info(&broker, &orders).await.head, 0);
    broker.delete_subscription(&sub).await.unwrap();
    trimmed_to(&broker, &orders, 20).await;
}

pub(super) async fn a_topic_can_say_that_unread_ones_may_go(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(
        &broker,
        "orders",
        keep(|r| {
            r.max_messages = Some(10);
            r.drop_unread = true;
        }),
    )
    .await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish_each(&broker, &orders, 0..5).await;
    let held = take(&broker, &sub, 3).await;
    say(&broker, &sub, &held[1], Outcome::Release).await;
    publish_each(&broker, &orders, 5..60).await;
    trimmed_to(&broker, &orders, 40).await;
    // What is gone cannot be delivered; what is left can, in order, and the subscription is not stuck.
    let mut left = Vec::new();
    while left.last().is_none_or(|last: &String| last != "59") {
        let taken = fetch(&broker, &sub, 100).await;
        ack(&broker, &sub, &taken).await;
        left.extend(texts(&taken));
    }
    let first: u64 = left[0].parse().unwrap();
    assert!(
        left.len() >= 10 && left.ends_with(&(50..60).map(|n| n.to_string()).collect::<Vec<_>>()),
        "{left:?}"
    );
    assert!(left.iter().rev().take(10).count() == 10 && first >= 1, "{left:?}");
    // A late answer about what is gone is harmless.
    broker.settle(&sub, crate::Settlement::ack([held[0].id])).await.unwrap();
    nothing(&broker, &sub).await;
    eventually("nothing is left", async || standing(&broker, &sub).await[0] == 0).await;
    publish(&broker, &orders, ["next"]).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "next");
}

pub(super) async fn dead_letters_stay_and_it_says_for_whom(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", keep(|r| r.max_messages = Some(5))).await;
    let sub = subscription(&broker, "careful", &["orders"]).await;
    publish(&broker, &orders, ["bad"]).await;
    let bad = take_one(&broker, &sub).await;
    say(&broker, &sub, &bad, reject("no such customer")).await;
    publish_each(&broker, &orders, 1..30).await;
    let rest = take(&broker, &sub, 29).await;
    ack(&broker, &sub, &rest).await;
    eventually("it says what holds them", async || {
        let by = info(&broker, &orders).await.held_by.unwrap_or_default();
        by.contains("careful") && by.contains("dead letter")
    })
    .await;
    assert_eq!(info(&broker, &orders).await.head, 0);
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters[0].message.as_ref().map(|(_, record)| record.payload()), Some("bad".into()));
    assert_eq!(broker.discard(&sub, Selection::All, false).await.unwrap(), 1);
    trimmed_to(&broker, &orders, 20).await;
    eventually("nobody holds them", async || info(&broker, &orders).await.held_by.is_none()).await;
}

pub(super) async fn a_dead_letters_message_may_go_where_unread_ones_may(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(
        &broker,
        "orders",
        keep(|r| {
            r.max_messages = Some(5);
            r.drop_unread = true;
        }),
    )
    .await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["bad"]).await;
    let bad = take_one(&broker, &sub).await;
    say(&broker, &sub, &bad, reject("no such customer")).await;
    publish_each(&broker, &orders, 1..30).await;
    trimmed_to(&broker, &orders, 20).await;
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert!(letters.is_empty(), "a dead letter goes with its message: {letters:?}");
}
