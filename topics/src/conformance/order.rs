//! Promise 2: one order, the same for all, without holes; each batch in one piece.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    ack, batch, close, info, one, publish, publish_batch, read_all, soon, stored_texts, subscription, take,
    text, texts, topic,
};
use crate::{Message, Timestamp};

pub(super) async fn calls_are_stored_in_their_order_however_they_are_awaited(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let mut waiting: Vec<_> =
        (0..100).map(|n| broker.publish(&orders, one(n.to_string()), Default::default())).collect();
    // Every third receipt is never asked for, the others from the last to the first.
    for n in (0..100u64).rev() {
        let published = waiting.pop().unwrap();
        if n % 3 != 0 {
            assert_eq!(soon("a receipt", published).await.unwrap().first, n);
        }
    }
    soon("a receipt", broker.publish(&orders, one("100"), Default::default())).await.unwrap();
    let expected: Vec<String> = (0..=100).map(|n| n.to_string()).collect();
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), expected);
}

pub(super) async fn batches_of_many_publishers_stay_in_one_piece(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..8u64 {
        let (broker, orders) = (broker.clone(), orders.clone());
        publishers.spawn(async move {
            let mut places = Vec::new();
            for round in 0..25u64 {
                let size = 1 + (publisher + round) % 5;
                let texts = (0..size).map(|n| format!("{publisher}/{round}/{n}"));
                let receipts = publish(&broker, &orders, texts).await;
                assert_eq!(u64::from(receipts.count), size);
                places.push((receipts.first, format!("{publisher}/{round}"), size));
            }
            places
        });
    }
    let mut places: Vec<_> = soon("all publishers", publishers.join_all()).await.concat();
    let stored = read_all(&broker, &orders).await;
    for (n, message) in stored.iter().enumerate() {
        assert_eq!(message.offset, n as u64, "a hole, or a message twice");
    }
    places.sort();
    let mut at = 0;
    let texts = stored_texts(&stored);
    for (first, prefix, size) in places {
        assert_eq!(first, at, "the receipts overlap or leave a hole");
        for n in 0..size {
            assert_eq!(texts[usize::try_from(first + n).unwrap()], format!("{prefix}/{n}"));
        }
        at += size;
    }
    assert_eq!(at, stored.len() as u64);
    // What one publisher awaited before it went on comes before what it published next.
    for publisher in 0..8 {
        let rounds: Vec<u64> = texts
            .iter()
            .filter_map(|text| text.strip_prefix(&format!("{publisher}/"))?.split('/').next()?.parse().ok())
            .collect();
        assert!(rounds.is_sorted(), "publisher {publisher}: {rounds:?}");
    }
}

pub(super) async fn all_readers_see_the_same_order(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let early = subscription(&broker, "early", &["orders"]).await;
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..4 {
        let (broker, orders) = (broker.clone(), orders.clone());
        publishers.spawn(async move {
            for round in 0..25 {
                publish(&broker, &orders, [format!("{publisher}/{round}")]).await;
            }
        });
    }
    let live = take(&broker, &early, 100).await;
    soon("all publishers", publishers.join_all()).await;
    let late = subscription(&broker, "late", &["orders"]).await;
    let caught_up = take(&broker, &late, 100).await;
    let read = read_all(&broker, &orders).await;
    assert_eq!(texts(&live), stored_texts(&read));
    assert_eq!(texts(&caught_up), stored_texts(&read));
    for (delivery, message) in live.iter().zip(&read) {
        assert_eq!((delivery.offset, delivery.time), (message.offset, message.time));
    }
}

pub(super) async fn every_topic_counts_for_itself(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "one").await, topic(&broker, "two").await);
    for n in 0..5 {
        assert_eq!(publish(&broker, &one, ["x"]).await.first, n);
        assert_eq!(publish(&broker, &two, ["y", "z"]).await.first, n * 2);
    }
}

pub(super) async fn a_message_comes_back_as_it_was_sent(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let full = Message {
        key: Some("ключ".into()),
        id: Some("id-1".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("answers.here".into()),
        content_type: Some("application/octet-stream".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        expires_at: Some(Timestamp(4_000_000_000_000)),
        deliver_at: Some(Timestamp(1_000)),
        priority: 9,
        headers: vec![("x".into(), "1".into()), ("x".into(), "".into()), ("ü".into(), "\u{1F69A}".into())],
        payload: (0..=255u8).collect::<Vec<_>>().into(),
    };
    let sent = [full, Message::new(""), Message::json("{}")];
    publish_batch(&broker, &orders, batch(sent.clone())).await.unwrap();
    let read: Vec<Message> = read_all(&broker, &orders).await.iter().map(|m| m.record.to_message()).collect();
    assert_eq!(read, sent);
    let taken: Vec<Message> = take(&broker, &sub, 3).await.iter().map(|d| d.record.to_message()).collect();
    assert_eq!(taken, sent);
}

pub(super) async fn a_restart_changes_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, (0..50).map(|n| n.to_string())).await;
    let first = take(&broker, &sub, 20).await;
    ack(&broker, &sub, &first).await;
    let before = read_all(&broker, &orders).await;
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(read_all(&broker, &orders).await, before);
    assert_eq!(info(&broker, &orders).await.tail, 50);
    assert_eq!(publish(&broker, &orders, ["50"]).await.first, 50);
    let rest = take(&broker, &sub, 31).await;
    assert_eq!(texts(&rest), (20..=50).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(text(&rest[30]), "50");
}
