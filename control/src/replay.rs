//! One step of a replay: read a run of messages, publish it, and so on for a few seconds.
//!
//! Nothing is kept between steps: the one who asks says where to go on, and a copy's id is made of the place it came
//! from. So a step can be sent again, after whatever interruption and to whichever server.

use std::time::Duration;

use crossdock_topics::message::MAX_HEADERS;
use crossdock_topics::{Batch, Error, ErrorCode, Message, Result, StartAt, Stored, TopicName};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::api::{ReplayRequest, ReplayStep};
use crate::server::Server;

/// How long a step goes on; one batch more may be under way then.
const STEP: Duration = Duration::from_secs(2);
/// The most messages that are read and published at a time.
const BATCH: usize = 1000;
/// How much of a second's messages one batch holds when there is a rate.
const SHARE: f64 = 0.2;
/// The slowest rate, a second: a step must be able to do one message in good time.
const SLOWEST: f64 = 0.1;

/// A step of a replay.
pub(crate) struct Replay<'a> {
    server: &'a Server,
    topic: TopicName,
    request: ReplayRequest,
    next: u64,
    end: u64,
}

impl<'a> Replay<'a> {
    /// Finds the ends of what is asked for.
    ///
    /// # Errors
    /// `NotFound` for a topic that is not there; `InvalidArgument` for a rate that is none, or a beginning after the end.
    pub(crate) async fn new(server: &'a Server, topic: TopicName, request: ReplayRequest) -> Result<Self> {
        if request.rate.is_some_and(|rate| !(rate >= SLOWEST && rate.is_finite())) {
            return Err(Error::invalid(format!("rate can be {SLOWEST} or more, in messages a second")));
        }
        server.broker.topic(&request.into).await?;
        let info = server.broker.topic(&topic).await?;
        let (head, tail) = (info.head, info.tail);
        let next = place(server, &topic, request.from, head, tail).await?;
        let end = place(server, &topic, request.to, head, tail).await?;
        if next > end {
            return Err(Error::invalid(format!(
                "the replay would begin at offset {next}, after its end at {end}"
            )));
        }
        Ok(Self { server, topic, request, next, end })
    }

    /// Does it, for a while.
    ///
    /// # Errors
    /// Those of reading and publishing; the message says how far it came.
    pub(crate) async fn step(mut self) -> Result<ReplayStep> {
        let mut step = ReplayStep { stored: 0, duplicates: 0, next: self.next, end: self.end, done: false };
        let began = Instant::now();
        while !self.request.dry_run && self.next < self.end {
            let max = self.request.rate.map_or(BATCH, |rate| share(rate).min(BATCH));
            let page =
                self.server.broker.read(&self.topic, StartAt::Offset(self.next), max, Duration::ZERO).await?;
            let run: Vec<_> =
                page.messages.into_iter().take_while(|stored| stored.offset < self.end).collect();
            let Some(last) = run.last().map(|stored| stored.offset) else {
                // What is left has been dropped meanwhile.
                self.next = self.end;
                break;
            };
            let receipts = self.publish(&run).await.map_err(|error| came(&self.topic, self.next, error))?;
            step.duplicates += receipts.duplicates.len() as u64;
            step.stored += u64::from(receipts.count) - receipts.duplicates.len() as u64;
            self.next = last + 1;
            if let Some(rate) = self.request.rate {
                #[allow(clippy::cast_precision_loss)] // counts of a few seconds
                let due = (step.stored + step.duplicates) as f64 / rate;
                tokio::select! {
                    () = sleep_until(began + Duration::from_secs_f64(due)) => {}
                    () = self.server.shutdown.started() => break,
                }
            }
            if began.elapsed() >= STEP || self.server.shutdown.has_started() {
                break;
            }
        }
        Ok(ReplayStep { next: self.next, done: self.next >= self.end, ..step })
    }

    /// Publishes a run, in one piece; when the broker is full, once there is room.
    async fn publish(&self, run: &[Stored]) -> Result<crossdock_topics::Receipts> {
        let mut batch = Batch::default();
        for stored in run {
            batch.push(&copy(&self.topic, stored))?;
        }
        let deadline = Instant::now() + Server::PUBLISH;
        loop {
            let publishing =
                self.server.broker.publish(&self.request.into, batch.clone(), Default::default());
            let answer = timeout_at(deadline, publishing).await.unwrap_or_else(|_| Err(late()));
            match answer {
                Err(error) if error.code == ErrorCode::Overloaded => {
                    timeout_at(deadline, self.server.broker.room()).await.map_err(|_| error)?;
                }
                other => return other,
            }
        }
    }
}

