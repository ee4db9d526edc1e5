//! Several servers on one broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossdock_tests::{Beside, Client, Sandbox, eventually};
use serde_json::{Value, json};

use crate::orders::{self, SERVICE};
use crate::sandbox;

const PATIENCE: Duration = Duration::from_secs(60);

/// A quickstart with two servers on its broker, all of which run the service `route`.
async fn three() -> (Sandbox, Beside, Beside) {
    let mut sandbox = sandbox().on_fixed_ports().prepare();
    sandbox.start().await;
    let (one, two) = tokio::join!(sandbox.beside("one"), sandbox.beside("two"));
    for topic in ["orders", "shipments"] {
        let _ = sandbox.cli(&["topic", "create", topic]).await.expect(0);
    }
    sandbox.write("route.py", SERVICE);
    let deployed =
        sandbox.cli(&["service", "deploy", "route.py", "-o", "json", "--wait", "1m"]).await.expect(0);
    let deployed: Value = serde_json::from_str(&deployed.stdout).expect("JSON");
    assert_eq!((&deployed["ready"], deployed["servers"].as_array().map(Vec::len)), (&json!(true), Some(3)));
    (sandbox, one, two)
}

/// Publishes numbers through a gateway, each until it is acknowledged: under its own id, so that it is stored once.
async fn publish(gateway: &Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        orders::publish(gateway, number).await;
    }
}

/// The numbers that were shipped, with how often, once there are as many different ones as are given.
async fn shipped(sandbox: &Sandbox, count: usize) -> BTreeMap<u64, usize> {
    eventually("all to be shipped", PATIENCE, || async {
        let mut numbers = BTreeMap::new();
        for message in sandbox.admin().read_topic("shipments").await {
            let data: Value = serde_json::from_str(message.json()).ok()?;
            *numbers.entry(data["number"].as_u64()?).or_default() += 1;
        }
        (numbers.len() >= count).then_some(numbers)
    })
    .await
}

#[tokio::test]
async fn given_three_servers_when_one_is_killed_should_lose_nothing_and_do_nothing_twice() {
    let (mut sandbox, one, two) = three().await;
    // Any of them takes requests for all of them, and any of them answers.
    let mut answered = BTreeSet::new();
    eventually("all three to answer", PATIENCE, || async {
        let json = &[("content-type", "application/json")];
        let answer = two.admin().send("POST", "/api/v1/services/route/invoke", json, "null").await.ok()?;
        Some(answer.json()["by"].to_string())
    })
    .await;
    for client in [one.admin(), two.admin(), sandbox.admin()].iter().cycle().take(30) {
        let json = &[("content-type", "application/json")];
        let answer =
            client.send("POST", "/api/v1/services/route/invoke", json, "null").await.unwrap().expect(200);
        answered.insert(answer.json()["by"].to_string());
    }
    assert!(answered.len() > 1, "only {answered:?} answered");

    // One dies in the middle of work that all share.
    let through_two = two.gateway().clone();
    let publishing = tokio::spawn(async move { publish(&through_two, 0..300).await });
    eventually("some to be shipped", PATIENCE, || async {
        (sandbox.admin().read_topic("shipments").await.len() > 20).then_some(())
    })
    .await;
    one.kill().await;
    publishing.await.expect("all to be published");
    let numbers = shipped(&sandbox, 300).await;
    assert!(
        numbers.values().all(|count| *count == 1),
        "what is published comes with the acknowledgement: {numbers:?}"
    );

    // It is missed, and comes back.
    let members = || async {
        let status = two.admin().get("/api/v1/status").await.expect(200).json();
        status["members"].as_array().map(Vec::len)
    };
    eventually("it to be missed", PATIENCE, || async { (members().await == Some(2)).then_some(()) }).await;
    let one = sandbox.beside("one").await;
    eventually("it to be back", PATIENCE, || async { (members().await == Some(3)).then_some(()) }).await;
    one.stop().await;
    two.stop().await;
    sandbox.stop().await;
}

