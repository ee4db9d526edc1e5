//! Promise 5 for batches: one that names its source is stored once, however often it is sent.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    batch, close, info, name, one, publish, read_all, refused, soon, stored_texts, topic, topic_with,
};
use crate::{
    Batch, Durability, Error, ErrorCode, Expect, Message, PublishOptions, Published, Receipts, SharedBroker,
    Source, Topic, TopicName,
};

fn source(publisher: u128, sequence: u64, answered: u64) -> Source {
    Source { publisher, sequence, answered }
}

fn begin(broker: &SharedBroker, topic: &TopicName, source: Source, batch: Batch) -> Published {
    let options = PublishOptions { source: Some(source), ..PublishOptions::default() };
    broker.publish(topic, batch, options)
}

async fn send(
    broker: &SharedBroker,
    topic: &TopicName,
    source: Source,
    batch: Batch,
) -> Result<Receipts, Error> {
    soon("a receipt", begin(broker, topic, source, batch)).await
}

pub(super) async fn a_batch_sent_again_gets_the_receipts_of_the_first_time(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let of = |sequence| source(1, sequence, 0);
    publish(&broker, &orders, ["other"]).await;
    let first = send(&broker, &orders, of(0), one("a")).await.unwrap();
    // With ids as well: those it had in common with others, and those it was the first to have.
    let mixed = || {
        let ids = ["x", "y", "x"].iter().enumerate();
        batch(ids.map(|(n, id)| Message::new(format!("b{n}")).with_id(*id)))
    };
    let second = send(&broker, &orders, of(1), mixed()).await.unwrap();
    assert_eq!((first.first, second.first, second.count), (1, 2, 3));
    assert_eq!(second.duplicates, [(2, 2)]);
    publish(&broker, &orders, ["between"]).await;
    assert_eq!(send(&broker, &orders, of(0), one("a")).await.unwrap(), first);
    assert_eq!(send(&broker, &orders, of(1), mixed()).await.unwrap(), second);
    assert_eq!(send(&broker, &orders, of(2), one("c")).await.unwrap().first, 5);
    assert_eq!(send(&broker, &orders, of(0), one("a")).await.unwrap(), first);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["other", "a", "b0", "b1", "between", "c"]);
}

pub(super) async fn a_batch_under_way_is_stored_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic_with(&broker, "orders", |t| t.durability = Durability::Memory).await;
    let mut waiting = Vec::new();
    for sequence in 0..50 {
        let durability = [None, Some(Durability::Fsync), Some(Durability::Os)];
        for durability in durability {
            let source = Some(source(1, sequence, 0));
            let options = PublishOptions { durability, source, ..PublishOptions::default() };
            let published = broker.publish(&orders, one(sequence.to_string()), options);
            waiting.push((sequence, durability.unwrap_or(Durability::Memory), published));
        }
    }
    for (sequence, asked, published) in waiting {
        let receipts = soon("a receipt", published).await.unwrap();
        assert_eq!((receipts.first, receipts.count, receipts.duplicates.len()), (sequence, 1, 0));
        assert!(receipts.durability >= asked, "{sequence}: {} for {asked}", receipts.durability);
    }
    assert_eq!(info(&broker, &orders).await.tail, 50);
}

pub(super) async fn those_out_of_order_are_refused_and_nothing_of_them_is_stored(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    refused(send(&broker, &orders, source(1, 1, 0), one("second")).await, ErrorCode::Conflict);
    refused(send(&broker, &orders, source(1, 1, 1), one("of nobody")).await, ErrorCode::Conflict);
    send(&broker, &orders, source(1, 0, 0), one("first")).await.unwrap();
    refused(send(&broker, &orders, source(1, 2, 0), one("third")).await, ErrorCode::Conflict);
    send(&broker, &orders, source(1, 1, 0), one("second")).await.unwrap();
    // What a broker has not seen and the publisher has an answer to was refused on the way.
    send(&broker, &orders, source(1, 5, 5), one("sixth")).await.unwrap();
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["first", "second", "sixth"]);
}

pub(super) async fn a_refused_one_does_not_hold_up_those_behind_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 10).await;
    let texts = ["too large for this one", "a", "too large for this one", "too large for this one", "b"];
    let waiting: Vec<_> = (0..)
        .zip(texts)
        .map(|(n, text)| (text, begin(&broker, &small, source(1, n, 0), one(text))))
        .collect();
    for (text, published) in waiting {
        let result = soon("an answer", published).await;
        if text.len() > 10 {
            refused(result, ErrorCode::TooLarge);
        } else {
            result.unwrap();
        }
    }
    assert_eq!(stored_texts(&read_all(&broker, &small).await), ["a", "b"]);
}

