//! Dead letters of a subscription.

mod choice;
mod edit;

use clap::{Args, Subcommand};
use crossdock_control::api::{DeadLetter, DeadLetterPage};
use crossdock_topics::{Error, ErrorCode, SubscriptionName};
use reqwest::Method;

use self::choice::{Discard, Matching, Retry};
use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message::{self, gist};
use crate::output::{Show, say};
use crate::place::Place;

/// Look at dead letters, mend them, deliver them again, or forget them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock dlq ls billing
  crossdock dlq show billing orders:17
  crossdock dlq ls billing --reason KeyError --since 2026-11-22T17:00:00Z
  crossdock dlq edit billing orders:17
  crossdock dlq retry billing orders:17 orders:20
  crossdock dlq retry billing --reason KeyError --rate 10
  crossdock dlq discard billing --all")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List dead letters, by topic and offset
    Ls {
        /// The subscription
        subscription: SubscriptionName,
        /// List only those after this one
        #[arg(long, value_name = "TOPIC:OFFSET")]
        after: Option<Place>,
        /// List at most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        max: usize,
        #[command(flatten)]
        matching: Matching,
    },
    /// Show one dead letter with its message
    Show {
        /// The subscription
        subscription: SubscriptionName,
        /// The message
        #[arg(value_name = "TOPIC:OFFSET")]
        place: Place,
    },
    Edit(edit::Arguments),
    Retry(Retry),
    Discard(Discard),
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls { subscription, after, max, matching } => {
                let mut all = Vec::new();
                let mut after = after.map(|place| place.to_string());
                loop {
                    let page =
                        page(&client, &subscription, &matching, after.as_deref(), max - all.len()).await?;
                    all.extend(page.dead_letters);
                    after = page.next;
                    if after.is_none() || all.len() >= max {
                        break;
                    }
                }
                caller.output.list(&all)?;
                if let Some(after) = after {
                    say(&format!("there are more: crossdock dlq ls {subscription} --after {after}"));
                }
                Ok(())
            }
            Action::Show { subscription, place } => {
                caller.output.one(&find(&client, &subscription, &place).await?)
            }
            Action::Edit(edit) => edit.run(caller, &client).await,
            Action::Retry(retry) => retry.run(caller, &client).await,
            Action::Discard(discard) => discard.run(caller, &client).await,
        }
    }
}

async fn page(
    client: &Client,
    subscription: &SubscriptionName,
    matching: &Matching,
    after: Option<&str>,
    max: usize,
) -> Result<DeadLetterPage, Error> {
    let mut query = vec![("max", max.clamp(1, 1000).to_string())];
    query.extend(after.map(|after| ("after", after.to_owned())));
    query.extend(matching.query());
    let request = client.api(Method::GET, &["subscriptions", subscription.as_str(), "dead-letters"]);
    client.json(request.query(&query)).await
}

async fn find(client: &Client, subscription: &SubscriptionName, place: &Place) -> Result<DeadLetter, Error> {
    let place = place.to_string();
    let found = client.get(&["subscriptions", subscription.as_str(), "dead-letters", &place]).await;
    found.map_err(|error: Error| match error.code {
        ErrorCode::NotFound => error.hint(format!("see `crossdock dlq ls {subscription}`")),
        _ => error,
    })
}

impl Show for DeadLetter {
    const COLUMNS: &'static [&'static str] = &["message", "failures", "deliveries", "by", "at", "reason"];

    fn row(&self) -> Vec<String> {
        vec![
            Show::name(self),
            self.failures.to_string(),
            self.deliveries.to_string(),
            self.by.clone().unwrap_or_default(),
            self.at.to_string(),
            message::one_line(gist(&self.reason)),
        ]
    }

    fn name(&self) -> String {
        format!("{}:{}", self.topic, self.offset)
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("message", Show::name(self)),
            ("failures", self.failures.to_string()),
            ("deliveries", self.deliveries.to_string()),
            ("by", self.by.clone().unwrap_or_default()),
            ("at", self.at.to_string()),
            ("reason", message::printable(&self.reason)),
        ];
        match &self.message {
            Some(message) => all.extend(message.details().into_iter().skip(1)),
            None => all.push(("data", "dropped by the topic's retention since".into())),
        }
        all
    }
}
