//! Crossdock: its broker in this process, and its server over TCP.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_access::Credentials;
use crossdock_broker::{Embedded, EmbeddedOptions, Remote, RemoteOptions};
use crossdock_topics::{
    Batch, ConsumerId, Durability, Expect, Fetch, Message, Outcome, PublishOptions, Published, Receipts,
    Settlement, SharedBroker, Subscription, SubscriptionName, Topic, TopicName,
};
use futures::FutureExt;
use futures::future::Map;
use serde::Deserialize;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// So many deliveries are fetched at a time where a third of what may be in flight is less.
const SMALL: usize = 256;

/// How all engines are used, in words.
pub(super) const CLIENT: &str = "one call for each message; consumers fetch a third of what may be in flight at a time \
                                 (256 at least), and settle that in one call while they fetch the next.";

/// The broker in both ways it is used.
pub(super) fn systems() -> Vec<Box<dyn System>> {
    let about = |name, settings: &str| {
        let durability = "fsync before each acknowledgement; the outcome of each message too";
        About { name, durability, settings: settings.to_owned(), redelivers: true }
    };
    let over_tcp = format!("`crossdock quickstart` as it is. Client: its remote engine, {CLIENT}");
    let in_process = format!("Everything by default. Client: {CLIENT}");
    vec![
        Box::new(OverTcp(about("Crossdock", &over_tcp))),
        Box::new(InProcess(about("Crossdock, in process", &in_process))),
    ]
}

/// The server as a user starts it, over TCP.
struct OverTcp(About);

