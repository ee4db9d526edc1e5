//! Promise 4 step by step: a process that ends at any step of a settlement has done all of it or nothing, and all of
//! it once it was answered.
//!
//! The child (this same binary, told so by an environment variable) settles messages in every way there is, with
//! outputs to two topics, and ends itself at one step. The parent opens the directory and looks. The outputs are small,
//! or so large that parts of the write reach the system before the rest.

#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crossdock_broker::Embedded;
use crossdock_broker::embedded::failpoints::{Step, arm};
use crossdock_topics::{
    Batch, Broker, Delivery, Durability, Expect, Fetch, Log, Message, Outcome, Settlement, Subscription,
    SubscriptionName, Subscriptions, Topic, TopicName,
};

const STEP: &str = "CROSSDOCK_FAIL_AT";
const DIRECTORY: &str = "CROSSDOCK_FAIL_IN";
const OUTPUT_BYTES: &str = "CROSSDOCK_FAIL_BYTES";

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn sub() -> SubscriptionName {
    name("work")
}

/// What a settlement left: how many messages wait for a consumer, wait for their time, are dead letters, and how many
/// outputs there are in each topic.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    deliverable: Vec<u64>,
    set_aside: u64,
    dead: Vec<(u64, String)>,
    outputs: [usize; 2],
}

impl Left {
    fn nothing_done() -> Self {
        Self { deliverable: vec![0, 1, 2, 3], set_aside: 0, dead: Vec::new(), outputs: [0, 0] }
    }

    fn all_done() -> Self {
        Self { deliverable: vec![3], set_aside: 1, dead: vec![(2, "no".into())], outputs: [3, 2] }
    }
}

async fn define(broker: &Embedded) {
    for (topic, durability) in
        [("in", Durability::Fsync), ("one", Durability::Os), ("two", Durability::Fsync)]
    {
        let topic = Topic { durability, max_message_bytes: 4 << 20, ..Topic::new(name(topic)) };
        broker.put_topic(topic, Expect::Any).await.unwrap();
    }
    let definition = Subscription::new(sub(), vec![name("in")]);
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    let mut batch = Batch::default();
    for text in ["ack", "retry", "reject", "release"] {
        batch.push(&Message::new(text)).unwrap();
    }
    broker.publish(&name("in"), batch, Default::default()).await.unwrap();
}

async fn take(broker: &Embedded, max: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    loop {
        let fetch = Fetch::new(None, max, Duration::from_millis(100));
        let more = broker.fetch(&sub(), fetch).await.unwrap();
        if more.is_empty() {
            taken.sort_by_key(|delivery: &Delivery| delivery.offset);
            return taken;
        }
        taken.extend(more);
    }
}

fn outputs(count: usize, bytes: usize) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..count {
        batch.push(&Message::new(vec![b'o'; bytes])).unwrap();
    }
    batch
}

/// Settles, and ends at the step on the way.
async fn child(directory: &Path, step: Step, bytes: usize) {
    let broker = scratch::open(directory).await.unwrap();
    define(&broker).await;
    let taken = take(&broker, 4).await;
    let outcomes = [
        Outcome::Ack,
        Outcome::Retry { after: Some(Duration::from_secs(3600)), reason: "busy".into() },
        Outcome::Reject { reason: "no".into() },
        Outcome::Release,
    ];
    let settlement = Settlement {
        outcomes: taken.iter().map(|delivery| delivery.id).zip(outcomes).collect(),
        outputs: vec![(name("one"), outputs(3, bytes)), (name("two"), outputs(2, bytes))],
        by: None,
    };
    arm(step);
    let settled = broker.settle(&sub(), settlement).await.unwrap();
    assert_eq!(settled.settled, 4);
    std::io::stdout().lock().write_all(b"answered\n").unwrap();
    // The step after the answer is reached any moment.
    tokio::time::sleep(Duration::from_secs(20)).await;
}

async fn look(directory: &Path) -> Left {
    let broker = scratch::open(directory).await.unwrap();
    let letters = broker.dead_letters(&sub(), None, 10).await.unwrap();
    let topics: [TopicName; 2] = [name("one"), name("two")];
    let mut outputs = [0; 2];
    for (count, topic) in outputs.iter_mut().zip(&topics) {
        *count = scratch::read_all(&*broker, topic).await.unwrap().len();
    }
    let taken = take(&broker, 10).await;
    let progress = broker.subscription(&sub()).await.unwrap().topics.remove(0);
    broker.close().await;
    Left {
        deliverable: taken.iter().map(|delivery| delivery.offset).collect(),
        set_aside: progress.set_aside,
        dead: letters.into_iter().map(|letter| (letter.offset, letter.reason)).collect(),
        outputs,
    }
}

#[test]
fn a_settlement_that_ends_at_any_step_is_done_whole_or_not_at_all() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for bytes in [10, 1_500_000] {
        for (index, step) in Step::ALL.into_iter().enumerate() {
            let directory = tempfile::tempdir().unwrap();
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_child", "--include-ignored", "--nocapture"])
                .env(STEP, index.to_string())
                .env(DIRECTORY, directory.path())
                .env(OUTPUT_BYTES, bytes.to_string())
                .stderr(Stdio::null())
                .output()
                .unwrap();
            assert!(!output.status.success(), "{step:?}: it ended by itself");
            let was_answered = String::from_utf8_lossy(&output.stdout).contains("answered");
            let left = runtime.block_on(look(directory.path()));
            let (nothing, all) = (Left::nothing_done(), Left::all_done());
            match step {
                Step::Taken | Step::OutcomesApplied | Step::OutputsAppended | Step::BeforeWrite => {
                    assert_eq!(left, nothing, "{step:?}, outputs of {bytes} bytes");
                }
                // As much of it as the system had got does not count, unless that was all.
                Step::Written => {
                    assert!(left == nothing || left == all, "{step:?}, outputs of {bytes} bytes: {left:?}");
                }
                Step::Synced | Step::Answered => {
                    assert_eq!(left, all, "{step:?}, outputs of {bytes} bytes");
                }
            }
            assert!(!was_answered || step == Step::Answered, "{step:?}: it was answered too early");
        }
    }
}

#[test]
#[ignore = "the process that ends; the other test starts it"]
fn the_child() {
    let Ok(step) = std::env::var(STEP) else { return };
    let (directory, bytes) = (std::env::var(DIRECTORY).unwrap(), std::env::var(OUTPUT_BYTES).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let step = Step::ALL[step.parse::<usize>().unwrap()];
    runtime.block_on(child(Path::new(&directory), step, bytes.parse().unwrap()));
}
