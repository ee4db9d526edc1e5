//! `quickstart --cluster`: three servers and three nats-servers on one machine.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_tests::{Client, Sandbox, eventually};
use serde_json::Value;

use crate::orders::publish;
use crate::sandbox;

const PATIENCE: Duration = Duration::from_secs(90);

/// Turns orders into shipments, and answers.
const SERVICE: &str = r#"
from crossdock import Context, consume, serve

@consume("orders")
def ship(number: int, ctx: Context):
    ctx.publish("shipments", {"number": number})

@serve()
def hello():
    return {"hello": "there"}
"#;

const CHANNEL: &str = "rest_channels: [{name: hello, path: /hello, methods: [GET], service: hello}]\n";

/// The processes that another one has started, by their arguments.
fn children(of: u32) -> BTreeMap<String, u32> {
    let processes = std::fs::read_dir("/proc").expect("processes");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let arguments = |pid: u32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&text).replace('\0', " "))
    };
    pids.filter(|pid| parent(*pid) == Some(of)).filter_map(|pid| Some((arguments(pid)?, pid))).collect()
}

/// The child of the quickstart that is called so: a nats-server by its configuration, a server by its name.
fn child(sandbox: &Sandbox, name: &str) -> Option<u32> {
    let all = children(sandbox.pid());
    all.into_iter().find(|(arguments, _)| arguments.contains(name)).map(|(_, pid)| pid)
}

async fn kill(pid: u32) {
    let status = tokio::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().await;
    assert!(status.expect("the kill command").success());
}

/// The gateways and Admin APIs of all servers, as the saved contexts lead to them.
fn faces(sandbox: &Sandbox) -> Vec<(Client, Client)> {
    let text = std::fs::read(sandbox.home().join(".config/crossdock/contexts.json")).expect("saved contexts");
    let saved: Value = serde_json::from_slice(&text).expect("JSON");
    let saved = saved["contexts"].as_object().expect("contexts");
    assert_eq!(saved.len(), 3, "{:?}", saved.keys());
    let user = || Some(("admin".to_owned(), sandbox.password().to_owned()));
    let client = |context: &Value, field: &str| Client::new(context[field].as_str().expect("a URL"), user());
    saved.values().map(|context| (client(context, "gateway_url"), client(context, "url"))).collect()
}

async fn shipped(admin: &Client, count: u32) -> Vec<u64> {
    eventually("all to be shipped", PATIENCE, || async {
        let answer = admin.send("GET", "/api/v1/topics/shipments", &[], Vec::new()).await.ok()?;
        (answer.status == 200).then_some(())?;
        let mut numbers = Vec::new();
        for message in admin.read_topic("shipments").await {
            let data: Value = serde_json::from_str(message.json()).ok()?;
            numbers.push(data["number"].as_u64()?);
        }
        numbers.sort_unstable();
        (numbers.len() >= count as usize).then_some(numbers)
    })
    .await
}

/// Asks the service by REST, until it answers.
async fn hello(gateway: &Client) {
    eventually("the service to answer", PATIENCE, || async {
        let answer = gateway.send("GET", "/hello", &[], Vec::new()).await.ok()?;
        (answer.status == 200).then(|| assert_eq!(answer.json()["hello"], "there"))
    })
    .await;
}

