//! What an engine does until it is killed: publishes, consumes, counts, leads, asks and answers.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_topics::{
    Batch, ErrorCode, Expect, Fetch, Log, Message, PublishOptions, Requests, Settlement, Store,
    Subscriptions, TopicName,
};
use tokio::time::Instant;

use super::engine::{Consumed, ORDERS, Orders, REPORT, Report, Step};
use super::{SUBSCRIPTIONS, TOPIC, subscription};

/// How long the lease of the one who leads lasts.
const LEADING: Duration = Duration::from_secs(3);
/// How many keys the messages of an engine have.
const KEYS: u64 = 16;
/// No request needs that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Works until the process is killed.
pub(crate) fn run() {
    let orders: Orders = serde_json::from_str(&std::env::var(ORDERS).unwrap()).unwrap();
    // The test's name stands on the line that would be the first report.
    std::io::stdout().write_all(b"\n").unwrap();
    // RUST_LOG shows what the engines think of all this.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = loop {
            // NATS may be without a leader just now.
            match JetStream::open(JetStreamOptions::new(&orders.url).unwrap()).await {
                Ok(broker) => break broker,
                Err(error) => eprintln!("{}: {error}", orders.name),
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(publish(broker.clone(), orders.name.clone()));
        tasks.spawn(count(broker.clone()));
        tasks.spawn(lead(broker.clone()));
        tasks.spawn(answer(broker.clone()));
        tasks.spawn(ask(broker.clone()));
        for subscription in 0..SUBSCRIPTIONS {
            tasks.spawn(consume(broker.clone(), subscription));
        }
        // None of them ends; one that does has failed.
        panic!("a part of the load ended: {:?}", tasks.join_next().await);
    });
}

fn say(report: &Report) {
    let line = format!("{REPORT}{}\n", serde_json::to_string(report).unwrap());
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn pause() -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_millis(20))
}

/// One message after the other, each until it is acknowledged.
async fn publish(broker: Arc<JetStream>, name: String) {
    let topic: TopicName = TOPIC.parse().unwrap();
    for number in 0.. {
        let message = Message::new(format!("{name} {number}")).with_id(format!("{name}-{number}"));
        let message = message.with_key(format!("{name}-{}", number % KEYS));
        let batch = Batch::of(&message).unwrap();
        loop {
            match broker.publish(&topic, batch.clone(), PublishOptions::default()).await {
                Ok(receipts) => {
                    let offset = receipts.duplicates.first().map_or(receipts.first, |(_, offset)| *offset);
                    break say(&Report::Published(number, offset));
                }
                Err(error) => {
                    let passing = [ErrorCode::Unavailable, ErrorCode::Overloaded, ErrorCode::Timeout];
                    assert!(passing.contains(&error.code), "{error}");
                    pause().await;
                }
            }
        }
        pause().await;
    }
}

/// Consumes from a subscription that all consume from.
async fn consume(broker: Arc<JetStream>, number: usize) {
    let name = subscription(number);
    let tell = |offsets: Vec<u64>, what| {
        say(&Report::Consumed(Consumed { subscription: number, offsets, what }));
    };
    let mut consumer = None;
    loop {
        let joined = match consumer {
            Some(joined) => joined,
            None => match broker.join(&name).await {
                Ok(joined) => *consumer.insert(joined),
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                    continue;
                }
            },
        };
        let asked = millis();
        let fetch = Fetch::new(Some(joined), 5, Duration::from_secs(2));
        let deliveries = match broker.fetch(&name, fetch).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                pause().await;
                continue;
            }
        };
        if deliveries.is_empty() {
            continue;
        }
        let offsets: Vec<u64> = deliveries.iter().map(|delivery| delivery.offset).collect();
        let failed = deliveries.iter().any(|delivery| delivery.attempt > 1);
        tell(offsets.clone(), Step::Given(asked, millis(), failed));
        pause().await;
        tell(offsets, Step::Settling(millis()));
        let acks = Settlement::ack(deliveries.iter().map(|delivery| delivery.id));
        // Otherwise it would hold them until their lease is over, which is a failure.
        let settled = loop {
            match broker.settle(&name, acks.clone()).await {
                Ok(settled) => break settled,
                Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
            }
            pause().await;
        };
        let done = deliveries.iter().filter(|delivery| !settled.stale.contains(&delivery.id));
        tell(done.map(|delivery| delivery.offset).collect(), Step::Settled(millis()));
    }
}

/// Raises the counter that all raise.
async fn count(broker: Arc<JetStream>) {
    loop {
        pause().await;
        let Ok(entry) = broker.get("counter").await else { continue };
        let (value, expect) = entry.map_or((0, Expect::Absent), |entry| {
            (std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap(), Expect::At(entry.revision))
        });
        match broker.put("counter", (value + 1).to_string().into(), expect, None).await {
            Ok(_) => say(&Report::Counted(value + 1)),
            Err(error) if error.code == ErrorCode::Conflict => {}
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                say(&Report::Uncertain(value + 1));
            }
        }
    }
}

/// Leads while nobody else does: what must run once in a cluster does it so.
async fn lead(broker: Arc<JetStream>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut since = Instant::now();
        let Ok(lease) = broker.grant(LEADING).await else { continue };
        let taken = broker.put("leader", "me".into(), Expect::Absent, Some(lease)).await;
        // Sure for two thirds of the time since the last renewal was asked for.
        let mut led = millis();
        while taken.is_ok() && since.elapsed() < LEADING * 2 / 3 {
            let now = millis();
            // Looked at again: the process may have been halted in between.
            if since.elapsed() < LEADING * 2 / 3 {
                say(&Report::Led(led, now));
            }
            led = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let asked = Instant::now();
            match broker.keep_alive(lease).await {
                Ok(()) => since = asked,
                Err(error) if error.code == ErrorCode::NotFound => break,
                Err(_) => {}
            }
        }
        let _ = broker.revoke(lease).await;
    }
}

fn millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

async fn answer(broker: Arc<JetStream>) {
    let service = "pricing".parse().unwrap();
    let mut requests = loop {
        match broker.serve(&service, 100).await {
            Ok(requests) => break requests,
            Err(error) => eprintln!("{error}"),
        }
        pause().await;
    };
    while let Some(request) = requests.recv().await {
        let payload = request.message.payload.clone();
        request.responder.reply(Ok(Message::new(payload)));
    }
}

async fn ask(broker: Arc<JetStream>) {
    let service = "pricing".parse().unwrap();
    for number in 0_u64.. {
        pause().await;
        let began = Instant::now();
        let reply = broker.request(&service, Message::new(number.to_string()), PATIENCE).await;
        let took = began.elapsed().as_millis() as u64;
        match reply {
            Ok(reply) => {
                assert_eq!(reply.payload, number.to_string());
                say(&Report::Answered(took));
            }
            Err(error) => say(&Report::Failed(error.code.to_string(), took)),
        }
    }
}
