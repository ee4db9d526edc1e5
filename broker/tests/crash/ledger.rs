//! What the parent knows from all reports, and what must therefore be true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crossdock_topics::{Batch, Broker, Fetch, Log, Message, Settlement, Subscriptions, TopicName};

use crate::report::{FAST, OUT, Orders, PUBLISHERS, Report, SUBSCRIPTION, SYNCED, WRITTEN};
use crate::scratch;

/// Everything that was reported, and what was found.
#[derive(Default)]
pub(crate) struct Ledger {
    round: u64,
    /// What was found in each topic after the last restart that was reported, from offset 0.
    found: BTreeMap<String, Vec<String>>,
    /// The number that comes next of each publisher in what was found.
    order: BTreeMap<String, u64>,
    /// The outputs in what was found.
    outputs: BTreeSet<String>,
    /// What is known to lie at an offset since the last finding: from receipts and deliveries.
    owed: BTreeMap<String, BTreeMap<u64, String>>,
    /// The first number of each publisher without a receipt.
    next: BTreeMap<String, u64>,
    acked: BTreeSet<(String, u64)>,
    rejected: BTreeSet<(String, u64)>,
    /// Acknowledged or rejected since the last finding.
    fresh: Vec<(String, u64)>,
    /// Value and revision of the last counter that was acknowledged, or found.
    counter: (u64, u64),
    receipts: u64,
    again: u64,
}

impl Ledger {
    /// A child is about to start.
    pub(crate) fn begin(&mut self, round: u64) {
        self.round = round;
    }

    /// What the next child is told.
    pub(crate) fn orders(&self, directory: &Path, seed: u64) -> Orders {
        let known = self.found.iter().map(|(topic, texts)| (topic.clone(), texts.len() as u64)).collect();
        Orders { directory: directory.into(), known, next: self.next.clone(), seed }
    }

    /// Enters a report, and fails when it cannot be true of a broker that keeps its word.
    pub(crate) fn enter(&mut self, report: Report) {
        let round = self.round;
        match report {
            Report::Topic { topic, head, tail } => {
                assert_eq!(head, 0, "round {round}: {topic} has lost its beginning");
                if topic == FAST {
                    self.forget_end(tail);
                }
                let known = self.found.entry(topic.clone()).or_default().len() as u64;
                assert!(tail >= known, "round {round}: {topic} ended at {known} and now ends at {tail}");
            }
            Report::Messages { topic, first, texts } => {
                let known = self.found.entry(topic.clone()).or_default().len() as u64;
                assert_eq!(first, known, "round {round}: {topic}: a hole");
                for text in texts {
                    self.find(&topic, text);
                }
            }
            Report::Counter { value, revision } => {
                let (last, at) = self.counter;
                // One write may have become durable without being reported.
                assert!(
                    (value, revision) == (last, at) || value == last + 1 && revision > at,
                    "round {round}: the counter was {last} at revision {at}, and is {value} at {revision}"
                );
                self.counter = (value, revision);
            }
            Report::Ready => self.compare(),
            Report::Receipts { publisher, first, receipts } => {
                self.enter_receipts(&publisher, first, &receipts)
            }
            Report::Delivered { topic, offset, text, attempt } => {
                let place = (topic.clone(), offset);
                assert!(!self.acked.contains(&place), "round {round}: {place:?} came again after its ack");
                assert!(!self.rejected.contains(&place), "round {round}: {place:?} came after its rejection");
                assert_eq!(attempt, 1, "round {round}: a restart was counted as a failure of {place:?}");
                // What can be seen must be as durable as promised.
                self.owe(&topic, offset, &text);
            }
            Report::Acked { places } => {
                for place in places {
                    self.fresh.push(place.clone());
                    assert!(self.acked.insert(place.clone()), "round {round}: {place:?} acknowledged twice");
                }
            }
            Report::Rejected { topic, offset } => {
                self.fresh.push((topic.clone(), offset));
                self.rejected.insert((topic, offset));
            }
            Report::Counted { value, revision } => {
                let (last, at) = self.counter;
                assert!(
                    value == last + 1 && revision > at,
                    "round {round}: {value} at {revision} after {last}"
                );
                self.counter = (value, revision);
            }
        }
    }

