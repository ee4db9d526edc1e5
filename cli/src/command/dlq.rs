//! Dead letters of a subscription.

use std::str::FromStr;

use clap::{Args, Subcommand};
use crossdock_control::api::{Count, DeadLetter, DeadLetterPage, DeadLetterSelection, MessageRef};
use crossdock_topics::{Error, ErrorCode, SubscriptionName, TopicName};
use reqwest::Method;
use serde::Serialize;

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message;
use crate::output::{Show, say};

/// How many named messages are looked at one by one, to say which of them is no dead letter.
const LOOKED_UP: usize = 100;

/// Look at dead letters, deliver them again, or forget them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock dlq ls billing
  crossdock dlq show billing orders:17
  crossdock dlq retry billing orders:17 orders:20
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
    },
    /// Show one dead letter with its message
    Show {
        /// The subscription
        subscription: SubscriptionName,
        /// The message
        #[arg(value_name = "TOPIC:OFFSET")]
        place: Place,
    },
    /// Deliver dead letters again, with their failures forgotten
    Retry(Selected),
    /// Forget dead letters; the messages stay in their topics
    Discard(Selected),
}

#[derive(Debug, Args)]
struct Selected {
    /// The subscription
    subscription: SubscriptionName,
    /// The messages
    #[arg(value_name = "TOPIC:OFFSET", required_unless_present = "all", conflicts_with = "all")]
    places: Vec<Place>,
    /// Every one
    #[arg(long)]
    all: bool,
}

/// A message's place: `orders:17`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    topic: TopicName,
    offset: u64,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!("{text:?} is not a message's place"))
                .hint("write it like orders:17, a topic and an offset")
        };
        let (topic, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self { topic: topic.parse()?, offset: offset.parse().map_err(|_| wrong())? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.topic, self.offset)
    }
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        match self.action {
            Action::Ls { subscription, after, max } => {
                let mut all = Vec::new();
                let mut after = after.map(|place| place.to_string());
                loop {
                    let page = page(&client, &subscription, after.as_deref(), max - all.len()).await?;
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
            Action::Retry(selected) => {
                selected.run(caller, &client, "redrive", "to be delivered again").await
            }
            Action::Discard(selected) => selected.run(caller, &client, "discard", "forgotten").await,
        }
    }
}

impl Selected {
    async fn run(self, caller: &Caller, client: &Client, verb: &str, done: &str) -> Result<()> {
        let path = ["subscriptions", self.subscription.as_str(), "dead-letters", verb];
        let mut total = 0;
        let refs: Vec<MessageRef> = self
            .places
            .into_iter()
            .map(|place| MessageRef { topic: place.topic, offset: place.offset })
            .collect();
        let selections = if self.all {
            vec![DeadLetterSelection { all: true, messages: Vec::new() }]
        } else {
            let parts = refs.chunks(DeadLetterSelection::MAX_MESSAGES);
            parts.map(|part| DeadLetterSelection { all: false, messages: part.to_vec() }).collect()
        };
        // Afterwards nobody could tell which ones were there.
        let named = refs.len().min(LOOKED_UP);
        let mut missing = Vec::new();
        for message in &refs[..named] {
            let place = Place { topic: message.topic.clone(), offset: message.offset };
            match find(client, &self.subscription, &place).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::NotFound => missing.push(place.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        for selection in selections {
            total += client.post::<Count>(&path, &selection).await?.count;
        }
        let changed = Changed { subscription: self.subscription, count: total };
        caller.output.done(
            &changed,
            &format!("{total} {} {done}", if total == 1 { "message is" } else { "messages are" }),
        )?;
        if !self.all && total < refs.len() {
            let (count, which) = (refs.len() - total, missing.join(", "));
            let which = if which.is_empty() { which } else { format!(": {which}") };
            return Err(Error::new(
                ErrorCode::NotFound,
                format!("{count} of the {} named messages were no dead letters{which}", refs.len()),
            )
            .hint(format!("see `crossdock dlq ls {}`", changed.subscription))
            .into());
        }
        Ok(())
    }
}

/// How many dead letters a command changed.
#[derive(Serialize)]
struct Changed {
    subscription: SubscriptionName,
    count: usize,
}

impl Show for Changed {
    const COLUMNS: &'static [&'static str] = &["subscription", "count"];

    fn row(&self) -> Vec<String> {
        vec![self.subscription.to_string(), self.count.to_string()]
    }

    fn name(&self) -> String {
        self.subscription.to_string()
    }
}

async fn page(
    client: &Client,
    subscription: &SubscriptionName,
    after: Option<&str>,
    max: usize,
) -> Result<DeadLetterPage, Error> {
    let mut query = vec![("max", max.clamp(1, 1000).to_string())];
    query.extend(after.map(|after| ("after", after.to_owned())));
    let request = client.api(Method::GET, &["subscriptions", subscription.as_str(), "dead-letters"]);
    client.json(request.query(&query)).await
}

/// The dead letter at a place. They are listed by topic and offset, so what comes right after the offset
/// before it is it, or it is none; only an offset of 0 has none before it and is looked for from the start.
async fn find(client: &Client, subscription: &SubscriptionName, place: &Place) -> Result<DeadLetter, Error> {
    let before = |offset: u64| Place { topic: place.topic.clone(), offset }.to_string();
    let mut after = place.offset.checked_sub(1).map(before);
    loop {
        let max = if place.offset == 0 { 1000 } else { 1 };
        let page = page(client, subscription, after.as_deref(), max).await?;
        let passed = page.dead_letters.iter().any(|letter| letter.topic > place.topic) || max == 1;
        let found = page
            .dead_letters
            .into_iter()
            .find(|letter| letter.topic == place.topic && letter.offset == place.offset);
        match (found, page.next) {
            (Some(letter), _) => return Ok(letter),
            (None, Some(next)) if !passed => after = Some(next),
            (None, _) => {
                return Err(Error::not_found(
                    "dead letter",
                    format!("{place} of subscription {subscription}"),
                )
                .hint(format!("see `crossdock dlq ls {subscription}`")));
            }
        }
    }
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
/// The line of a reason that says most: a traceback's last one, anything else's first.
fn gist(reason: &str) -> &str {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or_default();
    if first.starts_with("Traceback") { lines.next_back().unwrap_or(first) } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_one_line_is_the_exception_or_how_the_process_ended() {
        assert_eq!(gist("Traceback (most recent call last):\n  File\nValueError: bad"), "ValueError: bad");
        assert_eq!(gist("the process exited with status 9\nlast words"), "the process exited with status 9");
        assert_eq!(gist(""), "");
    }
}
