//! RabbitMQ: one node with quorum queues or streams, over AMQP by lapin.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::Map;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm,
};
use tokio::process::Command;

use super::process::free_port;
use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// Quorum queues and streams.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let root = folder.join("rabbitmq-server");
    let releases = std::fs::read_dir(root.join("usr/lib/rabbitmq/lib")).into_iter().flatten().flatten();
    let fetched =
        releases.map(|release| release.path().join("sbin/rabbitmq-server")).find(|file| file.is_file());
    // Debian's own command on the PATH insists on a user of its own; what it calls does not.
    let installed = std::fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut installed = installed.map(|release| release.path().join("sbin/rabbitmq-server"));
    let binary = installed.find(|file| file.is_file()).or(fetched)?;
    let rabbit =
        |stream| RabbitMq { about: about(stream), binary: binary.clone(), root: root.clone(), stream };
    Some(vec![Box::new(rabbit(false)), Box::new(rabbit(true))])
}

struct RabbitMq {
    about: About,
    binary: PathBuf,
    root: PathBuf,
    stream: bool,
}

fn about(stream: bool) -> About {
    if stream {
        let durability =
            "in the page cache when confirmed: a power loss takes what the system has not written";
        let settings = "No plugins. Client: lapin over AMQP, publisher confirms (the Rust client of its stream protocol, which is \
             faster, brings a TLS library that this workspace keeps out); what a consumer acknowledges only gives it credit, the server keeps no place for it.";
        About { name: "RabbitMQ, stream", durability, settings: settings.to_owned(), redelivers: false }
    } else {
        let settings = "No plugins; more than one subscription is a fanout exchange with a queue each. Client: lapin, publisher \
             confirms, persistent messages; acknowledges all it has taken with `multiple`.";
        let durability = "fsync before each confirm";
        About { name: "RabbitMQ, quorum queue", durability, settings: settings.to_owned(), redelivers: true }
    }
}

#[async_trait]
impl System for RabbitMq {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let (port, distribution, mapper) = (free_port()?, free_port()?, free_port()?);
        let config = folder.join("rabbitmq.conf");
        std::fs::write(&config, format!("listeners.tcp.1 = 127.0.0.1:{port}\n"))?;
        let plugins = folder.join("plugins");
        std::fs::write(&plugins, "[].\n")?;

        let fetched = self.binary.starts_with(&self.root);
        let erlang =
            if fetched { self.root.join("usr/lib/erlang/bin") } else { "/usr/lib/erlang/bin".into() };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([erlang.clone()].into_iter().chain(std::env::split_paths(&path)))?;
        // Erlang's port mapper would outlive the server it was started by: it gets a process that is stopped.
        let apart = folder.join("mapper");
        std::fs::create_dir(&apart)?;
        let mut command = Command::new(erlang.join("epmd"));
        command.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]);
        super::libraries(&mut command, &self.root);
        let mut mapping = Process::start(command, &apart)?;
        mapping.listens(mapper, Duration::from_secs(10)).await?;

        let mut command = Command::new("sh");
        command.arg(&self.binary).env("PATH", path).env("HOME", folder);
        super::libraries(&mut command, &self.root);
        command.env("ERL_EPMD_PORT", mapper.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        // The shell makes place for the server instead of waiting for it.
        command.env("RUNNING_UNDER_SYSTEMD", "true").env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        command.env("RABBITMQ_CONFIG_FILE", config).env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins);
        command.env("RABBITMQ_MNESIA_BASE", folder.join("data")).env("RABBITMQ_LOG_BASE", folder.join("log"));
        command
            .env("RABBITMQ_NODENAME", "bench@localhost")
            .env("RABBITMQ_DIST_PORT", distribution.to_string());
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        let mut process = Process::start(command, folder)?;
        process.listens(port, Duration::from_secs(60)).await?;
        let address = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        let connection = Connection::connect(&address, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let (stream, fanned) = (self.stream, Mutex::default());
        Ok(Box::new(Running { process, mapping, address, connection, channel, stream, fanned }))
    }
}

struct Running {
    process: Process,
    mapping: Process,
    address: String,
    connection: Connection,
    channel: Channel,
    stream: bool,
    /// Topics that are exchanges, with a queue for each subscription.
    fanned: Mutex<HashSet<String>>,
}

