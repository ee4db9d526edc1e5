//! A topic is compacted by one engine, and its subscriptions are owned by others.

use std::time::Duration;

use crossdock_broker::JetStream;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Batch, Delivery, Expect, Fetch, Log, Message, Outcome, PublishOptions, Settlement, StartAt, Subscription,
    Subscriptions, Topic,
};

use super::{PATIENCE, open};

async fn publish(broker: &JetStream, key: &str, text: &str) {
    let message = Message::new(text.to_owned()).with_key(key.to_owned());
    let topic = "prices".parse().unwrap();
    broker.publish(&topic, Batch::of(&message).unwrap(), PublishOptions::default()).await.unwrap();
}

fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_engine_drops_is_no_dead_letter_any_more_and_what_is_held_can_be_settled() {
    let nats = Nats::single().await;
    let (first, second) = (open(&nats.url()).await, open(&nats.url()).await);
    for (keeper, owner, name) in [(&first, &second, "one"), (&second, &first, "two")] {
        let mut topic = Topic::new("prices".parse().unwrap());
        (topic.retention.compact, topic.retention.drop_unread) = (true, true);
        topic.durability = crossdock_topics::Durability::Os;
        let _ = keeper.put_topic(topic, Expect::Any).await.unwrap();
        let sub = Subscription::new(name.parse().unwrap(), vec!["prices".parse().unwrap()]);
        let sub = Subscription { start: StartAt::End, ..sub };
        owner.put_subscription(sub, Expect::Absent).await.unwrap();
        let name = name.parse().unwrap();
        let begin = owner.topic(&"prices".parse().unwrap()).await.unwrap().tail;
        for key in ["stays", "dead", "held"] {
            publish(keeper, &format!("{key} of {name}"), "old").await;
        }
        let mut taken = Vec::new();
        while taken.len() < 3 {
            let fetch = Fetch::new(None, 3, Duration::from_secs(30));
            taken.extend(owner.fetch(&name, fetch).await.unwrap());
        }
        assert_eq!(offsets(&taken), [begin, begin + 1, begin + 2]);
        let no = Outcome::Reject { reason: "no".into() };
        let settled = owner.settle(&name, Settlement::one(taken[1].id, no)).await.unwrap();
        assert_eq!(settled.settled, 1);
        assert_eq!(owner.dead_letters(&name, None, 10).await.unwrap().len(), 1);
        for key in ["dead", "held"] {
            publish(keeper, &format!("{key} of {name}"), "new").await;
        }
        eventually("the dead letter to go with its message", PATIENCE, || async {
            owner.dead_letters(&name, None, 10).await.unwrap().is_empty().then_some(())
        })
        .await;
        let held = [taken[0].id, taken[2].id];
        let settled = owner.settle(&name, Settlement::ack(held)).await.unwrap();
        assert_eq!((settled.settled, settled.stale.len()), (2, 0));
    }
}