#[async_trait]
impl System for OverTcp {
    fn about(&self) -> &About {
        &self.0
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let binary = crate::platform::binary()?;
        let data = folder.join("data");
        let mut command = Command::new(binary);
        // Whoever runs this has contexts and settings of his own, which are not to be used or changed.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CROSSDOCK_") {
                command.env_remove(name);
            }
        }
        command.current_dir(folder).env("HOME", folder).env("XDG_CONFIG_HOME", folder.join(".config"));
        command.arg("quickstart").arg(&data).args(["--port-base", "0"]);
        let process = Process::start(command, folder)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let attempt = async {
                let options = options(&data.join("context.json"))?;
                Ok::<_, Failure>((connect(&options).await?, options))
            };
            match attempt.await {
                Ok((broker, options)) => {
                    let running = Running::new(broker, vec![process], Durability::Fsync);
                    return Ok(Box::new(Running { remote: Some(options), ..running }));
                }
                Err(cause) if Instant::now() > deadline => {
                    return Err(format!("{cause}; it said:\n{}", process.said()).into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// What a server says of itself to those who may read its folder.
#[derive(Deserialize)]
struct Context {
    broker_url: String,
    user: String,
    password: String,
}

fn options(context: &Path) -> Result<RemoteOptions, Failure> {
    let context: Context = serde_json::from_slice(&std::fs::read(context)?)?;
    let mut options = RemoteOptions::new(&context.broker_url)?;
    let (user, password) = (context.user, context.password.into());
    options.credentials = Some(Credentials::Basic { user, password });
    Ok(options)
}

async fn connect(options: &RemoteOptions) -> Result<SharedBroker, Failure> {
    Ok(Remote::connect(options.clone()).await?)
}

/// The embedded engine, as a program sees it that links it.
struct InProcess(About);

#[async_trait]
impl System for InProcess {
    fn about(&self) -> &About {
        &self.0
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let options = EmbeddedOptions::new(folder.join("broker"));
        let broker = tokio::task::spawn_blocking(move || Embedded::open(options)).await??;
        Ok(Box::new(Running::new(broker, Vec::new(), Durability::Fsync)))
    }
}

/// A broker that runs, here or elsewhere.
pub(super) struct Running {
    broker: SharedBroker,
    /// What was started for it.
    processes: Vec<Process>,
    /// The way to connect to it, if that is not shared.
    remote: Option<RemoteOptions>,
    durability: Durability,
}

impl Running {
    /// A broker in this process, whose topics ask for this, on processes started for it.
    pub(super) fn new(broker: SharedBroker, processes: Vec<Process>, durability: Durability) -> Self {
        Self { broker, processes, remote: None, durability }
    }

    /// A connection for whoever publishes or consumes, as processes of their own would have.
    async fn client(&self) -> Result<SharedBroker, Failure> {
        match &self.remote {
            Some(options) => connect(options).await,
            None => Ok(self.broker.clone()),
        }
    }
}

#[async_trait]
impl Server for Running {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure> {
        let mut definition = Topic::new(topic.parse()?);
        definition.durability = self.durability;
        self.broker.put_topic(definition, Expect::Any).await?;
        for subscription in subscriptions {
            self.subscribe(topic, subscription).await?;
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &str, subscription: &str) -> Result<(), Failure> {
        let mut definition = Subscription::new(subscription.parse()?, vec![topic.parse()?]);
        definition.max_failures = 1000;
        self.broker.put_subscription(definition, Expect::Any).await?;
        Ok(())
    }

    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure> {
        Ok(Box::new(Publishing { broker: self.client().await?, topic: topic.parse()?, in_flight }))
    }

    async fn consumer(
        &self,
        _: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure> {
        let subscription: SubscriptionName = subscription.parse()?;
        let broker = self.client().await?;
        let consumer = broker.join(&subscription).await?;
        let settling = VecDeque::new();
        Ok(Box::new(Consuming { broker, subscription, consumer, in_flight, held: 0, settling }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        self.broker.close().await;
        for process in self.processes {
            process.stop().await?;
        }
        Ok(())
    }
}

struct Publishing {
    broker: SharedBroker,
    topic: TopicName,
    in_flight: usize,
}

fn received(receipts: crossdock_topics::Result<Receipts>) -> Result<(), Failure> {
    receipts.map(|_| ()).map_err(Failure::from)
}

impl Sender for Publishing {
    type Acknowledged = Map<Published, fn(crossdock_topics::Result<Receipts>) -> Result<(), Failure>>;

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
        let mut batch = Batch::default();
        for payload in run.drain(..) {
            batch.push(&Message::new(payload))?;
        }
        let published = self.broker.publish(&self.topic, batch, PublishOptions::default());
        Ok(published.map(received as fn(crossdock_topics::Result<Receipts>) -> Result<(), Failure>))
    }
}

struct Consuming {
    broker: SharedBroker,
    subscription: SubscriptionName,
    consumer: ConsumerId,
    in_flight: usize,
    /// How many messages are in the settlements under way.
    held: usize,
    settling: VecDeque<(usize, JoinHandle<Result<(), Failure>>)>,
}

impl Consuming {
    /// Waits until no more than so many are held.
    async fn settled_down_to(&mut self, most: usize) -> Result<(), Failure> {
        while self.held > most
            && let Some((count, settling)) = self.settling.pop_front()
        {
            settling.await??;
            self.held -= count;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Consuming {
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure> {
        // Parts of what may be in flight, so that one is fetched while others are settled; small ones all at once.
        let part = (self.in_flight / 3).max(SMALL);
        self.settled_down_to(self.in_flight - part.min(self.in_flight.div_ceil(2))).await?;
        let room = part.min(self.in_flight - self.held);
        let fetch = Fetch::new(Some(self.consumer), room, Duration::from_secs(1));
        let deliveries = self.broker.fetch(&self.subscription, fetch).await?;
        if deliveries.is_empty() {
            return Ok(0);
        }
        let outcomes = deliveries.iter().map(|delivery| {
            let outcome = match handler(&delivery.record.payload()) {
                Verdict::Ack => Outcome::Ack,
                Verdict::Fail => Outcome::Retry { after: Some(Duration::ZERO), reason: "told to".to_owned() },
            };
            (delivery.id, outcome)
        });
        let settlement = Settlement { outcomes: outcomes.collect(), ..Settlement::default() };
        let (broker, subscription) = (Arc::clone(&self.broker), self.subscription.clone());
        let settling = tokio::spawn(async move {
            let expected = settlement.outcomes.len();
            let settled = broker.settle(&subscription, settlement).await?;
            if settled.settled == expected {
                return Ok(());
            }
            Err(format!("{} of {expected} deliveries were stale", settled.stale.len()).into())
        });
        self.held += deliveries.len();
        self.settling.push_back((deliveries.len(), settling));
        Ok(deliveries.len() as u64)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.settled_down_to(0).await
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.broker.leave(&self.subscription, self.consumer);
    }
}
