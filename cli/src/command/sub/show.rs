//! How a subscription looks.

use crossdock_topics::{Order, Sharing, SubscriptionInfo, TopicPattern, TopicProgress};

use crate::message::one_line;
use crate::output::Show;

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
        let sum = |part: fn(&TopicProgress) -> u64| self.topics.iter().map(part).sum::<u64>().to_string();
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
