//! Following a stream: its messages from a place on, in their order, none left out.
//!
//! A consumer in NATS pushes them. It lies on one nats-server, and making another one needs the whole cluster to agree,
//! which takes seconds after a server was lost. Meanwhile what is stored can be read from any server that has it, so that
//! is what is done while the consumer is silent or there is none.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use crossdock_topics::{Backoff, Error, ErrorCode, Result, Timestamp};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::{Connection, Up};

/// How often a consumer says that it has nothing new.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// When it has not for so long, what is new is read without it.
const QUIET: Duration = Duration::from_secs(1);
/// And when not for so long, it is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// How long NATS keeps a consumer that nobody listens to.
const ABANDONED: Duration = Duration::from_secs(10);
/// How long making one may take.
const MAKING: Duration = Duration::from_secs(5);
/// How long to wait before trying again.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_secs(1) };
/// How often what is new is read without a consumer, and how long that may take.
const READ: Duration = Duration::from_millis(100);
const READING: Duration = Duration::from_millis(500);
/// So many messages, and about so many bytes, are read at once.
const BATCH: (usize, usize) = (256, 4 << 20);

/// The messages of a stream from a place on.
pub(super) struct Follow {
    connection: Connection,
    stream: String,
    /// The number of the next one.
    next: u64,
    /// How many there were when it began.
    pub(super) waiting: u64,
    /// How often what came was interrupted.
    pub(super) breaks: u64,
    pushed: Option<Pushed>,
    making: Option<BoxFuture<'static, Result<Pushed>>>,
    reading: Option<BoxFuture<'static, Option<Vec<Found>>>>,
    read: VecDeque<Found>,
    failures: u32,
    up: watch::Receiver<Up>,
}

/// What comes.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all that comes are messages, and each is taken at once
pub(super) enum Arrived {
    /// A message of the stream.
    Message {
        /// Its number in the stream.
        sequence: u64,
        /// How many there are behind it.
        pending: u64,
        /// When it was stored.
        time: Timestamp,
        message: Message,
    },
    /// There is nothing new at the moment.
    Idle,
}

/// A consumer.
struct Pushed {
    subscriber: Subscriber,
    /// How many have come from it.
    delivered: u64,
    heard: Instant,
    waiting: u64,
}

struct Found {
    sequence: u64,
    pending: u64,
    time: Timestamp,
    message: Message,
}

/// What a consumer says of a message, in the subject that it would be acknowledged on.
pub(super) struct Told {
    /// Its number in the stream.
    pub(super) sequence: u64,
    /// How many the consumer has delivered with it.
    pub(super) delivered: u64,
    /// When it was stored.
    pub(super) time: Timestamp,
    /// How many there are behind it.
    pub(super) pending: u64,
}

impl Told {
    /// `$JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.delivered.time.pending[.token]`
    pub(super) fn of(message: &Message) -> Option<Self> {
        let reply = message.reply.as_ref()?.as_str().strip_prefix("$JS.ACK.")?;
        let before = if reply.split('.').count() > 7 { 5 } else { 3 };
        let mut numbers = reply.split('.').skip(before).map(|number| number.parse::<u64>().ok());
        let (sequence, delivered, nanos, pending) =
            (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??);
        let time = Timestamp(i64::try_from(nanos / 1_000_000).ok()?);
        Some(Self { sequence, delivered, time, pending })
    }
}

