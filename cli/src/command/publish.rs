//! Publishing.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use crossdock_control::api::{Expectation, Headers, NewMessage, PublishRequest, Published};
use crossdock_topics::time::human;
use crossdock_topics::{Durability, Error, TopicName};
use serde::Serialize;

use super::Caller;
use super::topic::durability;
use crate::failure::Result;
use crate::message::{Input, guess_content_type, header};
use crate::output::{Show, progress, spinner};
use crate::way::Way;

/// The most messages and bytes of payload that are sent at a time. Well below what the server takes.
const BATCH_MESSAGES: usize = 1000;
const BATCH_BYTES: usize = 512 * 1024;

/// Publish messages to a topic
#[derive(Debug, Args)]
#[command(after_help = "\
Without --content-type, JSON and UTF-8 text are recognised and marked as such.

Examples:
  crossdock pub orders '{\"id\": 1}' --key customer-7 --id order-1
  crossdock pub images --file cat.png --content-type image/png
  crossdock pub orders --lines --file orders.ndjson
  crossdock pub ledger '{\"balance\": 7}' --expect-last 41
  tail -F access.log | crossdock pub access --lines")]
pub(super) struct Arguments {
    /// The topic
    topic: TopicName,
    #[command(flatten)]
    input: Input,
    /// Messages with the same key belong together
    #[arg(long)]
    key: Option<String>,
    /// The message's id: publishing it again within the topic's window stores nothing
    #[arg(long, conflicts_with = "lines")]
    id: Option<String>,
    /// A header; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Ties a reply, or a chain of messages, to what caused it
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Hand it to subscriptions after so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    deliver_in: Option<Duration>,
    /// Do not deliver it any more after so long, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    expires_in: Option<Duration>,
    /// 0 to 9, larger is more urgent [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// The media type of the payload
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Do not answer before it is so safe, if the topic asks for less: memory, os or fsync
    #[arg(long, value_parser = durability)]
    durability: Option<Durability>,
    /// Publish only if the topic's newest message has this offset, or `none` if nothing was ever stored
    #[arg(long, value_name = "OFFSET", value_parser = newest, conflicts_with = "lines")]
    expect_last: Option<Newest>,
    /// Publish only if the newest message of the key has this offset, or `none` if there is none; for topics made
    /// with --compact
    #[arg(long, value_name = "OFFSET", value_parser = newest, requires = "key",
        conflicts_with_all = ["lines", "expect_last"])]
    expect_key_last: Option<Newest>,
    /// Publish each line as a message of its own; empty lines are passed over
    #[arg(long)]
    lines: bool,
}

/// The offset of a newest message, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest(Option<u64>);

fn newest(text: &str) -> Result<Newest, String> {
    match text {
        "none" => Ok(Newest(None)),
        _ => {
            text.parse().map(|offset| Newest(Some(offset))).map_err(|_| "it can be an offset, or none".into())
        }
    }
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let way = Way::of(caller.connect()?).await?;
        let sent = if self.lines { self.publish_lines(&way).await? } else { self.publish_one(&way).await? };
        way.close().await;
        caller.output.done(&sent, &sent.sentence())
    }

    fn message(&self, payload: &Bytes) -> NewMessage {
        let content_type = self.content_type.clone().or_else(|| guess_content_type(payload));
        let mut message = NewMessage::of(payload, content_type);
        message.key.clone_from(&self.key);
        message.id.clone_from(&self.id);
        message.correlation_id.clone_from(&self.correlation_id);
        (message.deliver_in, message.expires_in) = (self.deliver_in, self.expires_in);
        message.priority = self.priority;
        message.headers = Headers(self.headers.clone());
        message
    }

    fn request(&self, messages: Vec<NewMessage>) -> PublishRequest {
        PublishRequest { messages, durability: self.durability, expected: None }
    }

    fn expected(&self) -> Option<Expectation> {
        match (self.expect_last, self.expect_key_last) {
            (Some(Newest(last)), _) => Some(Expectation { key: None, last }),
            (None, Some(Newest(last))) => Some(Expectation { key: self.key.clone(), last }),
            (None, None) => None,
        }
    }

    async fn publish_one(mut self, way: &Way) -> Result<Sent> {
        let input = std::mem::take(&mut self.input);
        let payload = input.whole()?;
        let request =
            PublishRequest { expected: self.expected(), ..self.request(vec![self.message(&payload)]) };
        let mut sent = Sent::new(self.topic.clone());
        sent.add(&way.publish(&self.topic, request).await?);
        Ok(sent)
    }

    /// One batch after another, so that the lines keep their order whatever happens to a batch.
    async fn publish_lines(mut self, way: &Way) -> Result<Sent> {
        let input = std::mem::take(&mut self.input);
        let bar = match input.length() {
            Some(length) => progress(length, "bytes"),
            None => spinner("publishing"),
        };
        let mut lines = input.lines()?;
        let mut sent = Sent::new(self.topic.clone());
        loop {
            let mut messages = Vec::new();
            let mut bytes = 0;
            let mut ended = false;
            while messages.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
                // Reading may wait for whoever writes; nothing else has to go on meanwhile.
                match tokio::task::block_in_place(|| lines.next())? {
                    Some(line) => {
                        bytes += line.len();
                        messages.push(self.message(&line));
                    }
                    None => {
                        ended = true;
                        break;
                    }
                }
                if lines.would_wait() {
                    break;
                }
            }
            if !messages.is_empty() {
                match way.publish(&self.topic, self.request(messages)).await {
                    Ok(published) => sent.add(&published),
                    Err(error) => {
                        bar.finish_and_clear();
                        return Err(sent.interrupted(error).into());
                    }
                }
            }
            bar.set_position(lines.read());
            if ended {
                bar.finish_and_clear();
                return Ok(sent);
            }
        }
    }
}

