//! What must hold of the engine as a whole, with faults and races that the conformance suite cannot make.

mod compaction;
mod consuming;
mod faults;
mod ordering;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Batch, Expect, Log, Message, Subscription, Subscriptions, Topic, TopicName};

use super::{Embedded, EmbeddedOptions};

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn open(folder: &tempfile::TempDir) -> Arc<Embedded> {
    Embedded::open(EmbeddedOptions::new(folder.path())).unwrap()
}

async fn topic(broker: &Embedded, topic: &str) -> TopicName {
    broker.put_topic(Topic::new(name(topic)), Expect::Any).await.unwrap();
    name(topic)
}

async fn subscribe(broker: &Embedded, subscription: Subscription) {
    broker.put_subscription(subscription, Expect::Any).await.unwrap();
}

fn batch(texts: impl IntoIterator<Item = impl Into<String>>) -> Batch {
    let mut batch = Batch::with_capacity(0);
    for text in texts {
        batch.push(&Message::new(text.into())).unwrap();
    }
    batch
}

/// Fails rather than waits for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it took longer than 20 s")
}
