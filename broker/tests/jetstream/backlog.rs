//! A backlog of some thousand messages, which is read ahead of who takes it.

use std::time::Duration;

use crossdock_tests::Nats;
use crossdock_topics::{
    Batch, Broker, Durability, Expect, Fetch, Log, Message, Outcome, PublishOptions, Settlement,
    Subscription, Subscriptions, Topic, TopicName,
};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, open};

const MESSAGES: u64 = 12_000;

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_comes_in_order_while_its_server_is_killed() {
    let mut nats = Nats::single().await;
    let engine = open(&nats.url()).await;
    let topic: TopicName = "orders".parse().unwrap();
    let definition = Topic { durability: Durability::Os, ..Topic::new(topic.clone()) };
    engine.put_topic(definition, Expect::Any).await.unwrap();
    for first in (0..MESSAGES).step_by(1000) {
        let mut batch = Batch::default();
        for number in first..first + 1000 {
            batch.push(&Message::new(number.to_string())).unwrap();
        }
        engine.publish(&topic, batch, PublishOptions::default()).await.unwrap();
    }
    let name = "reader".parse().unwrap();
    let subscription = Subscription::new(name, vec!["orders".parse().unwrap()]);
    let name = subscription.name.clone();
    engine.put_subscription(subscription, Expect::Any).await.unwrap();
    let (mut came, mut is_killed) = (Vec::new(), false);
    let deadline = Instant::now() + PATIENCE;
    while came.len() < MESSAGES as usize {
        assert!(Instant::now() < deadline, "only {} messages came", came.len());
        let Ok(deliveries) = engine.fetch(&name, Fetch::new(None, 700, Duration::from_secs(1))).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        for delivery in &deliveries {
            assert_eq!(delivery.record.payload(), delivery.offset.to_string());
            // What was settled when nobody could be told comes again.
            if came.last().is_none_or(|last| *last < delivery.offset) {
                came.push(delivery.offset);
            }
        }
        let outcomes = deliveries.iter().map(|delivery| (delivery.id, Outcome::Ack)).collect();
        let _ = engine.settle(&name, Settlement { outcomes, ..Settlement::default() }).await;
        if came.len() as u64 > MESSAGES / 3 && !std::mem::replace(&mut is_killed, true) {
            nats.kill(0).await;
            nats.restart(0).await;
        }
    }
    assert!(came.iter().copied().eq(0..MESSAGES));
    engine.close().await;
}
