//! What is stored in a topic from a place on.
//!
//! Any server that has the stream answers reads, the one this engine is connected to first, and one that lags behind the
//! leader gives what it has: the messages that it knows are in order and without a hole, but where it has nothing, there
//! may be something all the same. So that nothing is there is said by the leader alone.

use async_nats::header::{HeaderName, NATS_LAST_SEQUENCE, NATS_SEQUENCE, NATS_TIME_STAMP};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use crossdock_topics::{Error, Result, Timestamp};
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::Instant;

use super::message;
use super::streams::{NO_STREAM, Streams, unavailable};

/// There is no such message.
const NO_MESSAGE: u64 = 10_037;

/// A message of a stream.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) offset: u64,
    pub(super) time: Timestamp,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// Where to read from.
#[derive(Clone, Copy, Debug)]
pub(super) enum From<'a> {
    Offset(u64),
    /// What was stored at or after a moment.
    Time(Timestamp),
    /// What lies on some subjects, from an offset on.
    On(&'a str, u64),
}

impl From<'_> {
    /// As NATS is asked for it.
    fn wanted(self) -> serde_json::Value {
        match self {
            From::Offset(offset) => serde_json::json!({"seq": offset + 1}),
            From::Time(time) => serde_json::json!({"start_time": time.to_string()}),
            From::On(subjects, offset) => serde_json::json!({"seq": offset + 1, "next_by_subj": subjects}),
        }
    }
}

impl Streams {
    /// Messages from a place on, in order: at most `max`, and about `bytes`, and one if there is one. Where there are none,
    /// there was none when this was called; that these are all says nothing of the next ones.
    pub(super) async fn read(
        &self,
        number: u32,
        from: From<'_>,
        max: usize,
        bytes: usize,
    ) -> Result<Vec<Kept>> {
        let found = self.read_anywhere(number, from, max, bytes).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        let mut wanted = from.wanted();
        if wanted.get("next_by_subj").is_none() {
            wanted["next_by_subj"] = ">".into();
        }
        Ok(self.ask_leader(number, &wanted).await?.into_iter().collect())
    }

    /// The offset and headers of the last message on some subjects, as the stream's leader has it.
    pub(super) async fn last_on(&self, number: u32, subjects: &str) -> Result<Option<(u64, HeaderMap)>> {
        let found = self.ask_leader(number, &serde_json::json!({"last_by_subj": subjects})).await?;
        Ok(found.map(|kept| (kept.offset, kept.headers)))
    }

    /// One message, as the stream's leader has it.
    async fn ask_leader(&self, number: u32, wanted: &serde_json::Value) -> Result<Option<Kept>> {
        #[derive(Deserialize)]
        struct Answer {
            message: RawMessage,
        }
        match self.ask::<Answer>(&format!("STREAM.MSG.GET.{}", self.name(number)), wanted).await? {
            Err(error) if matches!(error.error_code().0, NO_MESSAGE | NO_STREAM) => Ok(None),
            Err(error) => Err(self.refused(&error)),
            Ok(Answer { message }) => {
                let none = |why: &dyn std::fmt::Display| {
                    Error::internal(format!("NATS sent a message that is none: {why}"))
                        .hint("see nats stream report, and update nats-server")
                };
                let message = StreamMessage::try_from(message).map_err(|error| none(&error))?;
                let millis = message.time.unix_timestamp_nanos().div_euclid(1_000_000);
                let time = Timestamp(i64::try_from(millis).map_err(|error| none(&error))?);
                Ok(Some(Kept {
                    offset: message.sequence.saturating_sub(1),
                    time: message::time_of(Some(&message.headers)).unwrap_or(time),
                    headers: message.headers,
                    payload: message.payload,
                }))
            }
        }
    }

    /// What some server has that keeps the stream.
    async fn read_anywhere(
        &self,
        number: u32,
        from: From<'_>,
        max: usize,
        bytes: usize,
    ) -> Result<Vec<Kept>> {
        let client = &self.connection.client;
        let lost =
            |error: &dyn std::fmt::Display| unavailable(&format!("reading {}: {error}", self.name(number)));
        let deadline = Instant::now() + self.connection.options.patience;
        let mut wanted = from.wanted();
        wanted["batch"] = max.clamp(1, 10_000).into();
        // None would be as many as fit into what NATS holds for a client.
        wanted["max_bytes"] = bytes.max(1).into();
        let asking = async {
            let inbox = client.new_inbox();
            let answers = client.subscribe(inbox.clone()).await.map_err(|error| lost(&error))?;
            let subject = format!("$JS.API.DIRECT.GET.{}", self.name(number));
            let sent = client.publish_with_reply(subject, inbox, Bytes::from(wanted.to_string())).await;
            sent.map_err(|error| lost(&error)).map(|()| answers)
        };
        // What is to be sent waits while there is no connection.
        let asked = tokio::time::timeout_at(deadline, asking).await;
        let mut answers = asked.map_err(|_| lost(&"there is no connection"))??;
        let mut found: Vec<Kept> = Vec::new();
        loop {
            let answer = match tokio::time::timeout_at(deadline, answers.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(lost(&"the connection is closed")),
                Err(_) if !found.is_empty() => return Ok(found),
                Err(_) => return Err(lost(&"there is no answer")),
            };
            match answer.status {
                None => {}
                Some(StatusCode::NOT_FOUND) => return Ok(found),
                Some(status) if status.as_u16() == 204 => return Ok(found),
                Some(status) => return Err(lost(&status)),
            }
            let headers = answer.headers.unwrap_or_default();
            // Those of the answer stand behind those that the message was stored with.
            let text = |name: HeaderName| headers.get_last(name).map(|value| value.as_str());
            let sequence: Option<u64> = text(NATS_SEQUENCE).and_then(|number| number.parse().ok());
            let time: Option<Timestamp> = text(NATS_TIME_STAMP).and_then(|time| time.parse().ok());
            let (Some(sequence), Some(time)) = (sequence, time) else {
                return Err(lost(&"a message without its number"));
            };
            // An answer that was lost with its connection is none that was not there.
            let before: Option<u64> = text(NATS_LAST_SEQUENCE).and_then(|number| number.parse().ok());
            if before.is_some_and(|before| before != found.last().map_or(0, |kept| kept.offset + 1)) {
                if found.is_empty() {
                    return Err(lost(&"a part of the answer is missing"));
                }
                return Ok(found);
            }
            let time = message::time_of(Some(&headers)).unwrap_or(time);
            found.push(Kept { offset: sequence - 1, time, headers, payload: answer.payload });
        }
    }
}
