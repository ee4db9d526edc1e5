//! Consuming over HTTP: long poll, outcomes, streams.

#![allow(clippy::unwrap_used)]

mod sandbox;

use std::time::{Duration, Instant};

use crossdock_topics::{Expect, Log, Subscriptions, Topic};
use sandbox::{ADMIN_BASIC, Sandbox, answer, rest};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

async fn publish(sandbox: &Sandbox, count: usize) {
    let lines: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let request = sandbox.post("/topics/orders/messages").header("content-type", "application/x-ndjson");
    assert_eq!(answer(request.body(lines)).await.0, 201);
}

async fn with_orders(count: usize) -> Sandbox {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    sandbox.subscription("billing", "orders").await;
    if count > 0 {
        publish(&sandbox, count).await;
    }
    sandbox
}

async fn fetch(sandbox: &Sandbox, query: &str) -> Vec<Value> {
    let (status, body) = answer(sandbox.get(&format!("/subscriptions/billing/messages{query}"))).await;
    assert_eq!(status, 200, "{body}");
    body["messages"].as_array().unwrap().clone()
}

async fn settle(sandbox: &Sandbox, said: Value) -> Value {
    let request = sandbox.post("/subscriptions/billing/settle").body(said.to_string());
    let (status, body) = answer(request).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_shown_with_all_that_was_said_of_them() {
    let sandbox = with_orders(0).await;
    let request = sandbox.post("/topics/orders/messages").header("content-type", "application/json");
    let request = request.header("x-key", "k").header("x-message-id", "m").header("x-header-colour", "red");
    answer(request.header("x-correlation-id", "c").body("{\"a\": 1}")).await;
    answer(sandbox.post("/topics/orders/messages").body(vec![0xff])).await;
    let messages = fetch(&sandbox, "?max=10&wait=2s").await;
    let first = &messages[0];
    assert_eq!(first["data"], json!({"a": 1}));
    assert_eq!(
        (&first["topic"], &first["offset"], &first["attempt"]),
        (&json!("orders"), &json!(0), &json!(1))
    );
    assert_eq!(
        (&first["key"], &first["id"], &first["correlation_id"]),
        (&json!("k"), &json!("m"), &json!("c"))
    );
    assert_eq!(first["headers"], json!({"colour": "red"}));
    assert!(first["time"].as_str().unwrap().starts_with("20"));
    assert_eq!((&messages[1]["data_base64"], &messages[1]["content_type"]), (&json!("/w=="), &Value::Null));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_message_does_not_come_again_and_a_stale_delivery_is_named() {
    let sandbox = with_orders(3).await;
    let messages = fetch(&sandbox, "?max=2").await;
    assert_eq!(messages.len(), 2);
    let ids: Vec<_> = messages.iter().map(|message| message["delivery"].clone()).collect();
    let answer = settle(&sandbox, json!({"ack": ids})).await;
    assert_eq!(answer, json!({"settled": 2, "extended": 0, "stale": []}));
    assert_eq!(settle(&sandbox, json!({"ack": [ids[0]]})).await["stale"], json!([ids[0]]));
    let rest = fetch(&sandbox, "").await;
    assert_eq!((rest.len(), &rest[0]["offset"]), (1, &json!(2)));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_comes_again_when_it_was_asked_to_and_a_rejected_one_never() {
    let sandbox = with_orders(2).await;
    let messages = fetch(&sandbox, "").await;
    let said = json!({
        "nack": [{"delivery": messages[0]["delivery"], "delay": "200ms", "reason": "later"}],
        "reject": [{"delivery": messages[1]["delivery"], "reason": "not an order"}],
    });
    assert_eq!(settle(&sandbox, said).await["settled"], json!(2));
    assert!(fetch(&sandbox, "").await.is_empty());
    let again = fetch(&sandbox, "?wait=5s").await;
    assert_eq!((again.len(), &again[0]["offset"], &again[0]["attempt"]), (1, &json!(0), &json!(2)));
    let dead = sandbox.broker.dead_letters(&"billing".parse().unwrap(), None, 10).await.unwrap();
    assert_eq!((dead[0].offset, &*dead[0].reason), (1, "not an order"));
    assert_eq!(dead[0].by.as_deref(), Some("user admin"));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_unless_it_is_extended() {
    let sandbox = with_orders(2).await;
    let messages = fetch(&sandbox, "?lease=300ms").await;
    let kept = &messages[1]["delivery"];
    let said = json!({"extend": [{"delivery": kept, "lease": "1m"}]});
    assert_eq!(settle(&sandbox, said).await, json!({"settled": 0, "extended": 1, "stale": []}));
    let again = fetch(&sandbox, "?wait=10s").await;
    assert_eq!((again.len(), &again[0]["offset"]), (1, &json!(0)));
    assert_eq!(settle(&sandbox, json!({"ack": [kept]})).await["settled"], json!(1));
    assert_eq!(settle(&sandbox, json!({"ack": [messages[0]["delivery"]]})).await["settled"], json!(0));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_when_a_message_comes_or_the_wait_is_over() {
    let sandbox = with_orders(0).await;
    let began = Instant::now();
    assert!(fetch(&sandbox, "?wait=300ms").await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(300));
    let began = Instant::now();
    let (messages, ()) = tokio::join!(fetch(&sandbox, "?wait=20s"), async {
        sleep(Duration::from_millis(200)).await;
        publish(&sandbox, 1).await;
    });
    assert_eq!(messages.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5));
    sandbox.stop().await;
}

fn poll(query: &str) -> String {
    format!(
        "GET /subscriptions/billing/messages?{query} HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_while_waiting_takes_nothing() {
    let sandbox = with_orders(0).await;
    fetch(&sandbox, "").await; // the credentials are known from here on
    for _ in 0..20 {
        let gone = sandbox.raw(poll("wait=50s&lease=10m")).await;
        sleep(Duration::from_millis(20)).await;
        drop(gone);
    }
    sleep(Duration::from_millis(200)).await;
    publish(&sandbox, 3).await;
    let messages = fetch(&sandbox, "?wait=5s").await;
    assert_eq!((messages.len(), &messages[0]["attempt"]), (3, &json!(1)));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_does_not_stay_to_receive_is_given_back_and_no_failure_is_counted() {
    let sandbox = Sandbox::start().await;
    let mut topic = Topic::new("orders".parse().unwrap());
    topic.max_message_bytes = 16 * 1024 * 1024; // more than the buffers of two sockets
    sandbox.broker.put_topic(topic, Expect::Any).await.unwrap();
    sandbox.subscription("billing", "orders").await;
    let large = vec![0; 14_000_000];
    assert_eq!(answer(sandbox.post("/topics/orders/messages").body(large)).await.0, 201);
    let name = "billing".parse().unwrap();
    let held = async || sandbox.broker.subscription(&name).await.unwrap().topics[0].in_flight;
    let becomes = async |wanted| {
        let began = Instant::now();
        while held().await != wanted {
            assert!(began.elapsed() < Duration::from_secs(10), "{wanted} never were in flight");
            sleep(Duration::from_millis(10)).await;
        }
    };
    // One goes away, one reads nothing until it is cut off.
    let gone = sandbox.raw(poll("lease=10m")).await;
    becomes(1).await;
    drop(gone);
    becomes(0).await;
    let idle = sandbox.raw(poll("lease=10m")).await;
    becomes(1).await;
    becomes(0).await;
    let messages = fetch(&sandbox, "").await;
    assert_eq!((messages.len(), &messages[0]["attempt"]), (1, &json!(1)));
    becomes(1).await;
    drop(idle);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let sandbox = with_orders(0).await;
    for query in ["?max=0", "?max=1001", "?max=x", "?wait=soon", "?wait=2h", "?lease=1ms", "?nonsense=1"] {
        let (status, body) = answer(sandbox.get(&format!("/subscriptions/billing/messages{query}"))).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")), "{query}: {body}");
    }
    for (said, line) in [("{\"ack\": [\"x\"]}", 1), ("{\n\"akc\": []}", 2), ("{", 1), ("{\"nack\": [{}]}", 1)]
    {
        let (status, body) = answer(sandbox.post("/subscriptions/billing/settle").body(said)).await;
        assert_eq!((status, &body["line"]), (400, &json!(line)), "{said}: {body}");
    }
    let request = sandbox.post("/subscriptions/billing/settle").header("content-type", "text/plain");
    assert_eq!(answer(request.body("{}")).await.0, 415);
    assert_eq!(answer(sandbox.get("/subscriptions/nobody/messages")).await.0, 404);
    assert_eq!(answer(sandbox.get("/subscriptions/nobody/stream")).await.0, 404);
    assert_eq!(answer(sandbox.post("/subscriptions/nobody/settle").body("{}")).await.0, 404);
    // HEAD would take messages and throw them away.
    publish(&sandbox, 1).await;
    let head = sandbox.client.head(sandbox.url("/subscriptions/billing/messages")).send().await.unwrap();
    assert_eq!(head.status(), 405);
    assert_eq!(fetch(&sandbox, "").await.len(), 1);
    sandbox.stop().await;
}

/// A stream of events over a socket of its own.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(sandbox: &Sandbox, query: &str) -> Self {
        let request = format!(
            "GET /subscriptions/billing/stream{query} HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\n\r\n"
        );
        let mut events = Self(BufReader::new(sandbox.raw(request).await));
        assert_eq!(events.line().await, "HTTP/1.1 200 OK");
        while events.line().await != "retry: 1000" {}
        events
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(Duration::from_secs(5), self.0.read_line(&mut line)).await;
        assert!(read.expect("nothing comes").unwrap() > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The next event's name and data.
    async fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let line = self.line().await;
            if let Some(value) = line.strip_prefix("event: ") {
                name = value.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_hands_out_messages_as_they_come() {
    let sandbox = with_orders(2).await;
    let mut events = Events::open(&sandbox, "").await;
    assert_eq!(events.next().await.1["offset"], json!(0));
    let (name, second) = events.next().await;
    assert_eq!((&*name, &second["data"]), ("message", &json!({"n": 1})));
    // A payload with line breaks stays one event.
    let request = sandbox.post("/topics/orders/messages").header("content-type", "application/json");
    answer(request.body("{\r\n\"a\":\n\n1}")).await;
    let (_, third) = events.next().await;
    assert_eq!(third["data"], json!({"a": 1}));
    assert_eq!(
        settle(&sandbox, json!({"ack": [second["delivery"], third["delivery"]]})).await["settled"],
        json!(2)
    );
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_gives_its_messages_back_at_once_and_no_failure_is_counted() {
    let sandbox = with_orders(2).await;
    let mut events = Events::open(&sandbox, "?lease=10m").await;
    let (_, first) = events.next().await;
    events.next().await;
    settle(&sandbox, json!({"ack": [first["delivery"]]})).await;
    drop(events);
    let again = fetch(&sandbox, "?wait=5s").await;
    assert_eq!((again.len(), &again[0]["offset"], &again[0]["attempt"]), (1, &json!(1), &json!(1)));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_is_cut_and_gives_back_what_it_held() {
    let sandbox = with_orders(0).await;
    for _ in 0..40 {
        assert_eq!(answer(sandbox.post("/topics/orders/messages").body(vec![b'x'; 1_000_000])).await.0, 201);
    }
    let request = format!(
        "GET /subscriptions/billing/stream?lease=10m HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\n\r\n"
    );
    let unread = sandbox.raw(request).await;
    let name = "billing".parse().unwrap();
    let held = || async { sandbox.broker.subscription(&name).await.unwrap() };
    let in_flight = |info: &crossdock_topics::SubscriptionInfo| info.topics[0].in_flight;
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(10) {
        let info = held().await;
        most = most.max(in_flight(&info));
        if most > 0 && info.consumers == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let info = held().await;
    assert_eq!((info.consumers, in_flight(&info)), (0, 0), "it is still held");
    assert!((1..30).contains(&most), "{most} messages were taken for one who read nothing");
    drop(unread);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_why_it_ends() {
    let sandbox = with_orders(0).await;
    let mut events = Events::open(&sandbox, "").await;
    sandbox.broker.delete_subscription(&"billing".parse().unwrap()).await.unwrap();
    let (name, problem) = timeout(Duration::from_secs(15), events.next()).await.unwrap();
    assert_eq!((&*name, &problem["code"]), ("error", &json!("not_found")));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_streams_and_long_polls() {
    let sandbox = with_orders(0).await;
    let mut events = Events::open(&sandbox, "").await;
    let mut poll = sandbox.raw(poll("wait=50s")).await;
    sleep(Duration::from_millis(200)).await;
    sandbox.stop().await;
    assert!(rest(&mut poll).await.ends_with("{\"messages\":[]}"));
    let mut left = String::new();
    timeout(Duration::from_secs(1), tokio::io::AsyncReadExt::read_to_string(&mut events.0, &mut left))
        .await
        .expect("the stream stays open")
        .unwrap();
    assert!(left.trim_end().ends_with('0'), "{left:?}"); // the last chunk
}
