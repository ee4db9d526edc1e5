//! What NATS has no room for: messages that are too large for it, and an account that is full.

use std::time::Duration;

use crossdock_broker::JetStreamOptions;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{Batch, Broker, ErrorCode, Expect, Log, Message, PublishOptions, StartAt, Topic};

use super::{PATIENCE, open, orders};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_nats_cannot_take_is_refused_alone() {
    // As nats-server is by default: 1 MB with headers, which is what a topic takes by default without them.
    let nats = Nats::start(3, "", "").await;
    let broker = open(&nats.url()).await;
    broker.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    let publish =
        |message: Message| broker.publish(&orders(), Batch::of(&message).unwrap(), PublishOptions::default());
    let mut with_headers = Message::new(vec![0; 1_040_000]);
    with_headers.headers = vec![("note".into(), "\n".repeat(10_000).into())];
    // All wait at the same time, and go to NATS in one piece.
    let mut small: Vec<_> = (0..50).map(|n| publish(Message::new(n.to_string()))).collect();
    let large = publish(Message::new(vec![0; 1 << 20]));
    small.extend((50..100).map(|n| publish(Message::new(n.to_string()))));
    let headers = publish(with_headers);
    small.extend((100..150).map(|n| publish(Message::new(n.to_string()))));
    for refused in [large, headers] {
        assert_eq!(refused.await.unwrap_err().code, ErrorCode::TooLarge);
    }
    for published in small {
        tokio::time::timeout(PATIENCE, published).await.unwrap().unwrap();
    }
    let fits = publish(Message::new(vec![0; 1_000_000]));
    tokio::time::timeout(PATIENCE, fits).await.unwrap().unwrap();
    assert_eq!(broker.topic(&orders()).await.unwrap().tail, 151);
    broker.close().await;
}

const SMALL_ACCOUNT: &str = r#"
accounts {
  CROSSDOCK { jetstream: { max_file: 8MB }, users: [ { user: crossdock, password: "s3cret" } ] }
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_makes_room_in_an_account_that_is_full() {
    let nats = Nats::start(1, SMALL_ACCOUNT, "").await;
    let url = nats.url().replace("nats://", "nats://crossdock:s3cret@") + "?sync=always";
    let mut options = JetStreamOptions::new(&url).unwrap();
    options.patience = Duration::from_secs(2);
    let broker = crossdock_broker::JetStream::open(options).await.unwrap();
    let mut topic = Topic::new(orders());
    // Longer than anybody can hold a lease that cannot be renewed.
    topic.retention.max_age = Some(Duration::from_secs(15));
    broker.put_topic(topic, Expect::Absent).await.unwrap();
    let publish = || {
        let message = Message::new(vec![0; 500_000]);
        broker.publish(&orders(), Batch::of(&message).unwrap(), PublishOptions::default())
    };
    for _ in 0..6 {
        publish().await.unwrap();
    }
    // Something else takes all the rest.
    let login = async_nats::ConnectOptions::new().user_and_password("crossdock".into(), "s3cret".into());
    let context = async_nats::jetstream::new(login.connect(nats.url()).await.unwrap());
    let stream = async_nats::jetstream::stream::Config {
        name: "other".into(),
        subjects: vec!["other".into()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    for size in [500_000, 50_000, 5_000, 500, 50, 1] {
        while context.publish("other", vec![0; size].into()).await.unwrap().await.is_ok() {}
    }
    eventually("health to say so", PATIENCE, || async {
        let health = broker.health();
        (!health.ready && format!("{health:?}").contains("no room")).then_some(())
    })
    .await;
    eventually("room again", PATIENCE, || async { publish().await.ok() }).await;
    eventually("health to say so", PATIENCE, || async { broker.health().ready.then_some(()) }).await;
    assert!(broker.read(&orders(), StartAt::Start, 1, Duration::ZERO).await.unwrap().messages[0].offset > 0);
    broker.close().await;
}
