//! Moving a subscription's place.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::steps::{
    A_WHILE, ack, close, fetch, name, nothing, publish, read_all, refused, reject, retry_after, say, soon,
    standing, subscription, take, texts, topic,
};
use crate::{ErrorCode, Fetch, Settlement, StartAt, Timestamp};

fn numbers(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

pub(super) async fn back_everything_comes_again_and_nothing_before(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, numbers(0, 10)).await;
    let first = take(&broker, &sub, 8).await;
    ack(&broker, &sub, &first[..4]).await;
    say(&broker, &sub, &first[4], reject("late")).await;
    say(&broker, &sub, &first[5], retry_after(Duration::from_secs(3600))).await;
    say(&broker, &sub, &first[6], reject("later")).await;
    broker.seek(&sub, None, StartAt::Offset(5)).await.unwrap();
    let letters = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [4], "those before stay");
    let late = broker.settle(&sub, Settlement::ack([first[7].id])).await.unwrap();
    assert_eq!((late.settled, late.stale.len()), (0, 1), "what was under way is stale");
    let again = take(&broker, &sub, 5).await;
    assert_eq!(texts(&again), numbers(5, 10));
    assert!(again.iter().all(|d| (d.attempt, d.deliveries) == (1, 1)), "failures are forgotten: {again:?}");
    broker.seek(&sub, Some(&orders), StartAt::Start).await.unwrap();
    assert!(broker.dead_letters(&sub, None, 10).await.unwrap().is_empty());
    assert_eq!(texts(&take(&broker, &sub, 10).await), numbers(0, 10));
}

pub(super) async fn forward_what_lies_between_is_passed_over(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, numbers(0, 10)).await;
    let first = take(&broker, &sub, 3).await;
    say(&broker, &sub, &first[1], retry_after(A_WHILE / 3)).await;
    broker.seek(&sub, None, StartAt::Offset(8)).await.unwrap();
    let rest = take(&broker, &sub, 2).await;
    assert_eq!(texts(&rest), ["8", "9"]);
    nothing(&broker, &sub).await;
    ack(&broker, &sub, &rest).await;
    broker.seek(&sub, None, StartAt::Offset(2)).await.unwrap();
    broker.seek(&sub, None, StartAt::End).await.unwrap();
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
    publish(&broker, &orders, ["10"]).await;
    assert_eq!(texts(&take(&broker, &sub, 1).await), ["10"]);
}

pub(super) async fn to_a_moment(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    for n in 0..3 {
        publish(&broker, &orders, [n.to_string()]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stored = read_all(&broker, &orders).await;
    let all = take(&broker, &sub, 3).await;
    ack(&broker, &sub, &all).await;
    broker.seek(&sub, None, StartAt::Time(stored[1].time)).await.unwrap();
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["1", "2"]);
    broker.seek(&sub, None, StartAt::Time(Timestamp(stored[2].time.0 + 1))).await.unwrap();
    nothing(&broker, &sub).await;
}

pub(super) async fn in_one_topic_or_in_all(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (one, two) = (topic(&broker, "in.one").await, topic(&broker, "in.two").await);
    let other = topic(&broker, "other").await;
    let sub = subscription(&broker, "sub", &["in.*"]).await;
    for topic in [&one, &two] {
        publish(&broker, topic, [format!("{topic} 0"), format!("{topic} 1")]).await;
    }
    let all = take(&broker, &sub, 4).await;
    ack(&broker, &sub, &all).await;
    broker.seek(&sub, Some(&two), StartAt::Offset(1)).await.unwrap();
    let again = take(&broker, &sub, 1).await;
    assert_eq!(texts(&again), ["in.two 1"]);
    nothing(&broker, &sub).await;
    broker.seek(&sub, None, StartAt::Offset(1)).await.unwrap();
    let mut both = texts(&take(&broker, &sub, 2).await);
    both.sort();
    assert_eq!(both, ["in.one 1", "in.two 1"]);
    refused(broker.seek(&sub, Some(&other), StartAt::Start).await, ErrorCode::NotFound);
    refused(broker.seek(&name("nobody"), None, StartAt::Start).await, ErrorCode::NotFound);
}

pub(super) async fn a_new_place_survives_a_kill(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, numbers(0, 10)).await;
    let first = take(&broker, &sub, 10).await;
    say(&broker, &sub, &first[3], retry_after(Duration::from_millis(10))).await;
    say(&broker, &sub, &first[9], reject("no")).await;
    broker.seek(&sub, None, StartAt::Offset(7)).await.unwrap();
    let Some(copy) = harness.reopen_killed().await else { return };
    assert_eq!(texts(&take(&copy, &sub, 3).await), ["7", "8", "9"]);
    nothing(&copy, &sub).await;
    assert!(copy.dead_letters(&sub, None, 10).await.unwrap().is_empty());
    close(copy).await;
}

pub(super) async fn whoever_waits_is_woken_and_work_goes_on_meanwhile(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, numbers(0, 50)).await;
    let all = take(&broker, &sub, 50).await;
    ack(&broker, &sub, &all).await;
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { fetch(&broker, &sub, 50).await }
    });
    broker.seek(&sub, None, StartAt::Offset(40)).await.unwrap();
    assert_eq!(soon("the messages", waiting).await.unwrap()[0].offset, 40);
    // Consumers take and settle all the while; what they say late is stale and does no harm.
    let consuming = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move {
            loop {
                let taken = broker.fetch(&sub, Fetch::new(None, 7, A_WHILE)).await.unwrap();
                if taken.is_empty() {
                    return;
                }
                broker.settle(&sub, Settlement::ack(taken.iter().map(|d| d.id))).await.unwrap();
            }
        }
    });
    for n in 0..20 {
        broker.seek(&sub, None, StartAt::Offset(n)).await.unwrap();
    }
    soon("the consumer", consuming).await.unwrap();
    broker.seek(&sub, None, StartAt::Offset(30)).await.unwrap();
    let mut last = texts(&take(&broker, &sub, 20).await);
    last.sort();
    assert_eq!(last, numbers(30, 50));
}
