//! Compaction: a topic that keeps only the newest message of each key, with gaps in its offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::steps::{
    A_WHILE, Dice, ack, batch, close, eventually, info, nothing, publish_batch, read_all, refused, reject,
    say, soon, standing, stored_texts, subscription, take, text, texts, topic, topic_with,
};
use super::{Harness, PATIENCE};
use crate::{
    Error, ErrorCode, Expect, Expected, Fetch, Message, PublishOptions, Receipts, Selection, SharedBroker,
    StartAt, TopicName,
};

fn keyed(key: &str, text: &str) -> Message {
    Message::new(text.to_owned()).with_key(key.to_owned())
}

async fn compacted(broker: &SharedBroker, text: &str) -> TopicName {
    topic_with(broker, text, |t| t.retention.compact = true).await
}

/// Publishes a message for each (key, text), each on its own.
async fn put(broker: &SharedBroker, topic: &TopicName, messages: &[(&str, &str)]) {
    for (key, text) in messages {
        publish_batch(broker, topic, batch([keyed(key, text)])).await.unwrap();
    }
}

async fn offsets(broker: &SharedBroker, topic: &TopicName) -> Vec<u64> {
    read_all(broker, topic).await.iter().map(|message| message.offset).collect()
}

async fn eventually_holds(broker: &SharedBroker, topic: &TopicName, wanted: &[u64]) {
    let what = format!("the log holds {wanted:?}");
    eventually(&what, async || offsets(broker, topic).await == wanted).await;
}

pub(super) async fn only_the_newest_of_each_key_stays(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    put(&broker, &prices, &[("a", "1"), ("b", "1"), ("a", "2")]).await;
    let mixed = batch([keyed("b", "2"), Message::new("no key"), keyed("b", "3"), keyed("c", "1")]);
    publish_batch(&broker, &prices, mixed).await.unwrap();
    eventually_holds(&broker, &prices, &[2, 4, 5, 6]).await;
    let found = read_all(&broker, &prices).await;
    assert_eq!(stored_texts(&found), ["2", "no key", "3", "1"]);
    assert!(found.is_sorted_by_key(|message| message.time));
    let after = info(&broker, &prices).await;
    assert!(after.head <= 2 && after.tail == 7, "{after:?}");
    put(&broker, &prices, &[("a", "3")]).await;
    eventually_holds(&broker, &prices, &[4, 5, 6, 7]).await;
}

pub(super) async fn readers_pass_over_the_gaps(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    let all: Vec<(String, String)> = (0..100).map(|n| (format!("{}", n % 7), format!("{n}"))).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    put(&broker, &prices, &all).await;
    put(&broker, &prices, &[("other", "last")]).await;
    let wanted: Vec<u64> = (93..101).collect();
    eventually_holds(&broker, &prices, &wanted).await;
    for from in [0, 1, 50, 93, 97, 100] {
        let page = broker.read(&prices, StartAt::Offset(from), 3, PATIENCE).await.unwrap();
        let found: Vec<u64> = page.messages.iter().map(|message| message.offset).collect();
        let expected: Vec<u64> = wanted.iter().copied().filter(|offset| *offset >= from).take(3).collect();
        assert_eq!((found, page.next), (expected.clone(), expected.last().unwrap() + 1), "from {from}");
    }
    let late = subscription(&broker, "late", &["prices"]).await;
    let taken = take(&broker, &late, 8).await;
    assert_eq!(taken.iter().map(|delivery| delivery.offset).collect::<Vec<_>>(), wanted);
    assert_eq!(taken.last().map(text).as_deref(), Some("last"));
    ack(&broker, &late, &taken).await;
    nothing(&broker, &late).await;
    assert_eq!(standing(&broker, &late).await, [0, 0, 0, 0]);
}

pub(super) async fn a_gap_at_the_end_holds_nobody_up(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (prices, other) = (compacted(&broker, "prices").await, topic(&broker, "other").await);
    put(&broker, &prices, &[("a", "1"), ("b", "1"), ("b", "2"), ("a", "2")]).await;
    eventually_holds(&broker, &prices, &[2, 3]).await;
    put(&broker, &prices, &[("b", "3"), ("a", "3")]).await;
    eventually_holds(&broker, &prices, &[4, 5]).await;
    let waiting = broker.read(&prices, StartAt::Offset(6), 1, PATIENCE);
    let both = subscription(&broker, "both", &["prices", "other"]).await;
    let taken = take(&broker, &both, 2).await;
    ack(&broker, &both, &taken).await;
    put(&broker, &other, &[("x", "here")]).await;
    assert_eq!(texts(&take(&broker, &both, 1).await), ["here"]);
    let (page, ()) = tokio::join!(waiting, put(&broker, &prices, &[("c", "1")]));
    assert_eq!(stored_texts(&page.unwrap().messages), ["1"]);
}

