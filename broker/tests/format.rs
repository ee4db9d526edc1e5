//! Directories that releases have written, which must open for ever: `tests/fixtures/format-N` for each format.
//!
//! Each is what a killed broker leaves behind: files of an orderly close, and a log that goes on after them. They
//! are never written again. For a new format, write its directory beside them with
//! `cargo test -p crossdock-broker --test format -- --ignored`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{
    Batch, Broker, Clock, Delivery, Expect, Expected, Fetch, Log, Message, Outcome, PublishOptions,
    Selection, Settlement, Source, StartAt, Store, Subscription, SubscriptionName, Subscriptions, Timestamp,
    Topic, TopicName,
};
use tempfile::TempDir;

/// The moment from which on the directories were written, and are opened: nothing in them grows old.
const THEN: Timestamp = Timestamp(1_795_000_000_000);
/// Makes a block larger than a MiB that takes hardly any room when compressed.
const LARGE: usize = 1_500_000;

/// Begins at [`THEN`].
struct Replayed(Instant);

impl Clock for Replayed {
    fn now(&self) -> Timestamp {
        THEN.after(self.0.elapsed())
    }
}

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

async fn open(path: &Path) -> Arc<Embedded> {
    let options = EmbeddedOptions { clock: Arc::new(Replayed(Instant::now())), ..EmbeddedOptions::new(path) };
    tokio::task::spawn_blocking(move || Embedded::open(options)).await.unwrap().unwrap()
}

fn orders() -> TopicName {
    "orders".parse().unwrap()
}

fn prices() -> TopicName {
    "prices".parse().unwrap()
}

async fn prices_held(broker: &Embedded) -> Vec<u64> {
    let page = broker.read(&prices(), StartAt::Start, 100, Duration::ZERO).await.unwrap();
    page.messages.iter().map(|message| message.offset).collect()
}

/// What format 2 has and format 1 had not: a compacted topic, and a publisher that is known.
async fn check_compacted(broker: &Embedded) {
    assert_eq!(prices_held(broker).await, [4, 5, 6]);
    let send = async |sequence, last| {
        let batch = Batch::of(&Message::new("x").with_key("2")).unwrap();
        let source = Some(Source { publisher: 7, sequence, answered: 6 });
        let expected = Some(Expected::LastOfKey("2".into(), last));
        broker.publish(&prices(), batch, PublishOptions { source, expected, durability: None }).await
    };
    assert_eq!(send(6, None).await.unwrap().first, 6, "it was stored before");
    assert!(send(7, Some(2)).await.is_err(), "the newest is another one");
}

fn sub() -> SubscriptionName {
    "billing".parse().unwrap()
}

fn message(n: u64) -> Message {
    let payload = if n == 10 { vec![0; LARGE] } else { format!("order {n}").into_bytes() };
    let message =
        Message::new(payload).with_key(format!("customer {}", n % 3)).with_header("n", n.to_string());
    if n.is_multiple_of(2) { message.with_id(format!("id {n}")) } else { message }
}

async fn publish(broker: &Embedded, numbers: std::ops::Range<u64>) {
    for n in numbers {
        broker.publish(&orders(), Batch::of(&message(n)).unwrap(), Default::default()).await.unwrap();
    }
}

async fn take(broker: &Embedded, max: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    loop {
        let more = Fetch::new(None, max - taken.len(), Duration::from_millis(200));
        let more = broker.fetch(&sub(), more).await.unwrap();
        taken.extend(more.iter().cloned());
        if more.is_empty() || taken.len() == max {
            taken.sort_by_key(|delivery| delivery.offset);
            return taken;
        }
    }
}

async fn say(broker: &Embedded, delivery: &Delivery, outcome: Outcome) {
    let by = Some("billing@1".to_owned());
    let settlement = Settlement { by, ..Settlement::one(delivery.id, outcome) };
    assert_eq!(broker.settle(&sub(), settlement).await.unwrap().settled, 1);
}

