//! Promise 4: a settlement's outcomes and outputs take effect together, or not at all.

use std::sync::Arc;

use super::Harness;
use super::steps::{
    ack, batch, close, info, name, nothing, one, publish, read_all, refused, reject, retry_after, say,
    standing, stored_texts, subscription, take, take_one, text, texts, topic, topic_with,
};
use crate::{
    Delivery, DeliveryId, Durability, ErrorCode, Message, Outcome, Settlement, SharedBroker,
    SubscriptionName, TopicName,
};
use std::time::Duration;

/// A broker with a message in flight, and a topic for what comes out of it.
async fn with_one_in_flight(
    harness: &Arc<dyn Harness>,
) -> (SharedBroker, SubscriptionName, TopicName, Delivery) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let outputs = topic(&broker, "outputs").await;
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    publish(&broker, &inputs, ["in"]).await;
    let delivery = take_one(&broker, &sub).await;
    (broker, sub, outputs, delivery)
}

fn ack_with(delivery: &Delivery, outputs: Vec<(TopicName, crate::Batch)>) -> Settlement {
    Settlement { outcomes: vec![(delivery.id, Outcome::Ack)], outputs, by: None }
}

pub(super) async fn outputs_come_with_the_ack(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let other = topic_with(&broker, "other", |t| t.durability = Durability::Memory).await;
    let settlement = ack_with(
        &delivery,
        vec![
            (outputs.clone(), batch([Message::new("1"), Message::new("2")])),
            (other.clone(), one("x")),
            (outputs.clone(), one("3")),
        ],
    );
    let settled = broker.settle(&sub, settlement).await.unwrap();
    assert_eq!((settled.settled, settled.stale.len()), (1, 0));
    let check = async |broker: &SharedBroker| {
        assert_eq!(stored_texts(&read_all(broker, &outputs).await), ["1", "2", "3"]);
        assert_eq!(
            stored_texts(&read_all(broker, &other).await),
            ["x"],
            "settled means durable, in any topic"
        );
        nothing(broker, &sub).await;
        assert_eq!(standing(broker, &sub).await, [0; 4]);
    };
    check(&broker).await;
    if let Some(after) = harness.reopen_killed().await {
        check(&after).await;
        close(after).await;
    }
    close(broker).await;
    check(&harness.reopen().await).await;
}

pub(super) async fn consumers_of_the_outputs_are_woken(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let next = subscription(&broker, "next", &["outputs"]).await;
    let taking = tokio::spawn({
        let (broker, next) = (broker.clone(), next.clone());
        async move { take(&broker, &next, 1).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    broker.settle(&sub, ack_with(&delivery, vec![(outputs, one("out"))])).await.unwrap();
    assert_eq!(texts(&taking.await.unwrap()), ["out"]);
}

pub(super) async fn outputs_can_come_with_any_outcome_or_none(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let mut settlement = Settlement::one(delivery.id, reject("bad"));
    settlement.outputs = vec![(outputs.clone(), one("about it"))];
    assert_eq!(broker.settle(&sub, settlement).await.unwrap().settled, 1);
    let alone = Settlement { outputs: vec![(outputs.clone(), one("alone"))], ..Settlement::default() };
    assert_eq!(broker.settle(&sub, alone).await.unwrap().settled, 0);
    assert_eq!(stored_texts(&read_all(&broker, &outputs).await), ["about it", "alone"]);
    assert_eq!(standing(&broker, &sub).await, [0, 0, 0, 1]);
}

pub(super) async fn several_outcomes_at_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    publish(&broker, &inputs, ["ack", "retry", "release", "reject", "held"]).await;
    let taken = take(&broker, &sub, 5).await;
    let outcomes = [Outcome::Ack, retry_after(Duration::from_secs(3600)), Outcome::Release, reject("no")];
    let settlement =
        Settlement { outcomes: taken.iter().map(|d| d.id).zip(outcomes).collect(), ..Settlement::default() };
    let settled = broker.settle(&sub, settlement).await.unwrap();
    assert_eq!((settled.settled, settled.stale.len()), (4, 0));
    let back = take_one(&broker, &sub).await;
    assert_eq!((text(&back).as_str(), back.attempt, back.deliveries), ("release", 1, 2));
    assert_eq!(standing(&broker, &sub).await, [0, 2, 1, 1], "waiting, in flight, set aside, dead letters");
    ack(&broker, &sub, &taken[4..]).await;
}

pub(super) async fn stale_outcomes_are_named_and_the_others_count(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    publish(&broker, &inputs, ["a", "b"]).await;
    let taken = take(&broker, &sub, 2).await;
    ack(&broker, &sub, &taken[..1]).await;
    let never = DeliveryId { token: taken[1].id.token ^ 0x5555, ..taken[1].id };
    let nowhere = DeliveryId { log: u32::MAX, offset: u64::MAX, token: 1 };
    let settlement = Settlement::ack([taken[0].id, never, nowhere, taken[1].id]);
    let settled = broker.settle(&sub, settlement).await.unwrap();
    assert_eq!(settled.settled, 1);
    let mut stale = settled.stale;
    stale.sort();
    let mut expected = vec![taken[0].id, never, nowhere];
    expected.sort();
    assert_eq!(stale, expected);
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
}

pub(super) async fn another_subscriptions_delivery_is_stale(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let (one, two) =
        (subscription(&broker, "one", &["inputs"]).await, subscription(&broker, "two", &["inputs"]).await);
    publish(&broker, &inputs, ["a"]).await;
    let of_one = take_one(&broker, &one).await;
    let of_two = take_one(&broker, &two).await;
    let settled = broker.settle(&two, Settlement::ack([of_one.id])).await.unwrap();
    assert_eq!((settled.settled, settled.stale), (0, vec![of_one.id]));
    ack(&broker, &one, &[of_one]).await;
    ack(&broker, &two, &[of_two]).await;
}

pub(super) async fn with_a_stale_delivery_no_outputs(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let outputs = topic(&broker, "outputs").await;
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    publish(&broker, &inputs, ["settled before", "held"]).await;
    let taken = take(&broker, &sub, 2).await;
    ack(&broker, &sub, &taken[..1]).await;
    let mut settlement = Settlement::ack(taken.iter().map(|d| d.id));
    settlement.outputs = vec![(outputs.clone(), one("out"))];
    refused(broker.settle(&sub, settlement).await, ErrorCode::Conflict);
    assert!(read_all(&broker, &outputs).await.is_empty(), "refused, yet published");
    assert_eq!(standing(&broker, &sub).await, [0, 1, 0, 0], "refused, yet settled");
    // Nothing was done: the one that is not stale can still be settled.
    broker.settle(&sub, ack_with(&taken[1], vec![(outputs.clone(), one("out"))])).await.unwrap();
    assert_eq!(stored_texts(&read_all(&broker, &outputs).await), ["out"]);
}

pub(super) async fn with_an_output_that_cannot_be_nothing_is_done(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let small = topic_with(&broker, "small", |t| t.max_message_bytes = 4).await;
    let nowhere = vec![(outputs.clone(), one("out")), (name("nowhere"), one("x"))];
    refused(broker.settle(&sub, ack_with(&delivery, nowhere)).await, ErrorCode::NotFound);
    let large = vec![(outputs.clone(), one("out")), (small.clone(), one("too large"))];
    refused(broker.settle(&sub, ack_with(&delivery, large)).await, ErrorCode::TooLarge);
    assert!(read_all(&broker, &outputs).await.is_empty(), "refused, yet published");
    assert_eq!(info(&broker, &small).await.tail, 0);
    assert_eq!(standing(&broker, &sub).await, [0, 1, 0, 0], "refused, yet settled");
    ack(&broker, &sub, &[delivery]).await;
}

pub(super) async fn of_two_who_settle_one_wins(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let mut settling = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (broker, sub) = (broker.clone(), sub.clone());
        let settlement = ack_with(&delivery, vec![(outputs.clone(), one(n.to_string()))]);
        settling.spawn(async move { (n, broker.settle(&sub, settlement).await) });
    }
    let answers = settling.join_all().await;
    let won: Vec<i32> = answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(n, _)| *n).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    for (_, answer) in &answers {
        if let Err(error) = answer {
            assert_eq!(error.code, ErrorCode::Conflict, "{error}");
        }
    }
    assert_eq!(stored_texts(&read_all(&broker, &outputs).await), [won[0].to_string()]);
}

