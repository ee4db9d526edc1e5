//! Promise 1: a receipt means what it says.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    batch, info, name, one, publish, publish_batch, read_all, refused, soon, stored_texts, topic, topic_with,
};
use crate::{Durability, ErrorCode, Expect, Message, Topic, TopicName};

pub(super) async fn a_receipt_names_offset_and_durability(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let first = publish(&broker, &orders, ["a", "b", "c"]).await;
    assert_eq!((first.first, first.count), (0, 3));
    assert!(first.durability >= Durability::Fsync, "{first:?}");
    assert!(first.duplicates.is_empty());
    let second = publish(&broker, &orders, ["d"]).await;
    assert_eq!((second.first, second.count), (3, 1));
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["a", "b", "c", "d"]);
    let known = info(&broker, &orders).await;
    assert_eq!((known.head, known.tail), (0, 4));
}

pub(super) async fn topics_of_several_durabilities_live_in_one_broker(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let levels = [Durability::Memory, Durability::Os, Durability::Fsync];
    for level in levels {
        topic_with(&broker, &level.to_string(), |t| t.durability = level).await;
    }
    let mut waiting = Vec::new();
    for round in 0..20 {
        for level in levels {
            let topic: TopicName = name(&level.to_string());
            waiting.push((
                level,
                round,
                broker.publish(&topic, one(format!("{level} {round}")), Default::default()),
            ));
        }
    }
    for (level, round, published) in waiting {
        let receipts = soon("a receipt", published).await.unwrap();
        assert!(receipts.durability >= level, "{receipts:?} on a topic of {level}");
        assert_eq!(receipts.first, round);
    }
    for level in levels {
        let texts = stored_texts(&read_all(&broker, &name(&level.to_string())).await);
        assert_eq!(texts, (0..20).map(|round| format!("{level} {round}")).collect::<Vec<_>>());
    }
}

pub(super) async fn a_publish_can_ask_for_more_and_not_for_less(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let cheap = topic_with(&broker, "cheap", |t| t.durability = Durability::Memory).await;
    let dear = topic_with(&broker, "dear", |t| t.durability = Durability::Fsync).await;
    let more = soon("a receipt", broker.publish(&cheap, one("x"), Durability::Fsync.into())).await.unwrap();
    assert!(more.durability >= Durability::Fsync, "{more:?}");
    let less = soon("a receipt", broker.publish(&dear, one("x"), Durability::Memory.into())).await.unwrap();
    assert!(less.durability >= Durability::Fsync, "{less:?}");
}

pub(super) async fn a_durability_that_cannot_be_given_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut far = Topic::new(name("far"));
    far.durability = Durability::Quorum(255);
    refused(broker.put_topic(far, Expect::Any).await, ErrorCode::InvalidArgument);
    refused(broker.topic(&name("far")).await, ErrorCode::NotFound);
    let near = topic(&broker, "near").await;
    let asked = soon("an answer", broker.publish(&near, one("x"), Durability::Quorum(255).into())).await;
    refused(asked, ErrorCode::InvalidArgument);
    assert_eq!(info(&broker, &near).await.tail, 0, "refused, yet stored");
}

pub(super) async fn an_unknown_topic_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let error = refused(publish_batch(&broker, &name("nowhere"), one("x")).await, ErrorCode::NotFound);
    assert!(error.to_string().contains("nowhere"), "the error does not name the topic: {error}");
}

pub(super) async fn an_empty_batch_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    refused(publish_batch(&broker, &orders, batch([])).await, ErrorCode::InvalidArgument);
    assert_eq!(info(&broker, &orders).await.tail, 0);
}

pub(super) async fn one_payload_over_the_limit_refuses_the_whole_batch(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 100).await;
    let mixed = batch([Message::new("fits"), Message::new(vec![b'x'; 101]), Message::new("fits")]);
    let error = refused(publish_batch(&broker, &small, mixed).await, ErrorCode::TooLarge);
    assert!(error.to_string().contains("100"), "the error does not name the limit: {error}");
    assert_eq!(info(&broker, &small).await.tail, 0, "refused, yet stored");
    let exact = batch([Message::new(vec![b'x'; 100])]);
    assert_eq!(publish_batch(&broker, &small, exact).await.unwrap().first, 0);
}

pub(super) async fn what_was_acknowledged_survives_a_kill(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let synced = topic_with(&broker, "synced", |t| t.durability = Durability::Fsync).await;
    let written = topic_with(&broker, "written", |t| t.durability = Durability::Os).await;
    for n in 0..10 {
        publish(&broker, &synced, [format!("s{n}")]).await;
        publish(&broker, &written, [format!("w{n}")]).await;
    }
    let Some(after) = harness.reopen_killed().await else { return };
    let expected = |prefix: &str| (0..10).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    assert_eq!(stored_texts(&read_all(&after, &synced).await), expected("s"));
    assert_eq!(stored_texts(&read_all(&after, &written).await), expected("w"));
    assert_eq!(publish(&after, &synced, ["next"]).await.first, 10);
}
