//! What goes on meanwhile: messages published through the gateways, a service that makes others of them, calls of that
//! service, deployments of it, and `crossdock verify` over the servers' wires and beside them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossdock_tests::{Client, Servers, eventually};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::PATIENCE;

/// A service that makes a shipment of an order, and says of which version it is.
fn service(version: u32) -> String {
    format!(
        r#"
from crossdock import Context, consume, serve

@consume("orders")
def ship(number: int, ctx: Context):
    ctx.publish("shipments", {{"number": number}})

@serve()
def route():
    return {{"version": {version}}}
"#
    )
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// Everything that goes on.
pub(super) struct Work {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    /// The numbers that have a receipt.
    acknowledged: Arc<Mutex<Vec<u64>>>,
    calls: Arc<Calls>,
    deployed: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
    probes: AtomicU32,
    verify: Child,
}

/// What became of calls of the service.
#[derive(Default)]
struct Calls {
    answered: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    longest: AtomicU64,
}

impl Work {
    pub(super) async fn start(servers: &Servers, nats: &str) -> Self {
        servers.write("route.py", &service(0));
        let topics = "for topic in orders shipments probes; do crossdock topic create $topic || exit; done";
        let _ = servers.bash(0, topics).await.expect(0);
        let _ = servers.bash(0, "crossdock service deploy route.py --wait 1m").await.expect(0);
        let stop = Arc::new(AtomicBool::new(false));
        let (acknowledged, calls): (Arc<Mutex<Vec<u64>>>, Arc<Calls>) = Default::default();
        let (deployed, refused): (Arc<AtomicU32>, Arc<AtomicU32>) = Default::default();
        let mut tasks = Vec::new();
        for number in 0..servers.len() {
            let gateway = servers.get(number).gateway().clone();
            let admin = servers.get(number).admin().clone();
            let first = number as u64 * 1_000_000;
            tasks.push(tokio::spawn(publish(gateway, first, stop.clone(), Arc::clone(&acknowledged))));
            tasks.push(tokio::spawn(call(admin, stop.clone(), calls.clone())));
        }
        let deploy = ["service", "deploy", "route.py", "--wait", "20s"];
        let deploys: Vec<Command> =
            (0..servers.len()).map(|number| servers.command(number, &deploy)).collect();
        let file = servers.home().join("route.py");
        tasks.push(tokio::spawn(deploying(
            deploys,
            file,
            stop.clone(),
            [Arc::clone(&deployed), Arc::clone(&refused)],
        )));
        let mut arguments = vec!["verify", "--for", "2h", "-o", "json", "--directory", "verified"];
        let wires: Vec<String> = (0..servers.len()).map(|number| servers.wire(number)).collect();
        for way in wires.iter().map(String::as_str).chain([nats]) {
            arguments.extend(["--broker", way]);
        }
        let mut verify = servers.command(0, &arguments);
        verify.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let verify = verify.spawn().expect("crossdock runs");
        Self { stop, tasks, acknowledged, calls, deployed, refused, probes: AtomicU32::new(0), verify }
    }

    /// Waits until each server that runs does all of it, from now on: stores a message, changes the configuration, and calls
    /// the service.
    pub(super) async fn until_all_work(&self, servers: &Servers) {
        for number in (0..servers.len()).filter(|number| servers.runs(*number)) {
            let (gateway, admin) = (servers.get(number).gateway(), servers.get(number).admin());
            eventually("each server to store and to answer", PATIENCE, || async {
                let probe = gateway.send("POST", "/topics/probes/messages", &[JSON], "1").await.ok()?;
                let messages = self.probes.fetch_add(1, Ordering::Relaxed) + 1000;
                let limits = format!(r#"{{"retention": {{"max_messages": {messages}}}}}"#);
                let changed = admin.send("PUT", "/api/v1/topics/probes", &[JSON], limits).await.ok()?;
                let called =
                    admin.send("POST", "/api/v1/services/route/invoke", &[JSON], "null").await.ok()?;
                (probe.status == 201 && changed.status == 200 && called.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Waits until a deployment has gone through that began after this.
    pub(super) async fn until_deployed(&self) {
        let before = self.deployed.load(Ordering::SeqCst);
        // The one that is under way may have begun before.
        eventually("two deployments", PATIENCE, || async {
            (self.deployed.load(Ordering::SeqCst) >= before + 2).then_some(())
        })
        .await;
    }

    /// Ends it, and holds what each was told against what is there.
    pub(super) async fn end(mut self, servers: &Servers) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            tokio::time::timeout(PATIENCE, task).await.expect("an end").expect("no panic");
        }
        self.judge_shipments(servers.get(0).admin()).await;
        self.judge_deployments(servers).await;
        let calls = &self.calls;
        let failed = calls.failed.lock().await;
        eprintln!(
            "{} calls answered, the longest took {:.1} s; failed: {failed:?}",
            calls.answered.load(Ordering::Relaxed),
            calls.longest.load(Ordering::Relaxed) as f64 / 1000.0
        );
        assert!(calls.answered.load(Ordering::Relaxed) > 0);
        drop(failed);
        let pid = self.verify.id().expect("verify runs until it is told to end").to_string();
        let told = Command::new("kill").args(["-INT", &pid]).status().await;
        assert!(told.expect("the kill command").success());
        let output = tokio::time::timeout(PATIENCE * 5, self.verify.wait_with_output()).await;
        let output = output.expect("verify to end").expect("its output");
        let said = String::from_utf8_lossy(&output.stdout);
        eprintln!("verify: {said}");
        let report: Value = serde_json::from_str(&said).expect("a report");
        assert_eq!((&report["losses"], &report["violations"]), (&0.into(), &Value::Array(Vec::new())));
        assert!(output.status.success());
        let topics = servers.get(0).admin().get("/api/v1/topics").await.expect(200);
        let topics = String::from_utf8_lossy(&topics.body).into_owned();
        assert!(
            topics.contains("shipments") && !topics.contains("verify-"),
            "what it made is removed: {topics}"
        );
    }

    /// Each order that has a receipt was shipped, and none twice.
    async fn judge_shipments(&self, admin: &Client) {
        let mut expected = self.acknowledged.lock().await.clone();
        expected.sort_unstable();
        let shipped = eventually("all orders to be shipped", PATIENCE, || async {
            let shipped = shipped(admin).await?;
            let missing = expected.iter().filter(|number| !shipped.contains(number)).count();
            (missing == 0).then_some(shipped)
        })
        .await;
        let mut count: BTreeMap<u64, u32> = BTreeMap::new();
        shipped.iter().for_each(|number| *count.entry(*number).or_default() += 1);
        let doubled: Vec<_> = count.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "shipped more than once: {doubled:?}");
        eprintln!("{} orders acknowledged, {} shipped", expected.len(), shipped.len());
    }

    /// The next deployment reaches all servers.
    async fn judge_deployments(&self, servers: &Servers) {
        let (done, refused) = (self.deployed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        eprintln!("{done} deployments done, {refused} failed");
        servers.write("route.py", &service(u32::MAX));
        let _ = servers.bash(0, "crossdock service deploy route.py --wait 1m").await.expect(0);
        for number in 0..servers.len() {
            let admin = servers.get(number).admin();
            eventually("the new version everywhere", PATIENCE, || async {
                let answer =
                    admin.send("POST", "/api/v1/services/route/invoke", &[JSON], "null").await.ok()?;
                (answer.status == 200 && answer.json()["version"] == u32::MAX).then_some(())
            })
            .await;
        }
        assert!(done > 0, "a deployment went through meanwhile");
    }
}

/// The numbers that were shipped; `None` where that cannot be read at the moment.
async fn shipped(admin: &Client) -> Option<Vec<u64>> {
    let (mut shipped, mut from) = (Vec::new(), "start".to_owned());
    loop {
        let path = format!("/api/v1/topics/shipments/messages?from={from}&max=1000&wait=0s");
        let answer = admin.send("GET", &path, &[], Vec::new()).await.ok()?;
        let page: Value = (answer.status == 200).then(|| answer.json())?;
        let messages = page["messages"].as_array()?;
        if messages.is_empty() {
            return Some(shipped);
        }
        for message in messages {
            shipped.push(message["data"]["number"].as_u64()?);
        }
        from = page["next"].to_string();
    }
}

/// Publishes numbers through one gateway, each again until it has a receipt, under an id of its own.
async fn publish(gateway: Client, first: u64, stop: Arc<AtomicBool>, acknowledged: Arc<Mutex<Vec<u64>>>) {
    for number in first.. {
        let id = format!("order-{number}");
        loop {
            let headers = [JSON, ("x-message-id", id.as_str())];
            let sent = gateway.send("POST", "/topics/orders/messages", &headers, number.to_string()).await;
            if sent.is_ok_and(|answer| answer.status == 201) {
                acknowledged.lock().await.push(number);
                break;
            }
            if stop.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if stop.load(Ordering::SeqCst) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls the service again and again; what fails is counted by what was said.
async fn call(admin: Client, stop: Arc<AtomicBool>, calls: Arc<Calls>) {
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        let answer = admin.send("POST", "/api/v1/services/route/invoke", &[JSON], "null").await;
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        calls.longest.fetch_max(took, Ordering::Relaxed);
        let why = match answer {
            Ok(answer) if answer.status == 200 => {
                calls.answered.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(answer) => Some(answer.status.to_string()),
            Err(_) => Some("not answered".into()),
        };
        if let Some(why) = why {
            *calls.failed.lock().await.entry(why).or_default() += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Deploys one version after the other, through one server after the other; counts those that went through, and those that
/// did not.
async fn deploying(
    mut commands: Vec<Command>,
    file: PathBuf,
    stop: Arc<AtomicBool>,
    [deployed, refused]: [Arc<AtomicU32>; 2],
) {
    let count = commands.len();
    for version in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        tokio::fs::write(&file, service(version)).await.expect("a file");
        let command = &mut commands[version as usize % count];
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ran = command.output().await.expect("crossdock runs");
        let counter = if ran.status.success() { &deployed } else { &refused };
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}
