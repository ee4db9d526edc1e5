//! Moving house: what a broker keeps is the same at another place, however often the move was interrupted.

mod furniture;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions, JetStream, JetStreamOptions};
use crossdock_tests::Nats;
use crossdock_topics::{Expect, Message, Outcome, PublishOptions, SharedBroker, Topic};
use furniture::{
    MANY, batch, close, fill, folder, nats, picture, publish_of_source, same, settle, take, topic,
};
use serde_json::Value;
use tokio::process::Command;

fn command(from: &str, to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossdock"));
    command.args(["migrate", "--from", from, "--to", to, "-o", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CROSSDOCK_")) {
        command.env_remove(name);
    }
    command
}

async fn migrate(from: &str, to: &str) -> Output {
    command(from, to).output().await.expect("crossdock runs")
}

/// Moves, and gives the report.
async fn moved(from: &str, to: &str) -> Value {
    let output = migrate(from, to).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// What is said where it is refused.
async fn refused(from: &str, to: &str, code: i32) -> String {
    let output = migrate(from, to).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Kills a move as soon as something is so; gives whether it was killed before it came to its end.
async fn kill_when<F: Future<Output = bool>>(mut command: Command, is_so: impl Fn() -> F) -> bool {
    let mut running = command.stderr(Stdio::null()).spawn().expect("crossdock runs");
    loop {
        if running.try_wait().expect("a child").is_some() {
            return false;
        }
        if is_so().await {
            running.kill().await.expect("to kill it");
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How many bytes of messages are in a folder.
fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let logs =
        files.filter(|file| file.path().extension().is_some_and(|ending| ending == "log" || ending == "sst"));
    logs.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn rocksdb(path: &Path) -> String {
    format!("rocksdb:{}", path.display())
}

/// What a subscription delivers next, as its consumers see it: which message, which try.
async fn next(broker: &SharedBroker, name: &str, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let [delivery] = &take(broker, name, 1).await[..] else { panic!("one") };
        let (size, place) =
            (delivery.record.payload().len(), format!("{}/{}", delivery.topic, delivery.offset));
        seen.push(format!("{place} {} {} {size}", delivery.attempt, delivery.deliveries));
        settle(broker, name, delivery, Outcome::Ack).await;
    }
    seen.sort();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_a_full_broker_when_moved_to_nats_with_interruptions_and_back_should_be_the_same() {
    let scratch = tempfile::tempdir().expect("a folder");
    let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
    let broker = folder(&old);
    fill(&broker).await;
    close(broker).await;
    // As a server finds it that is started once more.
    let broker = folder(&old);
    let before = picture(&broker).await;
    close(broker).await;

    let cluster = Nats::single().await;
    let url = format!("{}?sync=always", cluster.url());
    for copied in [1, 8_000, 25_000, MANY as u64 - 1] {
        let moving = command(&rocksdb(&old), &url);
        let killed = kill_when(moving, || async { cluster.messages_in(0, "crossdock-t-1").await >= copied });
        assert!(killed.await, "it was to be killed with {copied} messages copied");
    }
    let opened = JetStream::open(JetStreamOptions::new(&cluster.url()).expect("a URL")).await;
    let said = opened.map(drop).expect_err("it is not whole");
    assert!(said.message.contains("is being moved from rocksdb:"), "{said}");
    let report = moved(&rocksdb(&old), &url).await;
    assert!(report["messages"].as_u64().is_some_and(|messages| messages > MANY as u64), "{report}");
    assert!(report["messages_before"].as_u64().is_some_and(|before| before + 1 >= MANY as u64), "{report}");

    let broker = nats(&cluster.url()).await;
    same(&before, &picture(&broker).await);
    close(broker).await;

    for size in [1, 3 << 20] {
        let killed = kill_when(command(&url, &rocksdb(&new)), || async { size_of(&new) >= size });
        assert!(killed.await, "it was to be killed with {size} bytes written");
    }
    let back = moved(&url, &rocksdb(&new)).await;
    assert_eq!((&back["messages"], &back["dead_letters"]), (&report["messages"], &report["dead_letters"]));
    let broker = folder(&new);
    same(&before, &picture(&broker).await);
    close(broker).await;

    // A consumer goes on at each of them where it stood.
    let mut went_on = Vec::new();
    for broker in [folder(&old), folder(&new), nats(&cluster.url()).await] {
        let mut seen = [next(&broker, "all", 200).await, next(&broker, "by-key", 40).await].concat();
        let again = publish_of_source(&broker, 1).await;
        let duplicate = Message::json("{}").with_id(format!("id {}", MANY - 1));
        let published =
            broker.publish(&topic("orders.new"), batch([duplicate]), PublishOptions::default()).await;
        // Numbers of topics are not given twice.
        broker.put_topic(Topic::new(topic("orders.fresh")), Expect::Absent).await.expect("a topic");
        let fresh = batch([Message::new("fresh")]);
        let fresh = broker.publish(&topic("orders.fresh"), fresh, PublishOptions::default()).await;
        seen.extend(next(&broker, "all", 1).await);
        let told = (again.first, published.expect("stored").duplicates, fresh.expect("stored").first);
        went_on.push((seen, told));
        close(broker).await;
    }
    assert_eq!(went_on[0], went_on[1], "at the source, and there and back again");
    assert_eq!(went_on[0], went_on[2], "at the source, and on NATS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_what_stands_in_the_way_when_moved_should_refuse_and_change_nothing() {
    let scratch = tempfile::tempdir().expect("a folder");
    let old = scratch.path().join("old");
    let cluster = Nats::start(1, "max_payload: 1MB", "").await;
    let said = refused(&rocksdb(&old), &cluster.url(), 3).await;
    assert!(said.contains("there is no broker's data"), "{said}");
    assert!(!old.exists());

    let broker = folder(&old);
    let mut made = Topic::new(topic("large"));
    made.max_message_bytes = 4 << 20;
    broker.put_topic(made, Expect::Absent).await.expect("a topic");
    let large = batch([Message::new(vec![0; 2 << 20]), Message::new("x"), Message::new(vec![0; 3 << 20])]);
    broker.publish(&topic("large"), large, PublishOptions::default()).await.expect("stored");

    // A server works at the source.
    let said = refused(&rocksdb(&old), &cluster.url(), 6).await;
    assert!(said.contains("another process is using"), "{said}");
    close(broker).await;

    // All that the target cannot give, at once.
    let said = refused(&rocksdb(&old), &cluster.url(), 2).await;
    for words in ["topic large asks for fsync", "offset 0 of topic large (and 1 others", "nothing was copied"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }

    // A server works at the target, or something else is there.
    let broker = nats(&cluster.url()).await;
    let said = refused(&rocksdb(&old), &cluster.url(), 6).await;
    assert!(said.contains("servers work in this NATS"), "{said}");
    broker.put("channels/x", "1".into(), Expect::Absent, None).await.expect("a key");
    close(broker).await;
    let said = refused(&rocksdb(&old), &cluster.url(), 6).await;
    assert!(said.contains("something is at the target already"), "{said}");
    let said = refused(&cluster.url(), &rocksdb(&old), 6).await;
    assert!(said.contains("something is at the target already"), "{said}");

    // The source has changed since the move began, and nobody works on what is half moved.
    let broker = folder(&old);
    for n in 0..3000 {
        let small = batch([Message::new(vec![n as u8; 2000])]);
        broker.publish(&topic("large"), small, PublishOptions::default()).await.expect("stored");
    }
    close(broker).await;
    let half = scratch.path().join("half");
    assert!(kill_when(command(&rocksdb(&old), &rocksdb(&half)), || async { size_of(&half) > 1 << 20 }).await);
    let opened = Embedded::open(EmbeddedOptions::new(&half)).map(drop).expect_err("it is not whole");
    assert!(opened.message.contains("is being moved from rocksdb:"), "{opened}");
    let broker = folder(&old);
    broker
        .publish(&topic("large"), batch([Message::new("new")]), PublishOptions::default())
        .await
        .expect("stored");
    close(broker).await;
    let said = refused(&rocksdb(&old), &rocksdb(&half), 6).await;
    assert!(said.contains("the source is not what it was"), "{said}");
    let said = refused(&rocksdb(&half), &cluster.url(), 6).await;
    assert!(said.contains("is being moved from"), "{said}");
}
