//! Subscriptions and dead letters.

use std::time::Duration;

use crossdock_topics::{Fetch, Outcome, Settlement, Subscriptions};
use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn a_subscription_is_made_changed_and_deleted() {
    let server = Server::start().await;
    let admin = &server.admin;
    let definition = json!({"topics": ["orders"], "max_failures": 3});
    admin.put("/api/v1/subscriptions/billing", &definition).await.problem(404, "not_found");
    let _ = admin.put("/api/v1/topics/orders", &json!({})).await.expect(201);
    let made = admin.put("/api/v1/subscriptions/billing", &definition).await.expect(201).json();
    assert_eq!(made["subscription"]["max_failures"], 3);
    let again = admin.put("/api/v1/subscriptions/billing", &definition).await.expect(200).json();
    assert_eq!(again["revision"], made["revision"]);
    let none = json!({"topics": []});
    admin.put("/api/v1/subscriptions/billing", &none).await.problem(400, "invalid_argument");
    let used = admin.send("DELETE", "/api/v1/topics/orders", &[], Vec::new()).await.unwrap();
    used.problem(409, "conflict");
    let listed = admin.get("/api/v1/subscriptions").await.expect(200).json();
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 1);
    let path = "/api/v1/subscriptions/billing";
    let _ = admin.send("DELETE", path, &[], Vec::new()).await.unwrap().expect(204);
    admin.get(path).await.problem(404, "not_found");
    admin.get(&format!("{path}/dead-letters")).await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_redriven_and_discarded() {
    let server = Server::start().await;
    let admin = &server.admin;
    let _ = admin.put("/api/v1/topics/orders", &json!({})).await.expect(201);
    let _ = admin.put("/api/v1/subscriptions/billing", &json!({"topics": ["orders"]})).await.expect(201);
    let messages: Vec<_> = (0..40).map(|n| json!({"data": n})).collect();
    let batch = json!({"messages": messages});
    let _ = admin.post("/api/v1/topics/orders/messages", &batch).await.expect(201);
    let name = "billing".parse().unwrap();
    let mut rejected = 0;
    while rejected < 40 {
        let deliveries =
            server.broker.fetch(&name, Fetch::new(None, 100, Duration::from_secs(5))).await.unwrap();
        assert!(!deliveries.is_empty(), "after {rejected}");
        rejected += deliveries.len();
        let reject = |id| (id, Outcome::Reject { reason: "no such customer".into() });
        let outcomes = deliveries.iter().map(|delivery| reject(delivery.id)).collect();
        let settlement = Settlement { outcomes, by: Some("billing@1".into()), ..Settlement::default() };
        server.broker.settle(&name, settlement).await.unwrap();
    }
    let status = admin.get("/api/v1/status").await.expect(200).json();
    assert_eq!(status["backlog"]["dead_letters"], 40);

    let path = "/api/v1/subscriptions/billing/dead-letters";
    let first = admin.get(&format!("{path}?max=30")).await.expect(200).json();
    assert_eq!(first["dead_letters"].as_array().unwrap().len(), 30);
    let letter = &first["dead_letters"][7];
    assert_eq!(letter["reason"], "no such customer");
    assert_eq!(letter["by"], "billing@1");
    assert_eq!(letter["message"]["data"], 7);
    let next = first["next"].as_str().unwrap();
    assert_eq!(next, "orders:29");
    let rest = admin.get(&format!("{path}?max=30&after={next}")).await.expect(200).json();
    assert_eq!(rest["dead_letters"].as_array().unwrap().len(), 10);
    assert_eq!(rest.get("next"), None);
    admin.get(&format!("{path}?after=29")).await.problem(400, "invalid_argument");

    let post =
        |action: &'static str, body| async move { admin.post(&format!("{path}/{action}"), &body).await };
    post("redrive", json!({})).await.problem(400, "invalid_argument");
    post("redrive", json!({"messages": [], "all": "yes"})).await.problem(400, "invalid_argument");
    let one = json!({"messages": [{"topic": "orders", "offset": 7}]});
    assert_eq!(post("redrive", one).await.expect(200).json(), json!({"count": 1}));
    let two = json!({"messages": [{"topic": "orders", "offset": 8}, {"topic": "orders", "offset": 9}]});
    assert_eq!(post("discard", two).await.expect(200).json(), json!({"count": 2}));
    assert_eq!(post("redrive", json!({"all": true})).await.expect(200).json(), json!({"count": 37}));
    let left = admin.get(path).await.expect(200).json();
    assert_eq!(left["dead_letters"], json!([]));
    server.stop().await;
}
