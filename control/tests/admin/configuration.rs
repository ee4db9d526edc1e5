//! Configurations: applied, refused, exported.

use crossdock_config::ServiceState;
use crossdock_config::service::version;
use crossdock_tests::Answer;
use serde_json::{Value, json};

use crate::server::Server;
use crate::worker;

async fn apply(server: &Server, query: &str, document: &str) -> Answer {
    server.admin.post_as("application/yaml", &format!("/api/v1/apply{query}"), document).await
}

/// `ACTION KIND NAME` of each step.
fn steps(answer: &Value) -> Vec<String> {
    let steps = answer["steps"].as_array().unwrap().iter();
    let words = |step: &Value| {
        ["action", "kind", "name"].map(|field| step[field].as_str().unwrap().to_owned()).join(" ")
    };
    steps.map(words).collect()
}

/// A file with a secret.
fn secret(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[tokio::test]
async fn applying_makes_all_of_it_and_applying_again_changes_nothing() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    let password = secret("open sesame\n");
    let document = format!(
        r"
topics:
- {{name: orders, durability: os, retention: {{max_age: 7d}}}}
subscriptions:
- {{name: billing, topics: [orders], max_failures: 3}}
services:
- {{name: route, code: routing, processes: 2}}
users:
- {{name: alice, password: 'file:{}'}}
permissions:
- {{name: operators, users: [alice], admin: true}}
rest_channels:
- {{name: intake, path: '/orders/{{id}}', topic: orders}}
",
        password.path().display()
    );
    let all = [
        "topic orders",
        "subscription billing",
        "service route",
        "user alice",
        "permission operators",
        "rest_channel intake",
    ];
    let with = |action: &str| all.map(|thing| format!("{action} {thing}"));

    let dry = apply(&server, "?dry_run=true", &document).await.expect(200).json();
    assert_eq!((&dry["dry_run"], steps(&dry)), (&json!(true), with("create").to_vec()));
    server.admin.get("/api/v1/topics/orders").await.problem(404, "not_found");

    worker::report(&server.broker, "one", "route", &version("routing"), ServiceState::Running);
    let made = apply(&server, "", &document).await.expect(200).json();
    assert_eq!((&made["dry_run"], steps(&made)), (&json!(false), with("create").to_vec()));
    assert_eq!(made["steps"][2]["detail"], "it runs");
    let topic = server.admin.get("/api/v1/topics/orders").await.expect(200).json();
    assert_eq!(topic["topic"]["durability"], "os");
    let service = server.admin.get("/api/v1/services/route").await.expect(200).json();
    assert_eq!(service["settings"]["processes"], 2);

    // Its own user is let in, without a restart.
    let alice = server.admin.with_user(Some(("alice", "open sesame")));
    let welcome =
        crossdock_tests::eventually("alice to be known", std::time::Duration::from_secs(5), || async {
            let answer = alice.get("/api/v1/status").await;
            (answer.status == 200).then_some(answer)
        });
    assert_eq!(welcome.await.json()["counts"]["rest_channels"], 1);

    let again = apply(&server, "", &document).await.expect(200).json();
    assert_eq!(steps(&again), with("unchanged"));
    let exported = server.admin.get("/api/v1/export").await.expect(200);
    assert_eq!(exported.header("content-type"), Some("application/yaml"));
    assert!(!exported.text().contains("argon2") && !exported.text().contains("sesame"));
    let exported = apply(&server, "?dry_run=true", &exported.text()).await.expect(200).json();
    assert!(steps(&exported).iter().all(|step| step.starts_with("unchanged ")), "{exported}");

    let changed = apply(&server, "", "topics: [{name: orders}]").await.expect(200).json();
    assert_eq!(steps(&changed), ["update topic orders"]);
    assert!(changed["steps"][0]["detail"].as_str().unwrap().contains("durability: os -> fsync"), "{changed}");
    // What a document does not name stays.
    let _ = server.admin.get("/api/v1/subscriptions/billing").await.expect(200);
    // A new password takes the old one's place.
    std::fs::write(password.path(), "close sesame").unwrap();
    let changed = apply(&server, "", &document).await.expect(200).json();
    assert!(steps(&changed).contains(&"update user alice".to_owned()), "{changed}");
    server.stop().await;
}