/// The offset that a place means now: between the oldest message and the end.
async fn place(server: &Server, topic: &TopicName, place: StartAt, head: u64, tail: u64) -> Result<u64> {
    Ok(match place {
        StartAt::Start => head,
        StartAt::End => tail,
        StartAt::Offset(offset) => offset.clamp(head, tail),
        StartAt::Time(_) => {
            let page = server.broker.read(topic, place, 1, Duration::ZERO).await?;
            page.messages.first().map_or(tail, |stored| stored.offset.clamp(head, tail))
        }
    })
}

/// How many messages a batch has at this rate.
fn share(rate: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // at least 1, and at most as many as there are
    let share = (rate * SHARE).min(1e6) as usize;
    share.max(1)
}

/// The message as it is published again.
fn copy(topic: &TopicName, stored: &Stored) -> Message {
    let mut message = stored.record.to_message();
    let origin = format!("{topic}:{}", stored.offset);
    let mut headers = vec![
        ("crossdock-origin".into(), origin.clone().into()),
        ("crossdock-origin-time".into(), stored.time.to_string().into()),
    ];
    headers.extend(message.id.take().map(|id| ("crossdock-origin-id".into(), id)));
    // A message that was replayed before says where it was replayed from last.
    message.headers.retain(|(name, _)| !name.starts_with("crossdock-origin"));
    message.headers.truncate(MAX_HEADERS - headers.len());
    headers.append(&mut message.headers);
    Message {
        id: Some(format!("replay of {origin}").into()),
        expires_at: None,
        deliver_at: None,
        headers,
        ..message
    }
}

fn came(topic: &TopicName, next: u64, error: Error) -> Error {
    Error { message: format!("at offset {next} of {topic}: {}", error.message).into(), ..error }
}

fn late() -> Error {
    Error::new(ErrorCode::Timeout, format!("the broker did not answer in {:?}", Server::PUBLISH))
        .hint("ask for the same step again: what is stored already is not stored twice")
}

#[cfg(test)]
mod tests {
    use crossdock_topics::{Record, Timestamp};

    use super::*;

    fn stored(message: &Message) -> Stored {
        Stored { offset: 17, time: Timestamp(0), record: Record::of(message).unwrap() }
    }

    #[test]
    fn a_copy_says_where_it_came_from_and_is_delivered_now() {
        let topic = "orders".parse().unwrap();
        let mut message = Message::json("{}").with_key("k").with_id("7").with_header("a", "1");
        (message.expires_at, message.deliver_at) = (Some(Timestamp(1)), Some(Timestamp(2)));
        let first = copy(&topic, &stored(&message));
        assert_eq!(first.id.as_deref(), Some("replay of orders:17"));
        assert_eq!(first.header("crossdock-origin"), Some("orders:17"));
        assert_eq!(first.header("crossdock-origin-time"), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(first.header("crossdock-origin-id"), Some("7"));
        assert_eq!((first.header("a"), first.key.as_deref()), (Some("1"), Some("k")));
        assert_eq!((first.expires_at, first.deliver_at), (None, None));
        let second = copy(&"copies".parse().unwrap(), &stored(&first));
        let origins = second.headers.iter().filter(|(name, _)| name == "crossdock-origin");
        assert_eq!(origins.map(|(_, value)| &**value).collect::<Vec<_>>(), ["copies:17"]);
        assert_eq!(copy(&topic, &stored(&message)), first, "the same one every time");
    }

    #[test]
    fn a_copy_keeps_within_the_limits_of_a_message() {
        let mut message = Message::json("{}").with_id("7");
        message.headers = (0..MAX_HEADERS).map(|n| (n.to_string().into(), "x".into())).collect();
        let copy = copy(&"orders".parse().unwrap(), &stored(&message));
        copy.check().unwrap();
        assert_eq!(copy.header("crossdock-origin-id"), Some("7"));
    }

    #[test]
    fn a_slow_replay_goes_message_by_message() {
        assert_eq!((share(0.1), share(5.0), share(10.0), share(1e300)), (1, 1, 2, 1_000_000));
    }
}
