//! NATS JetStream: nats-server with one stream a topic, by async-nats.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{Context, PublishAckFuture, PublishError};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, AckKind, consumer, stream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::Map;
use futures::{FutureExt, StreamExt};
use tokio::process::Command;

use super::process::free_port;
use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// Without a sync for each message, and with.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let binary = super::find("nats-server", &folder.join("nats/bin/nats-server"))?;
    Some(vec![
        Box::new(Nats { about: about(false), binary: binary.clone(), always: false }),
        Box::new(Nats { about: about(true), binary, always: true }),
    ])
}

struct Nats {
    about: About,
    binary: PathBuf,
    always: bool,
}

fn about(always: bool) -> About {
    const SETTINGS: &str = "File storage, one replica, explicit acknowledgements, max_ack_pending 65536. \
                            Client: async-nats, one publish a message, as many awaited as are in flight.";
    if always {
        let durability = "fsync before each acknowledgement";
        let settings = format!("sync_interval: always. {SETTINGS}");
        About { name: "JetStream, sync always", durability, settings, redelivers: true }
    } else {
        let durability =
            "in the page cache when acknowledged, fsync every 2 minutes: a power loss takes what came since";
        About { name: "JetStream", durability, settings: SETTINGS.to_owned(), redelivers: true }
    }
}

#[async_trait]
impl System for Nats {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let port = free_port()?;
        let sync = if self.always { "sync_interval: always" } else { "" };
        let store = folder.join("store").display().to_string();
        let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n {sync} }}\n");
        let config = folder.join("nats.conf");
        std::fs::write(&config, text)?;
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(config);
        let mut process = Process::start(command, folder)?;
        process.listens(port, Duration::from_secs(20)).await?;
        let client = async_nats::connect(format!("127.0.0.1:{port}")).await?;
        Ok(Box::new(Running { process, port, context: jetstream::new(client) }))
    }
}

struct Running {
    process: Process,
    port: u16,
    context: Context,
}

#[async_trait]
impl Server for Running {
    fn process(&self) -> Option<&Process> {
        Some(&self.process)
    }

    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure> {
        let config = stream::Config {
            name: topic.to_owned(),
            subjects: vec![topic.to_owned()],
            storage: stream::StorageType::File,
            ..Default::default()
        };
        self.context.create_stream(config).await?;
        for subscription in subscriptions {
            self.subscribe(topic, subscription).await?;
        }
        Ok(())
    }

    async fn subscribe(&self, topic: &str, subscription: &str) -> Result<(), Failure> {
        let config = consumer::pull::Config {
            durable_name: Some(subscription.to_owned()),
            ack_policy: consumer::AckPolicy::Explicit,
            max_ack_pending: 65_536,
            ..Default::default()
        };
        self.context.create_consumer_on_stream(config, topic).await?;
        Ok(())
    }

    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure> {
        Ok(Box::new(Publishing { context: self.context.clone(), topic: topic.to_owned(), in_flight }))
    }

    async fn consumer(
        &self,
        topic: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure> {
        // A connection for each, as processes of their own would have.
        let client = async_nats::connect(format!("127.0.0.1:{}", self.port)).await?;
        let context = jetstream::new(client);
        let consumer: consumer::PullConsumer = context.get_consumer_from_stream(subscription, topic).await?;
        let messages = consumer.stream().max_messages_per_batch(in_flight).messages().await?;
        Ok(Box::new(Consuming { consumer, messages, in_flight, context, taken: 0 }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        self.process.stop().await
    }
}

struct Publishing {
    context: Context,
    topic: String,
    in_flight: usize,
}

type Answer = Result<PublishAck, PublishError>;

fn acknowledged(answer: Answer) -> Result<(), Failure> {
    answer.map(|_| ()).map_err(Failure::from)
}

impl Sender for Publishing {
    type Acknowledged = Map<<PublishAckFuture as IntoFuture>::IntoFuture, fn(Answer) -> Result<(), Failure>>;

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
        let payload = run.pop().unwrap_or_default();
        let sent = self.context.publish(self.topic.clone(), payload).await?;
        Ok(sent.into_future().map(acknowledged as fn(Answer) -> Result<(), Failure>))
    }
}

struct Consuming {
    consumer: consumer::PullConsumer,
    messages: consumer::pull::Stream,
    in_flight: usize,
    context: Context,
    taken: u64,
}

#[async_trait]
impl Consumer for Consuming {
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure> {
        let mut next =
            tokio::time::timeout(Duration::from_secs(1), self.messages.next()).await.ok().flatten();
        let mut taken = 0;
        while let Some(message) = next {
            let message = message?;
            match handler(&message.payload) {
                Verdict::Ack => message.ack().await?,
                Verdict::Fail => message.ack_with(AckKind::Nak(None)).await?,
            }
            taken += 1;
            if taken >= self.in_flight as u64 {
                break;
            }
            next = self.messages.next().now_or_never().flatten();
        }
        self.taken += taken;
        Ok(taken)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.context.client().flush().await?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Of all deliveries those that wait for an answer no more; what was fetched in advance waits.
            let info = self.consumer.info().await?;
            let answered = info.delivered.consumer_sequence.saturating_sub(info.num_ack_pending as u64);
            if answered >= self.taken {
                break;
            }
            if Instant::now() > deadline {
                return Err("the server still waits for acknowledgements after 30 seconds".into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}
