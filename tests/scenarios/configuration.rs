//! One YAML: applied, applied again, exported, and applied elsewhere.

use serde_json::{Value, json};

use crate::sandbox;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/github-webhooks/crossdock.yaml");

const USERS: &str = "
topics: [{name: orders.new}, {name: orders.old}, {name: secret}]
users: [{name: bob, password: env:BOB_PASSWORD, api_key: env:BOB_KEY}]
permissions: [{name: bobs, users: [bob], publish: [\"orders.*\"]}]
";

fn steps(stdout: &str) -> Vec<Value> {
    serde_json::from_str(stdout).expect("a list of steps on stdout")
}

#[tokio::test]
async fn given_a_document_when_applied_again_or_elsewhere_should_change_nothing_more() {
    let first = sandbox().env("GITHUB_SECRET", "unspoken").start().await;
    let applied = steps(&first.cli(&["apply", EXAMPLE, "-o", "json"]).await.expect(0).stdout);
    assert!(applied.len() > 60 && applied.iter().all(|step| step["action"] == "create"), "{applied:?}");
    let again = steps(&first.cli(&["apply", EXAMPLE, "-o", "json"]).await.expect(0).stdout);
    assert_eq!(again.len(), applied.len());
    assert!(again.iter().all(|step| step["action"] == "unchanged"), "{again:?}");

    let exported = first.cli(&["export"]).await.expect(0).stdout;
    assert!(!exported.contains("unspoken"), "a secret was exported");
    assert!(!first.log().contains("unspoken"), "a secret was logged");
    let second = sandbox().env("GITHUB_SECRET", "unspoken").start().await;
    second.write("all.yaml", &exported);
    let _ = second.cli(&["apply", "all.yaml"]).await.expect(0);
    assert_eq!(second.cli(&["export"]).await.expect(0).stdout, exported);
}

#[tokio::test]
async fn given_the_guide_to_the_configuration_when_its_example_is_applied_twice_should_change_nothing_more() {
    let guide = include_str!("../../docs/CONFIG.md");
    let (_, rest) = guide.split_once("```yaml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let sandbox = sandbox()
        .env("DB_PASSWORD", "unspoken")
        .env("ALICE_PASSWORD", "unspoken")
        .env("ALICE_KEY", "alice.0123456789abcdef")
        .env("PAYMENTS_SECRET", "unspoken")
        .start()
        .await;
    sandbox
        .write("route.py", "from crossdock import serve\n\n@serve()\ndef answer(data):\n    return data\n");
    sandbox.write("all.yaml", &example.replace("file:/run/secrets/alice", "env:ALICE_PASSWORD"));
    let created = steps(&sandbox.cli(&["apply", "all.yaml", "-o", "json"]).await.expect(0).stdout);
    assert!(created.len() == 10 && created.iter().all(|step| step["action"] == "create"), "{created:?}");
    let again = steps(&sandbox.cli(&["apply", "all.yaml", "-o", "json"]).await.expect(0).stdout);
    assert!(again.iter().all(|step| step["action"] == "unchanged"), "{again:?}");
}

#[tokio::test]
async fn given_a_user_when_permitted_some_topics_should_reach_those_and_no_others() {
    let sandbox =
        sandbox().env("BOB_PASSWORD", "first secret").env("BOB_KEY", "bob.0123456789abcdef").start().await;
    sandbox.write("users.yaml", USERS);
    let _ = sandbox.cli(&["apply", "users.yaml"]).await.expect(0);
    let bob = sandbox.gateway().with_user(Some(("bob", "first secret")));
    let _ = bob.publish("orders.new", &json!(1)).await;
    let denied = bob.post("/topics/secret/messages", &json!(1)).await.problem(403, "permission_denied");
    assert!(denied.contains("bob") && denied.contains("secret"), "{denied}");
    let status = sandbox.admin().with_user(Some(("bob", "first secret"))).get("/api/v1/status").await;
    let _ = status.problem(403, "permission_denied");
    let wrong = sandbox.gateway().with_user(Some(("bob", "second secret")));
    let _ = wrong.post("/topics/orders.new/messages", &json!(1)).await.problem(401, "unauthenticated");

    let nobody = sandbox.gateway().with_user(None);
    let key = [("x-api-key", "bob.0123456789abcdef"), ("content-type", "application/json")];
    let by_key = nobody.send("POST", "/topics/orders.old/messages", &key, "1").await.expect("an answer");
    let _ = by_key.expect(201);

    // Taken back, it is gone at every part within a second.
    sandbox.write("less.yaml", "permissions: [{name: bobs, users: [bob], publish: [\"orders.old\"]}]\n");
    let _ = sandbox.cli(&["apply", "less.yaml"]).await.expect(0);
    crossdock_tests::eventually("the permission to be gone", std::time::Duration::from_secs(1), || async {
        (bob.post("/topics/orders.new/messages", &json!(1)).await.status == 403).then_some(())
    })
    .await;
    let exported = sandbox.cli(&["export"]).await.expect(0).stdout;
    for secret in ["first secret", "0123456789abcdef", "argon2"] {
        assert!(!exported.contains(secret) && !sandbox.log().contains(secret), "{secret} is shown");
    }
}
