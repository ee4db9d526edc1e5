//! Promise 5: an id published again within the topic's window is stored once.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::steps::{
    batch, close, eventually, info, name, publish_batch, read_all, refused, soon, stored_texts, subscription,
    take_one, topic, topic_with,
};
use crate::{ErrorCode, Expect, Message, Outcome, Receipts, Settlement, SharedBroker, Topic, TopicName};

fn with_id(text: &str, id: &str) -> Message {
    Message::new(text.to_owned()).with_id(id)
}

async fn send(broker: &SharedBroker, topic: &TopicName, text: &str, id: &str) -> Receipts {
    publish_batch(broker, topic, batch([with_id(text, id)])).await.unwrap()
}

/// Offset and whether it was a duplicate, for each message.
fn told(receipts: &Receipts) -> Vec<(u64, bool)> {
    receipts.iter().map(|receipt| (receipt.offset, receipt.duplicate)).collect()
}

pub(super) async fn the_second_receipt_names_the_first_ones_offset(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    assert_eq!(told(&send(&broker, &orders, "a", "1").await), [(0, false)]);
    assert_eq!(told(&send(&broker, &orders, "b", "2").await), [(1, false)]);
    let again = send(&broker, &orders, "a again", "1").await;
    assert_eq!(told(&again), [(0, true)]);
    assert_eq!(again.first, 2, "where it would have been stored");
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["a", "b"]);
    assert_eq!(told(&send(&broker, &orders, "c", "3").await), [(2, false)]);
}

pub(super) async fn within_one_batch_too(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    send(&broker, &orders, "before", "1").await;
    let mixed = batch([
        with_id("new", "2"),
        with_id("old", "1"),
        Message::new("without"),
        with_id("new again", "2"),
        with_id("newer", "3"),
        Message::new("without"),
    ]);
    let receipts = publish_batch(&broker, &orders, mixed).await.unwrap();
    assert_eq!(told(&receipts), [(1, false), (0, true), (2, false), (1, true), (3, false), (4, false)]);
    assert_eq!(
        stored_texts(&read_all(&broker, &orders).await),
        ["before", "new", "without", "newer", "without"]
    );
}

pub(super) async fn a_batch_on_its_way_is_known_already(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let waiting: Vec<_> = (0..20)
        .map(|n| broker.publish(&orders, batch([with_id(&n.to_string(), "same")]), Default::default()))
        .collect();
    for (n, published) in waiting.into_iter().enumerate() {
        assert_eq!(told(&soon("a receipt", published).await.unwrap()), [(0, n > 0)]);
    }
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["0"]);
}

pub(super) async fn many_publishers_of_one_id_store_it_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..8 {
        let (broker, orders) = (broker.clone(), orders.clone());
        publishers.spawn(async move {
            let mut receipts = Vec::new();
            for n in 0..50 {
                receipts
                    .extend(told(&send(&broker, &orders, &format!("{publisher}"), &format!("{n}")).await));
            }
            receipts
        });
    }
    let all = soon("all publishers", publishers.join_all()).await;
    for n in 0..50 {
        let told: Vec<(u64, bool)> = all.iter().map(|receipts| receipts[n]).collect();
        assert_eq!(told.iter().filter(|(_, duplicate)| !duplicate).count(), 1, "id {n}: {told:?}");
        assert!(told.iter().all(|(offset, _)| *offset == told[0].0), "id {n}: {told:?}");
    }
    assert_eq!(read_all(&broker, &orders).await.len(), 50);
}

pub(super) async fn every_topic_remembers_for_itself(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "one").await, topic(&broker, "two").await);
    assert_eq!(told(&send(&broker, &one, "x", "1").await), [(0, false)]);
    assert_eq!(told(&send(&broker, &two, "x", "1").await), [(0, false)]);
}

pub(super) async fn a_window_of_zero_turns_it_off(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.dedup_window = Duration::ZERO).await;
    assert_eq!(told(&send(&broker, &orders, "x", "1").await), [(0, false)]);
    assert_eq!(told(&send(&broker, &orders, "x", "1").await), [(1, false)]);
}

pub(super) async fn after_the_window_it_is_a_new_message(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.dedup_window = Duration::from_millis(300)).await;
    send(&broker, &orders, "x", "1").await;
    eventually("the id is forgotten", async || {
        // Asking again must not remember it anew: the window is counted from the message that was stored.
        tokio::time::sleep(Duration::from_millis(50)).await;
        told(&send(&broker, &orders, "x", "1").await) == [(1, false)]
    })
    .await;
}

pub(super) async fn a_restart_does_not_forget(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for n in 0..20 {
        send(&broker, &orders, "x", &n.to_string()).await;
    }
    if let Some(after) = harness.reopen_killed().await {
        assert_eq!(told(&send(&after, &orders, "x", "7").await), [(7, true)]);
        close(after).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    for n in 0..20 {
        assert_eq!(told(&send(&broker, &orders, "x", &n.to_string()).await), [(n, true)]);
    }
    assert_eq!(info(&broker, &orders).await.tail, 20);
}

pub(super) async fn what_was_refused_is_not_remembered(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 10).await;
    let large = batch([with_id("fits", "1"), with_id("does not fit here", "2")]);
    refused(publish_batch(&broker, &small, large).await, ErrorCode::TooLarge);
    assert_eq!(told(&send(&broker, &small, "fits", "1").await), [(0, false)]);
    assert_eq!(told(&send(&broker, &small, "fits", "2").await), [(1, false)]);
}

pub(super) async fn a_topic_made_anew_knows_no_ids(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    send(&broker, &orders, "old", "1").await;
    broker.delete_topic(&orders).await.unwrap();
    broker.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    assert!(!send(&broker, &orders, "new", "1").await.iter().any(|receipt| receipt.duplicate));
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["new"]);
}

pub(super) async fn outputs_of_a_settlement_count_as_well(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (inputs, outputs) = (topic(&broker, "inputs").await, topic(&broker, "outputs").await);
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    send(&broker, &outputs, "first", "1").await;
    send(&broker, &inputs, "in", "1").await;
    let delivery = take_one(&broker, &sub).await;
    let both = batch([with_id("again", "1"), with_id("other", "2")]);
    let settlement = Settlement {
        outcomes: vec![(delivery.id, Outcome::Ack)],
        outputs: vec![(outputs.clone(), both)],
        by: None,
    };
    assert_eq!(broker.settle(&sub, settlement).await.unwrap().settled, 1);
    assert_eq!(stored_texts(&read_all(&broker, &outputs).await), ["first", "other"]);
    assert_eq!(told(&send(&broker, &outputs, "other again", "2").await), [(1, true)]);
}
