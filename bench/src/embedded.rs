//! The embedded engine in this process, as a program sees it that links it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{
    Batch, Broker, Expect, Fetch, Log, Message, Published, Settlement, Subscription, Subscriptions, Topic,
    TopicName,
};

use crate::file::{Space, append, rate};
use crate::report::{Report, Value};
use crate::samples::Latencies;
use crate::{Failure, Plan};

const SIZES: [usize; 2] = [128, 1024];
const IN_FLIGHT: [usize; 3] = [1, 64, 1024];

async fn open(plan: &Plan) -> Result<(tempfile::TempDir, Arc<Embedded>, TopicName), Failure> {
    let folder = tempfile::tempdir_in(&plan.disk)?;
    let options = EmbeddedOptions::new(folder.path().join("broker"));
    let broker = tokio::task::spawn_blocking(move || Embedded::open(options)).await??;
    let name: TopicName = "bench".parse()?;
    broker.put_topic(Topic::new(name.clone()), Expect::Any).await?;
    Ok((folder, broker, name))
}

/// Durable publishing (fsync), beside the plain file.
pub(crate) async fn publish(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    if !plan.wants("publish") {
        return Ok(());
    }
    for size in SIZES {
        for in_flight in IN_FLIGHT {
            let setting = format!("{size} B, {in_flight} in flight");
            let folder = tempfile::tempdir_in(&plan.disk)?;
            for (space, name) in [(Space::Growing, "growing"), (Space::Recycled, "recycled")] {
                let value = append(folder.path(), space, size, in_flight, plan.time)?;
                report.add(&format!("plain file, {name}"), &setting, value);
            }
            let (_folder, broker, topic) = open(plan).await?;
            let value = window(&*broker, &topic, size, in_flight, 1, plan.time).await?;
            report.add("publish, in process", &setting, value);
            if in_flight >= 1024 {
                let value = window(&*broker, &topic, size, in_flight, 64, plan.time).await?;
                report.add("publish, in process, 64 a batch", &setting, value);
            }
            broker.close().await;
        }
    }
    Ok(())
}

/// Keeps so many messages on their way, `per_call` in each call.
async fn window(
    log: &dyn Log,
    topic: &TopicName,
    size: usize,
    in_flight: usize,
    per_call: usize,
    time: Duration,
) -> Result<Value, Failure> {
    let message = Message::new(vec![b'x'; size]);
    let mut under_way: VecDeque<(Instant, Published)> = VecDeque::with_capacity(in_flight);
    let mut latencies = Latencies::default();
    let mut acknowledged = 0;
    let start = Instant::now();
    loop {
        let running = start.elapsed() < time;
        while running && under_way.len() * per_call < in_flight {
            let mut batch = Batch::with_capacity(per_call * (size + 16));
            for _ in 0..per_call {
                batch.push(&message)?;
            }
            under_way.push_back((Instant::now(), log.publish(topic, batch, Default::default())));
        }
        // They are answered in their order.
        let Some((begin, published)) = under_way.pop_front() else { break };
        acknowledged += u64::from(published.await?.count);
        latencies.add(begin.elapsed());
    }
    let value = rate(acknowledged, start.elapsed());
    Ok(Value {
        unit: "messages/s",
        value,
        latency: Some((latencies.quantile(0.5), latencies.quantile(0.99))),
    })
}

/// Consuming a backlog with acknowledgements, each of which is durable when it is answered.
pub(crate) async fn consume(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    const AT_ONCE: usize = 1024;
    if !plan.wants("consume") {
        return Ok(());
    }
    for size in SIZES {
        let messages: u64 = if plan.quick { 50_000 } else { 2_000_000 / (size as u64 / 128) };
        let (_folder, broker, topic) = open(plan).await?;
        let subscription: crossdock_topics::SubscriptionName = "bench".parse()?;
        let definition = Subscription::new(subscription.clone(), vec![topic.to_string().parse()?]);
        broker.put_subscription(definition, Expect::Any).await?;
        fill(&*broker, &topic, size, messages).await?;

        let consumer = broker.join(&subscription).await?;
        let mut taken = 0;
        let mut settling = VecDeque::new();
        let start = Instant::now();
        while taken < messages {
            let fetch = Fetch::new(Some(consumer), AT_ONCE, Duration::from_secs(5));
            let deliveries = broker.fetch(&subscription, fetch).await?;
            if deliveries.is_empty() {
                return Err(format!("only {taken} of {messages} messages were delivered").into());
            }
            taken += deliveries.len() as u64;
            let settlement = Settlement::ack(deliveries.iter().map(|delivery| delivery.id));
            let (broker, subscription) = (broker.clone(), subscription.clone());
            settling.push_back(tokio::spawn(async move { broker.settle(&subscription, settlement).await }));
            if settling.len() > 2
                && let Some(oldest) = settling.pop_front()
            {
                oldest.await??;
            }
        }
        for left in settling {
            left.await??;
        }
        let value = Value { unit: "messages/s", value: rate(messages, start.elapsed()), latency: None };
        report.add("consume and acknowledge, in process", &format!("{size} B, {AT_ONCE} at a time"), value);
        broker.close().await;
    }
    Ok(())
}

async fn fill(log: &dyn Log, topic: &TopicName, size: usize, messages: u64) -> Result<(), Failure> {
    let message = Message::new(vec![b'x'; size]);
    let mut under_way: VecDeque<Published> = VecDeque::new();
    let mut left = messages;
    while left > 0 {
        let mut batch = Batch::default();
        for _ in 0..left.min(1000) {
            batch.push(&message)?;
        }
        left -= batch.len() as u64;
        under_way.push_back(log.publish(topic, batch, Default::default()));
        if under_way.len() > 8
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.await?;
        }
    }
    for published in under_way {
        published.await?;
    }
    Ok(())
}
