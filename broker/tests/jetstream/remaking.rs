//! Topics that are deleted by one engine while others make them anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossdock_broker::JetStream;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Broker, ErrorCode, Expect, Fetch, Log, StartAt, Store, Subscription, Subscriptions, Topic,
};

use super::{PATIENCE, open, orders, publish};

/// What another engine finds at an offset.
async fn read(broker: &JetStream, offset: u64) -> Option<Bytes> {
    let page = broker.read(&orders(), StartAt::Offset(offset), 1, Duration::ZERO).await.ok()?;
    page.messages.first().filter(|message| message.offset == offset).map(|message| message.record.payload())
}

/// Makes the topic until it is another one than that of a revision.
async fn make(broker: &JetStream, before: u64) -> u64 {
    eventually("the topic to be made", PATIENCE, || async {
        for _ in 0..100 {
            match broker.put_topic(Topic::new(orders()), Expect::Any).await {
                Ok(revision) if revision > before => return Some(revision),
                Ok(_) => {}
                Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_in_a_topic_that_was_made_anew_stays_reachable() {
    let nats = Nats::single().await;
    let url = nats.url() + "?sync=always";
    let (one, two, three) = (open(&url).await, open(&url).await, open(&url).await);
    let mut revision = make(&one, 0).await;
    for round in 0..40 {
        // Sometimes there was something in it.
        if round % 2 == 0 {
            publish(&one, "old").await;
        }
        let deleting = tokio::spawn({
            let one: Arc<JetStream> = one.clone();
            async move { one.delete_topic(&orders()).await }
        });
        let (made, other) = tokio::join!(make(&two, revision), make(&three, revision));
        assert_eq!(made, other, "there is one topic");
        revision = made;
        let text = format!("new {round}");
        let offset = publish(&two, &text).await;
        deleting.await.unwrap().unwrap();
        for broker in [&one, &two, &three] {
            let found = eventually("what was stored to be there", PATIENCE, || read(broker, offset)).await;
            assert_eq!(found, text);
        }
    }
    for broker in [one, two, three] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_whose_deletion_was_left_half_done_leads_to_a_new_stream() {
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    make(&broker, 0).await;
    for text in ["one", "two", "three"] {
        publish(&broker, text).await;
    }
    let pattern = vec!["*".parse().unwrap()];
    let mut subscription = Subscription::new("s".parse().unwrap(), pattern);
    subscription.start = StartAt::End;
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    let revision = broker.get("topics/orders").await.unwrap().unwrap().revision;
    // As one leaves it that goes away before it has taken the place away: marked, and the definition gone.
    let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let bucket = context.get_stream("KV_crossdock-store").await.unwrap();
    let subject = "$KV.crossdock-store.own.topics/orders";
    let place = bucket.get_last_raw_message_by_subject(subject).await.unwrap();
    let mut place: serde_json::Value = serde_json::from_slice(&place.payload).unwrap();
    place["goes"] = true.into();
    context.publish(subject, place.to_string().into()).await.unwrap().await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let gone = context.publish_with_headers("$KV.crossdock-store.topics/orders", headers, Bytes::new());
    gone.await.unwrap().await.unwrap();
    context.delete_stream("crossdock-t-1").await.unwrap();
    make(&broker, revision).await;
    publish(&broker, "new").await;
    let fetch = Fetch::new(None, 10, Duration::from_secs(5));
    let delivered = broker.fetch(&"s".parse().unwrap(), fetch).await.unwrap();
    let payloads: Vec<_> = delivered.iter().map(|delivery| delivery.record.payload()).collect();
    assert_eq!(payloads, ["new"], "a subscription that matches it takes it from its start");
    broker.close().await;
}