#[tokio::test]
async fn given_three_servers_when_something_is_changed_at_one_should_be_so_at_all() {
    let (mut sandbox, one, two) = three().await;
    // The secret is read by the server that is asked to apply the document.
    sandbox.write("bob", "correct horse");
    let document = format!(
        "users: [{{name: bob, password: \"file:{}\"}}]\n\
         permissions: [{{name: bob, users: [bob], invoke: [route]}}]\n\
         rest_channels: [{{name: route, path: /route, methods: [GET], service: route}}]\n",
        sandbox.home().join("bob").display()
    );
    let yaml = &[("content-type", "application/yaml")];
    let _ = one.admin().send("POST", "/api/v1/apply", yaml, document).await.unwrap().expect(200);
    for gateway in [sandbox.gateway(), one.gateway(), two.gateway()] {
        let bob = gateway.with_user(Some(("bob", "correct horse")));
        eventually("the channel and the user to be there", PATIENCE, || async {
            let answer = bob.send("GET", "/route", &[], Vec::new()).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    let removed = two.admin().send("DELETE", "/api/v1/rest-channels/route", &[], Vec::new()).await.unwrap();
    let _ = removed.expect(204);
    for gateway in [sandbox.gateway(), one.gateway()] {
        eventually("the channel to be gone", PATIENCE, || async {
            let answer = gateway.send("GET", "/route", &[], Vec::new()).await.ok()?;
            (answer.status == 404).then_some(())
        })
        .await;
    }
    one.stop().await;
    two.stop().await;
    sandbox.stop().await;
}

#[tokio::test]
async fn given_servers_when_their_broker_is_killed_and_started_again_should_go_on() {
    let (mut sandbox, one, two) = three().await;
    publish(one.gateway(), 0..20).await;
    sandbox.kill().await;
    eventually("the servers to notice", PATIENCE, || async {
        let health = one.gateway().with_user(None).send("GET", "/health", &[], Vec::new()).await.ok()?;
        (health.status == 503).then_some(())
    })
    .await;
    // What is published meanwhile is refused, or waits; whoever tries again gets it stored once.
    let through_one = one.gateway().clone();
    let publishing = tokio::spawn(async move { publish(&through_one, 20..60).await });
    sandbox.start().await;
    publishing.await.expect("all to be published");
    let numbers = shipped(&sandbox, 60).await;
    assert!(numbers.values().all(|count| *count == 1), "{numbers:?}");
    let info = eventually("the service to run on all again", PATIENCE, || async {
        let info = two.admin().get("/api/v1/services/route").await.json();
        let servers = info["servers"].as_array()?;
        (servers.len() == 3 && servers.iter().all(|server| server["state"] == "running")).then_some(info)
    })
    .await;
    assert_eq!(info["paused"], false);
    one.stop().await;
    two.stop().await;
    sandbox.stop().await;
}

#[tokio::test]
async fn given_a_server_without_admin_permission_or_credentials_when_started_should_be_refused() {
    let mut sandbox = sandbox().start().await;
    let server = |before: &str| {
        let broker = sandbox.broker_url();
        format!("{before} exec crossdock server --broker {broker} --dir other --port-base 0")
    };
    for (code, before, said) in [
        (4, "HOME=/nowhere XDG_CONFIG_HOME=/nowhere", "user"),
        (4, "export CROSSDOCK_USER=admin CROSSDOCK_PASSWORD=wrong;", ""),
        (2, "export CROSSDOCK_USER=admin;", "CROSSDOCK_PASSWORD"),
    ] {
        let ran = sandbox.bash(&server(before)).await.expect(code);
        assert!(ran.stderr.contains(said), "{ran:?}");
    }
    let open = sandbox
        .bash("crossdock server --broker rocksdb:other --bind-wire 0.0.0.0 --port-base 0")
        .await
        .expect(2);
    assert!(open.stderr.contains("--insecure") && open.stderr.contains("not encrypted"), "{open:?}");
    let open =
        sandbox.bash("crossdock server --broker rocksdb:other --bind 0.0.0.0 --port-base 0").await.expect(2);
    assert!(open.stderr.contains("--insecure"), "{open:?}");
    let none = sandbox.bash("crossdock server --broker kafka://h").await.expect(2);
    assert!(none.stderr.contains("crossdock://HOST:PORT"), "{none:?}");
    sandbox.stop().await;
}

#[tokio::test]
async fn given_a_certificate_when_one_server_has_the_broker_and_another_connects_should_be_encrypted() {
    let sandbox = sandbox().env("CROSSDOCK_ADMIN_PASSWORD", "correct horse").prepare();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    sandbox.write("cert.pem", &made.cert.pem());
    sandbox.write("key.pem", &made.signing_key.serialize_pem());
    let script = r#"
        trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
        crossdock server --broker rocksdb:data --dir one --port-base 0 --tls-cert cert.pem --tls-key key.pem -o json > one.json &
        until [ -s one.json ]; do kill -0 $!; sleep 0.1; done
        port=$(grep -o 'crossdocks://127.0.0.1:[0-9]*' one.json | grep -o '[0-9]*$')
        export CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='correct horse'
        crossdock server --broker crossdocks://localhost:$port --ca cert.pem --dir two --name two --port-base 0 -o json > two.json &
        until [ -s two.json ]; do kill -0 $!; sleep 0.1; done
        export CROSSDOCK_URL=$(grep -o '"admin_url":"[^"]*' two.json | cut -d '"' -f 4)
        until crossdock status | grep 'member.*two'; do sleep 0.1; done
        crossdock topic create orders -o name
    "#;
    let ran = sandbox.bash(script).await.expect(0);
    assert!(ran.stdout.ends_with("orders\n"), "{ran:?}");
}