/// What was published.
#[derive(Debug, Serialize)]
struct Sent {
    topic: TopicName,
    /// How many messages, duplicates included.
    messages: u64,
    /// How many of them were stored before.
    duplicates: u64,
    /// The offset of the first and of the last one.
    first: Option<u64>,
    last: Option<u64>,
    durability: Option<Durability>,
}

impl Sent {
    fn new(topic: TopicName) -> Self {
        Self { topic, messages: 0, duplicates: 0, first: None, last: None, durability: None }
    }

    fn add(&mut self, published: &Published) {
        self.messages += published.receipts.len() as u64;
        self.duplicates += published.receipts.iter().filter(|receipt| receipt.duplicate).count() as u64;
        self.first = self.first.or(published.receipts.first().map(|receipt| receipt.offset));
        self.last = published.receipts.last().map(|receipt| receipt.offset).or(self.last);
        self.durability = Some(published.durability);
    }

    fn sentence(&self) -> String {
        let durability = self.durability.map(|level| format!(" ({level})")).unwrap_or_default();
        match (self.messages, self.duplicates, self.first, self.last) {
            (1, 0, Some(at), _) => format!("stored in {} at offset {at}{durability}", self.topic),
            (1, 1, Some(at), _) => {
                format!("this id was stored before, in {} at offset {at}{durability}", self.topic)
            }
            (count, 0, Some(first), Some(last)) => {
                format!("stored {count} messages in {} at offsets {first} to {last}{durability}", self.topic)
            }
            (count, duplicates, _, _) => format!(
                "stored {} messages in {}{durability}, {duplicates} were there before",
                count - duplicates,
                self.topic
            ),
        }
    }

    /// Says how far it came.
    fn interrupted(&self, error: Error) -> Error {
        if self.messages == 0 {
            return error;
        }
        let message = format!("after {} messages were stored: {}", self.messages, error.message);
        Error { message: message.into(), ..error }
    }
}

impl Show for Sent {
    const COLUMNS: &'static [&'static str] = &["topic", "messages", "first", "last", "duplicates"];

    fn row(&self) -> Vec<String> {
        let offset = |offset: Option<u64>| offset.map(|offset| offset.to_string()).unwrap_or_default();
        vec![
            self.topic.to_string(),
            self.messages.to_string(),
            offset(self.first),
            offset(self.last),
            self.duplicates.to_string(),
        ]
    }

    /// `orders:17`, the place of the only or the last message.
    fn name(&self) -> String {
        match self.last {
            Some(last) => format!("{}:{last}", self.topic),
            None => self.topic.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crossdock_control::api::PublishReceipt;
    use crossdock_topics::ErrorCode;

    use super::*;

    fn sent(receipts: &[(u64, bool)]) -> Sent {
        let mut sent = Sent::new("orders".parse().unwrap());
        let receipts = receipts
            .iter()
            .map(|(offset, duplicate)| PublishReceipt { offset: *offset, duplicate: *duplicate });
        sent.add(&Published {
            topic: sent.topic.clone(),
            durability: Durability::Fsync,
            receipts: receipts.collect(),
        });
        sent
    }

    #[test]
    fn the_sentence_says_where_and_how_safe() {
        assert_eq!(sent(&[(5, false)]).sentence(), "stored in orders at offset 5 (fsync)");
        assert_eq!(sent(&[(5, true)]).sentence(), "this id was stored before, in orders at offset 5 (fsync)");
        assert_eq!(
            sent(&[(5, false), (6, false)]).sentence(),
            "stored 2 messages in orders at offsets 5 to 6 (fsync)"
        );
        assert_eq!(
            sent(&[(1, true), (6, false)]).sentence(),
            "stored 1 messages in orders (fsync), 1 were there before"
        );
        assert_eq!(Show::name(&sent(&[(5, false), (6, false)])), "orders:6");
    }

    #[test]
    fn an_expectation_is_an_offset_or_none() {
        assert_eq!((newest("none"), newest("7")), (Ok(Newest(None)), Ok(Newest(Some(7)))));
        assert!(newest("-1").is_err() && newest("").is_err());
    }

    #[test]
    fn an_interruption_says_how_far_it_came() {
        let error = sent(&[(5, false)]).interrupted(Error::new(ErrorCode::Unavailable, "gone"));
        assert_eq!(error.to_string(), "after 1 messages were stored: gone");
    }
}
