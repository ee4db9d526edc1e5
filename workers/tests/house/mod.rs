//! Workers on a real embedded broker, with real python3 processes.

#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute only

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_config::{ServiceRecord, ServiceState, ServiceStatus, keys};
use crossdock_topics::{
    Backoff, Batch, Broker, DeadLetter, Expect, Message, Record, Reply, Result, ServiceName, Shutdown,
    StartAt, Subscription, Topic, TopicName,
};
use crossdock_workers::Options;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long anything in a test may take before it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct House {
    pub broker: Arc<dyn Broker>,
    shutdown: Shutdown,
    workers: JoinHandle<Result<()>>,
    _folder: tempfile::TempDir,
}

impl House {
    pub async fn open(topics: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let open = move || Embedded::open(EmbeddedOptions::new(data)).unwrap();
        let broker: Arc<dyn Broker> = tokio::task::spawn_blocking(open).await.unwrap();
        for topic in topics {
            broker.put_topic(Topic::new(topic.parse().unwrap()), Expect::Absent).await.unwrap();
        }
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let mut options = Options::new("here", folder.path().join("run"));
        options.ready_within = Duration::from_secs(5);
        let workers = tokio::spawn(crossdock_workers::run(options, broker.clone(), shutdown.clone()));
        let house = Self { broker, shutdown, workers, _folder: folder };
        house
            .until("workers answer", || async {
                house.ask("_workers.validate", json!({})).await.is_err_and(|e| e.message.contains("order"))
            })
            .await;
        house
    }

    /// Ends the workers and the broker, and checks that both do in time.
    pub async fn close(self) {
        let broker = self.stop_workers().await;
        broker.close().await;
    }

    /// Ends the workers only.
    pub async fn stop_workers(self) -> Arc<dyn Broker> {
        self.shutdown.begin();
        tokio::time::timeout(PATIENCE, self.workers).await.unwrap().unwrap().unwrap();
        self.broker
    }

    pub async fn ask(&self, service: &str, body: Value) -> Reply {
        self.send(service, Message::json(body.to_string())).await
    }

    pub async fn send(&self, service: &str, message: Message) -> Reply {
        self.broker.request(&service.parse().unwrap(), message, PATIENCE).await
    }

    /// Deploys and waits until it runs.
    pub async fn deploy(&self, service: &str, source: &str) -> Value {
        self.deploy_with(service, source, json!({})).await
    }

    pub async fn deploy_with(&self, service: &str, source: &str, settings: Value) -> Value {
        let done = self.try_deploy(service, source, settings).await.unwrap();
        self.until_state(service, ServiceState::Running).await;
        done
    }

    pub async fn try_deploy(&self, service: &str, source: &str, settings: Value) -> Result<Value> {
        let order = json!({"name": service, "source": source, "settings": settings, "by": "ann"});
        let reply = self.ask("_workers.deploy", order).await?;
        Ok(serde_json::from_slice(&reply.payload).unwrap())
    }

    pub async fn record(&self, service: &str) -> Option<ServiceRecord> {
        let name: ServiceName = service.parse().unwrap();
        let entry = self.broker.get(&keys::service(&name)).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// Changes a service's record as whoever administers it would.
    pub async fn change(&self, service: &str, change: impl FnOnce(&mut ServiceRecord)) {
        let mut record = self.record(service).await.unwrap();
        change(&mut record);
        let value = serde_json::to_vec(&record).unwrap();
        self.broker.put(&keys::service(&record.name), value.into(), Expect::Any, None).await.unwrap();
    }

    pub async fn status(&self, service: &str) -> Option<ServiceStatus> {
        let name: ServiceName = service.parse().unwrap();
        let entry = self.broker.get(&keys::status("here", &name)).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// Waits until the service's newest version is in this state, and gives its status.
    pub async fn until_state(&self, service: &str, state: ServiceState) -> ServiceStatus {
        self.until(&format!("{service} is {state}"), || async {
            let record = self.record(service).await;
            let status = self.status(service).await;
            status.is_some_and(|s| s.state == state && record.is_none_or(|r| r.current == s.version))
        })
        .await;
        self.status(service).await.unwrap()
    }

    pub async fn publish(&self, topic: &str, messages: impl IntoIterator<Item = Value>) {
        let mut batch = Batch::default();
        for message in messages {
            batch.push(&Message::json(message.to_string())).unwrap();
        }
        self.broker.publish(&topic.parse().unwrap(), batch, Default::default()).await.unwrap();
    }

    pub async fn records(&self, topic: &str) -> Vec<Record> {
        let topic: TopicName = topic.parse().unwrap();
        let (mut records, mut from) = (Vec::new(), StartAt::Start);
        loop {
            let page = self.broker.read(&topic, from, 1000, Duration::ZERO).await.unwrap();
            if page.messages.is_empty() {
                return records;
            }
            from = StartAt::Offset(page.next);
            records.extend(page.messages.into_iter().map(|stored| stored.record));
        }
    }

    pub async fn values(&self, topic: &str) -> Vec<Value> {
        let records = self.records(topic).await;
        records.iter().map(|record| serde_json::from_slice(&record.payload()).unwrap()).collect()
    }

    /// Waits until a topic holds so many messages, and gives them.
    pub async fn until_values(&self, topic: &str, count: usize) -> Vec<Value> {
        self.until(&format!("{topic} holds {count}"), || async { self.records(topic).await.len() >= count })
            .await;
        self.values(topic).await
    }

    pub async fn dead_letters(&self, subscription: &str) -> Vec<DeadLetter> {
        self.broker.dead_letters(&subscription.parse().unwrap(), None, 1000).await.unwrap()
    }

    pub async fn until_dead_letters(&self, subscription: &str, count: usize) -> Vec<DeadLetter> {
        self.until(&format!("{subscription} has {count} dead letters"), || async {
            self.dead_letters(subscription).await.len() >= count
        })
        .await;
        self.dead_letters(subscription).await
    }

    /// Lets failed messages of a subscription come again at once.
    pub async fn hurry(&self, subscription: &str) {
        let info = self.broker.subscription(&subscription.parse().unwrap()).await.unwrap();
        let wait = Duration::from_millis(10);
        let definition =
            Subscription { backoff: Backoff { first: wait, factor: 1.0, max: wait }, ..info.subscription };
        self.broker.put_subscription(definition, Expect::Any).await.unwrap();
    }

    /// What a service has printed: stream and line.
    pub async fn logs(&self, service: &str) -> Vec<(String, String)> {
        let records = self.records(&format!("_logs.{service}")).await;
        let line = |r: &Record| {
            let stream = r.header("stream").unwrap_or_default().to_owned();
            (stream, String::from_utf8(r.payload().to_vec()).unwrap())
        };
        records.iter().map(line).collect()
    }

    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut check: impl FnMut() -> F) {
        let begun = Instant::now();
        while !check().await {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn value(reply: Reply) -> Value {
    serde_json::from_slice(&reply.unwrap().payload).unwrap()
}
