//! The whole platform, started as a user starts it, under load from another process.

use std::path::PathBuf;
use std::time::Duration;

use crossdock_tests::{Client, Sandbox, eventually};
use serde_json::json;
use tokio::process::Command;

use crate::load::Outcome;
use crate::machine::memory;
use crate::report::{Report, Value};
use crate::{Failure, Plan};

const SIZES: [usize; 2] = [128, 1024];
/// Connections, and messages in each request: 1, 64 and 1024 messages in flight.
const IN_FLIGHT: [(usize, usize); 3] = [(1, 1), (64, 1), (64, 16)];

const ECHO: &str = "from crossdock import serve\n\n@serve()\ndef echo(body: bytes):\n    return body\n";
const CHANNEL: &str = "rest_channels:\n  - {name: echo, path: /echo, methods: [POST], service: echo}\n";

/// The binary that was built along with this one.
pub(crate) fn binary() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name("crossdock");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is not there: build it with `make release`", path.display()).into())
    }
}

async fn start(plan: &Plan) -> Result<Sandbox, Failure> {
    Ok(Sandbox::builder(binary()?).under(&plan.disk).start().await)
}

/// Runs the load generator in a process of its own.
async fn load(client: &Client, plan: &Plan, arguments: &[&str]) -> Result<Outcome, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(["load", "--address", &client.address(), "--seconds", &plan.time.as_secs_f64().to_string()])
        .args(arguments)
        .env("CROSSDOCK_BENCH_AUTHORIZATION", client.authorization())
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        return Err(format!("the load generator failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[allow(clippy::cast_precision_loss)]
fn value(unit: &'static str, outcome: &Outcome) -> Value {
    let value = outcome.messages as f64 / outcome.seconds;
    Value { unit, value, latency: Some((outcome.p50, outcome.p99)) }
}

/// Durable publishing, and consuming with acknowledgements, over HTTP.
pub(crate) async fn over_http(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    if !plan.wants("http") {
        return Ok(());
    }
    let mut sandbox = start(plan).await?;
    for size in SIZES {
        let topic = format!("bench-{size}");
        let made = sandbox.admin().put(&format!("/api/v1/topics/{topic}"), &json!({})).await;
        let _ = made.expect_success();
        let subscription = json!({ "topics": [topic] });
        let made = sandbox.admin().put(&format!("/api/v1/subscriptions/{topic}"), &subscription).await;
        let _ = made.expect_success();
        let path = format!("/topics/{topic}/messages");
        for (connections, batch) in IN_FLIGHT {
            let (size, many, each) = (size.to_string(), connections.to_string(), batch.to_string());
            let arguments = ["--path", &path, "--size", &size, "--connections", &many, "--batch", &each];
            let outcome = load(sandbox.gateway(), plan, &arguments).await?;
            let batches = if batch > 1 { format!(" ({batch} a request)") } else { String::new() };
            let setting = format!("{size} B, {} in flight{batches}", connections * batch);
            report.add("publish, HTTP", &setting, value("messages/s", &outcome));
        }
        let path = format!("/subscriptions/{topic}");
        let outcome =
            load(sandbox.gateway(), plan, &["--path", &path, "--consume", "--connections", "4"]).await?;
        let setting = format!("{size} B, 1000 a request, 4 consumers");
        report.add("consume and acknowledge, HTTP", &setting, value("messages/s", &outcome));
    }
    sandbox.stop().await;
    Ok(())
}

/// REST calls that a Python service answers.
pub(crate) async fn services(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    if !plan.wants("rest") {
        return Ok(());
    }
    let mut sandbox = start(plan).await?;
    sandbox.write("echo.py", ECHO);
    sandbox.write("channel.yaml", CHANNEL);
    let _ = sandbox.cli(&["service", "deploy", "echo.py"]).await.expect(0);
    let _ = sandbox.cli(&["apply", "channel.yaml"]).await.expect(0);
    eventually("the service to answer", Duration::from_secs(30), || async {
        let answer = sandbox.gateway().post("/echo", &json!("as it was")).await;
        (answer.status == 200).then(|| assert_eq!(answer.text(), "\"as it was\"", "the echo is none"))
    })
    .await;
    for callers in ["1", "64"] {
        let outcome = load(sandbox.gateway(), plan, &["--path", "/echo", "--connections", callers]).await?;
        let setting = format!("128 B, {callers} callers, 1 process");
        report.add("REST call to a Python service", &setting, value("requests/s", &outcome));
    }
    sandbox.stop().await;
    Ok(())
}

/// From the start of `quickstart` until it answers, in a new folder and in one that was used before; and what
/// it takes when nothing happens.
pub(crate) async fn ready(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    if !plan.wants("ready") {
        return Ok(());
    }
    let mut sandbox = start(plan).await?;
    let took = |sandbox: &Sandbox| Value {
        unit: "ms",
        value: sandbox.ready_in().as_secs_f64() * 1e3,
        latency: None,
    };
    report.add("quickstart until ready", "a new folder", took(&sandbox));
    sandbox.stop().await;
    sandbox.start().await;
    report.add("quickstart until ready", "started again", took(&sandbox));
    // As much as a user who looks at it after a while would see.
    tokio::time::sleep(Duration::from_secs(if plan.quick { 1 } else { 10 })).await;
    let (now, _) = memory(sandbox.pid()).ok_or("the server's memory cannot be read")?;
    report.add("memory", "idle quickstart", Value { unit: "MB", value: now, latency: None });
    sandbox.stop().await;
    Ok(())
}

/// What it takes after ten million messages, and how long it then takes to start.
pub(crate) async fn many_messages(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    if !plan.wants("memory") {
        return Ok(());
    }
    let (messages, name) =
        if plan.quick { (100_000_u64, "100 thousand") } else { (10_000_000, "10 million") };
    let mut sandbox = start(plan).await?;
    let _ = sandbox.admin().put("/api/v1/topics/many", &json!({})).await.expect_success();
    let requests = (messages / 1000).to_string();
    let patient = Plan { time: Duration::from_secs(600), ..plan.clone() };
    let arguments = [
        "--path",
        "/topics/many/messages",
        "--size",
        "128",
        "--batch",
        "1000",
        "--connections",
        "4",
        "--requests",
        &requests,
    ];
    let outcome = load(sandbox.gateway(), &patient, &arguments).await?;
    if outcome.messages < messages {
        return Err(format!("only {} of {messages} messages were stored in time", outcome.messages).into());
    }
    let setting = format!("{name} messages of 128 B, 1000 a request, 4 publishers");
    report.add("publish, HTTP", &setting, value("messages/s", &outcome));
    let (now, most) = memory(sandbox.pid()).ok_or("the server's memory cannot be read")?;
    let megabytes = |value| Value { unit: "MB", value, latency: None };
    report.add("memory", &format!("after {name} messages of 128 B"), megabytes(now));
    report.add("memory", &format!("the most during {name} messages of 128 B"), megabytes(most));
    sandbox.stop().await;
    sandbox.start().await;
    let took = sandbox.ready_in().as_secs_f64() * 1e3;
    report.add(
        "quickstart until ready",
        &format!("with {name} messages"),
        Value { unit: "ms", value: took, latency: None },
    );
    sandbox.stop().await;
    Ok(())
}
