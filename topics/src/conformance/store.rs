//! The store: revisions, compare-and-set, lists.

use std::sync::Arc;

use bytes::Bytes;

use super::Harness;
use super::steps::{close, refused, soon, subscription, topic};
use crate::{Entry, ErrorCode, Expect, SharedBroker};

async fn put(broker: &SharedBroker, key: &str, value: &str) -> u64 {
    broker.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, None).await.unwrap()
}

fn entry(key: &str, value: &str, revision: u64) -> Entry {
    Entry { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), revision }
}

pub(super) async fn a_value_is_there_as_it_was_written(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    assert_eq!(broker.get("a").await.unwrap(), None);
    let first = put(&broker, "a", "1").await;
    let second = put(&broker, "b", "").await;
    let third = put(&broker, "a", "2").await;
    assert!(first < second && second < third);
    assert_eq!(broker.get("a").await.unwrap(), Some(entry("a", "2", third)));
    assert_eq!(broker.get("b").await.unwrap(), Some(entry("b", "", second)));
    let fourth = broker.delete("a", Expect::Any).await.unwrap();
    assert!(fourth > third);
    assert_eq!(broker.get("a").await.unwrap(), None);
    broker.delete("a", Expect::Any).await.expect("deleting what is not there succeeds");
}

pub(super) async fn it_survives_kills_and_restarts(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let kept = put(&broker, "kept", "1").await;
    put(&broker, "gone", "1").await;
    let last = broker.delete("gone", Expect::Any).await.unwrap();
    let check = async |broker: SharedBroker| {
        assert_eq!(broker.get("kept").await.unwrap(), Some(entry("kept", "1", kept)));
        assert_eq!(broker.get("gone").await.unwrap(), None);
        assert!(put(&broker, "new", "1").await > last, "revisions go on growing");
        close(broker).await;
    };
    if let Some(after) = harness.reopen_killed().await {
        check(after).await;
    }
    close(broker).await;
    check(harness.reopen().await).await;
}

pub(super) async fn a_write_can_expect_what_is_there(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let put = async |value: &'static str, expect| broker.put("k", value.into(), expect, None).await;
    refused(put("x", Expect::At(1)).await, ErrorCode::Conflict);
    let first = put("1", Expect::Absent).await.unwrap();
    let error = refused(put("x", Expect::Absent).await, ErrorCode::Conflict);
    assert!(error.to_string().contains(&first.to_string()), "the error names the revision: {error}");
    let second = put("2", Expect::At(first)).await.unwrap();
    refused(put("x", Expect::At(first)).await, ErrorCode::Conflict);
    assert_eq!(broker.get("k").await.unwrap(), Some(entry("k", "2", second)));
    refused(broker.delete("k", Expect::At(first)).await, ErrorCode::Conflict);
    refused(broker.delete("k", Expect::Absent).await, ErrorCode::Conflict);
    broker.delete("k", Expect::At(second)).await.unwrap();
    refused(broker.delete("k", Expect::At(second)).await, ErrorCode::Conflict);
    put("3", Expect::Absent).await.unwrap();
}

pub(super) async fn of_many_who_expect_the_same_one_wins(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    put(&broker, "counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let broker = broker.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                loop {
                    let Entry { value, revision, .. } = broker.get("counter").await.unwrap().unwrap();
                    let next = std::str::from_utf8(&value).unwrap().parse::<u32>().unwrap() + 1;
                    let expect = Expect::At(revision);
                    match broker.put("counter", next.to_string().into(), expect, None).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
                    }
                }
            }
        });
    }
    soon("all writers", tasks.join_all()).await;
    assert_eq!(broker.get("counter").await.unwrap().unwrap().value, "80");
}

pub(super) async fn a_list_is_ordered_and_of_one_moment(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (entries, empty) = broker.list("services/").await.unwrap();
    assert!(entries.is_empty());
    for key in ["services/b", "services/a", "servicesX", "service", "services/a/b", "services/B"] {
        put(&broker, key, key).await;
    }
    let last = broker.delete("service", Expect::Any).await.unwrap();
    let (entries, revision) = broker.list("services/").await.unwrap();
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["services/B", "services/a", "services/a/b", "services/b"]);
    assert!(revision >= last && revision > empty);
    for entry in &entries {
        assert_eq!(broker.get(&entry.key).await.unwrap().as_ref(), Some(entry));
    }
    assert_eq!(broker.list("").await.unwrap().0.len(), 5);
}

pub(super) async fn keys_and_values_have_limits(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    for bad in [String::new(), "a\nb".into(), "ü".into(), "k".repeat(513)] {
        let answer = broker.put(&bad, "v".into(), Expect::Any, None).await;
        refused(answer, ErrorCode::InvalidArgument);
    }
    for good in ["a".to_owned(), "!a/b_c-d~".into(), "k".repeat(512)] {
        put(&broker, &good, "v").await;
    }
    let most = Bytes::from(vec![7; 16 << 20]);
    broker.put("large", most.clone(), Expect::Any, None).await.unwrap();
    assert_eq!(broker.get("large").await.unwrap().unwrap().value, most);
    let more = Bytes::from(vec![7; (16 << 20) + 1]);
    refused(broker.put("larger", more, Expect::Any, None).await, ErrorCode::TooLarge);
    assert_eq!(broker.get("larger").await.unwrap(), None);
}

pub(super) async fn definitions_are_read_here_and_written_elsewhere(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    subscription(&broker, "sub", &["orders"]).await;
    let (before, _) = broker.list("").await.unwrap();
    let keys: Vec<&str> = before.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["subscriptions/sub", "topics/orders"]);
    let orders = broker.topic(&super::steps::name("orders")).await.unwrap();
    assert_eq!(before[1].revision, orders.revision);
    for key in ["topics/orders", "topics/new", "subscriptions/sub"] {
        let answer = broker.put(key, "{}".into(), Expect::Any, None).await;
        assert!(answer.is_err(), "{key} was written through the store");
        assert!(broker.delete(key, Expect::Any).await.is_err(), "{key} was deleted through the store");
    }
    assert_eq!(broker.list("").await.unwrap().0, before);
}
