//! What another engine has just made: it is there for this one too, from the moment on at which that one was told that it
//! is, however late this one hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossdock_broker::JetStream;
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Error, ErrorCode, Expect, Fetch, Log, Message, PublishOptions, Published, StartAt,
    Subscription, Subscriptions, Topic, TopicName,
};
use futures::StreamExt;

use super::{PATIENCE, open};

fn name(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn publish(broker: &JetStream, topic: &str, texts: &[String]) -> Published {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(&Message::new(text.clone())).unwrap());
    broker.publish(&name(topic), batch, PublishOptions::default())
}

/// Asks until there is an answer. That there is no such thing is none.
async fn answered<T>(what: &str, ask: impl AsyncFn() -> Result<T, Error>) -> T {
    eventually(what, PATIENCE, || async {
        match ask().await {
            Ok(answer) => Some(answer),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Unavailable, "{what}: {error}");
                assert!(error.hint.is_some(), "{what}: {error}");
                None
            }
        }
    })
    .await
}

/// Two engines, of which the second one hears nothing while its line is cut.
async fn two() -> (Nats, Line, Arc<JetStream>, Arc<JetStream>) {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (one, two) = (open(&(nats.url() + "?sync=always")).await, open(&(line.url() + "?sync=always")).await);
    (nats, line, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_to_a_topic_made_elsewhere_is_stored_in_the_order_of_the_calls() {
    let (_nats, line, one, two) = two().await;
    line.cut();
    one.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    let mut told = Vec::new();
    for n in 0..300 {
        let texts: Vec<String> = (0..1 + n % 3).map(|m| format!("{n}.{m}")).collect();
        told.push((publish(&two, "orders", &texts), texts));
        if n == 150 {
            line.mend();
        }
        if n > 150 {
            // Some of these come while it is looked for, some when it is known.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut expected = Vec::new();
    for (published, texts) in told {
        let receipts = published.await.unwrap();
        assert_eq!(receipts.first, expected.len() as u64, "in the order of the calls");
        expected.extend(texts);
    }
    let mut found = Vec::new();
    while found.len() < expected.len() {
        let page =
            one.read(&name("orders"), StartAt::Offset(found.len() as u64), 1000, PATIENCE).await.unwrap();
        found.extend(page.messages.iter().map(|m| String::from_utf8(m.record.payload().to_vec()).unwrap()));
    }
    assert_eq!(found, expected);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_another_engine_has_made_is_said_not_to_be_there() {
    let (_nats, line, one, two) = two().await;
    line.cut();
    one.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    let subscription = Subscription::new("made".parse().unwrap(), vec!["orders".parse().unwrap()]);
    one.put_subscription(subscription, Expect::Absent).await.unwrap();
    publish(&one, "orders", &["first".into()]).await.unwrap();
    let mended = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        line.mend();
        line
    });
    let two = &two;
    tokio::join!(
        async {
            let info = answered("describing it", async || two.topic(&name("orders")).await).await;
            assert_eq!(info.topic.name, name("orders"));
        },
        async {
            let read = async || two.read(&name("orders"), StartAt::Start, 10, Duration::ZERO).await;
            assert_eq!(answered("reading it", read).await.messages.len(), 1);
        },
        async {
            let to = vec!["orders".parse().unwrap()];
            let subscription = Subscription::new("more".parse().unwrap(), to);
            answered("subscribing to it", async || {
                two.put_subscription(subscription.clone(), Expect::Any).await
            })
            .await;
        },
        async { drop(answered("explaining it", async || two.explain(&name("orders"), 0).await).await) },
        async {
            let made = "made".parse().unwrap();
            assert_eq!(
                answered("describing what reads it", async || two.subscription(&made).await)
                    .await
                    .topics
                    .len(),
                1
            );
            let fetched =
                answered("taking from it", async || two.fetch(&made, Fetch::new(None, 1, PATIENCE)).await)
                    .await;
            assert_eq!(fetched.len(), 1);
        },
    );
    assert_eq!(answered("purging it", async || two.purge(&name("orders"), None).await).await, 1);
    let _line = mended.await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_elsewhere_is_the_one_that_is_meant() {
    let (_nats, line, one, two) = two().await;
    one.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    answered("the first one", async || publish(&two, "orders", &["old".into()]).await).await;
    line.cut();
    one.delete_topic(&name("orders")).await.unwrap();
    one.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    line.mend();
    let receipts = answered("the second one", async || publish(&two, "orders", &["new".into()]).await).await;
    assert_eq!(receipts.first, 0);
    let info = answered("describing it", async || two.topic(&name("orders")).await).await;
    assert_eq!(info.tail, 1);
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_for_a_topic_that_is_not_there_costs_few_questions_and_bounded_room() {
    const MOST: usize = 10_000;
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    // Whoever asks how far the store has come.
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut asked = client.subscribe("$JS.API.STREAM.INFO.KV_crossdock-store").await.unwrap();
    client.flush().await.unwrap();
    let questions = Arc::new(AtomicUsize::new(0));
    let counted = questions.clone();
    let counting = tokio::spawn(async move {
        while asked.next().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let flood: Vec<Published> = (0..2 * MOST).map(|n| publish(&broker, "nobody", &[n.to_string()])).collect();
    let mut refused = [0, 0];
    for published in flood {
        let error = published.await.unwrap_err();
        assert!(error.hint.is_some(), "{error}");
        match error.code {
            ErrorCode::NotFound => refused[0] += 1,
            ErrorCode::Overloaded => refused[1] += 1,
            _ => panic!("{error}"),
        }
    }
    assert!(refused[0] > 0, "{refused:?}");
    let questions = questions.load(Ordering::Relaxed);
    assert!(questions < MOST / 10, "{questions} questions");
    // There is room again for others.
    broker.put_topic(Topic::new(name("orders")), Expect::Absent).await.unwrap();
    publish(&broker, "orders", &["fits".into()]).await.unwrap();
    counting.abort();
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_topic_takes_no_more_room_than_what_waits_for_its_receipt() {
    let (_nats, line, one, two) = two().await;
    line.cut();
    let large = vec!["x".repeat(1 << 20)];
    let waiting: Vec<Published> = (0..100).map(|_| publish(&two, "nobody", &large)).collect();
    line.mend();
    let mut overloaded = 0;
    for published in waiting {
        let error = published.await.unwrap_err();
        overloaded += usize::from(error.code == ErrorCode::Overloaded);
    }
    assert!((30..60).contains(&overloaded), "64 MiB may wait: {overloaded} of 100 did not");
    one.close().await;
    two.close().await;
}
