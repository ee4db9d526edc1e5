//! Load, to see what this machine and this configuration can do.

mod load;
mod publish;
mod service;
mod sub;

use std::time::Duration;

use clap::{Args, Subcommand};
use crossdock_control::api::{Status, TopicList};
use crossdock_topics::time::human;
use crossdock_topics::{Error, ErrorCode, SharedBroker, Topic, TopicName};
use reqwest::Method;
use serde::Serialize;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Show;

/// Put load on a running server and measure it
#[derive(Debug, Args)]
#[command(after_help = "\
`pub` and `sub` go straight to the broker's wire where the context names it, and over the
HTTP gateway otherwise, or with --http. The load comes from this process: on one machine it takes its share of the
processors. Latencies are those of whole requests. A topic made to measure on is
deleted afterwards.

Examples:
  crossdock bench pub --in-flight 64 --size 1KiB --for 10s
  crossdock bench sub --messages 200000
  crossdock bench service route --data '{\"id\": \"1\"}' --in-flight 1")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Pub(publish::Arguments),
    Sub(sub::Arguments),
    Service(service::Arguments),
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let report = match self.action {
            Action::Pub(arguments) => arguments.run(&client).await,
            Action::Sub(arguments) => arguments.run(&client).await,
            Action::Service(arguments) => arguments.run(&client).await,
        }?;
        caller.output.one(&report)
    }
}

/// How much load.
#[derive(Clone, Copy, Debug, Args)]
struct Amount {
    /// How many requests are under way at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = length)]
    length: Duration,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = human::parse(text)?;
    let sane = Duration::from_millis(100)..=Duration::from_secs(3600);
    if sane.contains(&length) { Ok(length) } else { Err("it can be 100ms to 1h".into()) }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// What was done.
    work: &'static str,
    /// Which way: `http` or `wire`.
    way: &'static str,
    /// To what.
    target: String,
    /// How many requests were under way at a time.
    in_flight: u16,
    /// Messages in one request.
    batch: usize,
    /// Bytes in one message's payload.
    size: usize,
    /// What the acknowledgement was worth.
    durability: String,
    /// Messages, or calls, done.
    count: u64,
    /// Requests refused because a queue was full; they were sent again.
    refused: u64,
    /// How long it took.
    seconds: f64,
    /// Messages, or calls, per second.
    per_second: f64,
    /// The time a request took, in milliseconds: half took no longer.
    p50_ms: f64,
    /// 99 of 100 took no longer.
    p99_ms: f64,
    /// The longest.
    max_ms: f64,
}

impl From<load::Measured> for Report {
    /// The figures; what was done to what is the caller's to say.
    fn from(measured: load::Measured) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let per_second = measured.count as f64 / measured.seconds;
        Self {
            work: "",
            way: "http",
            target: String::new(),
            in_flight: 0,
            batch: 1,
            size: 0,
            durability: String::new(),
            count: measured.count,
            refused: measured.refused,
            seconds: measured.seconds,
            per_second,
            p50_ms: measured.latencies.quantile_ms(0.5),
            p99_ms: measured.latencies.quantile_ms(0.99),
            max_ms: measured.latencies.max_ms(),
        }
    }
}

impl Show for Report {
    const COLUMNS: &'static [&'static str] =
        &["work", "way", "target", "in flight", "batch", "size", "durability", "per second", "p50", "p99"];

    fn row(&self) -> Vec<String> {
        vec![
            self.work.into(),
            self.way.into(),
            self.target.clone(),
            self.in_flight.to_string(),
            self.batch.to_string(),
            format!("{} B", self.size),
            self.durability.clone(),
            format!("{:.0}", self.per_second),
            format!("{:.2} ms", self.p50_ms),
            format!("{:.2} ms", self.p99_ms),
        ]
    }

    fn name(&self) -> String {
        self.work.into()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut all: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        all.push(("longest", format!("{:.2} ms", self.max_ms)));
        all.push(("done", format!("{} in {:.2} s", self.count, self.seconds)));
        if self.refused > 0 {
            all.push(("refused", format!("{} requests, a queue was full; sent again", self.refused)));
        }
        all
    }
}

/// A client of the gateway of the same server.
async fn gateway(client: &Client) -> Result<Client, Error> {
    if let Some(url) = &client.context().gateway_url {
        return client.at(url);
    }
    let status: Status = client.get(&["status"]).await?;
    let member = status.members.iter().find(|member| member.name == status.server).or(status.members.first());
    let member = member.ok_or_else(|| {
        Error::new(ErrorCode::Unavailable, "no server of the cluster says where its gateway is")
            .hint("see `crossdock status`")
    })?;
    client.at(&member.gateway_url)
}

/// The broker's wire, unless HTTP is asked for or the context does not name it.
async fn wire(client: &Client, http: bool) -> Result<Option<SharedBroker>, Error> {
    if http { Ok(None) } else { crate::way::wire(client).await }
}

/// Which way that is.
fn way(wire: Option<&SharedBroker>) -> &'static str {
    if wire.is_some() { "wire" } else { "http" }
}

/// A topic to measure on: the user's, or one of its own, which is deleted afterwards.
struct Ground {
    topic: Topic,
    own: bool,
}

impl Ground {
    async fn open(client: &Client, named: Option<TopicName>) -> Result<Self, Error> {
        let list: TopicList = client.get(&["topics"]).await?;
        if let Some(name) = named {
            let info = list.topics.into_iter().find(|info| info.topic.name == name);
            let info = info.ok_or_else(|| Error::not_found("topic", &name))?;
            return Ok(Self { topic: info.topic, own: false });
        }
        let topic = Topic::new(format!("bench-{:08x}", rand::random::<u32>()).parse()?);
        client.send(client.api(Method::PUT, &["topics", topic.name.as_str()]).json(&topic)).await?;
        Ok(Self { topic, own: true })
    }

    async fn close(self, client: &Client) -> Result<(), Error> {
        if self.own {
            client.delete(&["topics", self.topic.name.as_str()]).await?;
        }
        Ok(())
    }
}

/// Bytes that do not compress, as real ones often do not.
fn payload(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::fill(bytes.as_mut_slice());
    bytes
}