pub(super) async fn what_a_subscription_needs_stays(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    let slow = subscription(&broker, "slow", &["prices"]).await;
    put(&broker, &prices, &[("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "3"), ("b", "3")]).await;
    let first = take(&broker, &slow, 3).await;
    ack(&broker, &slow, &first[..2]).await;
    eventually_holds(&broker, &prices, &[2, 3, 4, 5]).await;
    say(&broker, &slow, &first[2], reject("no")).await;
    let rest = take(&broker, &slow, 3).await;
    assert_eq!(texts(&rest), ["2", "3", "3"]);
    ack(&broker, &slow, &rest).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(offsets(&broker, &prices).await, [2, 3, 4, 5], "a dead letter keeps what comes after it");
    assert_eq!(broker.discard(&slow, Selection::All, false).await.unwrap(), 1);
    eventually_holds(&broker, &prices, &[4, 5]).await;
}

pub(super) async fn a_topic_can_say_that_nobody_is_asked(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = topic_with(&broker, "prices", |t| {
        t.retention.compact = true;
        t.retention.drop_unread = true;
    })
    .await;
    let slow = subscription(&broker, "slow", &["prices"]).await;
    put(&broker, &prices, &[("a", "dead"), ("b", "given back"), ("c", "held")]).await;
    let consumer = broker.join(&slow).await.unwrap();
    let mut held = Vec::new();
    while held.len() < 3 {
        let fetch = Fetch::new(Some(consumer), 3 - held.len(), PATIENCE);
        held.extend(broker.fetch(&slow, fetch).await.unwrap());
    }
    say(&broker, &slow, &held[0], reject("no")).await;
    put(&broker, &prices, &[("a", "new"), ("b", "new"), ("c", "new")]).await;
    eventually_holds(&broker, &prices, &[3, 4, 5]).await;
    eventually("the dead letter goes with its message", async || {
        broker.dead_letters(&slow, None, 10).await.unwrap().is_empty()
    })
    .await;
    ack(&broker, &slow, &held[2..]).await;
    broker.leave(&slow, consumer);
    assert_eq!(texts(&take(&broker, &slow, 3).await), ["new", "new", "new"]);
    assert_eq!(standing(&broker, &slow).await, [0, 3, 0, 0]);
}

pub(super) async fn it_can_be_switched_on_and_off(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = topic(&broker, "prices").await;
    put(&broker, &prices, &[("a", "1"), ("b", "1"), ("a", "2"), ("a", "3")]).await;
    let (mut definition, _) = (info(&broker, &prices).await.topic, ());
    definition.retention.compact = true;
    broker.put_topic(definition.clone(), Expect::Any).await.unwrap();
    eventually_holds(&broker, &prices, &[1, 3]).await;
    definition.retention.compact = false;
    broker.put_topic(definition.clone(), Expect::Any).await.unwrap();
    put(&broker, &prices, &[("a", "4"), ("b", "2")]).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(offsets(&broker, &prices).await, [1, 3, 4, 5]);
    definition.retention.compact = true;
    broker.put_topic(definition, Expect::Any).await.unwrap();
    eventually_holds(&broker, &prices, &[4, 5]).await;
}

pub(super) async fn a_restart_changes_nothing_of_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    put(&broker, &prices, &[("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("c", "1")]).await;
    eventually_holds(&broker, &prices, &[2, 3, 4]).await;
    let times: Vec<_> = read_all(&broker, &prices).await.iter().map(|message| message.time).collect();
    let check = async |broker: &SharedBroker| {
        let found = read_all(broker, &prices).await;
        assert_eq!(stored_texts(&found), ["2", "2", "1"]);
        assert_eq!(found.iter().map(|message| message.time).collect::<Vec<_>>(), times);
        assert_eq!(info(broker, &prices).await.tail, 5);
    };
    if let Some(after) = harness.reopen_killed().await {
        check(&after).await;
        close(after).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    check(&broker).await;
    put(&broker, &prices, &[("a", "3")]).await;
    eventually_holds(&broker, &prices, &[3, 4, 5]).await;
}

pub(super) async fn much_of_it_under_load(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    let sub = subscription(&broker, "sub", &["prices"]).await;
    let mut dice = Dice(7);
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let all_is_there = Arc::new(AtomicBool::new(false));
    let consumer = {
        let (broker, sub, all_is_there) = (broker.clone(), sub.clone(), all_is_there.clone());
        tokio::spawn(async move {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            loop {
                let was_all_there = all_is_there.load(Ordering::SeqCst);
                let taken = broker.fetch(&sub, Fetch::new(None, 1000, A_WHILE)).await.unwrap();
                if taken.is_empty() && was_all_there {
                    return last;
                }
                for delivery in &taken {
                    let key = delivery.record.key().unwrap().to_owned();
                    let before = last.insert(key, delivery.offset);
                    assert!(before.is_none_or(|before| before < delivery.offset), "in order");
                }
                if !taken.is_empty() {
                    ack(&broker, &sub, &taken).await;
                }
            }
        })
    };
    // Several times what is kept in one piece.
    for _ in 0..60 {
        let mut waiting = Vec::new();
        for _ in 0..10 {
            let (mut keys, mut messages) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                let key = format!("key {}", dice.below(200));
                messages.push(Message::new(vec![b'x'; 1000]).with_key(key.clone()));
                keys.push(key);
            }
            waiting.push((keys, broker.publish(&prices, batch(messages), Default::default())));
        }
        for (keys, published) in waiting {
            let first = soon("a receipt", published).await.unwrap().first;
            newest.extend((first..).zip(keys).map(|(offset, key)| (key, offset)));
        }
    }
    all_is_there.store(true, Ordering::SeqCst);
    let told = soon("the consumer", consumer).await.unwrap();
    assert_eq!(told, newest, "whoever reads on gets the newest of each");
    let mut wanted: Vec<u64> = newest.values().copied().collect();
    wanted.sort_unstable();
    eventually_holds(&broker, &prices, &wanted).await;
    assert!(info(&broker, &prices).await.bytes < 1_000_000);
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(offsets(&broker, &prices).await, wanted);
}

async fn append(
    broker: &SharedBroker,
    topic: &TopicName,
    message: Message,
    key: &str,
    last: Option<u64>,
) -> Result<Receipts, Error> {
    let expected = Some(Expected::LastOfKey(key.into(), last));
    let options = PublishOptions { expected, ..PublishOptions::default() };
    soon("an answer", broker.publish(topic, batch([message]), options)).await
}

pub(super) async fn an_append_can_expect_the_newest_of_a_key(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    append(&broker, &prices, keyed("a", "1"), "a", None).await.unwrap();
    append(&broker, &prices, keyed("b", "1"), "b", None).await.unwrap();
    let error = refused(append(&broker, &prices, keyed("a", "x"), "a", None).await, ErrorCode::Conflict);
    assert!(error.message.contains("offset 0"), "{error} does not say what is there");
    append(&broker, &prices, keyed("a", "2"), "a", Some(0)).await.unwrap();
    refused(append(&broker, &prices, keyed("a", "x"), "a", Some(0)).await, ErrorCode::Conflict);
    let check = async |broker: &SharedBroker| {
        let error =
            refused(append(broker, &prices, keyed("a", "x"), "a", Some(0)).await, ErrorCode::Conflict);
        assert!(error.message.contains("offset 2"), "{error} does not say what is there");
    };
    if let Some(after) = harness.reopen_killed().await {
        check(&after).await;
        close(after).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    check(&broker).await;
    append(&broker, &prices, keyed("a", "3"), "a", Some(2)).await.unwrap();
    append(&broker, &prices, keyed("b", "2"), "b", Some(1)).await.unwrap();
    broker.purge(&prices, None).await.unwrap();
    append(&broker, &prices, keyed("a", "4"), "a", None).await.unwrap();
    let plain = topic(&broker, "plain").await;
    refused(append(&broker, &plain, keyed("a", "1"), "a", None).await, ErrorCode::InvalidArgument);
}

pub(super) async fn of_many_who_race_for_a_key_one_wins(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = compacted(&broker, "prices").await;
    let mut last: [Option<u64>; 3] = [None; 3];
    for round in 0..10 {
        let mut waiting = Vec::new();
        for n in 0..4 {
            for (key, last) in last.iter().enumerate() {
                let expected = Some(Expected::LastOfKey(key.to_string(), *last));
                let options = PublishOptions { expected, ..PublishOptions::default() };
                let message = keyed(&key.to_string(), &format!("{round} {n}"));
                waiting.push((key, broker.publish(&prices, batch([message]), options)));
            }
        }
        let mut won = [0; 3];
        for (key, published) in waiting {
            match soon("an answer", published).await {
                Ok(receipts) => {
                    last[key] = Some(receipts.first);
                    won[key] += 1;
                }
                Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
            }
        }
        assert_eq!(won, [1; 3], "round {round}");
    }
}

pub(super) async fn keys_are_known_of_what_was_there_before(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let prices = topic(&broker, "prices").await;
    for n in 0..40 {
        let messages = (0..50).map(|m| keyed(&format!("{m}"), &format!("{n}")));
        publish_batch(&broker, &prices, batch(messages)).await.unwrap();
    }
    let mut definition = info(&broker, &prices).await.topic;
    definition.retention.compact = true;
    broker.put_topic(definition, Expect::Any).await.unwrap();
    // What is published while they are read counts as well.
    put(&broker, &prices, &[("7", "new")]).await;
    eventually("all keys are known", async || {
        let known = append(&broker, &prices, keyed("8", "new"), "8", Some(1958)).await;
        known.is_ok_and(|receipts| receipts.first == 2001)
    })
    .await;
    refused(append(&broker, &prices, keyed("7", "x"), "7", Some(1957)).await, ErrorCode::Conflict);
    append(&broker, &prices, keyed("7", "newer"), "7", Some(2000)).await.unwrap();
    append(&broker, &prices, keyed("unheard of", "1"), "unheard of", None).await.unwrap();
}
