//! Large values of the store, which lie in an object store beside it, when they cannot be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{Broker, ErrorCode, Expect, Store};
use futures::StreamExt;
use serde_json::json;

use super::behind::{Answers, stored};
use super::{PATIENCE, open};

const OBJECTS: &str = "OBJ_crossdock-objects";

fn large(byte: u8) -> Bytes {
    vec![byte; 600_000].into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_a_server_does_not_know_yet_is_waited_for() {
    let nats = Nats::single().await;
    let (one, two) = (open(&nats.url()).await, open(&nats.url()).await);
    let before = one.put("services/a", large(1), Expect::Absent, None).await.unwrap();
    eventually("the other one to have it", PATIENCE, || async { two.get("services/a").await.unwrap() }).await;
    // From now on a server answers that knows of no object, until it has caught up.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client.clone());
    let mut config = context.get_stream(OBJECTS).await.unwrap().cached_info().config.clone();
    config.allow_direct = false;
    context.update_stream(config).await.unwrap();
    let mut asked = client.subscribe(format!("$JS.API.DIRECT.GET.{OBJECTS}.>")).await.unwrap();
    client.request("$JS.API.INFO", "".into()).await.unwrap();
    let (caught_up, missed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (is_there, counted) = (caught_up.clone(), missed.clone());
    let mut answers = Answers::open(nats.url().trim_start_matches("nats://")).await;
    let answering = tokio::spawn(async move {
        let prefix = format!("$JS.API.DIRECT.GET.{OBJECTS}.");
        while let Some(message) = asked.next().await {
            let (reply, subject) = (message.reply.unwrap(), message.subject.strip_prefix(&prefix).unwrap());
            let found = stored(&client, OBJECTS, &json!({"last_by_subj": subject})).await;
            match found {
                Some(found) if is_there.load(Ordering::Relaxed) => answers.message(&reply, &found, 0).await,
                found => {
                    counted.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
                    answers.status(&reply, "404 Message Not Found").await;
                }
            }
        }
    });
    let putting =
        tokio::spawn(async move { one.put("services/a", large(2), Expect::At(before), None).await });
    eventually("both to have missed it", PATIENCE, || async {
        (missed.load(Ordering::Relaxed) > 3).then_some(())
    })
    .await;
    caught_up.store(true, Ordering::Relaxed);
    let revision = putting.await.unwrap().unwrap();
    let found = two.get("services/a").await.unwrap().unwrap();
    assert_eq!((found.revision, found.value), (revision, large(2)));
    two.put("services/a", Bytes::from_static(b"small"), Expect::At(revision), None).await.unwrap();
    answering.abort();
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_lost_stops_nothing_else() {
    let nats = Nats::single().await;
    let one = open(&nats.url()).await;
    let revision = one.put("services/a", large(1), Expect::Absent, None).await.unwrap();
    one.put("other", Bytes::from_static(b"1"), Expect::Absent, None).await.unwrap();
    one.close().await;
    let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    context.get_stream(OBJECTS).await.unwrap().purge().await.unwrap();
    let two = tokio::time::timeout(PATIENCE, open(&nats.url())).await.unwrap();
    assert_eq!(two.get("other").await.unwrap().unwrap().value, "1");
    two.put("another", Bytes::from_static(b"2"), Expect::Absent, None).await.unwrap();
    let error = two.get("services/a").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    assert_eq!(two.list("services/").await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(two.list("o").await.unwrap().0.len(), 1);
    two.put("services/a", large(3), Expect::At(revision), None).await.unwrap();
    assert_eq!(two.get("services/a").await.unwrap().unwrap().value, large(3));
    assert_eq!(two.list("services/").await.unwrap().0.len(), 1);
    let lease = two.grant(Duration::from_secs(5)).await.unwrap();
    two.revoke(lease).await.unwrap();
    two.close().await;
}
