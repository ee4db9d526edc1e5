//! What consumers report, held against what the topic holds.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crossdock_broker::JetStream;
use crossdock_topics::{ErrorCode, Fetch, Settlement, Subscriptions};

use super::engine::{Consumed, Step};
use super::{PATIENCE, SUBSCRIPTIONS, subscription};

/// What became of one message in one subscription.
#[derive(Clone, Debug, Default)]
struct Fate {
    /// When it was given to somebody: asked for, and got.
    given: Vec<(u64, u64)>,
    /// When somebody began to settle it first.
    settling: Option<u64>,
    /// When somebody was told that it is settled.
    settled: Option<u64>,
}

/// What consumers have reported.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<(usize, u64), Fate>);

impl Ledger {
    pub(crate) fn enter(&mut self, name: &str, consumed: Consumed) {
        let Consumed { subscription, offsets, what } = consumed;
        for offset in offsets {
            let fate = self.0.entry((subscription, offset)).or_default();
            match what {
                Step::Given(asked, got, failed) => {
                    assert!(!failed, "{name}: a message among {offset}.. of {subscription} has failed");
                    fate.given.push((asked, got));
                }
                Step::Settling(at) => fate.settling = Some(fate.settling.map_or(at, |first| first.min(at))),
                Step::Settled(at) => {
                    assert!(fate.settled.is_none(), "{name}: {offset} of {subscription} was settled twice");
                    fate.settled = Some(at);
                }
            }
        }
    }

    /// Takes what is left, then looks whether each message was given to somebody and none after it was settled, and
    /// whether each key kept its order. `topic` has the offsets of each key.
    pub(crate) async fn judge(&mut self, broker: &JetStream, topic: &HashMap<String, Vec<u64>>) {
        let messages: usize = topic.values().map(Vec::len).sum();
        let (mut left, mut again) = (0, 0);
        for number in 0..SUBSCRIPTIONS {
            let (name, end) = (subscription(number), Instant::now() + PATIENCE);
            loop {
                let fetch = Fetch::new(None, 1000, Duration::from_secs(3));
                let rest = match broker.fetch(&name, fetch).await {
                    Ok(rest) => rest,
                    // Those who owned it have just been killed.
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                        assert!(Instant::now() < end, "{error}");
                        continue;
                    }
                };
                if rest.is_empty() {
                    let info = broker.subscription(&name).await.unwrap();
                    let topic = &info.topics[0];
                    assert_eq!((topic.waiting, topic.in_flight, topic.set_aside), (0, 0, 0), "{info:?}");
                    break;
                }
                for delivery in &rest {
                    let fate = self.0.entry((number, delivery.offset)).or_default();
                    let offset = delivery.offset;
                    assert!(fate.settled.is_none(), "{offset} of {number} came again after it was settled");
                    assert_eq!(delivery.attempt, 1, "{offset} of {number} has failed");
                    (fate.given, fate.settling) = (vec![(u64::MAX, u64::MAX)], Some(u64::MAX));
                    left += 1;
                }
                broker.settle(&name, Settlement::ack(rest.iter().map(|d| d.id))).await.unwrap();
            }
            for (key, offsets) in topic {
                let mut before: Option<(u64, Fate)> = None;
                for offset in offsets {
                    let fate = self.0.get(&(number, *offset)).cloned().unwrap_or_default();
                    let what = format!("{offset} of key {key} of {number}: {fate:?}");
                    assert!(fate.settling.is_some(), "nobody has settled {what}");
                    if let Some(settled) = fate.settled {
                        let later = fate.given.iter().any(|(asked, _)| *asked > settled);
                        assert!(!later, "given again after it was settled: {what}");
                    }
                    if let Some((earlier, fate_before)) = &before {
                        let first = fate.given.iter().map(|(_, got)| *got).min();
                        assert!(
                            fate_before.settling <= first,
                            "given before anybody settled {earlier} ({fate_before:?}): {what}"
                        );
                    }
                    again += fate.given.len().saturating_sub(1);
                    before = Some((*offset, fate));
                }
            }
        }
        eprintln!(
            "{messages} messages in each of {SUBSCRIPTIONS} subscriptions: none lost, none after it was settled, all keys in \
             order; {again} came again unsettled, {left} were left in the end"
        );
    }
}