pub(super) async fn a_refused_one_may_be_sent_again_until_a_later_one_is_stored(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 10).await;
    for (sequence, text) in [(0, "a"), (1, "b")] {
        let large = one("too large for this one");
        refused(send(&broker, &small, source(1, sequence, 0), large).await, ErrorCode::TooLarge);
        send(&broker, &small, source(1, sequence, 0), one(text)).await.unwrap();
    }
    let large = one("too large for this one");
    refused(send(&broker, &small, source(1, 2, 0), large).await, ErrorCode::TooLarge);
    send(&broker, &small, source(1, 3, 0), one("d")).await.unwrap();
    refused(send(&broker, &small, source(1, 2, 0), one("c")).await, ErrorCode::Conflict);
    assert_eq!(stored_texts(&read_all(&broker, &small).await), ["a", "b", "d"]);
}

pub(super) async fn every_publisher_counts_for_itself_in_every_topic(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let topics = [topic(&broker, "one").await, topic(&broker, "two").await];
    for publisher in [1, 2, u128::MAX] {
        for topic in &topics {
            for sequence in 0..3 {
                let text = format!("{publisher} {sequence}");
                for _ in 0..2 {
                    send(&broker, topic, source(publisher, sequence, 0), one(text.clone())).await.unwrap();
                }
            }
        }
    }
    for topic in &topics {
        assert_eq!(info(&broker, topic).await.tail, 9);
    }
}

pub(super) async fn what_was_answered_is_not_remembered(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for sequence in 0..300 {
        send(&broker, &orders, source(1, sequence, sequence), one("x")).await.unwrap();
    }
    refused(send(&broker, &orders, source(1, 298, 298), one("x")).await, ErrorCode::Conflict);
    assert_eq!(send(&broker, &orders, source(1, 299, 299), one("x")).await.unwrap().first, 299);
    assert_eq!(info(&broker, &orders).await.tail, 300);
}

pub(super) async fn more_under_way_than_allowed_are_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for sequence in 0..Source::MAX_UNDER_WAY {
        send(&broker, &orders, source(1, sequence, 0), one("x")).await.unwrap();
    }
    let one_more = source(1, Source::MAX_UNDER_WAY, 0);
    refused(send(&broker, &orders, one_more, one("x")).await, ErrorCode::InvalidArgument);
    refused(send(&broker, &orders, source(1, 1, 2), one("x")).await, ErrorCode::InvalidArgument);
    assert_eq!(send(&broker, &orders, source(1, 0, 0), one("x")).await.unwrap().first, 0);
    let next = source(1, Source::MAX_UNDER_WAY, 1);
    assert_eq!(send(&broker, &orders, next, one("x")).await.unwrap().first, Source::MAX_UNDER_WAY);
}

pub(super) async fn a_restart_does_not_forget_them(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let mut receipts = Vec::new();
    for sequence in 0..20 {
        let batch = batch([Message::new("x").with_id(format!("{}", sequence / 2)), Message::new("y")]);
        receipts.push(send(&broker, &orders, source(1, sequence, sequence / 2), batch).await.unwrap());
    }
    let check = async |broker: &SharedBroker| {
        for sequence in (9..20).rev() {
            let again = send(broker, &orders, source(1, sequence, 9), one("never")).await.unwrap();
            assert_eq!(again, receipts[usize::try_from(sequence).unwrap()]);
        }
        refused(send(broker, &orders, source(1, 8, 8), one("never")).await, ErrorCode::Conflict);
        refused(send(broker, &orders, source(1, 21, 9), one("never")).await, ErrorCode::Conflict);
        refused(send(broker, &orders, source(2, 1, 1), one("never")).await, ErrorCode::Conflict);
    };
    if let Some(after) = harness.reopen_killed().await {
        check(&after).await;
        close(after).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    check(&broker).await;
    let tail = info(&broker, &orders).await.tail;
    assert_eq!(send(&broker, &orders, source(1, 20, 9), one("z")).await.unwrap().first, tail);
}

pub(super) async fn a_topic_made_anew_knows_none(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    for sequence in 0..3 {
        send(&broker, &orders, source(1, sequence, 0), one("old")).await.unwrap();
    }
    broker.delete_topic(&orders).await.unwrap();
    broker.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    refused(send(&broker, &orders, source(1, 3, 3), one("new")).await, ErrorCode::Conflict);
    send(&broker, &orders, source(2, 0, 0), one("new")).await.unwrap();
    close(broker).await;
    let broker = harness.reopen().await;
    refused(send(&broker, &orders, source(1, 3, 3), one("new")).await, ErrorCode::Conflict);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["new"]);
}