pub(super) async fn an_outcome_survives_a_kill(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let sub = subscription(&broker, "sub", &["inputs"]).await;
    publish(&broker, &inputs, ["acked", "rejected", "failed", "held", "new"]).await;
    let taken = take(&broker, &sub, 4).await;
    ack(&broker, &sub, &taken[..1]).await;
    say(&broker, &sub, &taken[1], reject("no")).await;
    say(&broker, &sub, &taken[2], retry_after(Duration::from_millis(1))).await;
    let Some(after) = harness.reopen_killed().await else { return };
    let mut back = take(&after, &sub, 3).await;
    back.sort_by_key(|d| d.offset);
    assert_eq!(texts(&back), ["failed", "held", "new"]);
    assert_eq!(back.iter().map(|d| d.attempt).collect::<Vec<_>>(), [2, 1, 1]);
    nothing(&after, &sub).await;
    assert_eq!(standing(&after, &sub).await, [0, 3, 0, 1]);
}

pub(super) async fn said_twice_at_once_counts_once(harness: Arc<dyn Harness>) {
    let (broker, sub, outputs, delivery) = with_one_in_flight(&harness).await;
    let twice = Settlement::ack([delivery.id, delivery.id]);
    let with_outputs = Settlement { outputs: vec![(outputs.clone(), one("out"))], ..twice.clone() };
    // Its second half is about a delivery that was settled before, by its first half.
    refused(broker.settle(&sub, with_outputs).await, ErrorCode::Conflict);
    assert_eq!(info(&broker, &outputs).await.tail, 0);
    let settled = broker.settle(&sub, twice).await.unwrap();
    assert_eq!((settled.settled, settled.stale), (1, vec![delivery.id]));
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
}

pub(super) async fn what_was_delivered_from_what_is_gone_is_stale(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let inputs = topic(&broker, "inputs").await;
    let sub = subscription(&broker, "sub", &["*"]).await;
    publish(&broker, &inputs, ["of the old topic"]).await;
    let old = take_one(&broker, &sub).await;
    broker.delete_topic(&inputs).await.unwrap();
    topic(&broker, "inputs").await;
    publish(&broker, &inputs, ["of the new topic"]).await;
    let new = take_one(&broker, &sub).await;
    assert_eq!(text(&new), "of the new topic");
    let settled = broker.settle(&sub, Settlement::ack([old.id, new.id])).await.unwrap();
    assert_eq!((settled.settled, settled.stale), (1, vec![old.id]));
    publish(&broker, &inputs, ["again"]).await;
    let old = take_one(&broker, &sub).await;
    broker.delete_subscription(&sub).await.unwrap();
    subscription(&broker, "sub", &["*"]).await;
    let settled = broker.settle(&sub, Settlement::ack([old.id])).await.unwrap();
    assert_eq!((settled.settled, settled.stale), (0, vec![old.id]));
    assert_eq!(texts(&take(&broker, &sub, 2).await), ["of the new topic", "again"]);
}
