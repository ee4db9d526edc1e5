//! Promise 6 in bulk: dead letters chosen by a filter, tried without doing it, delivered again at a rate, and mended.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::steps::{
    ack, batch, close, info, name, nothing, publish, publish_batch, publish_many, read_all, refused, reject,
    retry, say, soon, standing, stored_texts, subscription, take, take_one, text, texts, topic, topic_with,
};
use crate::{
    DeadLetterFilter, Delivery, ErrorCode, Message, Outcome, Redrive, Selection, Settlement, SharedBroker,
    StartAt, SubscriptionName, Timestamp, TopicName,
};

/// Rejects what comes, and says who failed and why, by the message's text.
async fn reject_next(broker: &SharedBroker, sub: &SubscriptionName, count: usize, by: &str) -> Vec<Delivery> {
    let taken = take(broker, sub, count).await;
    for delivery in &taken {
        let mut settlement = Settlement::one(delivery.id, reject(&format!("cannot do {}", text(delivery))));
        settlement.by = Some(by.into());
        broker.settle(sub, settlement).await.unwrap();
    }
    taken
}

fn matching(filter: DeadLetterFilter) -> Selection {
    Selection::Matching(Box::new(filter))
}

async fn counted(broker: &SharedBroker, sub: &SubscriptionName, filter: DeadLetterFilter) -> usize {
    let redrive = Redrive { selection: matching(filter.clone()), rate: None, dry_run: true };
    let count = broker.redrive(sub, redrive).await.unwrap();
    assert_eq!(broker.discard(sub, matching(filter), true).await.unwrap(), count);
    count
}

async fn dead(broker: &SharedBroker, sub: &SubscriptionName) -> Vec<(String, u64)> {
    let letters = broker.dead_letters(sub, None, 100_000).await.unwrap();
    letters.iter().map(|letter| (letter.topic.to_string(), letter.offset)).collect()
}

pub(super) async fn a_rate_sets_their_moments_and_a_restart_keeps_them(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b", "c", "d"]).await;
    reject_next(&broker, &sub, 4, "me").await;
    let redrive = |rate| Redrive { selection: Selection::All, rate: Some(rate), dry_run: false };
    for wrong in [0.0, -1.0, 0.0009, f64::NAN, f64::INFINITY] {
        refused(broker.redrive(&sub, redrive(wrong)).await, ErrorCode::InvalidArgument);
    }
    assert_eq!(broker.redrive(&sub, redrive(0.002)).await.unwrap(), 4);
    // The first at once, the others minutes apart.
    assert_eq!(text(&take_one(&broker, &sub).await), "a");
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 1, 3, 0]);
    close(broker).await;
    let broker = harness.reopen().await;
    let back = take_one(&broker, &sub).await;
    assert_eq!((text(&back).as_str(), back.attempt), ("a", 1));
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 1, 3, 0]);
}

pub(super) async fn at_a_rate_they_come_in_order(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, (0..10).map(|n| n.to_string())).await;
    reject_next(&broker, &sub, 10, "me").await;
    let redrive = Redrive { selection: Selection::All, rate: Some(50.0), dry_run: false };
    assert_eq!(broker.redrive(&sub, redrive).await.unwrap(), 10);
    let wanted: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(texts(&take(&broker, &sub, 10).await), wanted);
}

pub(super) async fn a_dry_run_only_counts(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b", "c"]).await;
    reject_next(&broker, &sub, 3, "me").await;
    let these = Selection::These(vec![(orders.clone(), 1), (orders.clone(), 1), (orders.clone(), 9)]);
    for (selection, count) in [(Selection::All, 3), (these, 1)] {
        let redrive = Redrive { selection: selection.clone(), rate: Some(1.0), dry_run: true };
        assert_eq!(broker.redrive(&sub, redrive).await.unwrap(), count);
        assert_eq!(broker.discard(&sub, selection, true).await.unwrap(), count);
    }
    assert_eq!(dead(&broker, &sub).await.len(), 3);
    nothing(&broker, &sub).await;
}

