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

use super::nats_servers::{self, Servers, Setting};
use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// In all settings.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let binary = nats_servers::binary(folder)?;
    let system = |setting| Nats { about: about(setting), binary: binary.clone(), setting };
    Some(Setting::ALL.into_iter().map(|setting| Box::new(system(setting)) as Box<dyn System>).collect())
}

struct Nats {
    about: About,
    binary: PathBuf,
    setting: Setting,
}

fn about(setting: Setting) -> About {
    let name = match setting {
        Setting::One => "JetStream",
        Setting::Always => "JetStream, sync always",
        Setting::Three => "JetStream, three servers",
    };
    let settings = format!(
        "{}, explicit acknowledgements, max_ack_pending 65536. \
         Client: async-nats, one publish a message, as many awaited as are in flight.",
        setting.words()
    );
    About { name, durability: setting.durability(), settings, redelivers: true }
}

#[async_trait]
impl System for Nats {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let Servers { processes, addresses } =
            nats_servers::start(&self.binary, self.setting, folder).await?;
        let context = jetstream::new(async_nats::connect(&addresses).await?);
        // A cluster that was just started has nobody yet who could answer.
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = context.query_account().await {
            if Instant::now() > deadline {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Box::new(Running { processes, addresses, context, replicas: self.setting.replicas() }))
    }
}

struct Running {
    processes: Vec<Process>,
    addresses: Vec<String>,
    context: Context,
    replicas: usize,
}

#[async_trait]
impl Server for Running {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    async fn create(&self, topic: &str, subscriptions: &[String]) -> Result<(), Failure> {
        let config = stream::Config {
            name: topic.to_owned(),
            subjects: vec![topic.to_owned()],
            storage: stream::StorageType::File,
            num_replicas: self.replicas,
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
        let client = async_nats::connect(&self.addresses).await?;
        let context = jetstream::new(client);
        let consumer: consumer::PullConsumer = context.get_consumer_from_stream(subscription, topic).await?;
        let messages = consumer.stream().max_messages_per_batch(in_flight).messages().await?;
        Ok(Box::new(Consuming { consumer, messages, in_flight, context, taken: 0 }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        for process in self.processes {
            process.stop().await?;
        }
        Ok(())
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
