//! Services that do their work.

mod house;

use std::time::{Duration, Instant};

use crossdock_topics::{ErrorCode, Fetch, Message, StartAt};
use house::{House, value};
use serde_json::json;

const SHOP: &str = r#"
from dataclasses import dataclass
from crossdock import Context, Reject, Retry, Response, consume, serve

@dataclass
class Order:
    id: str
    quantity: int

@consume("orders")
def fulfil(order: Order, ctx: Context):
    if order.quantity < 1:
        raise Reject("nothing was ordered")
    if order.quantity == 13 and ctx.message.attempt < 3:
        raise Retry("not yet", after=0.05)
    ctx.publish("shipments", {"order": order.id, "attempt": ctx.message.attempt}, key=order.id)

@serve()
def quote(order: Order, ctx: Context):
    if order.quantity > 100:
        return Response({"why": "too much"}, status=409, headers={"x-limit": "100"})
    return {"price": 3 * order.quantity, "method": ctx.method, "who": ctx.params.get("who")}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_consumes_publishes_and_replies() {
    let house = House::open(&["orders", "shipments"]).await;
    let done = house.deploy("shop", SHOP).await;
    assert_eq!(done["changed"], true);
    let orders = [(1, 2), (2, 0), (3, 13)].map(|(id, n)| json!({"id": id.to_string(), "quantity": n}));
    house.publish("orders", orders).await;
    house.publish("orders", [json!({"id": 7})]).await;
    let mut shipments = house.until_values("shipments", 2).await;
    shipments.sort_by_key(|s| s["order"].to_string());
    assert_eq!(shipments, [json!({"order": "1", "attempt": 1}), json!({"order": "3", "attempt": 3})]);
    let dead = house.until_dead_letters("shop.fulfil", 2).await;
    assert_eq!(dead[0].reason, "nothing was ordered");
    assert_eq!(dead[1].reason, "the data does not fit fulfil: id: expected a text, got 7");
    assert_eq!(dead[0].by, Some(format!("shop@{}", done["version"].as_str().unwrap())));

    let request = Message::json(r#"{"id": "1", "quantity": 2}"#)
        .with_header(":method", "POST")
        .with_header(":param.who", "ann");
    let reply = house.send("shop", request).await.unwrap();
    assert_eq!(reply.content_type.as_deref(), Some("application/json"));
    assert_eq!(value(Ok(reply)), json!({"price": 6, "method": "POST", "who": "ann"}));
    let much = house.ask("shop", json!({"id": "1", "quantity": 101})).await.unwrap();
    assert_eq!((much.header(":status"), much.header("x-limit")), (Some("409"), Some("100")));
    let wrong = house.ask("shop", json!({"id": "1"})).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);
    assert_eq!(wrong.message, "the data does not fit quote: quantity: is missing");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_messages_and_requests_go_through_two_processes() {
    let house = House::open(&["numbers", "squares"]).await;
    let source = r#"
from crossdock import consume, serve
@consume("numbers")
def square(n, ctx): ctx.publish("squares", n * n, key=str(n))
@serve()
def echo(n): return n
"#;
    house.deploy_with("calc", source, json!({"processes": 2})).await;
    let begun = Instant::now();
    house.publish("numbers", (0..5000).map(|n| json!(n))).await;
    let requests = futures::future::join_all((0..2000).map(|n| {
        let house = &house;
        async move {
            // Callers that come all at once would only be told that the service is overloaded.
            tokio::time::sleep(Duration::from_micros(300 * n)).await;
            house.ask("calc", json!(n)).await
        }
    }));
    for (n, reply) in requests.await.into_iter().enumerate() {
        assert_eq!(value(reply), json!(n));
    }
    let mut squares: Vec<u64> =
        house.until_values("squares", 5000).await.iter().filter_map(|v| v.as_u64()).collect();
    squares.sort_unstable();
    assert_eq!(squares, (0..5000).map(|n| n * n).collect::<Vec<u64>>());
    println!("5000 messages and 2000 requests in {:?}", begun.elapsed());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_ask_each_other_and_read_topics() {
    let house = House::open(&["counts"]).await;
    house.deploy("double", "from crossdock import serve\n@serve()\ndef double(n): return 2 * n").await;
    let source = r#"
import asyncio
from crossdock import InvokeError, serve
@serve()
def ask(n, ctx):
    try:
        ctx.invoke("nobody", 1)
    except InvokeError as error:
        return [ctx.invoke("double", n, timeout=5), error.code]
@serve("ask.async", concurrency=50)
async def later(n, ctx):
    answers = await asyncio.gather(*(ctx.invoke("double", i) for i in range(n)))
    await asyncio.sleep(0.2)
    return sum(answers)
@serve("fold")
def fold(data, ctx):
    total, start = 0, "start"
    while True:
        page = ctx.read("counts", start, max=7)
        if not page.messages:
            return [total, page.next]
        total += sum(m.data for m in page.messages)
        start = page.next
"#;
    house.deploy("ask", source).await;
    assert_eq!(value(house.ask("ask", json!(21)).await), json!([42, "unavailable"]));
    let begun = Instant::now();
    let sums = futures::future::join_all((0..20).map(|_| house.ask("ask.async", json!(10)))).await;
    assert!(sums.into_iter().all(|reply| value(reply) == json!(90)));
    assert!(begun.elapsed() < Duration::from_millis(3500), "they did not run beside each other");
    house.publish("counts", (1..=20).map(|n| json!(n))).await;
    assert_eq!(value(house.ask("fold", json!(0)).await), json!([210, 20]));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_prints_reaches_its_log() {
    let house = House::open(&[]).await;
    let source = r#"
import sys, os
from crossdock import serve
print("imported")
@serve()
def speak(n, ctx):
    print("hello")
    ctx.log.info("told %s", n)
    os.write(1, b"\xff\xfe broken\n")
    os.write(2, b"x" * 3_000_000)
    for _ in range(200_000): print("much too much to read, and then some more of it")
    return "done"
"#;
    house.deploy("speaker", source).await;
    assert_eq!(house.ask("speaker", json!(7)).await.unwrap().payload, "done");
    house
        .until("the log is cut", || async {
            house
                .logs("speaker")
                .await
                .iter()
                .any(|(stream, line)| stream == "system" && line.contains("dropped"))
        })
        .await;
    let logs = house.logs("speaker").await;
    let has = |stream: &str, line: &str| logs.iter().any(|(s, l)| s == stream && l == line);
    assert!(has("stdout", "imported") && has("stdout", "hello") && has("stderr", "INFO told 7"));
    assert!(has("stdout", "\u{fffd}\u{fffd} broken"));
    assert!(logs.len() < 20_000, "{}", logs.len());
    assert!(logs.iter().all(|(_, line)| line.len() < 9000));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_gets_the_environment_of_its_settings_and_nothing_else() {
    let house = House::open(&[]).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "hush\n").unwrap();
    let source = "import os\nfrom crossdock import serve\n@serve()\ndef env(data): return dict(os.environ)";
    let settings = json!({"env": {"GREETING": "hi", "TOKEN": format!("file:{}", secret.path().display())}});
    house.deploy_with("env", source, settings).await;
    let env = value(house.ask("env", json!(null)).await);
    assert_eq!((env["GREETING"].as_str(), env["TOKEN"].as_str()), (Some("hi"), Some("hush")));
    // What starts python3 may be a script that adds variables of its own; none may come from the server.
    let known = ["PATH", "LANG", "HOME", "TZ"];
    assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
    for (name, value) in env.as_object().unwrap() {
        let ours = std::env::var(name).is_ok_and(|ours| Some(ours.as_str()) == value.as_str());
        let system = known.contains(&name.as_str()) || name.starts_with("PYENV") || name == "SHLVL";
        assert!(!ours || system, "{name}");
    }
    let missing = json!({"env": {"TOKEN": "env:NO_SUCH_VARIABLE_HERE"}});
    let error = house.try_deploy("env", source, missing).await.unwrap_err();
    assert!(
        error.message.contains("env TOKEN of service env") && error.message.contains("NO_SUCH"),
        "{error}"
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_what_is_held_and_gives_back_the_rest() {
    let house = House::open(&["slow", "done"]).await;
    let source = r#"
import time
from crossdock import consume
@consume("slow")
def slow(n, ctx):
    time.sleep(0.3)
    ctx.publish("done", n)
"#;
    house.deploy("slow", source).await;
    house.publish("slow", (0..3).map(|n| json!(n))).await;
    house
        .until("one is under way", || async {
            let info = house.broker.subscription(&"slow.slow".parse().unwrap()).await.unwrap();
            info.topics.first().is_some_and(|topic| topic.in_flight > 0)
        })
        .await;
    let stopped = Instant::now();
    let broker = house.stop_workers().await;
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    let done = broker.read(&"done".parse().unwrap(), StartAt::Start, 10, Duration::ZERO).await.unwrap();
    let info = broker.subscription(&"slow.slow".parse().unwrap()).await.unwrap();
    assert!(!done.messages.is_empty(), "what was begun is ended");
    assert_eq!((info.topics[0].in_flight, info.topics[0].dead_letters), (0, 0));
    let name = "slow.slow".parse().unwrap();
    let again = broker.fetch(&name, Fetch::new(None, 10, Duration::ZERO)).await.unwrap();
    assert_eq!(again.len() + done.messages.len(), 3);
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "giving back counts no failure");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_is_made_again() {
    let house = House::open(&[]).await;
    let source = "from crossdock import serve\n@serve()\ndef speak(n): print('said', n)";
    house.deploy("speaks", source).await;
    house.ask("speaks", json!(1)).await.unwrap();
    let said = |n: u32| {
        let house = &house;
        async move { house.logs("speaks").await.iter().any(|(_, line)| *line == format!("said {n}")) }
    };
    house.until("it is logged", || said(1)).await;
    let topic = "_logs.speaks".parse().unwrap();
    house.broker.delete_topic(&topic).await.unwrap();
    house.ask("speaks", json!(2)).await.unwrap();
    house.until("the topic is there", || async { house.broker.topic(&topic).await.is_ok() }).await;
    house.until("it is logged again", || said(2)).await;
    let info = house.broker.topic(&topic).await.unwrap();
    assert_eq!(info.topic.retention.max_bytes, Some(16 * 1024 * 1024), "it is bounded as before");
    house.close().await;
}
