//! Reading on and on in a stream: a consumer of its own in NATS is asked for one lot of messages after another. For each
//! message that takes NATS and this engine half of what it takes to be read by its number ([`super::stored`]). Nothing
//! depends on it: where it fails, they are.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::{StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::connection::Connection;
use super::super::follow::Told;
use super::message;
use super::stored::Kept;

/// How long making a consumer may take, and how long a lot of messages.
const MAKING: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(1);
/// How long NATS keeps a consumer that nobody asks.
const ABANDONED: Duration = Duration::from_secs(10);

/// A consumer in NATS.
pub(super) struct Pulled {
    connection: Connection,
    /// Where it is asked.
    subject: String,
    inbox: String,
    answers: Subscriber,
    /// How often it has been asked.
    asked: u64,
    /// How many messages have come from it.
    delivered: u64,
}

impl Pulled {
    /// Makes one that begins at an offset; `None` when that cannot be had now.
    pub(super) async fn begin(connection: &Connection, stream: &str, offset: u64) -> Option<Self> {
        let making = async {
            let inbox = connection.client.new_inbox();
            let answers = connection.client.subscribe(format!("{inbox}.*")).await.ok()?;
            let config = pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: offset + 1 },
                ack_policy: AckPolicy::None,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: ABANDONED,
                ..Default::default()
            };
            let made = connection.context.create_consumer_on_stream(config, stream).await;
            let consumer = made.inspect_err(|error| tracing::debug!(stream, %error, "no consumer")).ok()?;
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", consumer.cached_info().name);
            Some(Self { connection: connection.clone(), subject, inbox, answers, asked: 0, delivered: 0 })
        };
        timeout(MAKING, making).await.ok().flatten()
    }

    /// The messages that come next: so many, and about so many bytes, at most. Where it gives none, or fewer than NATS
    /// has sent, it is of no more use.
    pub(super) async fn next(&mut self, most: usize, bytes: usize) -> Option<Vec<Kept>> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = serde_json::json!({"batch": most, "max_bytes": bytes, "no_wait": true}).to_string();
        self.asked += 1;
        let inbox = Subject::from(format!("{}.{}", self.inbox, self.asked));
        let client = &self.connection.client;
        let asked = client.publish_with_reply(self.subject.clone(), inbox.clone(), Bytes::from(wanted));
        timeout_at(deadline, asked).await.ok()?.ok()?;
        let mut found = Vec::with_capacity(most);
        while found.len() < most {
            let message = timeout_at(deadline, self.answers.next()).await.ok()??;
            match message.status {
                None => {}
                Some(StatusCode::IDLE_HEARTBEAT) => continue,
                // That it has done what it was asked before.
                Some(_) if message.subject != inbox => continue,
                // It has said all that it will say to this.
                Some(_) => break,
            }
            let told = Told::of(&message)?;
            self.delivered += 1;
            if told.delivered != self.delivered {
                return None;
            }
            let time = message::time_of(message.headers.as_ref()).unwrap_or(told.time);
            let (headers, payload) = (message.headers.unwrap_or_default(), message.payload);
            found.push(Kept { offset: told.sequence.checked_sub(1)?, time, headers, payload });
        }
        Some(found)
    }
}
