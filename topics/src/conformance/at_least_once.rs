//! Promise 3: a message is delivered until it is acknowledged; what is nobody's failure counts as none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::steps::{
    A_WHILE, CLOCK_SLACK, ack, batch, close, fetch, name, nothing, publish, publish_batch, retry, say, soon,
    standing, subscription, subscription_with, take, take_one, text, texts, topic,
};
use super::{Harness, PATIENCE};
use crate::{Fetch, Message, Outcome, Settlement};

pub(super) async fn acknowledged_messages_never_come_again(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b", "c", "d"]).await;
    let taken = take(&broker, &sub, 4).await;
    assert_eq!(texts(&taken), ["a", "b", "c", "d"]);
    for (offset, delivery) in taken.iter().enumerate() {
        assert_eq!((&delivery.topic, delivery.offset), (&orders, offset as u64));
        assert_eq!((delivery.attempt, delivery.deliveries), (1, 1));
    }
    // Out of order, and not all of them.
    ack(&broker, &sub, &[taken[2].clone(), taken[0].clone()]).await;
    nothing(&broker, &sub).await;
    if let Some(after) = harness.reopen_killed().await {
        assert_eq!(texts(&take(&after, &sub, 2).await), ["b", "d"]);
        nothing(&after, &sub).await;
        close(after).await;
    }
    ack(&broker, &sub, &[taken[1].clone(), taken[3].clone()]).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
    close(broker).await;
    let broker = harness.reopen().await;
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
}

pub(super) async fn every_subscription_gets_every_message(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for sub in ["one", "two", "three"] {
        subscription(&broker, sub, &["orders"]).await;
    }
    publish(&broker, &orders, (0..30).map(|n| n.to_string())).await;
    for sub in ["one", "two", "three"] {
        let taken = take(&broker, &name(sub), 30).await;
        assert_eq!(texts(&taken), (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
        ack(&broker, &name(sub), &taken).await;
    }
}

pub(super) async fn a_waiting_consumer_is_woken(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    for n in 0..5 {
        let fetching = tokio::spawn({
            let (broker, sub) = (broker.clone(), sub.clone());
            async move { broker.fetch(&sub, Fetch::new(None, 10, PATIENCE * 10)).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        publish(&broker, &orders, [n.to_string()]).await;
        let taken = soon("a fetch that waits for a message", fetching).await.unwrap();
        assert_eq!(texts(&taken), [n.to_string()]);
    }
}

pub(super) async fn an_empty_wait_ends_with_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    for wait in [Duration::ZERO, Duration::from_millis(60)] {
        let began = Instant::now();
        let found = soon("an empty fetch", broker.fetch(&sub, Fetch::new(None, 1, wait))).await.unwrap();
        assert!(found.is_empty());
        assert!(began.elapsed() + CLOCK_SLACK >= wait, "gave up after {:?}", began.elapsed());
    }
}

pub(super) async fn a_fetch_is_bounded_by_number_and_bytes(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish_batch(&broker, &orders, batch((0..20).map(|_| Message::new(vec![b'x'; 1000])))).await.unwrap();
    let mut ask = Fetch::new(None, 3, PATIENCE);
    assert!((1..=3).contains(&broker.fetch(&sub, ask.clone()).await.unwrap().len()));
    ask.max = 100;
    ask.max_bytes = 2500;
    // 1,006 bytes each as packed, 1,000 as payload: the third one passes 2,500 either way.
    let found = broker.fetch(&sub, ask.clone()).await.unwrap();
    assert!((1..=3).contains(&found.len()), "{} messages", found.len());
    ask.max_bytes = 1;
    assert_eq!(broker.fetch(&sub, ask).await.unwrap().len(), 1, "a bound below one message gives one");
}

pub(super) async fn a_released_message_comes_again_and_counts_as_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| {
        s.max_failures = 2;
        s.backoff.first = Duration::from_secs(3600);
        s.backoff.max = Duration::from_secs(3600);
    })
    .await;
    publish(&broker, &orders, ["a"]).await;
    for round in 1..=5 {
        let delivery = take_one(&broker, &sub).await;
        assert_eq!((delivery.attempt, delivery.deliveries), (1, round));
        say(&broker, &sub, &delivery, Outcome::Release).await;
    }
    ack(&broker, &sub, &take(&broker, &sub, 1).await).await;
    nothing(&broker, &sub).await;
}

pub(super) async fn a_consumer_that_leaves_gives_back_at_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_failures = 1).await;
    publish(&broker, &orders, ["a", "b", "c"]).await;
    let leaver = broker.join(&sub).await.unwrap();
    let held = broker.fetch(&sub, Fetch::new(Some(leaver), 3, PATIENCE)).await.unwrap();
    assert_eq!(held.len(), 3);
    ack(&broker, &sub, &held[..1]).await;
    nothing(&broker, &sub).await;
    broker.leave(&sub, leaver);
    let back = take(&broker, &sub, 2).await;
    assert_eq!(texts(&back), ["b", "c"]);
    for delivery in &back {
        assert_eq!((delivery.attempt, delivery.deliveries), (1, 2));
    }
    // What the leaver says now is about deliveries that are no longer.
    let late = broker.settle(&sub, Settlement::ack([held[1].id])).await.unwrap();
    assert_eq!((late.settled, late.stale), (0, vec![held[1].id]));
    ack(&broker, &sub, &back).await;
}

