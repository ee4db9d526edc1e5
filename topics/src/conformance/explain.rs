//! The life of one message, told to whoever asks.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::steps::{
    ack, batch, name, publish, publish_batch, refused, reject, retry_after, say, subscription,
    subscription_with, take_one, topic,
};
use crate::{
    ErrorCode, Message, MessageState, Order, Settlement, SharedBroker, Situation, StartAt, TopicName,
};

/// How the only subscription stands to a message.
async fn situation(broker: &SharedBroker, topic: &TopicName, offset: u64) -> Situation {
    let mut explained = broker.explain(topic, offset).await.unwrap();
    assert_eq!((&explained.topic, explained.offset, explained.subscriptions.len()), (topic, offset, 1));
    explained.subscriptions.remove(0)
}

#[track_caller]
fn told(situation: &Situation, state: MessageState, words: &[&str]) {
    assert_eq!(situation.state, state, "{situation:?}");
    for word in words {
        assert!(situation.why.contains(word), "{word:?} is not in {:?}", situation.why);
    }
}

pub(super) async fn what_is_stored_is_shown_and_what_is_not_says_why(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let message = Message { key: Some("k".into()), id: Some("i".into()), ..Message::new("12345") };
    publish_batch(&broker, &orders, batch([message, Message::new("")])).await.unwrap();
    let explained = broker.explain(&orders, 0).await.unwrap();
    let stored = explained.stored.unwrap();
    assert_eq!((stored.bytes, stored.key.as_deref(), stored.id.as_deref()), (5, Some("k"), Some("i")));
    assert!(explained.gone.is_none() && explained.subscriptions.is_empty());
    let later = broker.explain(&orders, 7).await.unwrap();
    assert!(later.stored.is_none() && later.gone.unwrap().contains("offset 2"));
    broker.purge(&orders, Some(1)).await.unwrap();
    let purged = broker.explain(&orders, 0).await.unwrap();
    assert!(purged.stored.is_none() && purged.gone.unwrap().contains("offset 1"));
    refused(broker.explain(&name("nowhere"), 0).await, ErrorCode::NotFound);
}

pub(super) async fn each_state_says_what_it_waits_for(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_in_flight = 3).await;
    publish(&broker, &orders, (0..6).map(|n| n.to_string())).await;
    told(&situation(&broker, &orders, 5).await, MessageState::Waiting, &["5 messages", "nobody"]);
    let consumer = broker.join(&sub).await.unwrap();
    let fetch = crate::Fetch::new(Some(consumer), 3, super::PATIENCE);
    let held = broker.fetch(&sub, fetch).await.unwrap();
    let told_of = situation(&broker, &orders, 0).await;
    told(&told_of, MessageState::InFlight, &[&consumer.0.to_string(), "until"]);
    assert_eq!((told_of.consumer, told_of.deliveries), (Some(consumer), 1));
    assert!(told_of.until.is_some());
    told(&situation(&broker, &orders, 3).await, MessageState::Waiting, &["max_in_flight"]);
    ack(&broker, &sub, &held[..1]).await;
    told(&situation(&broker, &orders, 0).await, MessageState::Done, &["acknowledged"]);
    let mut settlement = Settlement::one(held[1].id, retry_after(Duration::from_secs(3600)));
    settlement.by = Some("billing v7".into());
    broker.settle(&sub, settlement).await.unwrap();
    let told_of = situation(&broker, &orders, 1).await;
    told(&told_of, MessageState::SetAside, &["failed once", "backoff"]);
    assert_eq!((told_of.failures, told_of.reason.as_deref()), (1, Some("later")));
    assert_eq!(told_of.by.as_deref(), Some("billing v7"));
    assert!(told_of.until.is_some());
    say(&broker, &sub, &held[2], reject("no such customer")).await;
    let told_of = situation(&broker, &orders, 2).await;
    told(&told_of, MessageState::DeadLetter, &["given up", "redrive"]);
    assert_eq!((told_of.failures, told_of.reason.as_deref()), (1, Some("no such customer")));
    broker.set_paused(&sub, true).await.unwrap();
    told(&situation(&broker, &orders, 3).await, MessageState::Waiting, &["next", "paused"]);
}

pub(super) async fn keys_say_whom_they_wait_for(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| {
        (s.order, s.max_failures) = (Order::Key, 1);
    })
    .await;
    let message = |_| Message { key: Some("customer-1".into()), ..Message::new("x") };
    publish_batch(&broker, &orders, batch((0..2).map(message))).await.unwrap();
    let held = take_one(&broker, &sub).await;
    assert!(broker.fetch(&sub, crate::Fetch::new(None, 1, Duration::ZERO)).await.unwrap().is_empty());
    told(&situation(&broker, &orders, 1).await, MessageState::BehindKey, &["offset 0", "customer-1"]);
    say(&broker, &sub, &held, super::steps::retry("poison")).await;
    let parked = situation(&broker, &orders, 0).await;
    told(&parked, MessageState::Parked, &["customer-1", "parked since", "release"]);
    assert_eq!((parked.reason.as_deref(), parked.failures), (Some("poison"), 1));
}

pub(super) async fn every_subscription_of_the_topic_is_told_of(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["a"]).await;
    subscription(&broker, "b.all", &["*"]).await;
    subscription_with(&broker, "a.late", &["orders"], |s| s.start = StartAt::End).await;
    topic(&broker, "other").await;
    subscription(&broker, "c.other", &["other"]).await;
    let explained = broker.explain(&orders, 0).await.unwrap();
    let told: Vec<_> = explained.subscriptions.iter().map(|s| (s.subscription.as_str(), s.state)).collect();
    assert_eq!(told, [("a.late", MessageState::Done), ("b.all", MessageState::Waiting)]);
}
