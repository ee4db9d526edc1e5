//! Making, changing and deleting topics.

use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    close, info, name, one, publish, publish_batch, read_all, refused, soon, stored_texts, subscription,
    take, texts, topic, topic_with,
};
use super::{Harness, PATIENCE};
use crate::{Durability, ErrorCode, Expect, Retention, StartAt, Topic};

pub(super) async fn a_definition_is_kept_as_it_was_given(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let given = Topic {
        name: name("orders.new"),
        durability: Durability::Os,
        retention: Retention {
            max_age: Some(Duration::from_secs(3600)),
            max_bytes: Some(1 << 30),
            max_messages: Some(1_000_000),
            drop_unread: true,
            compact: true,
        },
        dedup_window: Duration::from_secs(5),
        max_message_bytes: 12_345,
    };
    let revision = broker.put_topic(given.clone(), Expect::Absent).await.unwrap();
    let known = info(&broker, &given.name).await;
    assert_eq!((&known.topic, known.revision), (&given, revision));
    assert_eq!((known.head, known.tail, known.bytes, known.last), (0, 0, 0, None));
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(info(&broker, &given.name).await, known);
}

pub(super) async fn the_same_again_keeps_its_revision(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut orders = Topic::new(name("orders"));
    let first = broker.put_topic(orders.clone(), Expect::Any).await.unwrap();
    assert_eq!(broker.put_topic(orders.clone(), Expect::Any).await.unwrap(), first);
    publish(&broker, &orders.name, ["kept"]).await;
    orders.max_message_bytes = 10;
    let second = broker.put_topic(orders.clone(), Expect::At(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(info(&broker, &orders.name).await.revision, second);
    assert_eq!(stored_texts(&read_all(&broker, &orders.name).await), ["kept"]);
    refused(publish_batch(&broker, &orders.name, one("more than ten")).await, ErrorCode::TooLarge);
}

pub(super) async fn a_durability_can_be_changed_while_in_use(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.durability = Durability::Memory).await;
    publish(&broker, &orders, ["a"]).await;
    broker.put_topic(Topic::new(orders.clone()), Expect::Any).await.unwrap();
    assert!(publish(&broker, &orders, ["b"]).await.durability >= Durability::Fsync);
    let Some(after) = harness.reopen_killed().await else { return };
    // What lies before a synced message is synced with it: a log has no holes.
    assert_eq!(stored_texts(&read_all(&after, &orders).await), ["a", "b"]);
}

pub(super) async fn expectations_are_about_the_definition(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut orders = Topic::new(name("orders"));
    refused(broker.put_topic(orders.clone(), Expect::At(1)).await, ErrorCode::Conflict);
    let revision = broker.put_topic(orders.clone(), Expect::Absent).await.unwrap();
    orders.max_message_bytes = 1;
    for wrong in [Expect::Absent, Expect::At(revision + 1)] {
        refused(broker.put_topic(orders.clone(), wrong).await, ErrorCode::Conflict);
    }
    assert_eq!(info(&broker, &orders.name).await.topic, Topic::new(name("orders")));
}

pub(super) async fn what_makes_no_sense_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut orders = Topic::new(name("orders"));
    orders.max_message_bytes = 0;
    refused(broker.put_topic(orders, Expect::Any).await, ErrorCode::InvalidArgument);
    refused(broker.topic(&name("orders")).await, ErrorCode::NotFound);
    refused(broker.delete_topic(&name("orders")).await, ErrorCode::NotFound);
}

pub(super) async fn all_are_listed_by_name(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    for text in ["b", "a.x", "_logs.s", "c", "a"] {
        topic(&broker, text).await;
    }
    let listed: Vec<String> =
        broker.topics().await.unwrap().iter().map(|info| info.topic.name.to_string()).collect();
    let mut expected = vec!["_logs.s", "a", "a.x", "b", "c"];
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

pub(super) async fn what_is_known_follows_the_log(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["aaaa", "bbbb"]).await;
    let first = info(&broker, &orders).await;
    let stored = read_all(&broker, &orders).await;
    assert_eq!((first.head, first.tail), (0, 2));
    assert_eq!(first.last, Some(stored[1].time));
    let packed: u64 = stored.iter().map(|message| message.record.size() as u64).sum();
    assert!(first.bytes >= packed, "{} bytes are kept, the messages alone have {packed}", first.bytes);
    publish(&broker, &orders, ["cccc"]).await;
    let second = info(&broker, &orders).await;
    assert!(second.bytes > first.bytes && second.tail == 3 && second.last >= first.last);
}

pub(super) async fn a_deleted_topic_is_gone_and_its_name_is_free(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["old", "older"]).await;
    broker.delete_topic(&orders).await.unwrap();
    refused(broker.topic(&orders).await, ErrorCode::NotFound);
    refused(broker.delete_topic(&orders).await, ErrorCode::NotFound);
    refused(publish_batch(&broker, &orders, one("x")).await, ErrorCode::NotFound);
    refused(broker.read(&orders, StartAt::Start, 1, Duration::ZERO).await, ErrorCode::NotFound);
    assert!(broker.topics().await.unwrap().is_empty());
    topic(&broker, "orders").await;
    let known = info(&broker, &orders).await;
    assert_eq!((known.head, known.bytes, known.last), (known.tail, 0, None));
    publish(&broker, &orders, ["new"]).await;
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["new"]);
}

pub(super) async fn a_reader_of_a_deleted_topic_is_told(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let reading = tokio::spawn({
        let (broker, orders) = (broker.clone(), orders.clone());
        async move { broker.read(&orders, StartAt::End, 1, PATIENCE * 10).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.delete_topic(&orders).await.unwrap();
    refused(soon("a read under way", reading).await.unwrap(), ErrorCode::NotFound);
}

pub(super) async fn a_subscribed_topic_is_not_deleted(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (orders, eu) = (topic(&broker, "orders").await, topic(&broker, "orders.eu").await);
    let literal = subscription(&broker, "literal", &["orders"]).await;
    let pattern = subscription(&broker, "pattern", &["orders.*"]).await;
    publish(&broker, &orders, ["a"]).await;
    publish(&broker, &eu, ["b"]).await;
    let error = refused(broker.delete_topic(&orders).await, ErrorCode::Conflict);
    assert!(error.to_string().contains("literal"), "the error does not name the subscription: {error}");
    assert_eq!(texts(&take(&broker, &literal, 1).await), ["a"]);
    // A pattern holds nothing.
    broker.delete_topic(&eu).await.unwrap();
    topic(&broker, "orders.eu").await;
    publish(&broker, &eu, ["c"]).await;
    assert_eq!(texts(&take(&broker, &pattern, 1).await), ["c"], "a topic made later is taken from its start");
    broker.delete_subscription(&literal).await.unwrap();
    broker.delete_topic(&orders).await.unwrap();
}