    /// The topic in memory may have lost its end, and with it whatever was said about it.
    fn forget_end(&mut self, tail: u64) {
        self.owed.remove(FAST);
        let known = self.found.entry(FAST.into()).or_default();
        known.truncate(usize::try_from(tail).unwrap());
        match known.last().and_then(|text| number(text)) {
            Some((publisher, last)) => _ = self.order.insert(publisher.to_owned(), last + 1),
            None => self.order.retain(|publisher, _| topic_of(publisher) != FAST),
        }
    }

    /// Enters what lies at the end of a topic.
    fn find(&mut self, topic: &str, text: String) {
        let round = self.round;
        if topic == OUT {
            assert!(self.outputs.insert(text.clone()), "round {round}: the output {text} came twice");
        } else {
            let (publisher, number) =
                number(&text).unwrap_or_else(|| panic!("round {round}: {topic}: {text:?}"));
            assert_eq!(topic_of(publisher), topic, "round {round}: {text} is in {topic}");
            let expected = self.order.entry(publisher.to_owned()).or_default();
            let right = if topic == FAST { number >= *expected } else { number == *expected };
            assert!(right, "round {round}: {topic}: {text} where number {expected} is next");
            *expected = number + 1;
        }
        self.found.entry(topic.to_owned()).or_default().push(text);
    }

    fn enter_receipts(&mut self, publisher: &str, first: u64, receipts: &[(u64, bool)]) {
        let round = self.round;
        let topic = topic_of(publisher);
        let before = self.next.get(publisher).copied().unwrap_or(0);
        for (number, (offset, duplicate)) in (first..).zip(receipts) {
            let text = format!("{publisher}-{number}");
            if number < before {
                self.again += 1;
                // It had a receipt before the kill.
                assert!(
                    *duplicate || topic == FAST,
                    "round {round}: {text} was stored in {topic} and is not known any more"
                );
            }
            self.owe(topic, *offset, &text);
            self.receipts += 1;
        }
        let after = first + receipts.len() as u64;
        let next = self.next.entry(publisher.to_owned()).or_default();
        *next = after.max(*next);
    }

    /// Something is known to lie at an offset.
    fn owe(&mut self, topic: &str, offset: u64, text: &str) {
        let found = self.found.get(topic).and_then(|texts| texts.get(usize::try_from(offset).unwrap()));
        if let Some(found) = found {
            assert_eq!(found, text, "round {}: {topic}/{offset} was found to be another", self.round);
            return;
        }
        let owed = self.owed.entry(topic.to_owned()).or_default();
        let before = owed.insert(offset, text.to_owned());
        assert!(
            before.as_ref().is_none_or(|before| before == text),
            "round {}: {topic}/{offset} is {text} and was {before:?}",
            self.round
        );
    }

    /// All was found that is owed, and what was settled has its output, or none.
    fn compare(&mut self) {
        let round = self.round;
        for (topic, owed) in std::mem::take(&mut self.owed) {
            let found = &self.found[&topic];
            for (offset, text) in owed {
                let there = found.get(usize::try_from(offset).unwrap());
                assert_eq!(there, Some(&text), "round {round}: {topic}/{offset} was lost");
            }
        }
        for place in self.fresh.drain(..) {
            let output = format!("{}/{}", place.0, place.1);
            let expected = self.acked.contains(&place);
            assert_eq!(self.outputs.contains(&output), expected, "round {round}: settled: {output}");
        }
    }

