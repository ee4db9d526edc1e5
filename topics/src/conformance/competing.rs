//! Competing consumers: each message is with one of them at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::steps::{Dice, ack, info, publish, soon, standing, subscription, take, texts, topic};
use super::{Harness, PATIENCE};
use crate::{Fetch, Settlement};

pub(super) async fn each_message_goes_to_one_of_them(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    const COUNT: usize = 500;
    let left = Arc::new(AtomicUsize::new(COUNT));
    let mut consumers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (broker, sub, left) = (broker.clone(), sub.clone(), left.clone());
        consumers.spawn(async move {
            let consumer = broker.join(&sub).await.unwrap();
            let mut mine = Vec::new();
            while left.load(Ordering::SeqCst) > 0 {
                let fetch = Fetch::new(Some(consumer), 7, Duration::from_millis(50));
                let taken = broker.fetch(&sub, fetch).await.unwrap();
                assert!(taken.iter().all(|d| (d.attempt, d.deliveries) == (1, 1)), "{taken:?}");
                if !taken.is_empty() {
                    ack(&broker, &sub, &taken).await;
                }
                left.fetch_sub(taken.len(), Ordering::SeqCst);
                mine.extend(taken.iter().map(|d| d.offset));
            }
            broker.leave(&sub, consumer);
            mine
        });
    }
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(50) {
        publish(&broker, &orders, chunk.iter().map(|n| n.to_string())).await;
    }
    let mut all: Vec<u64> = soon("all consumers", consumers.join_all()).await.concat();
    all.sort_unstable();
    assert_eq!(all, (0..COUNT as u64).collect::<Vec<_>>(), "each once, none lost");
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
}

pub(super) async fn each_takes_them_in_order(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, (0..100).map(|n| n.to_string())).await;
    let (one, two) = (broker.join(&sub).await.unwrap(), broker.join(&sub).await.unwrap());
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    let mut seen = 0;
    while seen < 100 {
        for consumer in [one, two] {
            let fetch = Fetch::new(Some(consumer), 3, Duration::ZERO);
            for delivery in broker.fetch(&sub, fetch).await.unwrap() {
                let before = last.insert(consumer, delivery.offset);
                assert!(before.is_none_or(|before| before < delivery.offset), "backwards: {delivery:?}");
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 100);
}

pub(super) async fn a_slow_one_holds_up_nobody(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["slow"]).await;
    let slow = take(&broker, &sub, 1).await;
    for n in 0..50 {
        publish(&broker, &orders, [n.to_string()]).await;
        let taken = take(&broker, &sub, 1).await;
        assert_eq!(texts(&taken), [n.to_string()]);
        ack(&broker, &sub, &taken).await;
    }
    assert_eq!(standing(&broker, &sub).await, [0, 1, 0, 0]);
    ack(&broker, &sub, &slow).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
    assert_eq!(info(&broker, &orders).await.tail, 51);
}

pub(super) async fn all_who_wait_are_served(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let mut consumers = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (broker, sub) = (broker.clone(), sub.clone());
        consumers.spawn(async move {
            let taken = broker.fetch(&sub, Fetch::new(None, 1, PATIENCE * 10)).await.unwrap();
            let settled = broker.settle(&sub, Settlement::ack(taken.iter().map(|d| d.id))).await.unwrap();
            assert_eq!(settled.settled, 1);
            taken[0].offset
        });
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&broker, &orders, ["a", "b", "c", "d", "e"]).await;
    let mut offsets = soon("all consumers", consumers.join_all()).await;
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
}

pub(super) async fn a_fetch_that_is_given_up_takes_nothing_along(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    const COUNT: usize = 200;
    let publishing = tokio::spawn({
        let (broker, orders) = (broker.clone(), orders.clone());
        async move {
            for n in 0..COUNT {
                publish(&broker, &orders, [n.to_string()]).await;
            }
        }
    });
    // A caller that goes away, such as a client whose connection breaks, at any moment of its wait.
    let (mut seen, mut dice) = (Vec::new(), Dice(5));
    while !publishing.is_finished() {
        let fetch = broker.fetch(&sub, Fetch::new(None, 3, PATIENCE));
        let patience = Duration::from_micros(dice.below(1500));
        if let Ok(taken) = tokio::time::timeout(patience, fetch).await {
            seen.extend(taken.unwrap());
        }
    }
    publishing.await.unwrap();
    // None of the others waits for a lease of half a minute to run out.
    seen.extend(take(&broker, &sub, COUNT - seen.len()).await);
    assert!(seen.iter().all(|delivery| delivery.attempt == 1), "given up, and counted as a failure");
    let mut offsets: Vec<u64> = seen.iter().map(|delivery| delivery.offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..COUNT as u64).collect::<Vec<_>>());
}
