//! What is known of the keys of a compacted topic.

use std::collections::BTreeMap;

use crossdock_topics::{Broker, PublishOptions};

use super::*;
use crate::embedded::keys;

fn keyed(numbers: impl IntoIterator<Item = u32>) -> Batch {
    let mut batch = Batch::with_capacity(0);
    for number in numbers {
        batch.push(&Message::new("x").with_key(number.to_string())).unwrap();
    }
    batch
}

async fn publish(broker: &Embedded, topic: &TopicName, numbers: impl IntoIterator<Item = u32>) {
    broker.publish(topic, keyed(numbers), PublishOptions::default()).await.unwrap();
}

/// The newest message of each key, as it lies on the disk.
fn known(broker: &Embedded, topic: &TopicName) -> BTreeMap<u32, u64> {
    let id = broker.shared.topic(topic).unwrap().id;
    let mut known = BTreeMap::new();
    let database = broker.shared.database().unwrap();
    let from = keys::newest(id, b"");
    let mut take = |key: &[u8], value: &[u8]| {
        let number = std::str::from_utf8(&key[from.len()..]).unwrap().parse().unwrap();
        known.insert(number, keys::u64_of(value).unwrap());
        Ok(true)
    };
    database.scan("keys", &from, &from, &mut take).unwrap();
    known
}

async fn until_known(broker: &Embedded, topic: &TopicName, wanted: &BTreeMap<u32, u64>) {
    let looking = async {
        while known(broker, topic) != *wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(looking).await;
}

#[tokio::test]
async fn keys_of_which_the_log_holds_nothing_are_forgotten() {
    const KEYS: u32 = 1500; // more than the writer is told of at one time
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let mut compacted = Topic::new(name("prices"));
    compacted.retention.compact = true;
    let topic = compacted.name.clone();
    broker.put_topic(compacted, Expect::Any).await.unwrap();
    publish(&broker, &topic, 0..KEYS).await;
    let mut wanted: BTreeMap<u32, u64> = (0..KEYS).map(|n| (n, n.into())).collect();
    until_known(&broker, &topic, &wanted).await;

    // Some of those that are dropped had come back before, and some come back after it.
    publish(&broker, &topic, [7, 8]).await;
    broker.purge(&topic, Some(1200)).await.unwrap();
    publish(&broker, &topic, [8, 9]).await;
    wanted.retain(|_, newest| *newest >= 1200);
    wanted.extend([(7, 1500), (8, 1502), (9, 1503)]);
    until_known(&broker, &topic, &wanted).await;

    // What was dropped just before it was closed is found in its next life.
    broker.purge(&topic, Some(1501)).await.unwrap();
    broker.close().await;
    drop(broker);
    let broker = open(&folder);
    until_known(&broker, &topic, &[(8, 1502), (9, 1503)].into()).await;
    publish(&broker, &topic, [10]).await;
    broker.purge(&topic, None).await.unwrap();
    until_known(&broker, &topic, &BTreeMap::new()).await;
    publish(&broker, &topic, [10]).await;
    until_known(&broker, &topic, &[(10, 1505)].into()).await;
}
