//! Subscriptions.

use std::time::Duration;

use clap::{Args, Subcommand};
use crossdock_control::api::SubscriptionList;
use crossdock_topics::time::human;
use crossdock_topics::{
    Error, ErrorCode, Filter, Order, Sharing, StartAt, Subscription, SubscriptionInfo, SubscriptionName,
    TopicPattern,
};
use reqwest::Method;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message::{header, one_line};
use crate::output::Show;

/// List, make and remove subscriptions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock sub create billing --topic orders
  crossdock sub create audit --topic 'orders.**' --from end
  crossdock sub create ledger --topic orders --order key
  crossdock sub create large --topic orders --filter-jq '.total > 100'
  crossdock sub ls")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List subscriptions
    Ls,
    /// Show one subscription, with how it stands in each of its topics
    Get {
        /// The subscription
        name: SubscriptionName,
    },
    /// Make a subscription; making the same one again changes nothing
    Create(Create),
    /// Delete a subscription, with its place and its dead letters' index; messages stay in their topics
    Rm {
        /// The subscription
        name: SubscriptionName,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// The subscription
    name: SubscriptionName,
    /// A topic it takes messages from, or a pattern: `*` is one segment, `**` one or more; repeatable
    #[arg(long = "topic", required = true, value_name = "TOPIC")]
    topics: Vec<TopicPattern>,
    /// Where it begins: start, end, an offset, or a moment like 2026-11-22T17:00:00Z
    #[arg(long, value_name = "PLACE", default_value = "start")]
    from: StartAt,
    /// After so many failures a message goes to the dead letters [default: 5]
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,
    /// How long a consumer may hold a message [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    lease: Option<Duration>,
    /// How many messages may be with consumers at one time, in each topic [default: 4096]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
    /// `key`: messages of one key one after another; a key that fails too often waits alone [default: none]
    #[arg(long, value_name = "ORDER", value_parser = order)]
    order: Option<Order>,
    /// Let messages of higher priority overtake others that wait
    #[arg(long)]
    priorities: bool,
    /// Who gets messages: all consumers (`shared`), the one that joined first (`failover`), or the only one
    /// (`exclusive`) [default: shared]
    #[arg(long, value_name = "SHARING", value_parser = sharing)]
    sharing: Option<Sharing>,
    /// Take only messages for which this jq program over their JSON says neither `false` nor `null`
    #[arg(long, value_name = "PROGRAM")]
    filter_jq: Option<String>,
    /// Take only messages that have this header with exactly this value; repeatable, all must be there
    #[arg(long = "filter-header", value_name = "NAME=VALUE", value_parser = header)]
    filter_headers: Vec<(String, String)>,
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "none" => Ok(Order::None),
        "key" => Ok(Order::Key),
        _ => Err("it can be none or key".into()),
    }
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "shared" => Ok(Sharing::Shared),
        "failover" => Ok(Sharing::Failover),
        "exclusive" => Ok(Sharing::Exclusive),
        _ => Err("it can be shared, failover or exclusive".into()),
    }
}

