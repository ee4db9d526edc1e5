//! Servers on NATS JetStream: nothing else is different from the other engines but the URL.

use std::time::Duration;

use crossdock_tests::{Client, Nats, Servers, eventually};
use serde_json::Value;

use crate::orders::{SERVICE, publish};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a nats-server with a login has in its configuration.
const LOGIN: &str = r#"authorization { user: crossdock, password: "s3cret-of-nats" }"#;

async fn servers(url: &str, count: usize) -> Servers {
    Servers::start(env!("CARGO_BIN_EXE_crossdock"), url, count).await
}

/// Makes the topics and deploys the service through the first server, which answers for all of them.
async fn deploy(servers: &Servers) {
    servers.write("route.py", SERVICE);
    let topics = "crossdock topic create orders && crossdock topic create shipments";
    let _ = servers.bash(0, topics).await.expect(0);
    let ran = servers.bash(0, "crossdock service deploy route.py --wait 1m -o json").await.expect(0);
    let deployed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(deployed["ready"], true, "{deployed}");
}

/// The numbers that were shipped, once there are so many.
async fn shipped(admin: &Client, count: usize) -> Vec<u64> {
    eventually("all to be shipped", PATIENCE, || async {
        let mut numbers = Vec::new();
        for message in admin.read_topic("shipments").await {
            let data: Value = serde_json::from_str(message.json()).ok()?;
            numbers.push(data["number"].as_u64()?);
        }
        numbers.sort_unstable();
        (numbers.len() >= count).then_some(numbers)
    })
    .await
}

