//! Promise 6: dead letters stay where they are, indexed; they are listed, redriven and discarded.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    ack, close, name, nothing, publish, read_all, refused, reject, say, soon, standing, subscription,
    subscription_with, take, take_one, texts, topic,
};
use crate::{DeadLetter, ErrorCode, Selection, Settlement, SharedBroker, SubscriptionName, TopicName};

/// Rejects so many messages in each topic.
async fn reject_all(broker: &SharedBroker, sub: &SubscriptionName, topics: &[&TopicName], count: u64) {
    for topic in topics {
        publish(broker, topic, (0..count).map(|n| format!("{topic}/{n}"))).await;
        for delivery in take(broker, sub, usize::try_from(count).unwrap()).await {
            say(broker, sub, &delivery, reject(&format!("reason {}", delivery.offset))).await;
        }
    }
}

fn places(letters: &[DeadLetter]) -> Vec<(String, u64)> {
    letters.iter().map(|letter| (letter.topic.to_string(), letter.offset)).collect()
}

pub(super) async fn a_rejected_message_is_one_with_its_story(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let bystander = subscription(&broker, "bystander", &["orders"]).await;
    publish(&broker, &orders, ["good", "bad"]).await;
    let taken = take(&broker, &sub, 2).await;
    ack(&broker, &sub, &taken[..1]).await;
    let mut settlement = Settlement::one(taken[1].id, reject("no such customer"));
    settlement.by = Some("billing v7".into());
    broker.settle(&sub, settlement).await.unwrap();
    nothing(&broker, &sub).await;
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&letter.topic, letter.offset, letter.deliveries), (&orders, 1, 1));
    assert_eq!((letter.reason.as_str(), letter.by.as_deref()), ("no such customer", Some("billing v7")));
    let (stored, record) = letter.message.clone().expect("the message is still there");
    assert_eq!(record.payload(), "bad");
    assert_eq!(stored, taken[1].time);
    assert!(letter.at >= stored, "{letter:?}");
    // It lies in the log as before, and is nobody else's dead letter.
    assert_eq!(read_all(&broker, &orders).await.len(), 2);
    assert!(broker.dead_letters(&bystander, None, 10).await.unwrap().is_empty());
    assert_eq!(texts(&take(&broker, &bystander, 2).await), ["good", "bad"]);
    close(broker).await;
    let broker = harness.reopen().await;
    let kept = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(format!("{kept:?}"), format!("{letters:?}"));
    nothing(&broker, &sub).await;
}

pub(super) async fn who_failed_is_cut_to_what_is_kept(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["bad"]).await;
    let delivery = take_one(&broker, &sub).await;
    // An odd byte first, so that 200 bytes end in the middle of a letter.
    let long = format!("x{}", "ü".repeat(300));
    let mut settlement = Settlement::one(delivery.id, reject("no"));
    settlement.by = Some(long.clone());
    broker.settle(&sub, settlement).await.unwrap();
    let kept = broker.dead_letters(&sub, None, 1).await.unwrap().remove(0).by.expect("who failed");
    assert!(kept.len() <= 200 && kept.len() > 100 && long.starts_with(&kept), "{kept}");
}

pub(super) async fn they_are_listed_page_by_page(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (a, b) = (topic(&broker, "a").await, topic(&broker, "b").await);
    let sub = subscription(&broker, "sub", &["*"]).await;
    reject_all(&broker, &sub, &[&b, &a], 5).await;
    let all = places(&broker.dead_letters(&sub, None, 100).await.unwrap());
    let expected: Vec<(String, u64)> =
        ["a", "b"].iter().flat_map(|topic| (0..5).map(|n| ((*topic).to_owned(), n))).collect();
    assert_eq!(all, expected, "by topic and offset");
    for max in [1, 3, 4] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = broker.dead_letters(&sub, after, max).await.unwrap();
            assert!(page.len() <= max);
            let Some(last) = page.last() else { break };
            after = Some((last.topic.clone(), last.offset));
            seen.extend(places(&page));
        }
        assert_eq!(seen, expected, "max {max}");
    }
}

pub(super) async fn redriven_they_come_again_with_failures_forgotten(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_failures = 1).await;
    publish(&broker, &orders, ["a", "b", "c"]).await;
    for delivery in take(&broker, &sub, 3).await {
        say(&broker, &sub, &delivery, super::steps::retry("no")).await;
    }
    assert_eq!(standing(&broker, &sub).await, [0, 0, 0, 3]);
    let these = Selection::These(vec![(orders.clone(), 1), (orders.clone(), 77), (name("nowhere"), 0)]);
    assert_eq!(broker.redrive(&sub, these.clone().into()).await.unwrap(), 1);
    assert_eq!(broker.redrive(&sub, these.into()).await.unwrap(), 0, "it is no dead letter any more");
    let back = take_one(&broker, &sub).await;
    assert_eq!((back.offset, back.attempt, back.deliveries), (1, 1, 1));
    ack(&broker, &sub, &[back]).await;
    // A consumer that waits is woken.
    let taking = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { take(&broker, &sub, 2).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(broker.redrive(&sub, Selection::All.into()).await.unwrap(), 2);
    let back = soon("redriven messages", taking).await.unwrap();
    assert_eq!(texts(&back), ["a", "c"]);
    assert!(back.iter().all(|delivery| delivery.attempt == 1), "{back:?}");
    say(&broker, &sub, &back[0], super::steps::retry("still no")).await;
    ack(&broker, &sub, &back[1..]).await;
    assert_eq!(places(&broker.dead_letters(&sub, None, 10).await.unwrap()), [("orders".to_owned(), 0)]);
    assert_eq!(broker.redrive(&sub, Selection::All.into()).await.unwrap(), 1);
    if let Some(after) = harness.reopen_killed().await {
        assert_eq!(texts(&take(&after, &sub, 1).await), ["a"]);
        assert!(after.dead_letters(&sub, None, 10).await.unwrap().is_empty());
    }
}

pub(super) async fn discarded_they_are_forgotten(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    reject_all(&broker, &sub, &[&orders], 4).await;
    let these = Selection::These(vec![(orders.clone(), 3), (orders.clone(), 0), (orders.clone(), 99)]);
    assert_eq!(broker.discard(&sub, these, false).await.unwrap(), 2);
    let left = [("orders".to_owned(), 1), ("orders".to_owned(), 2)];
    assert_eq!(places(&broker.dead_letters(&sub, None, 10).await.unwrap()), left);
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(places(&broker.dead_letters(&sub, None, 10).await.unwrap()), left);
    assert_eq!(broker.discard(&sub, Selection::All, false).await.unwrap(), 2);
    assert_eq!(broker.discard(&sub, Selection::All, false).await.unwrap(), 0);
    assert_eq!(broker.redrive(&sub, Selection::All.into()).await.unwrap(), 0);
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
    assert_eq!(read_all(&broker, &orders).await.len(), 4, "the messages stay in their topic");
}

pub(super) async fn of_an_unknown_subscription_there_are_none(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let nobody = name("nobody");
    refused(broker.dead_letters(&nobody, None, 1).await, ErrorCode::NotFound);
    refused(broker.redrive(&nobody, Selection::All.into()).await, ErrorCode::NotFound);
    refused(broker.discard(&nobody, Selection::All, false).await, ErrorCode::NotFound);
}
