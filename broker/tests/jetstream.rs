//! Several engines on NATS, on bad days: nats-servers killed and halted, connections cut, leaders moved.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "jetstream/access.rs"]
mod access;
#[path = "jetstream/asking.rs"]
mod asking;
#[path = "jetstream/backlog.rs"]
mod backlog;
#[path = "jetstream/behind.rs"]
mod behind;
#[path = "jetstream/compacting.rs"]
mod compacting;
#[path = "jetstream/large.rs"]
mod large;
#[path = "jetstream/leases.rs"]
mod leases;
#[path = "jetstream/leftovers.rs"]
mod leftovers;
#[path = "jetstream/news.rs"]
mod news;
#[path = "jetstream/owners.rs"]
mod owners;
#[path = "jetstream/remaking.rs"]
mod remaking;
#[path = "jetstream/room.rs"]
mod room;
#[path = "jetstream/sharing.rs"]
mod sharing;
#[path = "jetstream/shorter.rs"]
mod shorter;
#[path = "jetstream/topics.rs"]
mod topics;

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{Batch, Log, Message, PublishOptions, TopicName};

/// No wait in a test is longer; a busy machine needs a small part of it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn open(url: &str) -> Arc<JetStream> {
    JetStream::open(JetStreamOptions::new(url).unwrap()).await.unwrap()
}

fn orders() -> TopicName {
    "orders".parse().unwrap()
}

/// Publishes until it is stored; gives where.
async fn publish(broker: &JetStream, text: &str) -> u64 {
    eventually("it to be stored", PATIENCE, || async {
        let batch = Batch::of(&Message::new(text.to_owned())).unwrap();
        broker.publish(&orders(), batch, PublishOptions::default()).await.ok()
    })
    .await
    .first
}

/// The server that leads the store's stream.
async fn leader(nats: &Nats) -> usize {
    let client =
        async_nats::connect(nats.url().trim_start_matches("nats://").split(',').collect::<Vec<_>>()).await;
    let context = async_nats::jetstream::new(client.unwrap());
    eventually("the store to have a leader", PATIENCE, || async {
        let info = context.get_stream("KV_crossdock-store").await.ok()?.cached_info().clone();
        info.cluster?.leader.map(|name| nats.named(&name))
    })
    .await
}
