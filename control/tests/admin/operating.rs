//! What operators do about topics and subscriptions while they are in use.

use std::time::Duration;

use crossdock_topics::{Delivery, Fetch, Outcome, Settlement, Subscriptions};
use serde_json::{Value, json};

use crate::server::Server;

const TOPIC: &str = "/api/v1/topics/orders";
const SUBSCRIPTION: &str = "/api/v1/subscriptions/billing";

/// A topic `orders` with `count` messages (`{"n": 0}` and so on, key `k0` to `k2`), and a subscription `billing`.
async fn server(count: u64, subscription: Value) -> Server {
    let server = Server::start().await;
    let _ = server.admin.put(TOPIC, &json!({})).await.expect(201);
    let _ = server.admin.put(SUBSCRIPTION, &subscription).await.expect(201);
    publish(&server, 0..count).await;
    server
}

async fn publish(server: &Server, numbers: std::ops::Range<u64>) {
    let message = |n| json!({"key": format!("k{}", n % 3), "id": format!("m{n}"), "data": {"n": n}});
    let messages: Vec<_> = numbers.map(message).collect();
    if !messages.is_empty() {
        let path = format!("{TOPIC}/messages");
        let _ = server.admin.post(&path, &json!({"messages": messages})).await.expect(201);
    }
}

async fn fetch(server: &Server, max: usize, wait: Duration) -> Vec<Delivery> {
    server.broker.fetch(&"billing".parse().unwrap(), Fetch::new(None, max, wait)).await.unwrap()
}

async fn take(server: &Server, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let more = fetch(server, count - all.len(), Duration::from_secs(10)).await;
        assert!(!more.is_empty(), "only {} of {count}", all.len());
        all.extend(more);
    }
    all
}

async fn settle(server: &Server, deliveries: &[Delivery], outcome: &Outcome) {
    let outcomes = deliveries.iter().map(|delivery| (delivery.id, outcome.clone())).collect();
    let settlement = Settlement { outcomes, by: Some("billing@1".into()), ..Settlement::default() };
    server.broker.settle(&"billing".parse().unwrap(), settlement).await.unwrap();
}

fn reject(reason: &str) -> Outcome {
    Outcome::Reject { reason: reason.into() }
}

fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset).collect()
}

