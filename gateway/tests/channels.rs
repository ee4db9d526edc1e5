//! REST channels over HTTP, with a service that answers.

#![allow(clippy::unwrap_used)]

mod sandbox;

use std::time::Duration;

use crossdock_config::keys;
use crossdock_topics::{Error, ErrorCode, Expect, Message, Reply, Requests, Store};
use hmac::{Hmac, KeyInit, Mac};
use sandbox::{ADMIN, Sandbox, answer, put_permission, put_user, rest};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Serves a service with a function.
async fn serve(sandbox: &Sandbox, service: &str, mut reply: impl FnMut(Message) -> Reply + Send + 'static) {
    let mut requests = sandbox.broker.serve(&service.parse().unwrap(), 10).await.unwrap();
    sandbox.shutdown.tasks().spawn({
        let shutdown = sandbox.shutdown.clone();
        async move {
            loop {
                tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => request.responder.reply(reply(request.message)),
                        None => return,
                    },
                    () = shutdown.started() => return,
                }
            }
        }
    });
}

/// Tells a message's headers and payload as JSON.
fn tell(message: &Message) -> Reply {
    let headers: serde_json::Map<String, Value> =
        message.headers.iter().map(|(name, value)| (name.to_string(), json!(&**value))).collect();
    let payload = String::from_utf8_lossy(&message.payload);
    let told = json!({
        "headers": headers, "payload": payload, "content_type": message.content_type.as_deref(),
        "correlation_id": message.correlation_id.as_deref(), "key": message.key.as_deref(),
    });
    Ok(Message::json(told.to_string()).with_header(":status", "202").with_header("x-served-by", "tell"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_the_request_and_its_reply_is_the_response() {
    let sandbox = Sandbox::start().await;
    serve(&sandbox, "orders", |message| tell(&message)).await;
    sandbox
        .channel(r#"{"name": "order", "path": "/orders/{id}", "methods": ["PUT"], "service": "orders", "key_header": "X-Customer"}"#)
        .await;
    let request =
        sandbox.client.put(sandbox.url("/orders/a%20b?full=1&x=%20")).basic_auth(ADMIN.0, Some(ADMIN.1));
    let request = request.header("X-Customer", "alice").header("Cookie", "secret=1").header("X-Hop", "1");
    let request = request
        .header("Connection", "x-hop")
        .header("X-Request-Id", "r-1")
        .header("content-type", "text/plain");
    let response = request.body("hello").send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["x-served-by"], "tell");
    assert_eq!(response.headers()["x-request-id"], "r-1");
    let told: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let headers = &told["headers"];
    assert_eq!((&headers[":method"], &headers[":path"]), (&json!("PUT"), &json!("/orders/a%20b")));
    assert_eq!((&headers[":query"], &headers[":param.id"]), (&json!("full=1&x=%20"), &json!("a b")));
    assert_eq!((&headers[":user"], &headers["x-customer"]), (&json!("admin"), &json!("alice")));
    for hidden in ["authorization", "cookie", "connection", "x-hop", "content-length", "content-type"] {
        assert_eq!(headers.get(hidden), None, "{hidden}");
    }
    assert_eq!((&told["payload"], &told["content_type"]), (&json!("hello"), &json!("text/plain")));
    assert_eq!((&told["correlation_id"], &told["key"]), (&json!("r-1"), &json!("alice")));
    let request = sandbox.client.put(sandbox.url("/orders/1")).basic_auth(ADMIN.0, Some(ADMIN.1));
    let (status, body) = answer(request).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_argument")), "without the key's header");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_in_time_or_without_success_the_caller_is_told_which() {
    let sandbox = Sandbox::start().await;
    let channel = |name: &str| {
        format!(r#"{{"name": "{name}", "path": "/{name}", "service": "{name}", "timeout": "300ms"}}"#)
    };
    for name in ["nobody", "slow", "failing", "wrong"] {
        sandbox.channel(&channel(name)).await;
    }
    let mut kept = sandbox.broker.serve(&"slow".parse().unwrap(), 10).await.unwrap();
    serve(&sandbox, "failing", |_| Err(Error::new(ErrorCode::ServiceFailed, "KeyError: 'total'"))).await;
    serve(&sandbox, "wrong", |_| Ok(Message::new("x").with_header(":status", "7"))).await;
    let codes = [
        ("nobody", 503, "unavailable"),
        ("slow", 504, "timeout"),
        ("failing", 500, "service_failed"),
        ("wrong", 500, "service_failed"),
    ];
    for (name, expected, code) in codes {
        let (status, body) = answer(sandbox.post(&format!("/{name}")).body("x")).await;
        assert_eq!((status, &body["code"]), (expected, &json!(code)), "{name}: {body}");
    }
    assert!(kept.recv().await.is_some());
    sandbox.stop().await;
}

fn sign(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_webhook_is_stored_once_under_its_delivery_id() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("hooks").await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let channel = json!({
        "name": "github", "path": "/hooks/github", "topic": "hooks", "authenticate": false,
        "message_id_header": "X-GitHub-Delivery", "max_body": "1KiB",
        "hmac_sha256": {"header": "X-Hub-Signature-256", "prefix": "sha256=", "secret": format!("file:{}", secret.display())},
    });
    sandbox.channel(&channel.to_string()).await;
    // Read when the channel was made known, not with each request.
    std::fs::remove_file(&secret).unwrap();
    let body = r#"{"action": "opened"}"#;
    let send = |signature: &str, body: &'static str| {
        let request =
            sandbox.client.post(sandbox.url("/hooks/github")).header("X-Hub-Signature-256", signature);
        let request = request.header("X-GitHub-Delivery", "d-1").header("X-GitHub-Event", "issues");
        answer(request.header("content-type", "application/json").body(body))
    };
    let (status, receipt) = send(&sign("s3cret", body), body).await;
    assert_eq!((status, &receipt["offsets"], &receipt["durability"]), (202, &json!([0]), &json!("fsync")));
    assert_eq!(send(&sign("s3cret", body), body).await.1["duplicates"], json!([0]));
    assert_eq!(send(&sign("guess", body), body).await.0, 401);
    assert_eq!(send("", body).await.0, 401);
    // The proof comes before any look at the content.
    assert_eq!(send("", "{").await.0, 401);
    assert_eq!(send(&sign("s3cret", "{"), "{").await.0, 400);
    let long: &'static str = "x".repeat(1025).leak();
    assert_eq!(send(&sign("s3cret", long), long).await.0, 413);
    let stored = sandbox.stored("hooks").await;
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].id.as_deref(), stored[0].header("x-github-event")), (Some("d-1"), Some("issues")));
    assert_eq!((&*stored[0].payload, stored[0].header(":user")), (body.as_bytes(), None));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_read_refuses_everything() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("hooks").await;
    let channel = r#"{"name": "hook", "path": "/hook", "topic": "hooks", "authenticate": false,
        "hmac_sha256": {"header": "X-Signature", "secret": "file:/nowhere/secret"}}"#;
    sandbox.channel(channel).await;
    let (status, body) = answer(sandbox.client.post(sandbox.url("/hook")).body("x")).await;
    assert_eq!(status, 503);
    assert!(!body.to_string().contains("nowhere"), "{body}");
    assert!(sandbox.stored("hooks").await.is_empty());
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_takes_effect_without_a_restart() {
    let sandbox = Sandbox::start().await;
    for name in ["first", "second"] {
        sandbox.topic(name).await;
    }
    let channel = |topic: &str| format!(r#"{{"name": "in", "path": "/in", "topic": "{topic}"}}"#);
    sandbox.channel(&channel("first")).await;
    assert_eq!(answer(sandbox.post("/in").body("1")).await.1["topic"], json!("first"));
    sandbox.channel(&channel("second")).await;
    let until = async |wanted: Value| {
        for _ in 0..100 {
            let (status, body) = answer(sandbox.post("/in").body("1")).await;
            if wanted == json!(status) || wanted == body["topic"] {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{wanted} has not come after 1 s");
    };
    until(json!("second")).await;
    sandbox.broker.delete(&keys::rest_channel(&"in".parse().unwrap()), Expect::Any).await.unwrap();
    until(json!(404)).await;
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_are_told_and_head_is_get_without_its_body() {
    let sandbox = Sandbox::start().await;
    serve(&sandbox, "s", |_| Ok(Message::new("hello"))).await;
    sandbox.channel(r#"{"name": "s", "path": "/s", "methods": ["GET", "POST"], "service": "s", "authenticate": false}"#).await;
    let ask = |method: &str, path: &str| {
        sandbox
            .client
            .request(method.parse().unwrap(), sandbox.url(path))
            .basic_auth(ADMIN.0, Some(ADMIN.1))
            .send()
    };
    let response = ask("DELETE", "/s").await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["allow"].to_str().unwrap()),
        (405, "GET, POST")
    );
    let response = ask("OPTIONS", "/s").await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["allow"].to_str().unwrap()),
        (204, "GET, POST")
    );
    let response = ask("HEAD", "/s").await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-length"].to_str().unwrap()),
        (200, "5")
    );
    let response = ask("GET", "/topics/x/messages").await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let response = ask("OPTIONS", "/subscriptions/x/settle").await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (204, "POST"));
    for path in ["/", "/nowhere", "/topics", "/topics/x", "/s/", "/%ff", "/s//"] {
        let response = ask("GET", path).await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        assert!(response.text().await.unwrap().contains("\"hint\":"), "{path}");
    }
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_but_health_asks_who_and_whether_they_may() {
    let sandbox = Sandbox::start().await;
    for topic in ["orders.new", "orders.old", "other"] {
        sandbox.topic(topic).await;
    }
    sandbox.subscription("mine", "orders.*").await;
    sandbox.subscription("theirs", "other").await;
    serve(&sandbox, "stats.day", |_| Ok(Message::new("1"))).await;
    serve(&sandbox, "admin.all", |_| Ok(Message::new("1"))).await;
    sandbox.channel(r#"{"name": "a", "path": "/a", "service": "stats.day"}"#).await;
    sandbox.channel(r#"{"name": "b", "path": "/b", "service": "admin.all"}"#).await;
    sandbox.channel(r#"{"name": "c", "path": "/c", "topic": "other"}"#).await;
    put_user(&*sandbox.broker, "alice", "password of alice", Some("alice.0123456789abcdef0123")).await;
    let permission = r#"{"name": "p", "users": ["alice"], "publish": ["orders.*"], "consume": ["orders.**"], "invoke": ["stats.*"]}"#;
    put_permission(&*sandbox.broker, permission).await;
    sleep(Duration::from_millis(300)).await;
    let paths = [
        ("POST", "/topics/orders.new/messages", 201),
        ("POST", "/topics/other/messages", 403),
        ("GET", "/subscriptions/mine/messages", 200),
        ("GET", "/subscriptions/theirs/messages", 403),
        ("GET", "/subscriptions/theirs/stream", 403),
        ("POST", "/subscriptions/mine/settle", 200),
        ("POST", "/subscriptions/theirs/settle", 403),
        ("POST", "/a", 200),
        ("POST", "/b", 403),
        ("POST", "/c", 403),
    ];
    for (method, path, expected) in paths {
        let ask = || sandbox.client.request(method.parse().unwrap(), sandbox.url(path)).body("{}");
        let key = ask().header("x-api-key", "alice.0123456789abcdef0123");
        let (status, body) = answer(key).await;
        assert_eq!(status, expected, "{method} {path}: {body}");
        let bearer = ask().header("authorization", "Bearer alice.0123456789abcdef0123");
        assert_eq!(answer(bearer).await.0, expected, "{method} {path}");
        assert_eq!(answer(ask().basic_auth("alice", Some("password of alice"))).await.0, expected);
        for wrong in
            [ask(), ask().basic_auth("alice", Some("guess")), ask().header("x-api-key", "alice.guess")]
        {
            let response = wrong.send().await.unwrap();
            assert_eq!(response.status(), 401, "{method} {path}");
            assert!(response.headers().contains_key("www-authenticate"));
        }
    }
    // Answers are not asked for where the one who asks may not publish.
    for (reply_to, expected) in [("orders.old", 201), ("other", 403), ("_logs.s", 403), ("orders.*", 400)] {
        let ask = sandbox.client.post(sandbox.url("/topics/orders.new/messages")).body("{}");
        let ask = ask.header("x-api-key", "alice.0123456789abcdef0123").header("x-reply-to", reply_to);
        let (status, body) = answer(ask).await;
        assert_eq!(status, expected, "{reply_to}: {body}");
        let detail = body["detail"].as_str().unwrap_or_default().to_lowercase();
        assert_eq!(expected != 201, detail.contains("x-reply-to"), "{body}");
    }
    let (status, health) = answer(sandbox.client.get(sandbox.url("/health"))).await;
    assert_eq!((status, health), (200, json!({"ready": true})));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_turns_false_when_the_broker_does_not_take_writes() {
    use crossdock_topics::Broker;
    let sandbox = Sandbox::start().await;
    assert_eq!(answer(sandbox.client.get(sandbox.url("/health"))).await.0, 200);
    sandbox.broker.close().await;
    let (status, health) = answer(sandbox.client.get(sandbox.url("/health"))).await;
    assert_eq!((status, &health["code"]), (503, &json!("unavailable")));
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_service_failed_is_told_to_those_who_are_known() {
    let sandbox = Sandbox::start().await;
    serve(&sandbox, "s", |_| Err(Error::new(ErrorCode::ServiceFailed, "no route to db:hunter2@db"))).await;
    sandbox.channel(r#"{"name": "open", "path": "/open", "service": "s", "authenticate": false}"#).await;
    sandbox.channel(r#"{"name": "known", "path": "/known", "service": "s"}"#).await;
    let (status, told) = answer(sandbox.client.post(sandbox.url("/open"))).await;
    assert_eq!((status, &told["code"]), (500, &json!("service_failed")));
    assert!(!told.to_string().contains("hunter2") && told["hint"].is_string(), "{told}");
    let (status, told) = answer(sandbox.post("/known")).await;
    assert_eq!(status, 500);
    assert!(told.to_string().contains("hunter2"), "{told}");
    sandbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_is_noticed_by_the_service() {
    let sandbox = Sandbox::start().await;
    sandbox.channel(r#"{"name": "s", "path": "/s", "service": "s", "authenticate": false}"#).await;
    let mut requests = sandbox.broker.serve(&"s".parse().unwrap(), 10).await.unwrap();
    let mut caller = sandbox.raw("POST /s HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    let request = tokio::time::timeout(Duration::from_secs(5), requests.recv()).await.unwrap().unwrap();
    assert!(!request.responder.is_abandoned());
    tokio::io::AsyncWriteExt::shutdown(&mut caller).await.unwrap();
    drop(caller);
    for _ in 0..100 {
        if request.responder.is_abandoned() {
            return sandbox.stop().await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("after 2 s the service still works for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_not_text_are_named() {
    let sandbox = Sandbox::start().await;
    sandbox.channel(r#"{"name": "s", "path": "/s", "service": "s", "authenticate": false}"#).await;
    let mut bytes =
        b"POST /s HTTP/1.1\r\nhost: x\r\nx-name: \xff\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            .to_vec();
    let answered = rest(&mut sandbox.raw(&bytes).await).await;
    assert!(answered.starts_with("HTTP/1.1 400") && answered.contains("x-name"), "{answered}");
    bytes.truncate(20);
    let answered = rest(&mut sandbox.raw(&bytes).await).await; // half a head, cut after its time
    assert!(!answered.contains("200"), "{answered}");
    sandbox.stop().await;
}
