//! Reads that a server answers which has not come as far as the stream's leader. Nothing may be taken for gone because of
//! it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::RawMessage;
use async_nats::{Client, jetstream};
use crossdock_broker::JetStream;
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Batch, Broker, DeliveryId, Expect, Fetch, Log, Message, Outcome, PublishOptions, Settlement, StartAt,
    Subscription, Subscriptions, Timestamp, Topic,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{PATIENCE, open, orders};

/// A server that answers the reads of a stream in place of those that keep it, and has come to a number only.
struct Behind {
    /// How often it was asked for something that it has not.
    missed: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Behind {
    async fn of(nats: &Nats, stream: &str, last: u64) -> Self {
        let client = async_nats::connect(nats.url()).await.unwrap();
        let context = jetstream::new(client.clone());
        let mut config = context.get_stream(stream).await.unwrap().cached_info().config.clone();
        // Those that keep it answer no more.
        config.allow_direct = false;
        context.update_stream(config).await.unwrap();
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let mut asked = client.subscribe(subject).await.unwrap();
        // What is asked for behind it is answered behind it.
        client.request("$JS.API.INFO", "".into()).await.unwrap();
        let (missed, stream) = (Arc::new(AtomicU64::new(0)), stream.to_owned());
        let counted = missed.clone();
        let address = nats.url().trim_start_matches("nats://").to_owned();
        let task = tokio::spawn(async move {
            let mut answers = Answers::open(&address).await;
            while let Some(message) = asked.next().await {
                let wanted: Value = serde_json::from_slice(&message.payload).unwrap();
                let reply = message.reply.unwrap();
                let (most, mut before) = (wanted["batch"].as_u64().unwrap(), 0);
                let mut next = json!({"next_by_subj": wanted["next_by_subj"].as_str().unwrap_or(">")});
                for at in ["seq", "start_time"] {
                    if wanted.get(at).is_some() {
                        next[at] = wanted[at].clone();
                    }
                }
                for _ in 0..most {
                    let Some(found) = stored(&client, &stream, &next).await.filter(|m| m.sequence <= last)
                    else {
                        break;
                    };
                    next = json!({"next_by_subj": next["next_by_subj"], "seq": found.sequence + 1});
                    let sequence = found.sequence;
                    answers.message(&reply, &found, before).await;
                    before = sequence;
                }
                if before == 0 {
                    counted.fetch_add(1, Ordering::Relaxed);
                    answers.status(&reply, "404 Message Not Found").await;
                } else {
                    answers.status(&reply, "204 EOB").await;
                }
            }
        });
        Self { missed, task }
    }

    /// It was asked for what it has not.
    fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the leader has.
pub(super) async fn stored(client: &Client, stream: &str, wanted: &Value) -> Option<RawMessage> {
    #[derive(serde::Deserialize)]
    struct Answer {
        message: Option<RawMessage>,
    }
    let answer = client.request(format!("$JS.API.STREAM.MSG.GET.{stream}"), wanted.to_string().into()).await;
    serde_json::from_slice::<Answer>(&answer.unwrap().payload).unwrap().message
}

/// A connection to NATS that sends what no client does: answers with a status.
pub(super) struct Answers(tokio::sync::mpsc::Sender<Vec<u8>>);

impl Answers {
    pub(super) async fn open(address: &str) -> Self {
        let (from, mut to) = TcpStream::connect(address).await.unwrap().into_split();
        let (sender, mut sent) = tokio::sync::mpsc::channel::<Vec<u8>>(64);
        sender.send(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec()).await.unwrap();
        tokio::spawn(async move {
            while let Some(bytes) = sent.recv().await {
                to.write_all(&bytes).await.unwrap();
            }
        });
        let pongs = sender.downgrade();
        tokio::spawn(async move {
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(pongs) = pongs.upgrade() else { return };
                if line == "PING" {
                    pongs.send(b"PONG\r\n".to_vec()).await.unwrap();
                }
            }
        });
        Self(sender)
    }

    pub(super) async fn message(&mut self, reply: &str, message: &RawMessage, before: u64) {
        let decode = |text: &str| {
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("base64")
        };
        let headers = message.headers.as_deref().map(decode).unwrap_or_default();
        let mut headers = String::from_utf8(headers).unwrap().trim_end_matches("\r\n").to_owned();
        if headers.is_empty() {
            headers = "NATS/1.0".into();
        }
        headers += &format!(
            "\r\nNats-Subject: {}\r\nNats-Sequence: {}\r\nNats-Time-Stamp: {}\r\nNats-Num-Pending: 0\r\n\
             Nats-Last-Sequence: {before}\r\n\r\n",
            message.subject,
            message.sequence,
            Timestamp(i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap()),
        );
        self.send(reply, &headers, &decode(&message.payload)).await;
    }

    pub(super) async fn status(&mut self, reply: &str, status: &str) {
        self.send(reply, &format!("NATS/1.0 {status}\r\n\r\n"), b"").await;
    }

    async fn send(&mut self, reply: &str, headers: &str, payload: &[u8]) {
        let (length, all) = (headers.len(), headers.len() + payload.len());
        let mut bytes = format!("HPUB {reply} {length} {all}\r\n{headers}").into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.0.send(bytes).await.unwrap();
    }
}

async fn publish(broker: &JetStream, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let batch = Batch::of(&Message::new(number.to_string())).unwrap();
        broker.publish(&orders(), batch, PublishOptions::default()).await.unwrap();
    }
}

