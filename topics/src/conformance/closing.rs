//! How a broker stops: what was accepted is durable, whoever waits is answered, what comes after is refused.

use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    close, name, one, publish, publish_batch, read_all, refused, soon, stored_texts, subscription, topic,
    topic_with,
};
use super::{Harness, PATIENCE};
use crate::{Durability, ErrorCode, Expect, Fetch, Message, Settlement, StartAt, Topic};

pub(super) async fn a_working_broker_says_so(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let health = broker.health();
    assert!(health.ready && health.reason.is_none(), "{health:?}");
    assert!(!health.engine.is_empty());
    soon("closing", broker.close()).await;
    assert!(!broker.health().ready, "closed, yet ready");
}

pub(super) async fn what_was_accepted_is_kept(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let levels = [Durability::Memory, Durability::Os, Durability::Fsync];
    for level in levels {
        topic_with(&broker, &level.to_string(), |t| t.durability = level).await;
    }
    let mut waiting = Vec::new();
    for n in 0..50 {
        for level in levels {
            waiting.push(broker.publish(&name(&level.to_string()), one(n.to_string()), Default::default()));
        }
    }
    close(broker).await;
    for published in waiting {
        soon("a receipt", published).await.unwrap();
    }
    let broker = harness.reopen().await;
    for level in levels {
        let texts = stored_texts(&read_all(&broker, &name(&level.to_string())).await);
        assert_eq!(texts, (0..50).map(|n| n.to_string()).collect::<Vec<_>>(), "{level}");
    }
}

pub(super) async fn whoever_waits_is_answered(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let mut watch = broker.watch("", 0).await.unwrap();
    let mut served = broker.serve(&name("service"), 1).await.unwrap();
    let hour = Duration::from_secs(3600);
    let fetching = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(None, 1, hour)).await }
    });
    let reading = tokio::spawn({
        let (broker, orders) = (broker.clone(), orders.clone());
        async move { broker.read(&orders, StartAt::End, 1, hour).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    soon("closing", broker.close()).await;
    // Nothing came, or the broker is gone: both are true.
    match soon("a fetch under way", fetching).await.unwrap() {
        Ok(found) => assert!(found.is_empty(), "{found:?}"),
        Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
    }
    match soon("a read under way", reading).await.unwrap() {
        Ok(page) => assert!(page.messages.is_empty(), "{page:?}"),
        Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
    }
    soon("the end of a watch", async { while watch.next().await.is_some() {} }).await;
    assert!(soon("the end of serving", served.recv()).await.is_none());
}

pub(super) async fn its_files_are_let_go_of_whoever_still_holds_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["x"]).await;
    soon("closing", broker.close()).await;
    let again = harness.reopen().await;
    assert_eq!(stored_texts(&read_all(&again, &orders).await), ["x"]);
    assert!(!broker.health().ready && again.health().ready);
}

pub(super) async fn what_comes_after_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["x"]).await;
    soon("closing", broker.close()).await;
    let gone = ErrorCode::Unavailable;
    refused(publish_batch(&broker, &orders, one("y")).await, gone);
    refused(soon("put_topic", broker.put_topic(Topic::new(name("late")), Expect::Any)).await, gone);
    refused(soon("fetch", broker.fetch(&sub, Fetch::new(None, 1, PATIENCE))).await, gone);
    refused(soon("settle", broker.settle(&sub, Settlement::default())).await, gone);
    refused(soon("put", broker.put("k", "v".into(), Expect::Any, None)).await, gone);
    refused(soon("grant", broker.grant(Duration::from_secs(1))).await, gone);
    refused(soon("request", broker.request(&name("s"), Message::new("?"), PATIENCE)).await, gone);
    soon("closing twice", broker.close()).await;
    soon("room in a closed broker", broker.room()).await;
}
