//! Directories in use, directories of something else, and disks that fail: told with words, and nothing that was
//! acknowledged is lost.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossdock_topics::{
    Batch, Broker, ErrorCode, Expect, Log, Settlement, Store, Subscription, Subscriptions, Topic, TopicName,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = scratch::open(&file).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&*file.to_string_lossy()), "the error names the path: {error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = scratch::open(dir.path()).await.unwrap();
    let broker_topic: TopicName = "orders".parse().unwrap();
    broker.put_topic(Topic::new(broker_topic.clone()), Expect::Any).await.unwrap();
    let error = scratch::open(dir.path()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&*dir.path().to_string_lossy()), "the error names the path: {error}");
    assert!(error.hint.is_some(), "the error says what to do next: {error}");
    let said = other_process("open", dir.path(), "");
    assert!(said.contains("refused: "), "another process opened it too: {said}");
    // The first one is none the worse for it.
    broker
        .publish(&broker_topic, Batch::of(&scratch::message("x")).unwrap(), Default::default())
        .await
        .unwrap();
    broker.close().await;
    drop(broker);
    assert!(other_process("open", dir.path(), "").contains("opened"), "after closing it can be opened");
}

/// Starts this binary as another process with an order and a directory, below a line of shell, and gives what
/// it said.
fn other_process(order: &str, dir: &Path, shell: &str) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact the_other_process --include-ignored --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env("CROSSDOCK_DISK_ORDER", order)
        .env("CROSSDOCK_DISK_DIRECTORY", dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "another process; the other tests start it"]
async fn the_other_process() {
    let Ok(order) = std::env::var("CROSSDOCK_DISK_ORDER") else { return };
    let dir = PathBuf::from(std::env::var_os("CROSSDOCK_DISK_DIRECTORY").unwrap());
    match order.as_str() {
        "open" => match scratch::open(&dir).await {
            Ok(broker) => {
                say("opened");
                broker.close().await;
            }
            Err(error) => say(&format!("refused: {error}")),
        },
        "fill" => fill(&dir).await,
        other => panic!("unknown order {other}"),
    }
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n@ {line}\n").as_bytes()).unwrap();
}

/// Publishes until the disk fails, and checks that the broker does not carry on then.
async fn fill(dir: &Path) {
    let broker = scratch::open(dir).await.unwrap();
    let topic: TopicName = "orders".parse().unwrap();
    broker.put_topic(Topic::new(topic.clone()), Expect::Any).await.unwrap();
    let sub = "sub".parse().unwrap();
    broker
        .put_subscription(
            Subscription::new("sub".parse().unwrap(), vec!["orders".parse().unwrap()]),
            Expect::Any,
        )
        .await
        .unwrap();
    let payload = |n: usize| format!("{n} {}", "x".repeat(64 * 1024));
    let mut first = None;
    for n in 0..4000 {
        let batch = Batch::of(&scratch::message(payload(n))).unwrap();
        match broker.publish(&topic, batch, Default::default()).await {
            Ok(_) => say(&format!("acknowledged {n}")),
            Err(error) => {
                first = Some(error);
                break;
            }
        }
    }
    let first = first.expect("the disk never failed");
    assert_eq!(first.code, ErrorCode::Unavailable, "{first}");
    let health = broker.health();
    assert!(!health.ready, "{health:?}");
    let reason = health.reason.expect("a reason");
    assert!(first.to_string().contains(&reason), "the error {first:?} does not say why: {reason:?}");
    // It never carries on, and the first reason stays.
    for _ in 0..3 {
        let answers = [
            broker
                .publish(&topic, Batch::of(&scratch::message("x")).unwrap(), Default::default())
                .await
                .map(|_| ()),
            broker.put("key", "value".into(), Expect::Any, None).await.map(|_| ()),
            broker.put_topic(Topic::new("other".parse().unwrap()), Expect::Any).await.map(|_| ()),
            broker
                .settle(
                    &sub,
                    Settlement {
                        outputs: vec![(topic.clone(), Batch::of(&scratch::message("x")).unwrap())],
                        ..Settlement::default()
                    },
                )
                .await
                .map(|_| ()),
            broker.grant(Duration::from_secs(1)).await.map(|_| ()),
        ];
        for answer in answers {
            let error = answer.expect_err("written after a write that failed");
            assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
            assert!(error.to_string().contains(&reason), "{error:?} is not for the first reason, {reason:?}");
        }
        assert_eq!(broker.health().reason.as_deref(), Some(reason.as_str()));
    }
    say(&format!("failed: {reason}"));
    tokio::time::timeout(Duration::from_secs(20), broker.close())
        .await
        .expect("closing after a failure hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_is_told_and_nothing_acknowledged_is_lost() {
    // A limit on the size of files is a disk that fails: SIGXFSZ ignored, the write itself is refused.
    for kib in [4 * 1024, 24 * 1024] {
        let dir = tempfile::tempdir().unwrap();
        let said = other_process("fill", dir.path(), &format!("trap '' XFSZ; ulimit -f {};", kib * 2));
        let acknowledged = said.lines().filter(|line| line.starts_with("@ acknowledged ")).count();
        assert!(acknowledged > 0 && said.contains("@ failed: "), "{said}");
        let broker = scratch::open(dir.path()).await.unwrap();
        let topic: TopicName = "orders".parse().unwrap();
        let stored = scratch::read_all(&*broker, &topic).await.unwrap();
        assert!(stored.len() >= acknowledged, "{acknowledged} were acknowledged, {} are there", stored.len());
        for (n, message) in stored.iter().enumerate() {
            assert_eq!(message.offset, n as u64);
            assert!(scratch::text(message).starts_with(&format!("{n} xxx")), "{n} is not what it was");
        }
        assert!(broker.health().ready);
        let batch = Batch::of(&scratch::message("after")).unwrap();
        assert_eq!(
            broker.publish(&topic, batch, Default::default()).await.unwrap().first,
            stored.len() as u64
        );
        broker.close().await;
    }
}
