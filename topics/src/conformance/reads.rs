//! Reading a topic from a place on, without a subscription.

use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    batch, close, info, name, one, publish, publish_batch, read_all, refused, soon, stored_texts, topic,
    topic_with,
};
use super::{Harness, PATIENCE};
use crate::{ErrorCode, Message, SharedBroker, StartAt, Timestamp, TopicName};

async fn texts_from(broker: &SharedBroker, topic: &TopicName, from: StartAt) -> Vec<String> {
    stored_texts(&broker.read(topic, from, 100, Duration::ZERO).await.unwrap().messages)
}

pub(super) async fn from_start_end_and_offset(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["a", "b"]).await;
    publish(&broker, &orders, ["c", "d"]).await;
    assert_eq!(texts_from(&broker, &orders, StartAt::Start).await, ["a", "b", "c", "d"]);
    for (offset, rest) in [(0, "abcd"), (1, "bcd"), (2, "cd"), (3, "d"), (4, ""), (9, "")] {
        assert_eq!(texts_from(&broker, &orders, StartAt::Offset(offset)).await.concat(), rest, "{offset}");
    }
    assert!(texts_from(&broker, &orders, StartAt::End).await.is_empty());
}

pub(super) async fn from_a_moment(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for text in ["a", "b", "c"] {
        publish(&broker, &orders, [text]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stored = read_all(&broker, &orders).await;
    assert!(stored.is_sorted_by_key(|message| message.time), "{stored:?}");
    let check = async |broker: &SharedBroker| {
        for (from, rest) in [(0, "abc"), (1, "bc"), (2, "c")] {
            let at = StartAt::Time(stored[from].time);
            assert_eq!(texts_from(broker, &orders, at).await.concat(), rest);
        }
        let between = StartAt::Time(Timestamp(stored[1].time.0 + 1));
        assert_eq!(texts_from(broker, &orders, between).await.concat(), "c");
        assert_eq!(texts_from(broker, &orders, StartAt::Time(Timestamp(0))).await.concat(), "abc");
        let later = StartAt::Time(stored[2].time.after(Duration::from_secs(3600)));
        assert!(texts_from(broker, &orders, later).await.is_empty());
    };
    check(&broker).await;
    close(broker).await;
    check(&harness.reopen().await).await;
}

pub(super) async fn page_after_page_gives_each_message_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for n in 0..20 {
        publish(&broker, &orders, (0..=n % 4).map(|m| format!("{n}.{m}"))).await;
    }
    let tail = info(&broker, &orders).await.tail;
    for max in [1, 2, 3, 7, 1000] {
        let (mut from, mut next) = (StartAt::Start, 0);
        while next < tail {
            let page = broker.read(&orders, from, max, Duration::ZERO).await.unwrap();
            assert!(!page.messages.is_empty() && page.messages.len() <= max, "max {max}: {page:?}");
            for message in &page.messages {
                assert_eq!(message.offset, next, "max {max}");
                next += 1;
            }
            assert_eq!(page.next, next, "max {max}");
            from = StartAt::Offset(page.next);
        }
    }
}

pub(super) async fn a_page_is_about_a_mebibyte_and_never_empty(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.max_message_bytes = 8 << 20).await;
    let large = batch((0..30).map(|_| Message::new(vec![b'x'; 100 * 1024])));
    publish_batch(&broker, &orders, large).await.unwrap();
    publish_batch(&broker, &orders, one(vec![b'y'; 6 << 20])).await.unwrap();
    let (mut seen, mut from) = (0, StartAt::Start);
    while seen < 31 {
        let page = broker.read(&orders, from, 1000, Duration::ZERO).await.unwrap();
        let bytes: usize = page.messages.iter().map(|message| message.record.size()).sum();
        assert!(!page.messages.is_empty(), "an empty page, and there is more");
        assert!(bytes < 2 << 20 || page.messages.len() == 1, "a page of {bytes} bytes");
        seen += page.messages.len();
        from = StartAt::Offset(page.next);
    }
    assert_eq!(seen, 31);
}

pub(super) async fn waits_for_the_first_one(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["old"]).await;
    for from in [StartAt::End, StartAt::Offset(2)] {
        let reading = tokio::spawn({
            let (broker, orders) = (broker.clone(), orders.clone());
            async move { broker.read(&orders, from, 10, PATIENCE * 10).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        publish(&broker, &orders, ["new"]).await;
        let page = soon("a read that waits for a message", reading).await.unwrap();
        assert_eq!(stored_texts(&page.messages), ["new"], "{from:?}");
        assert_eq!(page.next, page.messages[0].offset + 1);
    }
}

pub(super) async fn beyond_the_end_it_waits_until_the_log_has_come_that_far(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["0"]).await;
    let reading = tokio::spawn({
        let (broker, orders) = (broker.clone(), orders.clone());
        async move { broker.read(&orders, StartAt::Offset(3), 10, PATIENCE * 10).await.unwrap() }
    });
    for text in ["1", "2", "3"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!reading.is_finished(), "answered before offset 3 was there");
        publish(&broker, &orders, [text]).await;
    }
    let page = soon("a read that waits for an offset", reading).await.unwrap();
    assert_eq!((stored_texts(&page.messages), page.next), (vec!["3".to_owned()], 4));
}

pub(super) async fn says_where_to_go_on_when_nothing_comes(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["a", "b"]).await;
    let wait = Duration::from_millis(30);
    let page = broker.read(&orders, StartAt::End, 10, wait).await.unwrap();
    assert_eq!((page.messages.len(), page.next), (0, 2));
    publish(&broker, &orders, ["c"]).await;
    assert_eq!(texts_from(&broker, &orders, StartAt::Offset(page.next)).await, ["c"]);
}

pub(super) async fn an_unknown_topic_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let nowhere = name("nowhere");
    let reading = broker.read(&nowhere, StartAt::Start, 10, PATIENCE);
    refused(soon("an answer", reading).await, ErrorCode::NotFound);
}
