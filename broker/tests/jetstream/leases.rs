//! Leases: kept by whoever keeps them alive, whatever happens to the nats-servers, and gone with whoever is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{Broker, ErrorCode, Expect, Store};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, leader, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_kept_alive_outlives_its_nats_servers() {
    let mut nats = Nats::cluster(3).await;
    let (holder, other) = (open(&nats.url()).await, open(&nats.url()).await);
    let lease = holder.grant(Duration::from_secs(1)).await.unwrap();
    holder.put("held", "v".into(), Expect::Absent, Some(lease)).await.unwrap();
    let (_, now) = other.list("held").await.unwrap();
    let mut watch = other.watch("held", now).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let keeping = tokio::spawn({
        let (holder, stop) = (holder.clone(), stop.clone());
        async move {
            let (mut renewed, mut longest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                match holder.keep_alive(lease).await {
                    Ok(()) => renewed += 1,
                    Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
                }
                longest = longest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            (renewed, longest)
        }
    });
    for _ in 0..3 {
        let node = leader(&nats).await;
        nats.kill(node).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        nats.restart(node).await;
    }
    let node = leader(&nats).await;
    nats.halt(node).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    nats.resume(node).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (renewed, longest) = timeout(PATIENCE, keeping).await.unwrap().unwrap();
    eprintln!("renewed {renewed} times, the longest took {longest:?}");
    assert!(watch.0.try_recv().is_err(), "its key was taken away");
    // Nobody keeps it alive any more.
    let gone = timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(matches!(gone, Some(crossdock_topics::Change::Deleted { key, .. }) if key == "held"));
    for broker in [holder, other] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_holder_cut_off_it_goes_and_the_holder_is_told() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (cut_off, other) = (open(&line.url()).await, open(&nats.url()).await);
    let ttl = Duration::from_millis(500);
    let lease = cut_off.grant(ttl).await.unwrap();
    cut_off.put("held", "v".into(), Expect::Absent, Some(lease)).await.unwrap();
    line.cut();
    eventually("its key to go", PATIENCE, || async {
        other.get("held").await.unwrap().is_none().then_some(())
    })
    .await;
    line.mend();
    let error = eventually("an answer", PATIENCE, || async {
        cut_off.keep_alive(lease).await.err().filter(|error| error.code != ErrorCode::Unavailable)
    })
    .await;
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    for broker in [cut_off, other] {
        broker.close().await;
    }
}

/// Whoever opens an engine reads a store in which leases are renewed at every moment: it meets their keys before it meets
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_are_kept_alive_outlive_others_who_come() {
    let nats = Nats::start(1, "", "").await;
    let holder = open(&nats.url()).await;
    let mut leases = Vec::new();
    // So many that reading them takes as long as renewing some of them.
    for number in 0..500 {
        let lease = holder.grant(PATIENCE).await.unwrap();
        holder.put(&format!("held/{number}"), "v".into(), Expect::Absent, Some(lease)).await.unwrap();
        leases.push(lease);
    }
    let (held, now) = holder.list("held/").await.unwrap();
    assert_eq!(held.len(), leases.len());
    let mut watch = holder.watch("held/", now).await.unwrap();
    let keeping: Vec<_> = leases
        .into_iter()
        .map(|lease| {
            let holder = holder.clone();
            tokio::spawn(async move {
                loop {
                    holder.keep_alive(lease).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let other = open(&nats.url()).await;
        assert_eq!(other.list("held/").await.unwrap().0.len(), keeping.len());
        other.close().await;
    }
    for keeping in keeping {
        keeping.abort();
        assert!(keeping.await.unwrap_err().is_cancelled(), "a lease was lost");
    }
    assert!(watch.0.try_recv().is_err(), "a key was taken away");
    holder.close().await;
}