impl Running {
    fn is_fanned(&self, topic: &str) -> bool {
        self.fanned.lock().is_ok_and(|fanned| fanned.contains(topic))
    }

    async fn declare(&self, queue: &str) -> Result<(), Failure> {
        let mut arguments = FieldTable::default();
        let kind = if self.stream { "stream" } else { "quorum" };
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from(kind)));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, arguments).await?;
        Ok(())
    }
}

#[async_trait]
impl Server for Running {
    fn processes(&self) -> &[Process] {
        std::slice::from_ref(&self.process)
    }

    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure> {
        if self.stream || subscriptions.len() < 2 {
            return self.declare(topic).await;
        }
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        self.channel
            .exchange_declare(topic.into(), ExchangeKind::Fanout, options, FieldTable::default())
            .await?;
        for subscription in subscriptions {
            self.declare(subscription).await?;
            let options = QueueBindOptions::default();
            self.channel
                .queue_bind(
                    subscription.as_str().into(),
                    topic.into(),
                    "".into(),
                    options,
                    FieldTable::default(),
                )
                .await?;
        }
        if let Ok(mut fanned) = self.fanned.lock() {
            fanned.insert(topic.to_owned());
        }
        Ok(())
    }

    async fn subscribe(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure> {
        let connection = Connection::connect(&self.address, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (exchange, key) = if self.is_fanned(topic) {
            (topic.to_owned(), String::new())
        } else {
            (String::new(), topic.to_owned())
        };
        Ok(Box::new(Publishing { _connection: connection, channel, exchange, key, in_flight }))
    }

    async fn consumer(
        &self,
        topic: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure> {
        let connection = Connection::connect(&self.address, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(u16::try_from(in_flight)?, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        if self.stream {
            let first = AMQPValue::LongString(LongString::from("first"));
            arguments.insert("x-stream-offset".into(), first);
        }
        let queue = if self.is_fanned(topic) { subscription } else { topic };
        let options = BasicConsumeOptions::default();
        let messages = channel.basic_consume(queue.into(), "".into(), options, arguments).await?;
        let queue = queue.to_owned();
        Ok(Box::new(Consuming { _connection: connection, channel, messages, queue, in_flight }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        let _ = self.connection.close(200, "done".into()).await;
        self.process.stop().await?;
        self.mapping.stop().await
    }
}

struct Publishing {
    _connection: Connection,
    channel: Channel,
    exchange: String,
    key: String,
    in_flight: usize,
}

type Answer = lapin::Result<Confirmation>;

fn confirmed(answer: Answer) -> Result<(), Failure> {
    if answer?.is_ack() { Ok(()) } else { Err("RabbitMQ refused a message".into()) }
}

impl Sender for Publishing {
    type Acknowledged = Map<PublisherConfirm, fn(Answer) -> Result<(), Failure>>;

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
        let payload = run.pop().unwrap_or_default();
        let (exchange, key) = (self.exchange.as_str().into(), self.key.as_str().into());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange, key, options, &payload, properties).await?;
        Ok(sent.map(confirmed as fn(Answer) -> Result<(), Failure>))
    }
}

struct Consuming {
    _connection: Connection,
    channel: Channel,
    messages: lapin::Consumer,
    queue: String,
    in_flight: usize,
}

#[async_trait]
impl Consumer for Consuming {
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure> {
        let mut next =
            tokio::time::timeout(Duration::from_secs(1), self.messages.next()).await.ok().flatten();
        let mut taken = 0;
        // The last of those that are done and not said to be yet: it speaks for all before it.
        let mut done = None;
        while let Some(message) = next {
            let message = message?;
            let verdict = handler(&message.data);
            taken += 1;
            match verdict {
                Verdict::Ack => done = Some(message),
                Verdict::Fail => {
                    acknowledge(done.take()).await?;
                    message.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
                }
            }
            if taken >= self.in_flight as u64 {
                break;
            }
            next = self.messages.next().now_or_never().flatten();
        }
        acknowledge(done).await?;
        Ok(taken)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        // Answered after all that was said before on this channel.
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        self.channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default()).await?;
        Ok(())
    }
}

async fn acknowledge(last: Option<lapin::message::Delivery>) -> Result<(), Failure> {
    if let Some(last) = last {
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    Ok(())
}