pub(super) async fn a_consumer_that_stays_keeps_what_another_leaves(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b"]).await;
    let (one, two) = (broker.join(&sub).await.unwrap(), broker.join(&sub).await.unwrap());
    let first = broker.fetch(&sub, Fetch::new(Some(one), 1, PATIENCE)).await.unwrap();
    let second = broker.fetch(&sub, Fetch::new(Some(two), 1, PATIENCE)).await.unwrap();
    broker.leave(&sub, one);
    assert_eq!(texts(&fetch(&broker, &sub, 10).await), texts(&first));
    ack(&broker, &sub, &second).await;
}

pub(super) async fn a_fetch_that_is_dropped_takes_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.lease = PATIENCE * 10).await;
    publish(&broker, &orders, ["a", "b", "c", "d"]).await;
    for delivery in take(&broker, &sub, 3).await {
        say(&broker, &sub, &delivery, retry("no")).await;
    }
    // After a restart an engine may have to look for what it delivers, new or again.
    close(broker).await;
    let broker = harness.reopen().await;
    tokio::time::sleep(A_WHILE).await;
    for _ in 0..10 {
        let fetching = broker.fetch(&sub, Fetch::new(None, 10, PATIENCE));
        if let Ok(taken) = tokio::time::timeout(Duration::ZERO, fetching).await {
            for delivery in taken.unwrap() {
                say(&broker, &sub, &delivery, Outcome::Release).await;
            }
        }
    }
    let mut back = take(&broker, &sub, 4).await;
    back.sort_by_key(|delivery| delivery.offset);
    assert_eq!(texts(&back), ["a", "b", "c", "d"]);
    assert_eq!(back.iter().map(|d| d.attempt).collect::<Vec<_>>(), [2, 2, 2, 1], "attempts");
    ack(&broker, &sub, &back).await;
}

pub(super) async fn a_restart_gives_back_and_counts_as_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_failures = 2).await;
    publish(&broker, &orders, ["held", "failed once"]).await;
    let held = take(&broker, &sub, 2).await;
    say(&broker, &sub, &held[1], retry("no")).await;
    let again = take_one(&broker, &sub).await;
    assert_eq!((text(&again).as_str(), again.attempt), ("failed once", 2));
    publish(&broker, &orders, ["new"]).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let mut back = take(&broker, &sub, 3).await;
    back.sort_by_key(|delivery| delivery.offset);
    assert_eq!(texts(&back), ["held", "failed once", "new"]);
    // Only what led to a failure is remembered.
    let counted: Vec<_> = back.iter().map(|d| (d.attempt, d.deliveries)).collect();
    assert_eq!(counted, [(1, 1), (2, 2), (1, 1)], "attempts and deliveries");
    let stale = broker.settle(&sub, Settlement::ack(held.iter().map(|d| d.id))).await.unwrap();
    assert_eq!((stale.settled, stale.stale.len()), (0, 2), "tokens differ across restarts");
    ack(&broker, &sub, &back).await;
}

pub(super) async fn no_more_are_in_flight_than_the_subscription_says(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_in_flight = 3).await;
    publish(&broker, &orders, (0..10).map(|n| n.to_string())).await;
    let held = take(&broker, &sub, 3).await;
    assert!(broker.fetch(&sub, Fetch::new(None, 10, A_WHILE)).await.unwrap().is_empty());
    let fetching = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(None, 10, PATIENCE * 10)).await.unwrap() }
    });
    ack(&broker, &sub, &held[..2]).await;
    let mut more = soon("room in flight", fetching).await.unwrap();
    assert!(more.len() <= 2, "{} in flight, 3 are allowed", more.len() + 1);
    let rest = 2 - more.len();
    more.extend(take(&broker, &sub, rest).await);
    assert_eq!(texts(&more), ["3", "4"]);
    nothing(&broker, &sub).await;
}
