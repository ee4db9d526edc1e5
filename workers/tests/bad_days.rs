//! Services that do not do their work: each hurts itself alone.

mod house;

use std::time::{Duration, Instant};

use crossdock_config::ServiceState;
use crossdock_topics::ErrorCode;
use house::{House, value};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_raises_fails_its_message_until_it_is_a_dead_letter() {
    let house = House::open(&["work", "done"]).await;
    let source = r#"
from crossdock import consume, serve
@consume("work", max_failures=2)
def work(n, ctx):
    ctx.publish("done", n)
    if n == 1: raise ValueError("not one")
@serve()
def fail(n): raise KeyError(n)
"#;
    house.deploy("raises", source).await;
    house.hurry("raises.work").await;
    house.publish("work", (0..3).map(|n| json!(n))).await;
    let dead = house.until_dead_letters("raises.work", 1).await;
    assert_eq!((dead[0].offset, dead[0].failures), (1, 2));
    assert_eq!(dead[0].reason, "work raised ValueError: not one");
    let mut done = house.until_values("done", 2).await;
    done.sort_by_key(|v| v.as_u64());
    assert_eq!(done, [json!(0), json!(2)], "what a failed call published is not published");
    let error = house.ask("raises", json!("x")).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::ServiceFailed, "fail raised KeyError: 'x'"));
    house
        .until("the traceback is logged", || async {
            house.logs("raises").await.iter().any(|(s, l)| s == "stderr" && l.contains("ValueError: not one"))
        })
        .await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_process_ends_in_the_dead_letters_and_the_others_get_through() {
    let house = House::open(&["work", "done"]).await;
    let source = r#"
import os
from crossdock import consume
@consume("work", max_failures=3)
def work(n, ctx):
    if n == 7: os._exit(9)
    ctx.publish("done", n)
"#;
    house.deploy("poisoned", source).await;
    house.hurry("poisoned.work").await;
    house.publish("work", (0..50).map(|n| json!(n))).await;
    let dead = house.until_dead_letters("poisoned.work", 1).await;
    assert_eq!((dead.len(), dead[0].offset, dead[0].failures), (1, 7, 3));
    assert!(dead[0].reason.contains("exited with status 9"), "{}", dead[0].reason);
    let mut done: Vec<_> = house.until_values("done", 49).await.iter().filter_map(|v| v.as_u64()).collect();
    done.sort_unstable();
    assert_eq!(done, (0..50).filter(|n| *n != 7).collect::<Vec<u64>>());
    let status = house.until_state("poisoned", ServiceState::Running).await;
    house
        .until("the restarts are shown", || async {
            house.status("poisoned").await.is_some_and(|s| s.restarts == 3 && s.processes == 1)
        })
        .await;
    assert_eq!(status.reason, None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_killed_at_its_timeout_and_the_calls_behind_it_are_done() {
    let house = House::open(&["work", "done"]).await;
    let source = r#"
from crossdock import consume, serve
@consume("work", timeout=0.3, max_failures=1)
def work(n, ctx):
    while n == 1: pass
    ctx.publish("done", n)
@serve(timeout=0.3)
def spin(n):
    while n == 1: pass
    return n
"#;
    house.deploy("endless", source).await;
    house.publish("work", (0..5).map(|n| json!(n))).await;
    let dead = house.until_dead_letters("endless.work", 1).await;
    assert_eq!((dead.len(), dead[0].offset), (1, 1));
    assert_eq!(dead[0].reason, "the call took longer than 300ms");
    house.until_values("done", 4).await;
    let begun = Instant::now();
    let (stuck, fine) = tokio::join!(house.ask("endless", json!(1)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        house.ask("endless", json!(2)).await
    });
    let error = stuck.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout, "{error}");
    assert_eq!(value(fine), json!(2));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_async_handler_that_hangs_is_cancelled_and_one_that_blocks_the_loop_is_killed() {
    let house = House::open(&[]).await;
    let source = r#"
import asyncio
from crossdock import serve
@serve(timeout=0.3)
async def hang(n):
    if n == 1: await asyncio.sleep(60)
    while n == 2: pass
    return n
"#;
    house.deploy("hangs", source).await;
    let error = house.ask("hangs", json!(1)).await.unwrap_err();
    assert!(error.message.contains("hang took longer than 0.3 s"), "{error}");
    let error = house.ask("hangs", json!(2)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout, "{error}");
    assert_eq!(value(house.ask("hangs", json!(3)).await), json!(3));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_beside_each_other_only_the_deadly_one_counts_as_failed() {
    let house = House::open(&["work", "done"]).await;
    let source = r#"
import asyncio, os
from crossdock import consume
@consume("work", max_failures=2, concurrency=20)
async def work(n, ctx):
    await asyncio.sleep(0.01)
    if n == 7: os._exit(9)
    ctx.publish("done", [n, ctx.message.attempt])
"#;
    house.deploy("beside", source).await;
    house.hurry("beside.work").await;
    house.publish("work", (0..60).map(|n| json!(n))).await;
    let dead = house.until_dead_letters("beside.work", 1).await;
    let mut done = house.until_values("done", 59).await;
    done.sort_by_key(|v| v[0].as_u64());
    let expected: Vec<_> = (0..60).filter(|n| *n != 7).map(|n| json!([n, 1])).collect();
    assert_eq!(done, expected, "none of the others counts a failure");
    assert_eq!((dead.len(), dead[0].offset, dead[0].failures), (1, 7, 2));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_and_a_handler_that_takes_too_much_fails_alone() {
    let house = House::open(&[]).await;
    let source = r#"
from crossdock import serve
@serve()
def grow(n):
    held = []
    while n: held.append(bytearray(10_000_000))
    return "small"
"#;
    house.deploy_with("greedy", source, json!({"memory": "256MiB"})).await;
    let error = house.ask("greedy", json!(1)).await.unwrap_err();
    assert!(error.message.contains("MemoryError"), "{error}");
    assert_eq!(house.ask("greedy", json!(0)).await.unwrap().payload, "small");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_crashes_all_the_time_is_given_up_with_the_reason_and_comes_back_when_repaired() {
    let house = House::open(&["work", "done"]).await;
    let broken = r#"
import os, threading, time
from crossdock import consume
if os.path.exists("broken"): os._exit(3)
open("broken", "w").close()
@consume("work")
def work(n, ctx): os._exit(4)
"#;
    // The scratch process of the validation runs in the same folder: the first start there leaves the mark.
    let error = house.try_deploy("crashes", broken, json!({})).await;
    assert!(error.is_ok(), "{error:?}");
    let failed = house.until_state("crashes", ServiceState::Failed).await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("exited with status 3 before it was ready"), "{reason}");

    let crashes = "import os\nfrom crossdock import serve\n@serve()\ndef f(n): os._exit(5)";
    house.deploy("crashes", crashes).await;
    house
        .until("it is given up", || async {
            let _ = house.ask("crashes", json!(1)).await;
            house.status("crashes").await.is_some_and(|s| s.state == ServiceState::Paused)
        })
        .await;
    let given_up = house.status("crashes").await.unwrap();
    let reason = given_up.reason.unwrap();
    assert!(reason.starts_with("paused: its processes crashed too often"), "{reason}");
    assert!(reason.contains("exited with status 5"), "{reason}");
    assert!(reason.contains("`crossdock service resume crashes`"), "{reason}");
    assert_eq!((given_up.restarts, given_up.processes), (9, 0));
    let error = house.ask("crashes", json!(1)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");

    // Resuming writes the record as it is.
    house.change("crashes", |record| record.paused = false).await;
    house.until_state("crashes", ServiceState::Running).await;
    assert!(house.ask("crashes", json!(1)).await.unwrap_err().message.contains("exited with status 5"));

    house.deploy("crashes", "from crossdock import serve\n@serve()\ndef f(n): return n").await;
    assert_eq!(value(house.ask("crashes", json!(1)).await), json!(1));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_has_started_ends_with_it() {
    let house = House::open(&[]).await;
    let source = r#"
import subprocess, os
from crossdock import serve
@serve(timeout=0.5)
def start(n):
    if n == 0: return child.pid
    globals()["child"] = subprocess.Popen(["sleep", "600"])
    if n == 1: return child.pid
    while True: pass
"#;
    house.deploy("parent", source).await;
    let first = value(house.ask("parent", json!(1)).await).as_u64().unwrap();
    assert!(lives(first));
    assert!(house.ask("parent", json!(2)).await.is_err());
    house.until("the first child is gone", || async { !lives(first) }).await;
    house.close().await;
}

fn lives(pid: u64) -> bool {
    // A child that was killed stays as a zombie until someone looks after it.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_cannot_be_stored_fail_their_message_alone() {
    let house = House::open(&["work", "done"]).await;
    let source = r#"
from crossdock import consume, serve
@consume("work", max_failures=1)
def work(n, ctx):
    ctx.publish("nowhere" if n == 3 else "_logs.x" if n == 4 else "done", n)
@serve()
def publish(topic, ctx):
    ctx.publish(topic, 1)
    return "ok"
"#;
    house.deploy("outputs", source).await;
    house.publish("work", (0..10).map(|n| json!(n))).await;
    let mut dead = house.until_dead_letters("outputs.work", 2).await;
    dead.sort_by_key(|d| d.offset);
    assert!(dead[0].reason.contains("there is no topic nowhere"), "{}", dead[0].reason);
    assert!(dead[1].reason.contains("the system's own topic"), "{}", dead[1].reason);
    assert_eq!(house.until_values("done", 8).await.len(), 8);
    assert_eq!(house.ask("outputs", json!("done")).await.unwrap().payload, "ok");
    assert_eq!(house.values("done").await.len(), 9, "published before the reply");
    let error = house.ask("outputs", json!("nowhere")).await.unwrap_err();
    assert!(error.message.contains("there is no topic nowhere"), "{error}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_are_those_of_the_call_that_ended_the_process_and_come_with_its_status() {
    let source = r#"
import os, subprocess, sys
from crossdock import consume
@consume("work", max_failures=1)
KIND f(do):
    if do == "raise": raise ValueError("order 1 is bad")
    if do == "start": subprocess.run("sleep 0.01; printf 'half a line' >&2", shell=True)
    if do == "speak": print("half a line", end="", file=sys.stderr)
    if do == "interrupt": raise KeyboardInterrupt()
    if do == "words": print("good", "bye", file=sys.stderr)
    if do in ("words", "exit"): os._exit(9)
"#;
    for kind in ["def", "async def"] {
        let house = House::open(&["work"]).await;
        house.deploy("mis", &source.replace("KIND", kind)).await;
        // What is published together is worked on without a pause; beside each other nobody could tell.
        house.publish("work", [json!("raise")]).await;
        house.until_dead_letters("mis.f", 1).await;
        house.publish("work", [json!("exit")]).await;
        house.until_dead_letters("mis.f", 2).await;
        house.publish("work", [json!("words")]).await;
        let dead = house.until_dead_letters("mis.f", 3).await;
        assert_eq!(dead[0].reason, "f raised ValueError: order 1 is bad", "{kind}");
        assert_eq!(dead[1].reason, "the process exited with status 9", "{kind}");
        assert_eq!(dead[2].reason, "the process exited with status 9; its last words: good bye", "{kind}");
        if kind == "def" {
            house.publish("work", ["raise", "speak", "start", "interrupt"].map(|what| json!(what))).await;
            let dead = house.until_dead_letters("mis.f", 5).await;
            let reason = &dead[4].reason;
            assert!(
                reason.starts_with("the process was killed by signal 2; its last words: Traceback"),
                "{reason}"
            );
            assert!(reason.contains("KeyboardInterrupt") && !reason.contains("order 1"), "{reason}");
            let halves = || async {
                house.logs("mis").await.iter().filter(|(_, line)| line == "half a line").count() == 2
            };
            house.until("a line without its end is a line of the call before", halves).await;
        }
        let logs = house.logs("mis").await;
        assert!(logs.iter().all(|(_, line)| !line.contains('\u{1e}') && !line.is_empty()), "{logs:?}");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_of_a_message_is_told_in_the_log() {
    let house = House::open(&["work"]).await;
    let source = r#"
from dataclasses import dataclass
from crossdock import consume
@dataclass
class Order: id: str
@consume("work", max_failures=2)
def f(order: Order): raise ValueError("not today\nnor tomorrow")
"#;
    house.deploy("sulks", source).await;
    house.hurry("sulks.f").await;
    house.publish("work", [json!({"id": "a"}), json!({"id": 1})]).await;
    house.until_dead_letters("sulks.f", 2).await;
    for line in [
        "sulks.f work:0: attempt 1 of 2 failed: f raised ValueError: not today; it is tried again in about ",
        "sulks.f work:0: attempt 2 of 2 failed: f raised ValueError: not today; \
         it is a dead letter now, see: crossdock dlq show sulks.f work:0",
        "sulks.f work:1: attempt 1 of 2 was rejected: the data does not fit f: id: expected a text, got 1; \
         it is a dead letter now, see: crossdock dlq show sulks.f work:1",
    ] {
        house
            .until(line, || async {
                let logs = house.logs("sulks").await;
                logs.iter().any(|(s, l)| s == "system" && l.contains(line))
            })
            .await;
    }
    house.close().await;
}
