//! What a new subscription is to be.

use std::time::Duration;

use clap::Args;
use crossdock_topics::time::human;
use crossdock_topics::{Filter, Order, Sharing, StartAt, Subscription, SubscriptionName, TopicPattern};

use crate::message::header;

/// Its settings; what is not said is as by default.
#[derive(Debug, Args)]
pub(super) struct Create {
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
    /// The definition it asks for.
    pub(super) fn subscription(self) -> Subscription {
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