impl Follow {
    /// Begins with the message of this number, or the first one behind it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn begin(connection: &Connection, stream: &str, from: u64) -> Result<Self> {
        let mut up = connection.up();
        up.mark_unchanged();
        let pushed = make(connection.clone(), stream.to_owned(), from).await?;
        Ok(Self {
            connection: connection.clone(),
            stream: stream.to_owned(),
            next: from,
            waiting: pushed.waiting,
            breaks: 0,
            pushed: Some(pushed),
            making: None,
            reading: None,
            read: VecDeque::new(),
            failures: 0,
            up,
        })
    }

    /// What comes next. Dropped before it resolves, it has taken nothing.
    ///
    /// # Errors
    /// `Unavailable` when the connection is closed for good.
    pub(super) async fn next(&mut self) -> Result<Arrived> {
        loop {
            while let Some(Found { sequence, pending, time, message }) = self.read.pop_front() {
                if sequence >= self.next {
                    self.next = sequence + 1;
                    return Ok(Arrived::Message { sequence, pending, time, message });
                }
            }
            // What is there already needs no clock.
            if let Some(pushed) = &mut self.pushed
                && let Some(Some(message)) = pushed.subscriber.next().now_or_never()
            {
                match self.take(message).await {
                    Ok(Some(arrived)) => return Ok(arrived),
                    Ok(None) => continue,
                    Err(why) => self.interrupt(why),
                }
            }
            let heard = self.pushed.as_ref().map(|pushed| pushed.heard);
            if self.pushed.is_none() && self.making.is_none() {
                let wait = AGAIN.wait(self.failures, self.next);
                let wait = if self.failures == 0 { Duration::ZERO } else { wait };
                let making = make(self.connection.clone(), self.stream.clone(), self.next);
                self.making = Some(Box::pin(async move {
                    sleep(wait).await;
                    making.await
                }));
            }
            if heard.is_none_or(|heard| heard.elapsed() >= QUIET) && self.reading.is_none() {
                let reading = read(self.connection.clone(), self.stream.clone(), self.next);
                self.reading = Some(Box::pin(async move {
                    sleep(READ).await;
                    timeout(READING, reading).await.ok().flatten()
                }));
            }
            let patience =
                heard.map(|heard| if heard.elapsed() < QUIET { heard + QUIET } else { heard + SILENCE });
            tokio::select! {
                message = arrives(&mut self.pushed) => {
                    let Some(message) = message else {
                        return Err(unavailable("the connection is closed"));
                    };
                    match self.take(message).await {
                        Ok(Some(arrived)) => return Ok(arrived),
                        Ok(None) => {}
                        Err(why) => self.interrupt(why),
                    }
                }
                made = some(&mut self.making) => {
                    self.making = None;
                    match made {
                        Ok(pushed) => (self.pushed, self.failures) = (Some(pushed), 0),
                        Err(error) => {
                            tracing::debug!(stream = self.stream, %error, "no consumer yet");
                            self.failures = self.failures.saturating_add(1);
                        }
                    }
                }
                found = some(&mut self.reading) => {
                    self.reading = None;
                    self.read.extend(found.unwrap_or_default());
                }
                // What was pushed while there was no connection is lost.
                changed = self.up.changed() => match changed {
                    Ok(()) => self.interrupt("the connection was lost"),
                    Err(_) => return Err(unavailable("the connection is closed")),
                },
                () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                    if heard.is_some_and(|heard| heard.elapsed() >= SILENCE) {
                        self.interrupt("it has fallen silent");
                    }
                }
            }
        }
    }

    fn interrupt(&mut self, why: &str) {
        tracing::debug!(stream = self.stream, why, "a consumer is given up");
        (self.pushed, self.making, self.reading) = (None, None, None);
        self.breaks += 1;
    }

    /// What a message from the consumer is; `Err` when messages before it were lost.
    async fn take(&mut self, message: Message) -> Result<Option<Arrived>, &'static str> {
        let Some(pushed) = &mut self.pushed else { return Ok(None) };
        pushed.heard = Instant::now();
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            let header = |name| message.headers.as_ref().and_then(|headers| headers.get(name));
            // What NATS holds back until it hears of us.
            let stalled = header("Nats-Consumer-Stalled").map(|subject| subject.as_str().to_owned());
            if let Some(reply) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
                let answered = timeout(SILENCE, self.connection.client.publish(reply, Bytes::new())).await;
                return if matches!(answered, Ok(Ok(()))) { Ok(None) } else { Err("it cannot be answered") };
            }
            let last = header("Nats-Last-Consumer").and_then(|last| last.as_str().parse::<u64>().ok());
            let lost = last.is_some_and(|last| last != pushed.delivered);
            return if lost { Err("messages were lost") } else { Ok(Some(Arrived::Idle)) };
        }
        let Some(Told { sequence, delivered, time, pending }) = Told::of(&message) else { return Ok(None) };
        if delivered != pushed.delivered + 1 {
            return Err("messages were lost");
        }
        pushed.delivered += 1;
        if sequence < self.next {
            return Ok(None);
        }
        self.next = sequence + 1;
        Ok(Some(Arrived::Message { sequence, pending, time, message }))
    }
}

fn unavailable(why: &str) -> Error {
    Error::new(ErrorCode::Unavailable, why.to_owned()).hint("see nats server report jetstream; try again")
}

/// What is there, as soon as it is; never, when there is none.
async fn some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn arrives(pushed: &mut Option<Pushed>) -> Option<Message> {
    match pushed {
        Some(pushed) => pushed.subscriber.next().await,
        None => std::future::pending().await,
    }
}

/// Makes a consumer that pushes from a number on.
async fn make(connection: Connection, stream: String, from: u64) -> Result<Pushed> {
    let failed = |error: &dyn std::fmt::Display| {
        unavailable(&format!("the stream {stream} cannot be followed: {error}"))
    };
    let making = async {
        let inbox = connection.client.new_inbox();
        let subscriber = connection.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            idle_heartbeat: HEARTBEAT,
            flow_control: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: ABANDONED,
            ..Default::default()
        };
        let consumer = connection.context.create_consumer_on_stream(config, &stream).await;
        let waiting = consumer.map_err(|error| failed(&error))?.cached_info().num_pending;
        Ok(Pushed { subscriber, delivered: 0, heard: Instant::now(), waiting })
    };
    timeout(MAKING, making).await.unwrap_or_else(|_| Err(failed(&"NATS does not answer")))
}

/// Reads what is stored from a number on, from any server that has it; it may be behind the leader, never ahead.
async fn read(connection: Connection, stream: String, from: u64) -> Option<Vec<Found>> {
    let client = &connection.client;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.ok()?;
    let (most, bytes) = BATCH;
    let wanted = serde_json::json!({"seq": from.max(1), "batch": most, "max_bytes": bytes});
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    client.publish_with_reply(subject, inbox, Bytes::from(wanted.to_string())).await.ok()?;
    let mut found = Vec::new();
    while let Some(mut message) = answers.next().await {
        // Any status is the end: of the batch, or that there is nothing, or that nobody answers.
        if message.status.is_some() {
            break;
        }
        // Those of the answer stand behind those that the message was stored with.
        let header = |name| Some(message.headers.as_ref()?.get_last(name)?.as_str());
        // What lies between two that came may have been lost on the way.
        let before: Option<u64> = header("Nats-Last-Sequence").and_then(|number| number.parse().ok());
        if before.is_some_and(|before| before != found.last().map_or(0, |found: &Found| found.sequence)) {
            break;
        }
        let sequence: u64 = header("Nats-Sequence")?.parse().ok()?;
        let pending: u64 = header("Nats-Num-Pending").and_then(|pending| pending.parse().ok()).unwrap_or(0);
        let time = header("Nats-Time-Stamp")
            .and_then(|time| time.parse::<humantime::Timestamp>().ok())
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())?;
        let time = Timestamp(i64::try_from(time.as_millis()).ok()?);
        message.subject = header("Nats-Subject")?.into();
        found.push(Found { sequence, pending, time, message });
    }
    Some(found)
}