impl Create {
    fn subscription(self) -> Subscription {
        let usual = Subscription::new(self.name, self.topics);
        let filter = Filter { headers: self.filter_headers.into_iter().collect(), jq: self.filter_jq };
        let filter = Some(filter).filter(|filter| *filter != Filter::default());
        Subscription {
            start: self.from,
            max_failures: self.max_failures.unwrap_or(usual.max_failures),
            lease: self.lease.unwrap_or(usual.lease),
            max_in_flight: self.max_in_flight.unwrap_or(usual.max_in_flight),
            order: self.order.unwrap_or_default(),
            priorities: self.priorities,
            sharing: self.sharing.unwrap_or_default(),
            filter,
            ..usual
        }
    }
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls => {
                let list: SubscriptionList = client.get(&["subscriptions"]).await?;
                caller.output.list(&list.subscriptions)
            }
            Action::Get { name } => caller.output.one(&get(&client, &name).await?),
            Action::Create(create) => {
                let subscription = create.subscription();
                subscription.check()?;
                let name = subscription.name.clone();
                match get(&client, &name).await {
                    Ok(info) if info.subscription == subscription => {
                        return caller.output.done(&info, &format!("subscription {name} is there already"));
                    }
                    Ok(_) => {
                        return Err(Error::new(
                            ErrorCode::AlreadyExists,
                            format!("subscription {name} exists with other settings"),
                        )
                        .hint(format!("see `crossdock sub get {name}`; `crossdock apply` changes settings"))
                        .into());
                    }
                    Err(error) if error.code == ErrorCode::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
                let request = client.api(Method::PUT, &["subscriptions", name.as_str()]);
                client.send(request.json(&subscription)).await?;
                caller.output.done(&get(&client, &name).await?, &format!("made subscription {name}"))
            }
            Action::Rm { name } => {
                let info = get(&client, &name).await?;
                client.delete(&["subscriptions", name.as_str()]).await?;
                caller.output.done(&info, &format!("deleted subscription {name}"))
            }
        }
    }
}

async fn get(client: &Client, name: &SubscriptionName) -> Result<SubscriptionInfo, Error> {
    client.get(&["subscriptions", name.as_str()]).await
}

impl Show for SubscriptionInfo {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "topics",
        "waiting",
        "in flight",
        "set aside",
        "parked keys",
        "dead letters",
        "consumers",
        "state",
    ];

    fn row(&self) -> Vec<String> {
        let patterns: Vec<&str> = self.subscription.topics.iter().map(TopicPattern::as_str).collect();
        let sum = |part: fn(&crossdock_topics::TopicProgress) -> u64| {
            self.topics.iter().map(part).sum::<u64>().to_string()
        };
        vec![
            self.subscription.name.to_string(),
            patterns.join(", "),
            sum(|topic| topic.waiting),
            sum(|topic| topic.in_flight),
            sum(|topic| topic.set_aside),
            sum(|topic| topic.parked_keys),
            sum(|topic| topic.dead_letters),
            self.consumers.to_string(),
            if self.paused { "paused" } else { "active" }.into(),
        ]
    }

    fn name(&self) -> String {
        self.subscription.name.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let lines = self.topics.iter().map(|topic| {
            let keys = match (topic.behind_key, topic.parked_keys) {
                (0, 0) => String::new(),
                (behind, parked) => format!(" ({behind} behind their key), {parked} parked keys"),
            };
            format!(
                "{}: next {}, {} waiting, {} in flight, {} set aside{keys}, {} dead letters",
                topic.topic, topic.next, topic.waiting, topic.in_flight, topic.set_aside, topic.dead_letters
            )
        });
        let backoff = &self.subscription.backoff;
        let time = |duration| humantime::format_duration(duration).to_string();
        let mut all: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        let order = match self.subscription.order {
            Order::None => "none",
            Order::Key => "key",
        };
        let sharing = match self.subscription.sharing {
            Sharing::Shared => "shared",
            Sharing::Failover => "failover",
            Sharing::Exclusive => "exclusive",
        };
        all.push(("order", order.into()));
        all.extend(self.subscription.priorities.then(|| ("priorities", "yes".to_owned())));
        all.push(("sharing", sharing.into()));
        if let Some(filter) = &self.subscription.filter {
            let headers = filter.headers.iter().map(|(name, value)| one_line(&format!("{name}: {value}")));
            all.extend(headers.map(|header| ("filter", header)));
            all.extend(filter.jq.as_deref().map(|program| ("filter", format!("jq {}", one_line(program)))));
        }
        all.push(("max failures", self.subscription.max_failures.to_string()));
        all.push((
            "backoff",
            format!(
                "{}, then {} times as long, at most {}",
                time(backoff.first),
                backoff.factor,
                time(backoff.max)
            ),
        ));
        all.push(("lease", time(self.subscription.lease)));
        all.push(("max in flight", self.subscription.max_in_flight.to_string()));
        all.push(("progress", lines.collect::<Vec<_>>().join("\n")));
        all
    }
}