pub(super) async fn a_filter_chooses(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "one").await, topic(&broker, "two").await);
    let sub = subscription(&broker, "sub", &["one", "two"]).await;
    let message = |text: &str, key: &str, region: &str| {
        Message::new(text.to_owned()).with_key(key.to_owned()).with_header("region", region.to_owned())
    };
    let messages = [message("a", "k1", "eu"), message("b", "k2", "us"), message("c", "k1", "us")];
    publish_batch(&broker, &one, batch(messages)).await.unwrap();
    reject_next(&broker, &sub, 3, "billing@1").await;
    publish_batch(&broker, &two, batch([message("a", "k2", "eu")])).await.unwrap();
    let between = broker.dead_letters(&sub, None, 10).await.unwrap()[2].at;
    // The clock counts whole milliseconds.
    tokio::time::sleep(Duration::from_millis(20)).await;
    reject_next(&broker, &sub, 1, "shipping@7").await;
    let filter = DeadLetterFilter::default;
    let header = |region: &str| [("region".to_owned(), region.to_owned())].into();
    let after = Some(Timestamp(between.0 + 1));
    let cases = [
        (4, filter()),
        (3, DeadLetterFilter { topic: Some(one.clone()), ..filter() }),
        (0, DeadLetterFilter { topic: Some(name("three")), ..filter() }),
        (2, DeadLetterFilter { reason: Some("do a".into()), ..filter() }),
        (3, DeadLetterFilter { by: Some("billing".into()), ..filter() }),
        (0, DeadLetterFilter { by: Some("illing".into()), ..filter() }),
        (1, DeadLetterFilter { since: after, ..filter() }),
        (3, DeadLetterFilter { until: after, ..filter() }),
        (2, DeadLetterFilter { key: Some("k1".into()), ..filter() }),
        (2, DeadLetterFilter { headers: header("us"), ..filter() }),
        (1, DeadLetterFilter { headers: header("us"), key: Some("k1".into()), ..filter() }),
    ];
    for (wanted, filter) in cases {
        assert_eq!(counted(&broker, &sub, filter.clone()).await, wanted, "{filter:?}");
    }
    let by_key = DeadLetterFilter { key: Some("k2".into()), ..filter() };
    assert_eq!(broker.redrive(&sub, matching(by_key).into()).await.unwrap(), 2);
    let mut back = texts(&take(&broker, &sub, 2).await);
    back.sort();
    assert_eq!(back, ["a", "b"]);
    let by_region = DeadLetterFilter { headers: header("eu"), ..filter() };
    assert_eq!(broker.discard(&sub, matching(by_region), false).await.unwrap(), 1);
    assert_eq!(dead(&broker, &sub).await, [("one".to_owned(), 2)]);
}

pub(super) async fn many_are_gone_through(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let topics = [topic(&broker, "one").await, topic(&broker, "two").await];
    let sub = subscription(&broker, "sub", &["one", "two"]).await;
    for topic in &topics {
        let messages = (0..3000).map(|n| Message::new("x").with_key(format!("{}", n % 3)));
        publish_many(&broker, topic, messages).await;
    }
    let taken = take(&broker, &sub, 6000).await;
    let outcomes = taken.iter().map(|delivery| (delivery.id, reject("no"))).collect();
    let settled = broker.settle(&sub, Settlement { outcomes, ..Settlement::default() }).await.unwrap();
    assert_eq!(settled.settled, 6000);
    let third = || matching(DeadLetterFilter { key: Some("1".into()), ..DeadLetterFilter::default() });
    assert_eq!(soon("all of them", broker.discard(&sub, third(), false)).await.unwrap(), 2000);
    assert_eq!(soon("all of them", broker.redrive(&sub, Selection::All.into())).await.unwrap(), 4000);
    assert!(dead(&broker, &sub).await.is_empty());
    let back = take(&broker, &sub, 4000).await;
    assert!(back.iter().all(|delivery| delivery.record.key() != Some("1") && delivery.attempt == 1));
}

async fn edit(
    broker: &SharedBroker,
    sub: &SubscriptionName,
    topic: &TopicName,
    offset: u64,
    message: Message,
) {
    soon("an edit", broker.edit_dead_letter(sub, topic, offset, message)).await.unwrap();
}

