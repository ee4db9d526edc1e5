//! Messages of higher priority overtake those that wait.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    ack, batch, close, nothing, publish, publish_batch, publish_many, retry, say, standing,
    subscription_with, take, take_one, text, texts, topic,
};
use crate::{Expect, Message, Order, Outcome, SharedBroker, Subscription, SubscriptionName, TopicName};

async fn urgent(broker: &SharedBroker) -> SubscriptionName {
    subscription_with(broker, "sub", &["orders"], |s| s.priorities = true).await
}

/// Publishes messages named by their priority and what follows it, as in `9a`.
async fn send(broker: &SharedBroker, topic: &TopicName, names: &[&str]) {
    let message =
        |name: &&str| Message { priority: name.as_bytes()[0] - b'0', ..Message::new((*name).to_owned()) };
    publish_batch(broker, topic, batch(names.iter().map(message))).await.unwrap();
}

pub(super) async fn higher_comes_first_then_the_older(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = urgent(&broker).await;
    send(&broker, &orders, &["0a", "5a", "0b", "9a", "5b"]).await;
    let first = take_one(&broker, &sub).await;
    assert_eq!((text(&first).as_str(), first.deliveries), ("9a", 1));
    assert_eq!(standing(&broker, &sub).await, [4, 1, 0, 0], "looked at is not set aside");
    // What comes later overtakes as well.
    send(&broker, &orders, &["7a"]).await;
    assert_eq!(texts(&take(&broker, &sub, 4).await), ["7a", "5a", "5b", "0a"]);
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["0b"]);
    nothing(&broker, &sub).await;
}

pub(super) async fn delivered_again_it_keeps_its_priority(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = urgent(&broker).await;
    send(&broker, &orders, &["1a", "0a", "2a", "0b"]).await;
    let two = take_one(&broker, &sub).await;
    say(&broker, &sub, &two, Outcome::Release).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "2a");
    let one = take_one(&broker, &sub).await;
    assert_eq!(text(&one), "1a");
    say(&broker, &sub, &one, retry("x")).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let all = take(&broker, &sub, 4).await;
    assert_eq!(texts(&all), ["2a", "1a", "0a", "0b"]);
    ack(&broker, &sub, &all).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
}

pub(super) async fn it_looks_so_far_ahead_and_no_further(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = urgent(&broker).await;
    let low = (0..Subscription::LOOK_AHEAD - 1).map(|_| Message::new("0"));
    let high = (0..2).map(|n| Message { priority: 9, ..Message::new(format!("9 {n}")) });
    publish_many(&broker, &orders, low.chain(high)).await;
    let first = take(&broker, &sub, 1).await;
    assert_eq!(texts(&first), ["9 0"]);
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["9 1"], "one has gone, one more is seen");
    let mut taken = 2;
    let mut last = None;
    while taken < Subscription::LOOK_AHEAD + 1 {
        let more = take(&broker, &sub, 1000.min(Subscription::LOOK_AHEAD + 1 - taken)).await;
        for delivery in &more {
            assert!(last < Some(delivery.offset), "the older first");
            last = Some(delivery.offset);
        }
        taken += more.len();
        ack(&broker, &sub, &more).await;
    }
    nothing(&broker, &sub).await;
}

pub(super) async fn they_can_be_turned_on_and_off_but_not_with_keys(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = urgent(&broker).await;
    publish(&broker, &orders, ["0"]).await;
    send(&broker, &orders, &["9"]).await;
    let mut definition = broker.subscription(&sub).await.unwrap().subscription;
    definition.order = Order::Key;
    super::steps::refused(
        broker.put_subscription(definition.clone(), Expect::Any).await,
        crate::ErrorCode::InvalidArgument,
    );
    (definition.order, definition.priorities) = (Order::None, false);
    broker.put_subscription(definition.clone(), Expect::Any).await.unwrap();
    let both = take(&broker, &sub, 2).await;
    assert_eq!(texts(&both), ["0", "9"]);
    definition.priorities = true;
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    for delivery in &both {
        say(&broker, &sub, delivery, Outcome::Release).await;
    }
    send(&broker, &orders, &["5"]).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "5");
}
