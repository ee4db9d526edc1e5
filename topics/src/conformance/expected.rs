//! Optimistic append: a batch is stored only if the log is as its publisher believes.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    eventually, info, one, publish, read_all, refused, soon, stored_texts, topic, topic_with,
};
use crate::{Error, ErrorCode, Expected, PublishOptions, Receipts, SharedBroker, Source, TopicName};

async fn append(
    broker: &SharedBroker,
    topic: &TopicName,
    text: &str,
    expected: Expected,
) -> Result<Receipts, Error> {
    let options = PublishOptions { expected: Some(expected), ..PublishOptions::default() };
    soon("an answer", broker.publish(topic, one(text.to_owned()), options)).await
}

pub(super) async fn the_end_as_expected_is_appended_to(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    assert_eq!(append(&broker, &orders, "a", Expected::Last(None)).await.unwrap().first, 0);
    assert_eq!(append(&broker, &orders, "b", Expected::Last(Some(0))).await.unwrap().first, 1);
    publish(&broker, &orders, ["c", "d"]).await;
    assert_eq!(append(&broker, &orders, "e", Expected::Last(Some(3))).await.unwrap().first, 4);
}

pub(super) async fn another_end_is_refused_and_named(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    refused(append(&broker, &orders, "x", Expected::Last(Some(0))).await, ErrorCode::Conflict);
    publish(&broker, &orders, ["a", "b", "c"]).await;
    for expected in [None, Some(0), Some(1), Some(3), Some(u64::MAX)] {
        let error =
            refused(append(&broker, &orders, "x", Expected::Last(expected)).await, ErrorCode::Conflict);
        assert!(error.message.contains("offset 2"), "{error} does not say what is there");
    }
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["a", "b", "c"]);
}

pub(super) async fn of_many_who_race_one_wins(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for round in 0..20u64 {
        let expected = round.checked_sub(1);
        let waiting: Vec<_> = (0..8)
            .map(|n| {
                let options =
                    PublishOptions { expected: Some(Expected::Last(expected)), ..Default::default() };
                broker.publish(&orders, one(format!("{round} {n}")), options)
            })
            .collect();
        let mut won = 0;
        for published in waiting {
            match soon("an answer", published).await {
                Ok(receipts) => {
                    won += 1;
                    assert_eq!(receipts.first, round);
                }
                Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(info(&broker, &orders).await.tail, 20);
}

pub(super) async fn what_was_dropped_still_counts(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.retention.max_messages = Some(0)).await;
    publish(&broker, &orders, ["a", "b"]).await;
    eventually("all is dropped", async || info(&broker, &orders).await.head == 2).await;
    refused(append(&broker, &orders, "x", Expected::Last(None)).await, ErrorCode::Conflict);
    assert_eq!(append(&broker, &orders, "c", Expected::Last(Some(1))).await.unwrap().first, 2);
}

pub(super) async fn a_resent_batch_is_not_measured_again(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let send = async |sequence, text: &str, expected| {
        let source = Some(Source { publisher: 1, sequence, answered: 0 });
        let options = PublishOptions { expected: Some(Expected::Last(expected)), source, durability: None };
        soon("an answer", broker.publish(&orders, one(text.to_owned()), options)).await
    };
    let first = send(0, "a", None).await.unwrap();
    assert_eq!(send(0, "a", None).await.unwrap(), first);
    refused(send(1, "b", None).await, ErrorCode::Conflict);
    // Refused, so it has had its turn, and may have it again.
    send(2, "c", Some(0)).await.unwrap();
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["a", "c"]);
}