async fn answers(client: &Client) {
    eventually("an answer", PATIENCE, || async {
        let json = &[("content-type", "application/json")];
        let answer = client.send("POST", "/api/v1/services/route/invoke", json, "null").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn given_one_server_on_nats_when_it_and_nats_are_killed_should_go_on_where_it_was() {
    let mut nats = Nats::start(1, LOGIN, "sync_interval: always").await;
    let url = nats.url().replace("nats://", "nats://crossdock:s3cret-of-nats@") + "?sync=always";
    let mut servers = servers(&url, 1).await;
    deploy(&servers).await;
    for number in 0..20 {
        publish(servers.get(0).gateway(), number).await;
    }
    assert_eq!(shipped(servers.get(0).admin(), 20).await, (0..20).collect::<Vec<_>>());
    answers(servers.get(0).admin()).await;

    let status = servers.bash(0, "crossdock status").await.expect(0).stdout;
    assert!(status.contains("NATS JetStream") && status.contains("a receipt says fsync"), "{status}");
    // Who asks NATS is nobody else's business.
    let pid = servers.get(0).pid();
    let arguments =
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("what others see of a process");
    for text in [&status, &servers.get(0).log(), &arguments] {
        assert!(!text.contains("s3cret"), "{text}");
    }

    servers.kill(0).await;
    nats.kill(0).await;
    nats.restart(0).await;
    servers.restart(0).await;
    publish(servers.get(0).gateway(), 20).await;
    assert_eq!(shipped(servers.get(0).admin(), 21).await, (0..=20).collect::<Vec<_>>());
    answers(servers.get(0).admin()).await;

    // Without NATS the server says that it cannot be relied on, and comes back by itself.
    let health = async |status: u16| {
        let gateway = servers.get(0).gateway().with_user(None);
        eventually("its health", PATIENCE, || async {
            let answer = gateway.send("GET", "/health", &[], Vec::new()).await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    };
    nats.kill(0).await;
    health(503).await;
    nats.restart(0).await;
    health(200).await;
    publish(servers.get(0).gateway(), 21).await;
    servers.stop_all().await;
}

#[tokio::test]
async fn given_a_nats_that_keeps_messages_once_and_may_not_sync_when_asked_should_say_so() {
    let nats = Nats::start(1, "", "").await;
    let mut servers = servers(&nats.url(), 1).await;
    let status = servers.get(0).admin().get("/api/v1/status").await.expect(200).json();
    let warning = status["health"]["warning"].as_str().unwrap_or_default();
    assert!(warning.contains("sync_interval") && warning.contains("?sync=always"), "{status}");
    assert_eq!(servers.get(0).log().matches("sync_interval").count(), 1);
    // A topic that is to be safe is not made where it would not be; one that is told to be less is.
    let ran = servers.bash(0, "crossdock topic create orders").await.expect(2);
    assert!(ran.stderr.contains("fsync"), "{}", ran.stderr);
    for topic in ["orders", "shipments"] {
        let _ = servers.bash(0, &format!("crossdock topic create {topic} --durability os")).await.expect(0);
    }
    servers.write("route.py", SERVICE);
    let _ = servers.bash(0, "crossdock service deploy route.py --wait 1m").await.expect(0);
    publish(servers.get(0).gateway(), 0).await;
    assert_eq!(shipped(servers.get(0).admin(), 1).await, [0]);
    answers(servers.get(0).admin()).await;
    let logs = servers.bash(0, "crossdock service logs route").await.expect(0);
    assert!(!logs.stderr.contains("not_found"), "{}", logs.stderr);
    servers.stop_all().await;
}

#[tokio::test]
async fn given_a_login_on_the_command_line_or_a_wrong_one_when_started_should_be_refused() {
    let nats = Nats::start(1, LOGIN, "sync_interval: always").await;
    let mut servers = servers(&nats.url().replace("nats://", "nats://crossdock:s3cret-of-nats@"), 1).await;
    let url = nats.url();
    let open = url.replace("nats://", "nats://crossdock:s3cret-of-nats@");
    servers.write("nats.json", r#"{"user": "crossdock", "password": "wrong"}"#);
    for (code, arguments, said) in [
        (2, format!("--broker {open}"), "CROSSDOCK_BROKER"),
        (4, format!("--broker {url}"), "refuses the login"),
        (4, format!("--broker {url} --credentials nats.json"), "refuses the login"),
        (2, String::new(), "--broker"),
    ] {
        let ran = servers
            .bash(0, &format!("crossdock server {arguments} --dir other --port-base 0"))
            .await
            .expect(code);
        assert!(ran.stderr.contains(said) && !ran.stderr.contains("s3cret"), "{ran:?}");
    }
    servers.stop_all().await;
}

#[tokio::test]
async fn given_nats_with_a_certificate_when_a_server_starts_on_it_should_be_encrypted() {
    let sandbox = crate::sandbox().env("CROSSDOCK_ADMIN_PASSWORD", "correct horse").prepare();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    sandbox.write("cert.pem", &made.cert.pem());
    sandbox.write("key.pem", &made.signing_key.serialize_pem());
    sandbox.write("nats.json", r#"{"user": "crossdock", "password": "s3cret-of-nats"}"#);
    let home = sandbox.home().display();
    let tls = format!("tls {{ cert_file: \"{home}/cert.pem\", key_file: \"{home}/key.pem\" }}\n{LOGIN}");
    let nats = Nats::start(1, &tls, "sync_interval: always").await;
    let port = nats.url().rsplit(':').next().unwrap_or_default().to_owned();
    let script = format!(
        r#"
        trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
        server() {{ exec crossdock server --broker "tls://localhost:{port}?sync=always" --credentials nats.json --port-base 0 "$@"; }}
        server --ca cert.pem -o json > one.json &
        until [ -s one.json ]; do kill -0 $!; sleep 0.1; done
        export CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='correct horse'
        export CROSSDOCK_URL=$(grep -o '"admin_url":"[^"]*' one.json | cut -d '"' -f 4)
        crossdock status
        crossdock topic create orders -o name
        "#
    );
    let ran = sandbox.bash(&script).await.expect(0);
    assert!(ran.stdout.contains("tls://localhost") && ran.stdout.ends_with("orders\n"), "{ran:?}");
}

/// What a change at one server is to be at all of them: a channel, a user, a service's code; and who is there.
async fn all_are_one(mut servers: Servers) {
    deploy(&servers).await;
    // Its code is larger than what NATS takes in one message of the store.
    servers.write("large.py", &format!("# {}\n{SERVICE}", "x".repeat(700_000)).replace("orders", "others"));
    let topic = "crossdock topic create others && crossdock service deploy large.py --wait 1m";
    let _ = servers.bash(1, topic).await.expect(0);
    servers.write("bob", "correct horse");
    servers.write(
        "bob.yaml",
        "users: [{name: bob, password: \"file:bob\"}]\n\
         permissions: [{name: bob, users: [bob], invoke: [route]}]\n\
         rest_channels: [{name: route, path: /route, methods: [GET], service: route}]\n",
    );
    let _ = servers
        .bash(2, "sed -i \"s#file:bob#file:$PWD/bob#\" bob.yaml && crossdock apply bob.yaml")
        .await
        .expect(0);
    for number in 0..3 {
        let bob = servers.get(number).gateway().with_user(Some(("bob", "correct horse")));
        eventually("the channel and the user to be there", PATIENCE, || async {
            let answer = bob.send("GET", "/route", &[], Vec::new()).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    for service in ["route", "large"] {
        let path = format!("/api/v1/services/{service}");
        eventually("it to run on all", PATIENCE, || async {
            let info = servers.get(0).admin().get(&path).await.json();
            let on = info["servers"].as_array()?;
            (on.len() == 3 && on.iter().all(|server| server["state"] == "running")).then_some(())
        })
        .await;
    }
    // All of them take and ship; one dies in the middle of it.
    let mut number = 0;
    let mut some = async |servers: &Servers, through: &[usize]| {
        for _ in 0..60 {
            publish(servers.get(through[number as usize % through.len()]).gateway(), number).await;
            number += 1;
        }
    };
    some(&servers, &[0, 1, 2]).await;
    servers.kill(0).await;
    some(&servers, &[1, 2]).await;
    let numbers = shipped(servers.get(1).admin(), 120).await;
    assert_eq!(numbers, (0..120).collect::<Vec<_>>(), "each once, with its acknowledgement");
    let members = async |servers: &Servers, count: usize| {
        eventually("all who are there to be known", PATIENCE, || async {
            let status = servers.get(1).admin().get("/api/v1/status").await.expect(200).json();
            (status["members"].as_array().map(Vec::len) == Some(count)).then_some(())
        })
        .await;
    };
    members(&servers, 2).await;
    servers.restart(0).await;
    members(&servers, 3).await;
    let removed = servers.get(0).admin().send("DELETE", "/api/v1/rest-channels/route", &[], Vec::new()).await;
    let _ = removed.expect("an answer").expect(204);
    for number in 1..3 {
        eventually("the channel to be gone", PATIENCE, || async {
            let answer = servers.get(number).gateway().send("GET", "/route", &[], Vec::new()).await.ok()?;
            (answer.status == 404).then_some(())
        })
        .await;
    }
    // What stops in order leaves at once, and nobody waits for it.
    servers.stop(2).await;
    members(&servers, 2).await;
    servers.stop_all().await;
}

#[tokio::test]
async fn given_three_servers_on_one_nats_server_should_be_one_cluster() {
    let nats = Nats::single().await;
    all_are_one(servers(&(nats.url() + "?sync=always"), 3).await).await;
}

#[tokio::test]
async fn given_three_servers_on_three_nats_servers_should_be_one_cluster() {
    let nats = Nats::cluster(3).await;
    all_are_one(servers(&nats.url(), 3).await).await;
}
