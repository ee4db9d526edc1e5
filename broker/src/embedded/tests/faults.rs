//! A thread that panics is a failure that everybody is told, and never a wait without end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crossdock_topics::{
    Broker, Clock, ErrorCode, Expect, Fetch, Log, StartAt, Store, Subscription, Subscriptions, SystemClock,
    Timestamp, Topic,
};

use super::*;

/// A clock that is broken for the writer, once it is told to.
#[derive(Default)]
struct BrokenClock(AtomicBool);

impl Clock for BrokenClock {
    fn now(&self) -> Timestamp {
        let on_writer = std::thread::current().name() == Some("broker-writer");
        assert!(!(on_writer && self.0.load(Ordering::SeqCst)), "the clock is broken");
        SystemClock.now()
    }
}

async fn everything_fails(broker: &Arc<Embedded>) {
    let publish = soon(broker.publish(&name("t"), batch(["x"]), Default::default())).await;
    assert_eq!(publish.unwrap_err().code, ErrorCode::Unavailable);
    let put = soon(broker.put("a", "1".into(), Expect::Any, None)).await.unwrap_err();
    assert!(put.code == ErrorCode::Unavailable && put.message.contains("fault"), "{put:?}");
    let made = soon(broker.put_topic(Topic::new(name("u")), Expect::Any)).await.unwrap_err();
    assert_eq!(made.code, ErrorCode::Unavailable);
    assert!(!broker.health().ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_fails_the_broker_and_not_its_callers_patience() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(BrokenClock::default());
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::new(folder.path()) };
    let broker = Embedded::open(options).unwrap();
    let t = topic(&broker, "t").await;
    subscribe(&broker, Subscription::new(name("s"), vec![name("t")])).await;
    soon(broker.publish(&t, batch(["kept"]), Default::default())).await.unwrap();
    let taken = broker.fetch(&name("s"), Fetch::new(None, 1, Duration::ZERO)).await.unwrap();
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.fetch(&name("s"), Fetch::new(None, 1, Duration::from_secs(60))).await }
    });

    clock.0.store(true, Ordering::SeqCst);
    let lost = soon(broker.publish(&t, batch(["lost"]), Default::default())).await;
    assert_eq!(lost.unwrap_err().code, ErrorCode::Unavailable);
    everything_fails(&broker).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap_err().code, ErrorCode::Unavailable);
    let settle = crossdock_topics::Settlement::ack(taken.iter().map(|delivery| delivery.id));
    assert_eq!(soon(broker.settle(&name("s"), settle)).await.unwrap_err().code, ErrorCode::Unavailable);
    soon(broker.close()).await;

    let again = open(&folder);
    let page = again.read(&t, StartAt::Start, 10, Duration::ZERO).await.unwrap();
    assert_eq!(page.messages[0].record.payload(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syncer_that_panics_fails_the_broker_too() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("whoever is woken panics");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    let waker = Waker::from(Arc::new(Panics));
    let mut published = broker.publish(&t, batch(["kept"]), Default::default());
    assert!(pin!(&mut published).poll(&mut Context::from_waker(&waker)).is_pending());
    soon(async {
        while broker.health().ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    everything_fails(&broker).await;
    soon(broker.close()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_closes_second_waits_too_and_the_folder_is_free_then() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    let mut published = Vec::new();
    for _ in 0..200 {
        published.push(broker.publish(&t, batch(["x".repeat(10_000)]), Default::default()));
    }
    let first = tokio::spawn({
        let broker = broker.clone();
        async move { broker.close().await }
    });
    soon(broker.close()).await;
    drop(open(&folder));
    soon(first).await.unwrap();
    for published in published {
        soon(published).await.unwrap();
    }
}

#[tokio::test]
async fn a_wait_longer_than_time_itself_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    subscribe(&broker, Subscription::new(name("s"), vec![name("t")])).await;
    broker.publish(&t, batch(["x"]), Default::default()).await.unwrap();
    assert_eq!(broker.read(&t, StartAt::Start, 1, Duration::MAX).await.unwrap().messages.len(), 1);
    assert_eq!(broker.fetch(&name("s"), Fetch::new(None, 1, Duration::MAX)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_free_after_closing_even_if_somebody_was_reading() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let reading = broker.shared.database().unwrap();
    let reader = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(reading);
    });
    soon(broker.close()).await;
    drop(open(&folder));
    reader.await.unwrap();
}
