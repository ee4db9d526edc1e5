//! Which dead letters a command is about, and what it does to them.

use clap::Args;
use crossdock_control::api::{Count, DiscardRequest, MessageRef, RedriveRequest};
use crossdock_topics::{DeadLetterFilter, Error, ErrorCode, SubscriptionName, Timestamp, TopicName};
use serde::Serialize;

use super::find;
use crate::client::Client;
use crate::command::Caller;
use crate::failure::Result;
use crate::message::header;
use crate::output::Show;
use crate::place::Place;

/// How many named messages are looked at one by one, to say which of them is no dead letter.
const LOOKED_UP: usize = 100;

/// What dead letters must be like; what is not given is not asked.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "matching", multiple = true)]
pub(super) struct Matching {
    /// Only those that lie in this topic
    #[arg(long)]
    topic: Option<TopicName>,
    /// Only those whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those where who failed begins with this, such as a service's name
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Only those given up at or after this moment, like 2026-11-22T17:00:00Z
    #[arg(long, value_name = "MOMENT")]
    since: Option<Timestamp>,
    /// Only those given up before this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<Timestamp>,
    /// Only those whose message has this key
    #[arg(long)]
    key: Option<String>,
    /// Only those whose message has this header with exactly this value
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Option<(String, String)>,
}

impl Matching {
    /// As the query of a list.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let header = self.header.as_ref().map(|(name, value)| format!("{name}={value}"));
        [
            ("topic", self.topic.as_ref().map(ToString::to_string)),
            ("reason", self.reason.clone()),
            ("by", self.by.clone()),
            ("since", self.since.map(|moment| moment.to_string())),
            ("until", self.until.map(|moment| moment.to_string())),
            ("key", self.key.clone()),
            ("header", header),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// As a choice, if anything is asked.
    fn filter(self) -> Option<DeadLetterFilter> {
        let filter = DeadLetterFilter {
            topic: self.topic,
            reason: self.reason,
            by: self.by,
            since: self.since,
            until: self.until,
            key: self.key,
            headers: self.header.into_iter().collect(),
        };
        (filter != DeadLetterFilter::default()).then_some(filter)
    }
}

/// Some dead letters of a subscription: named ones, those that match, or every one.
#[derive(Debug, Args)]
struct Chosen {
    /// The subscription
    subscription: SubscriptionName,
    /// The messages
    #[arg(value_name = "TOPIC:OFFSET", required_unless_present_any = ["all", "matching"])]
    places: Vec<Place>,
    /// Every one
    #[arg(long, conflicts_with_all = ["places", "matching"])]
    all: bool,
    #[command(flatten)]
    matching: Matching,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
}

/// Deliver dead letters again, with their failures forgotten
#[derive(Debug, Args)]
pub(super) struct Retry {
    #[command(flatten)]
    chosen: Chosen,
    /// At most so many a second [default: all at once]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

/// Forget dead letters; the messages stay in their topics
#[derive(Debug, Args)]
pub(super) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
}

impl Retry {
    pub(super) async fn run(self, caller: &Caller, client: &Client) -> Result<()> {
        let rate = self.rate;
        let paced = rate.map(|rate| format!(", {rate} a second")).unwrap_or_default();
        let done = format!("to be delivered again{paced}");
        let requests = self.chosen.requests()?.into_iter().map(|one| RedriveRequest {
            all: one.all,
            messages: one.messages,
            matching: one.matching,
            rate,
            dry_run: one.dry_run,
        });
        self.chosen.send(caller, client, "redrive", requests, &done).await
    }
}

impl Discard {
    pub(super) async fn run(self, caller: &Caller, client: &Client) -> Result<()> {
        let requests = self.chosen.requests()?;
        self.chosen.send(caller, client, "discard", requests, "forgotten").await
    }
}

impl Chosen {
    /// As requests: more messages than one can name are several.
    fn requests(&self) -> Result<Vec<DiscardRequest>, Error> {
        let matching = self.matching.clone().filter();
        let usual = DiscardRequest { dry_run: self.dry_run, ..DiscardRequest::default() };
        match matching {
            Some(filter) if self.places.is_empty() => {
                Ok(vec![DiscardRequest { matching: Some(filter), ..usual }])
            }
            Some(_) => Err(Error::invalid("messages are named, and what they are like is said too")
                .hint("keep one of both")),
            None if self.all => Ok(vec![DiscardRequest { all: true, ..usual }]),
            None => {
                let refs = self.refs();
                let parts = refs.chunks(MessageRef::MAX);
                Ok(parts.map(|part| DiscardRequest { messages: part.to_vec(), ..usual.clone() }).collect())
            }
        }
    }

    fn refs(&self) -> Vec<MessageRef> {
        let refs = self.places.iter();
        refs.map(|place| MessageRef { topic: place.topic.clone(), offset: place.offset }).collect()
    }

    async fn send(
        self,
        caller: &Caller,
        client: &Client,
        verb: &str,
        requests: impl IntoIterator<Item = impl Serialize>,
        done: &str,
    ) -> Result<()> {
        let path = ["subscriptions", self.subscription.as_str(), "dead-letters", verb];
        // Afterwards nobody could tell which ones were there.
        let mut missing = Vec::new();
        for place in self.places.iter().take(LOOKED_UP) {
            match find(client, &self.subscription, place).await {
                Ok(_) => {}
                Err(error) if error.code == ErrorCode::NotFound => missing.push(place.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        let mut total = 0;
        for request in requests {
            total += client.post::<Count>(&path, &request).await?.count;
        }
        let changed = Changed { subscription: self.subscription, count: total };
        let verb = match (total, self.dry_run) {
            (1, true) => "message would be",
            (1, false) => "message is",
            (_, true) => "messages would be",
            (_, false) => "messages are",
        };
        caller.output.done(&changed, &format!("{total} {verb} {done}"))?;
        if total < self.places.len() {
            let (count, which) = (self.places.len() - total, missing.join(", "));
            let which = if which.is_empty() { which } else { format!(": {which}") };
            return Err(Error::new(
                ErrorCode::NotFound,
                format!("{count} of the {} named messages were no dead letters{which}", self.places.len()),
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
