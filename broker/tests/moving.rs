//! What was moved to NATS goes by the times it had before, which NATS does not know.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::moving::{Place, migrate};
use crossdock_broker::{Embedded, EmbeddedOptions, JetStream, JetStreamOptions};
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Clock, Expect, Log, Message, PublishOptions, StartAt, SystemClock, Timestamp, Topic,
    TopicName,
};
use parking_lot::Mutex;

const HOUR: Duration = Duration::from_secs(3600);

/// A clock that is set by hand.
struct Watch(Mutex<Timestamp>);

impl Clock for Watch {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

fn orders() -> TopicName {
    "orders".parse().unwrap()
}

async fn publish(broker: &impl Log, texts: &[&str]) -> u64 {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(&Message::new((*text).to_owned())).unwrap());
    broker.publish(&orders(), batch, PublishOptions::default()).await.unwrap().first
}

async fn first(broker: &impl Log, from: StartAt) -> (u64, Timestamp) {
    let page = broker.read(&orders(), from, 1, Duration::ZERO).await.unwrap();
    (page.messages[0].offset, page.messages[0].time)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_and_places_by_time_go_by_when_messages_were_stored_first() {
    let (folder, now) = (tempfile::tempdir().unwrap(), SystemClock.now());
    let path = folder.path().join("old");
    let clock = Arc::new(Watch(Mutex::new(now)));
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::new(&path) };
    let broker = Embedded::open(options).unwrap();
    let mut topic = Topic { retention: Default::default(), ..Topic::new(orders()) };
    topic.retention.max_age = None;
    let times = [now.before(HOUR * 30), now.before(HOUR * 20), now.before(HOUR * 10), now.before(HOUR)];
    *clock.0.lock() = times[0];
    broker.put_topic(topic.clone(), Expect::Absent).await.unwrap();
    for time in times {
        *clock.0.lock() = time;
        publish(&*broker, &["one", "two", "three"]).await;
    }
    broker.close().await;
    drop(broker);

    let nats = Nats::single().await;
    let mut options = JetStreamOptions::new(&nats.url()).unwrap();
    options.sync_always = true;
    let to = Place::Nats(Box::new(options.clone()));
    let report = migrate(&Place::Folder(path), &to, &mut |_| {}).await.unwrap();
    assert_eq!((report.topics, report.messages), (1, 12));

    let broker = JetStream::open(options).await.unwrap();
    assert_eq!(broker.topic(&orders()).await.unwrap().last, Some(times[3]));
    assert_eq!(publish(&*broker, &["new"]).await, 12);
    for (number, time) in (0..).zip(times) {
        assert_eq!(first(&*broker, StartAt::Time(time)).await, (number * 3, time));
        assert_eq!(first(&*broker, StartAt::Time(Timestamp(time.0 + 1))).await.0, number * 3 + 3);
    }
    topic.retention.max_age = Some(HOUR * 15);
    broker.put_topic(topic, Expect::Any).await.unwrap();
    eventually("what is older to be dropped", Duration::from_secs(60), || async {
        (broker.topic(&orders()).await.unwrap().head == 6).then_some(())
    })
    .await;
    assert_eq!(first(&*broker, StartAt::Start).await, (6, times[2]));
    broker.close().await;
}
