//! The process that is killed.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::Embedded;
use crossdock_topics::{
    Batch, Durability, Expect, Fetch, Log, Message, Outcome, Published, Settlement, StartAt, Store,
    Subscription, Subscriptions, Topic, TopicName,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::report::{COUNTER, FAST, OUT, Orders, PUBLISHERS, Report, SUBSCRIPTION, SYNCED, WRITTEN};
use crate::scratch;

/// How many messages with receipts a publisher sends again after a restart, as one whose receipts got lost.
const AGAIN: u64 = 30;
/// How many batches a publisher has under way.
const WINDOW: usize = 4;

/// Opens, reports, and works until it is killed.
pub(crate) fn run(orders: &Orders) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = scratch::open(&orders.directory).await.unwrap();
        define(&broker).await;
        report_findings(&broker, orders).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (number, (publisher, topic)) in PUBLISHERS.iter().enumerate() {
            let next = orders.next.get(*publisher).copied().unwrap_or(0);
            let dice = StdRng::seed_from_u64(orders.seed * 10 + number as u64);
            tasks.spawn(publish(broker.clone(), publisher, topic, next, dice));
        }
        for number in 0..2 {
            let dice = StdRng::seed_from_u64(orders.seed * 10 + 8 + number);
            tasks.spawn(consume(broker.clone(), dice));
        }
        tasks.spawn(count(broker.clone()));
        // None of them ends; one that does has failed.
        if let Some(ended) = tasks.join_next().await {
            panic!("a part of the load ended: {ended:?}; {:?}", crossdock_topics::Broker::health(&*broker));
        }
    });
}

fn say(report: &Report) {
    std::io::stdout().lock().write_all(report.line().as_bytes()).unwrap();
}

/// Makes what is not there yet; the same definitions again change nothing.
async fn define(broker: &Embedded) {
    let levels = [
        (SYNCED, Durability::Fsync),
        (WRITTEN, Durability::Os),
        (FAST, Durability::Memory),
        (OUT, Durability::Os),
    ];
    for (name, durability) in levels {
        // Long enough for what is sent again, short enough that thousands of kills do not pile up ids.
        let dedup_window = Duration::from_secs(120);
        let topic = Topic { durability, dedup_window, ..Topic::new(name.parse().unwrap()) };
        broker.put_topic(topic, Expect::Any).await.unwrap();
    }
    let mut work = Subscription::new(SUBSCRIPTION.parse().unwrap(), vec!["in.*".parse().unwrap()]);
    work.lease = Duration::from_secs(3600);
    broker.put_subscription(work, Expect::Any).await.unwrap();
}

async fn report_findings(broker: &Embedded, orders: &Orders) {
    for topic in [SYNCED, WRITTEN, FAST, OUT] {
        let name = topic.parse().unwrap();
        let info = broker.topic(&name).await.unwrap();
        say(&Report::Topic { topic: topic.into(), head: info.head, tail: info.tail });
        let from = orders.known.get(topic).copied().unwrap_or(0);
        let found = scratch::read_from(broker, &name, StartAt::Offset(from)).await.unwrap();
        for run in found.chunks(50) {
            for (n, message) in run.iter().enumerate() {
                assert_eq!(message.offset, run[0].offset + n as u64, "{topic}: a hole");
            }
            let texts = run.iter().map(scratch::text).collect();
            say(&Report::Messages { topic: topic.into(), first: run[0].offset, texts });
        }
    }
    if let Some(entry) = broker.get(COUNTER).await.unwrap() {
        let value = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        say(&Report::Counter { value, revision: entry.revision });
    }
    say(&Report::Ready);
}

/// Publishes numbered messages in batches, several under way, each with its number as its id. Begins with some
/// that have receipts already.
async fn publish(broker: Arc<Embedded>, publisher: &str, topic: &str, next: u64, mut dice: StdRng) {
    let name = topic.parse().unwrap();
    let mut number = next.saturating_sub(AGAIN);
    let mut under_way: VecDeque<(u64, Published)> = VecDeque::new();
    loop {
        while under_way.len() < WINDOW {
            let mut batch = Batch::default();
            let size = dice.random_range(1..8);
            for n in number..number + size {
                let text = format!("{publisher}-{n}");
                batch.push(&Message::new(text.clone()).with_id(text)).unwrap();
            }
            under_way.push_back((number, broker.publish(&name, batch, Default::default())));
            number += size;
        }
        let (first, published) = under_way.pop_front().unwrap();
        let receipts = published.await.unwrap();
        let receipts = receipts.iter().map(|receipt| (receipt.offset, receipt.duplicate)).collect();
        say(&Report::Receipts { publisher: publisher.into(), first, receipts });
        if topic == FAST {
            // Nothing else slows it down.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Takes messages and acknowledges each with an output that names it, without an id: only that both happen
/// together keeps an output from coming twice. Rejects a few.
async fn consume(broker: Arc<Embedded>, mut dice: StdRng) {
    let (name, out): (_, TopicName) = (SUBSCRIPTION.parse().unwrap(), OUT.parse().unwrap());
    loop {
        let taken = broker.fetch(&name, Fetch::new(None, 20, Duration::from_secs(1))).await.unwrap();
        for delivery in &taken {
            say(&Report::Delivered {
                topic: delivery.topic.to_string(),
                offset: delivery.offset,
                text: String::from_utf8_lossy(&delivery.record.payload()).into_owned(),
                attempt: delivery.attempt,
            });
        }
        let mut settlement = Settlement::default();
        let (mut acked, mut rejected, mut outputs) = (Vec::new(), Vec::new(), Batch::default());
        for delivery in &taken {
            let place = (delivery.topic.to_string(), delivery.offset);
            if dice.random_range(0..50) == 0 {
                settlement.outcomes.push((delivery.id, Outcome::Reject { reason: "by chance".into() }));
                rejected.push(place);
            } else {
                outputs.push(&Message::new(format!("{}/{}", place.0, place.1))).unwrap();
                settlement.outcomes.push((delivery.id, Outcome::Ack));
                acked.push(place);
            }
        }
        if !outputs.is_empty() {
            settlement.outputs.push((out.clone(), outputs));
        }
        let count = settlement.outcomes.len();
        let settled = broker.settle(&name, settlement).await.unwrap();
        assert_eq!(settled.settled, count, "{settled:?}");
        if !acked.is_empty() {
            say(&Report::Acked { places: acked });
        }
        for (topic, offset) in rejected {
            say(&Report::Rejected { topic, offset });
        }
    }
}

/// Counts up in the store, each time from what is there.
async fn count(broker: Arc<Embedded>) {
    loop {
        let (value, expect) = match broker.get(COUNTER).await.unwrap() {
            Some(entry) => {
                let value: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                (value + 1, Expect::At(entry.revision))
            }
            None => (1, Expect::Absent),
        };
        let revision = broker.put(COUNTER, value.to_string().into(), expect, None).await.unwrap();
        say(&Report::Counted { value, revision });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