pub(super) async fn a_mended_one_is_delivered_as_it_is_now(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    let other = subscription(&broker, "other", &["orders"]).await;
    publish(&broker, &orders, ["good", "bad", "bad too"]).await;
    let taken = take(&broker, &sub, 3).await;
    ack(&broker, &sub, &taken[..1]).await;
    say(&broker, &sub, &taken[1], reject("bad")).await;
    say(&broker, &sub, &taken[2], reject("bad")).await;
    edit(&broker, &sub, &orders, 1, Message::new("worse")).await;
    let mended = Message::new("mended").with_header("by", "hand");
    edit(&broker, &sub, &orders, 1, mended.clone()).await;
    let shown = async |broker: &SharedBroker| {
        let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
        let message = |letter: &crate::DeadLetter| letter.message.clone().unwrap().1.to_message();
        letters.iter().map(message).collect::<Vec<_>>()
    };
    assert_eq!(shown(&broker).await, [mended.clone(), Message::new("bad too")]);
    close(broker).await;
    let broker = harness.reopen().await;
    assert_eq!(shown(&broker).await, [mended.clone(), Message::new("bad too")]);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["good", "bad", "bad too"]);
    assert_eq!(texts(&take(&broker, &other, 3).await), ["good", "bad", "bad too"]);
    assert_eq!(broker.redrive(&sub, Selection::All.into()).await.unwrap(), 2);
    let back = take(&broker, &sub, 2).await;
    assert_eq!(texts(&back), ["mended", "bad too"]);
    assert_eq!((back[0].record.to_message(), back[0].time), (mended, taken[1].time));
    say(&broker, &sub, &back[0], retry("not yet")).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "mended");
    close(broker).await;
    let broker = harness.reopen().await;
    let back = take(&broker, &sub, 2).await;
    let again = back.iter().find(|delivery| delivery.offset == 1).unwrap();
    assert_eq!(text(again), "mended");
    // Once it is done, nothing is left of it.
    ack(&broker, &sub, &back).await;
    broker.seek(&sub, None, StartAt::Offset(1)).await.unwrap();
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["bad", "bad too"]);
}

pub(super) async fn a_mended_one_that_fails_again_stays_mended_until_it_is_discarded(
    harness: Arc<dyn Harness>,
) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["bad"]).await;
    say(&broker, &sub, &take_one(&broker, &sub).await, reject("bad")).await;
    edit(&broker, &sub, &orders, 0, Message::new("mended")).await;
    broker.redrive(&sub, Selection::All.into()).await.unwrap();
    say(&broker, &sub, &take_one(&broker, &sub).await, reject("still bad")).await;
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters[0].message.as_ref().unwrap().1.payload(), "mended");
    assert_eq!(broker.discard(&sub, Selection::All, false).await.unwrap(), 1);
    broker.seek(&sub, None, StartAt::Start).await.unwrap();
    let back = take_one(&broker, &sub).await;
    assert_eq!(text(&back), "bad");
    say(&broker, &sub, &back, Outcome::Release).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "bad");
}

pub(super) async fn what_cannot_be_mended_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 10).await;
    let sub = subscription(&broker, "sub", &["small"]).await;
    publish(&broker, &small, ["a", "b"]).await;
    let taken = take(&broker, &sub, 2).await;
    say(&broker, &sub, &taken[0], reject("no")).await;
    let edit = async |name: &SubscriptionName, topic: &TopicName, offset, message: Message| {
        soon("an answer", broker.edit_dead_letter(name, topic, offset, message)).await
    };
    refused(edit(&sub, &small, 1, Message::new("x")).await, ErrorCode::NotFound);
    refused(edit(&sub, &small, 7, Message::new("x")).await, ErrorCode::NotFound);
    refused(edit(&sub, &name("nowhere"), 0, Message::new("x")).await, ErrorCode::NotFound);
    refused(edit(&name("nobody"), &small, 0, Message::new("x")).await, ErrorCode::NotFound);
    refused(edit(&sub, &small, 0, Message::new("more than ten bytes")).await, ErrorCode::TooLarge);
    let wrong = Message { priority: 10, ..Message::new("x") };
    refused(edit(&sub, &small, 0, wrong).await, ErrorCode::InvalidArgument);
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters[0].message.as_ref().unwrap().1.payload(), "a");
    assert_eq!(info(&broker, &small).await.tail, 2);
}