    /// Opens the directory after the last kill, compares all of it with all reports, and consumes the rest.
    pub(crate) async fn close(&mut self, directory: &Path) {
        let broker = scratch::open(directory).await.unwrap();
        self.find_all(&*broker).await;
        let (name, out): (_, TopicName) = (SUBSCRIPTION.parse().unwrap(), OUT.parse().unwrap());
        loop {
            let taken = broker.fetch(&name, Fetch::new(None, 500, Duration::from_millis(200))).await.unwrap();
            if taken.is_empty() {
                break;
            }
            let mut outputs = Batch::default();
            for delivery in &taken {
                let place = (delivery.topic.to_string(), delivery.offset);
                outputs.push(&Message::new(format!("{}/{}", place.0, place.1))).unwrap();
                assert!(self.acked.insert(place.clone()), "{place:?} came again after its ack");
                assert!(!self.rejected.contains(&place), "{place:?} came again after its rejection");
                self.fresh.push(place);
            }
            let mut settlement = Settlement::ack(taken.iter().map(|delivery| delivery.id));
            settlement.outputs.push((out.clone(), outputs));
            broker.settle(&name, settlement).await.unwrap();
        }
        let dead = broker.dead_letters(&name, None, usize::MAX).await.unwrap();
        let dead: BTreeSet<_> = dead.into_iter().map(|dead| (dead.topic.to_string(), dead.offset)).collect();
        assert!(dead.is_superset(&self.rejected), "a rejected message is no dead letter");
        broker.close().await;
        drop(broker);
        let broker = scratch::open(directory).await.unwrap();
        self.find_all(&*broker).await;
        broker.close().await;
        // Every message ended in one of two ways, and none in both.
        let all: BTreeSet<String> = [SYNCED, WRITTEN]
            .iter()
            .flat_map(|topic| (0..self.found[*topic].len()).map(move |offset| format!("{topic}/{offset}")))
            .collect();
        let mut ended: BTreeSet<String> =
            dead.iter().map(|(topic, offset)| format!("{topic}/{offset}")).collect();
        for output in &self.found[OUT] {
            assert!(ended.insert(output.clone()), "{output} is a dead letter and has an output");
        }
        assert_eq!(ended.len(), all.len(), "messages that were neither acknowledged nor rejected");
        assert_eq!(ended, all);
    }

    /// Reads everything anew.
    async fn find_all(&mut self, broker: &dyn Log) {
        self.order.clear();
        self.outputs.clear();
        self.owed.remove(FAST);
        self.fresh.extend(self.acked.iter().chain(&self.rejected).cloned());
        for topic in [SYNCED, WRITTEN, FAST, OUT] {
            let before = self.found.insert(topic.into(), Vec::new()).unwrap_or_default();
            let stored = scratch::read_all(broker, &topic.parse().unwrap()).await.unwrap();
            for (offset, message) in stored.iter().enumerate() {
                assert_eq!(message.offset, offset as u64, "{topic}: a hole");
                self.find(topic, scratch::text(message));
            }
            assert!(topic == FAST || self.found[topic].starts_with(&before), "{topic} is not what it was");
        }
        self.compare();
    }

    /// What all this was about, in one line.
    pub(crate) fn summary(&self) -> String {
        let found: Vec<String> =
            self.found.iter().map(|(topic, texts)| format!("{topic} {}", texts.len())).collect();
        format!(
            "{} receipts, {} sent again, {} acked, {} rejected, counter {}; found: {}",
            self.receipts,
            self.again,
            self.acked.len(),
            self.rejected.len(),
            self.counter.0,
            found.join(", ")
        )
    }
}

/// Whose message it is, and which.
fn number(text: &str) -> Option<(&str, u64)> {
    let (publisher, number) = text.split_once('-')?;
    Some((publisher, number.parse().ok()?))
}

/// Where a publisher publishes.
fn topic_of(publisher: &str) -> &'static str {
    PUBLISHERS.iter().find(|(name, _)| *name == publisher).map_or("nowhere", |(_, topic)| topic)
}
