//! Subscriptions.

use std::time::Duration;

use clap::{Args, Subcommand};
use crossdock_control::api::SubscriptionList;
use crossdock_topics::time::human;
use crossdock_topics::{
    Error, ErrorCode, StartAt, Subscription, SubscriptionInfo, SubscriptionName, TopicPattern,
};
use reqwest::Method;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Show;

/// List, make and remove subscriptions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock sub create billing --topic orders
  crossdock sub create audit --topic 'orders.**' --from end
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
}

impl Create {
    fn subscription(self) -> Subscription {
        let usual = Subscription::new(self.name, self.topics);
        Subscription {
            start: self.from,
            max_failures: self.max_failures.unwrap_or(usual.max_failures),
            lease: self.lease.unwrap_or(usual.lease),
            max_in_flight: self.max_in_flight.unwrap_or(usual.max_in_flight),
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
    const COLUMNS: &'static [&'static str] =
        &["name", "topics", "waiting", "in flight", "set aside", "dead letters", "consumers"];

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
            sum(|topic| topic.dead_letters),
            self.consumers.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.subscription.name.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let lines = self.topics.iter().map(|topic| {
            format!(
                "{}: next {}, {} waiting, {} in flight, {} set aside, {} dead letters",
                topic.topic, topic.next, topic.waiting, topic.in_flight, topic.set_aside, topic.dead_letters
            )
        });
        let backoff = &self.subscription.backoff;
        let time = |duration| humantime::format_duration(duration).to_string();
        let mut all: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
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
