//! The server as a member of its cluster.

use std::time::Duration;

use crossdock_config::keys;
use crossdock_tests::eventually;
use crossdock_topics::{Expect, Store};

use crate::server::Server;

#[tokio::test]
async fn a_server_is_a_member_while_it_runs_and_not_after() {
    let server = Server::start().await;
    let health = server.admin.with_user(None).get("/api/v1/health").await.expect(200).json();
    assert_eq!(health, serde_json::json!({"ready": true}));
    let status = eventually("a member", Duration::from_secs(5), || async {
        let status = server.admin.get("/api/v1/status").await.expect(200).json();
        (!status["members"].as_array().unwrap().is_empty()).then_some(status)
    })
    .await;
    assert_eq!(status["server"], "one");
    assert_eq!(status["members"][0]["name"], "one");
    assert_eq!(status["members"][0]["gateway_url"], "http://127.0.0.1:7400");
    assert_eq!(status["health"]["ready"], true);
    assert_eq!(status["counts"]["users"], 2);
    assert_eq!(status["counts"]["permissions"], 2);
    assert!(status["memory"]["resident_bytes"].as_u64().unwrap() > 1_000_000);

    let broker = server.broker.clone();
    server.shutdown.begin();
    eventually("the member to go", Duration::from_secs(5), || async {
        broker.get(&keys::member("one")).await.unwrap().is_none().then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_membership_that_was_lost_comes_back() {
    let server = Server::start().await;
    let store: &dyn Store = &*server.broker;
    let key = keys::member("one");
    let there = || async { store.get(&key).await.unwrap() };
    let first = eventually("a member", Duration::from_secs(5), there).await;
    store.delete(&key, Expect::Any).await.unwrap();
    let second = eventually("the member to come back", Duration::from_secs(8), there).await;
    assert_eq!(first.value, second.value);
    assert!(second.revision > first.revision);
    server.stop().await;
}
