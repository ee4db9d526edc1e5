//! Promise 2, by key: one after another, a poison key waits alone, and keys stay with their consumers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    A_WHILE, Dice, ack, batch, close, eventually, fetch, nothing, publish_batch, reject, retry, retry_after,
    say, soon, standing, subscription_with, take, take_one, text, texts, topic,
};
use super::{Harness, PATIENCE};
use crate::{
    Delivery, Expect, Fetch, Message, Order, ParkedKey, Selection, Settlement, SharedBroker,
    SubscriptionName, TopicName,
};

/// Publishes messages that are named by their keys and what follows them, as in `a1`.
async fn send(broker: &SharedBroker, topic: &TopicName, names: &[&str]) {
    let message = |name: &&str| Message {
        key: (!name.starts_with('-')).then(|| name[..1].into()),
        ..Message::new((*name).to_owned())
    };
    publish_batch(broker, topic, batch(names.iter().map(message))).await.unwrap();
}

async fn by_key(broker: &SharedBroker, text: &str, topics: &[&str]) -> SubscriptionName {
    subscription_with(broker, text, topics, |s| (s.order, s.max_failures) = (Order::Key, 2)).await
}

async fn parked(broker: &SharedBroker, sub: &SubscriptionName) -> Vec<ParkedKey> {
    broker.parked_keys(sub, 100).await.unwrap()
}

/// Lets the message that comes fail until its key is parked.
async fn poison(broker: &SharedBroker, sub: &SubscriptionName) {
    for _ in 0..2 {
        let mut settlement = Settlement::one(take_one(broker, sub).await.id, retry("poison"));
        settlement.by = Some("billing v7".into());
        assert_eq!(broker.settle(sub, settlement).await.unwrap().settled, 1);
    }
}

pub(super) async fn the_next_one_waits_until_the_one_before_it_is_settled(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2", "b1", "-", "a3", "-", "b2"]).await;
    let first = take(&broker, &sub, 4).await;
    assert_eq!(texts(&first), ["a1", "b1", "-", "-"], "what has no key waits for nothing");
    nothing(&broker, &sub).await;
    assert_eq!(broker.subscription(&sub).await.unwrap().topics[0].behind_key, 3);
    ack(&broker, &sub, &first[1..2]).await;
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["b2"]);
    say(&broker, &sub, &first[0], reject("no")).await;
    let second = take_one(&broker, &sub).await;
    assert_eq!(text(&second), "a2", "rejected, it is out of the way");
    nothing(&broker, &sub).await;
    ack(&broker, &sub, &[second]).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "a3");
}

pub(super) async fn a_failing_one_holds_up_its_key_alone(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2", "b1", "b2", "c1", "c2"]).await;
    let first = take(&broker, &sub, 3).await;
    assert_eq!(texts(&first), ["a1", "b1", "c1"]);
    say(&broker, &sub, &first[0], retry_after(Duration::from_secs(3600))).await;
    ack(&broker, &sub, &first[1..2]).await;
    let second = take_one(&broker, &sub).await;
    assert_eq!(text(&second), "b2");
    ack(&broker, &sub, &[second]).await;
    nothing(&broker, &sub).await;
    // Tried again, it is before those behind it.
    say(&broker, &sub, &first[2], retry_after(A_WHILE)).await;
    let again = take_one(&broker, &sub).await;
    assert_eq!((text(&again).as_str(), again.attempt), ("c1", 2));
    ack(&broker, &sub, &[again]).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "c2");
}

pub(super) async fn a_poison_key_is_parked_alone(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2", "a3"]).await;
    poison(&broker, &sub).await;
    send(&broker, &orders, &["b1", "a4", "b2"]).await;
    for expected in ["b1", "b2"] {
        let delivery = take_one(&broker, &sub).await;
        assert_eq!(text(&delivery), expected);
        ack(&broker, &sub, &[delivery]).await;
    }
    nothing(&broker, &sub).await;
    assert!(broker.dead_letters(&sub, None, 10).await.unwrap().is_empty(), "parked, not given up");
    let keys = parked(&broker, &sub).await;
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].key.as_str(), keys[0].offset, keys[0].failures), ("a", 0, 2));
    assert_eq!((keys[0].reason.as_str(), keys[0].by.as_deref()), ("poison", Some("billing v7")));
    assert_eq!((keys[0].waiting, &keys[0].topic), (3, &orders));
    let progress = &broker.subscription(&sub).await.unwrap().topics[0];
    assert_eq!((progress.parked_keys, progress.behind_key, progress.set_aside), (1, 3, 4));
}

