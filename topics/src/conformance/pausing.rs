//! Pausing and resuming.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    ack, close, eventually, fetch, name, nothing, publish, refused, retry, say, soon, standing, subscription,
    take, texts, topic,
};
use crate::{ErrorCode, Expect};

pub(super) async fn nothing_is_delivered_until_it_is_resumed(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b", "c"]).await;
    let held = take(&broker, &sub, 2).await;
    broker.set_paused(&sub, true).await.unwrap();
    broker.set_paused(&sub, true).await.unwrap();
    assert!(broker.subscription(&sub).await.unwrap().paused);
    ack(&broker, &sub, &held[..1]).await;
    say(&broker, &sub, &held[1], retry("x")).await;
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { fetch(&broker, &sub, 10).await }
    });
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [1, 0, 1, 0]);
    broker.set_paused(&sub, false).await.unwrap();
    assert!(!soon("whoever waits gets something", waiting).await.unwrap().is_empty());
    eventually("the rest comes", async || standing(&broker, &sub).await[0] == 0).await;
    assert!(!broker.subscription(&sub).await.unwrap().paused);
    refused(broker.set_paused(&name("nobody"), true).await, ErrorCode::NotFound);
}

pub(super) async fn it_survives_a_restart_and_a_changed_definition(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    broker.set_paused(&sub, true).await.unwrap();
    publish(&broker, &orders, ["a"]).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let mut info = broker.subscription(&sub).await.unwrap();
    assert!(info.paused);
    info.subscription.max_failures += 1;
    broker.put_subscription(info.subscription, Expect::Any).await.unwrap();
    assert!(broker.subscription(&sub).await.unwrap().paused);
    nothing(&broker, &sub).await;
    broker.set_paused(&sub, false).await.unwrap();
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["a"]);
    broker.set_paused(&sub, true).await.unwrap();
    broker.delete_subscription(&sub).await.unwrap();
    let sub = subscription(&broker, "sub", &["orders"]).await;
    assert!(!broker.subscription(&sub).await.unwrap().paused, "one made anew is not");
}
