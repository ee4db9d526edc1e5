//! Who of those who have joined gets messages.

use std::sync::Arc;

use super::steps::{A_WHILE, ack, fetch, nothing, publish, refused, soon, subscription_with, texts, topic};
use super::{Harness, PATIENCE};
use crate::{ErrorCode, Expect, Fetch, Order, Sharing};

pub(super) async fn an_exclusive_one_takes_one_consumer(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.sharing = Sharing::Exclusive).await;
    publish(&broker, &orders, ["a"]).await;
    let without = broker.fetch(&sub, Fetch::new(None, 1, A_WHILE)).await;
    refused(without, ErrorCode::InvalidArgument);
    let one = broker.join(&sub).await.unwrap();
    refused(broker.join(&sub).await, ErrorCode::Conflict);
    let taken = broker.fetch(&sub, Fetch::new(Some(one), 10, PATIENCE)).await.unwrap();
    assert_eq!(texts(&taken), ["a"]);
    broker.leave(&sub, one);
    let two = broker.join(&sub).await.unwrap();
    let taken = broker.fetch(&sub, Fetch::new(Some(two), 10, PATIENCE)).await.unwrap();
    assert_eq!(texts(&taken), ["a"]);
    ack(&broker, &sub, &taken).await;
}

pub(super) async fn when_the_first_one_leaves_the_next_takes_over(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for order in [Order::None, Order::Key] {
        let name = format!("{order:?}").to_lowercase();
        let sub = subscription_with(&broker, &name, &["orders"], |s| {
            (s.sharing, s.order) = (Sharing::Failover, order);
        })
        .await;
        let (one, two) = (broker.join(&sub).await.unwrap(), broker.join(&sub).await.unwrap());
        let three = broker.join(&sub).await.unwrap();
        publish(&broker, &orders, ["a", "b", "c"]).await;
        assert!(broker.fetch(&sub, Fetch::new(Some(two), 10, A_WHILE)).await.unwrap().is_empty());
        let taken = broker.fetch(&sub, Fetch::new(Some(one), 10, PATIENCE)).await.unwrap();
        ack(&broker, &sub, &taken[..1]).await;
        let waiting = tokio::spawn({
            let (broker, sub) = (broker.clone(), sub.clone());
            async move { broker.fetch(&sub, Fetch::new(Some(two), 10, PATIENCE)).await.unwrap() }
        });
        broker.leave(&sub, three);
        broker.leave(&sub, one);
        let mut over = soon("the next one's", waiting).await.unwrap();
        while over.len() + 1 < taken.len() {
            over.extend(broker.fetch(&sub, Fetch::new(Some(two), 10, PATIENCE)).await.unwrap());
        }
        assert_eq!(texts(&over), texts(&taken[1..]));
        broker.delete_subscription(&sub).await.unwrap();
    }
}

pub(super) async fn it_can_be_changed_while_in_use(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |_| {}).await;
    let (one, two) = (broker.join(&sub).await.unwrap(), broker.join(&sub).await.unwrap());
    let mut definition = broker.subscription(&sub).await.unwrap().subscription;
    definition.sharing = Sharing::Exclusive;
    broker.put_subscription(definition.clone(), Expect::Any).await.unwrap();
    publish(&broker, &orders, ["a", "b"]).await;
    assert!(broker.fetch(&sub, Fetch::new(Some(two), 10, A_WHILE)).await.unwrap().is_empty());
    let taken = broker.fetch(&sub, Fetch::new(Some(one), 1, PATIENCE)).await.unwrap();
    assert_eq!(texts(&taken), ["a"]);
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(Some(two), 10, PATIENCE)).await.unwrap() }
    });
    definition.sharing = Sharing::Shared;
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    assert_eq!(texts(&soon("whoever waits", waiting).await.unwrap()), ["b"]);
    broker.leave(&sub, one);
    let again = fetch(&broker, &sub, 10).await;
    assert_eq!(texts(&again), ["a"]);
    nothing(&broker, &sub).await;
}
