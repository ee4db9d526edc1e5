//! Redis Streams: redis-server with one stream a topic and one consumer group a subscription, by the redis crate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Pipeline, Value, cmd, pipe};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::Map;
use tokio::process::Command;
use tokio::task::{JoinError, JoinHandle};

use super::process::free_port;
use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// With a sync each second, and before each answer.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let root = folder.join("redis-server");
    let binary = super::find("redis-server", &root.join("usr/bin/redis-server"))?;
    let redis = |always| Redis { about: about(always), binary: binary.clone(), root: root.clone(), always };
    Some(vec![Box::new(redis(false)), Box::new(redis(true))])
}

struct Redis {
    about: About,
    binary: PathBuf,
    root: PathBuf,
    always: bool,
}

fn about(always: bool) -> About {
    let (name, durability, sync) = if always {
        ("Redis Streams, always", "fsync before each answer; everything is in memory too", "always")
    } else {
        let durability = "in the page cache when acknowledged, fsync every second: a power loss takes up to two seconds; \
             everything is in memory too";
        ("Redis Streams, everysec", durability, "everysec")
    };
    let settings = format!(
        "appendonly yes, appendfsync {sync}, no RDB snapshots. Client: the redis crate, multiplexed; pipelines \
         of a quarter of what is in flight; XACK of all that was taken in one pipeline with the next XREADGROUP."
    );
    About { name, durability, settings, redelivers: true }
}

#[async_trait]
impl System for Redis {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let port = free_port()?;
        let mut command = Command::new(&self.binary);
        super::libraries(&mut command, &self.root);
        let sync = if self.always { "always" } else { "everysec" };
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", sync]).arg("--dir").arg(folder);
        let mut process = Process::start(command, folder)?;
        process.listens(port, Duration::from_secs(20)).await?;
        let client = Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let mut connection = connect(&client).await?;
        cmd("PING").exec_async(&mut connection).await?;
        Ok(Box::new(Running { process, client, connection }))
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(60)));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

struct Running {
    process: Process,
    client: Client,
    connection: MultiplexedConnection,
}

#[async_trait]
impl Server for Running {
    fn processes(&self) -> &[Process] {
        std::slice::from_ref(&self.process)
    }

    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure> {
        // A stream is there as soon as it has a group; without one, with its first message.
        for subscription in subscriptions {
            self.subscribe(topic, subscription).await?;
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &str, subscription: &str) -> Result<(), Failure> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(topic).arg(subscription).arg("0").arg("MKSTREAM");
        Ok(create.exec_async(&mut self.connection.clone()).await?)
    }

    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure> {
        let connection = connect(&self.client).await?;
        Ok(Box::new(Publishing { connection, topic: topic.to_owned(), in_flight }))
    }

    async fn consumer(
        &self,
        topic: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure> {
        Ok(Box::new(Consuming {
            connection: connect(&self.client).await?,
            topic: topic.to_owned(),
            group: subscription.to_owned(),
            in_flight,
            settled: Vec::new(),
            failed: 0,
        }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        self.process.stop().await
    }
}

struct Publishing {
    connection: MultiplexedConnection,
    topic: String,
    in_flight: usize,
}

type Answer = Result<Result<(), Failure>, JoinError>;

impl Sender for Publishing {
    type Acknowledged = Map<JoinHandle<Result<(), Failure>>, fn(Answer) -> Result<(), Failure>>;

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn run_length(&self) -> usize {
        self.in_flight.div_ceil(4)
    }

    async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
        let mut pipeline = Pipeline::with_capacity(run.len());
        for payload in run.drain(..) {
            pipeline.cmd("XADD").arg(&self.topic).arg("*").arg("m").arg(&payload[..]).ignore();
        }
        let mut connection = self.connection.clone();
        let sent = tokio::spawn(async move { Ok(pipeline.exec_async(&mut connection).await?) });
        // Tasks start in any order; the order within a pipeline is kept.
        Ok(sent.map((|answer: Answer| answer?) as fn(Answer) -> Result<(), Failure>))
    }
}

struct Consuming {
    connection: MultiplexedConnection,
    topic: String,
    group: String,
    in_flight: usize,
    /// What was taken and is done, but not said yet.
    settled: Vec<Vec<u8>>,
    /// How many failed: they stay with the group until they are claimed again.
    failed: usize,
}

impl Consuming {
    fn acknowledge(&mut self) -> Pipeline {
        let mut pipeline = pipe();
        if !self.settled.is_empty() {
            let done = std::mem::take(&mut self.settled);
            pipeline.cmd("XACK").arg(&self.topic).arg(&self.group).arg(done).ignore();
        }
        pipeline
    }
}

/// The messages of an answer, as (id, payload).
fn messages(value: Value) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let Value::Array(messages) = value else { return None };
    let message = |value| {
        let Value::Array(parts) = value else { return None };
        let [Value::BulkString(id), Value::Array(fields)] = <[Value; 2]>::try_from(parts).ok()? else {
            return None;
        };
        let [_, Value::BulkString(payload)] = <[Value; 2]>::try_from(fields).ok()? else { return None };
        Some((id, payload))
    };
    messages.into_iter().map(message).collect()
}

/// The part of an answer at these places, one within the other.
fn within(value: Value, places: &[usize]) -> Option<Value> {
    places.iter().try_fold(value, |value, place| {
        let Value::Array(mut parts) = value else { return None };
        (*place < parts.len()).then(|| parts.swap_remove(*place))
    })
}

#[async_trait]
impl Consumer for Consuming {
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure> {
        let mut pipeline = self.acknowledge();
        let places: &[usize] = if self.failed > 0 {
            let claim = pipeline.cmd("XAUTOCLAIM").arg(&self.topic).arg(&self.group).arg("consumer").arg(0);
            claim.arg("0-0").arg("COUNT").arg(self.in_flight);
            &[0, 1]
        } else {
            let read = pipeline.cmd("XREADGROUP").arg("GROUP").arg(&self.group).arg("consumer");
            read.arg("COUNT").arg(self.in_flight).arg("BLOCK").arg(1000);
            read.arg("STREAMS").arg(&self.topic).arg(">");
            &[0, 0, 1]
        };
        let answer: Value = pipeline.query_async(&mut self.connection).await?;
        let Some(found) = within(answer, places) else { return Ok(0) };
        let found = messages(found).ok_or("Redis answered with something else than messages")?;
        let taken = found.len();
        for (id, payload) in found {
            match handler(&payload) {
                Verdict::Ack => self.settled.push(id),
                Verdict::Fail => {}
            }
        }
        let fresh = places.len() == 3;
        let known = if fresh { 0 } else { self.failed.min(taken) };
        self.failed = self.failed - known + (taken - self.settled.len());
        Ok(taken as u64)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        let pipeline = self.acknowledge();
        if !pipeline.is_empty() {
            pipeline.exec_async(&mut self.connection).await?;
        }
        Ok(())
    }
}