#[tokio::test]
#[ignore = "writes the directory of a new format"]
async fn write_the_directory() {
    let live = TempDir::new().unwrap();
    let broker = open(live.path()).await;
    let topic = Topic { max_message_bytes: 2 * LARGE, ..Topic::new(orders()) };
    broker.put_topic(topic, Expect::Any).await.unwrap();
    let mut limited = Topic::new("trimmed".parse().unwrap());
    limited.retention.max_messages = Some(2);
    broker.put_topic(limited.clone(), Expect::Any).await.unwrap();
    let definition = Subscription::new(sub(), vec!["orders".parse().unwrap()]);
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    publish(&broker, 0..20).await;
    for n in 0..5 {
        let batch = Batch::of(&message(n)).unwrap();
        broker.publish(&limited.name, batch, Default::default()).await.unwrap();
    }
    while broker.topic(&limited.name).await.unwrap().head < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = take(&broker, 4).await;
    say(&broker, &taken[0], Outcome::Ack).await;
    say(&broker, &taken[1], Outcome::Reject { reason: "no such customer".into() }).await;
    let after = Some(Duration::from_secs(3600));
    say(&broker, &taken[2], Outcome::Retry { after, reason: "busy".into() }).await;
    broker.put("config/a", "1".into(), Expect::Any, None).await.unwrap();
    let mut compacted = Topic::new(prices());
    compacted.retention.compact = true;
    broker.put_topic(compacted, Expect::Any).await.unwrap();
    for n in 0..7 {
        let batch = Batch::of(&Message::new(format!("{n}")).with_key(format!("{}", n % 3))).unwrap();
        let source = Some(Source { publisher: 7, sequence: n, answered: n });
        let options = PublishOptions { source, ..PublishOptions::default() };
        broker.publish(&prices(), batch, options).await.unwrap();
    }
    while prices_held(&broker).await != [4, 5, 6] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.close().await;

    let broker = open(live.path()).await;
    publish(&broker, 20..25).await;
    let taken = take(&broker, 3).await;
    assert_eq!(taken.iter().map(|d| d.offset).collect::<Vec<_>>(), [3, 4, 5]);
    say(&broker, &taken[1], Outcome::Ack).await;
    say(&broker, &taken[2], Outcome::Reject { reason: "too late".into() }).await;
    broker.put("config/a", "2".into(), Expect::Any, None).await.unwrap();
    let lease = broker.grant(Duration::from_secs(3600)).await.unwrap();
    broker.put("members/one", "here".into(), Expect::Any, Some(lease)).await.unwrap();
    let target = fixture(2);
    assert!(!target.exists(), "{} is there, and is never written again", target.display());
    scratch::copy(live.path(), &target).unwrap();
    for entry in std::fs::read_dir(&target).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // These name the machine, and nothing is read from them.
        if ["LOG", "OPTIONS"].iter().any(|start| name.starts_with(start)) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test]
async fn directories_of_all_formats_open() {
    for format in [1, 2] {
        let copy = TempDir::new().unwrap();
        scratch::copy(&fixture(format), copy.path()).unwrap();
        for again in [false, true] {
            let broker = open(copy.path()).await;
            check(&broker, again).await;
            if format >= 2 {
                check_compacted(&broker).await;
            }
            broker.close().await;
        }
    }
}

/// Everything that was put into the directory is there; the first time it goes on from there.
async fn check(broker: &Embedded, again: bool) {
    let mut found = Vec::new();
    while found.len() < 25 {
        let from = StartAt::Offset(found.len() as u64);
        let page = broker.read(&orders(), from, 1000, Duration::ZERO).await.unwrap();
        assert!(!page.messages.is_empty(), "only {} messages", found.len());
        found.extend(page.messages);
    }
    for (n, stored) in (0..).zip(&found) {
        assert_eq!((stored.offset, stored.record.to_message()), (n, message(n)));
        assert!(stored.time >= THEN && stored.time < THEN.after(Duration::from_secs(60)));
    }
    let info = broker.topic(&"trimmed".parse().unwrap()).await.unwrap();
    assert_eq!((info.head, info.tail, info.topic.retention.max_messages), (3, 5, Some(2)));
    assert_eq!(&broker.get("config/a").await.unwrap().unwrap().value[..], b"2");
    assert_eq!(&broker.get("members/one").await.unwrap().unwrap().value[..], b"here");
    let dead = broker.dead_letters(&sub(), None, 10).await.unwrap();
    let told: Vec<_> = dead.iter().map(|d| (d.offset, d.reason.as_str(), d.by.as_deref())).collect();
    if again {
        assert_eq!(told, [(5, "too late", Some("billing@1"))]);
        return;
    }
    assert_eq!(told, [(1, "no such customer", Some("billing@1")), (5, "too late", Some("billing@1"))]);
    let progress = broker.subscription(&sub()).await.unwrap().topics.remove(0);
    assert_eq!((progress.set_aside, progress.dead_letters), (2, 2), "one failed, one was held");
    let receipts =
        broker.publish(&orders(), Batch::of(&message(22)).unwrap(), Default::default()).await.unwrap();
    assert_eq!(receipts.duplicates, [(0, 22)]);
    let taken = take(broker, 100).await;
    let offsets: Vec<u64> = taken.iter().map(|delivery| delivery.offset).collect();
    assert_eq!(offsets, [3].into_iter().chain(6..25).collect::<Vec<_>>());
    broker.settle(&sub(), Settlement::ack(taken.iter().map(|delivery| delivery.id))).await.unwrap();
    assert_eq!(broker.redrive(&sub(), Selection::These(vec![(orders(), 1)]).into()).await.unwrap(), 1);
    let back = take(broker, 1).await;
    assert_eq!((back[0].offset, back[0].attempt), (1, 1));
    say(broker, &back[0], Outcome::Ack).await;
}