pub(super) async fn a_released_key_goes_on_with_its_message(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2"]).await;
    poison(&broker, &sub).await;
    assert_eq!(broker.release_key(&sub, "b", false).await.unwrap(), 0);
    // Whoever waits already gets it.
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { fetch(&broker, &sub, 10).await }
    });
    assert_eq!(broker.release_key(&sub, "a", false).await.unwrap(), 1);
    let again = soon("the message", waiting).await.unwrap();
    assert_eq!((texts(&again), again[0].attempt, again[0].deliveries), (vec!["a1".into()], 1, 1));
    assert_eq!(broker.release_key(&sub, "a", false).await.unwrap(), 0, "it is not parked any more");
    ack(&broker, &sub, &again).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "a2");
    assert!(parked(&broker, &sub).await.is_empty());
}

pub(super) async fn a_key_that_is_given_up_goes_on_without_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "one").await, topic(&broker, "two").await);
    let sub = by_key(&broker, "sub", &["*"]).await;
    for topic in [&one, &two] {
        send(&broker, topic, &["a1", "a2"]).await;
        poison(&broker, &sub).await;
    }
    assert_eq!(parked(&broker, &sub).await.len(), 2);
    assert_eq!(broker.release_key(&sub, "a", true).await.unwrap(), 2, "in every topic");
    let rest = take(&broker, &sub, 2).await;
    assert_eq!(texts(&rest), ["a2", "a2"]);
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].reason.as_str(), letters[0].failures), ("poison", 2));
    assert_eq!(letters[0].by.as_deref(), Some("billing v7"));
    // Delivered again, it waits for its turn like any other.
    let both = broker.redrive(&sub, Selection::All.into()).await.unwrap();
    assert_eq!(both, 2);
    nothing(&broker, &sub).await;
    ack(&broker, &sub, &rest).await;
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["a1", "a1"]);
}

pub(super) async fn all_of_it_survives_a_kill(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2"]).await;
    poison(&broker, &sub).await;
    send(&broker, &orders, &["b1", "b2", "c1", "b3"]).await;
    let held = take(&broker, &sub, 2).await;
    assert_eq!(texts(&held), ["b1", "c1"]);
    say(&broker, &sub, &held[1], retry("soon")).await;
    let before = parked(&broker, &sub).await;
    let Some(copy) = harness.reopen_killed().await else { return };
    assert_eq!(parked(&copy, &sub).await, before);
    send(&copy, &orders, &["a3", "c2"]).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let next = take_one(&copy, &sub).await;
        seen.push(text(&next));
        ack(&copy, &sub, &[next]).await;
    }
    seen.sort();
    assert_eq!(seen, ["b1", "b2", "b3", "c1", "c2"]);
    nothing(&copy, &sub).await;
    assert_eq!(copy.release_key(&sub, "a", false).await.unwrap(), 1);
    for expected in ["a1", "a2", "a3"] {
        let next = take_one(&copy, &sub).await;
        assert_eq!(text(&next), expected);
        ack(&copy, &sub, &[next]).await;
    }
    assert_eq!(standing(&copy, &sub).await, [0; 4]);
    close(copy).await;
}

pub(super) async fn order_holds_with_many_consumers_that_fail_come_and_go(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| {
        (s.order, s.max_failures) = (Order::Key, 1_000_000);
    })
    .await;
    const COUNT: u64 = 600;
    let mut dice = Dice(11);
    let message =
        |n: u64| Message { key: Some(format!("k{}", n % 37).into()), ..Message::new(n.to_string()) };
    publish_batch(&broker, &orders, batch((0..COUNT).map(message))).await.unwrap();
    let done = Arc::new(std::sync::Mutex::new(BTreeMap::<String, Vec<u64>>::new()));
    let mut consumers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (broker, sub, done, seed) = (broker.clone(), sub.clone(), done.clone(), dice.below(1 << 40));
        consumers.spawn(async move {
            let mut dice = Dice(seed);
            let mut consumer = broker.join(&sub).await.unwrap();
            while (done.lock().unwrap().values().map(Vec::len).sum::<usize>() as u64) < COUNT {
                let fetch = Fetch::new(Some(consumer), 8, Duration::from_millis(50));
                let taken = broker.fetch(&sub, fetch).await.unwrap();
                let keys: BTreeSet<_> = taken.iter().map(|d| d.record.key().unwrap().to_owned()).collect();
                assert_eq!(keys.len(), taken.len(), "two of one key at one time");
                for delivery in taken {
                    match dice.below(10) {
                        0 => say_or_stale(&broker, &sub, &delivery, retry("x")).await,
                        1 => {
                            // It leaves with what it holds.
                            broker.leave(&sub, consumer);
                            consumer = broker.join(&sub).await.unwrap();
                            break;
                        }
                        _ => {
                            // Noted before: once it is settled the next one may come to somebody else at once.
                            let key = delivery.record.key().unwrap().to_owned();
                            done.lock().unwrap().entry(key).or_default().push(delivery.offset);
                            ack(&broker, &sub, &[delivery]).await;
                        }
                    }
                }
            }
            broker.leave(&sub, consumer);
        });
    }
    soon("all consumers", consumers.join_all()).await;
    for (key, offsets) in done.lock().unwrap().iter() {
        assert!(offsets.is_sorted(), "{key}: {offsets:?}");
    }
    eventually("nothing is left", async || standing(&broker, &sub).await == [0; 4]).await;
}