/// A topic with the messages 0 to 19, of which the server that answers reads has the first ten.
async fn twenty(nats: &Nats, broker: &JetStream) -> Behind {
    broker.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    publish(broker, 0..20).await;
    Behind::of(nats, "crossdock-t-1", 10).await
}

async fn fetched(broker: &JetStream, name: &str, count: usize) -> Vec<(u64, DeliveryId)> {
    let name = name.parse().unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let fetch = Fetch::new(None, count - all.len(), Duration::from_secs(2));
        let deliveries = broker.fetch(&name, fetch).await.unwrap();
        assert!(!deliveries.is_empty(), "only {all:?} came");
        all.extend(deliveries.into_iter().map(|delivery| (delivery.offset, delivery.id)));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_passes_over_nothing() {
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    let behind = twenty(&nats, &broker).await;
    let mut subscription = Subscription::new("s".parse().unwrap(), vec!["orders".parse().unwrap()]);
    subscription.start = StartAt::Offset(15);
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    let offsets: Vec<u64> = fetched(&broker, "s", 5).await.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [15, 16, 17, 18, 19]);
    assert!(behind.has_missed());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delivered_again_is_not_taken_for_gone() {
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    let behind = twenty(&nats, &broker).await;
    let mut subscription = Subscription::new("s".parse().unwrap(), vec!["orders".parse().unwrap()]);
    subscription.start = StartAt::Offset(18);
    let name = subscription.name.clone();
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    let taken = fetched(&broker, "s", 2).await;
    let retry = |id| (id, Outcome::Retry { after: Some(Duration::ZERO), reason: "again".into() });
    let outcomes = taken.iter().map(|(_, id)| retry(*id)).collect();
    let settlement = Settlement { outcomes, ..Settlement::default() };
    assert!(broker.settle(&name, settlement).await.unwrap().stale.is_empty());
    broker.close().await;
    // Another one has nothing of it in memory.
    let broker = open(&(nats.url() + "?sync=always")).await;
    let before = behind.missed.load(Ordering::Relaxed);
    let mut again: Vec<u64> = fetched(&broker, "s", 2).await.into_iter().map(|(offset, _)| offset).collect();
    again.sort_unstable();
    assert_eq!(again, [18, 19]);
    assert!(behind.missed.load(Ordering::Relaxed) > before);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_nothing_by_place_or_by_time() {
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    broker.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    publish(&broker, 0..10).await;
    // A moment that no message before it shares.
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&broker, 10..20).await;
    let behind = Behind::of(&nats, "crossdock-t-1", 10).await;
    let read = async |from| {
        let mut offsets = Vec::new();
        let mut from = from;
        loop {
            let page = broker.read(&orders(), from, 100, Duration::ZERO).await.unwrap();
            if page.messages.is_empty() {
                assert_eq!(page.next, 20);
                return offsets;
            }
            from = StartAt::Offset(page.next);
            offsets.extend(page.messages.iter().map(|message| message.offset));
        }
    };
    assert_eq!(read(StartAt::Offset(15)).await, [15, 16, 17, 18, 19]);
    assert_eq!(read(StartAt::Start).await.len(), 20);
    let page = broker.read(&orders(), StartAt::Offset(10), 1, Duration::ZERO).await.unwrap();
    let time = page.messages[0].time;
    assert_eq!(read(StartAt::Time(time)).await, (10..20).collect::<Vec<u64>>());
    assert_eq!(read(StartAt::Time(Timestamp(time.0 + 3_600_000))).await, [] as [u64; 0]);
    let mut subscription = Subscription::new("s".parse().unwrap(), vec!["orders".parse().unwrap()]);
    subscription.start = StartAt::Time(time);
    broker.put_subscription(subscription, Expect::Absent).await.unwrap();
    assert_eq!(fetched(&broker, "s", 1).await[0].0, 10);
    assert!(behind.has_missed());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_drops_nothing_that_is_young() {
    let nats = Nats::single().await;
    let broker = open(&(nats.url() + "?sync=always")).await;
    let mut topic = Topic::new(orders());
    topic.retention.max_age = Some(Duration::from_secs(8));
    broker.put_topic(topic, Expect::Absent).await.unwrap();
    publish(&broker, 0..1).await;
    let behind = Behind::of(&nats, "crossdock-t-1", 1).await;
    // Long enough to tell one from the other on a busy machine.
    tokio::time::sleep(Duration::from_secs(6)).await;
    publish(&broker, 1..2).await;
    let head = eventually("the first one to go", PATIENCE, || async {
        let info = broker.topic(&orders()).await.unwrap();
        (info.head > 0).then_some(info.head)
    })
    .await;
    assert_eq!(head, 1);
    let page = broker.read(&orders(), StartAt::Start, 10, Duration::ZERO).await.unwrap();
    assert_eq!(page.messages.len(), 1);
    assert!(behind.has_missed());
    broker.close().await;
}
