//! What one engine writes all others see, whatever happens to the nats-servers meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossdock_broker::JetStream;
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{Broker, Change, ErrorCode, Expect, Revision, Store, Watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, leader, open};

/// Writes one key after the other until it is told to stop; gives what was acknowledged, and how often it was not.
fn writing(broker: Arc<JetStream>, stop: Arc<AtomicBool>) -> JoinHandle<BTreeMap<String, Revision>> {
    tokio::spawn(async move {
        let (mut written, mut failures, mut longest) = (BTreeMap::new(), 0, Duration::ZERO);
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let key = format!("s/{n:05}");
            let began = tokio::time::Instant::now();
            let put = broker.put(&key, Bytes::from(key.clone()), Expect::Absent, None).await;
            longest = longest.max(began.elapsed());
            match put {
                Ok(revision) => drop(written.insert(key, revision)),
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                    failures += 1;
                }
            }
        }
        let revision = broker.put("s/end", "end".into(), Expect::Any, None).await.unwrap();
        written.insert("s/end".into(), revision);
        eprintln!("{} writes were acknowledged, {failures} not, the longest took {longest:?}", written.len());
        written
    })
}

/// Watches until the end; every change has a larger revision than the one before it.
fn watching(mut watch: Watch) -> JoinHandle<BTreeMap<String, Revision>> {
    tokio::spawn(async move {
        let (mut seen, mut last) = (BTreeMap::new(), 0);
        while !seen.contains_key("s/end") {
            let change =
                timeout(PATIENCE * 2, watch.next()).await.expect("a change").expect("the watch goes on");
            assert!(change.revision() > last, "{change:?} after {last}");
            last = change.revision();
            match change {
                Change::Put(entry) => drop(seen.insert(entry.key, entry.revision)),
                Change::Deleted { key, .. } => panic!("nobody deleted {key}"),
            }
        }
        seen
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_a_gap_while_nats_servers_are_killed_and_halted() {
    let mut nats = Nats::cluster(3).await;
    let (writer, watcher) = (open(&nats.url()).await, open(&nats.url()).await);
    let (_, now) = watcher.list("s/").await.unwrap();
    let watched = watching(watcher.watch("s/", now).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let written = writing(writer.clone(), stop.clone());
    let pause = Duration::from_millis(1500);
    for node in [leader(&nats).await, 0, 1, 2] {
        tokio::time::sleep(pause).await;
        nats.kill(node).await;
        tokio::time::sleep(pause).await;
        nats.restart(node).await;
    }
    let halted = leader(&nats).await;
    nats.halt(halted).await;
    tokio::time::sleep(pause * 4).await;
    nats.resume(halted).await;
    tokio::time::sleep(pause).await;
    stop.store(true, Ordering::Relaxed);
    let written = timeout(PATIENCE, written).await.unwrap().unwrap();
    let seen = timeout(PATIENCE, watched).await.unwrap().unwrap();
    for (key, revision) in &written {
        assert_eq!(seen.get(key), Some(revision), "{key}");
    }
    // What was not acknowledged may be there or not, and all agree on that.
    for broker in [&writer, &watcher] {
        let (entries, _) = broker.list("s/").await.unwrap();
        let list: BTreeMap<String, Revision> = entries.into_iter().map(|e| (e.key, e.revision)).collect();
        assert_eq!(list, seen);
    }
    let late = open(&nats.url()).await;
    assert_eq!(late.list("s/").await.unwrap().0.len(), seen.len());
    for broker in [writer, watcher, late] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_at_one_is_read_at_the_others_at_once() {
    let nats = Nats::single().await;
    let (one, two) = (open(&nats.url()).await, open(&nats.url()).await);
    let mut revision = one.put("k", "0".into(), Expect::Absent, None).await.unwrap();
    for n in 0..100 {
        let (writer, reader) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        revision = writer.put("k", n.to_string().into(), Expect::At(revision), None).await.unwrap();
        let entry = reader.get("k").await.unwrap().unwrap();
        assert_eq!((entry.revision, entry.value), (revision, Bytes::from(n.to_string())));
        if n % 10 == 0 {
            writer.delete("k", Expect::At(revision)).await.unwrap();
            assert_eq!(reader.list("").await.unwrap().0, []);
            revision = reader.put("k", "again".into(), Expect::Absent, None).await.unwrap();
        }
    }
    let large = Bytes::from(vec![5; 3 << 20]);
    one.put("large", large.clone(), Expect::Any, None).await.unwrap();
    assert_eq!(two.get("large").await.unwrap().unwrap().value, large);
    two.put("large", "small".into(), Expect::Any, None).await.unwrap();
    assert_eq!(one.get("large").await.unwrap().unwrap().value, "small");
    // The object that it was is removed.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let objects = async_nats::jetstream::new(client).get_stream("OBJ_crossdock-objects").await.unwrap();
    eventually("the object to be gone", PATIENCE, || async {
        (objects.get_info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
    for broker in [one, two] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cut_off_says_so_and_catches_up() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (near, far) = (open(&nats.url()).await, open(&line.url()).await);
    let (_, now) = far.list("").await.unwrap();
    let mut watch = far.watch("", now).await.unwrap();
    near.put("a", "1".into(), Expect::Any, None).await.unwrap();
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap().unwrap().key(), "a");
    line.cut();
    eventually("it to say so", PATIENCE, || async { (!far.health().ready).then_some(()) }).await;
    assert!(far.health().reason.is_some());
    near.put("b", "1".into(), Expect::Any, None).await.unwrap();
    near.delete("a", Expect::Any).await.unwrap();
    let error = timeout(PATIENCE, far.get("b")).await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    line.mend();
    eventually("it to be ready again", PATIENCE, || async { far.health().ready.then_some(()) }).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(timeout(PATIENCE, watch.next()).await.unwrap().unwrap());
    }
    assert!(matches!(&seen[0], Change::Put(entry) if entry.key == "b"), "{seen:?}");
    assert!(matches!(&seen[1], Change::Deleted { key, .. } if key == "a"), "{seen:?}");
    for broker in [near, far] {
        broker.close().await;
    }
}