async fn say_or_stale(
    broker: &SharedBroker,
    sub: &SubscriptionName,
    delivery: &Delivery,
    outcome: crate::Outcome,
) {
    broker.settle(sub, Settlement::one(delivery.id, outcome)).await.unwrap();
}

/// Takes for a consumer what there is for it within a while.
async fn take_for(
    broker: &SharedBroker,
    sub: &SubscriptionName,
    consumer: crate::ConsumerId,
) -> Vec<Delivery> {
    broker.fetch(sub, Fetch::new(Some(consumer), 1000, A_WHILE)).await.unwrap()
}

fn keys(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries.iter().filter_map(|delivery| delivery.record.key().map(str::to_owned)).collect()
}

pub(super) async fn keys_stay_with_their_consumers(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    let (one, two) = (broker.join(&sub).await.unwrap(), broker.join(&sub).await.unwrap());
    let round =
        || batch((0..100).map(|n| Message { key: Some(format!("k{n}").into()), ..Message::new("x") }));
    publish_batch(&broker, &orders, round()).await.unwrap();
    let (of_one, of_two) = (take_for(&broker, &sub, one).await, take_for(&broker, &sub, two).await);
    let (keys_of_one, keys_of_two) = (keys(&of_one), keys(&of_two));
    assert!(of_one.len() + of_two.len() == 100 && keys_of_one.is_disjoint(&keys_of_two));
    assert!(!of_one.is_empty() && !of_two.is_empty(), "both have a share");
    ack(&broker, &sub, &of_one).await;
    ack(&broker, &sub, &of_two).await;
    // The second one waits already when the first one looks: what is for it wakes it.
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(Some(two), 1000, PATIENCE)).await.unwrap() }
    });
    publish_batch(&broker, &orders, round()).await.unwrap();
    let again = take_for(&broker, &sub, one).await;
    assert_eq!(keys(&again), keys_of_one, "as long as both stay");
    let of_two = soon("the second one's", waiting).await.unwrap();
    assert!(keys(&of_two).is_subset(&keys_of_two) && !of_two.is_empty());
    ack(&broker, &sub, &again).await;
    // What one who leaves held, and was to have, the other gets.
    broker.leave(&sub, two);
    let mut rest = BTreeSet::new();
    while rest.len() < keys_of_two.len() {
        let more = take_for(&broker, &sub, one).await;
        assert!(!more.is_empty(), "{} of {}", rest.len(), keys_of_two.len());
        rest.extend(keys(&more));
        ack(&broker, &sub, &more).await;
    }
    assert_eq!(rest, keys_of_two);
}

pub(super) async fn a_slot_that_changes_hands_waits_for_its_old_owner(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    let one = broker.join(&sub).await.unwrap();
    let message =
        |n: u64| Message { key: Some(format!("k{}", n % 256).into()), ..Message::new(n.to_string()) };
    publish_batch(&broker, &orders, batch((0..256).map(message))).await.unwrap();
    let held = take_for(&broker, &sub, one).await;
    assert_eq!(held.len(), 256, "alone, it has all keys");
    let two = broker.join(&sub).await.unwrap();
    publish_batch(&broker, &orders, batch((256..512).map(message))).await.unwrap();
    assert!(take_for(&broker, &sub, two).await.is_empty(), "the first one still holds messages of every key");
    ack(&broker, &sub, &held).await;
    let (of_one, of_two) = (take_for(&broker, &sub, one).await, take_for(&broker, &sub, two).await);
    assert_eq!(of_one.len() + of_two.len(), 256);
    assert!(!of_two.is_empty() && keys(&of_one).is_disjoint(&keys(&of_two)));
}

pub(super) async fn order_can_be_given_up_while_it_is_in_use(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = by_key(&broker, "sub", &["orders"]).await;
    send(&broker, &orders, &["a1", "a2", "a3"]).await;
    poison(&broker, &sub).await;
    let mut definition = broker.subscription(&sub).await.unwrap().subscription;
    definition.order = Order::None;
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    let mut all = texts(&take(&broker, &sub, 3).await);
    all.sort();
    assert_eq!(all, ["a1", "a2", "a3"]);
    assert!(parked(&broker, &sub).await.is_empty());
}
