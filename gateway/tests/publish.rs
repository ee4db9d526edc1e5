//! Publishing over HTTP.

#![allow(clippy::unwrap_used)]

mod sandbox;

use crossdock_broker::EmbeddedOptions;
use crossdock_http::Limits;
use crossdock_topics::{Expect, Log, Topic};
use sandbox::{ADMIN_BASIC, Sandbox, answer, rest};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_json_message_is_stored_as_it_was_sent() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let request = sandbox.post("/topics/orders/messages").header("content-type", "application/json");
    let (status, body) = answer(request.header("x-key", "alice").body("{\"total\":  1.50}")).await;
    assert_eq!(
        (status, body),
        (201, json!({"topic": "orders", "offsets": [0], "durability": "fsync", "duplicates": []}))
    );
    let stored = &sandbox.stored("orders").await[0];
    assert_eq!(&*stored.payload, b"{\"total\":  1.50}");
    assert_eq!(stored.key.as_deref(), Some("alice"));
    assert_eq!(stored.content_type.as_deref(), Some("application/json"));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_of_any_type_are_stored_raw() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("pictures").await;
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let request = sandbox.post("/topics/pictures/messages").header("content-type", "image/png");
    assert_eq!(answer(request.header("x-header-camera", "7").body(bytes.clone())).await.0, 201);
    assert_eq!(answer(sandbox.post("/topics/pictures/messages")).await.0, 201);
    let stored = sandbox.stored("pictures").await;
    assert_eq!((&*stored[0].payload, stored[0].header("camera")), (&*bytes, Some("7")));
    assert_eq!((stored[1].payload.len(), stored[1].content_type.as_deref()), (0, None));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_published_twice_is_stored_once_and_the_answer_says_so() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let publish = || answer(sandbox.post("/topics/orders/messages").header("x-message-id", "m1").body("x"));
    assert_eq!(publish().await.1["duplicates"], json!([]));
    let (status, body) = publish().await;
    assert_eq!((status, &body["offsets"], &body["duplicates"]), (201, &json!([0]), &json!([0])));
    assert_eq!(sandbox.stored("orders").await.len(), 1);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_message_a_line_and_the_same_batch_again_stores_nothing() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let publish = || {
        let request = sandbox.post("/topics/orders/messages").header("content-type", "application/x-ndjson");
        answer(request.header("x-message-id", "batch-7").body("{\"n\":1}\n{\"n\":2}\n\n{\"n\":3}\n"))
    };
    let (status, body) = publish().await;
    assert_eq!((status, &body["offsets"]), (201, &json!([0, 1, 2])));
    assert_eq!(publish().await.1["duplicates"], json!([0, 1, 2]));
    let stored = sandbox.stored("orders").await;
    assert_eq!(
        stored.iter().map(|m| &*m.payload).collect::<Vec<_>>(),
        [b"{\"n\":1}", b"{\"n\":2}", b"{\"n\":3}"]
    );
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_line_stores_nothing_and_is_named() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let request = sandbox.post("/topics/orders/messages").header("content-type", "application/x-ndjson");
    let (status, body) = answer(request.body("{\"n\":1}\n{\"n\": oops}\n")).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")));
    assert_eq!((&body["line"], &body["column"]), (&json!(2), &json!(7)));
    assert!(sandbox.stored("orders").await.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_json_and_headers_are_named_and_nothing_is_stored() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let post = || sandbox.post("/topics/orders/messages").header("content-type", "application/json");
    let (status, body) = answer(post().body("{\n  \"a\": tru\n}")).await;
    assert_eq!((status, &body["line"]), (400, &json!(2)));
    let (status, body) = answer(post().body(&b"{\"a\": \"\xff\"}"[..])).await;
    assert_eq!((status, &body["line"], &body["column"]), (400, &json!(1), &json!(8)));
    for (name, value) in
        [("x-expires-in", "soon"), ("x-priority", "11"), ("x-deliver-at", "1999"), ("ce-id", "1")]
    {
        let (status, body) = answer(post().header(name, value).body("{}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")), "{name}: {body}");
    }
    let (status, _) = answer(post().header("content-encoding", "gzip").body("{}")).await;
    assert_eq!(status, 415);
    assert!(sandbox.stored("orders").await.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_event_is_named_by_its_source_and_id() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let event = |id: &'static str| {
        let request = sandbox.post("/topics/orders/messages").header("content-type", "application/json");
        let request = request.header("ce-specversion", "1.0").header("ce-type", "order.made");
        answer(
            request
                .header("ce-source", "/shop")
                .header("ce-id", id)
                .header("ce-partitionkey", "k")
                .body("{}"),
        )
    };
    assert_eq!(event("1").await.0, 201);
    assert_eq!(event("1").await.1["duplicates"], json!([0]));
    assert_eq!(event("2").await.1["offsets"], json!([1]));
    let stored = sandbox.stored("orders").await;
    assert_eq!((stored[0].id.as_deref(), stored[0].key.as_deref()), (Some("/shop 1"), Some("k")));
    assert_eq!(stored[1].header("ce-type"), Some("order.made"));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_topics_limit_is_refused_before_it_is_read() {
    let sandbox = Sandbox::start().await;
    let small = Topic { max_message_bytes: 100_000, ..Topic::new("small".parse().unwrap()) };
    sandbox.broker.put_topic(small, Expect::Any).await.unwrap();
    let tiny = Topic { max_message_bytes: 10, ..Topic::new("tiny".parse().unwrap()) };
    sandbox.broker.put_topic(tiny, Expect::Any).await.unwrap();
    // Announced: the answer comes though not one byte of the body does.
    let head = |length: usize| {
        format!(
            "POST /topics/small/messages HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut stream = sandbox.raw(head(100_001)).await;
    let refused = rest(&mut stream).await;
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    assert!(refused.contains("too_large"), "{refused}");
    // Not announced: cut once it is over the limit.
    let mut stream = sandbox
        .raw(format!("POST /topics/small/messages HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\ntransfer-encoding: chunked\r\n\r\n"))
        .await;
    let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, &chunked(300_000)).await;
    assert!(sent.is_ok());
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 413"));
    assert_eq!(answer(sandbox.post("/topics/small/messages").body(vec![b'x'; 100_000])).await.0, 201);
    assert_eq!(answer(sandbox.post("/topics/tiny/messages").body(vec![b'x'; 11])).await.0, 413);
    sandbox.stop().await;
}

fn chunked(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..length / 1000 {
        bytes.extend(b"3e8\r\n");
        bytes.extend([b'x'; 1000]);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_malformed_names_are_told_apart() {
    let sandbox = Sandbox::start().await;
    assert_eq!(answer(sandbox.post("/topics/nowhere/messages").body("x")).await.0, 404);
    assert_eq!(answer(sandbox.post("/topics/nowhere/messages").body(vec![0; 100_000])).await.0, 404);
    let (status, body) = answer(sandbox.post("/topics/a%20b/messages").body("x")).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")));
    assert_eq!(answer(sandbox.post("/topics/%ff/messages").body("x")).await.0, 400);
    assert_eq!(answer(sandbox.post("/topics/_logs.x/messages").body("x")).await.0, 403);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_sent_message_is_not_stored() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    let head = format!(
        "POST /topics/orders/messages HTTP/1.1\r\nhost: x\r\nauthorization: {ADMIN_BASIC}\r\ncontent-length: 100\r\n\r\nhalf"
    );
    let mut slow = sandbox.raw(&head).await;
    drop(sandbox.raw(&head).await); // and one that goes away
    assert!(rest(&mut slow).await.starts_with("HTTP/1.1 400"));
    assert!(sandbox.stored("orders").await.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_broker_says_when_to_try_again_and_stores_what_it_acknowledged() {
    // There is room for one message at a time.
    let small = |options| EmbeddedOptions { waiting_bytes: 1, ..options };
    let sandbox = Sandbox::start_with(Limits::default(), small).await;
    sandbox.topic("orders").await;
    assert_eq!(answer(sandbox.post("/topics/orders/messages").body("x")).await.0, 201); // credentials are known now
    let publish = || async {
        let response = sandbox.post("/topics/orders/messages").body(vec![b'x'; 10_000]).send().await.unwrap();
        let wait = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), wait)
    };
    let answers = futures::future::join_all((0..64).map(|_| publish())).await;
    let stored = answers.iter().filter(|(status, _)| *status == 201).count();
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 429).collect();
    assert_eq!(stored + refused.len(), 64, "{answers:?}");
    assert!(
        !refused.is_empty() && refused.iter().all(|(_, wait)| wait.as_deref() == Some("1")),
        "{answers:?}"
    );
    assert_eq!(sandbox.stored("orders").await.len(), 1 + stored);
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_stored_only_where_the_topic_ends_as_expected() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("ledger").await;
    let publish = |last: &'static str| {
        let request = sandbox.post("/topics/ledger/messages").header("x-expected-last-offset", last);
        answer(request.body("x"))
    };
    assert_eq!(publish("none").await.1["offsets"], json!([0]));
    let (status, body) = publish("none").await;
    assert_eq!((status, &body["code"]), (409, &json!("conflict")));
    assert!(body["detail"].as_str().unwrap().contains('0'), "it says what is there: {body}");
    assert_eq!(publish("0").await.1["offsets"], json!([1]));
    assert_eq!(publish("0").await.0, 409);
    assert_eq!(publish("soon").await.0, 400);
    assert_eq!(sandbox.stored("ledger").await.len(), 2);
    sandbox.stop().await;
}
