//! Leases: keys that vanish when whoever put them does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Harness;
use super::steps::{CLOCK_SLACK, close, eventually, refused, soon};
use crate::{Change, ErrorCode, Expect, LeaseId, SharedBroker};

/// Long enough for what a case does with it first, on a slow machine too.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);

async fn put(broker: &SharedBroker, key: &str, lease: Option<LeaseId>) {
    broker.put(key, "v".into(), Expect::Any, lease).await.unwrap();
}

async fn is_there(broker: &SharedBroker, key: &str) -> bool {
    broker.get(key).await.unwrap().is_some()
}

pub(super) async fn keys_vanish_with_their_lease(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let began = Instant::now();
    let (short, long) = (broker.grant(SHORT).await.unwrap(), broker.grant(LONG).await.unwrap());
    assert_ne!(short, long);
    put(&broker, "short/a", Some(short)).await;
    put(&broker, "short/b", Some(short)).await;
    put(&broker, "long", Some(long)).await;
    put(&broker, "for-ever", None).await;
    let (_, before) = broker.list("").await.unwrap();
    let mut watch = broker.watch("short/", before).await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        match soon("a lease that runs out", watch.next()).await.expect("the watch goes on") {
            Change::Deleted { key, revision } => {
                assert!(revision > before);
                gone.push(key);
            }
            Change::Put(entry) => panic!("nobody put {entry:?}"),
        }
    }
    assert!(began.elapsed() + CLOCK_SLACK >= SHORT, "gone after {:?}", began.elapsed());
    gone.sort();
    assert_eq!(gone, ["short/a", "short/b"]);
    assert!(!is_there(&broker, "short/a").await && is_there(&broker, "long").await);
    assert!(is_there(&broker, "for-ever").await);
    refused(broker.keep_alive(short).await, ErrorCode::NotFound);
    refused(broker.put("late", "v".into(), Expect::Any, Some(short)).await, ErrorCode::NotFound);
    assert!(!is_there(&broker, "late").await);
    broker.revoke(short).await.expect("ending one that is gone succeeds");
}

pub(super) async fn a_lease_lasts_while_it_is_kept_alive(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let ttl = Duration::from_secs(3);
    let (kept, left) = (broker.grant(ttl).await.unwrap(), broker.grant(ttl).await.unwrap());
    put(&broker, "kept", Some(kept)).await;
    put(&broker, "left", Some(left)).await;
    eventually("the one that is left runs out", async || {
        broker.keep_alive(kept).await.unwrap();
        !is_there(&broker, "left").await
    })
    .await;
    assert!(is_there(&broker, "kept").await);
}

pub(super) async fn revoked_it_takes_its_keys_along(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let lease = broker.grant(LONG).await.unwrap();
    put(&broker, "a", Some(lease)).await;
    put(&broker, "b", None).await;
    broker.revoke(lease).await.unwrap();
    assert!(!is_there(&broker, "a").await && is_there(&broker, "b").await);
    refused(broker.keep_alive(lease).await, ErrorCode::NotFound);
    broker.revoke(lease).await.expect("ending one that is gone succeeds");
}

pub(super) async fn a_key_written_again_belongs_to_its_last_lease(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (first, second) = (broker.grant(LONG).await.unwrap(), broker.grant(LONG).await.unwrap());
    for key in ["handed-on", "kept", "made-anew"] {
        put(&broker, key, Some(first)).await;
    }
    put(&broker, "handed-on", Some(second)).await;
    put(&broker, "kept", None).await;
    broker.delete("made-anew", Expect::Any).await.unwrap();
    put(&broker, "made-anew", None).await;
    broker.revoke(first).await.unwrap();
    for key in ["handed-on", "kept", "made-anew"] {
        assert!(is_there(&broker, key).await, "{key} went with a lease that was no longer its own");
    }
    broker.revoke(second).await.unwrap();
    assert!(!is_there(&broker, "handed-on").await);
}

pub(super) async fn a_lease_survives_a_restart(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (long, short) = (broker.grant(LONG).await.unwrap(), broker.grant(SHORT).await.unwrap());
    put(&broker, "long", Some(long)).await;
    put(&broker, "short", Some(short)).await;
    close(broker).await;
    let broker = harness.reopen().await;
    broker.keep_alive(long).await.unwrap();
    assert!(is_there(&broker, "long").await);
    eventually("the short one runs out", async || !is_there(&broker, "short").await).await;
    refused(broker.keep_alive(short).await, ErrorCode::NotFound);
    broker.revoke(long).await.unwrap();
    assert!(!is_there(&broker, "long").await);
    let new = broker.grant(LONG).await.unwrap();
    assert!(new != long && new != short, "a lease's name is not used again");
}

pub(super) async fn its_time_has_limits(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    for bad in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(3601)] {
        refused(broker.grant(bad).await, ErrorCode::InvalidArgument);
    }
    for good in [Duration::from_millis(100), Duration::from_secs(3600)] {
        broker.grant(good).await.unwrap();
    }
}
