//! Promise 3, the other half: what fails is set aside for its backoff, holds up nobody, and is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Harness;
use super::steps::{
    CLOCK_SLACK, ack, close, eventually, fetch, nothing, publish, retry, retry_after, say, standing,
    subscription_with, take, take_one, text, texts, topic,
};
use crate::{Backoff, Fetch, Settlement, Subscription};

const HOUR: Duration = Duration::from_secs(3600);

fn flat(wait: Duration) -> impl Fn(&mut Subscription) {
    move |s| s.backoff = Backoff { first: wait, factor: 1.0, max: wait }
}

pub(super) async fn a_failed_message_waits_and_the_others_flow(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let wait = Duration::from_millis(400);
    let sub = subscription_with(&broker, "sub", &["orders"], flat(wait)).await;
    publish(&broker, &orders, (0..6).map(|n| n.to_string())).await;
    let failing = take(&broker, &sub, 2).await;
    say(&broker, &sub, &failing[0], retry_after(HOUR)).await;
    let failed = Instant::now();
    say(&broker, &sub, &failing[1], retry("not now")).await;
    let (mut others, mut again) = (Vec::new(), None);
    while others.len() < 4 || again.is_none() {
        let next = take_one(&broker, &sub).await;
        ack(&broker, &sub, std::slice::from_ref(&next)).await;
        if text(&next) == "1" {
            // The backoff is shortened by at most a quarter.
            assert!(failed.elapsed() + CLOCK_SLACK >= wait * 3 / 4, "back after {:?}", failed.elapsed());
            assert_eq!((next.attempt, next.deliveries), (2, 2));
            assert_ne!(next.id, failing[1].id, "each delivery has a name of its own");
            again = Some(next);
        } else {
            others.push(next);
        }
    }
    assert_eq!(texts(&others), ["2", "3", "4", "5"]);
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 0, 1, 0]);
}

pub(super) async fn each_failure_waits_longer(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let backoff = Backoff { first: Duration::from_millis(40), factor: 3.0, max: Duration::from_millis(200) };
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.backoff = backoff).await;
    publish(&broker, &orders, ["a"]).await;
    let mut delivery = take_one(&broker, &sub).await;
    for (attempt, full) in [(2, 40), (3, 120), (4, 200)] {
        let failed = Instant::now();
        say(&broker, &sub, &delivery, retry("again")).await;
        delivery = take_one(&broker, &sub).await;
        assert_eq!((delivery.attempt, delivery.deliveries), (attempt, attempt));
        let least = Duration::from_millis(full) * 3 / 4;
        assert!(failed.elapsed() + CLOCK_SLACK >= least, "attempt {attempt} after {:?}", failed.elapsed());
    }
}

pub(super) async fn the_handler_can_say_how_long(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let slow = subscription_with(&broker, "slow", &["orders"], flat(HOUR)).await;
    let quick = subscription_with(&broker, "quick", &["orders"], flat(Duration::from_millis(1))).await;
    publish(&broker, &orders, ["a"]).await;
    let delivery = take_one(&broker, &slow).await;
    say(&broker, &slow, &delivery, retry_after(Duration::from_millis(20))).await;
    assert_eq!(take_one(&broker, &slow).await.attempt, 2, "sooner than the backoff");
    let delivery = take_one(&broker, &quick).await;
    let failed = Instant::now();
    let wait = Duration::from_millis(400);
    say(&broker, &quick, &delivery, retry_after(wait)).await;
    assert_eq!(take_one(&broker, &quick).await.attempt, 2);
    assert!(
        failed.elapsed() + CLOCK_SLACK >= wait,
        "later than the backoff, not after {:?}",
        failed.elapsed()
    );
}

pub(super) async fn a_lease_that_runs_out_is_one_failure(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.lease = Duration::from_millis(200)).await;
    publish(&broker, &orders, ["a"]).await;
    let began = Instant::now();
    let lost = take_one(&broker, &sub).await;
    let again = take_one(&broker, &sub).await;
    assert!(began.elapsed() + CLOCK_SLACK >= Duration::from_millis(200), "taken back too early");
    assert_eq!((again.attempt, again.deliveries), (2, 2));
    assert_ne!(again.id, lost.id);
    // The late answer settles nothing; whether the later delivery is still held is a matter of time.
    let late = broker.settle(&sub, Settlement::ack([lost.id])).await.unwrap();
    assert_eq!((late.settled, late.stale), (0, vec![lost.id]));
}

