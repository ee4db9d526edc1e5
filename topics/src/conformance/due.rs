//! Promise 3: messages that are due later, and messages that are worth nothing after a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Harness;
use super::steps::{
    A_WHILE, CLOCK_SLACK, ack, batch, close, eventually, nothing, publish_batch, retry_after, say, standing,
    subscription, take_one, text, texts, topic,
};
use crate::{Clock, Fetch, Message, SystemClock, Timestamp};

fn in_time(wait: Duration) -> Option<Timestamp> {
    Some(SystemClock.now().after(wait))
}

pub(super) async fn a_message_is_not_delivered_before_its_time(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let wait = Duration::from_millis(500);
    let began = Instant::now();
    let sent = batch([
        Message { deliver_at: in_time(wait), ..Message::new("later") },
        Message { deliver_at: in_time(Duration::from_secs(3600)), ..Message::new("much later") },
        Message { deliver_at: Some(Timestamp(1)), ..Message::new("long due") },
        Message::new("now"),
    ]);
    publish_batch(&broker, &orders, sent).await.unwrap();
    let mut taken = Vec::new();
    while taken.len() < 3 {
        let next = take_one(&broker, &sub).await;
        let is_early = began.elapsed() + CLOCK_SLACK < wait;
        assert!(text(&next) != "later" || !is_early, "delivered after {:?}", began.elapsed());
        assert_eq!((next.attempt, next.deliveries), (1, 1));
        ack(&broker, &sub, std::slice::from_ref(&next)).await;
        taken.push(next);
    }
    let mut taken = texts(&taken);
    // On a machine that is slow enough it is due before the others are taken.
    taken.sort_by_key(|text| text == "later");
    assert_eq!(taken, ["long due", "now", "later"], "what is not due holds up nobody");
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 0, 1, 0]);
}

pub(super) async fn a_delivery_time_survives_a_restart(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let wait = Duration::from_millis(400);
    let began = Instant::now();
    let sent = batch([
        Message { deliver_at: in_time(wait), ..Message::new("later") },
        Message { deliver_at: in_time(Duration::from_secs(3600)), ..Message::new("much later") },
    ]);
    publish_batch(&broker, &orders, sent).await.unwrap();
    for early in broker.fetch(&sub, Fetch::new(None, 10, A_WHILE)).await.unwrap() {
        // Unless the machine was slow.
        assert!(began.elapsed() + CLOCK_SLACK >= wait, "delivered after {:?}", began.elapsed());
        say(&broker, &sub, &early, crate::Outcome::Release).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(text(&take_one(&broker, &sub).await), "later");
    assert!(began.elapsed() + CLOCK_SLACK >= wait, "delivered after {:?}", began.elapsed());
    nothing(&broker, &sub).await;
}

pub(super) async fn an_expired_message_is_not_delivered(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let sent = batch([
        Message { expires_at: Some(Timestamp(1)), ..Message::new("long gone") },
        Message { expires_at: in_time(Duration::from_secs(3600)), ..Message::new("fresh") },
        Message { expires_at: in_time(Duration::from_millis(50)), ..Message::new("goes stale") },
    ]);
    publish_batch(&broker, &orders, sent).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let fresh = take_one(&broker, &sub).await;
    assert_eq!(text(&fresh), "fresh");
    nothing(&broker, &sub).await;
    ack(&broker, &sub, &[fresh]).await;
    eventually("nothing is left", async || standing(&broker, &sub).await == [0; 4]).await;
    assert!(broker.dead_letters(&sub, None, 10).await.unwrap().is_empty(), "expiry is no failure");
}

pub(super) async fn it_can_expire_while_it_waits_for_its_time(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let sent = batch([
        Message {
            deliver_at: in_time(Duration::from_millis(300)),
            expires_at: in_time(Duration::from_millis(200)),
            ..Message::new("never")
        },
        Message { expires_at: in_time(Duration::from_millis(1500)), ..Message::new("once") },
    ]);
    publish_batch(&broker, &orders, sent).await.unwrap();
    // On a machine that is too slow to take it within its time there is nothing to set aside.
    let fetch = Fetch::new(None, 10, Duration::from_millis(1400));
    for once in broker.fetch(&sub, fetch).await.unwrap() {
        assert_eq!(text(&once), "once");
        say(&broker, &sub, &once, retry_after(Duration::from_millis(1600))).await;
    }
    // Each is dropped when its turn comes, which somebody must be there to take.
    eventually("both are gone", async || {
        let fetch = Fetch::new(None, 10, Duration::from_millis(50));
        let late = broker.fetch(&sub, fetch).await.unwrap();
        assert!(late.is_empty(), "delivered after its expiry: {late:?}");
        standing(&broker, &sub).await == [0; 4]
    })
    .await;
    assert!(broker.dead_letters(&sub, None, 10).await.unwrap().is_empty());
}
