//! Topics and their messages.

use crossdock_topics::Log as _;
use serde_json::{Value, json};

use crate::server::Server;

#[tokio::test]
async fn a_topic_is_made_changed_and_deleted() {
    let server = Server::start().await;
    let admin = &server.admin;
    let made = admin.put("/api/v1/topics/orders", &json!({"durability": "os"})).await.expect(201).json();
    assert_eq!(made["topic"]["name"], "orders");
    assert_eq!(made["topic"]["durability"], "os");
    assert_eq!(made["tail"], 0);
    let same = json!({"name": "orders", "durability": "os"});
    let again = admin.put("/api/v1/topics/orders", &same).await.expect(200).json();
    assert_eq!(again["revision"], made["revision"]);
    let changed = admin.put("/api/v1/topics/orders", &json!({})).await.expect(200).json();
    assert_eq!(changed["topic"]["durability"], "fsync");
    assert!(changed["revision"].as_u64() > made["revision"].as_u64());
    let listed = admin.get("/api/v1/topics").await.expect(200).json();
    assert!(listed["topics"].as_array().unwrap().contains(&changed));
    let _ = admin.send("DELETE", "/api/v1/topics/orders", &[], Vec::new()).await.unwrap().expect(204);
    admin.get("/api/v1/topics/orders").await.problem(404, "not_found");
    let gone = admin.send("DELETE", "/api/v1/topics/orders", &[], Vec::new()).await.unwrap();
    gone.problem(404, "not_found");
    admin.put("/api/v1/topics/_logs.x", &json!({})).await.problem(403, "permission_denied");
    let system = crossdock_topics::Topic::new("_logs.x".parse().unwrap());
    server.broker.put_topic(system, crossdock_topics::Expect::Any).await.unwrap();
    let kept = admin.send("DELETE", "/api/v1/topics/_logs.x", &[], Vec::new()).await.unwrap();
    assert!(kept.problem(403, "permission_denied").contains("system"));
    let _ = admin.get("/api/v1/topics/_logs.x").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn what_is_published_is_read_again() {
    let server = Server::start().await;
    let admin = &server.admin;
    let _ = admin.put("/api/v1/topics/orders", &json!({})).await.expect(201);
    let messages = json!({"messages": [
        {"key": "a", "id": "1", "headers": {"x": ["1", "2"]}, "data": {"total": 12.50}},
        {"content_type": "image/png", "data_base64": "AAEC"},
        {"id": "1", "data": null},
    ]});
    let published = admin.post("/api/v1/topics/orders/messages", &messages).await.expect(201).json();
    assert_eq!(
        published,
        json!({"topic": "orders", "durability": "fsync", "receipts": [
            {"offset": 0, "duplicate": false}, {"offset": 1, "duplicate": false},
            {"offset": 0, "duplicate": true},
        ]})
    );
    let page = admin.get("/api/v1/topics/orders/messages").await.expect(200).json();
    assert_eq!(page["next"], 2);
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0]["data"], json!({"total": 12.50}));
    assert_eq!(messages[0]["headers"], json!({"x": ["1", "2"]}));
    assert_eq!((&messages[0]["key"], &messages[0]["id"]), (&json!("a"), &json!("1")));
    assert_eq!(messages[1]["data_base64"], "AAEC");
    assert_eq!(messages[1].get("data"), None);
    assert_eq!(server.admin.read_topic("orders").await.len(), 2);
    // The typed shapes read the same.
    let page: crossdock_control::api::MessagePage = serde_json::from_value(page).unwrap();
    assert_eq!(&page.messages[1].payload().unwrap()[..], [0, 1, 2]);
    server.stop().await;
}

#[tokio::test]
async fn a_reader_waits_for_the_next_message() {
    let server = Server::start().await;
    let admin = server.admin.clone();
    let _ = admin.put("/api/v1/topics/orders", &json!({})).await.expect(201);
    let reader = admin.clone();
    let waiting =
        tokio::spawn(async move { reader.get("/api/v1/topics/orders/messages?from=end&wait=20s").await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let one = json!({"messages": [{"data": "now"}]});
    let _ = admin.post("/api/v1/topics/orders/messages", &one).await.expect(201);
    let page = waiting.await.unwrap().expect(200);
    assert!(page.took.as_secs() < 10, "it took {:?}", page.took);
    assert_eq!(page.json()["messages"][0]["data"], "now");

    // And one that is waiting while the server stops is answered.
    let reader = admin.clone();
    let waiting =
        tokio::spawn(async move { reader.get("/api/v1/topics/orders/messages?from=end&wait=20s").await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.stop().await;
    assert_eq!(waiting.await.unwrap().expect(200).json()["messages"], json!([]));
}

#[tokio::test]
async fn nothing_of_a_bad_batch_is_published() {
    let server = Server::start().await;
    let admin = &server.admin;
    let _ = admin.put("/api/v1/topics/orders", &json!({"max_message_bytes": 100})).await.expect(201);
    let publish = |messages: Value| async move {
        admin.post("/api/v1/topics/orders/messages", &json!({"messages": messages})).await
    };
    let second = publish(json!([{"data": 1}, {"data": 1, "data_base64": ""}])).await;
    assert!(second.problem(400, "invalid_argument").contains("messages[1]"));
    publish(json!([])).await.problem(400, "invalid_argument");
    publish(json!([{"payload": 1}])).await.problem(400, "invalid_argument");
    publish(json!([{"data": 1, "key": "x".repeat(2000)}])).await.problem(413, "too_large");
    publish(json!([{"data": 1}, {"data": "x".repeat(100)}])).await.problem(413, "too_large");
    assert_eq!(admin.get("/api/v1/topics/orders").await.expect(200).json()["tail"], 0);
    let one = json!({"messages": [{"data": 1}]});
    admin.post("/api/v1/topics/nowhere/messages", &one).await.problem(404, "not_found");
    admin.post("/api/v1/topics/_logs.x/messages", &one).await.problem(403, "permission_denied");
    server.stop().await;
}
