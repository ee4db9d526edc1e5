//! What a service's log says of messages that failed.

use std::time::Duration;

use crossdock_topics::{Outcome, Subscription, SubscriptionName};

use crate::call::Place;
use crate::logs::Logs;

/// Tells of each failure of a message in the log of its service, so that retries are seen before they have
/// made a dead letter of it. The log's own rate bounds it.
pub(crate) struct Failures {
    pub(crate) logs: Logs,
    pub(crate) version: String,
}

impl Failures {
    /// Tells that the subscription is gone, or back.
    pub(crate) fn tell_missing(&self, name: &SubscriptionName, gone: bool) {
        let line = if gone { missing(name) } else { format!("subscription {name} is there again") };
        self.logs.system(&self.version, line);
    }

    /// Tells of one message that was settled. Only retries and rejections are worth a line.
    pub(crate) fn tell(
        &self,
        name: &SubscriptionName,
        definition: Option<&Subscription>,
        place: &Place,
        outcome: &Outcome,
    ) {
        if let Some(line) = line(name, definition, place, outcome) {
            self.logs.system(&self.version, line);
        }
    }
}

/// What is said of a subscription that someone has deleted while its service runs.
pub(crate) fn missing(name: &SubscriptionName) -> String {
    format!(
        "subscription {name} is missing: nothing is consumed from it; deploy again, or create it: \
         crossdock sub create {name} --topic TOPIC"
    )
}

/// One line: which message of which subscription, which attempt of how many, why, and what becomes of it.
fn line(
    name: &SubscriptionName,
    definition: Option<&Subscription>,
    place: &Place,
    outcome: &Outcome,
) -> Option<String> {
    let Place { topic, offset, attempt } = place;
    let max = definition.map(|definition| definition.max_failures);
    let dead = || format!("it is a dead letter now, see: crossdock dlq show {name} {topic}:{offset}");
    let (what, reason, next) = match outcome {
        Outcome::Retry { reason, .. } if max.is_some_and(|max| *attempt >= max) => ("failed", reason, dead()),
        Outcome::Retry { after, reason } => {
            // The broker shortens the waits a little, each message's by its own share.
            let backoff = || definition.map(|definition| definition.backoff.wait(*attempt, 0));
            let next = after.or_else(backoff).map(|wait| format!("in about {}", rounded(wait)));
            let next = next.unwrap_or_else(|| "later".to_owned());
            ("failed", reason, format!("it is tried again {next}"))
        }
        Outcome::Reject { reason } => ("was rejected", reason, dead()),
        Outcome::Ack | Outcome::Release => return None,
    };
    let of = max.map(|max| format!(" of {max}")).unwrap_or_default();
    let reason = reason.lines().next().unwrap_or("without a reason").trim_end_matches([':', ';']);
    Some(format!("{name} {topic}:{offset}: attempt {attempt}{of} {what}: {reason}; {next}"))
}

fn rounded(wait: Duration) -> String {
    format!("{wait:.0?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(attempt: u32, outcome: &Outcome) -> Option<String> {
        let name: SubscriptionName = "shop.fulfil".parse().unwrap();
        let mut definition = Subscription::new(name.clone(), vec!["orders".parse().unwrap()]);
        definition.max_failures = 3;
        let place = Place { topic: "orders".parse().unwrap(), offset: 7, attempt };
        line(&name, Some(&definition), &place, outcome)
    }

    #[test]
    fn a_failure_is_told_with_its_message_its_attempt_its_reason_and_what_comes_next() {
        let outcome = |after| Outcome::Retry { after, reason: "no stock\nat all".into() };
        assert_eq!(
            said(1, &outcome(Some(Duration::from_millis(1500)))).unwrap(),
            "shop.fulfil orders:7: attempt 1 of 3 failed: no stock; it is tried again in about 2s"
        );
        let by_backoff = said(2, &outcome(None)).unwrap();
        assert!(
            by_backoff.ends_with("attempt 2 of 3 failed: no stock; it is tried again in about 2s"),
            "{by_backoff}"
        );
        assert_eq!(
            said(3, &outcome(None)).unwrap(),
            "shop.fulfil orders:7: attempt 3 of 3 failed: no stock; \
             it is a dead letter now, see: crossdock dlq show shop.fulfil orders:7"
        );
        let rejected = said(1, &Outcome::Reject { reason: String::new() }).unwrap();
        assert!(
            rejected.contains("attempt 1 of 3 was rejected: without a reason; it is a dead"),
            "{rejected}"
        );
        assert_eq!(said(1, &Outcome::Ack), None);
        assert_eq!(said(1, &Outcome::Release), None);
    }
}