#[tokio::test]
async fn a_paused_subscription_delivers_nothing_until_it_is_resumed() {
    let server = server(2, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let paused = admin.post(&format!("{SUBSCRIPTION}/pause"), &json!({})).await.expect(200).json();
    assert_eq!(paused["paused"], true);
    assert!(fetch(&server, 10, Duration::from_millis(200)).await.is_empty());
    let resumed = admin.post(&format!("{SUBSCRIPTION}/resume"), &json!({})).await.expect(200).json();
    assert_eq!(resumed["paused"], false);
    assert_eq!(offsets(&take(&server, 2).await), [0, 1]);
    admin.post("/api/v1/subscriptions/nowhere/pause", &json!({})).await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_goes_on_where_it_is_told() {
    let server = server(5, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    settle(&server, &take(&server, 5).await, &Outcome::Ack).await;
    let seek = |body| async move { admin.post(&format!("{SUBSCRIPTION}/seek"), &body).await };
    let moved = seek(json!({"to": {"offset": 3}})).await.expect(200).json();
    assert_eq!(moved["topics"][0]["waiting"], 2);
    assert_eq!(offsets(&take(&server, 2).await), [3, 4]);
    let _ = seek(json!({"to": "start", "topic": "orders"})).await.expect(200);
    assert_eq!(offsets(&take(&server, 5).await), [0, 1, 2, 3, 4]);
    let _ = seek(json!({"to": "end"})).await.expect(200);
    assert!(fetch(&server, 10, Duration::from_millis(200)).await.is_empty());
    seek(json!({"to": "end", "topic": "elsewhere"})).await.problem(404, "not_found");
    seek(json!({"to": "somewhere"})).await.problem(400, "invalid_argument");
    seek(json!({})).await.problem(400, "invalid_argument");
    server.stop().await;
}

#[tokio::test]
async fn a_parked_key_is_listed_and_let_go() {
    let definition = json!({"topics": ["orders"], "order": "key", "max_failures": 1});
    let server = server(6, definition).await;
    let admin = &server.admin;
    let first = take(&server, 3).await;
    let retry = Outcome::Retry { after: None, reason: "no such customer".into() };
    settle(&server, &first[..2], &retry).await;
    settle(&server, &first[2..], &Outcome::Ack).await;
    assert_eq!(offsets(&take(&server, 1).await), [5], "the third key goes on alone");
    let path = format!("{SUBSCRIPTION}/parked-keys");
    let keys = admin.get(&path).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2, "{keys}");
    let key = &keys["keys"][0];
    assert_eq!((&key["key"], &key["offset"], &key["waiting"]), (&json!("k0"), &json!(0), &json!(1)));
    assert_eq!((&key["reason"], &key["by"]), (&json!("no such customer"), &json!("billing@1")));
    let info = admin.get(SUBSCRIPTION).await.expect(200).json();
    assert_eq!((&info["topics"][0]["parked_keys"], &info["topics"][0]["behind_key"]), (&json!(2), &json!(2)));

    let release = |body| async move {
        admin.post(&format!("{SUBSCRIPTION}/parked-keys/release"), &body).await.expect(200).json()
    };
    assert_eq!(release(json!({"key": "k0"})).await, json!({"count": 1}));
    let again = take(&server, 1).await;
    assert_eq!((again[0].offset, again[0].attempt), (0, 1), "its failures are forgotten");
    assert_eq!(release(json!({"key": "k1", "give_up": true})).await, json!({"count": 1}));
    assert_eq!(offsets(&take(&server, 1).await), [4], "what was behind it goes on");
    let letters = admin.get(&format!("{SUBSCRIPTION}/dead-letters")).await.expect(200).json();
    assert_eq!(letters["dead_letters"][0]["offset"], 1);
    assert_eq!(release(json!({"key": "k1"})).await, json!({"count": 0}));
    server.stop().await;
}

#[tokio::test]
async fn a_topic_is_purged_whoever_needs_its_messages() {
    let server = server(5, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let purge = |body| async move { admin.post(&format!("{TOPIC}/purge"), &body).await };
    let info = purge(json!({"before": 3})).await.expect(200).json();
    assert_eq!((&info["head"], &info["tail"]), (&json!(3), &json!(5)));
    assert_eq!(offsets(&take(&server, 2).await), [3, 4]);
    purge(json!({"before": 6})).await.problem(400, "invalid_argument");
    let info = purge(json!({})).await.expect(200).json();
    assert_eq!((&info["head"], &info["tail"]), (&json!(5), &json!(5)));
    publish(&server, 5..6).await;
    assert_eq!(offsets(&take(&server, 1).await), [5], "offsets go on");
    admin.post("/api/v1/topics/_logs.x/purge", &json!({})).await.problem(403, "permission_denied");
    server.stop().await;
}

#[tokio::test]
async fn a_range_is_replayed_once_however_often_it_is_asked_for() {
    let server = server(2500, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let _ = admin.put("/api/v1/topics/copies", &json!({})).await.expect(201);
    let replay = |body| async move { admin.post(&format!("{TOPIC}/replay"), &body).await };
    let dry = json!({"into": "copies", "from": {"offset": 100}, "dry_run": true});
    let range = replay(dry).await.expect(200).json();
    assert_eq!(range, json!({"stored": 0, "duplicates": 0, "next": 100, "end": 2500, "done": false}));
    // What is published meanwhile is not part of it.
    publish(&server, 2500..2510).await;
    let mut next = 100;
    let mut stored = 0;
    loop {
        let body = json!({"into": "copies", "from": {"offset": next}, "to": {"offset": 2500}});
        let step = replay(body).await.expect(200).json();
        stored += step["stored"].as_u64().unwrap();
        next = step["next"].as_u64().unwrap();
        if step["done"] == true {
            break;
        }
    }
    assert_eq!((next, stored), (2500, 2400));
    let again = json!({"into": "copies", "from": {"offset": 2400}, "to": {"offset": 2500}});
    let again = replay(again).await.expect(200).json();
    assert_eq!((&again["stored"], &again["duplicates"]), (&json!(0), &json!(100)));
    let page = admin.get("/api/v1/topics/copies/messages?max=1").await.expect(200).json();
    let copy = &page["messages"][0];
    assert_eq!((&copy["data"], &copy["key"]), (&json!({"n": 100}), &json!("k1")));
    assert_eq!(copy["headers"]["crossdock-origin"], "orders:100");
    assert_eq!(copy["headers"]["crossdock-origin-id"], "m100");
    let info = admin.get("/api/v1/topics/copies").await.expect(200).json();
    assert_eq!(info["tail"], 2400);

    for (wrong, code) in [
        (json!({"into": "nowhere", "from": "start"}), 404),
        (json!({"into": "_logs.x", "from": "start"}), 403),
        (json!({"into": "copies", "from": "start", "rate": 0}), 400),
        (json!({"into": "copies", "from": {"offset": 9}, "to": {"offset": 8}}), 400),
        (json!({"into": "copies"}), 400),
    ] {
        assert_eq!(replay(wrong.clone()).await.status, code, "{wrong}");
    }
    server.stop().await;
}

#[tokio::test]
async fn dead_letters_are_chosen_by_what_they_are_mended_and_delivered_again() {
    let server = server(6, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let taken = take(&server, 6).await;
    settle(&server, &taken[..3], &reject("no such customer")).await;
    settle(&server, &taken[3..], &reject("out of stock")).await;
    let path = format!("{SUBSCRIPTION}/dead-letters");
    let listed = admin.get(&format!("{path}?reason=stock&key=k1")).await.expect(200).json();
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(listed["dead_letters"][0]["offset"], 4);
    for (query, count) in [
        ("topic=orders", 6),
        ("topic=other", 0),
        ("by=billing", 6),
        ("by=audit", 0),
        ("header=a%3Db", 0),
        ("since=2026-01-01T00:00:00Z", 6),
        ("until=2026-01-01T00:00:00Z", 0),
    ] {
        let page = admin.get(&format!("{path}?{query}")).await.expect(200).json();
        assert_eq!(page["dead_letters"].as_array().unwrap().len(), count, "{query}");
    }
    for wrong in ["topic=a%20b", "since=soon", "header=a", "why=x"] {
        admin.get(&format!("{path}?{wrong}")).await.problem(400, "invalid_argument");
    }
    assert_eq!(admin.get(&format!("{path}/orders:0")).await.expect(200).json()["reason"], "no such customer");
    admin.get(&format!("{path}/orders:6")).await.problem(404, "not_found");
    admin.get(&format!("{path}/orders")).await.problem(400, "invalid_argument");

    let edit = |offset: u64, body: Value| {
        let path = format!("{path}/orders:{offset}");
        async move {
            let json = &[("content-type", "application/json")];
            admin.send("PATCH", &path, json, body.to_string().into_bytes()).await.unwrap()
        }
    };
    let _ = edit(4, json!({"data": {"n": "four"}})).await.expect(204);
    edit(9, json!({"data": 1})).await.problem(404, "not_found");
    edit(4, json!({})).await.problem(400, "invalid_argument");
    let letter = admin.get(&format!("{path}/orders:4")).await.expect(200).json();
    assert_eq!((&letter["message"]["data"], &letter["message"]["id"]), (&json!({"n": "four"}), &json!("m4")));

    let redrive = |body| async move {
        admin.post(&format!("{SUBSCRIPTION}/dead-letters/redrive"), &body).await.expect(200).json()
    };
    let matching = json!({"reason": "stock", "key": "k1"});
    assert_eq!(redrive(json!({"matching": matching, "dry_run": true})).await, json!({"count": 1}));
    assert!(fetch(&server, 10, Duration::from_millis(200)).await.is_empty(), "nothing was done");
    assert_eq!(redrive(json!({"matching": matching})).await, json!({"count": 1}));
    let again = take(&server, 1).await;
    assert_eq!((again[0].offset, &*again[0].record.payload()), (4, &br#"{"n":"four"}"#[..]));
    let stored = admin.get(&format!("{TOPIC}/messages?from=4&max=1")).await.expect(200).json();
    assert_eq!(stored["messages"][0]["data"], json!({"n": 4}), "the log stays as it is");

    let discard = |body| async move {
        admin.post(&format!("{SUBSCRIPTION}/dead-letters/discard"), &body).await.expect(200).json()
    };
    let customers = json!({"reason": "customer"});
    assert_eq!(discard(json!({"matching": customers, "dry_run": true})).await, json!({"count": 3}));
    assert_eq!(discard(json!({"matching": customers})).await, json!({"count": 3}));
    assert_eq!(redrive(json!({"all": true, "rate": 1000})).await, json!({"count": 2}));
    assert_eq!(offsets(&take(&server, 2).await), [3, 5]);
    server.stop().await;
}

#[tokio::test]
async fn the_life_of_a_message_is_told() {
    let server = server(3, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let taken = take(&server, 2).await;
    settle(&server, &taken[1..], &reject("no such customer")).await;
    let explain = |offset: u64| async move {
        admin.get(&format!("{TOPIC}/messages/{offset}/explain")).await.expect(200).json()
    };
    let states = ["in_flight", "dead_letter", "waiting"];
    for (offset, state) in (0..).zip(states) {
        let told = explain(offset).await;
        assert_eq!(told["message"]["data"], json!({"n": offset}), "{told}");
        assert_eq!(told["explanation"]["stored"]["id"], format!("m{offset}"));
        let situation = &told["explanation"]["subscriptions"][0];
        assert_eq!((&situation["subscription"], &situation["state"]), (&json!("billing"), &json!(state)));
    }
    let dead = explain(1).await;
    assert_eq!(dead["explanation"]["subscriptions"][0]["reason"], "no such customer");
    settle(&server, &taken[..1], &Outcome::Ack).await;
    assert_eq!(explain(0).await["explanation"]["subscriptions"][0]["state"], "done");
    let none = explain(77).await;
    assert!(none["explanation"]["gone"].is_string() && none.get("message").is_none(), "{none}");
    admin.get("/api/v1/topics/nowhere/messages/0/explain").await.problem(404, "not_found");
    admin.get(&format!("{TOPIC}/messages/soon/explain")).await.problem(400, "invalid_argument");
    server.stop().await;
}

#[tokio::test]
async fn a_publish_that_expects_another_end_stores_nothing_and_says_what_is_there() {
    let server = server(2, json!({"topics": ["orders"]})).await;
    let admin = &server.admin;
    let publish = |expected| async move {
        let body = json!({"messages": [{"data": 1}], "expected": expected});
        admin.post(&format!("{TOPIC}/messages"), &body).await
    };
    assert!(publish(json!({"last": 0})).await.problem(409, "conflict").contains('1'));
    let _ = publish(json!({"last": 1})).await.expect(201);
    publish(json!({"last": null})).await.problem(409, "conflict");
    publish(json!({})).await.problem(400, "invalid_argument");
    let compact = json!({"retention": {"compact": true}});
    let _ = admin.put("/api/v1/topics/prices", &compact).await.expect(201);
    let keyed = |last: Value| async move {
        let body = json!({"messages": [{"key": "k9", "data": 1}], "expected": {"key": "k9", "last": last}});
        admin.post("/api/v1/topics/prices/messages", &body).await
    };
    let first = keyed(Value::Null).await.expect(201).json()["receipts"][0]["offset"].clone();
    keyed(Value::Null).await.problem(409, "conflict");
    let _ = keyed(first).await.expect(201);
    server.stop().await;
}