#[tokio::test]
async fn a_document_with_faults_does_nothing_and_names_every_place() {
    let server = Server::start().await;
    let document = "topics:\n- {name: orders}\n- {name: other, durabilty: os}\nsubscriptions:\n- {name: s, topics: [nowhere]}\n";
    let answer = apply(&server, "", document).await;
    let problem = answer.json();
    answer.problem(400, "invalid_argument");
    assert_eq!(problem["line"], 3, "{problem}");
    assert!(problem["faults"].as_array().unwrap().len() >= 2, "{problem}");
    server.admin.get("/api/v1/topics/orders").await.problem(404, "not_found");

    let literal = apply(&server, "", "users: [{name: eve, password: hunter22}]").await;
    assert!(!literal.text().contains("hunter22"), "{}", literal.text());
    literal.problem(400, "invalid_argument");
    let missing =
        apply(&server, "?dry_run=true", "users: [{name: eve, password: 'env:CROSSDOCK_NOT_SET'}]").await;
    assert!(missing.problem(400, "invalid_argument").contains("CROSSDOCK_NOT_SET"));
    apply(&server, "", "topics: [").await.problem(400, "invalid_argument");
    apply(&server, "", "\u{0}").await.problem(400, "invalid_argument");
    apply(&server, "?dryrun=true", "").await.problem(400, "invalid_argument");
    let form = server.admin.post_as("application/x-www-form-urlencoded", "/api/v1/apply", "topics: []").await;
    form.problem(415, "unsupported_content");
    let nothing = apply(&server, "", "").await.expect(200).json();
    assert_eq!(nothing, json!({"dry_run": false, "steps": []}));
    server.stop().await;
}

#[tokio::test]
async fn when_a_step_fails_the_ones_before_it_are_told() {
    let server = Server::start().await;
    worker::serve(&server.broker).await;
    let document =
        "topics: [{name: orders}]\nservices: [{name: route, code: broken}]\npermissions: [{name: p}]\n";
    let answer = apply(&server, "", document).await;
    let problem = answer.json();
    let text = answer.problem(500, "service_failed");
    assert!(text.contains("service route") && text.contains("NameError"), "{text}");
    assert_eq!(steps(&problem), ["create topic orders"]);
    let _ = server.admin.get("/api/v1/topics/orders").await.expect(200);
    let status = server.admin.get("/api/v1/status").await.expect(200).json();
    assert_eq!(status["counts"]["permissions"], 2);
    server.stop().await;
}

#[tokio::test]
async fn many_who_apply_at_once_all_get_through() {
    let server = Server::start().await;
    let applying = (0..16).map(|n| {
        let admin = server.admin.clone();
        let document = format!("permissions: [{{name: shared, users: [bob], publish: [topic-{n}]}}]");
        tokio::spawn(async move { admin.post_as("application/yaml", "/api/v1/apply", document).await })
    });
    for answer in applying.collect::<Vec<_>>() {
        let _ = answer.await.unwrap().expect(200);
    }
    let exported = server.admin.get("/api/v1/export").await.expect(200).text();
    assert_eq!(exported.matches("name: shared").count(), 1, "{exported}");
    server.stop().await;
}

#[tokio::test]
async fn the_last_administrator_is_not_locked_out() {
    let server = Server::start().await;
    let lost = "users: [{name: al}]\npermissions: [{name: admins, users: [al], publish: ['**']}]";
    // Users without a password or a key do not count: nobody gets in as one of them.
    let nobody = "users: [{name: al}]\npermissions: [{name: admins, users: [al], admin: true}]";
    for document in [lost, nobody] {
        for query in ["", "?dry_run=true"] {
            let text = apply(&server, query, document).await.problem(409, "conflict");
            assert!(text.contains("administrator"), "{text}");
        }
    }
    let _ = server.admin.get("/api/v1/status").await.expect(200);
    let password = secret("open sesame");
    let handed_on = format!(
        "users: [{{name: al, password: 'file:{}'}}]\npermissions: [{{name: admins, users: [al], admin: true}}]",
        password.path().display()
    );
    let _ = apply(&server, "", &handed_on).await.expect(200);
    server.stop().await;
}
