//! Following a stream: its messages from a place on, in their order, none left out.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::{Message, StatusCode, Subscriber, jetstream};
use crossdock_topics::{Error, ErrorCode, Result};
use futures::StreamExt;

use super::connection::Connection;

/// How often NATS says that it has nothing new.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence that long means that the consumer is gone, or the way to it.
const SILENCE: Duration = Duration::from_secs(2);
/// How long NATS keeps a consumer that nobody listens to.
const ABANDONED: Duration = Duration::from_secs(10);

/// The messages of a stream from a place on. It ends with an error as soon as one may have been missed, or NATS falls
/// silent: follow again, from behind the last one that came.
pub(super) struct Follow {
    connection: Connection,
    subscriber: Subscriber,
    /// How many have come from this consumer.
    delivered: u64,
    /// How many there were when it began.
    pub(super) waiting: u64,
}

/// What comes.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A message of the stream.
    Message {
        /// Its number in the stream.
        sequence: u64,
        /// How many there are behind it.
        pending: u64,
        /// It.
        message: Message,
    },
    /// There is nothing new at the moment.
    Idle,
}

impl Follow {
    /// Begins with the message of this number, or the first one behind it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn begin(connection: &Connection, stream: &str, from: u64) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorCode::Unavailable, format!("the stream {stream} cannot be followed: {error}"))
        };
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
        let consumer = connection
            .context
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(|error| failed(&error))?;
        let waiting = consumer.cached_info().num_pending;
        Ok(Self { connection: connection.clone(), subscriber, delivered: 0, waiting })
    }

    /// What comes next.
    ///
    /// # Errors
    /// `Unavailable` when this cannot go on.
    pub(super) async fn next(&mut self) -> Result<Arrived> {
        let broken = |why: &str| Error::new(ErrorCode::Unavailable, why.to_owned());
        loop {
            let message = match tokio::time::timeout(SILENCE, self.subscriber.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(broken("the connection is closed")),
                Err(_) => return Err(broken("NATS has fallen silent")),
            };
            if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
                let header = |name| message.headers.as_ref().and_then(|headers| headers.get(name));
                // What NATS holds back until it hears of us.
                let stalled = header("Nats-Consumer-Stalled").map(|subject| subject.as_str().to_owned());
                if let Some(reply) = message.reply.as_ref().map(ToString::to_string).or(stalled) {
                    let answered = self.connection.client.publish(reply, bytes::Bytes::new()).await;
                    answered.map_err(|error| broken(&error.to_string()))?;
                    continue;
                }
                let last = header("Nats-Last-Consumer").and_then(|last| last.as_str().parse::<u64>().ok());
                if last.is_some_and(|last| last != self.delivered) {
                    return Err(broken("messages were missed"));
                }
                return Ok(Arrived::Idle);
            }
            let message = jetstream::Message { message, context: self.connection.context.clone() };
            let Ok(info) = message.info() else { continue };
            if info.consumer_sequence != self.delivered + 1 {
                return Err(broken("messages were missed"));
            }
            self.delivered = info.consumer_sequence;
            let (sequence, pending) = (info.stream_sequence, info.pending);
            return Ok(Arrived::Message { sequence, pending, message: message.message });
        }
    }
}
