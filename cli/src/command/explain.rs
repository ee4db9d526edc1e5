//! The whole life of one message.

use std::fmt::Write as _;

use clap::Args;
use crossdock_control::api::Explained;
use crossdock_topics::{MessageState, Situation};

use super::Caller;
use crate::failure::Result;
use crate::message::{one_line, printable};
use crate::output::{Show, print};
use crate::place::Place;

/// Tell the whole life of a message: what is stored, and what became of it in each subscription
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock explain orders:17
  crossdock explain orders:17 -o json | jq '.explanation.subscriptions[].state'")]
pub(super) struct Arguments {
    /// The message
    #[arg(value_name = "TOPIC:OFFSET")]
    place: Place,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let offset = self.place.offset.to_string();
        let path = ["topics", self.place.topic.as_str(), "messages", &offset, "explain"];
        let explained: Explained = client.get(&path).await?;
        if caller.for_people() { print(&page(&explained)) } else { caller.output.one(&explained) }
    }
}

/// How a message stands in one word.
fn word(state: MessageState) -> &'static str {
    match state {
        MessageState::Waiting => "waiting",
        MessageState::InFlight => "in flight",
        MessageState::SetAside => "set aside",
        MessageState::BehindKey => "behind its key",
        MessageState::Parked => "parked",
        MessageState::DeadLetter => "dead letter",
        MessageState::Done => "done",
    }
}

fn page(explained: &Explained) -> String {
    let explanation = &explained.explanation;
    let mut page = format!("{}:{}\n", explanation.topic, explanation.offset);
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(page, "  {label:14}  {}", value.replace('\n', &format!("\n{:18}", "")));
    };
    if let Some(stored) = &explanation.stored {
        line("stored", &format!("{}, {} bytes", stored.time, stored.bytes));
    }
    if let Some(gone) = &explanation.gone {
        line("gone", &one_line(gone));
    }
    if let Some(message) = &explained.message {
        for (label, value) in message.details().into_iter().skip(2) {
            line(label, &value);
        }
    }
    if explanation.subscriptions.is_empty() {
        page.push_str("\nno subscription takes messages from this topic\n");
    }
    for situation in &explanation.subscriptions {
        let _ = write!(page, "\n{}: {}\n", situation.subscription, word(situation.state));
        for (label, value) in facts(situation) {
            let _ =
                writeln!(page, "  {label:14}  {}", value.trim_end().replace('\n', &format!("\n{:18}", "")));
        }
    }
    page
}

fn facts(situation: &Situation) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if !situation.why.is_empty() {
        all.push(("why", one_line(&situation.why)));
    }
    all.extend(situation.until.map(|until| {
        let label = if situation.state == MessageState::InFlight { "held until" } else { "due" };
        (label, until.to_string())
    }));
    all.extend(situation.consumer.map(|consumer| ("held by", format!("consumer {}", consumer.0))));
    if situation.deliveries > 0 || situation.failures > 0 {
        all.push(("deliveries", situation.deliveries.to_string()));
        all.push(("failures", situation.failures.to_string()));
    }
    all.extend(situation.by.as_ref().map(|by| ("failed by", one_line(by))));
    all.extend(situation.reason.as_ref().map(|reason| ("last reason", printable(reason))));
    all
}

impl Show for Explained {
    const COLUMNS: &'static [&'static str] = &["message", "subscriptions"];

    fn row(&self) -> Vec<String> {
        let states = self.explanation.subscriptions.iter();
        let states = states.map(|situation| format!("{} {}", situation.subscription, word(situation.state)));
        vec![Show::name(self), states.collect::<Vec<_>>().join(", ")]
    }

    fn name(&self) -> String {
        format!("{}:{}", self.explanation.topic, self.explanation.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_all_there_is() {
        let explained: Explained = serde_json::from_value(serde_json::json!({
            "explanation": {
                "topic": "orders", "offset": 17, "gone": null,
                "stored": {"time": "2026-11-22T17:00:00Z", "bytes": 7, "id": "7", "key": "k"},
                "subscriptions": [
                    {"subscription": "audit", "state": "done", "why": "acknowledged", "deliveries": 0, "failures": 0},
                    {"subscription": "billing", "state": "set_aside", "why": "waits for its backoff",
                     "deliveries": 3, "failures": 2, "reason": "Traceback\n  line 1\nKeyError: 'x'",
                     "by": "billing@1a2b", "until": "2026-11-22T17:00:08Z"},
                ],
            },
            "message": {"topic": "orders", "offset": 17, "time": "2026-11-22T17:00:00Z", "key": "k", "id": "7",
                        "headers": {"a": "1"}, "content_type": "application/json", "data": {"n": 1}},
        }))
        .unwrap();
        let mut gone = explained.clone();
        (gone.explanation.stored, gone.message) = (None, None);
        gone.explanation.gone = Some("retention has dropped it".into());
        gone.explanation.subscriptions.clear();
        insta::assert_snapshot!(format!("{}----\n{}", page(&explained), page(&gone)));
    }
}