pub(super) async fn a_fetch_can_ask_for_another_lease(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let long = subscription_with(&broker, "long", &["orders"], |s| s.lease = HOUR).await;
    let short =
        subscription_with(&broker, "short", &["orders"], |s| s.lease = Duration::from_millis(50)).await;
    publish(&broker, &orders, ["a"]).await;
    let mut ask = Fetch::new(None, 1, super::PATIENCE);
    ask.lease = Some(Duration::from_millis(100));
    assert_eq!(broker.fetch(&long, ask.clone()).await.unwrap().len(), 1);
    assert_eq!(take_one(&broker, &long).await.attempt, 2, "held shorter than the subscription says");
    ask.lease = Some(HOUR);
    let held = broker.fetch(&short, ask).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    nothing(&broker, &short).await;
    ack(&broker, &short, &held).await;
}

pub(super) async fn a_lease_can_be_extended(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let lease = Duration::from_secs(2);
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.lease = lease).await;
    publish(&broker, &orders, ["one", "another"]).await;
    let taken = loop {
        let began = Instant::now();
        let taken = take(&broker, &sub, 2).await;
        let kept = broker.extend(&sub, &[taken[0].id], HOUR).await.unwrap();
        if kept.settled == 1 {
            break taken;
        }
        // The machine was too slow: both come again.
        assert!(began.elapsed() + CLOCK_SLACK >= lease, "{kept:?}");
    };
    let again = take_one(&broker, &sub).await;
    assert_eq!(again.offset, taken[1].offset, "only the one that was not extended comes back");
    let late = broker.extend(&sub, &[taken[1].id], HOUR).await.unwrap();
    assert_eq!((late.settled, late.stale), (0, vec![taken[1].id]));
    ack(&broker, &sub, &taken[..1]).await;
    // Extending can also mean holding it less long.
    let shorter = broker.extend(&sub, &[again.id], Duration::from_millis(20)).await.unwrap();
    if shorter.settled == 1 {
        assert_eq!(take_one(&broker, &sub).await.attempt, again.attempt + 1);
    }
    super::steps::refused(
        broker.extend(&super::steps::name("nobody"), &[again.id], HOUR).await,
        crate::ErrorCode::NotFound,
    );
}

pub(super) async fn one_failure_too_many_is_a_dead_letter(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| s.max_failures = 3).await;
    publish(&broker, &orders, ["poison", "good"]).await;
    let good = take(&broker, &sub, 2).await.remove(1);
    ack(&broker, &sub, &[good]).await;
    close(broker).await;
    let broker = harness.reopen().await;
    for attempt in 1..=3 {
        let delivery = take_one(&broker, &sub).await;
        assert_eq!((text(&delivery).as_str(), delivery.attempt), ("poison", attempt));
        let mut settlement = Settlement::one(delivery.id, retry(&format!("reason {attempt}")));
        settlement.by = Some("billing v7".into());
        assert_eq!(broker.settle(&sub, settlement).await.unwrap().settled, 1);
    }
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 0, 0, 1]);
    let dead = broker.dead_letters(&sub, None, 10).await.unwrap().remove(0);
    assert_eq!((&dead.topic, dead.offset, dead.failures, dead.deliveries), (&orders, 0, 3, 3));
    assert!(dead.reason.contains("reason 3"), "the last reason is shown: {dead:?}");
    assert_eq!(dead.by.as_deref(), Some("billing v7"));
    assert_eq!(dead.message.unwrap().1.payload(), "poison");
}

pub(super) async fn leases_that_run_out_end_in_the_dead_letters_too(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| {
        s.max_failures = 2;
        s.lease = Duration::from_millis(50);
    })
    .await;
    publish(&broker, &orders, ["a"]).await;
    for attempt in 1..=2 {
        assert_eq!(take_one(&broker, &sub).await.attempt, attempt);
    }
    eventually("a dead letter", async || standing(&broker, &sub).await == [0, 0, 0, 1]).await;
    let dead = broker.dead_letters(&sub, None, 10).await.unwrap().remove(0);
    assert_eq!((dead.failures, dead.deliveries), (2, 2));
    assert!(!dead.reason.is_empty(), "a dead letter without a reason");
    nothing(&broker, &sub).await;
}

pub(super) async fn what_is_set_aside_survives_a_restart(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], flat(HOUR)).await;
    publish(&broker, &orders, ["long", "short"]).await;
    let taken = take(&broker, &sub, 2).await;
    let failed = Instant::now();
    let wait = Duration::from_millis(300);
    say(&broker, &sub, &taken[0], retry("an hour")).await;
    say(&broker, &sub, &taken[1], retry_after(wait)).await;
    close(broker).await;
    let broker = harness.reopen().await;
    let back = fetch(&broker, &sub, 10).await;
    assert!(failed.elapsed() + CLOCK_SLACK >= wait, "back after {:?}", failed.elapsed());
    assert_eq!((texts(&back), back[0].attempt), (vec!["short".to_owned()], 2));
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0, 1, 1, 0]);
}
