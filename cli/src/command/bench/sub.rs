//! Consuming and acknowledging.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use crossdock_config::Size;
use crossdock_control::api::{NewMessage, PublishRequest};
use crossdock_topics::{
    Error, Fetch, Settlement, SharedBroker, Subscription, SubscriptionName, Subscriptions, TopicName,
    TopicPattern,
};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::load::{self, Step};
use super::{Amount, Ground, Report, gateway, payload, way, wire};
use crate::client::Client;
use crate::failure::Result;
use crate::output::progress;
use crate::way::publish;

/// Consume and acknowledge messages, which are published first on a topic of its own
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// How many consumers fetch and settle at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    in_flight: u16,
    /// How many messages are fetched at most in one request
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// The size of each payload
    #[arg(long, default_value = "128B", value_parser = super::publish::payload_size)]
    size: Size,
    /// Over the HTTP gateway, also where the broker's wire is known
    #[arg(long)]
    http: bool,
}

/// What the gateway hands out; the rest of a message is of no interest here.
#[derive(Deserialize)]
struct Fetched {
    messages: Vec<Delivery>,
}

#[derive(Deserialize)]
struct Delivery {
    delivery: String,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<Report> {
        let wire = wire(client, self.http).await?;
        let way = way(wire.as_ref());
        let ground = Ground::open(client, None).await?;
        let name: SubscriptionName = ground.topic.name.as_str().parse()?;
        let measured = self.measure(client, wire, &ground.topic.name, &name).await;
        // A subscription that was never made is no reason to leave the topic.
        let _ = client.delete(&["subscriptions", name.as_str()]).await;
        let target = ground.topic.name.to_string();
        ground.close(client).await?;
        let measured = measured?;
        Ok(Report {
            work: "consume",
            way,
            target,
            in_flight: self.in_flight,
            batch: usize::from(self.batch),
            size: self.size.bytes(),
            durability: "fsync, acknowledgements too".into(),
            ..measured.into()
        })
    }

    async fn measure(
        &self,
        client: &Client,
        wire: Option<SharedBroker>,
        topic: &TopicName,
        name: &SubscriptionName,
    ) -> Result<load::Measured, Error> {
        let pattern: TopicPattern = topic.as_str().parse()?;
        let subscription = Subscription::new(name.clone(), vec![pattern]);
        client.send(client.api(Method::PUT, &["subscriptions", name.as_str()]).json(&subscription)).await?;
        self.fill(client, topic).await?;
        let amount = Amount { in_flight: self.in_flight, length: Duration::from_secs(3600) };
        let (left, batch, name) = (Arc::new(AtomicU64::new(self.messages)), self.batch, name.clone());
        let Some(broker) = wire else {
            let gateway = gateway(client).await?;
            let step = move || {
                let (gateway, left, name) = (gateway.clone(), Arc::clone(&left), name.clone());
                async move { done(&left, consume(&gateway, &name, batch).await?) }
            };
            return load::run(amount, "messages", step).await;
        };
        let shared = broker.clone();
        let step = move || {
            let (broker, left, name) = (shared.clone(), Arc::clone(&left), name.clone());
            async move { done(&left, consume_wired(&*broker, &name, batch).await?) }
        };
        let measured = load::run(amount, "messages", step).await;
        broker.close().await;
        measured
    }

    async fn fill(&self, client: &Client, topic: &TopicName) -> Result<(), Error> {
        let bar = progress(self.messages, "messages published");
        let payload = payload(self.size.bytes());
        let per_request = (1024 * 1024 / (payload.len() as u64 + 64)).clamp(1, 1000);
        let mut left = self.messages;
        while left > 0 {
            let count = left.min(per_request);
            let messages = (0..count).map(|_| NewMessage::of(&payload, None)).collect();
            publish(client, topic, &PublishRequest { messages, ..PublishRequest::default() })
                .await
                .inspect_err(|_| bar.finish_and_clear())?;
            left -= count;
            bar.inc(count);
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Fetches once and acknowledges all of it.
async fn consume(gateway: &Client, name: &SubscriptionName, batch: u16) -> Result<u64, Error> {
    let request = gateway
        .request(Method::GET, &["subscriptions", name.as_str(), "messages"])
        .query(&[("max", batch.to_string()), ("wait", "1s".to_owned())]);
    let fetched: Fetched = gateway.json(request).await?;
    let count = fetched.messages.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    let deliveries: Vec<String> = fetched.messages.into_iter().map(|message| message.delivery).collect();
    let request = gateway.request(Method::POST, &["subscriptions", name.as_str(), "settle"]);
    gateway.drained(request.json(&json!({ "ack": deliveries }))).await?;
    Ok(count)
}

/// The same over the broker's wire.
async fn consume_wired(
    broker: &dyn Subscriptions,
    name: &SubscriptionName,
    batch: u16,
) -> Result<u64, Error> {
    let fetch = Fetch::new(None, usize::from(batch), Duration::from_secs(1));
    let deliveries = broker.fetch(name, fetch).await?;
    if !deliveries.is_empty() {
        broker.settle(name, Settlement::ack(deliveries.iter().map(|delivery| delivery.id))).await?;
    }
    Ok(deliveries.len() as u64)
}

/// What a step has done, and whether anything is left to do.
fn done(left: &AtomicU64, count: u64) -> Result<Step, Error> {
    if count == 0 {
        return Ok(if left.load(Ordering::Relaxed) == 0 { Step::Last(0) } else { Step::Done(0) });
    }
    // Redelivered ones would be counted twice; with a lease of 30 s that takes a very slow machine.
    let before = left.update(Ordering::Relaxed, Ordering::Relaxed, |left| left.saturating_sub(count));
    Ok(if before <= count { Step::Last(count) } else { Step::Done(count) })
}
