//! Watching: every change, in order, from a revision on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Harness;
use super::steps::{close, soon, topic};
use crate::{Change, Entry, ErrorCode, Expect, SharedBroker, Watch};

async fn put(broker: &SharedBroker, key: &str, value: &str) -> u64 {
    broker.put(key, value.to_owned().into(), Expect::Any, None).await.unwrap()
}

async fn next(watch: &mut Watch) -> Change {
    soon("a change", watch.next()).await.expect("the watch goes on")
}

fn put_of(key: &str, value: &str, revision: u64) -> Change {
    Change::Put(Entry { key: key.into(), value: value.to_owned().into(), revision })
}

pub(super) async fn what_was_done_before_comes_first(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let first = put(&broker, "s/a", "1").await;
    let second = put(&broker, "s/b", "2").await;
    let third = broker.delete("s/a", Expect::Any).await.unwrap();
    let mut watch = broker.watch("s/", first).await.unwrap();
    assert_eq!(next(&mut watch).await, put_of("s/b", "2", second));
    assert_eq!(next(&mut watch).await, Change::Deleted { key: "s/a".into(), revision: third });
    put(&broker, "other", "x").await;
    let fourth = put(&broker, "s/c", "3").await;
    assert_eq!(next(&mut watch).await, put_of("s/c", "3", fourth), "only what begins with the prefix");
    // What was refused, and what changed nothing, is no change.
    broker.put("s/c", "x".into(), Expect::Absent, None).await.unwrap_err();
    let fifth = put(&broker, "s/d", "4").await;
    assert_eq!(next(&mut watch).await, put_of("s/d", "4", fifth));
}

pub(super) async fn a_list_and_a_watch_miss_nothing(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    const WRITES: usize = 200;
    let writer = tokio::spawn({
        let broker = broker.clone();
        async move {
            for n in 0..WRITES {
                let key = format!("s/{}", n % 17);
                if n % 5 == 4 {
                    broker.delete(&key, Expect::Any).await.unwrap();
                } else {
                    put(&broker, &key, &n.to_string()).await;
                }
            }
            put(&broker, "s/end", "end").await
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    let (entries, as_of) = broker.list("s/").await.unwrap();
    let mut copy: BTreeMap<String, Entry> = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    let mut watch = broker.watch("s/", as_of).await.unwrap();
    let mut last = as_of;
    while !copy.contains_key("s/end") {
        let change = next(&mut watch).await;
        assert!(change.revision() > last, "backwards or twice: {change:?} after {last}");
        last = change.revision();
        match change {
            Change::Put(entry) => copy.insert(entry.key.clone(), entry),
            Change::Deleted { key, .. } => copy.remove(&key),
        };
    }
    assert_eq!(writer.await.unwrap(), last);
    let (entries, _) = broker.list("s/").await.unwrap();
    assert_eq!(copy.into_values().collect::<Vec<_>>(), entries);
}

pub(super) async fn all_watchers_see_the_same(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let start = put(&broker, "x", "0").await;
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(broker.watch("", start).await.unwrap());
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let broker = broker.clone();
        writers.spawn(async move {
            for n in 0..15 {
                put(&broker, &format!("{writer}"), &n.to_string()).await;
            }
        });
    }
    soon("all writers", writers.join_all()).await;
    let mut seen = Vec::new();
    for watch in &mut watches {
        let mut changes = Vec::new();
        for _ in 0..45 {
            changes.push(next(watch).await);
        }
        assert!(changes.is_sorted_by_key(Change::revision));
        seen.push(changes);
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

pub(super) async fn definitions_can_be_watched(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (_, now) = broker.list("topics/").await.unwrap();
    let mut watch = broker.watch("topics/", now).await.unwrap();
    let orders = topic(&broker, "orders").await;
    assert_eq!(next(&mut watch).await.key(), "topics/orders");
    broker.delete_topic(&orders).await.unwrap();
    assert!(matches!(next(&mut watch).await, Change::Deleted { key, .. } if key == "topics/orders"));
}

pub(super) async fn a_slow_watcher_loses_its_watch_and_not_a_change(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let start = put(&broker, "x", "0").await;
    let mut watch = broker.watch("", start).await.unwrap();
    // Far more than anybody would keep for one watcher that does not read, in as many writes as a case can do.
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let broker = broker.clone();
        writers.spawn(async move {
            for n in 0..64 {
                put(&broker, &format!("{writer}"), &n.to_string()).await;
            }
        });
    }
    soon("all writers", writers.join_all()).await;
    let (mut seen, mut last) = (0, start);
    // Either it has every change, or it ends; it never goes on after a gap.
    while seen < 64 * 64 {
        let Some(change) = soon("a change or the end", watch.next()).await else { break };
        assert!(change.revision() > last);
        last = change.revision();
        seen += 1;
        if let Change::Put(entry) = change {
            let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            assert!(n < 64, "{entry:?}");
        }
    }
    if seen < 64 * 64 {
        let rest = soon("the rest", broker.watch("", last)).await;
        match rest {
            Ok(mut rest) => assert!(next(&mut rest).await.revision() > last),
            Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
        }
    }
}

pub(super) async fn what_is_no_longer_known_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut expected = Vec::new();
    for n in 0..30 {
        expected.push(put(&broker, &format!("k{}", n % 3), "v").await);
    }
    close(broker).await;
    let broker = harness.reopen().await;
    match broker.watch("k", expected[0] - 1).await {
        // All of them, or none: a watch with holes would leave a follower wrong for ever.
        Ok(mut watch) => {
            for revision in expected {
                assert_eq!(next(&mut watch).await.revision(), revision);
            }
        }
        Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
    }
    let (entries, as_of) = broker.list("k").await.unwrap();
    assert_eq!(entries.len(), 3);
    let mut watch = broker.watch("k", as_of).await.expect("from a list on, always");
    let revision = put(&broker, "k9", "new").await;
    assert_eq!(next(&mut watch).await, put_of("k9", "new", revision));
}
