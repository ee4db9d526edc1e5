//! What engines leave in NATS that went away in the middle of something, and what administrators do there.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Durability, ErrorCode, Expect, Log, Message, PublishOptions, StartAt, Topic, TopicName,
};
use futures::StreamExt;

use super::{PATIENCE, open};

fn name(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn text(text: &str) -> Batch {
    Batch::of(&Message::new(text.to_owned())).unwrap()
}

async fn streams(context: &jetstream::Context) -> BTreeSet<String> {
    let names: Vec<_> = context.stream_names().collect().await;
    names.into_iter().map(Result::unwrap).filter(|name| name.starts_with("crossdock-t-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_topics_that_are_gone_are_removed_and_no_others() {
    let nats = Nats::single().await;
    let url = nats.url() + "?sync=always";
    let broker = open(&url).await;
    for topic in ["stays", "gone", "marked"] {
        broker.put_topic(Topic::new(name(topic)), Expect::Absent).await.unwrap();
        broker.publish(&name(topic), text(topic), PublishOptions::default()).await.unwrap();
    }
    broker.close().await;
    // As engines leave it that go away in the middle of a deletion: the place taken away, and not the stream; the place
    // marked, and nothing but the definition gone.
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let bucket = context.get_stream("KV_crossdock-store").await.unwrap();
    let write = async |key: &str, value: Option<String>| {
        let mut headers = async_nats::HeaderMap::new();
        if value.is_none() {
            headers.insert("KV-Operation", "DEL");
        }
        let subject = format!("$KV.crossdock-store.{key}");
        let value = Bytes::from(value.unwrap_or_default());
        context.publish_with_headers(subject, headers, value).await.unwrap().await.unwrap();
    };
    let place =
        bucket.get_last_raw_message_by_subject("$KV.crossdock-store.own.topics/marked").await.unwrap();
    let mut place: serde_json::Value = serde_json::from_slice(&place.payload).unwrap();
    place["goes"] = true.into();
    write("own.topics/marked", Some(place.to_string())).await;
    for key in ["topics/gone", "own.topics/gone", "topics/marked"] {
        write(key, None).await;
    }
    // A number that was never given: the store knows less than there is.
    let unknown = jetstream::stream::Config {
        name: "crossdock-t-9".into(),
        subjects: vec!["crossdock.t.9.>".into()],
        ..Default::default()
    };
    context.create_stream(unknown).await.unwrap();
    assert_eq!(streams(&context).await.len(), 4);
    let broker = open(&url).await;
    let left = BTreeSet::from(["crossdock-t-1".to_owned(), "crossdock-t-9".to_owned()]);
    eventually("them to be removed", PATIENCE, || async { (streams(&context).await == left).then_some(()) })
        .await;
    let page = broker.read(&name("stays"), StartAt::Start, 10, Duration::ZERO).await.unwrap();
    assert_eq!(page.messages.len(), 1);
    for topic in ["gone", "marked"] {
        broker.put_topic(Topic::new(name(topic)), Expect::Absent).await.unwrap();
        let receipts = broker.publish(&name(topic), text("new"), PublishOptions::default()).await.unwrap();
        assert_eq!(receipts.first, 0);
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_a_stream_with_fewer_replicas_say_so() {
    let nats = Nats::cluster(3).await;
    let (one, two) = (open(&nats.url()).await, open(&nats.url()).await);
    let mut topic = Topic::new(name("orders"));
    topic.durability = Durability::Os;
    one.put_topic(topic, Expect::Absent).await.unwrap();
    one.put_topic(Topic::new(name("safe")), Expect::Absent).await.unwrap();
    let publish = async |broker: &JetStream, topic: &str| {
        broker.publish(&name(topic), text("message"), PublishOptions::default()).await
    };
    assert_eq!(publish(&one, "orders").await.unwrap().durability, Durability::Quorum(3));
    let hosts: Vec<String> = nats.url().trim_start_matches("nats://").split(',').map(Into::into).collect();
    let context = jetstream::new(async_nats::connect(hosts).await.unwrap());
    for number in [1, 2] {
        let mut config =
            context.get_stream(format!("crossdock-t-{number}")).await.unwrap().cached_info().config.clone();
        config.num_replicas = 1;
        config.metadata.insert("whose".into(), "the administrator's".into());
        eventually("it to be kept by one server", PATIENCE, || async {
            context.update_stream(config.clone()).await.ok()
        })
        .await;
    }
    for broker in [&one, &two] {
        eventually("the receipt to say so", PATIENCE, || async {
            broker.topic(&name("orders")).await.ok()?;
            let receipts = publish(broker, "orders").await.ok()?;
            (receipts.durability == Durability::Os).then_some(())
        })
        .await;
        let warning = eventually("it to be said", PATIENCE, || async {
            broker.topic(&name("safe")).await.ok()?;
            broker.health().warning.filter(|warning| warning.contains("topic orders (and 1 more)"))
        });
        assert!(warning.await.contains("--replicas 3"));
        // The topic asks for more than that.
        let error = publish(broker, "safe").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error}");
        assert!(error.hint.is_some());
    }
    // What an administrator has set of a stream stays when the topic is changed.
    let mut topic = Topic::new(name("orders"));
    (topic.durability, topic.max_message_bytes) = (Durability::Os, 4096);
    topic.dedup_window = Duration::from_secs(7);
    eventually("the topic to be changed", PATIENCE, || async {
        one.put_topic(topic.clone(), Expect::Any).await.ok()
    })
    .await;
    let config = context.get_stream("crossdock-t-1").await.unwrap().cached_info().config.clone();
    assert_eq!(config.metadata.get("whose").map(String::as_str), Some("the administrator's"));
    assert_eq!((config.num_replicas, config.duplicate_window), (1, Duration::from_secs(7)));
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_can_be_closed_while_nats_is_away_and_much_waits_to_be_sent() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let mut options = JetStreamOptions::new(&(line.url() + "?sync=always")).unwrap();
    options.patience = Duration::from_secs(2);
    let broker = JetStream::open(options).await.unwrap();
    broker.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    line.cut();
    let asked: Vec<_> = (0..4000)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.read(&name("orders"), StartAt::Start, 1, Duration::ZERO).await })
        })
        .collect();
    for asked in asked {
        let answered = tokio::time::timeout(PATIENCE, asked).await.expect("an answer").unwrap();
        assert_eq!(answered.unwrap_err().code, ErrorCode::Unavailable);
    }
    tokio::time::timeout(PATIENCE, broker.close()).await.expect("it to be closed");
}
