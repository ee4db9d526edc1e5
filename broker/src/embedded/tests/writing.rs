//! What the writer decides, in corners that take a restart, a clock, or a look at the files.

use std::sync::atomic::{AtomicI64, Ordering};

use crossdock_topics::{Broker, Clock, ErrorCode, Fetch, Settlement, StartAt, Store, Timestamp};

use super::*;
use crate::embedded::database::Database;
use crate::embedded::recall::Wanted;

fn with_id(id: &str) -> Batch {
    Batch::of(&Message::new("x").with_id(id.to_owned())).unwrap()
}

#[tokio::test]
async fn an_id_is_known_after_a_restart_however_many_messages_without_one_came_since() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    broker.publish(&t, with_id("once"), Default::default()).await.unwrap();
    let many = batch((0..60_000).map(|_| ""));
    for _ in 0..=Topic::MAX_DEDUP_IDS / 60_000 {
        broker.publish(&t, many.clone(), Default::default()).await.unwrap();
    }
    broker.close().await;
    let broker = open(&folder);
    assert_eq!(broker.publish(&t, with_id("once"), Default::default()).await.unwrap().duplicates, [(0, 0)]);
}

#[tokio::test]
async fn others_do_not_wait_while_the_ids_of_a_topic_are_read_back() {
    const MANY: u64 = 40_000;
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let (t, u) = (topic(&broker, "t").await, topic(&broker, "u").await);
    let mut ids = Batch::with_capacity(0);
    for n in 0..MANY {
        ids.push(&Message::new("x".repeat(100)).with_id(n.to_string())).unwrap();
    }
    broker.publish(&t, ids, Default::default()).await.unwrap();
    broker.close().await;
    let broker = open(&folder);
    // Others are read first.
    let (log, window) = (broker.shared.topic(&t).unwrap(), Duration::from_secs(600));
    for _ in 0..100 {
        assert!(broker.shared.recalling.push(Wanted { log: log.clone(), from: 0, window }).is_ok());
    }
    let mut known = broker.publish(&t, with_id("7"), Default::default());
    let plain = broker.publish(&t, batch(["plain"]), Default::default());
    let new = broker.publish(&t, with_id("new"), Default::default());
    broker.publish(&u, batch(["other"]), Default::default()).await.unwrap();
    assert!(futures::poll!(&mut known).is_pending(), "it was answered before one that need not wait");
    assert_eq!(known.await.unwrap().duplicates, [(0, 7)]);
    assert_eq!(plain.await.unwrap().first, MANY);
    let new = new.await.unwrap();
    assert_eq!((new.first, new.duplicates.len()), (MANY + 1, 0));
    assert_eq!(
        broker.publish(&t, with_id("new"), Default::default()).await.unwrap().duplicates,
        [(0, MANY + 1)]
    );
    broker.close().await;
    // Whoever waits when it is closed is answered too.
    let broker = open(&folder);
    let log = broker.shared.topic(&t).unwrap();
    for _ in 0..20 {
        assert!(broker.shared.recalling.push(Wanted { log: log.clone(), from: 0, window }).is_ok());
    }
    let last = broker.publish(&t, with_id("new"), Default::default());
    broker.close().await;
    assert_eq!(last.await.unwrap().duplicates, [(0, MANY + 1)]);
}

#[tokio::test]
async fn a_window_that_is_opened_again_covers_what_came_while_it_was_shut() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    broker.publish(&t, with_id("before"), Default::default()).await.unwrap();
    let open_topic = Topic::new(t.clone());
    let shut = Topic { dedup_window: Duration::ZERO, ..open_topic.clone() };
    broker.put_topic(shut, Expect::Any).await.unwrap();
    // All under way at one time, so that they share a pass.
    let meanwhile = broker.publish(&t, with_id("meanwhile"), Default::default());
    let opened = broker.put_topic(open_topic, Expect::Any);
    let (meanwhile, opened) = tokio::join!(meanwhile, opened);
    assert!(opened.is_ok() && meanwhile.unwrap().duplicates.is_empty());
    for (id, offset) in [("before", 0), ("meanwhile", 1)] {
        assert_eq!(
            broker.publish(&t, with_id(id), Default::default()).await.unwrap().duplicates,
            [(0, offset)],
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_lease_that_has_run_out_holds_no_key() {
    struct Hand(AtomicI64);
    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::SeqCst))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand(AtomicI64::new(1_000_000)));
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::new(folder.path()) };
    let broker = Embedded::open(options).unwrap();
    let lease = broker.grant(Duration::from_secs(1)).await.unwrap();
    broker.put("members/a", "1".into(), Expect::Any, Some(lease)).await.unwrap();
    clock.0.fetch_add(1000, Ordering::SeqCst);
    let late = broker.put("members/b", "1".into(), Expect::Any, Some(lease)).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn nothing_is_left_of_the_groups_of_a_topic_or_subscription_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    for round in 0..20 {
        let t = topic(&broker, "t").await;
        subscribe(&broker, Subscription::new(name("s"), vec![name("*")])).await;
        broker.publish(&t, batch(["a", "b", "c"]), Default::default()).await.unwrap();
        let taken = broker.fetch(&name("s"), Fetch::new(None, 3, Duration::from_secs(5))).await.unwrap();
        let s = name("s");
        let settled = broker.settle(&s, Settlement::ack([taken[0].id]));
        let gone = broker.delete_topic(&t);
        let unsubscribed =
            async { if round % 2 == 0 { broker.delete_subscription(&name("s")).await } else { Ok(()) } };
        let (_, gone, unsubscribed) = tokio::join!(settled, gone, unsubscribed);
        assert!(gone.is_ok() && unsubscribed.is_ok());
    }
    broker.delete_subscription(&name("s")).await.unwrap();
    broker.close().await;
    let database = Database::open(&EmbeddedOptions::new(folder.path())).unwrap();
    let mut left = 0;
    for family in ["groups", "log", "segments"] {
        let count = |_: &[u8], _: &[u8]| {
            left += 1;
            Ok(true)
        };
        database.scan(family, b"", b"", count).unwrap();
    }
    assert_eq!(left, 0);
}

#[tokio::test]
async fn when_all_has_been_dropped_the_offsets_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let mut limited = Topic::new(name("t"));
    limited.retention.max_age = Some(Duration::from_millis(200));
    broker.put_topic(limited, Expect::Any).await.unwrap();
    let t: TopicName = name("t");
    broker.publish(&t, batch(["a", "b", "c"]), Default::default()).await.unwrap();
    soon(async {
        while broker.topic(&t).await.unwrap().head < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(broker.topic(&t).await.unwrap().bytes, 0);
    broker.close().await;
    let broker = open(&folder);
    let info = broker.topic(&t).await.unwrap();
    assert_eq!((info.head, info.tail, info.bytes), (3, 3, 0));
    assert_eq!(broker.publish(&t, batch(["d"]), Default::default()).await.unwrap().first, 3);
    let page = broker.read(&t, StartAt::Time(Timestamp(0)), 10, Duration::ZERO).await.unwrap();
    assert_eq!((page.messages.len(), page.messages[0].offset), (1, 3));
}
