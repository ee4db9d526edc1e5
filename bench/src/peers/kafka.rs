//! Apache Kafka: one node that is broker and controller (KRaft), one partition a topic, by rdkafka.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot::Canceled;
use futures::future::Map;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::producer::future_producer::{DeliveryFuture, OwnedDeliveryResult};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, TopicPartitionList};
use tokio::process::Command;

use super::process::free_port;
use super::{About, Consumer, Handler, Process, Publisher, Server, System, Verdict};
use crate::Failure;
use crate::side::Sender;

/// Without a sync for each message, and with.
pub(super) fn systems(folder: &Path) -> Option<Vec<Box<dyn System>>> {
    let jars = folder.join("kafka/lib");
    let java = super::find("java", Path::new("/nonexistent"))?;
    jars.is_dir().then(|| {
        let kafka = |flush| {
            let (java, jars) = (java.clone(), jars.clone());
            Box::new(Kafka { about: about(flush), java, jars, flush }) as Box<dyn System>
        };
        vec![kafka(false), kafka(true)]
    })
}

struct Kafka {
    about: About,
    java: PathBuf,
    jars: PathBuf,
    flush: bool,
}

fn about(flush: bool) -> About {
    const SETTINGS: &str = "Heap 1 GiB and G1 as its start script sets them; one partition. Client: rdkafka, acks=all, \
                            linger.ms 0 for one in flight, 1 for more; consumers commit their place after each run they took.";
    if flush {
        let durability = "fsync before each acknowledgement";
        let settings = format!("flush.messages 1. {SETTINGS}");
        About { name: "Kafka, flush.messages 1", durability, settings, redelivers: false }
    } else {
        let durability = "in the page cache when acknowledged (one replica): a power loss takes what the system has not written";
        About { name: "Kafka", durability, settings: SETTINGS.to_owned(), redelivers: false }
    }
}

#[async_trait]
impl System for Kafka {
    fn about(&self) -> &About {
        &self.about
    }

    async fn start(&self, folder: &Path) -> Result<Box<dyn Server>, Failure> {
        let (port, controller) = (free_port()?, free_port()?);
        let logs = folder.join("logs").display().to_string();
        let flush = if self.flush { "log.flush.interval.messages=1\n" } else { "" };
        let config = folder.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={logs}\noffsets.topic.replication.factor=1\n{flush}"
        );
        std::fs::write(&config, text)?;
        let java = |heap: &[&str], class: &str| {
            let mut command = Command::new(&self.java);
            command.args(heap).arg("-cp").arg(self.jars.join("*")).arg(class);
            command
        };
        let mut format = java(&[], "kafka.tools.StorageTool");
        format.args(["format", "-t", "Y3Jvc3Nkb2NrLWJlbmNoLQ", "-c"]).arg(&config).kill_on_drop(true);
        let output = format.output().await?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(format!("its folder cannot be formatted: {}", String::from_utf8_lossy(&said)).into());
        }
        let heap = [
            "-Xmx1G",
            "-Xms1G",
            "-server",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35",
            "-Djava.awt.headless=true",
        ];
        let mut command = java(&heap, "kafka.Kafka");
        command.arg(&config);
        let mut process = Process::start(command, folder)?;
        process.listens(port, Duration::from_secs(60)).await?;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", format!("127.0.0.1:{port}"));
        let admin = client.create()?;
        Ok(Box::new(Running { process, client, admin }))
    }
}

struct Running {
    process: Process,
    client: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
}

#[async_trait]
impl Server for Running {
    fn processes(&self) -> &[Process] {
        std::slice::from_ref(&self.process)
    }

    async fn create(&self, topic: &str, _: &[String]) -> Result<(), Failure> {
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let within = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for made in self.admin.create_topics([&topic], &within).await? {
            made.map_err(|(topic, cause)| format!("{topic}: {cause}"))?;
        }
        Ok(())
    }

    async fn subscribe(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn publisher(&self, topic: &str, in_flight: usize) -> Result<Box<dyn Publisher>, Failure> {
        let mut client = self.client.clone();
        client.set("acks", "all").set("linger.ms", if in_flight > 1 { "1" } else { "0" });
        Ok(Box::new(Publishing { producer: client.create()?, topic: topic.to_owned(), in_flight }))
    }

    async fn consumer(
        &self,
        topic: &str,
        subscription: &str,
        in_flight: usize,
    ) -> Result<Box<dyn Consumer>, Failure> {
        let mut client = self.client.clone();
        client.set("group.id", subscription).set("auto.offset.reset", "earliest");
        client.set("enable.auto.commit", "false");
        let consumer: StreamConsumer = client.create()?;
        let mut place = TopicPartitionList::new();
        place.add_partition(topic, 0);
        // The first group of a new server waits until its coordinator is there.
        let deadline = Instant::now() + Duration::from_secs(30);
        let place = loop {
            let ask = || consumer.committed_offsets(place.clone(), Duration::from_secs(5));
            match tokio::task::block_in_place(ask) {
                Ok(place) => break place,
                Err(cause) if Instant::now() > deadline => return Err(cause.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        // Without a place it begins at the start, as the group is told to.
        consumer.assign(&place)?;
        Ok(Box::new(Consuming { consumer, in_flight }))
    }

    async fn stop(self: Box<Self>) -> Result<(), Failure> {
        self.process.stop().await
    }
}

struct Publishing {
    producer: FutureProducer,
    topic: String,
    in_flight: usize,
}

type Answer = Result<OwnedDeliveryResult, Canceled>;

fn delivered(answer: Answer) -> Result<(), Failure> {
    answer?.map(|_| ()).map_err(|(cause, _)| cause.into())
}

impl Sender for Publishing {
    type Acknowledged = Map<DeliveryFuture, fn(Answer) -> Result<(), Failure>>;

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
        let payload = run.pop().unwrap_or_default();
        let record = FutureRecord::<(), [u8]>::to(&self.topic).partition(0).payload(&payload);
        let sent = self.producer.send_result(record).map_err(|(cause, _)| cause)?;
        Ok(sent.map(delivered as fn(Answer) -> Result<(), Failure>))
    }
}

struct Consuming {
    consumer: StreamConsumer,
    in_flight: usize,
}

impl Consuming {
    /// Waits until the place is stored.
    fn commit(&self) -> Result<(), Failure> {
        use rdkafka::error::{KafkaError, RDKafkaErrorCode};
        match tokio::task::block_in_place(|| self.consumer.commit_consumer_state(CommitMode::Sync)) {
            // Everything was stored before.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
            answer => Ok(answer?),
        }
    }
}

#[async_trait]
impl Consumer for Consuming {
    async fn take(&mut self, handler: &mut Handler<'_>) -> Result<u64, Failure> {
        let mut next = tokio::time::timeout(Duration::from_secs(1), self.consumer.recv()).await.ok();
        let mut taken = 0;
        while let Some(message) = next {
            let message = message?;
            if handler(message.payload().unwrap_or_default()) == Verdict::Fail {
                return Err("Kafka has no outcome of a single message".into());
            }
            taken += 1;
            if taken >= self.in_flight as u64 {
                break;
            }
            next = self.consumer.recv().now_or_never();
        }
        if taken > 0 && self.in_flight == 1 {
            self.commit()?;
        } else if taken > 0 {
            self.consumer.commit_consumer_state(CommitMode::Async)?;
        }
        Ok(taken)
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.commit()
    }
}
