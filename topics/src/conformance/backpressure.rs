//! Promise 7: what waits to be stored is bounded; beyond that `publish` refuses and stores nothing.

use std::sync::Arc;

use super::Harness;
use super::steps::{info, one, publish, read_all, soon, topic, topic_with};
use crate::{Durability, ErrorCode};

/// More than any engine may hold in memory for publishers.
const MORE_THAN_ENOUGH: usize = 2 << 30;

pub(super) async fn a_full_queue_refuses_and_stores_nothing_of_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.durability = Durability::Os).await;
    let payload = vec![0x5a_u8; 256 * 1024];
    let mut accepted = Vec::new();
    let mut refusal = None;
    for n in 0..MORE_THAN_ENOUGH / payload.len() {
        let mut payload = payload.clone();
        payload[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let mut published = Box::pin(broker.publish(&orders, one(payload), Default::default()));
        // A refusal is there at once; what was accepted takes the time it takes.
        match poll_once(published.as_mut()).await {
            Some(Err(error)) => {
                refusal = Some(error);
                break;
            }
            Some(Ok(_)) => accepted.push((n as u64, None)),
            None => accepted.push((n as u64, Some(published))),
        }
    }
    let refusal = refusal.expect("a publisher that never waits fills no queue: what waits is not bounded");
    assert_eq!(refusal.code, ErrorCode::Overloaded, "{refusal}");
    assert!(refusal.retry_after.is_some(), "overloaded says when it is worth trying again");
    soon("room", broker.room()).await;
    for (n, published) in &mut accepted {
        if let Some(published) = published {
            assert_eq!(soon("a receipt", published).await.unwrap().first, *n);
        }
    }
    assert_eq!(info(&broker, &orders).await.tail, accepted.len() as u64, "a refused message was stored");
    assert_eq!(publish(&broker, &orders, ["there is room again"]).await.first, accepted.len() as u64);
    let stored = read_all(&broker, &orders).await;
    assert_eq!(stored.len(), accepted.len() + 1);
    for (n, message) in stored[..accepted.len()].iter().enumerate() {
        assert_eq!(message.record.payload()[..8], (n as u64).to_le_bytes());
    }
}

pub(super) async fn an_idle_broker_has_room(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    soon("room in an empty broker", broker.room()).await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["x"]).await;
    soon("room in an idle broker", broker.room()).await;
}

/// What a future has to say without waiting.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
