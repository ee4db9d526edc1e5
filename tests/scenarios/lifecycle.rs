//! Starting, stopping, starting again.

use std::time::Duration;

use crossdock_tests::eventually;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::sandbox;

#[tokio::test]
async fn given_an_empty_folder_when_started_should_be_ready_with_a_password_and_urls() {
    let mut sandbox = sandbox().start().await;
    let log = eventually("the password to be printed", Duration::from_secs(5), || async {
        Some(sandbox.log()).filter(|log| log.contains(sandbox.password()))
    })
    .await;
    assert!(log.contains(&sandbox.gateway().address()) && log.contains(&sandbox.admin().address()), "{log}");
    let health = sandbox.admin().with_user(None).get("/api/v1/health").await.expect(200).json();
    assert_eq!(health["ready"], true);
    let _ = sandbox.admin().with_user(None).get("/api/v1/status").await.problem(401, "unauthenticated");
    let wrong = sandbox.admin().with_user(Some(("admin", "wrong"))).get("/api/v1/status").await;
    let _ = wrong.problem(401, "unauthenticated");
    // The command line works at once, from the saved context.
    let status = sandbox.cli(&["status", "-o", "json"]).await.expect(0);
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON on stdout");
    assert_eq!(status["health"]["ready"], true);
    sandbox.stop().await;

    // Started again it keeps the password, and does not print it.
    let before = sandbox.log().len();
    sandbox.start().await;
    assert!(!sandbox.log()[before..].contains(sandbox.password()), "{}", sandbox.log());
    let _ = sandbox.cli(&["status"]).await.expect(0);
    sandbox.stop().await;
}

#[tokio::test]
async fn given_messages_and_a_subscription_when_killed_and_started_again_should_go_on_where_it_was() {
    let mut sandbox = sandbox().start().await;
    let _ = sandbox.cli(&["topic", "create", "orders"]).await.expect(0);
    let _ = sandbox.cli(&["sub", "create", "billing", "--topic", "orders"]).await.expect(0);
    for number in 0..10 {
        let receipt = sandbox.gateway().publish("orders", &json!({ "number": number })).await.json();
        assert_eq!(receipt["topic"], "orders");
        assert_eq!(receipt["durability"], "fsync");
    }
    let first = sandbox.gateway().fetch("billing", 4).await;
    assert_eq!(
        first.iter().map(|message| message["data"]["number"].clone()).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert!(first.iter().all(|message| message["attempt"] == 1));
    let _ = sandbox.gateway().ack("billing", &first).await;
    let held = sandbox.gateway().fetch("billing", 2).await;
    assert_eq!(held.len(), 2, "held, and not acknowledged, when the process is killed");

    sandbox.kill().await;
    sandbox.start().await;

    let mut seen = Vec::new();
    while seen.len() < 6 {
        let messages = sandbox.gateway().fetch("billing", 100).await;
        assert!(!messages.is_empty(), "some of the six that are left are missing: {seen:?}");
        let _ = sandbox.gateway().ack("billing", &messages).await;
        seen.extend(messages.iter().map(|message| message["data"]["number"].as_u64().unwrap_or_default()));
    }
    assert_eq!(seen, [4, 5, 6, 7, 8, 9], "those that were not acknowledged, in order, and no others");
    sandbox.stop().await;
}

#[tokio::test]
async fn given_a_running_server_when_a_second_one_starts_on_its_folder_should_be_refused() {
    let sandbox = sandbox().start().await;
    sandbox.gateway().get("/nowhere").await.problem(404, "not_found");
    let data = sandbox.data().display().to_string();
    let second = sandbox.cli(&["quickstart", &data, "--port-base", "0"]).await;
    assert!(second.code.is_some_and(|code| code != 0), "{second:?}");
    assert!(second.stderr.contains(&data), "it says which folder is in use: {}", second.stderr);
    let _ = sandbox.cli(&["status"]).await.expect(0);
}

#[tokio::test]
async fn given_a_port_in_use_when_started_should_say_which_and_what_to_do() {
    let sandbox = sandbox().prepare();
    let (taken, base) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        if port < 65_000 {
            break (listener, port);
        }
    };
    let data = sandbox.data().display().to_string();
    let refused = sandbox.cli(&["quickstart", &data, "--port-base", &base.to_string()]).await;
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.stderr.contains(&base.to_string()), "{}", refused.stderr);
    assert!(refused.stderr.contains("--port-base"), "{}", refused.stderr);
    drop(taken);
}

#[tokio::test]
async fn given_a_request_under_way_when_told_to_stop_should_answer_it_first() {
    let mut sandbox = sandbox().start().await;
    sandbox.write("slow.py", "import time\nfrom crossdock import serve\n\n@serve()\ndef slow():\n    time.sleep(1)\n    return {\"done\": True}\n");
    let _ = sandbox.cli(&["service", "deploy", "slow.py"]).await.expect(0);
    sandbox.write(
        "channels.yaml",
        "rest_channels:\n  - {name: slow, path: /slow, methods: [GET], service: slow}\n",
    );
    let _ = sandbox.cli(&["apply", "channels.yaml"]).await.expect(0);
    let gateway = sandbox.gateway().clone();
    let _ = eventually("the service to answer", Duration::from_secs(20), || async {
        (gateway.get("/slow").await.status == 200).then_some(())
    })
    .await;
    let under_way = tokio::spawn(async move { gateway.get("/slow").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    sandbox.stop().await;
    let answer = under_way.await.expect("the request").expect(200);
    assert_eq!(answer.json()["done"], true);
}

#[tokio::test]
async fn given_a_folder_whose_admin_was_locked_out_when_started_again_should_let_them_in() {
    let mut sandbox = sandbox().start().await;
    sandbox.write(
        "al.yaml",
        "users: [{name: al}]\npermissions: [{name: admin, users: [al], publish: ['**']}]\n",
    );
    let refused = sandbox.cli(&["apply", "al.yaml"]).await.expect(6);
    assert!(refused.stderr.contains("administrator"), "{}", refused.stderr);
    // Handed on to somebody else, it is theirs; whoever has the folder gets in again when they start it.
    sandbox.write("secret", "open sesame");
    let secret = sandbox.home().join("secret");
    sandbox.write(
        "taken.yaml",
        &format!(
            "users: [{{name: al, password: 'file:{}'}}]\npermissions: [{{name: admin, users: [al], admin: true}}]\n",
            secret.display()
        ),
    );
    let _ = sandbox.cli(&["apply", "taken.yaml"]).await.expect(0);
    eventually("the change to be seen", Duration::from_secs(5), || async {
        (sandbox.admin().get("/api/v1/status").await.status == 403).then_some(())
    })
    .await;
    sandbox.stop().await;
    sandbox.start().await;
    let _ = sandbox.cli(&["status"]).await.expect(0);
    assert!(sandbox.log().contains("admin-of-quickstart"), "{}", sandbox.log());
    let exported = sandbox.cli(&["export"]).await.expect(0).stdout;
    assert!(exported.contains("al"), "{exported}");
    sandbox.stop().await;
}
