//! Services: deployed, rolled back, paused, asked, read, removed.

use std::time::Duration;

use crossdock_config::ServiceState::{Failed, Paused, Running};
use crossdock_config::service::version;
use crossdock_tests::eventually;
use crossdock_topics::{Batch, Expect, Log, Message, Requests, Subscription, Subscriptions, Topic};
use serde_json::{Value, json};

use crate::server::Server;
use crate::worker;

async fn member_known(server: &Server) {
    eventually("the server to be a member", Duration::from_secs(5), || async {
        let status = server.admin.get("/api/v1/status").await.expect(200).json();
        (!status["members"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
}

async fn deploy(server: &Server, body: Value) -> crossdock_tests::Answer {
    server.admin.post("/api/v1/services/route/deploy", &body).await
}

#[tokio::test]
async fn a_deployment_is_answered_when_every_member_has_reported() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    member_known(&server).await;
    worker::join(&server.broker, "two").await;

    worker::report(&server.broker, "one", "route", &version("a"), Running);
    worker::report(&server.broker, "two", "route", &version("a"), Running);
    let answer = deploy(&server, json!({"source": "a", "wait": "20s"})).await.expect(200);
    assert!(answer.took < Duration::from_secs(10), "it took {:?}", answer.took);
    let done = answer.json();
    assert_eq!(
        (&done["version"], &done["changed"], &done["ready"]),
        (&json!(version("a")), &json!(true), &json!(true))
    );
    assert_eq!(done["manifest"]["handlers"][0]["subscription"], "a");
    assert_eq!(done["servers"].as_array().unwrap().len(), 2);

    let again = deploy(&server, json!({"source": "a", "wait": "20s"})).await.expect(200);
    assert!(again.took < Duration::from_secs(10), "it took {:?}", again.took);
    assert_eq!((&again.json()["changed"], &again.json()["ready"]), (&json!(false), &json!(true)));

    worker::report(&server.broker, "one", "route", &version("b"), Running);
    worker::report(&server.broker, "two", "route", &version("b"), Failed);
    let failed = deploy(&server, json!({"source": "b", "wait": "20s"})).await.expect(200).json();
    assert_eq!(failed["ready"], false);
    assert_eq!(failed["servers"][1]["reason"], "it exits at once");

    let late = deploy(&server, json!({"source": "c", "wait": "500ms"})).await.expect(200).json();
    assert_eq!(late["ready"], false);
    assert_eq!(late["servers"][0]["state"], "starting");
    assert_eq!(late["servers"][0]["version"], version("c"));
    server.stop().await;
}

#[tokio::test]
async fn a_deployment_names_the_subscriptions_that_it_leaves_behind() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    server.broker.put_topic(Topic::new("orders".parse().unwrap()), Expect::Absent).await.unwrap();
    let left_behind = |answer: crossdock_tests::Answer| answer.expect(200).json()["left_behind"].clone();
    for source in ["a", "b"] {
        let subscription = Subscription::new(source.parse().unwrap(), vec!["orders".parse().unwrap()]);
        server.broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    }
    assert_eq!(left_behind(deploy(&server, json!({"source": "a", "wait": "0s"})).await), Value::Null);
    assert_eq!(left_behind(deploy(&server, json!({"source": "b", "wait": "0s"})).await), json!(["a"]));
    let back = server.admin.post("/api/v1/services/route/rollback", &json!({"wait": "0s"})).await;
    assert_eq!(left_behind(back), json!(["b"]));
    // What is gone is not named.
    server.broker.delete_subscription(&"b".parse().unwrap()).await.unwrap();
    assert_eq!(left_behind(deploy(&server, json!({"source": "a", "wait": "0s"})).await), Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_deployed_changes_nothing() {
    let server = Server::start().await;
    let nobody = deploy(&server, json!({"source": "a"})).await.problem(503, "unavailable");
    assert!(nobody.contains("worker"), "{nobody}");
    worker::serve(&server.broker).await;
    let traceback = deploy(&server, json!({"source": "broken"})).await.problem(500, "service_failed");
    assert!(traceback.contains("NameError"), "{traceback}");
    deploy(&server, json!({"source": " "})).await.problem(400, "invalid_argument");
    deploy(&server, json!({})).await.problem(400, "invalid_argument");
    deploy(&server, json!({"source": "a", "wait": "1h"})).await.problem(400, "invalid_argument");
    deploy(&server, json!({"source": "a", "settings": {"processes": 0}}))
        .await
        .problem(400, "invalid_argument");
    deploy(&server, json!({"source": "a", "settings": {"cpus": 1}})).await.problem(400, "invalid_argument");
    let large = "#".repeat(8 * 1024 * 1024 + 1);
    deploy(&server, json!({"source": large})).await.problem(413, "too_large");
    server.admin.get("/api/v1/services/route").await.problem(404, "not_found");
    assert_eq!(server.admin.get("/api/v1/services").await.expect(200).json(), json!({"services": []}));
    server.stop().await;
}

#[tokio::test]
async fn a_service_goes_back_pauses_resumes_and_keeps_its_settings() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    let admin = &server.admin;
    let settings = json!({"processes": 3});
    let _ = deploy(&server, json!({"source": "a", "settings": settings, "wait": "0s"})).await.expect(200);
    let _ = deploy(&server, json!({"source": "b", "wait": "0s"})).await.expect(200);
    let info = admin.get("/api/v1/services/route").await.expect(200).json();
    assert_eq!((&info["current"], &info["settings"]["processes"]), (&json!(version("b")), &json!(3)));
    assert_eq!(info["versions"][0]["by"], "admin");

    let path = "/api/v1/services/route/rollback";
    let none = json!({"version": "v-x"});
    admin.post(path, &none).await.problem(404, "not_found");
    member_known(&server).await;
    worker::report(&server.broker, "one", "route", &version("a"), Running);
    let back = admin.post_as("application/json", path, "").await.expect(200).json();
    assert_eq!(back["ready"], true);
    assert_eq!((&back["version"], &back["changed"]), (&json!(version("a")), &json!(true)));
    admin.post(path, &json!({"wait": "0s"})).await.problem(409, "conflict");
    let forth = admin.post(path, &json!({"version": version("b"), "wait": "0s"})).await.expect(200).json();
    assert_eq!(forth["version"], version("b"));

    worker::report(&server.broker, "one", "route", &version("b"), Paused);
    let paused = admin.post("/api/v1/services/route/pause", &json!({})).await.expect(200).json();
    assert_eq!((&paused["paused"], &paused["servers"][0]["state"]), (&json!(true), &json!("paused")));
    worker::report(&server.broker, "one", "route", &version("b"), Running);
    let resumed = admin.post("/api/v1/services/route/resume", &json!({})).await.expect(200).json();
    assert_eq!((&resumed["paused"], &resumed["servers"][0]["state"]), (&json!(false), &json!("running")));
    admin.post("/api/v1/services/other/pause", &json!({})).await.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test]
async fn removing_a_service_leaves_its_subscriptions_unless_told() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    let admin = &server.admin;
    let _ = admin.put("/api/v1/topics/orders", &json!({})).await.expect(201);
    let _ = admin.put("/api/v1/subscriptions/a", &json!({"topics": ["orders"]})).await.expect(201);
    let remove = |name: &'static str, query: &'static str| async move {
        let path = format!("/api/v1/services/{name}{query}");
        admin.send("DELETE", &path, &[], Vec::new()).await.unwrap()
    };
    let body = json!({"source": "a", "wait": "0s"});
    let _ = deploy(&server, body.clone()).await.expect(200);
    let _ = remove("route", "").await.expect(204);
    remove("route", "").await.problem(404, "not_found");
    let _ = admin.get("/api/v1/subscriptions/a").await.expect(200);

    // Two services that share code and subscription: the last one to go takes it along.
    let _ = deploy(&server, body.clone()).await.expect(200);
    let _ = admin.post("/api/v1/services/twin/deploy", &body).await.expect(200);
    let _ = remove("route", "?subscriptions=true").await.expect(204);
    let _ = admin.get("/api/v1/subscriptions/a").await.expect(200);
    let code = crossdock_config::keys::code(&version("a"));
    let store: &dyn crossdock_topics::Store = &*server.broker;
    assert!(store.get(&code).await.unwrap().is_some());
    let _ = remove("twin", "?subscriptions=true").await.expect(204);
    admin.get("/api/v1/subscriptions/a").await.problem(404, "not_found");
    assert!(store.get(&code).await.unwrap().is_none());
    remove("twin", "?subscription=true").await.problem(400, "invalid_argument");
    server.stop().await;
}

#[tokio::test]
async fn a_service_is_asked_and_its_reply_comes_back_as_it_is() {
    let server = Server::start().await;
    let admin = &server.admin;
    let ask = |query: &'static str| async move {
        let path = format!("/api/v1/services/echo/invoke{query}");
        admin.post_as("text/plain", &path, "ping").await
    };
    ask("").await.problem(503, "unavailable");
    let mut requests = server.broker.serve(&"echo".parse().unwrap(), 10).await.unwrap();
    let serving = tokio::spawn(async move {
        let request = requests.recv().await.unwrap();
        let asked = &request.message;
        assert_eq!(
            (asked.content_type.as_deref(), asked.header(":user")),
            (Some("text/plain"), Some("admin"))
        );
        assert_eq!(&asked.payload[..], b"ping");
        let content_type = Some("text/x-pong".into());
        request.responder.reply(Ok(Message { content_type, ..Message::new("pong") }));
        requests // kept, so that the next one waits in vain
    });
    let reply = ask("").await.expect(200);
    assert_eq!((reply.header("content-type"), reply.text().as_str()), (Some("text/x-pong"), "pong"));
    let kept = serving.await.unwrap();
    ask("?timeout=200ms").await.problem(504, "timeout");
    ask("?timeout=2h").await.problem(400, "invalid_argument");
    drop(kept);
    admin.post("/api/v1/services/_workers.deploy/invoke", &json!({})).await.problem(403, "permission_denied");
    server.stop().await;
}

#[tokio::test]
async fn the_log_shows_its_end_and_goes_on_from_there() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    let admin = &server.admin;
    admin.get("/api/v1/services/route/logs").await.problem(404, "not_found");
    let _ = deploy(&server, json!({"source": "a", "wait": "0s"})).await.expect(200);
    let empty = admin.get("/api/v1/services/route/logs?wait=300ms").await.expect(200);
    assert_eq!(empty.json(), json!({"lines": [], "next": 0}));
    assert!(empty.took >= Duration::from_millis(300), "it took {:?}", empty.took);
    let topic: crossdock_topics::TopicName = "_logs.route".parse().unwrap();
    server.broker.put_topic(Topic::new(topic.clone()), crossdock_topics::Expect::Any).await.unwrap();
    let mut batch = Batch::default();
    for n in 0..10 {
        let line =
            Message::new(format!("line {n}")).with_header("stream", "stdout").with_header("server", "one");
        batch.push(&line).unwrap();
    }
    batch.push(&Message::new(&b"\xff!"[..])).unwrap();
    server.broker.publish(&topic, batch, Default::default()).await.unwrap();
    let last = admin.get("/api/v1/services/route/logs?max=3").await.expect(200).json();
    let lines: Vec<_> = last["lines"].as_array().unwrap().iter().map(|line| line["line"].clone()).collect();
    assert_eq!(lines, [json!("line 8"), json!("line 9"), json!("\u{fffd}!")]);
    assert_eq!((&last["lines"][0]["stream"], &last["next"]), (&json!("stdout"), &json!(11)));
    let all = admin.get("/api/v1/services/route/logs?from=start").await.expect(200).json();
    assert_eq!(all["lines"].as_array().unwrap().len(), 11);
    let none = admin.get("/api/v1/services/route/logs?from=11").await.expect(200).json();
    assert_eq!(none["lines"], json!([]));
    server.stop().await;
}