#[tokio::test]
async fn given_a_cluster_on_one_machine_when_any_of_its_processes_is_killed_should_go_on() {
    let mut sandbox = sandbox().as_cluster().start().await;
    let all = faces(&sandbox);
    for topic in ["orders", "shipments"] {
        let _ = sandbox.cli(&["topic", "create", topic]).await.expect(0);
    }
    sandbox.write("hello.py", SERVICE);
    let _ = sandbox.cli(&["service", "deploy", "hello.py", "--wait", "1m"]).await.expect(0);
    // What is applied at one is so at all, and any of them answers.
    let yaml = &[("content-type", "application/yaml")];
    let _ = all[1].1.send("POST", "/api/v1/apply", yaml, CHANNEL).await.expect("an answer").expect(200);
    for (gateway, _) in &all {
        hello(gateway).await;
    }
    let status = sandbox.cli(&["status"]).await.expect(0).stdout;
    assert!(status.contains("quorum(3)") && !status.contains("warning"), "{status}");

    let (first, second, third) = (&all[0].0, &all[1].0, &all[2].0);
    for number in 0..30 {
        publish([first, second, third][number as usize % 3], number).await;
    }
    // None of them is asked before it is killed: acknowledged is acknowledged.
    let killed = [child(&sandbox, "nats-2").expect("nats-2"), child(&sandbox, "server-2").expect("server-2")];
    for pid in killed {
        kill(pid).await;
    }
    for number in 30..60 {
        publish([first, third][number as usize % 2], number).await;
    }
    hello(third).await;
    assert_eq!(shipped(&all[2].1, 60).await, (0..60).collect::<Vec<_>>(), "all, and each once");
    // Both are back, as other processes.
    for name in ["nats-2", "server-2"] {
        let back = || async { child(&sandbox, name).filter(|pid| !killed.contains(pid)) };
        let _ = eventually("it to be started again", PATIENCE, back).await;
    }
    hello(second).await;
    publish(second, 60).await;
    assert_eq!(shipped(&all[1].1, 61).await.len(), 61);
    let log = sandbox.log();
    assert!(log.contains("server-2 ended (signal 9)") && !log.contains("password\":"), "{log}");
    for arguments in children(sandbox.pid()).keys() {
        assert!(!arguments.contains(sandbox.password()) && !arguments.contains('@'), "{arguments}");
    }

    // All end with the one that started them, however it ends, and another start goes on from there.
    let pids: Vec<u32> = children(sandbox.pid()).into_values().collect();
    assert_eq!(pids.len(), 6);
    sandbox.kill().await;
    eventually("all to end", PATIENCE, || async {
        let gone = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        pids.iter().all(gone).then_some(())
    })
    .await;
    sandbox.start().await;
    let all = faces(&sandbox);
    assert_eq!(shipped(&all[2].1, 61).await, (0..61).collect::<Vec<_>>());
    hello(&all[1].0).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn given_no_nats_server_or_other_data_when_a_cluster_is_started_should_say_what_to_do() {
    let sandbox = sandbox().prepare();
    let ran = sandbox
        .bash("PATH=$(dirname $(command -v crossdock)) crossdock quickstart new --cluster --port-base 0")
        .await;
    let ran = ran.expect(3);
    assert!(ran.stderr.contains("--nats-server") && ran.stderr.contains("2.12"), "{}", ran.stderr);
    assert!(!sandbox.home().join("new").exists(), "nothing is made");
    let ran = sandbox.cli(&["quickstart", "new", "--cluster", "--nats-server", "/nowhere"]).await.expect(3);
    assert!(ran.stderr.contains("/nowhere"), "{}", ran.stderr);
    // A program that is another one ends, and its words are shown.
    let other = "crossdock quickstart other --cluster --port-base 0 --nats-server /bin/false";
    let ran = sandbox.bash(other).await.expect(5);
    assert!(ran.stderr.contains("ended before it was ready (exit code 1)"), "{}", ran.stderr);
    std::fs::create_dir_all(sandbox.home().join("single/broker")).expect("a folder");
    let ran =
        sandbox.cli(&["quickstart", "single", "--cluster", "--nats-server", "/bin/false"]).await.expect(6);
    assert!(ran.stderr.contains("--cluster"), "{}", ran.stderr);
    sandbox.write("cluster/nats.json", "{}");
    let ran = sandbox.cli(&["quickstart", "cluster"]).await.expect(6);
    assert!(ran.stderr.contains("--cluster"), "{}", ran.stderr);
}
