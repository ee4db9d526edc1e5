//! Publishing.

use clap::Args;
use crossdock_config::Size;
use crossdock_topics::{Batch, Error, Message, PublishOptions, SharedBroker, TopicName};
use reqwest::{Method, header};

use super::load::{self, Step};
use super::{Amount, Ground, Report, gateway, payload, way, wire};
use crate::client::Client;
use crate::failure::Result;

/// Publish messages, each a request of its own unless --batch says more
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    amount: Amount,
    /// The size of each payload
    #[arg(long, default_value = "128B", value_parser = payload_size)]
    size: Size,
    /// How many messages go into one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// The topic; one of its own, synced to disk, unless said
    #[arg(long)]
    topic: Option<TopicName>,
    /// Over the HTTP gateway, also where the broker's wire is known
    #[arg(long)]
    http: bool,
}

pub(super) fn payload_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse().map_err(|error: Error| error.to_string())?;
    if (1..=1024 * 1024).contains(&size.0) { Ok(size) } else { Err("it can be 1 to 1MiB".into()) }
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<Report> {
        let wire = wire(client, self.http).await?;
        let way = way(wire.as_ref());
        let ground = Ground::open(client, self.topic.clone()).await?;
        let measured = match wire {
            Some(broker) => self.over_the_wire(broker, &ground).await,
            None => self.over_http(gateway(client).await?, &ground).await,
        };
        let durability = ground.topic.durability.to_string();
        let target = ground.topic.name.to_string();
        ground.close(client).await?;
        let measured = measured?;
        Ok(Report {
            work: "publish",
            way,
            target,
            in_flight: self.amount.in_flight,
            batch: usize::from(self.batch),
            size: self.size.bytes(),
            durability,
            ..measured.into()
        })
    }

    async fn over_the_wire(&self, broker: SharedBroker, ground: &Ground) -> Result<load::Measured, Error> {
        let mut messages = Batch::default();
        let message = Message::new(payload(self.size.bytes()));
        for _ in 0..self.batch {
            messages.push(&message)?;
        }
        let (batch, topic, shared) = (u64::from(self.batch), ground.topic.name.clone(), broker.clone());
        let step = move || {
            let publishing = shared.publish(&topic, messages.clone(), PublishOptions::default());
            async move { publishing.await.map(|_| Step::Done(batch)) }
        };
        let measured = load::run(self.amount, "messages", step).await;
        broker.close().await;
        measured
    }

    async fn over_http(&self, gateway: Client, ground: &Ground) -> Result<load::Measured, Error> {
        let (kind, body) = self.body();
        let body = bytes::Bytes::from(body);
        let (batch, topic) = (u64::from(self.batch), ground.topic.name.clone());
        let step = move || {
            let request = gateway
                .request(Method::POST, &["topics", topic.as_str(), "messages"])
                .header(header::CONTENT_TYPE, kind)
                .body(body.clone());
            let gateway = gateway.clone();
            async move {
                // The answer is read to its end, so that the connection is used again.
                gateway.drained(request).await?;
                Ok(Step::Done(batch))
            }
        };
        load::run(self.amount, "messages", step).await
    }

    /// One message is sent as its bytes; several as lines of JSON.
    fn body(&self) -> (&'static str, Vec<u8>) {
        let size = self.size.bytes();
        if self.batch == 1 {
            return ("application/octet-stream", payload(size));
        }
        let mut body = Vec::new();
        for _ in 0..self.batch {
            body.extend_from_slice(&json_of(size));
            body.push(b'\n');
        }
        ("application/x-ndjson", body)
    }
}

/// A JSON text of exactly this many bytes (of at least 2): a string of random letters.
fn json_of(size: usize) -> Vec<u8> {
    let mut text = payload(size.max(2));
    for byte in &mut text {
        *byte = b'a' + *byte % 26;
    }
    let last = text.len() - 1;
    (text[0], text[last]) = (b'"', b'"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_of_the_size_asked_for() {
        for size in [2, 3, 128] {
            let text = json_of(size);
            assert_eq!(text.len(), size);
            assert!(serde_json::from_slice::<String>(&text).is_ok());
        }
        assert!(payload_size("0").is_err() && payload_size("2MiB").is_err());
    }
}
